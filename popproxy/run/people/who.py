"""``popproxy who`` and ``popproxy kick``: the sessions, one session, and their end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from popproxy.run.asked import EX_OK, EX_WRONG, UsageError, say
from popproxy.run.client import Client, segment
from popproxy.run.people.asking import asking, columns, lines, missing, tell, tell_json
from popproxy.run.people.table import Column, table
from popproxy.run.people.words import amount, moment, printable, span

FILTERS = ("user", "ip", "listener", "upstream", "phase", "tls")
"""What chooses sessions, as the options and the API call it."""
_PAGE = 1000

SORTS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "idle": lambda row: -(row["idle"] or 0.0),
    "octets": lambda row: -(row["octets_in"] + row["octets_out"]),
    "messages": lambda row: -row["retrieved"],
    "user": lambda row: (row["user"] or row["login"] or "").casefold(),
    "client": lambda row: row["client"],
}
"""By what sessions can be sorted, beside their age: the most of it first, or in the order of letters."""

COLUMNS = (
    Column("SESSION"),
    Column("USER", least=14),
    Column("CLIENT", least=11),
    Column("SERVER", least=14, optional=True),
    Column("LISTENER", least=5, optional=True),
    Column("PHASE", least=7),
    Column("AGE", right=True),
    Column("IDLE", right=True),
    Column("MSGS", right=True),
    Column("OUT", right=True),
    Column("IN", right=True, optional=True),
    Column("TLS", optional=True),
)


def who(arguments: argparse.Namespace) -> int:
    """Print sessions; EX_WRONG when there is none."""
    if arguments.session is not None and _chosen(arguments):
        raise UsageError("a session is named by its id alone: leave the other options out")

    def work(client: Client) -> int:
        if arguments.session is not None:
            return _one(client, arguments)
        told = _sessions(client, arguments)
        missing(told)
        if arguments.json:
            tell_json(told)
        else:
            tell(render(told, columns()))
        return EX_OK if told["matched"] else EX_WRONG

    return asking(arguments, work)


def _chosen(arguments: argparse.Namespace) -> dict[str, object]:
    return {name: value for name in FILTERS if (value := getattr(arguments, name)) is not None}


def _sessions(client: Client, arguments: argparse.Namespace) -> dict[str, Any]:
    """The sessions that are asked for, of all pages that are needed for them. ``matched`` counts all."""
    most = arguments.limit
    rows: list[dict[str, Any]] = []
    silent: set[int] = set()
    after = None
    while True:
        # The API's own order is by age: only then is the beginning of the list enough.
        limit = min(_PAGE, most) if arguments.sort == "age" and most else _PAGE
        told = client.get("/v1/sessions", **_chosen(arguments), limit=limit, after=after)
        rows += told["sessions"]
        silent.update(told["missing"])
        after = told["next"]
        if after is None or (arguments.sort == "age" and most and len(rows) >= most):
            break
    if arguments.sort in SORTS:
        rows.sort(key=SORTS[arguments.sort])
    return {**told, "sessions": rows[: most or None], "next": None, "missing": sorted(silent)}


def render(told: Mapping[str, Any], width: int | None) -> str:
    """The list, for people."""
    rows = told["sessions"]
    if not rows:
        return "no session\n"
    made = table(COLUMNS, map(cells, rows), width)
    if told["matched"] > len(rows):
        made.append(f"{len(rows)} of {told['matched']} sessions; --limit 0 shows all")
    return lines(made)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    idle = row["idle"]
    return (
        row["id"],
        row["user"] or row["login"] or "-",
        row["client"],
        row["server"] or row["upstream"] or "-",
        row["listener"],
        row["phase"],
        span(row["seconds"]),
        "-" if idle is None else span(idle),
        str(row["retrieved"]),
        amount(row["octets_out"]),
        amount(row["octets_in"]),
        row["tls"].removeprefix("TLSv") or "no",
    )


def _one(client: Client, arguments: argparse.Namespace) -> int:
    told = client.get(f"/v1/sessions/{segment(arguments.session)}")
    if arguments.json:
        tell_json(told)
    else:
        tell(render_one(told))
    return EX_OK


def render_one(told: Mapping[str, Any]) -> str:
    """One session, for people: a line for everything that is known of it."""
    rows: list[tuple[str, str]] = []
    for name, value in told.items():
        if name in ("commands", "slots"):
            continue
        rows.append((name.replace("_", " "), _shown(name, value)))
    for verb, outcomes in told.get("commands", {}).items():
        rows.append((f"command {verb}", ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())))
    rows += [(f"plugin slot {slot['name']}", str(slot["value"])) for slot in told.get("slots", ())]
    size = max(len(name) for name, _ in rows)
    return lines(f"{printable(name):<{size}}  {printable(text)}".rstrip() for name, text in rows)


def _shown(name: str, value: object) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "since" and isinstance(value, int | float):
        return moment(value)
    if name in ("seconds", "idle") and isinstance(value, int | float):
        return f"{value:.0f} s"
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_shown(key, part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def kick(arguments: argparse.Namespace) -> int:
    """End sessions; EX_WRONG when there was none to end."""
    chosen = _chosen(arguments)
    if bool(arguments.session) == bool(chosen):
        raise UsageError(
            "whom? Write session ids, or one or more of --user, --ip, --listener, --upstream, --phase, --tls; "
            "`popproxy who` shows whom the same options mean"
        )

    def work(client: Client) -> int:
        how = {"now": arguments.now, **({} if arguments.reason is None else {"reason": arguments.reason})}
        if arguments.session:
            told = _each(client, arguments.session, how)
        else:
            told = client.post("/v1/kick", {**chosen, **how})
        missing(told)
        count = told["kicked"]
        if arguments.json:
            tell_json(told)
        else:
            soon = "" if arguments.now or not count else "; one that waits for a reply ends behind it"
            tell(f"{count or 'no'} session{'' if count == 1 else 's'} ended{soon}\n")
        return EX_OK if count else EX_WRONG

    return asking(arguments, work)


def _each(client: Client, ids: list[str], how: Mapping[str, object]) -> dict[str, Any]:
    """Ends sessions by their ids. One that is not there keeps nobody else alive."""
    from popproxy.run.client import Refused

    ended: list[str] = []
    silent: set[int] = set()
    for id in ids:
        try:
            told = client.post(f"/v1/sessions/{segment(id)}/kick", how)
        except Refused as error:
            if error.status != 404:
                raise
            say(printable(f"{id}: {error.told.get('error', 'there is no such session')}"))
            continue
        ended += told["sessions"]
        silent.update(told["missing"])
    return {"kicked": len(ended), "sessions": ended, "missing": sorted(silent)}
