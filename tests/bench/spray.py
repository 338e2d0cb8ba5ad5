"""``python -m tests.bench.spray``: an attack on a fleet of proxies with brute_force, by a clock that nobody waits for.

Four plugins, each with its own services, share one store: in memory, or a Redis whose database is empty. Users who are
real log in as people do; each address of the attack guesses all the time, and goes on when it is refused. No proxy and
no network takes part: what is counted is which logins would have reached the upstream, and how long users would have
waited. The time of a Redis is its own: there nothing is forgotten while it runs, as in one hour of an attack.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count

from popproxy_plugins.brute_force import BruteForce, BruteForceConfig
from pydantic import SecretStr

from popproxy.api import Hold, LoginResult, Password, Refuse, SessionView, Store
from popproxy.api.fakes import FakeClock, FakeServices, FakeStore, World
from popproxy.state.redis.plan import RedisPlan, read_url
from popproxy.state.redis.store import RedisStore
from popproxy.state.space import Space
from tests.plugins.driving import drive

PROXIES = 4
TOOK = 0.05
"""Seconds that the upstream takes for an answer."""
TOGETHER = 64
"""Logins that are under way at once, where a store has to be waited for."""
Action = Callable[[], Awaitable[None]]
SECRET = SecretStr("the same hashes in each run")

KINDS = {
    "at home": "from one address",
    "beside a bot": "from one address, from which an address of the attack guesses, too (NAT)",
    "old phone": "and a phone with the old password at the same address",
    "old phone away": "and a phone with the old password in the network of a mobile carrier",
    "on a journey": "from a new address each time",
    "forgetful": "from a new address each time, with a wrong password first",
}
NEWCOMERS = "newcomers"
"""Users who log in for the first time during the attack, from behind an address of it: nothing tells them from it."""
"""Users by how they log in."""


@dataclass
class Tally:
    """Logins with the right password of one kind of users. ``waited`` are the seconds of those that were held."""

    logins: int = 0
    refused: int = 0
    refusals: set[int] = field(default_factory=set)
    waited: list[float] = field(default_factory=list)
    held: set[int] = field(default_factory=set)


@dataclass
class Report:
    """What came of it."""

    users: dict[str, Tally]
    tried: int = 0
    through: int = 0
    by_hour: Counter[int] = field(default_factory=Counter)
    bans: int = 0
    unanswered: float = 0.0
    """Logins that passed because the store did not answer."""

    @property
    def refused(self) -> int:
        """Real users who were refused at least once."""
        return sum(len(tally.refusals) for tally in self.users.values())

    @property
    def held(self) -> int:
        """Real users who had to wait at least once."""
        return sum(len(tally.held) for tally in self.users.values())


@dataclass(frozen=True)
class Scale:
    """How large it is. ``pause`` in seconds between two guesses of one address, ``poll`` between a user's logins."""

    users: int = 10_000
    targets: int = 200
    attackers: int = 5_000
    hours: float = 2.0
    pause: float = 60.0
    poll: float = 600.0
    newcomers: int = 0
    seed: int = 1


class Fleet:
    """The proxies and their upstream. ``stores`` None: one in memory. ``together`` logins are under way at once."""

    def __init__(
        self,
        clock: FakeClock,
        config: BruteForceConfig,
        chance: random.Random,
        stores: Sequence[Store] | None = None,
        together: int = 1,
    ) -> None:
        self.clock, self.chance = clock, chance
        self.stores = stores or [FakeStore(clock)] * PROXIES
        self.plugins: list[BruteForce] = []
        self.services: list[FakeServices] = []
        self.events: list[tuple[float, int, Action]] = []
        self._numbers = count()
        self._together = together
        for store in self.stores:
            services, plugin = FakeServices(clock, World()), BruteForce(config)
            services.store = store  # type: ignore[assignment]
            self.services.append(services)
            self.plugins.append(plugin)

    def at(self, moment: float, action: Action) -> None:
        """Do ``action`` at ``moment`` (seconds since the beginning)."""
        heappush(self.events, (moment, next(self._numbers), action))

    async def run(self) -> None:
        """Until nothing is left to do."""
        for plugin, services in zip(self.plugins, self.services, strict=True):
            await plugin.start(services)
        while self.events:
            actions: list[Action] = []
            soon = self.events[0][0] + TOOK
            while self.events and len(actions) < self._together and self.events[0][0] <= soon:
                moment, _, action = heappop(self.events)
                self.clock.elapsed = max(self.clock.elapsed, moment)
                actions.append(action)
            if len(actions) == 1:
                await actions[0]()
            else:
                await asyncio.gather(*(action() for action in actions))

    async def login(
        self, address: str, user: str, password: str, right: bool, told: Callable[[str, float], None]
    ) -> None:
        """One login at any of the proxies. ``told`` hears ``ok``, ``wrong`` or ``refused`` and the seconds waited."""
        plugin = self.chance.choice(self.plugins)
        session = SessionView("s", "pop3s", client=address, user=user)
        verdict = await plugin.on_login(session, Password(user, password.encode()))
        if isinstance(verdict, Refuse):
            await plugin.on_login_result(session, LoginResult(False, "SYS/TEMP", verdict.text, verdict.reason, ""))
            told("refused", 0.0)
            return
        wait = verdict.seconds if isinstance(verdict, Hold) else 0.0

        async def judged() -> None:
            code = None if right else "AUTH"
            await plugin.on_login_result(session, LoginResult(right, code, "", "", "main"))
            told("ok" if right else "wrong", wait)

        self.at(self.clock.elapsed + wait + TOOK, judged)


