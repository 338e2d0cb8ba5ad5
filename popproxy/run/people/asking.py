"""What every one of these commands does: ask, and say what became of it by the exit code."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any

from popproxy.run.asked import EX_UNAVAILABLE, EX_WRONG, say
from popproxy.run.client import Client, Place, Refused, Unanswered
from popproxy.run.people.finding import client
from popproxy.run.people.words import printable


def asking(arguments: argparse.Namespace, work: Callable[[Client], int]) -> int:
    """The exit code of ``work``; EX_UNAVAILABLE when nobody answers, EX_WRONG when it is refused."""
    asked = client(arguments)
    try:
        return work(asked)
    except Unanswered as error:
        _nobody(arguments, error)
        return EX_UNAVAILABLE
    except Refused as error:
        if arguments.json:
            tell_json(error.told)
        say(printable(str(error)) + _help(error, asked))
        return EX_UNAVAILABLE if error.status in (503, 504) else EX_WRONG


def _nobody(arguments: argparse.Namespace, error: Unanswered) -> None:
    say("no popproxy answers:")
    for place, why in error.faults:
        print(f"  {printable(str(place))}: {printable(why)}", file=sys.stderr)
    hints = [hint for place, why in error.faults if (hint := _of_tls(place, why, arguments))]
    for hint in hints or ["Is it running (systemctl status popproxy)?"]:
        print(f"  {printable(hint)}", file=sys.stderr)
    if any(why == os.strerror(errno.EACCES) for _, why in error.faults):
        print("  Its socket is for its own user and group: use sudo, or usermod -aG popproxy NAME.", file=sys.stderr)
    if arguments.admin is None:
        print("  If it listens elsewhere, write --admin, or --config with the file that it runs by.", file=sys.stderr)


def _of_tls(place: Place, why: str, arguments: argparse.Namespace) -> str:
    """What to do when TLS is why nobody answers; empty when it is not."""
    if "CERTIFICATE_VERIFY_FAILED" in why:
        if "match" in why:
            return "Its certificate is for another name: write --admin https://NAME:PORT with one that stands in it."
        return "Its certificate is of an authority that is not trusted here: write --ca-file."
    closed = "closed connection" in why or "reset" in why or "ALERT" in why
    if closed and place.context is not None and arguments.cert is not None:
        return f"It may not take {arguments.cert}: of another authority than those of client_ca_file, or expired."
    if closed and place.context is None and place.path is None:
        return f"It may have TLS: write --admin https://{place.host}:{place.port}"
    return ""


def _help(error: Refused, asked: Client) -> str:
    if error.status == 401 and asked.token is not None:
        return "; the token that was sent is another one: write --token-file with that of [admin]"
    if error.status == 401:
        return "; write --token-file with the token of [admin], with https perhaps --cert, or use its Unix socket"
    if error.status == 404 and "error" not in error.told:
        return "; that popproxy is older, or something else listens there"
    return ""


def missing(told: dict[str, Any]) -> None:
    """Say which workers did not answer: what they know is not in the answer."""
    slots = told.get("missing") or ()
    if slots:
        names = ", ".join(str(slot) for slot in slots)
        say(f"worker{'s' if len(slots) > 1 else ''} {names} did not answer in time: what they do is not shown")


def tell(text: str) -> None:
    """Results, on standard output. A terminal that cannot show a sign gets its escape."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def tell_json(value: object) -> None:
    """Results as JSON; ASCII only, so that no terminal takes a sign for a command."""
    tell(json.dumps(value, indent=2) + "\n")


def columns() -> int | None:
    """How wide a table may be: as the terminal is, or $COLUMNS says; None for a file or a pipe."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return None
    return max(40, shutil.get_terminal_size().columns)


def lines(rows: Iterable[str]) -> str:
    """Lines as text."""
    return "".join(f"{row}\n" for row in rows)
