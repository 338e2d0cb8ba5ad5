"""What every sub-command shares: exit codes, the config it was asked to use, and how it speaks.

Results go to standard output, everything else to standard error. Exit codes are those of sysexits.h.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from popproxy.config.load import Loaded
    from popproxy.config.workers import Asked

EX_OK, EX_WRONG, EX_USAGE, EX_DATAERR, EX_UNAVAILABLE, EX_IOERR, EX_CONFIG = 0, 1, 64, 65, 69, 74, 78
EX_INTERRUPTED = 130
"""As shells say it: 128 and the number of SIGINT."""

CONFIG_VARIABLE = "POPPROXY_CONFIG"
SYSTEM_CONFIG = Path("/etc/popproxy/popproxy.toml")

WAYS = """\
three ways to start:
  popproxy serve --upstream pop3s://mail.example.com     no file at all
  popproxy serve --config popproxy.toml                  your own file; `popproxy config example` prints one
  popproxy serve                                         the file $POPPROXY_CONFIG names, else
                                                         /etc/popproxy/popproxy.toml
`popproxy demo` shows it with a sample mailbox, no mail server needed."""


def later(room: str, name: str) -> Callable[[argparse.Namespace], int]:
    """The command ``name`` of a room (its module's whole name), which is imported when the command is called."""

    def run(arguments: argparse.Namespace) -> int:
        work: Callable[[argparse.Namespace], int] = getattr(import_module(room), name)
        return work(arguments)

    return run


class UsageError(Exception):
    """The command line itself cannot be used; the text says what to write instead."""


def system_config() -> Path | None:
    """SYSTEM_CONFIG, if it is there; also when this user may not look: who reads it is told so."""
    try:
        return SYSTEM_CONFIG if SYSTEM_CONFIG.exists() else None
    except PermissionError:
        return SYSTEM_CONFIG


def config_path(given: Path | None) -> Path:
    """The config file to use. Raises UsageError when there is none."""
    if given is not None:
        return given
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    if (path := system_config()) is not None:
        return path
    raise UsageError(f"no config: neither --config, $POPPROXY_CONFIG nor {SYSTEM_CONFIG} is there; {WAYS}")


def read_asked(
    arguments: argparse.Namespace, listen: Sequence[str] = (), admin: str | None = None, workers: Asked | None = None
) -> tuple[Loaded, Sequence[str]]:
    """The config that the command line asks for, and what was decided for the user in making it. Raises ConfigError, or
    UsageError when nothing says where it is."""
    path = None if arguments.upstream else config_path(arguments.config)
    from popproxy.config.defaults import default_config, with_admin
    from popproxy.config.load import load

    if path is None:
        return default_config(arguments.upstream, listen, admin, workers)
    loaded = load(path, workers)
    return (loaded if admin is None else with_admin(loaded, admin)), ()


def load_asked(
    arguments: argparse.Namespace, listen: Sequence[str] = (), admin: str | None = None, workers: Asked | None = None
) -> tuple[Loaded, Sequence[str]] | None:
    """As ``read_asked``; None, and its problems on standard error, when it is bad."""
    from popproxy.config.problems import ConfigError

    try:
        return read_asked(arguments, listen, admin, workers)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        return None


def warn(loaded: Loaded) -> None:
    """What the config check had to say about a good config."""
    for warning in loaded.warnings:
        say(f"warning: {warning}")


def say(text: str) -> None:
    """A word to whoever typed the command."""
    print(f"popproxy: {text}", file=sys.stderr)
