"""Bans as they are in the store: one value each, under a key that names the network, and gone when it is over.

The plugin reads and writes them, ``popproxy bans`` and the admin listener show and edit them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from typing import Literal, cast

from popproxy.api import Drop, Put, Store, Stored
from popproxy_plugins.clients import Address, Network, address_of, network_of

KEY = "ban "
MANUAL_LONGEST = 3660 * 86400.0
"""Seconds of the longest ban: what a store keeps at most."""
_PREFIXES = {4: (32, 24), 6: (128, 64, 48)}
"""What is looked up at a login, and can therefore be banned."""
REASON = 200
"""Characters of a reason that are kept."""

By = Literal["auto", "manual"]


class BadBan(ValueError):
    """What cannot be banned; the text says what to write instead."""


@dataclass(frozen=True, slots=True)
class Ban:
    """``network`` is refused for ``seconds`` more. ``since`` in seconds since the epoch, by the store's clock."""

    network: Network
    by: By
    reason: str
    since: float
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """For JSON: ``until`` is ``since`` and the whole time."""
        return {
            "network": str(self.network),
            "by": self.by,
            "reason": self.reason,
            "since": round(self.since),
            "seconds": round(self.seconds),
        }


def keys(address: Address) -> list[str]:
    """Where the bans are that hold for ``address``, the narrowest first."""
    return [key(network_of(address, prefix)) for prefix in _PREFIXES[address.version]]


def key(network: Network) -> str:
    """Where the ban of ``network`` is."""
    return f"{KEY}{network}"


def put(network: Network, by: By, reason: str, now: float, seconds: float) -> Put:
    """The step that bans. One that was made by hand is not replaced by another one."""
    value = json.dumps({"by": by, "reason": reason[:REASON], "since": now}).encode()
    return Put(key(network), value, min(seconds, MANUAL_LONGEST), absent=by == "auto")


def by_whom(value: bytes | None) -> By | None:
    """Who banned, of a value in the store; None for none."""
    if value is None:
        return None
    return "manual" if _read(value).get("by") == "manual" else "auto"


def parse_network(text: str) -> Network:
    """What an administrator wants to ban. Raises BadBan."""
    try:
        network = ip_network(text.strip(), strict=False)
    except ValueError:
        raise BadBan(f"{text[:80]!r} is no address and no network; write it like 192.0.2.7 or 2001:db8::/64") from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        # What clients of such a network are compared as.
        first = address_of(str(network.network_address))
        if isinstance(first, IPv4Address):
            network = IPv4Network((int(first), network.prefixlen - 96))
    allowed = _PREFIXES[network.version]
    if network.prefixlen not in allowed:
        sizes = ", ".join(f"/{prefix}" for prefix in allowed)
        raise BadBan(
            f"{network}: a ban is one of {sizes}, which are looked up at each login; for another size use the "
            "networks of the plugin policy, or the firewall"
        )
    return network


async def listed(store: Store, most: int = 100_000) -> list[Ban]:
    """All bans, by network. Raises StoreFailed."""
    found = [_ban(stored) for stored in await store.scan(KEY, most)]
    return sorted(
        (ban for ban in found if ban is not None),
        key=lambda ban: (ban.network.version, int(ban.network.network_address), ban.network.prefixlen),
    )


async def add(store: Store, network: Network, seconds: float, reason: str, now: float) -> None:
    """Ban by hand, instead of a ban that is there. Raises StoreFailed."""
    await store.run(put(network, "manual", reason, now, seconds))


async def remove(store: Store, network: Network) -> bool:
    """Lift the ban of ``network``, and forget the earlier ones; whether there was one. Raises StoreFailed."""
    drop = Drop(key(network))
    outcome = await store.run(drop, *(Drop(f"{what} {network}") for what in ("bans", "pairs", "names", "passwords")))
    return outcome[drop]


def _ban(stored: Stored) -> Ban | None:
    try:
        network = ip_network(stored.key.removeprefix(KEY))
    except ValueError:
        return None
    said = _read(stored.value)
    since = said.get("since")
    return Ban(
        network,
        "manual" if said.get("by") == "manual" else "auto",
        str(said.get("reason", "")),
        float(since) if isinstance(since, int | float) else 0.0,
        stored.seconds,
    )


def _read(value: bytes) -> dict[str, object]:
    """What a value says; empty for one that we did not write."""
    try:
        said: object = json.loads(value)
    except ValueError:
        return {}
    return cast("dict[str, object]", said) if isinstance(said, dict) else {}
