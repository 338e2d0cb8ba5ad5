"""What ``popproxy explain`` says: who is counted with whom, and from where on. The counts are in the store."""

from __future__ import annotations

from popproxy_plugins.brute_force.config import BruteForceConfig, Level
from popproxy_plugins.brute_force.places import Origin
from popproxy_plugins.clients import Address, within


def told(config: BruteForceConfig, address: Address | None, user: str) -> tuple[str, ...]:
    """The steps for ``user`` at ``address`` (None: a Unix socket)."""
    if address is None:
        return ("not counted: a Unix socket has no address",)
    if within(address, config.allow):
        return (f"not counted: {address} is in allow",)
    origin, attacked, known = Origin.of(address), config.user, config.known
    delays = ", ".join(f"{delay:g}" for delay in config.delays)
    lines = [
        f"{origin.place}: {_level(config.address)}",
        f"{origin.around}: {_level(config.network)}",
        f"held {delays} s; refused {config.ban.first:g} s at first; failures count for {config.window:g} s",
    ]
    if user:
        lines.append(
            f"the user, where never logged in: held from {attacked.delay} wrong passwords on; from "
            f"{attacked.passwords} on addresses with {attacked.strikes} failures are refused"
        )
        lines.append(
            f"the user, where logged in during {known.keep / 86400:g} days: only by own wrong passwords, held from "
            f"{known.delay}, refused from {known.passwords} on"
        )
    if config.mode == "audit":
        lines.append("only audited: nothing is held or refused")
    return tuple(lines)


def _level(level: Level) -> str:
    return (
        f"held from {level.delay} failures on, refused from {level.pairs}, or {level.names} names, or "
        f"{level.passwords} passwords; 0 is never"
    )
