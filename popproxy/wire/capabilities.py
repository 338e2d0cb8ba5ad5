"""Capability sets and their algebra (RFC 2449 sections 3 and 5).

A set keeps the order in which it was announced; names are upper case, parameters stay as they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_TAG = re.compile(rb"[!-\-/-~][!-~]*\Z")


class Capabilities:
    """An immutable, ordered set of capabilities with their parameters."""

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Iterable[tuple[bytes, tuple[bytes, ...]]] = ()) -> None:
        """ValueError for a word that would not stay one on its line, or a name that would end the reply."""
        self._hash: int | None = None
        self._items: dict[bytes, tuple[bytes, ...]] = {}
        for name, parameters in items:
            if not _TAG.match(name) or any(word.split() != [word] for word in parameters):
                raise ValueError(f"{name!r} {parameters!r} is no capability: write words without white space")
            self._items[name.upper()] = parameters

    @classmethod
    def parse(cls, lines: Iterable[bytes]) -> Capabilities:
        """From the lines of a CAPA reply, without CRLF. What is no capability line is left out."""
        items: list[tuple[bytes, tuple[bytes, ...]]] = []
        for line in lines:
            words = line.split()
            if words and _TAG.match(words[0]):
                items.append((words[0], tuple(words[1:])))
        return cls(items)

    def __contains__(self, name: bytes) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Capabilities) and self._items == other._items

    def __hash__(self) -> int:
        # Kept: every login asks for it.
        if self._hash is None:
            self._hash = hash(frozenset(self._items.items()))
        return self._hash

    def __repr__(self) -> str:
        return f"Capabilities({[line.decode('ascii', 'replace') for line in self.lines()]})"

    def parameters(self, name: bytes) -> tuple[bytes, ...]:
        """The parameters of ``name``; empty when it has none or is not in the set."""
        return self._items.get(name, ())

    def with_(self, name: bytes, *parameters: bytes) -> Capabilities:
        """This set with ``name`` added or its parameters replaced. ValueError as the constructor."""
        return Capabilities({**self._items, name.upper(): parameters}.items())

    def without(self, *names: bytes) -> Capabilities:
        """This set less ``names``."""
        gone = {name.upper() for name in names}
        return Capabilities((name, parameters) for name, parameters in self._items.items() if name not in gone)

    def only(self, names: Iterable[bytes]) -> Capabilities:
        """The part of this set whose names are in ``names``."""
        kept = frozenset(names)
        return Capabilities((name, parameters) for name, parameters in self._items.items() if name in kept)

    def lines(self) -> list[bytes]:
        """One line per capability, without CRLF."""
        return [b" ".join((name, *parameters)) for name, parameters in self._items.items()]

    def reply(self) -> bytes:
        """A whole CAPA reply."""
        return b"".join((b"+OK Capability list follows\r\n", *(line + b"\r\n" for line in self.lines()), b".\r\n"))
