"""The plugin without a proxy around it: sessions whose hooks are called by hand, as the core calls them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from popproxy_plugins.policy import Policy, PolicyConfig

from popproxy.api import (
    Fail,
    LoginResult,
    MaildropEntry,
    MaildropView,
    Outcome,
    Password,
    Refuse,
    SessionSummary,
    SessionView,
    Step,
    TlsView,
    parse,
)
from popproxy.api.fakes import FakeClock, FakeServices, FakeStore, World
from popproxy.api.plugin import subscribes

DAY = 86400.0


class WatchedStore(FakeStore):
    """A store that knows which leases nobody has given back, and what was posted."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.held: set[int] = set()
        self.posted: list[Step[Any]] = []

    async def run(self, *steps: Step[Any]) -> Outcome:
        outcome = await super().run(*steps)
        if outcome.ticket:
            self.held.add(outcome.ticket)
        return outcome

    def post(self, *steps: Step[Any]) -> None:
        self.posted += steps
        super().post(*steps)

    def release(self, outcome: Outcome) -> None:
        self.held.discard(outcome.ticket)
        super().release(outcome)


class Rig:
    """One worker's plugin with these rules."""

    def __init__(self, *rules: Mapping[str, Any], store: WatchedStore | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        self.services = FakeServices(self.clock, World(), Fail.CLOSED)
        self.store = store or WatchedStore(self.clock)
        self.services.store = self.store
        self.policy = Policy(PolicyConfig.model_validate({"rules": rules, **options}))
        begun = self.policy.start(self.services)
        if begun is not None:
            run(begun)
        self._numbers = 0
        self.entered: list[SessionView] = []

    def session(self, client: str = "192.0.2.1", tls: str = "", listener: str = "pop3") -> SessionView:
        """A client that is connected."""
        self._numbers += 1
        view = TlsView(tls) if tls else None
        return SessionView(str(self._numbers), listener, client, tls=view, began=self.clock.now())

    def connect(self, session: SessionView) -> Refuse | None:
        """on_connect."""
        if not subscribes(self.policy, "on_connect"):
            return None
        verdict = self.policy.on_connect(session)
        assert verdict is None or isinstance(verdict, Refuse)
        return verdict

    def ask(self, session: SessionView, user: str = "joe", mechanism: str = "USER") -> Refuse | None:
        """on_login."""
        session.user, session.mechanism, session.login = user, mechanism, None
        session.groups = frozenset()
        return self.policy.on_login(session, Password(user, b"sesame"))

    def prove(self, session: SessionView, ok: bool = True, groups: Iterable[str] = ()) -> Refuse | None:
        """on_login_result, then the first hook behind the login. ``groups`` were told by a plugin behind this one."""
        session.groups = frozenset(groups)
        session.login = session.user if ok else None
        refused = None
        if subscribes(self.policy, "on_login_result"):
            result = LoginResult(ok, None if ok else "AUTH", "", "", "main")
            refused = run(self.policy.on_login_result(session, result))
        if ok and refused is None:
            session.phase = "transaction"
            self.unneeded = self.policy.unneeded(session)
        return refused

    def login(self, session: SessionView, user: str = "joe", **how: Any) -> Refuse | None:
        """A whole login with the right password."""
        return self.ask(session, user, how.pop("mechanism", "USER")) or self.prove(session, **how)

    def enter(self, user: str = "joe", client: str = "192.0.2.1", **how: Any) -> SessionView:
        """A new session that gets in."""
        session = self.session(client)
        refused = self.login(session, user, **how)
        assert refused is None, refused
        self.entered.append(session)
        return session

    def command(self, session: SessionView, line: str) -> Any:
        """on_command, as far as the session needs it."""
        if "on_command" in self.unneeded or not subscribes(self.policy, "on_command"):
            return None
        return self.policy.on_command(session, parse(line.encode()))

    def list(self, session: SessionView, *entries: MaildropEntry) -> Any:
        """on_maildrop with these messages; the session has them then."""
        found = {entry.number: entry for entry in entries}
        session.maildrop = found
        return self.policy.on_maildrop(session, MaildropView(found))

    def close(self, session: SessionView, sent: int = 0, seconds: float = 1.0) -> None:
        """on_close."""
        self.policy.on_close(session, SessionSummary("quit", "update", seconds, {}, 0, 0, 0, sent))

    def counted(self, rule: str, action: str) -> float:
        """popproxy_policy_decisions_total."""
        return self.services.metrics.decided[rule, action].value

    def limited(self, point: str, result: str) -> float:
        """popproxy_rate_limit_decisions_total."""
        return self.services.metrics.limited[point, result].value

    def told(self, event: str) -> list[Mapping[str, object]]:
        """Log lines."""
        return [line.fields for line in self.services.log.lines if line.event == event]


def run(awaitable: Any) -> Any:
    """Await something that needs no loop for long."""

    async def whole() -> Any:
        return await awaitable

    return asyncio.run(whole())
