"""brute_force without a session: hooks called in their order, on a store and a clock of the test."""

from __future__ import annotations

from typing import Any

from popproxy_plugins.brute_force import BruteForce, BruteForceConfig

from popproxy.api import Credentials, Fail, Hold, LoginResult, Password, Refuse, SessionSummary, SessionView, Verified
from popproxy.api.fakes import FakeClock, FakeServices, FakeStore, World
from tests.plugins.driving import drive

AT_HOME, ELSEWHERE = "192.0.2.7", "198.51.100.9"
GONE = SessionSummary("client_eof", "logging_in", 1.0, {}, 0, 0, 0, 0)
OVER = SessionSummary("quit", "closed", 1.0, {}, 0, 0, 0, 0)


class Rig:
    """One or several workers with one store."""

    def __init__(self, *, workers: int = 1, fail: Fail = Fail.OPEN, **options: Any) -> None:
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        self.workers: list[tuple[BruteForce, FakeServices]] = []
        # Hashes of 16 bits are alike now and then; with this key those of these tests are not.
        self.config = BruteForceConfig(**{"secret": "a-secret-of-the-tests", **options})
        for _ in range(workers):
            services, plugin = FakeServices(self.clock, World(), fail), BruteForce(self.config)
            services.store = self.store
            drive(plugin.start(services))
            self.workers.append((plugin, services))

    @property
    def plugin(self) -> BruteForce:
        return self.workers[0][0]

    @property
    def services(self) -> FakeServices:
        return self.workers[0][1]

    def events(self) -> list[tuple[str, dict[str, object]]]:
        """What all workers have logged."""
        return [(line.event, dict(line.fields)) for _, services in self.workers for line in services.log.lines]

    def count(self, result: str) -> float:
        """Logins with this result, in the first worker."""
        return self.services.metrics.counters["logins", result].value

    def session(self, client: str, user: str = "joe") -> SessionView:
        return SessionView("s1", "pop3s", client=client, user=user)

    def begin(self, session: SessionView, credentials: Credentials | str = "wrong", worker: int = 0) -> Any:
        """on_login."""
        if isinstance(credentials, str):
            credentials = Password(session.user or "", credentials.encode())
        return drive(self.workers[worker][0].on_login(session, credentials))

    def end(self, session: SessionView, code: str | None, worker: int = 0) -> Any:
        """on_login_result; ``code`` None is a success."""
        result = LoginResult(code is None, code, "No", "", "main")
        return drive(self.workers[worker][0].on_login_result(session, result))

    def close(self, session: SessionView, summary: SessionSummary = OVER) -> None:
        self.plugin.on_close(session, summary)

    def login(
        self, user: str, password: str, client: str = AT_HOME, *, right: bool = False, worker: int = 0
    ) -> tuple[str, float]:
        """A whole login: ``ok``, ``wrong``, or the code of the refusal; and the seconds it was held."""
        session = self.session(client, user)
        verdict = self.begin(session, password, worker)
        if isinstance(verdict, Refuse):
            assert verdict.limited
            assert verdict.code is not None
            code = verdict.code.value.decode()
            self.end(session, code, worker)
            return code, 0.0
        held = verdict.seconds if isinstance(verdict, Hold) else 0.0
        self.clock.wait(held)
        assert self.end(session, None if right else "AUTH", worker) is None
        return ("ok" if right else "wrong"), held

    def scram(self, user: str, client: str = AT_HOME, *, right: bool = False) -> Any:
        """A whole login with SCRAM: the verdict of on_verifier, else of on_login, else of on_login_result."""
        session = self.session(client, user)
        session.mechanism = "SCRAM-SHA-256"
        verdict: Any = drive(self.plugin.on_verifier(session, user, "SCRAM-SHA-256"))
        if verdict is not None:
            self.end(session, "SYS/TEMP")
            return verdict
        if right:
            held = drive(self.plugin.on_login(session, Verified(user)))
            self.end(session, None)
            return held
        return self.end(session, "AUTH")
