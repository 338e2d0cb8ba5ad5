"""Steps as the script reads them, and what it answers: packed, because each argument and each reply more costs time,
and because binary numbers are exact. See the head of store.lua."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

from popproxy.api.store import Drop, Fixed, Get, Lease, Mark, Put, Room, Sliding, Spend, Step
from popproxy.state.batch import Done

_MODES = {"hard": 0, "soft": 1, "force": 2}
_OP_GET, _OP_DROP = b"\x01", b"\x03"
_PUT = Struct("<BdBI")
_MARK = Struct("<BddBI")
_SPEND = Struct("<BBdddB")
_LEASE = Struct("<BdB")

_LIFE = Struct("<d")
_HEAD = Struct("<Bd")
_LENGTH = Struct("<I")
_FLAG = Struct("<B")
_NUMBER = Struct("<d")
_SPENT = Struct("<Bdd")
_LEASED = Struct("<Bd")

_VALUE, _MARKS, _WINDOW, _LEASES = "v:", "m:", "w:", "l:"


class Names:
    """What keys are called in the store. All of them carry one hash tag: a script may use keys of one slot only, and
    what stands in one run must be decided as one. ``v:`` values, ``m:`` marks, ``w:`` windows, ``l:`` leases."""

    def __init__(self, prefix: str) -> None:
        self.tag = f"{{{prefix}}}"
        self.owners = self._name("owners")
        self.values = self._name(_VALUE)

    def value(self, key: str) -> bytes:
        """Of a Put."""
        return self._name(_VALUE + key)

    def leases(self, key: str) -> bytes:
        """Of a Lease."""
        return self._name(_LEASES + key)

    def of(self, space: str, steps: Sequence[Step[Any]]) -> list[bytes]:
        """The keys of ``steps``, in the order in which the script reads them."""
        names: list[bytes] = []
        for step in steps:
            if isinstance(step, Get | Put):
                names.append(self._name(_VALUE + space + step.key))
            elif isinstance(step, Drop):
                names += self._name(_VALUE + space + step.key), self._name(_MARKS + space + step.key)
            elif isinstance(step, Mark):
                names.append(self._name(_MARKS + space + step.key))
            elif isinstance(step, Spend):
                names.append(self._name(_WINDOW + space + step.key))
            elif isinstance(step, Lease):
                names.append(self._name(_LEASES + space + step.key))
        return names

    def _name(self, key: str) -> bytes:
        # Keys may hold what a client sent, octets that are no UTF-8 as lone surrogates.
        return f"{self.tag}{key}".encode(errors="surrogatepass")


def packed(steps: Sequence[Step[Any]], life: float) -> bytes:
    """``steps`` for the script; ``life`` is that of a key of leases, in seconds."""
    pieces = [_LIFE.pack(life)]
    for step in steps:
        if isinstance(step, Get):
            pieces.append(_OP_GET)
        elif isinstance(step, Put):
            pieces += _PUT.pack(2, step.seconds, step.absent, len(step.value)), step.value
        elif isinstance(step, Drop):
            pieces.append(_OP_DROP)
        elif isinstance(step, Mark):
            member = step.member or b""
            pieces += _MARK.pack(4, step.seconds, step.most, step.member is not None, len(member)), member
        elif isinstance(step, Spend):
            window = step.window
            kind = 0 if isinstance(window, Fixed) else 1 if isinstance(window, Sliding) else 2
            pieces.append(_SPEND.pack(5, kind, window.limit, window.seconds, step.amount, _MODES[step.mode]))
        elif isinstance(step, Lease):
            pieces.append(_LEASE.pack(6, step.limit, _MODES[step.mode]))
    return b"".join(pieces)


def unpacked(space: str, steps: Sequence[Step[Any]], reply: bytes) -> Done | None:
    """What the script answered; None when it does not know the owner, and did nothing. Raises ValueError for a reply
    that is none."""
    status, now = _HEAD.unpack_from(reply)
    if status == 2:
        return None
    at = _HEAD.size
    results: list[Any] = []
    held: list[str] = []
    for step in steps:
        if isinstance(step, Get):
            (length,) = _LENGTH.unpack_from(reply, at)
            at += _LENGTH.size
            results.append(reply[at : at + length - 1] if length else None)
            at += max(0, length - 1)
        elif isinstance(step, Put | Drop):
            results.append(bool(_FLAG.unpack_from(reply, at)[0]))
            at += _FLAG.size
        elif isinstance(step, Mark):
            results.append(int(_NUMBER.unpack_from(reply, at)[0]))
            at += _NUMBER.size
        elif isinstance(step, Spend):
            flags, used, wait = _SPENT.unpack_from(reply, at)
            at += _SPENT.size
            results.append(Room(bool(flags & 1), int(used), step.window.limit, wait))
        elif isinstance(step, Lease):
            flags, used = _LEASED.unpack_from(reply, at)
            at += _LEASED.size
            results.append(Room(bool(flags & 1), int(used), step.limit))
            if flags & 2:
                held.append(space + step.key)
    return Done(status == 1, now, results, tuple(held))
