"""A client's address as the plugins that count compare it."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def address_of(client: str) -> Address | None:
    """The address of ``session.client``; a mapped one is the IPv4 address it is. None for a Unix socket."""
    try:
        address = ip_address(client)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # Without its zone: fe80::1%eth0 is fe80::1.
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def network_of(address: Address, prefix: int) -> Network:
    """The network of ``prefix`` bits around ``address``."""
    kind = IPv4Network if isinstance(address, IPv4Address) else IPv6Network
    return kind((int(address), prefix), strict=False)


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether ``address`` is in one of ``networks``."""
    return any(address in network for network in networks)


def name_key(user: str, key: bytes = b"") -> str:
    """32 characters that stand for ``user``, whatever its length, without case. ``key`` makes them nobody else's."""
    return blake2b(user.casefold().encode("utf-8", "surrogatepass"), digest_size=16, key=key[:64]).hexdigest()
