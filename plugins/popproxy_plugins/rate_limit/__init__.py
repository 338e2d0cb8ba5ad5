"""rate_limit: so many connections, logins or failures in a period. docs/plugins/rate_limit.md is its manual page.

All limits of a moment are asked in one round trip, and taken all or none. What is not known before the login has been
judged (a success, a failure) is looked at when it begins, so that who is over the limit reads the same whether the
password was right or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from popproxy.api import (
    Code,
    Counter,
    Credentials,
    Explained,
    LoginResult,
    Outcome,
    Plugin,
    Refuse,
    Services,
    SessionSummary,
    SessionView,
    Slot,
    StoreFailed,
    Verified,
)
from popproxy_plugins.clients import address_of, is_scram, within
from popproxy_plugins.rate_limit.config import RateLimitConfig
from popproxy_plugins.rate_limit.counting import Claim, Counted, Who, claims

__all__ = ["RateLimit", "RateLimitConfig"]

UNKNOWN = Refuse("Try again later", Code.SYS_TEMP, "the store is down, and a limit has fail = closed")
"""What a limit says that cannot be asked and must not be missed."""


_GONE = ("client_eof", "client_reset")
_PATIENCE = 20.0
"""Seconds after which it is no longer a guesser who goes away without an answer; mail programs wait for longer."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A login that was counted, and whose end is still to come. ``scram``: in on_verifier. ``at`` is monotonic."""

    user: str
    scram: bool
    at: float


class RateLimit(Plugin[RateLimitConfig]):
    """Refuses connections and logins above limits."""

    remembers = True

    def __init__(self, config: RateLimitConfig) -> None:
        super().__init__(config)
        limits = [Counted(limit) for limit in config.limits]
        self._limits = limits
        self._connect, self._login, self._success, self._failure = (
            [limit for limit in limits if limit.moment == moment]
            for moment in ("connect", "login", "success", "failure")
        )
        self._later = [*self._success, *self._failure]
        self._begun: Slot[Begun | None] = Slot("rate_limit", None)
        self._down = False
        at_login = self._login or self._later
        used = {
            "on_connect": self._connect,
            "on_login": at_login,
            "on_verifier": at_login,
            "on_login_result": at_login,
            "on_close": self._failure,
        }
        self.skips = frozenset(hook for hook, limits_of_it in used.items() if not limits_of_it)

    def start(self, services: Services) -> None:
        self._store = services.store
        self._log, self._clock = services.log, services.clock
        self._count: Mapping[str, Mapping[str, Counter]] = services.metrics.limits([x.name for x in self._limits])

    async def on_connect(self, session: SessionView) -> Refuse | None:
        who = self._who(session, None)
        return None if who is None else await self._ask(session, list(claims(self._connect, who, "take")))

    async def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Refuse | None:
        # SCRAM: a wrong proof never reaches on_login, and must not be free.
        return await self._begin(session, user, True)

    async def on_login(self, session: SessionView, credentials: Credentials) -> Refuse | None:
        begun = self._begun.get(session)
        if begun is not None and begun.scram and (isinstance(credentials, Verified) or is_scram(session)):
            # on_verifier has counted it. Nobody is told of an exchange that was cancelled: then this is another login.
            return None
        return await self._begin(session, credentials.user, False)

    async def on_login_result(self, session: SessionView, result: LoginResult) -> Refuse | None:
        begun = self._begun.get(session)
        self._begun.set(session, None)
        if begun is None or (begun.scram and not is_scram(session)):
            # Refused by a plugin in front: nothing was tried here.
            return None
        who = self._who(session, begun.user)
        if who is None:
            return None
        if result.ok:
            # Exact, also for two logins at once that both saw room when they began.
            return await self._ask(session, list(claims(self._success, who, "take")))
        if result.code == Code.AUTH.value.decode():
            self._note_failure(who)
        return None

    def on_close(self, session: SessionView, summary: SessionSummary) -> None:
        begun = self._begun.get(session)
        # Servers say yes at once and no after seconds: who goes away in between has learned as much as from an answer.
        # Without a server nothing was tried: the login was held, or is judged by a plugin behind.
        gone = summary.phase == "logging_in" and summary.reason in _GONE and session.server is not None
        if begun is None or not gone or self._clock.monotonic() - begun.at > _PATIENCE:
            return
        who = self._who(session, begun.user)
        if who is not None:
            self._note_failure(who)

    def _note_failure(self, who: Who) -> None:
        steps = [claim.step for claim in claims(self._failure, who, "note")]
        if steps:
            self._store.post(*steps)

    def explain(self, session: SessionView, user: str) -> Explained | None:
        who = self._who(session, user)
        if who is None:
            return Explained((f"no limit: {session.client or 'the client'} is in allow",))
        told = [
            f"{limit.name}: {limit.said} for {key}, on {limit.moment}{', only audited' if limit.audit else ''}"
            for limit in self._limits
            if (key := limit.shown(who)) is not None
        ]
        return Explained(tuple(told)) if told else None

    def _who(self, session: SessionView, user: str | None) -> Who | None:
        """Whom the limits are about; None for whom there are none."""
        address = address_of(session.client)
        if address is not None and within(address, self.config.allow):
            return None
        return Who(session.listener, address, user)

    async def _begin(self, session: SessionView, user: str, scram: bool) -> Refuse | None:
        self._begun.set(session, None)
        who = self._who(session, user)
        if who is None:
            return None
        refused = await self._ask(session, [*claims(self._login, who, "take"), *claims(self._later, who, "look")])
        if refused is None:
            # What was not tried does not count as a failure either.
            self._begun.set(session, Begun(user, scram, self._clock.monotonic()))
        return refused

    async def _ask(self, session: SessionView, asked: Sequence[Claim]) -> Refuse | None:
        """All of ``asked`` in one run; the refusal of the first that has no room."""
        if not asked:
            return None
        try:
            outcome = await self._store.run(*(claim.step for claim in asked))
        except StoreFailed as error:
            return self._failed(asked, error)
        if self._down:
            self._down = False
            self._log.info("store_back")
        return self._judge(session, asked, outcome)

    def _judge(self, session: SessionView, asked: Sequence[Claim], outcome: Outcome) -> Refuse | None:
        full = [claim for claim in asked if not _has_room(claim, outcome)]
        refusing = [claim for claim in full if not claim.limit.audit]
        for claim in full:
            self._count[claim.limit.name]["audited" if claim.limit.audit else "denied"].inc()
            if claim.limit.audit:
                room = outcome[claim.step]
                who = {"session": session.id, "client": session.client, "user": session.user}
                self._log.info("audited", **who, limit=claim.limit.name, used=room.used, of=room.limit)
        if refusing:
            limit = refusing[0].limit
            return Refuse(limit.text, limit.code, f"limit {limit.name}: {limit.said}", limited=True)
        for claim in asked:
            if claim not in full and not claim.looks:
                self._count[claim.limit.name]["allowed"].inc()
        return None

    def _failed(self, asked: Sequence[Claim], error: StoreFailed) -> Refuse | None:
        for claim in asked:
            self._count[claim.limit.name]["error"].inc()
        if not self._down:
            self._down = True
            self._log.error("store_failed", detail=str(error))
        return UNKNOWN if any(claim.limit.closed for claim in asked) else None


def _has_room(claim: Claim, outcome: Outcome) -> bool:
    room = outcome[claim.step]
    # Looking takes nothing, and nothing always has room.
    return room.used < room.limit if claim.looks else room.ok
