"""The plugin: every hook asks the room that knows, and does what it says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from popproxy.api import (
    Capabilities,
    Command,
    ConfigNames,
    Credentials,
    Dates,
    Explained,
    Fail,
    Hangup,
    Hide,
    Keep,
    LoginResult,
    MaildropView,
    Pace,
    Plugin,
    Problem,
    Refuse,
    ReplyView,
    Services,
    SessionSummary,
    SessionView,
    Slot,
)
from popproxy_plugins.policy import admission, announced, claims, country, needs, volume
from popproxy_plugins.policy.arrivals import Arrivals
from popproxy_plugins.policy.config import PolicyConfig
from popproxy_plugins.policy.decide import Compiled, Decided, Decision, Rules, Settings, decide
from popproxy_plugins.policy.explained import steps_of
from popproxy_plugins.policy.ledger import Act, Ledger
from popproxy_plugins.policy.login import Door
from popproxy_plugins.policy.maildrop import hidden
from popproxy_plugins.policy.match import Locate, Look, facts_of, nowhere
from popproxy_plugins.policy.paces import Paces
from popproxy_plugins.policy.state import Place, State
from popproxy_plugins.policy.tally import Enough, Tally, Wait

_SIZE = re.compile(rb"\s*(\d{1,18})")


class Policy(Plugin[PolicyConfig]):
    """What sessions may do, by rules."""

    fail = Fail.CLOSED

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self._rules = Rules(config)
        self._arrivals = Arrivals()
        self._paces = Paces()
        self._place: Place = Slot("policy", None)
        self._locate: Locate = nowhere
        self.skips = _skipped(self._rules)
        self.remembers = any(getattr(rule, point) for rule in config.rules for point in claims.POINTS)

    def check(self, names: ConfigNames) -> Iterable[Problem]:
        yield from self.config.problems(names)
        yield from country.problems(self.config.countries)

    async def start(self, services: Services) -> None:
        self._locate = await country.watched(services, self.config.countries)
        self._store = services.store
        self._clock = services.clock
        self._ledger = Ledger(services, [rule.head.name for rule in self._rules.items])
        self._door = Door(self._rules, services, self._ledger, self._locate, self._place)

    # The way in

    def on_connect(self, session: SessionView) -> Refuse | None:
        return self._door.connect(session)

    def on_capabilities(self, session: SessionView, capabilities: Capabilities) -> Capabilities | None:
        state = self._place.get(session)
        if state is not None and state.inside:
            return announced.behind(state.decision.enforced, capabilities)
        facts = facts_of(session, None, session.groups, self._clock.now(), self._locate)
        return announced.before(self._rules, facts, capabilities)

    def on_login(self, session: SessionView, credentials: Credentials) -> Refuse | None:
        return self._door.login(session, credentials)

    async def on_login_result(self, session: SessionView, result: LoginResult) -> Refuse | None:
        return await self._door.proved(session, result.ok)

    def explain(self, session: SessionView, user: str) -> Explained:
        locate = country.read(self.config.countries)
        facts = facts_of(session, user, session.groups, session.began, locate)
        if session.mechanism is None:
            # Nobody has chosen one.
            facts = replace(facts, mechanism=None)
        decision, look = decide(self._rules, facts), Look(facts, self._rules.groups)
        steps = list(steps_of(self.config, self._rules, decision, look))
        act = admission.denied(decision.enforced, look)
        if act is not None:
            steps.append(f"refused by {act.point} of rule {act.rule.number} ({act.rule.name}): {act.text}")
        return Explained(tuple(steps), refused=act is not None)

    # Behind the login

    def unneeded(self, session: SessionView) -> frozenset[str]:
        """The session is in: begin to count for it."""
        state = self._place.get(session)
        if state is None:
            return needs.HOOKS
        decision, now = state.decision, self._clock.monotonic()
        state.inside = True
        state.trying = decision.audited != Settings()
        state.base = session.sent
        state.real = Tally(decision.enforced, [day for day in state.days if not day.audit], self._arrivals, now)
        days = [day for day in state.days if day.audit]
        # To ask for sizes and dates would cost the upstream something, and change what clients read.
        state.tried = Tally(decision.audited, days, self._arrivals, now, asks=False)
        login = decision.enforced.login
        if login is not None:
            self._ledger.allowed(login.rule)
        return needs.HOOKS - needs.needed(decision)

    def pace(self, session: SessionView) -> Sequence[Pace]:
        state = self._place.get(session)
        if state is None:
            return ()
        found: list[Pace] = []
        own, shared = state.decision.enforced.rate, state.decision.enforced.user_rate
        if own is not None:
            found.append(Pace(own.value, own.value))
        if shared is not None:
            share = self._paces.of(state.whom.user, shared.value, shared.value)
            state.shares.append(share)
            found.append(share.pace)
        return found

    def on_maildrop(self, session: SessionView, maildrop: MaildropView) -> Hide | Dates | None:
        state = self._place.get(session)
        if state is None:
            return None
        verdict, acts = hidden(state.decision.enforced, session, maildrop, self._arrivals, self._clock.now())
        for act in acts:
            self._ledger.did(session, state.noted, act)
        state.real.listed = state.tried.listed = not isinstance(verdict, Dates)
        return verdict

    def on_command(self, session: SessionView, command: Command) -> Refuse | Keep | Dates | Hangup | None:
        state = self._place.get(session)
        if state is None:
            return None
        name, sent = command.name, session.sent - state.base
        now, date = self._clock.monotonic(), self._clock.now()
        if state.days:
            volume.went_out(self._store, state.days, sent)
        if name.startswith("XTND"):
            # Another maildrop may be open behind it.
            state.real.listed = state.tried.listed = False
        said = state.real.say(session, command, sent, now, date)
        if isinstance(said, Wait):
            return Dates(said.messages)
        if state.trying:
            self._try(session, state, command, sent, now, date)
        if said is None:
            return None
        act = said.act if isinstance(said, Enough) else said
        self._ledger.did(session, state.noted, act)
        if isinstance(said, Enough):
            return Hangup(act.reason)
        return Keep() if act.action == "rewrite" else Refuse(act.text, act.code, reason=act.reason)

    def _try(
        self, session: SessionView, state: State, command: Command, sent: int, now: float, date: float
    ) -> None:
        """What audited rules would do."""
        said = state.tried.say(session, command, sent, now, date)
        audited = state.decision.audited
        assert not isinstance(said, Wait), "it never asks"
        if said is not None:
            self._ledger.would(session, state.noted, said.act if isinstance(said, Enough) else said)
        if command.name in ("STAT", "LIST", "UIDL"):
            for point in needs.HIDING:
                decided: Decided[int] | None = getattr(audited, point)
                if decided is not None:
                    self._ledger.would(session, state.noted, Act(decided.rule, point, "hide"))

    def on_reply(self, session: SessionView, command: Command, reply: ReplyView) -> None:
        """The size of a message, for audited rules: to list the maildrop for them would change what clients read."""
        state = self._place.get(session)
        found = _SIZE.match(reply.text) if reply.ok and command.name == "RETR" else None
        if state is not None and found is not None:
            limit = state.decision.audited.max_message_octets
            if limit is not None and int(found[1]) > limit.value:
                self._ledger.would(session, state.noted, Act(limit.rule, "max_message_octets"))

    def on_close(self, session: SessionView, summary: SessionSummary) -> None:
        state = self._place.get(session)
        if state is None:
            return
        if state.due is not None:
            self._ledger.would(session, state.noted, state.due)
        if state.inside:
            sent = summary.octets_sent - state.base
            over = state.tried.over(sent)
            for day in state.days:
                day.end(self._store, sent)
            if over is not None:
                self._ledger.would(session, state.noted, over)
            for point in needs.PACED:
                decided: Decided[int] | None = getattr(state.decision.audited, point)
                # It was faster than the rule allows, so it would have been slowed down.
                if decided is not None and sent > decided.value * (1.0 + summary.seconds):
                    self._ledger.would(session, state.noted, Act(decided.rule, point))
        state.give_back()
        state.shares.clear()


def _skipped(rules: Rules) -> frozenset[str]:
    """Hooks that no rule uses."""
    points = frozenset[str]().union(*(rule.points for rule in rules.items))
    by_group = any(rule.when.groups is not None or rule.unless.groups is not None for rule in rules.items)
    used = {
        "on_connect": any(not rule.by_name and rule.points.intersection(admission.POINTS) for rule in rules.items),
        "on_capabilities": bool(points.intersection(announced.POINTS)),
        "on_login_result": by_group or bool(points.intersection(claims.POINTS)),
    }
    behind = frozenset[str]().union(*(needs.needed(_alone(rule)) for rule in rules.items))
    return frozenset(hook for hook, needed in used.items() if not needed) | (needs.HOOKS - behind)


def _alone(rule: Compiled) -> Decision:
    """What a session would have by this rule only."""
    given: dict[str, Any] = {point: Decided(value, rule.head) for point, value in rule.sets if value is not False}
    settings = Settings(**given)
    return Decision(audited=settings) if rule.head.audit else Decision(enforced=settings)
