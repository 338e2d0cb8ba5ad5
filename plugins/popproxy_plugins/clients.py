"""A client's address as the plugins that count compare it."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from unicodedata import category, normalize

from popproxy.api import SessionView

_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052 section 2.1."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def address_of(client: str) -> Address | None:
    """The address of ``session.client``; None for a Unix socket. One that is mapped, or translated by NAT64, is the
    IPv4 address it is: else all of them would be in one network."""
    try:
        address = ip_address(client)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
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


def is_scram(session: SessionView) -> bool:
    """Whether the login of ``session`` is one with SCRAM, of which on_verifier was asked."""
    return (session.mechanism or "").startswith("SCRAM-")


def folded(user: str) -> str:
    """``user`` as servers and their databases compare names: without case, compositions, widths, what is invisible, and
    blanks around it. Otherwise each spelling of a name would be a user with counts of its own."""
    if user.isascii():
        return user.lower().strip()
    text = normalize("NFKC", normalize("NFKC", user).casefold())
    return "".join(sign for sign in text if category(sign) not in ("Cf", "Cc")).strip()


def name_key(user: str, key: bytes = b"") -> str:
    """32 characters that stand for ``user`` as ``folded`` has it. ``key`` makes them nobody else's."""
    return blake2b(folded(user).encode("utf-8", "surrogatepass"), digest_size=16, key=key[:64]).hexdigest()
