"""``popproxy tap``: the transcript of sessions as it comes, without their secrets."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from popproxy.run.asked import EX_OK, UsageError, say
from popproxy.run.client import Client
from popproxy.run.people.asking import asking, tell
from popproxy.run.people.words import printable

_WHOM = ("user", "session", "ip")


def tap(arguments: argparse.Namespace) -> int:
    """Print lines until the session is over, popproxy ends, or Ctrl-C."""
    whom = {name: value for name in _WHOM if (value := getattr(arguments, name)) is not None}
    if len(whom) != 1:
        raise UsageError("whom? Write one of --user, --session, --ip; `popproxy who` shows who is connected")

    def work(client: Client) -> int:
        if not arguments.json:
            say("looking on; secrets are not shown; Ctrl-C ends it")
        sessions: set[str] = set()
        try:
            for line in client.follow("/v1/tap", **whom):
                tell(json.dumps(line) + "\n" if arguments.json else render(line, sessions))
                sys.stdout.flush()
        except KeyboardInterrupt:
            # That is how it ends.
            return EX_OK
        return EX_OK

    return asking(arguments, work)


def render(line: Mapping[str, Any], sessions: set[str]) -> str:
    """One line, for people. ``sessions`` are those that were seen: where there are several, each line has its own."""
    if "dropped" in line:
        return f"... {line['dropped']} older lines came too fast and are lost\n"
    sessions.add(line["session"])
    whose = f"{line['session']} " if len(sessions) > 1 else ""
    return printable(f"{line['time'][11:-1]} {whose}{line['mark']} {line['text']}") + "\n"
