"""``when``: for which sessions a plugin is in the chain. Compiled once, evaluated at login.

All keys that are given must hold; within a key one match is enough. Before the user is known a condition that
names users or domains does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Network, ip_address

from popproxy.api.views import SessionView

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled ``when`` table. Empty tuples and None mean "any"."""

    users: tuple[re.Pattern[str], ...] = ()
    domains: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    listeners: tuple[str, ...] = ()
    tls: bool | None = None

    @property
    def needs_user(self) -> bool:
        """Whether it can only hold once the user is known."""
        return bool(self.users or self.domains)

    def applies(self, view: SessionView, user: str | None) -> bool:
        """Whether it holds for this session and this user name."""
        if self.listeners and view.listener not in self.listeners:
            return False
        if self.tls is not None and self.tls != (view.tls is not None):
            return False
        if self.networks and not inside(view.client, self.networks):
            return False
        if not self.needs_user:
            return True
        if user is None:
            return False
        name = user.casefold()
        if self.users and not any(pattern.match(name) for pattern in self.users):
            return False
        return not self.domains or ("@" in name and name.rpartition("@")[2] in self.domains)


def inside(client: str, networks: Sequence[Network]) -> bool:
    """Whether ``client`` is an IP address in one of ``networks``."""
    try:
        address = ip_address(client)
    except ValueError:
        return False
    return any(address in network for network in networks)


def condition(
    users: Sequence[str] = (),
    domains: Sequence[str] = (),
    networks: Sequence[Network] = (),
    listeners: Sequence[str] = (),
    tls: bool | None = None,
) -> Condition:
    """Compile a ``when`` table: user globs and domains compare without case."""
    return Condition(
        tuple(re.compile(translate(user.casefold())) for user in users),
        tuple(domain.casefold() for domain in domains),
        tuple(networks),
        tuple(listeners),
        tls,
    )
