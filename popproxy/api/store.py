"""What all workers of a host, or all machines, know together: ``services.store``.

One call, ``run``, does a list of steps at once: atomically, in one round trip, by the store's own clock. Steps that
claim something (Spend, Lease) are all taken or none: a login that finds no room in one limit uses up none of the
others. Nothing is kept for ever; each step says how long.

A store has one worker (``memory``), all workers of a host (``sqlite``) or all machines (``redis``). Keys belong to the
plugin: two plugins never see each other's. A key holds one kind of thing: use it with one class of step, and with
windows of one kind and length. What is used of such a window counts for every ``limit`` that is asked: while a config
changes, machine by machine, the old limit and the new one count together. A window of another kind or length begins
anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, Generic, Literal, Protocol, TypeVar

from popproxy.api.services import Unavailable

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LONGEST_KEY = 1024
"""Characters of a key."""
LONGEST_LIFE = 10 * 366 * 86400.0
"""Seconds that something is kept at most."""
MOST = 2**52
"""Limits and amounts are no larger: stores count in floats."""

Mode = Literal["hard", "soft", "force"]
"""How a claim counts. ``hard``: without room for it nothing of the run is claimed. ``soft``: taken if there is room and
the hard ones are granted, else only told. ``force``: taken whatever the limit: it has happened already."""


class StoreFailed(Unavailable):
    """The store cannot answer now. Whether what was asked was done is not known.

    ``kind`` is one of ``unreachable``, ``timeout``, ``refused``, ``auth``, ``busy``, ``loading``, ``full``,
    ``read_only``, ``protocol``, ``broken``, ``resting`` (it failed just now), ``closed`` and ``fault`` (of ours).
    """

    def __init__(self, text: str, kind: str = "unreachable") -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Fixed:
    """``limit`` in each period of ``seconds``. Periods begin at multiples of it since the epoch: days at 0:00 UTC."""

    limit: int
    seconds: float

    def __post_init__(self) -> None:
        _check_window(self)


@dataclass(frozen=True, slots=True)
class Sliding:
    """``limit`` in any ``seconds``, estimated: of the period before counts the share that still overlaps."""

    limit: int
    seconds: float

    def __post_init__(self) -> None:
        _check_window(self)


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """At most ``limit`` at once, and ``limit`` more in every ``seconds``, evenly."""

    limit: int
    seconds: float

    def __post_init__(self) -> None:
        _check_window(self)


Window = Fixed | Sliding | TokenBucket


@dataclass(frozen=True, slots=True)
class Room:
    """How a claim fared. ``used`` of ``limit`` behind it, or before it when it was not taken.

    ``ok``: there was room, whether or not it was taken. ``wait`` is in how many seconds there may be room: 0 when
    there is, infinite when there never is, and 0 for a Lease, of which nobody knows.
    """

    ok: bool
    used: int
    limit: int
    wait: float = 0.0


class Step(Generic[T_co]):
    """One thing to do; ``outcome[step]`` is what came of it. Known by its identity: make a new one for each run."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Get(Step[bytes | None]):
    """The value at ``key``, or None."""

    key: str

    def __post_init__(self) -> None:
        _check_key(self.key)


@dataclass(frozen=True, slots=True, eq=False)
class Put(Step[bool]):
    """Set ``key`` for ``seconds`` from now. With ``absent`` only when it is not there. Gives whether it was set."""

    key: str
    value: bytes
    seconds: float
    absent: bool = False

    def __post_init__(self) -> None:
        _check_key(self.key)
        _check_life(self.seconds)


@dataclass(frozen=True, slots=True, eq=False)
class Drop(Step[bool]):
    """Forget the value or the marks at ``key``. Gives whether there were any."""

    key: str

    def __post_init__(self) -> None:
        _check_key(self.key)


@dataclass(frozen=True, slots=True, eq=False)
class Mark(Step[int]):
    """Note ``member`` at ``key`` for ``seconds`` from now, also when it is noted already; None notes nobody. Gives how
    many different members are noted then. Of more than ``most`` the one that would end first goes."""

    key: str
    member: bytes | None
    seconds: float
    most: int = 128

    def __post_init__(self) -> None:
        _check_key(self.key)
        _check_life(self.seconds)
        if self.most < 1:
            raise ValueError(f"Mark: most={self.most}: it must have room for one")


