"""``popproxy status``, ``reload`` and ``drain``: the process as its administrator handles it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from time import sleep, time
from typing import Any

from popproxy.run.asked import EX_CONFIG, EX_DATAERR, EX_OK, EX_WRONG, say
from popproxy.run.client import Client, Refused, Unanswered
from popproxy.run.people.asking import asking, columns, lines, tell, tell_json
from popproxy.run.people.table import Column, table
from popproxy.run.people.words import moment, printable, span

_PAUSE = 0.5
"""Seconds between two looks at a process that drains."""
_COLUMNS = (
    Column("WORKER", right=True),
    Column("PID", right=True),
    Column("STATE"),
    Column("SESSIONS", right=True),
    Column("RESTARTS", right=True),
    Column("GENERATION", right=True),
)


def status(arguments: argparse.Namespace) -> int:
    """Print how it is; EX_WRONG when it takes no sessions, or not with all its workers."""

    def work(client: Client) -> int:
        told = client.get("/v1/status")
        if arguments.json:
            tell_json(told)
        else:
            tell(render(told, columns(), time()))
        well = told["state"] in ("ready", "reloading") and all(one["up"] for one in told["workers"])
        return EX_OK if well else EX_WRONG

    return asking(arguments, work)


def render(told: Mapping[str, Any], width: int | None, now: float) -> str:
    """The status, for people. ``now`` in seconds since the epoch."""
    reload = "" if told["reload_ok"] else "; the last reload was refused: the config before it is in force"
    head = [
        f"popproxy {told['version']}: {told['state']}, {told['sessions']} sessions",
        f"pid {told['pid']}, since {moment(told['since'])} ({span(now - told['since'])})",
        f"config {told['config'] or 'of the command line'}, hash {told['hash']}, of {moment(told['reloaded'])}{reload}",
    ]
    if told["restart"]:
        head.append(f"not in force before a restart: {', '.join(told['restart'])}")
    rows = [
        (
            str(one["worker"]),
            str(one["pid"]),
            "up" if one["up"] else "DOWN",
            str(one["sessions"]),
            str(one["restarts"]),
            str(one["generation"]),
        )
        for one in told["workers"]
    ]
    return lines([*map(printable, head), "", *table(_COLUMNS, rows, width)])


def reload(arguments: argparse.Namespace) -> int:
    """Have the config read again. EX_CONFIG when it is wrong, EX_DATAERR when it is right and cannot be put in force:
    a port is taken, a plugin does not start. Keys that need a restart are a warning."""

    def work(client: Client) -> int:
        try:
            told = client.post("/v1/reload")
        except Refused as error:
            problems = error.told.get("problems")
            if error.status != 422 or not problems:
                raise
            return _bad(arguments, error.told, problems)
        for warning in told["warnings"]:
            say(printable(f"warning: {warning}"))
        if arguments.json:
            tell_json({"ok": True, **told})
        else:
            tell(f"the config is in force for new sessions: hash {told['hash']}\n")
        return EX_OK

    return asking(arguments, work)


def _bad(arguments: argparse.Namespace, told: Mapping[str, Any], problems: list[dict[str, Any]]) -> int:
    if arguments.json:
        tell_json({"ok": False, **told})
    else:
        tell(lines(printable(_problem(one)) for one in problems))
        say("nothing has changed: the config before stays in force")
    return EX_CONFIG if all("file" in one for one in problems) else EX_DATAERR


def _problem(one: Mapping[str, Any]) -> str:
    """As ``popproxy check`` writes it."""
    if "file" not in one:
        return f"worker {one['worker']}: {one['message']}" if "worker" in one else str(one["message"])
    from popproxy.config.problems import ConfigProblem

    return str(ConfigProblem(one["file"], one["line"], one["key"], one["message"], one["hint"]))


def drain(arguments: argparse.Namespace) -> int:
    """Have it take no more sessions and end when those that are open have; with --wait until it has."""

    def work(client: Client) -> int:
        told = client.post("/v1/drain")
        if arguments.wait:
            _wait(client)
            told = {"state": "ended", "sessions": 0}
        if arguments.json:
            tell_json(told)
        elif arguments.wait:
            tell("popproxy has ended\n")
        else:
            tell(f"popproxy takes no more sessions and ends with those that are open: {told['sessions']}\n")
        return EX_OK

    return asking(arguments, work)


def _wait(client: Client) -> None:
    """Until nobody answers any more."""
    before = None
    while True:
        try:
            sessions = client.get("/v1/status")["sessions"]
        except Unanswered:
            return
        if sessions != before and sys.stderr.isatty():
            say(f"{sessions} sessions are open")
        before = sessions
        sleep(_PAUSE)
