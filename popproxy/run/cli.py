"""The command line: its options. Nothing heavy is imported before a sub-command needs it: ``--help`` answers at once.

commands.py has what each of them does.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from popproxy import __version__
from popproxy.run import commands
from popproxy.run.asked import EX_CONFIG, EX_INTERRUPTED, EX_IOERR, EX_USAGE, EX_WRONG, WAYS, UsageError, later, say
from popproxy.run.people import options as people


class _Parser(argparse.ArgumentParser):
    """argparse with the exit code of sysexits.h; options are written out in full."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv`` without the program's name, None for the process's own. Returns the exit code."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EX_USAGE
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        code = run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        say(str(error))
        return EX_USAGE
    except KeyboardInterrupt:
        # Of what does not take the signal itself: questions, checks, and `serve` before it has begun.
        return EX_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_IOERR
    return code


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = _Parser(
        prog="popproxy",
        description="A POP3 proxy and filter middleware: TLS, plugins and metrics in front of any POP3 server.",
        epilog=WAYS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"popproxy {__version__}")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(parsers)
    _add_check(parsers)
    _add_explain(parsers)
    _add_config(parsers)
    _add_passwd(parsers)
    _add_bans(parsers)
    people.add(parsers)
    _add_doctor(parsers)
    _add_demo(parsers)
    return parser


if TYPE_CHECKING:
    Parsers = argparse._SubParsersAction[_Parser]


def _add_serve(parsers: Parsers) -> None:
    serve = parsers.add_parser("serve", help="run the proxy", description="Run the proxy until it is told to stop.")
    _add_source(serve)
    serve.add_argument(
        "--listen",
        metavar="URL",
        action="append",
        default=[],
        help="with --upstream: where to listen, like pop3s://127.0.0.1:9995 (TLS), pop3://127.0.0.1:1110 (STLS) or "
        "pop3+clear://127.0.0.1:1110 (no TLS); may be repeated (default: ports 995 and 110, all addresses)",
    )
    serve.add_argument("--admin", metavar="ADDR", help="address of /metrics and /healthz, like 127.0.0.1:9110, or off")
    serve.add_argument(
        "--workers", metavar="N", help="how many processes serve, or auto for one on each processor (default: the "
        "config's, else 1)"
    )
    serve.add_argument("--loop", choices=("uvloop", "asyncio"), help="event loop (default: uvloop where installed)")
    serve.set_defaults(run=commands.serve)


def _add_check(parsers: Parsers) -> None:
    check = parsers.add_parser(
        "check",
        help="find every mistake in a config",
        description=f"Find every mistake in a config at once. Exit code {EX_CONFIG} when there is one.",
    )
    check.add_argument("--config", metavar="F", type=Path, help="the file")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=commands.check)


def _add_explain(parsers: Parsers) -> None:
    explain = parsers.add_parser(
        "explain",
        help="show what happens to a user at an address",
        description="Show what happens to a user who connects from an address: listeners, plugins and each of their "
        "steps, upstream, bounds.",
    )
    explain.add_argument("--user", metavar="U", required=True, help="user name, as the client sends it")
    explain.add_argument("--ip", metavar="A", default="127.0.0.1", help="address of the client (default: %(default)s)")
    explain.add_argument("--listener", metavar="L", help="only this listener")
    explain.add_argument(
        "--tls",
        action=argparse.BooleanOptionalAction,
        help="whether the client uses TLS (default: wherever it can)",
    )
    explain.add_argument(
        "--at",
        metavar="TIME",
        help="when the client connects, like 2026-12-24T18:00 (local time) or 2026-12-24T18:00+01:00 (default: now)",
    )
    explain.add_argument("--mechanism", metavar="M", type=str.upper, help="how it logs in: USER for USER and PASS")
    explain.add_argument(
        "--group",
        metavar="G",
        action="append",
        default=[],
        help="a group the user is in, as if a look-up had said so; may be repeated",
    )
    explain.add_argument("--json", action="store_true", help="print JSON")
    _add_source(explain)
    explain.set_defaults(run=commands.explain)


def _add_config(parsers: Parsers) -> None:
    config = parsers.add_parser("config", help="print the config's schema, an example, or the reference")
    kinds = config.add_subparsers(title="what to print", metavar="WHAT", required=True)
    kinds.add_parser("schema", help="JSON Schema, for editors").set_defaults(run=commands.schema)
    kinds.add_parser("example", help="an example file with every section").set_defaults(run=commands.example)
    reference = kinds.add_parser(
        "reference",
        help="every key, as Markdown",
        description="Print every key of the config as Markdown, or the options of one plugin.",
    )
    reference.add_argument("--plugin", metavar="USE", help='the options of this plugin, written as in use = "..."')
    reference.add_argument(
        "--page", metavar="F", type=Path, help="with --plugin: write them into this page, between its markers"
    )
    reference.set_defaults(run=commands.reference)


