"""What a plugin says it would do for a user name: for ``popproxy explain``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Explained:
    """What on_login would do, in words without secrets: one step, one string.

    ``user``, ``upstream`` (a name from the config) and ``key`` (what sticky balancing chooses by) are what the plugin
    would change them to, None where it leaves them; plugins behind it are asked about these. ``refused``: the login
    ends here, nobody behind it is asked. ``groups`` are those a Route would name: plugins behind read them from the
    session.
    """

    steps: tuple[str, ...]
    user: str | None = None
    upstream: str | None = None
    refused: bool = False
    key: str | None = None
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raises TypeError for a field of another type: steps that are one string, say."""
        given: list[tuple[Any, Any]] = [(self.steps, tuple), (self.user, str | None), (self.upstream, str | None)]
        given += [(self.key, str | None), (self.refused, bool), *((step, str) for step in self.steps)]
        given += [(self.groups, (tuple, type(None))), *((group, str) for group in self.groups or ())]
        if not all(isinstance(value, kind) for value, kind in given):
            raise TypeError(
                "Explained takes steps (a tuple of str), user, upstream, key (str or None), refused (bool), "
                "groups (a tuple of str, or None)"
            )