class Spray:
    """The users, the attack, and what is counted."""

    def __init__(
        self,
        scale: Scale,
        config: BruteForceConfig | None = None,
        stores: Sequence[Store] | None = None,
        together: int = 1,
    ) -> None:
        self.scale = scale
        self.chance = random.Random(scale.seed)
        self.clock = FakeClock()
        self.fleet = Fleet(self.clock, config or BruteForceConfig(secret=SECRET), self.chance, stores, together)
        self.report = Report({kind: Tally() for kind in [*KINDS, NEWCOMERS][: None if scale.newcomers else -1]})
        # Nine of ten addresses are alone in their network, the others share one by twenty.
        self.bots = [f"{100 + n % 50}.{n // 250 % 250}.{n % 250}.7" for n in range(scale.attackers * 9 // 10)]
        self.bots += [f"99.0.{n // 20}.{n % 20 + 1}" for n in range(scale.attackers - len(self.bots))]
        self.targets = self.chance.sample(range(scale.users), scale.targets)
        self._journey = count()

    async def run(self) -> Report:
        """A first login of everybody, an hour later the attack, and logins all the time."""
        begin = 3600.0
        end = begin + self.scale.hours * 3600.0
        for user in range(self.scale.users):
            self._user(user, begin, end)
        for number in range(self.scale.newcomers):
            self._newcomer(self.scale.users + number, begin, end)
        passwords = count()
        for bot in self.bots:
            self._bot(bot, begin + self.chance.uniform(0, self.scale.pause), end, passwords)
        await self.fleet.run()
        self.report.bans = sum(
            line.event == "banned" for services in self.fleet.services for line in services.log.lines
        )
        self.report.unanswered = sum(
            services.metrics.counters["logins", "error"].value for services in self.fleet.services
        )
        return self.report

    def kind(self, user: int) -> str:
        """What kind of user this is: 85 of 100 are at home."""
        return {
            85: "beside a bot", 86: "beside a bot", 87: "beside a bot", 88: "beside a bot", 89: "beside a bot",
            90: "old phone", 91: "old phone", 92: "old phone away", 93: "old phone away", 94: "on a journey",
            95: "on a journey", 96: "on a journey", 97: "on a journey", 98: "on a journey", 99: "forgetful",
        }.get(user % 100, "at home")  # fmt: skip

    def _user(self, user: int, begin: float, end: float) -> None:
        kind, name = self.kind(user), f"user{user}@example.com"
        home = self.chance.choice(self.bots) if kind == "beside a bot" else f"10.{user >> 8 & 255}.{user & 255}.9"
        tally = self.report.users[kind]

        async def right(address: str, counted: bool) -> None:
            def told(outcome: str, waited: float) -> None:
                if not counted:
                    assert outcome == "ok", "refused before there was an attack"
                    return
                tally.logins += 1
                if outcome == "refused":
                    tally.refused += 1
                    tally.refusals.add(user)
                elif waited:
                    tally.waited.append(waited)
                    tally.held.add(user)

            await self.fleet.login(address, name, f"right{user}", True, told)

        async def wrong(address: str) -> None:
            await self.fleet.login(address, name, f"old{user}", False, lambda outcome, waited: None)

        self.fleet.at(self.chance.uniform(0, begin - 60), partial(right, home, False))
        moment = begin + self.chance.uniform(0, self.scale.poll)
        while moment < end:
            address = home
            if kind in ("on a journey", "forgetful"):
                trip = next(self._journey)
                address = f"172.{16 + (trip >> 16 & 15)}.{trip >> 8 & 255}.{trip & 255}"
            if kind == "forgetful":
                self.fleet.at(moment - 30, partial(wrong, address))
            if kind.startswith("old phone"):
                phone = home if kind == "old phone" else f"198.18.{user % 4}.{user // 100 % 200 + 1}"
                self.fleet.at(moment + 60, partial(wrong, phone))
            self.fleet.at(moment, partial(right, address, True))
            moment += self.scale.poll

    def _newcomer(self, user: int, begin: float, end: float) -> None:
        home, tally = self.chance.choice(self.bots), self.report.users[NEWCOMERS]

        async def right() -> None:
            def told(outcome: str, waited: float) -> None:
                tally.logins += 1
                if outcome == "refused":
                    tally.refused += 1
                    tally.refusals.add(user)
                elif waited:
                    tally.waited.append(waited)
                    tally.held.add(user)

            await self.fleet.login(home, f"user{user}@example.com", f"right{user}", True, told)

        moment = self.chance.uniform(begin, end)
        while moment < end:
            self.fleet.at(moment, right)
            moment += self.scale.poll

    def _bot(self, bot: str, moment: float, end: float, passwords: count[int]) -> None:
        report = self.report

        def told(outcome: str, waited: float) -> None:
            if outcome == "wrong":
                report.through += 1
                report.by_hour[int((self.clock.elapsed - 3600.0) // 3600)] += 1

        async def guess() -> None:
            report.tried += 1
            target = self.chance.choice(self.targets)
            await self.fleet.login(bot, f"user{target}@example.com", f"guess{next(passwords)}", False, told)
            again = self.clock.elapsed + self.scale.pause
            if again < end:
                self.fleet.at(again, guess)

        self.fleet.at(moment, guess)


async def in_redis(scale: Scale, url: str) -> Report:
    """The same with a connection to Redis for each proxy, and many logins at once."""
    stores = [RedisStore(RedisPlan(read_url(url), prefix="spray", timeout=10.0)) for _ in range(PROXIES)]
    for store in stores:
        await store.open()
    try:
        return await Spray(scale, None, [Space(store, "brute_force") for store in stores], TOGETHER).run()
    finally:
        for store in stores:
            await store.close()


def text(scale: Scale, report: Report, seconds: float) -> str:
    """The report for people."""
    share = 100.0 * report.through / max(1, report.tried)
    hours = ", ".join(f"{number} in hour {hour + 1}" for hour, number in sorted(report.by_hour.items()))
    lines = [
        f"{PROXIES} proxies, {scale.users} users, {scale.attackers} addresses that guess at {scale.targets} users, one "
        f"try in {scale.pause:g} s each, for {scale.hours:g} h; a login of each user every {scale.poll:g} s",
        f"attack: {report.tried} tries, {report.through} of them ({share:.1f} %) reached the upstream: {hours}",
        f"bans: {report.bans}; logins that passed because the store did not answer: {report.unanswered:g}",
        f"real users: {report.refused} refused, {report.held} held at least once",
        "",
        f"{'users':16}{'logins':>9}{'refused':>9}{'held':>7}{'longest':>9}",
    ]
    for kind, tally in report.users.items():
        longest = max(tally.waited, default=0.0)
        lines.append(f"{kind:16}{tally.logins:>9}{tally.refused:>9}{len(tally.waited):>7}{longest:>7g} s")
    lines += ["", f"simulated in {seconds:.0f} s"]
    return "\n".join(lines)


def main() -> None:
    """Run it at the scale of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in vars(Scale()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help="default: %(default)s")
    parser.add_argument("--redis", metavar="URL", help="instead of memory: an empty database, like redis://127.0.0.1/9")
    arguments = vars(parser.parse_args())
    url = arguments.pop("redis")
    scale = Scale(**arguments)
    began = time.monotonic()
    report = drive(Spray(scale).run()) if url is None else asyncio.run(in_redis(scale, url))
    assert report is not None
    sys.stdout.write(text(scale, report, time.monotonic() - began) + "\n")


if __name__ == "__main__":
    main()
