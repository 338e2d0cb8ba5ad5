"""The options of who, kick, top, upstreams, reload, drain and status. What they do is imported when they do it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popproxy.run.asked import EX_CONFIG, EX_DATAERR, EX_UNAVAILABLE, EX_WRONG, later

if TYPE_CHECKING:
    Parsers = argparse._SubParsersAction[Any]

SORTS = ("age", "idle", "octets", "messages", "user", "client")
PHASES = ("greeting", "authorization", "logging_in", "transaction", "streaming", "update", "closed")
_ASKS = (
    "It asks the admin listener of the popproxy that runs: at --admin, else where [admin] of the config says, else at "
    f"the usual Unix socket. Exit code {EX_UNAVAILABLE} when nobody answers."
)


def add(parsers: Parsers) -> None:
    """Add all of them."""
    _add_who(parsers)
    _add_kick(parsers)
    _add_top(parsers)
    _add_upstreams(parsers)
    _add_reload(parsers)
    _add_drain(parsers)
    _add_status(parsers)
    _add_tap(parsers)


def _where(parser: argparse.ArgumentParser) -> None:
    """Whom to ask, and how the answer is printed."""
    parser.add_argument(
        "--admin",
        metavar="ADDR",
        help="where popproxy's admin listener is: unix:/run/popproxy/admin.sock, 127.0.0.1:9110 or https://host:9110",
    )
    parser.add_argument("--config", metavar="F", type=Path, help="the config file whose [admin] says so")
    parser.add_argument(
        "--token-file", metavar="F", type=Path, help="for TCP: the token of [admin], as the only line of this file"
    )
    parser.add_argument("--ca-file", metavar="F", type=Path, help="for https: the authorities to trust, PEM")
    parser.add_argument("--cert", metavar="F", type=Path, help="for https: our certificate and its key, PEM")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", metavar="U", help="of this user; may be a glob like '*@example.com'")
    parser.add_argument("--ip", metavar="A", help="of this address or network")
    parser.add_argument("--listener", metavar="L", help="at this listener")
    parser.add_argument("--upstream", metavar="U", help="at this upstream")
    parser.add_argument("--phase", choices=PHASES, metavar="P", help=f"in this phase: {', '.join(PHASES)}")
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, help="with TLS, or without")


def _add_who(parsers: Parsers) -> None:
    who = parsers.add_parser(
        "who",
        help="show the sessions, or one of them",
        description="Show who is connected and what they do; with the id of a session, all that is known of it. "
        f"Exit code {EX_WRONG} when there is none.",
        epilog=_ASKS,
    )
    who.add_argument("session", nargs="?", metavar="SESSION", help="the id of one, as in the list and in the log")
    _filters(who)
    who.add_argument("--sort", choices=SORTS, default="age", help="the most of it first (default: %(default)s)")
    who.add_argument("--limit", metavar="N", type=_limit, default=100, help="how many; 0: all (default: %(default)s)")
    _where(who)
    who.set_defaults(run=later("popproxy.run.people.who", "who"))


def _add_kick(parsers: Parsers) -> None:
    kick = parsers.add_parser(
        "kick",
        help="end sessions",
        description="End sessions by their ids, or all that the options mean. No QUIT is sent for them, so nothing is "
        f"deleted. Exit code {EX_WRONG} when there was none.",
        epilog=_ASKS,
    )
    kick.add_argument("session", nargs="*", metavar="SESSION", help="the id of one, as `popproxy who` shows it")
    _filters(kick)
    kick.add_argument("--now", action="store_true", help="do not wait for the end of a reply")
    kick.add_argument("--reason", metavar="TEXT", help="why, for the log")
    _where(kick)
    kick.set_defaults(run=later("popproxy.run.people.who", "kick"))


def _add_top(parsers: Parsers) -> None:
    top = parsers.add_parser(
        "top",
        help="watch who moves how much",
        description="Watch sessions, users, addresses and upstreams live. Without --once it needs the terminal screen: "
        "pip install 'popproxy[tui]'.",
        epilog=_ASKS,
    )
    top.add_argument("--once", action="store_true", help="print it once, as plain text")
    top.add_argument("--by", choices=("octets", "messages", "failures"), default="octets", help="what counts most")
    top.add_argument("--limit", metavar="N", type=_limit, default=10, help="rows of each list (default: %(default)s)")
    top.add_argument("--every", metavar="TIME", default="2s", help="between two looks, like 5s (default: %(default)s)")
    _where(top)
    top.set_defaults(run=later("popproxy.run.people.top", "top"))


def _add_upstreams(parsers: Parsers) -> None:
    upstreams = parsers.add_parser(
        "upstreams",
        help="show the mail servers; drain, undrain, probe them",
        description="Show how the servers of all upstreams are.",
        epilog=_ASKS,
    )
    _where(upstreams)
    upstreams.set_defaults(run=later("popproxy.run.people.upstreams", "upstreams"))
    actions = upstreams.add_subparsers(title="what to do", metavar="WHAT")
    for what, told, description in (
        (
            "drain",
            "give servers no new logins",
            "Give servers no new logins until they are undrained or popproxy is started again; their sessions go on.",
        ),
        ("undrain", "give them logins again", "Give servers logins again."),
        (
            "probe",
            f"connect to servers now; exit code {EX_WRONG} when one is not well",
            "Connect to servers now, as health.probe does: greeting and TLS, no login. One that is well comes back "
            f"into rotation. Exit code {EX_WRONG} when one is not well.",
        ),
    ):
        # What was written before WHAT stands, unless it is written behind it as well.
        action = actions.add_parser(
            what, help=told, description=description, epilog=_ASKS, argument_default=argparse.SUPPRESS
        )
        action.add_argument("upstream", metavar="UPSTREAM", help="its name in the config")
        action.add_argument("server", nargs="?", default=None, metavar="SERVER", help="host and port (default: all)")
        _where(action)
        work = later("popproxy.run.people.upstreams", "probe" if what == "probe" else "turn")
        action.set_defaults(run=work, what=what)


def _add_reload(parsers: Parsers) -> None:
    reload = parsers.add_parser(
        "reload",
        help="have the config read again",
        description="Have the config read again, for new sessions. Of a bad one every mistake is printed and nothing "
        f"changes: exit code {EX_CONFIG}; {EX_DATAERR} when it is right and cannot be put in force. "
        "What is in force only after a restart ([admin], [log], workers) is named, and no mistake.",
        epilog=_ASKS,
    )
    _where(reload)
    reload.set_defaults(run=later("popproxy.run.people.process", "reload"))


def _add_drain(parsers: Parsers) -> None:
    drain = parsers.add_parser(
        "drain",
        help="take no more sessions and end with those that are open",
        description="Have popproxy take no more sessions, and end when those that are open have ended, or at the drain "
        "deadline of the config. This is what the signal TERM does.",
        epilog=_ASKS,
    )
    drain.add_argument("--wait", action="store_true", help="return when it has ended")
    _where(drain)
    drain.set_defaults(run=later("popproxy.run.people.process", "drain"))


def _add_status(parsers: Parsers) -> None:
    status = parsers.add_parser(
        "status",
        help="show how the running popproxy is",
        description=f"Show state, config and workers. Exit code {EX_WRONG} when it does not take sessions, or not with "
        "all its workers.",
        epilog=_ASKS,
    )
    _where(status)
    status.set_defaults(run=later("popproxy.run.people.process", "status"))


def _add_tap(parsers: Parsers) -> None:
    tap = parsers.add_parser(
        "tap",
        help="look on at sessions as they talk, without their secrets",
        description="Print what clients and mail servers say as they say it, until Ctrl-C or the end of the session. "
        "Passwords and all else that is secret are told by what they are, messages by their size. C> is the client, <S "
        "what it is told, U> what is said to the mail server, <U what comes from there, -- what happened.",
        epilog=_ASKS,
    )
    tap.add_argument("--user", metavar="U", help="sessions of this user, also later ones; may be a glob")
    tap.add_argument("--session", metavar="ID", help="this one, as `popproxy who` shows it")
    tap.add_argument("--ip", metavar="A", help="sessions of this address or network, also later ones")
    _where(tap)
    tap.set_defaults(run=later("popproxy.run.people.tap", "tap"))


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 7):
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write how many, or 0 for all")
    return int(text)
