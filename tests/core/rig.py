"""A session on the bench: every call by hand, every outcome by hand, everything that comes out kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from popproxy.api import Fail, Plugin, PluginConfig, SessionView, TlsView
from popproxy.core import meter
from popproxy.core.chain import Chain, Subscriber
from popproxy.core.conditions import Condition
from popproxy.core.effects import (
    Await,
    CloseClient,
    CloseUpstream,
    Dial,
    Dialed,
    Note,
    Returned,
    SecureUpstream,
)
from popproxy.core.failures import Failure, Kind
from popproxy.core.login import Knowledge
from popproxy.core.phases import Phase
from popproxy.core.plan import SessionPlan, UpstreamPolicy
from popproxy.core.session import Session
from popproxy.core.spool import MemorySpool, Spool
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import VERB_NAMES

BROKEN = b"-ERR [SYS/TEMP] Internal error, try again later\r\n"
LOST = b"-ERR [SYS/TEMP] Connection to the mail server lost\r\n"
AWAY = b"-ERR [SYS/TEMP] Mail server not available, try again later\r\n"
SENTINEL = Failure(Kind.LOST, "lost in the test")


@dataclass
class Meter:
    """core.meter.SessionMeter that refuses what has no place in metrics."""

    commands: list[int] = field(default_factory=lambda: [0] * (len(VERB_NAMES) * len(meter.OUTCOMES)))
    pipelined: list[int] = field(default_factory=lambda: [0])
    latencies: list[tuple[str, float, int]] = field(default_factory=list)
    transfers: list[tuple[str, float, int]] = field(default_factory=list)
    messages: list[tuple[str, bool]] = field(default_factory=list)
    logins: list[tuple[str, str, float]] = field(default_factory=list)
    violations: list[tuple[str, str]] = field(default_factory=list)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    errors: list[tuple[str, str, str]] = field(default_factory=list)

    def latency(self, verb: int, seconds: float, count: int, outcome: int) -> None:
        assert seconds >= 0 and count > 0 and outcome in range(len(meter.OUTCOMES))
        self.latencies.append((VERB_NAMES[verb], seconds, count))

    def transfer(self, verb: int, seconds: float, octets: int) -> None:
        assert seconds >= 0 and octets >= 3
        self.transfers.append((VERB_NAMES[verb], seconds, octets))

    def message(self, verb: int, ok: bool) -> None:
        self.messages.append((VERB_NAMES[verb], ok))

    def auth(self, mechanism: str, result: str, seconds: float) -> None:
        assert mechanism in meter.MECHANISMS and result in meter.AUTH_RESULTS and seconds >= 0
        self.logins.append((mechanism, result, seconds))

    def violation(self, side: str, kind: str) -> None:
        assert side in ("client", "upstream") and kind in meter.VIOLATIONS, (side, kind)
        self.violations.append((side, kind))

    def plugin(self, plugin: str, hook: str, verdict: str, seconds: float) -> None:
        assert verdict in meter.VERDICTS and seconds >= 0
        self.calls.append((plugin, hook, verdict))

    def plugin_error(self, plugin: str, hook: str, action: str) -> None:
        assert action in meter.PLUGIN_ACTIONS
        self.errors.append((plugin, hook, action))

    def outcomes(self) -> dict[tuple[str, str], int]:
        """Answered commands by verb and outcome."""
        found: dict[tuple[str, str], int] = {}
        for index, count in enumerate(self.commands):
            if count:
                verb, outcome = divmod(index, len(meter.OUTCOMES))
                found[VERB_NAMES[verb], meter.OUTCOMES[outcome]] = count
        return found


class Rig:
    """See the head of this file. ``eager``: the client always takes what comes, as with an empty write buffer."""

    def __init__(
        self,
        *plugins: Plugin[Any],
        fail: Fail | None = None,
        when: Condition | None = None,
        view_tls: TlsView | None = None,
        known: Sequence[bytes] | None = (b"TOP", b"UIDL", b"PIPELINING"),
        spool: Callable[[int], Spool] = MemorySpool,
        eager: bool = True,
        policy: UpstreamPolicy | None = None,
        **plan: Any,
    ) -> None:
        subscribers = [
            Subscriber(f"p{number}", plugin, fail or type(plugin).fail, when=when)
            for number, plugin in enumerate(plugins, 1)
        ]
        main = policy or UpstreamPolicy("main", "off")
        defaults: dict[str, Any] = {
            "listener": "pop3",
            "upstreams": {"main": main, "other": replace(main, name="other")},
            "default_upstream": "main",
            "auth_before_tls": True,
            "chain": Chain(subscribers),
        }
        self.now = 1000.0
        self.meter = Meter()
        self.view = SessionView("1", "pop3", "192.0.2.1", tls=view_tls)
        self.knowledge = Knowledge()
        if known is not None:
            for name in ("main", "other"):
                self.knowledge.learn(name, Capabilities.parse(known), self.now)
        self.eager = eager
        self.plan = SessionPlan(**{**defaults, **plan})
        self.s = Session(self.plan, self.view, self.meter, self.knowledge, lambda: self.now, spool)
        self.client_out = b""
        self.upstream_out = b""
        self.all_client = b""
        self.all_upstream = b""
        self.effects: list[Any] = []

    # Events

    def start(self) -> Rig:
        self.s.start()
        return self.drain()

    def client(self, data: bytes) -> Rig:
        self.s.client_data(data)
        return self.drain()

    def upstream(self, data: bytes) -> Rig:
        self.s.upstream_data(data)
        return self.drain()

    def eof(self) -> Rig:
        self.s.client_eof()
        return self.drain()

    def lost(self, failure: Failure = SENTINEL) -> Rig:
        self.s.upstream_gone(failure)
        return self.drain()

    def blocked(self, blocked: bool) -> Rig:
        self.eager = not blocked
        self.s.client_blocked(blocked)
        return self.drain()

    def wait(self, seconds: float) -> Rig:
        self.now += seconds
        self.s.tick()
        return self.drain()

    def stop(self) -> Rig:
        self.s.stop()
        return self.drain()

    def done(self, outcome: Any, kind: type = Dial) -> Rig:
        """Answer the oldest effect of ``kind`` that is not answered."""
        effect = self.pending(kind)[0]
        self.effects.remove(effect)
        self.s.done(effect.id, outcome)
        return self.drain()

    def returned(self, value: Any = None) -> Rig:
        """The hook that is awaited returns."""
        return self.done(Returned(value), Await)

    def raised(self, error: BaseException) -> Rig:
        """The hook that is awaited raises, or is too late."""
        return self.done(Returned(error=error), Await)

    def drain(self) -> Rig:
        s = self.s
        while True:
            s.octets_out += sum(map(len, s.to_client))
            self.client_out += b"".join(s.to_client)
            self.all_client += b"".join(s.to_client)
            s.to_client.clear()
            self.upstream_out += b"".join(s.to_upstream)
            self.all_upstream += b"".join(s.to_upstream)
            s.to_upstream.clear()
            for effect in s.effects:
                if isinstance(effect, Await):
                    # Nobody runs it: the test decides how it ends.
                    effect.awaitable.close()  # type: ignore[attr-defined]
            self.effects += s.effects
            s.effects.clear()
            if not (s.pulling and self.eager):
                return self
            s.drained()

    # What came out

    def said(self) -> bytes:
        """What the client received since the last call."""
        out, self.client_out = self.client_out, b""
        return out

    def asked(self) -> bytes:
        """What the upstream received since the last call."""
        out, self.upstream_out = self.upstream_out, b""
        return out

    def pending(self, kind: type) -> list[Any]:
        """Effects of ``kind`` that were not answered."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def closed(self) -> bool:
        return self.s.phase is Phase.CLOSED

    def notes(self, event: str) -> list[dict[str, Any]]:
        return [dict(note.fields) for note in self.pending(Note) if note.event == event]

    def ended(self, reason: str) -> None:
        """The session is over for ``reason``, and both connections are to be closed."""
        assert self.closed
        assert self.s.reason == reason, (self.s.reason, self.s.detail)
        assert self.pending(CloseClient) and self.pending(CloseUpstream)
        assert self.s.want_client and self.s.want_upstream and not self.s.pulling

    # Shortcuts

    def connected(self, secure: bool = False) -> Rig:
        """The dial that is asked for succeeds, and the server greets."""
        self.done(Dialed("mail.example.com:110", secure))
        return self.upstream(b"+OK ready\r\n")

    def login(self, user: bytes = b"joe", password: bytes = b"sesame") -> Rig:
        """Through USER and PASS on both legs; nothing of it is left in said() and asked()."""
        if self.s.phase is Phase.GREETING:
            self.start()
        self.client(b"USER " + user + b"\r\nPASS " + password + b"\r\n")
        if self.pending(Dial):
            self.connected()
        if self.pending(SecureUpstream):
            raise AssertionError("login() knows no STLS")
        self.upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
        assert self.s.phase is Phase.TRANSACTION, (self.s.phase, self.client_out)
        self.said()
        self.asked()
        return self


def plugin(fail: Fail = Fail.OPEN, **hooks: Callable[..., Any]) -> Plugin[PluginConfig]:
    """A plugin made of functions, sync or async, that take what the hook takes, without self."""
    made = type("Made", (Plugin,), {"fail": fail, **{name: _method(name, hook) for name, hook in hooks.items()}})
    instance: Plugin[PluginConfig] = made(PluginConfig())
    return instance


def _method(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(hook):

        async def waits(self: object, *arguments: object) -> Any:
            return await hook(*arguments)

        method: Any = waits
    else:

        def calls(self: object, *arguments: object) -> Any:
            return hook(*arguments)

        method = calls
    method.__signature__ = inspect.signature(getattr(Plugin, name))
    return method  # type: ignore[no-any-return]


def pieces(data: bytes, size: int) -> Iterable[bytes]:
    return (data[place : place + size] for place in range(0, len(data), size))
