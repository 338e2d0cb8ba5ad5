"""The command line. Nothing heavy is imported before a sub-command needs it: ``--help`` answers at once.

Results go to standard output, everything else to standard error. Exit codes are those of sysexits.h.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from popproxy import __version__

if TYPE_CHECKING:
    from popproxy.config.load import Loaded
    from popproxy.config.problems import ConfigProblem
    from popproxy.run.bans import BansDesk
    from popproxy.run.serve import LoopName

EX_OK, EX_WRONG, EX_USAGE, EX_DATAERR, EX_UNAVAILABLE, EX_IOERR, EX_CONFIG = 0, 1, 64, 65, 69, 74, 78

CONFIG_VARIABLE = "POPPROXY_CONFIG"
SYSTEM_CONFIG = Path("/etc/popproxy/popproxy.toml")

_WAYS = """\
three ways to start:
  popproxy serve --upstream pop3s://mail.example.com     no file at all
  popproxy serve --config popproxy.toml                  your own file; `popproxy config example` prints one
  popproxy serve                                         the file $POPPROXY_CONFIG names, else
                                                         /etc/popproxy/popproxy.toml
`popproxy demo` shows it with a sample mailbox, no mail server needed."""


class UsageError(Exception):
    """The command line itself cannot be used; the text says what to write instead."""


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
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EX_USAGE
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        code = run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        _say(str(error))
        return EX_USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_IOERR
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="popproxy",
        description="A POP3 proxy and filter middleware: TLS, plugins and metrics in front of any POP3 server.",
        epilog=_WAYS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"popproxy {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_check(commands)
    _add_explain(commands)
    _add_config(commands)
    _add_passwd(commands)
    _add_bans(commands)
    _add_demo(commands)
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[_Parser]


def _add_serve(commands: Commands) -> None:
    serve = commands.add_parser("serve", help="run the proxy", description="Run the proxy until it is told to stop.")
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
    serve.add_argument("--loop", choices=("uvloop", "asyncio"), help="event loop (default: uvloop where installed)")
    serve.set_defaults(run=_serve)


def _add_check(commands: Commands) -> None:
    check = commands.add_parser(
        "check",
        help="find every mistake in a config",
        description=f"Find every mistake in a config at once. Exit code {EX_CONFIG} when there is one.",
    )
    check.add_argument("--config", metavar="F", type=Path, help="the file")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)


def _add_explain(commands: Commands) -> None:
    explain = commands.add_parser(
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
    explain.set_defaults(run=_explain)


def _add_config(commands: Commands) -> None:
    config = commands.add_parser("config", help="print the config's schema, an example, or the reference")
    kinds = config.add_subparsers(title="what to print", metavar="WHAT", required=True)
    kinds.add_parser("schema", help="JSON Schema, for editors").set_defaults(run=_schema)
    kinds.add_parser("example", help="an example file with every section").set_defaults(run=_example)
    reference = kinds.add_parser(
        "reference",
        help="every key, as Markdown",
        description="Print every key of the config as Markdown, or the options of one plugin.",
    )
    reference.add_argument("--plugin", metavar="USE", help='the options of this plugin, written as in use = "..."')
    reference.add_argument(
        "--page", metavar="F", type=Path, help="with --plugin: write them into this page, between its markers"
    )
    reference.set_defaults(run=_reference)


def _add_passwd(commands: Commands) -> None:
    passwd = commands.add_parser(
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
    passwd.set_defaults(run=_passwd)


def _add_bans(commands: Commands) -> None:
    bans = commands.add_parser(
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
    actions.add_parser("list", help="all bans", parents=[shared]).set_defaults(run=_bans_list)
    add = actions.add_parser("add", help="ban an address or a network", parents=[shared])
    add.add_argument("network", metavar="NETWORK", help="like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/64")
    add.add_argument("--for", metavar="TIME", dest="time", default="1d", help="like 30m or 7d (default: %(default)s)")
    add.add_argument("--reason", metavar="TEXT", default="", help="why, for who reads the list")
    add.set_defaults(run=_bans_add)
    remove = actions.add_parser(
        "remove", help=f"lift a ban; exit code {EX_WRONG} when there is none", parents=[shared]
    )
    remove.add_argument("network", metavar="NETWORK", help="as it is in the list")
    remove.set_defaults(run=_bans_remove)


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="show the proxy in front of a sample mailbox",
        description="Run the proxy in front of a sample mailbox on 127.0.0.1 until Ctrl-C. No mail server needed.",
    )
    demo.add_argument("--port-base", metavar="N", type=_port_base, help="use the ports from N on; 0: any free ones")
    demo.set_defaults(run=_demo)


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="F", type=Path, help="the config file")
    source.add_argument("--upstream", metavar="URL", help="no config file: the mail server, like pop3s://mail.example.com")


def _port_base(text: str) -> int:
    if text != "0" and not (text.isdecimal() and 1024 <= int(text) <= 65000):
        raise argparse.ArgumentTypeError(f"{text!r} is no base for ports; write 1024 to 65000, or 0 for free ports")
    return int(text)


def _serve(arguments: argparse.Namespace) -> int:
    loop = _loop(arguments.loop)
    if loop is None:
        return EX_UNAVAILABLE
    if arguments.listen and not arguments.upstream:
        raise UsageError("--listen needs --upstream; with a config file, write [[listener]] tables in it")
    found = _loaded(arguments, arguments.listen, arguments.admin)
    if found is None:
        return EX_CONFIG
    loaded, notes = found
    from popproxy.run.serve import serve

    return serve(loaded.plan, loop, warnings=[*notes, *map(str, loaded.warnings)])


def _loop(asked: LoopName | None) -> LoopName | None:
    """The event loop to use; None, and a word about it, when the one asked for is not installed."""
    from importlib.util import find_spec

    installed = find_spec("uvloop") is not None
    if asked == "uvloop" and not installed:
        _say("uvloop is not installed; install it, or write --loop asyncio")
        return None
    return asked or ("uvloop" if installed else "asyncio")


def _check(arguments: argparse.Namespace) -> int:
    from popproxy.config.load import load
    from popproxy.config.problems import ConfigError

    path = _config_path(arguments.config)
    try:
        loaded = load(path)
    except ConfigError as error:
        if arguments.json:
            _print_check(path, error.problems, ())
        else:
            for problem in error.problems:
                print(problem)
        return EX_CONFIG
    if arguments.json:
        _print_check(path, (), loaded.warnings)
    else:
        _warn(loaded)
        print(_summary(path, loaded))
    return EX_OK


def _print_check(path: Path, problems: Sequence[ConfigProblem], warnings: Sequence[ConfigProblem]) -> None:
    import json

    result = {
        "file": str(path),
        "ok": not problems,
        "problems": [problem.as_dict() for problem in problems],
        "warnings": [warning.as_dict() for warning in warnings],
    }
    print(json.dumps(result, indent=2, ensure_ascii=False))


def _summary(path: Path, loaded: Loaded) -> str:
    plan = loaded.plan
    counts = ((len(plan.listeners), "listener"), (len(plan.upstreams), "upstream"), (len(plan.plugins), "plugin"))
    parts = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)
    store = "" if plan.store.use == "memory" else f", store {plan.store.use}"
    return f"{path}: good: {parts}{store}; hash {plan.hash}"


def _explain(arguments: argparse.Namespace) -> int:
    from ipaddress import ip_address

    try:
        ip_address(arguments.ip)
    except ValueError:
        raise UsageError(f"--ip: {arguments.ip!r} is no IP address; write it like 192.0.2.7 or 2001:db8::7") from None
    began = _moment(arguments.at)
    _check_mechanism(arguments.mechanism)
    found = _loaded(arguments)
    if found is None:
        return EX_CONFIG
    loaded, notes = found
    for note in notes:
        _say(note)
    _warn(loaded)
    names = [listener.name for listener in loaded.plan.listeners]
    if arguments.listener is not None and arguments.listener not in names:
        raise UsageError(f"--listener: there is no listener {arguments.listener!r}; write one of: {', '.join(names)}")
    from popproxy.run.explain import Assumed, explain, render

    assumed = Assumed(began, arguments.mechanism, tuple(arguments.group))
    explanation = explain(loaded.plan, arguments.user, arguments.ip, arguments.listener, arguments.tls, assumed)
    if arguments.json:
        import json

        print(json.dumps(explanation.as_dict(), indent=2, ensure_ascii=False))
    else:
        sys.stdout.write(render(explanation))
    return EX_OK


def _moment(text: str | None) -> float:
    """Seconds since the epoch of what --at says; now without it."""
    import time
    from datetime import UTC, datetime

    if text is None:
        return time.time()
    try:
        began = datetime.fromisoformat(text).timestamp()
        # What cannot be shown in UTC is no time, either.
        datetime.fromtimestamp(began, UTC)
        return began
    except (ValueError, OverflowError, OSError):
        wrong = f"--at: {text!r} is no time; write it like 2026-12-24T18:00, with a zone 2026-12-24T18:00+01:00"
        raise UsageError(wrong) from None


def _check_mechanism(name: str | None) -> None:
    from popproxy.core.meter import MECHANISMS

    known = MECHANISMS[:-1]
    if name is not None and name not in known:
        raise UsageError(f"--mechanism: {name!r} is none that popproxy has; write one of: {', '.join(known)}")


def _schema(arguments: argparse.Namespace) -> int:
    from popproxy.config.schema import schema_text

    sys.stdout.write(schema_text())
    return EX_OK


def _example(arguments: argparse.Namespace) -> int:
    from popproxy.config.schema import example

    sys.stdout.write(example())
    return EX_OK


def _reference(arguments: argparse.Namespace) -> int:
    from popproxy.config.problems import Wrong
    from popproxy.config.reference import plugin_reference, reference, with_reference

    use, page = arguments.plugin, arguments.page
    if use is None:
        if page is not None:
            raise UsageError("--page needs --plugin: the pages are those of plugins")
        sys.stdout.write(reference())
        return EX_OK
    try:
        if page is None:
            sys.stdout.write(plugin_reference(use))
        else:
            page.write_text(with_reference(page.read_text("utf-8"), use), "utf-8")
    except Wrong as wrong:
        raise UsageError(f"{'--plugin' if page is None else page}: {wrong.message}; {wrong.hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        _say(f"{page}: {error}")
        return EX_IOERR
    return EX_OK


def _passwd(arguments: argparse.Namespace) -> int:
    from popproxy.run.passwd import PasswdError, make, verify

    try:
        if arguments.verify is None:
            print(make(arguments.user, arguments.scheme or "ARGON2ID", arguments.rounds))
            return EX_OK
        if arguments.user is None:
            raise UsageError("--verify needs the name of the user")
        good = verify(arguments.verify, arguments.user, arguments.scheme or "CRYPT")
    except PasswdError as error:
        _say(str(error))
        return EX_DATAERR
    _say("the password is right" if good else "the password is wrong")
    return EX_OK if good else EX_WRONG


def _bans_list(arguments: argparse.Namespace) -> int:
    from popproxy.run.bans import render

    def run(desk: BansDesk) -> int:
        bans = desk.bans()
        if arguments.json:
            _print_json(bans)
        else:
            sys.stdout.write(render(bans))
        return EX_OK

    return _with_bans(arguments, run)


def _bans_add(arguments: argparse.Namespace) -> int:
    from popproxy.run.bans import network, seconds

    def run(desk: BansDesk) -> int:
        asked, time = network(arguments.network), seconds(arguments.time)
        desk.add(asked, time, arguments.reason)
        if arguments.json:
            _print_json({"network": str(asked), "seconds": time})
        else:
            print(f"{asked} is banned for {arguments.time}")
        return EX_OK

    return _with_bans(arguments, run)


def _bans_remove(arguments: argparse.Namespace) -> int:
    from popproxy.run.bans import network

    def run(desk: BansDesk) -> int:
        asked = network(arguments.network)
        removed = desk.remove(asked)
        if arguments.json:
            _print_json({"network": str(asked), "removed": removed})
        else:
            print(f"{asked} is free" if removed else f"{asked} was not banned")
        return EX_OK if removed else EX_WRONG

    return _with_bans(arguments, run)


def _with_bans(arguments: argparse.Namespace, run: Callable[[BansDesk], int]) -> int:
    """Do ``run`` where the bans of the config's plugin are."""
    from popproxy.config.load import load
    from popproxy.config.problems import ConfigError
    from popproxy.run.bans import BansError, desk

    try:
        plan = load(_config_path(arguments.config)).plan
    except ConfigError as error:
        for problem in error.problems:
            _say(str(problem))
        return EX_CONFIG
    try:
        return run(desk(plan, arguments.plugin))
    except BansError as error:
        if error.usage:
            raise UsageError(str(error)) from None
        _say(str(error))
        return EX_UNAVAILABLE


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def _demo(arguments: argparse.Namespace) -> int:
    from popproxy.run.demo import demo

    return demo(port_base=arguments.port_base)


