"""The way in: what needs no store is decided before the password is, what counts somebody only behind it.

Who does not know a user's password can so use up neither the user's sessions nor the user's logins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from popproxy.api import Code, Counter, Credentials, Outcome, Refuse, Services, SessionView, StoreFailed
from popproxy_plugins.policy.admission import denied, refusal, refusing
from popproxy_plugins.policy.claims import POINTS, REFUSALS, Claim, claims, day_key, who
from popproxy_plugins.policy.decide import Decided, Rules, decide
from popproxy_plugins.policy.ledger import Act, Ledger
from popproxy_plugins.policy.match import Facts, Locate, Look, facts_of
from popproxy_plugins.policy.state import Held, Place, State, state_of
from popproxy_plugins.policy.volume import Day, Purses

_CLOSED = "Login is not possible now, try again later"


class Door:
    """The hooks up to the login, of one worker."""

    def __init__(self, rules: Rules, services: Services, ledger: Ledger, locate: Locate, place: Place) -> None:
        self._rules = rules
        self._place = place
        self._store = services.store
        self._clock = services.clock
        self._ledger = ledger
        self._locate = locate
        used = [point for point in POINTS if any(point in rule.points for rule in rules.items)]
        self._limits: Mapping[str, Mapping[str, Counter]] = services.metrics.limits(used) if used else {}
        self._down = False
        self._purses = Purses()

    def connect(self, session: SessionView) -> Refuse | None:
        """What no login can change: its network, country, listener and time are refused for everybody."""
        return self._judge(session, state_of(self._place, session), self._facts(session, None), named=False)

    def login(self, session: SessionView, credentials: Credentials) -> Refuse | None:
        """What is known with the name: no call of the store."""
        state = state_of(self._place, session)
        # An attempt before this one may have been let in by the store and turned away by somebody else.
        state.give_back()
        state.user = credentials.user
        facts = self._facts(session, credentials.user)
        state.whom = who(credentials.user, facts.client)
        return self._judge(session, state, facts)

    async def proved(self, session: SessionView, ok: bool) -> Refuse | None:
        """The login went well, or not: the limits, all in one call of the store."""
        state = state_of(self._place, session)
        state.give_back()
        if not ok:
            return None
        if session.groups != state.groups:
            # A plugin behind this one has told the groups.
            refused = self._judge(session, state, self._facts(session, state.user))
            if refused is not None:
                return refused
        wanted = claims(state.decision, state.whom)
        if not wanted:
            return None
        try:
            outcome = await self._store.run(*(claim.step for claim in wanted))
        except StoreFailed as error:
            return self._without_store(wanted, error)
        if self._down:
            self._down = False
            self._ledger.store_back()
        return self._with(session, state, wanted, outcome)

    def _facts(self, session: SessionView, user: str | None) -> Facts:
        return facts_of(session, user, session.groups, self._clock.now(), self._locate)

    def _judge(self, session: SessionView, state: State, facts: Facts, named: bool = True) -> Refuse | None:
        """Decide, and refuse what the facts alone refuse. Not ``named``: an audit waits for the name."""
        state.groups = session.groups
        decision = state.decision = decide(self._rules, facts)
        look = Look(facts, self._rules.groups)
        tried = denied(decision.audited, look)
        state.due = None if named else tried
        if tried is not None and named:
            self._ledger.would(session, state.noted, tried)
        act = denied(decision.enforced, look)
        if act is None:
            return None
        self._ledger.refused(act)
        return refusal(act)

    def _without_store(self, wanted: Sequence[Claim], error: StoreFailed) -> Refuse | None:
        if not self._down:
            self._down = True
            self._ledger.store_down(error)
        for claim in wanted:
            self._limits[claim.point]["error"].inc()
        closed = next((claim for claim in wanted if not claim.audit and claim.decided.rule.closed), None)
        if closed is None:
            return None
        act = Act(closed.decided.rule, closed.point, "deny", _CLOSED, Code.SYS_TEMP)
        self._ledger.refused(act)
        return refusal(act, limited=True)

    def _with(
        self, session: SessionView, state: State, wanted: Sequence[Claim], outcome: Outcome
    ) -> Refuse | None:
        if outcome.ticket:
            state.held = Held(self._store, outcome)
        refused: Act | None = None
        for claim in wanted:
            room = outcome[claim.step]
            counters = self._limits[claim.point]
            if room.ok:
                if not claim.audit:
                    counters["allowed"].inc()
                if claim.point == "octets_per_day":
                    key = day_key("audit:" if claim.audit else "", state.whom.user)
                    purse = self._purses.of(key, room.used)
                    state.days.append(Day(key, room.limit, purse, claim.audit))
                continue
            act = _act(claim.point, claim.decided)
            if claim.audit:
                counters["audited"].inc()
                self._ledger.would(session, state.noted, act)
            else:
                counters["denied"].inc()
                refused = refused or act
        if refused is None:
            return None
        state.give_back()
        self._ledger.refused(refused)
        return refusal(refused, limited=True)


def _act(point: str, decided: Decided[int]) -> Act:
    text, code = REFUSALS[point]
    return refusing(decided, point, text, code)
