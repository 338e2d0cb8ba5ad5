"""Names that plugins' options are held against: those of POP3, and those a config defines.

``Plugin.check`` gets the names of the config and gives problems. Nothing runs then: no loop, no network. Problems are
shown by ``popproxy check`` with file and line, like those of the proxy's own keys, and stop the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from popproxy.wire.commands import VERBS, Where
from popproxy.wire.sasl import SERVER_MECHANISMS

LOGIN_MECHANISMS: tuple[str, ...] = ("USER", "APOP", *(name.decode("ascii") for name in SERVER_MECHANISMS))
"""How a client can log in: what ``SessionView.mechanism`` may be. ``USER`` stands for USER and PASS."""

TRANSACTION_COMMANDS: tuple[str, ...] = tuple(
    name.decode("ascii") for name, verb in VERBS.items() if Where.TRANSACTION in verb.where
)
"""The commands behind the login: what ``Command.name`` may be, beside verbs that an operator declares."""

Key = tuple[str | int, ...]
"""Where a value stands in the plugin's table: names of keys and, in lists, places from 0: ``("rules", 0, "upstream")``.
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """A value at ``key`` that cannot stand: ``message`` says what is wrong, ``hint`` what to write instead."""

    key: Key
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ConfigNames:
    """The names a config defines, in its order."""

    upstreams: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()

    def upstream(self, key: Key, name: str) -> list[Problem]:
        """A problem unless ``name`` is an upstream."""
        return _unknown("upstream", key, name, self.upstreams)

    def listener(self, key: Key, name: str) -> list[Problem]:
        """A problem unless ``name`` is a listener."""
        return _unknown("listener", key, name, self.listeners)


def _unknown(kind: str, key: Key, name: str, known: tuple[str, ...]) -> list[Problem]:
    if name in known:
        return []
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"write one of: {', '.join(known)}" if known else "leave it out"
    return [Problem(key, f"there is no {kind} {name!r}", hint)]
