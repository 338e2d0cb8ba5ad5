"""``popproxy top``: the live screen where there is a terminal for it, else one look as text or JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice

from popproxy.run.asked import EX_OK, EX_UNAVAILABLE, UsageError, say
from popproxy.run.client import Client
from popproxy.run.people.asking import asking, columns, lines, missing, tell, tell_json
from popproxy.run.people.look import (
    DENIALS,
    HEAVIEST,
    OF,
    UPSTREAMS,
    Look,
    Rows,
    denials,
    heading,
    heaviest,
    look,
    silent,
    title,
    upstreams,
)
from popproxy.run.people.table import Column, table

_SCREEN_SESSIONS = 200
_MOST = 100


def top(arguments: argparse.Namespace) -> int:
    """Show it until somebody quits, or once."""
    every = _every(arguments.every)
    limit = min(arguments.limit or _MOST, _MOST)
    if arguments.once or arguments.json:
        return asking(arguments, lambda client: _once(client, arguments, limit))
    if not sys.stdout.isatty():
        raise UsageError("there is no terminal for the live screen: write --once or --json")
    try:
        from popproxy.run.people.screen import Live
    except ModuleNotFoundError as error:
        # rich comes with textual, and is imported first.
        if (error.name or "").partition(".")[0] not in ("rich", "textual"):
            raise
        say("the live screen needs textual: pip install 'popproxy[tui]'; without it, write --once")
        return EX_UNAVAILABLE

    def work(client: Client) -> int:
        # Whom to ask is found, or not, before the screen is taken.
        client.get("/v1/status")
        Live(client, arguments.by, limit, every, _SCREEN_SESSIONS).run()
        return EX_OK

    return asking(arguments, work)


def _every(text: str) -> float:
    from popproxy.api.options import Wrong, duration

    try:
        return duration(text)
    except Wrong as wrong:
        raise UsageError(f"--every: {wrong}; {wrong.hint}") from None


def _once(client: Client, arguments: argparse.Namespace, limit: int) -> int:
    # Rates are of the time between two ticks.
    (_, tick) = islice(client.ticks(), 2)
    seen = look(client, tick, limit, "recent", limit)
    missing({"missing": silent(seen)})
    if arguments.json:
        tell_json(seen.as_dict())
    else:
        tell(render(seen, arguments.by, columns()))
    return EX_OK


def render(seen: Look, by: str, width: int | None) -> str:
    """All of it as text."""
    made = heading(seen)
    parts: list[tuple[str, Sequence[Column], Rows]] = [("upstreams", UPSTREAMS, upstreams(seen))]
    parts += [(title(of, by, seen.top), HEAVIEST, heaviest(seen, of, by)) for of in OF]
    parts.append(("turned away lately", DENIALS, denials(seen)))
    for name, head, rows in parts:
        made += ["", name, *(table(head, rows, width) if rows else ["  none"])]
    return lines(made)
