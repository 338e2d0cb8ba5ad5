"""What each sub-command does, given its options. Whatever is heavy is imported here, by the one that needs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from popproxy.run.asked import (
    EX_CONFIG,
    EX_DATAERR,
    EX_IOERR,
    EX_OK,
    EX_UNAVAILABLE,
    EX_WRONG,
    UsageError,
    config_path,
    load_asked,
    read_asked,
    say,
    warn,
)

if TYPE_CHECKING:
    from popproxy.config.load import Loaded
    from popproxy.config.problems import ConfigProblem
    from popproxy.config.workers import Asked
    from popproxy.run.bans import BansDesk
    from popproxy.run.process import LoopName


def serve(arguments: argparse.Namespace) -> int:
    """Run the proxy until a signal ends it."""
    loop = _loop(arguments.loop)
    if loop is None:
        return EX_UNAVAILABLE
    if arguments.listen and not arguments.upstream:
        raise UsageError("--listen needs --upstream; with a config file, write [[listener]] tables in it")
    asked = arguments, arguments.listen, arguments.admin, _workers(arguments.workers)
    found = load_asked(*asked)
    if found is None:
        return EX_CONFIG
    loaded, notes = found
    warnings, again = [*notes, *map(str, loaded.warnings)], partial(read_asked, *asked)
    if loaded.plan.workers > 1:
        from popproxy.run.supervisor import supervise

        return supervise(loaded, again, loop, warnings)
    from popproxy.run.serve import serve

    return serve(loaded.plan, loop, warnings=warnings, again=again)


def _workers(given: str | None) -> Asked | None:
    """What --workers says; None without it."""
    if given is None:
        return None
    from popproxy.config.problems import Wrong
    from popproxy.config.workers import workers

    try:
        return workers(int(given) if given.isdecimal() else given)
    except Wrong as wrong:
        raise UsageError(f"--workers: {wrong.message}; {wrong.hint}") from None


def _loop(asked: LoopName | None) -> LoopName | None:
    """The event loop to use; None, and a word about it, when the one asked for is not installed."""
    from importlib.util import find_spec

    installed = find_spec("uvloop") is not None
    if asked == "uvloop" and not installed:
        say("uvloop is not installed; install it, or write --loop asyncio")
        return None
    return asked or ("uvloop" if installed else "asyncio")


def check(arguments: argparse.Namespace) -> int:
    """Print every mistake of a config."""
    from popproxy.config.load import load
    from popproxy.config.problems import ConfigError

    path = config_path(arguments.config)
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
        warn(loaded)
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


def explain(arguments: argparse.Namespace) -> int:
    """Print what happens to a user."""
    from ipaddress import ip_address

    try:
        ip_address(arguments.ip)
    except ValueError:
        raise UsageError(f"--ip: {arguments.ip!r} is no IP address; write it like 192.0.2.7 or 2001:db8::7") from None
    began = _moment(arguments.at)
    _check_mechanism(arguments.mechanism)
    found = load_asked(arguments)
    if found is None:
        return EX_CONFIG
    loaded, notes = found
    for note in notes:
        say(note)
    warn(loaded)
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


def schema(arguments: argparse.Namespace) -> int:
    """Print the config's JSON Schema."""
    from popproxy.config.schema import schema_text

    sys.stdout.write(schema_text())
    return EX_OK


def example(arguments: argparse.Namespace) -> int:
    """Print an example config."""
    from popproxy.config.schema import example

    sys.stdout.write(example())
    return EX_OK


def reference(arguments: argparse.Namespace) -> int:
    """Print every key, or the options of a plugin."""
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
        say(f"{page}: {error}")
        return EX_IOERR
    return EX_OK


def passwd(arguments: argparse.Namespace) -> int:
    """Make or check an entry of a users file."""
    from popproxy.run.passwd import PasswdError, make, verify

    try:
        if arguments.verify is None:
            print(make(arguments.user, arguments.scheme or "ARGON2ID", arguments.rounds))
            return EX_OK
        if arguments.user is None:
            raise UsageError("--verify needs the name of the user")
        good = verify(arguments.verify, arguments.user, arguments.scheme or "CRYPT")
    except PasswdError as error:
        say(str(error))
        return EX_DATAERR
    say("the password is right" if good else "the password is wrong")
    return EX_OK if good else EX_WRONG


def bans_list(arguments: argparse.Namespace) -> int:
    """Print the bans."""
    from popproxy.run.bans import render

    def run(desk: BansDesk) -> int:
        bans = desk.bans()
        if arguments.json:
            _print_json(bans)
        else:
            sys.stdout.write(render(bans))
        return EX_OK

    return _with_bans(arguments, run)


def bans_add(arguments: argparse.Namespace) -> int:
    """Ban an address or network."""
    from popproxy.run.bans import network, reason, seconds

    def run(desk: BansDesk) -> int:
        asked, time = network(arguments.network), seconds(arguments.time)
        desk.add(asked, time, reason(arguments.reason))
        if arguments.json:
            _print_json({"network": str(asked), "seconds": time})
        else:
            print(f"{asked} is banned for {arguments.time}")
        return EX_OK

    return _with_bans(arguments, run)


def bans_remove(arguments: argparse.Namespace) -> int:
    """Lift a ban."""
    from popproxy.run.bans import around, network

    def run(desk: BansDesk) -> int:
        asked = network(arguments.network)
        removed = desk.remove(asked)
        others = around(desk.bans(), asked)
        if arguments.json:
            _print_json({"network": str(asked), "removed": removed})
        else:
            left = f"; banned around it: {', '.join(others)}" if others else ""
            print(f"{asked} is free{left}" if removed else f"{asked} was not banned{left}")
        return EX_OK if removed else EX_WRONG

    return _with_bans(arguments, run)


def _with_bans(arguments: argparse.Namespace, run: Callable[[BansDesk], int]) -> int:
    """Do ``run`` where the bans of the config's plugin are."""
    from popproxy.config.load import load
    from popproxy.config.problems import ConfigError
    from popproxy.run.bans import BansError, desk

    try:
        plan = load(config_path(arguments.config)).plan
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        return EX_CONFIG
    try:
        return run(desk(plan, arguments.plugin))
    except BansError as error:
        if error.usage:
            raise UsageError(str(error)) from None
        say(str(error))
        return EX_UNAVAILABLE


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from popproxy.run.demo import demo

    return demo(port_base=arguments.port_base)