@dataclass(frozen=True, slots=True, eq=False)
class Spend(Step[Room]):
    """Take ``amount`` from ``window``; 0 only looks."""

    key: str
    window: Window
    amount: int = 1
    mode: Mode = "hard"

    def __post_init__(self) -> None:
        _check_key(self.key)
        if not 0 <= self.amount <= MOST:
            raise ValueError(f"Spend: amount={self.amount}; write 0 to {MOST}")


@dataclass(frozen=True, slots=True, eq=False)
class Lease(Step[Room]):
    """Hold one of ``limit`` places until the outcome is released. What a worker held that died is given back."""

    key: str
    limit: int
    mode: Mode = "hard"

    def __post_init__(self) -> None:
        _check_key(self.key)
        if not 0 <= self.limit <= MOST:
            raise ValueError(f"Lease: limit={self.limit}; write 0 to {MOST}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. ``granted``: every hard claim had room. ``now``: the store's clock, seconds since the epoch.
    ``ticket`` names the leases that are held, 0 when there are none."""

    granted: bool
    now: float
    results: dict[int, Any] = field(default_factory=dict[int, Any])
    ticket: int = 0

    def __getitem__(self, step: Step[T]) -> T:
        """What came of ``step``. KeyError when it was not in the run."""
        result: T = self.results[id(step)]
        return result


@dataclass(frozen=True, slots=True)
class Stored:
    """A value found by ``scan``; ``seconds`` are what is left of its life."""

    key: str
    value: bytes
    seconds: float


class Store(Protocol):
    """The store of one plugin. Made for the event loop's thread."""

    async def run(self, *steps: Step[Any]) -> Outcome:
        """Do all ``steps``, in order and as one. Raises StoreFailed, ValueError for one key in two steps.

        Cancelled, or failed: leases that were taken nevertheless are given back."""
        ...

    def post(self, *steps: Step[Any]) -> None:
        """Do all ``steps``, and wait for nothing. While the store is down they are kept, within bounds, and done when
        it is back; what had no room is counted as lost. When an answer got lost they may be done twice, which a Spend
        shows: it never counts too little. No Lease can be posted (ValueError)."""
        ...

    def release(self, outcome: Outcome) -> None:
        """Give back the leases of ``outcome``, now or when the store is back. May be called again."""
        ...

    async def scan(self, prefix: str, most: int = 1000) -> list[Stored]:
        """Values whose keys begin with ``prefix``, at most ``most`` of them, by key. For administrators: it may look at
        every key there is. Raises StoreFailed."""
        ...


def check_steps(steps: Sequence[Step[Any]]) -> None:
    """Raises ValueError for steps that cannot be one run: the same key twice, or nothing to do."""
    keys = [step.key for step in steps if isinstance(step, Get | Put | Drop | Mark | Spend | Lease)]
    if not keys or len(keys) != len(steps):
        raise ValueError("a run takes one or more of Get, Put, Drop, Mark, Spend and Lease")
    if len(set(keys)) != len(keys):
        raise ValueError(f"one key in two steps of a run: {', '.join(sorted({k for k in keys if keys.count(k) > 1}))}")


def _check_window(window: Window) -> None:
    kind = type(window).__name__
    if not 0 <= window.limit <= MOST:
        raise ValueError(f"{kind}: limit={window.limit}; write 0 to {MOST}")
    if not 0 < window.seconds < inf or window.seconds * 2 > LONGEST_LIFE:
        raise ValueError(f"{kind}: seconds={window.seconds} is no period")


def _check_key(key: str) -> None:
    if not 0 < len(key) <= LONGEST_KEY:
        raise ValueError(f"a key of {len(key)} characters; write 1 to {LONGEST_KEY}")


def _check_life(seconds: float) -> None:
    if not (isfinite(seconds) and 0 < seconds <= LONGEST_LIFE):
        raise ValueError(f"{seconds} seconds are no lifetime; write more than 0 and at most {LONGEST_LIFE:.0f}")