def _config_path(given: Path | None) -> Path:
    """The config file to use. Raises UsageError when there is none."""
    if given is not None:
        return given
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    if SYSTEM_CONFIG.exists():
        return SYSTEM_CONFIG
    raise UsageError(f"no config: neither --config, $POPPROXY_CONFIG nor {SYSTEM_CONFIG} is there; {_WAYS}")


def _loaded(
    arguments: argparse.Namespace, listen: Sequence[str] = (), admin: str | None = None
) -> tuple[Loaded, Sequence[str]] | None:
    """The config that the command line asks for, and what was decided for the user in making it; None, and its
    problems on standard error, when it is bad."""
    path = None if arguments.upstream else _config_path(arguments.config)
    from popproxy.config.defaults import default_config, with_admin
    from popproxy.config.load import load
    from popproxy.config.problems import ConfigError

    try:
        if path is None:
            loaded, notes = default_config(arguments.upstream, listen, admin)
        else:
            loaded, notes = load(path), ()
            if admin is not None:
                loaded = with_admin(loaded, admin)
    except ConfigError as error:
        for problem in error.problems:
            _say(str(problem))
        return None
    return loaded, notes


def _warn(loaded: Loaded) -> None:
    for warning in loaded.warnings:
        _say(f"warning: {warning}")


def _say(text: str) -> None:
    print(f"popproxy: {text}", file=sys.stderr)
