"""A limit at work: under which key of the store a session counts, and in which window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal

from popproxy.api import Code, Spend, Window
from popproxy_plugins.clients import Address, name_key, network_of
from popproxy_plugins.rate_limit.config import Limit

Moment = Literal["connect", "login", "success", "failure"]
How = Literal["take", "look", "note"]
"""``take`` one if there is room, ``look`` whether there is, ``note`` one whether or not there is."""


@dataclass(frozen=True, slots=True)
class Who:
    """Whom a moment is about. ``user`` None: not known yet. ``address`` None: a Unix socket."""

    listener: str
    address: Address | None
    user: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A limit that was asked for one session: the step, and whether it was only looked at."""

    limit: Counted
    step: Spend
    looks: bool


class Counted:
    """One limit of the config."""

    def __init__(self, config: Limit) -> None:
        self.name = config.name
        self.moment: Moment = config.on
        self.closed = config.fail == "closed" and config.mode == "enforce"
        self.audit = config.mode == "audit"
        self.code = Code(config.code.encode("ascii"))
        self.text = config.text
        self.window: Window = config.counts
        self._kind = config.prefix_key
        self._bits = config.bits
        rate = f"{config.limit} in {config.per:g} s"
        burst = f", {config.burst} at once" if config.burst is not None else ""
        self.said = f"{rate}{burst} ({config.window})"

    def key(self, who: Who) -> str | None:
        """What is counted for ``who``, in words of at most 100 characters; None when this limit is not about it."""
        if self._kind == "listener":
            return f"listener {who.listener}"
        if self._kind in ("user", "domain"):
            return self._named(who.user)
        if who.address is None:
            return None
        bits = self._bits[0 if isinstance(who.address, IPv4Address) else 1]
        return None if bits is None else f"network {network_of(who.address, bits)}"

    def _named(self, user: str | None) -> str | None:
        # A token may come without a name; whose it is only its issuer knows.
        if not user:
            return None
        if self._kind == "user":
            return f"user {name_key(user)}"
        domain = user.rpartition("@")[2] if "@" in user else ""
        return f"domain {name_key(domain)}" if domain else None

    def shown(self, who: Who) -> str | None:
        """The key for people: names as they are."""
        found = self.key(who)
        if found is None or who.user is None or self._kind not in ("user", "domain"):
            return found
        return f"{self._kind} {who.user if self._kind == 'user' else who.user.rpartition('@')[2]}"

    def claim(self, who: Who, how: How) -> Claim | None:
        """The step that asks this limit; None when it is not about ``who``."""
        found = self.key(who)
        if found is None:
            return None
        # What is only tried out must never take another limit's room away: soft.
        mode: Literal["hard", "soft", "force"] = "force" if how == "note" else "soft" if self.audit else "hard"
        step = Spend(f"{self.name} {found}", self.window, 0 if how == "look" else 1, mode)
        return Claim(self, step, how == "look")


def claims(limits: Iterable[Counted], who: Who, how: How) -> Iterator[Claim]:
    """The claims of those ``limits`` that are about ``who``."""
    return (claim for limit in limits if (claim := limit.claim(who, how)) is not None)