def _add_passwd(parsers: Parsers) -> None:
    passwd = parsers.add_parser(
        "passwd",
        help="make or check an entry of a users file",
        description="Make an entry for a users file of the plugin auth_file, or check one. The password is read from "
        "the terminal, or is the first line of standard input; it is never an argument.",
    )
    passwd.add_argument("user", nargs="?", metavar="USER", help="the name; without it only the password's part is made")
    passwd.add_argument("--scheme", metavar="S", type=str.upper, help="like SHA512-CRYPT (default: ARGON2ID)")
    passwd.add_argument("--rounds", metavar="N", type=int, help="how much work a guess is, in the scheme's own unit")
    passwd.add_argument(
        "--verify", metavar="FILE", type=Path, help="check the password of USER in this file; exit code 1: it is wrong"
    )
    passwd.set_defaults(run=commands.passwd)


def _add_bans(parsers: Parsers) -> None:
    bans = parsers.add_parser(
        "bans",
        help="show and edit who is banned",
        description="Show and edit the addresses and networks that the plugin brute_force refuses: those it has banned "
        "itself, and those banned by hand. They change at once, for all that share its store.",
    )
    actions = bans.add_subparsers(title="what to do", metavar="WHAT", required=True)
    shared = _Parser(add_help=False)
    shared.add_argument("--config", metavar="F", type=Path, help="the config file")
    shared.add_argument("--plugin", metavar="NAME", help="which plugin, when several ban")
    shared.add_argument("--json", action="store_true", help="print JSON")
    actions.add_parser("list", help="all bans", parents=[shared]).set_defaults(run=commands.bans_list)
    add = actions.add_parser("add", help="ban an address or a network", parents=[shared])
    add.add_argument("network", metavar="NETWORK", help="like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/64")
    add.add_argument("--for", metavar="TIME", dest="time", default="1d", help="like 30m or 7d (default: %(default)s)")
    add.add_argument("--reason", metavar="TEXT", default="", help="why, for who reads the list")
    add.set_defaults(run=commands.bans_add)
    remove = actions.add_parser(
        "remove", help=f"lift a ban; exit code {EX_WRONG} when there is none", parents=[shared]
    )
    remove.add_argument("network", metavar="NETWORK", help="as it is in the list")
    remove.set_defaults(run=commands.bans_remove)


def _add_doctor(parsers: Parsers) -> None:
    parser = parsers.add_parser(
        "doctor",
        help="say what is wrong with a mail server, and what to do",
        description="Connect to a mail server as a client would and say in words what is wrong and what to do: DNS, "
        "connection, TLS, greeting, capabilities, login, maildrop, clocks. Nothing is retrieved or deleted. Exit code "
        f"{EX_WRONG} when something is wrong.",
    )
    parser.add_argument("--config", metavar="F", type=Path, help="the config file")
    parser.add_argument(
        "--upstream",
        metavar="U",
        help="the name of an upstream of the config, or a URL like pop3s://mail.example.com (default: every one of "
        "the config)",
    )
    parser.add_argument(
        "--user",
        metavar="U",
        help="log in as this user, under the name that the server knows; the password (or token) is read from the "
        "terminal, or is the first line of standard input",
    )
    parser.add_argument("--ca-file", metavar="F", type=Path, help="with a URL: the authorities to trust, PEM")
    parser.add_argument("--timeout", metavar="TIME", help="wait no longer, like 3s (default: as the config says)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=later("popproxy.run.doctor.command", "doctor"))


def _add_demo(parsers: Parsers) -> None:
    demo = parsers.add_parser(
        "demo",
        help="show the proxy in front of a sample mailbox",
        description="Run the proxy in front of a sample mailbox on 127.0.0.1 until Ctrl-C. No mail server needed.",
    )
    demo.add_argument("--port-base", metavar="N", type=_port_base, help="use the ports from N on; 0: any free ones")
    demo.set_defaults(run=commands.demo)


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="F", type=Path, help="the config file")
    source.add_argument("--upstream", metavar="URL", help="no config file: the mail server, like pop3s://mail.example.com")


def _port_base(text: str) -> int:
    if text != "0" and not (text.isdecimal() and 1024 <= int(text) <= 65000):
        raise argparse.ArgumentTypeError(f"{text!r} is no base for ports; write 1024 to 65000, or 0 for free ports")
    return int(text)
