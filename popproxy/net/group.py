"""The servers of one upstream: who gets which, how many at once, and who waits.

A Lease is one place at one server, from the dial to the end of the connection. Where no place is free a login waits
in a queue that has a length and a deadline; places are given in the order of the queue, to the first that can use
one. All counts are this process's own. A reload makes a new Group of the same upstream: what stays a server keeps its
count, and its breaker when the rules for it are the same; sessions of both Groups count together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import time
from typing import Protocol

from popproxy.config.plan import Server, UpstreamPlan
from popproxy.config.urls import bracketed
from popproxy.core.failures import Failure, Kind
from popproxy.net import balance
from popproxy.net.health import Breaker
from popproxy.wire.values import value


class Watch(Protocol):
    """Who is told."""

    def turned(self, server: str, up: bool, failure: Failure | None, seconds: float) -> None:
        """A server went out of rotation because of ``failure``, or came back after ``seconds``."""
        ...

    def queue(self, length: int) -> None:
        """So many logins wait."""
        ...

    def waited(self, result: str, seconds: float) -> None:
        """One waits no more: ``ok``, ``timeout``, ``full`` (it never did) or ``gone``."""
        ...


class Load:
    """Places in use, at one server or at all of an upstream."""

    __slots__ = ("sessions",)

    def __init__(self) -> None:
        self.sessions = 0


class Member:
    """A server of the group. ``name`` is its host and port; ``credit`` and ``turn`` are balance's; ``fault`` is what
    was wrong with it last, and when (seconds since the epoch)."""

    __slots__ = ("breaker", "credit", "fault", "load", "name", "server", "turn")

    def __init__(self, server: Server, breaker: Breaker, load: Load | None = None) -> None:
        self.server = server
        self.name = f"{bracketed(server.host)}:{server.port}"
        self.breaker = breaker
        self.load = load or Load()
        self.credit = 0
        self.turn = 0
        self.fault: tuple[float, Failure] | None = None

    @property
    def sessions(self) -> int:
        """Places in use there."""
        return self.load.sessions

    @property
    def room(self) -> bool:
        """Whether it may have one session more."""
        return not self.server.max_sessions or self.load.sessions < self.server.max_sessions


@value
class Wish:
    """What a login asks for: the key to choose by, names of servers not to take, or the one ``only`` to take."""

    key: str = ""
    avoid: tuple[str, ...] = ()
    only: Member | None = None


class Lease:
    """A place at ``member``. Tell its outcome once with ``good`` or ``bad``, and give it back with ``close``."""

    __slots__ = ("_group", "_number", "_open", "member")

    def __init__(self, group: Group, member: Member, number: int) -> None:
        self.member = member
        self._group = group
        self._number = number
        self._open = True

    def ready(self) -> None:
        """The server has greeted, and is ready for the login. Its outcome is still to be told."""
        if self._number > 0 and self._group.ready(self.member, self._number):
            self._number = 0

    def good(self) -> None:
        """The server serves."""
        number, self._number = self._number, -1
        if number >= 0:
            self._group.good(self.member, number)

    def bad(self, failure: Failure, who: str | None = None) -> None:
        """The server does not. See Breaker.failed for ``who``."""
        number, self._number = self._number, -1
        if number >= 0:
            self._group.bad(self.member, number, failure, who)

    def close(self) -> None:
        """The place is free again. May be repeated."""
        if self._number > 0:
            self.member.breaker.dropped(self._number)
        self._number = -1
        if self._open:
            self._open = False
            self._group.release(self.member)


class Group:
    """See the head of this file. ``before`` is a Group of the same upstream that is in use.

    ``drained`` are names of servers that get no new logins, because an administrator says so; all kin go by it."""

    def __init__(
        self, plan: UpstreamPlan, clock: Callable[[], float], watch: Watch, before: Group | None = None
    ) -> None:
        self.plan = plan
        self._clock = clock
        self._watch = watch
        now = clock()
        self._load: Load = Load() if before is None else before._load
        self._kin: list[Group] = [] if before is None else before._kin
        """Those whose sessions count together, the latest last."""
        self.drained: set[str] = set() if before is None else before.drained
        known = {member.name: (group, member) for group in self._kin for member in group.members}
        members: list[Member] = []
        for server in plan.servers:
            member = Member(server, Breaker(plan.health, now))
            if member.name in known:
                group, old = known[member.name]
                member.load = old.load
                member.fault = old.fault
                if group.plan.health == plan.health:
                    member.breaker = old.breaker
            members.append(member)
        self.members: tuple[Member, ...] = tuple(members)
        unbounded = not plan.max_sessions and not any(server.max_sessions for server in plan.servers)
        self._alone = members[0] if len(members) == 1 and unbounded else None
        """The one server of an upstream that has no other and no bound."""
        self._waiting: dict[int, tuple[Wish, asyncio.Future[Lease | Failure]]] = {}
        self._tickets = 0

    @property
    def sessions(self) -> int:
        """Places in use, of all kin."""
        return self._load.sessions

    def join(self) -> None:
        """It is in use: what others of its kin give back may be given to those who wait here."""
        self._kin.append(self)

    def leave(self) -> None:
        """It is in use no more. May be repeated."""
        if self in self._kin:
            self._kin.remove(self)

    def other(self, server: Server) -> Member:
        """A server that a plugin named: one of the group's own, or one of which nothing is remembered."""
        for member in self.members:
            if (member.server.host, member.server.port) == (server.host, server.port):
                return member if member.server.tls == server.tls else Member(server, member.breaker)
        return Member(server, Breaker(self.plan.health))

    async def admit(self, wish: Wish) -> Lease | Failure:
        """A place, perhaps after waiting for one. Cancelling it gives back what it was given."""
        return self.admitted(wish) or await self._wait(wish)

    def admitted(self, wish: Wish) -> Lease | Failure | None:
        """A place now, behind those who wait; None when one has to be waited for."""
        if self._waiting:
            # What they cannot use is free for others.
            self._serve()
        return self.take(wish)

    def take(self, wish: Wish) -> Lease | Failure | None:
        """A place now; None when all places are taken."""
        alone = self._alone
        if alone is not None and alone.breaker.up and wish.only is None and not (wish.avoid or self.drained):
            # Nothing to choose, nothing to count: the common road.
            return self._lease(alone, 0)
        plan, now = self.plan, self._clock()
        eligible = self._eligible(wish, now)
        if isinstance(eligible, Failure):
            return eligible
        if plan.max_sessions and self._load.sessions >= plan.max_sessions:
            return None
        if plan.balance == "sticky" and len(eligible) > 1:
            # Whose server is full waits for it: only a dead server moves its users.
            eligible = [balance.sticky(eligible, wish.key)]
        free = [member for member in eligible if member.room]
        if not free:
            return None
        member = free[0]
        if len(free) > 1:
            if plan.balance == "round_robin":
                member = balance.round_robin(free)
            elif plan.balance == "least_sessions":
                member = balance.least_sessions(free)
        return self._lease(member, member.breaker.begin(now))

    def _lease(self, member: Member, number: int) -> Lease:
        member.load.sessions += 1
        self._load.sessions += 1
        return Lease(self, member, number)

    def _eligible(self, wish: Wish, now: float) -> Sequence[Member] | Failure:
        """Servers that a login may try. When none is in rotation, one at a time is let through as a trial."""
        if wish.only is not None:
            candidates: Sequence[Member] = (wish.only,)
        elif wish.avoid:
            candidates = [member for member in self.members if member.name not in wish.avoid]
            if not candidates:
                return Failure(Kind.DOWN, "no other server")
        else:
            candidates = self.members
        if self.drained:
            named = ", ".join(member.name for member in candidates)
            candidates = [member for member in candidates if member.name not in self.drained]
            if not candidates:
                return Failure(Kind.DOWN, f"drained by an administrator: {named}")
        eligible = [member for member in candidates if member.breaker.admits(now)]
        eligible = eligible or [member for member in candidates if member.breaker.admits(now, urgent=True)]
        if not eligible:
            names = ", ".join(member.name for member in candidates)
            return Failure(Kind.DOWN, f"out of rotation, and a trial is under way: {names}")
        return eligible

    @property
    def waiting(self) -> int:
        """Logins that wait for a place, at all kin."""
        return sum(len(group._waiting) for group in self._kin)

    def drain(self, name: str, on: bool) -> bool:
        """Give the server called ``name`` no new logins, or give it some again; whether that changes anything. Its
        sessions go on. Whoever waits for a place is looked at anew."""
        if (name in self.drained) is on:
            return False
        (self.drained.add if on else self.drained.discard)(name)
        for group in list(self._kin):
            group._serve()
        return True

    async def _wait(self, wish: Wish) -> Lease | Failure:
        plan, began = self.plan, self._clock()
        if len(self._waiting) >= plan.queue:
            self._watch.waited("full", 0.0)
            waiting = f", {len(self._waiting)} logins wait" if self._waiting else ""
            return Failure(Kind.BUSY, f"all places are taken: {self.sessions} sessions{waiting}")
        future: asyncio.Future[Lease | Failure] = asyncio.get_running_loop().create_future()
        self._tickets += 1
        ticket = self._tickets
        self._waiting[ticket] = wish, future
        self._tell_queue()
        result = "gone"
        try:
            await asyncio.wait((future,), timeout=plan.queue_timeout)
            result = "ok" if future.done() else "timeout"
        finally:
            if self._waiting.pop(ticket, None) is not None:
                self._tell_queue()
            self._watch.waited(result, self._clock() - began)
            if result == "gone" and future.done():
                # Cancelled just when it was given a place.
                given = future.result()
                if isinstance(given, Lease):
                    given.close()
        if result == "ok":
            return future.result()
        return Failure(Kind.BUSY, f"no place was free within {plan.queue_timeout:g} s")

    def _serve(self) -> None:
        """Give what is free to those who wait, in their order."""
        for ticket, (wish, future) in list(self._waiting.items()):
            given = self.take(wish)
            if given is not None:
                del self._waiting[ticket]
                future.set_result(given)
                self._tell_queue()

    def _tell_queue(self) -> None:
        others = sum(len(group._waiting) for group in self._kin if group is not self)
        self._watch.queue(len(self._waiting) + others)

    # What leases tell

    def ready(self, member: Member, number: int) -> bool:
        """See Lease. Returns whether the trial is over."""
        now = self._clock()
        since = member.breaker.since
        over = member.breaker.reached(number, now)
        if over and member.breaker.up:
            self._turned(member, None, now - since)
        return over

    def good(self, member: Member, number: int) -> None:
        """See Lease."""
        now = self._clock()
        since = member.breaker.since
        if member.breaker.succeeded(number, now):
            self._turned(member, None, now - since)

    def bad(self, member: Member, number: int, failure: Failure, who: str | None) -> None:
        """See Lease."""
        member.fault = time(), failure
        if failure.rule.health:
            if member.breaker.failed(number, self._clock(), who):
                self._turned(member, failure, 0.0)
        else:
            member.breaker.dropped(number)

    def probed(self, member: Member, failure: Failure | None) -> None:
        """A probe was greeted, or was not."""
        now = self._clock()
        since = member.breaker.since
        if failure is not None:
            member.fault = time(), failure
            if member.breaker.failed(0, now):
                self._turned(member, failure, 0.0)
        elif member.breaker.answered(now):
            self._turned(member, None, now - since)

    def untried(self, member: Member) -> bool:
        """Whether it is out of rotation and a login might try it, but none does."""
        return member.breaker.state == "down" and member.breaker.next_trial(self._clock()) == 0

    def release(self, member: Member) -> None:
        """See Lease."""
        member.load.sessions -= 1
        self._load.sessions -= 1
        self._serve_all()

    def _serve_all(self) -> None:
        if self._waiting:
            self._serve()
        for group in self._kin:
            if group._waiting and group is not self:
                group._serve()

    def _turned(self, member: Member, failure: Failure | None, seconds: float) -> None:
        self._watch.turned(member.name, member.breaker.up, failure, seconds)
        self._serve_all()
