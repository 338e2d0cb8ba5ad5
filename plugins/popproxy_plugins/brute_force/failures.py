"""What becomes of a failed login: it is noted, and perhaps it was one too many."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_bytes

from popproxy.api import Mark, Outcome, Services
from popproxy_plugins.brute_force.bans import put
from popproxy_plugins.brute_force.config import BruteForceConfig, Level
from popproxy_plugins.brute_force.judge import Facts
from popproxy_plugins.brute_force.places import Noted, Origin, Tried, most, own_failure
from popproxy_plugins.clients import Network


class Failures:
    """Of one plugin."""

    def __init__(self, config: BruteForceConfig, services: Services) -> None:
        self._config = config
        self._store, self._log = services.store, services.log
        levels = ("address", "network")
        self._bans = services.metrics.counter("bans", "Addresses and networks that were banned", "level", levels)
        help = "Failed logins, of users where they are known, and of strangers"
        self._count = services.metrics.counter("failures", help, "of", ("known", "stranger"))

    async def note(self, origin: Origin, tried: Tried, facts: Facts) -> None:
        """A login failed of which on_login knew ``facts``. Raises StoreFailed."""
        if facts.known:
            self._count["known"].inc()
            mark = own_failure(self._config, origin, tried)
            outcome = await self._store.run(mark)
            limit = self._config.known.passwords
            if limit and facts.own < limit <= outcome[mark]:
                self._log.warning("guessed", network=origin.place, client=origin.address, passwords=outcome[mark])
            return
        await self._stranger(origin, tried, {origin.place: facts.pairs, origin.around: facts.network_pairs})

    async def unseen(self, origin: Origin, tried: Tried) -> None:
        """A login failed that on_login has not seen. Raises StoreFailed."""
        await self._stranger(origin, tried, {})

    async def _stranger(self, origin: Origin, tried: Tried, before: Mapping[Network, int]) -> None:
        self._count["stranger"].inc()
        noted = Noted(self._config, origin, tried)
        outcome = await self._store.run(*noted.steps())
        for network, level, marks, bans in noted.levels:
            counts = {kind: outcome[mark] for kind, mark in marks.items()}
            # The same failure again is not one too many: a ban that is over does not come back because of it.
            new = counts["pairs"] > before.get(network, 0) or counts["pairs"] >= most(level)
            if new and too_many(level, counts):
                await self._ban(origin, network, counts, outcome, bans)

    async def _ban(
        self, origin: Origin, network: Network, counts: Mapping[str, int], outcome: Outcome, bans: Mark
    ) -> None:
        config, now = self._config.ban, outcome.now
        times = outcome[bans]
        seconds = min(config.first * config.factor**times, config.longest)
        why = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        step = put(network, "auto", f"{why} in {self._config.window:g} s", now, seconds)
        banned = await self._store.run(step)
        if not banned[step]:
            # Banned already, by another worker or by hand.
            return
        await self._store.run(Mark(bans.key, token_bytes(8), config.memory, bans.most))
        level = "address" if network == origin.place else "network"
        self._bans[level].inc()
        # fail2ban reads "banned", and a firewall would do what is only tried out here.
        self._log.warning(
            "banned" if self._config.mode == "enforce" else "would_ban",
            network=network,
            kind=level,
            client=origin.address,
            seconds=round(seconds),
            times=times + 1,
            **counts,
        )


def too_many(level: Level, counts: Mapping[str, int]) -> bool:
    """Whether one of ``counts`` (pairs, names, passwords) is as large as ``level`` has it."""
    wanted = {"pairs": level.pairs, "names": level.names, "passwords": level.passwords}
    return any(limit and counts[kind] >= limit for kind, limit in wanted.items())
