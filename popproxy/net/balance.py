"""Which server of a group comes next. No clock, no socket, no chance: the same answer in every worker and machine.

Sticky is weighted rendezvous hashing: every server has a score for a key, the highest wins. A server that goes moves
only its own keys, to servers in proportion to their weights; one that comes takes only its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import Protocol, TypeVar

from popproxy.config.plan import Server


class Choice(Protocol):
    """A server with what balancing remembers of it. ``credit`` begins at 0, ``turn`` at 0."""

    server: Server
    credit: int
    turn: int

    @property
    def sessions(self) -> int:
        """Sessions that are open there."""
        ...


C = TypeVar("C", bound=Choice)


def score(server: Server, key: str) -> float:
    """How much ``server`` wants ``key``. Depends on its URL and its weight, not on its place in the config."""
    digest = blake2b(key.encode("utf-8", "surrogatepass") + b"\0" + server.url.encode(), digest_size=8).digest()
    # 52 bits and a half: more than 0 and less than 1 also after rounding.
    return server.weight / -log(((int.from_bytes(digest) >> 12) + 0.5) / (1 << 52))


def ranking(servers: Sequence[Server], key: str) -> list[Server]:
    """All servers, the one that ``key`` sticks to first, then those it would move to."""
    return sorted(servers, key=lambda server: (-score(server, key), server.url))


def sticky(choices: Sequence[C], key: str) -> C:
    """The one that ``key`` sticks to."""
    return max(choices, key=lambda choice: (score(choice.server, key), choice.server.url))


def round_robin(choices: Sequence[C]) -> C:
    """In turn, as often as their weights say and as evenly spread as that allows."""
    for choice in choices:
        choice.credit += choice.server.weight
    best = max(choices, key=lambda choice: choice.credit)
    best.credit -= sum(choice.server.weight for choice in choices)
    return best


def least_sessions(choices: Sequence[C]) -> C:
    """The one with the fewest sessions for its weight, of equals the one whose turn is longest ago."""
    best = min(choices, key=lambda choice: ((choice.sessions + 1) / choice.server.weight, choice.turn))
    best.turn = max(choice.turn for choice in choices) + 1
    return best
