"""Drive a plugin without a socket: ``play`` runs a real session over a transcript (api/transcript.py).

It is the same session that serves clients, with a clock that only ``@ wait`` moves; the script stands for both
peers. This is the one room of api that looks up, into core; nothing that runs in a proxy imports it.

    play(ReadOnly, "C: DELE 1\nS: -ERR [SYS/PERM] Read-only", logged_in=True)
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from popproxy.api.fakes import Answering, FakeClock, FakeServices, LogLine, Speaking, World
from popproxy.api.played import Options, Peer, Played, PlayedMeter, PlayError, reached, read_options, text_of
from popproxy.api.plugin import Fail, Plugin
from popproxy.api.transcript import (
    Event,
    Expect,
    Leg,
    Match,
    Send,
    Step,
    Transcript,
    escape,
    load_transcript,
    notation,
    parse_transcript,
)
from popproxy.api.verdicts import Route
from popproxy.api.views import SessionView, TlsView
from popproxy.core.chain import Chain, Subscriber
from popproxy.core.effects import (
    Await,
    CloseClient,
    CloseUpstream,
    Derive,
    Dial,
    Dialed,
    Effect,
    Greeted,
    Judge,
    LoginTook,
    Note,
    Paced,
    Ready,
    Returned,
    SecureClient,
    SecureUpstream,
)
from popproxy.core.failures import Failure, Kind
from popproxy.core.hooks import CONTAINED
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.login import Knowledge
from popproxy.core.meter import OUTCOMES
from popproxy.core.observed import ObservedMeter, observed
from popproxy.core.phases import Phase
from popproxy.core.plan import SessionPlan, UpstreamPolicy
from popproxy.core.session import Session
from popproxy.core.spool import MemorySpool
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import VERB_NAMES, Framing, declared

__all__ = ["Options", "PlayError", "Played", "play"]

AnyPlugin = Plugin[Any] | type[Plugin[Any]]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


def play(
    plugins: AnyPlugin | Sequence[AnyPlugin],
    script: str | Path | Transcript,
    *,
    config: Mapping[str, Any] | None = None,
    run: Run | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
    http: Answering | None = None,
    streams: Mapping[str, Speaking] | None = None,
    **options: Any,
) -> Played:
    """Start the plugins, run ``script``, close both connections, stop the plugins.

    A plugin is given made, or as its class: then ``config`` are its options. ``options`` are those of Options.
    Challenges are not random: the proxy's nonces are ``nonce1``, ``nonce2`` and so on; one is made for APOP's
    greeting, one for every AUTH of the client and one for every login upstream. Async hooks are driven by hand; one
    that really waits needs ``run``, which takes a coroutine and returns what it returned (``asyncio.run``). ``names``
    are host names for the resolver, ``http`` makes an HttpReply of every request, ``streams`` are functions from
    octets to octets by address; what they raise the plugin meets. Raises PlayError at the first step that does not
    hold, TranscriptError for a script that cannot be read.
    """
    if isinstance(script, Transcript):
        transcript = script
    else:
        transcript = load_transcript(script) if isinstance(script, Path) else parse_transcript(script, "<script>")
    made = [_made(plugin, config) for plugin in (plugins if isinstance(plugins, Sequence) else [plugins])]
    set_to = read_options({**options, **transcript.options}, transcript.name)
    stage = _Stage(made, set_to, run, transcript.name, World(names or {}, http, streams or {}))
    try:
        stage.begin()
        stage.run(transcript.steps)
        return stage.end()
    finally:
        stage.stop()


def _made(plugin: AnyPlugin, config: Mapping[str, Any] | None) -> Plugin[Any]:
    if isinstance(plugin, type):
        return plugin(plugin.config_model(**(config or {})))
    if config is not None:
        raise TypeError("config is for a plugin that is given as its class; this one is made already")
    return plugin


def _plan(options: Options, plugins: Sequence[Plugin[Any]]) -> SessionPlan:
    subscribers: list[Subscriber] = []
    for number, plugin in enumerate(plugins):
        name = type(plugin).__name__ if number == 0 else f"{type(plugin).__name__}_{number + 1}"
        subscribers.append(Subscriber(name, plugin, Fail(options.fail) if options.fail else type(plugin).fail))
    verbs = [verb.split() for verb in options.verbs]
    policy: Any = {"mechanism": options.mechanism, "initial_response": options.initial_response}
    policy |= {"servers": options.servers, "sticky": options.sticky, "xclient": options.xclient}
    tls: Any = options.tls
    numbers = itertools.count(1)
    upstream_tls: Any = options.upstream_tls
    return SessionPlan(
        listener=options.listener,
        upstreams={name: UpstreamPolicy(name, upstream_tls, **policy) for name in options.upstreams},
        default_upstream=options.upstreams[0],
        tls=tls,
        auth_before_tls=options.auth_before_tls,
        greeting=options.greeting,
        implementation=options.implementation,
        bare_lf=options.bare_lf,
        pipelining=options.pipelining,
        verbs={name.encode(): declared(name.encode(), Framing(framing)) for name, framing in verbs},
        opened=frozenset(name.encode() for name in options.open),
        capabilities=frozenset(name.encode() for name in options.capabilities),
        chain=Chain(subscribers),
        nonce=lambda: b"nonce%d" % next(numbers),
        decoy=b"decoy",
        xclient=tuple(ip_network(network) for network in options.trusted),
        limits=Limits(**{key: int(value) for key, value in (pair.split("=") for pair in options.limits)}),
        timeouts=Timeouts(**{key: float(value) for key, value in (pair.split("=") for pair in options.timeouts)}),
    )


class _Stage:
    """A session, two scripted peers and the plugins' services."""

    def __init__(
        self,
        plugins: Sequence[Plugin[Any]],
        options: Options,
        run: Run | None,
        name: str,
        world: World,
    ) -> None:
        self.options = options
        self.name = name
        self.plugins = plugins
        self.clock = FakeClock()
        tls = TlsView("TLSv1.3", "TLS_AES_256_GCM_SHA384") if options.tls == "implicit" else None
        view = SessionView("1", options.listener, options.client, 50000, "192.0.2.110", 110, tls)
        view.began = self.clock.now()
        self.played = Played(view)
        self.meter = PlayedMeter(self.played, VERB_NAMES, len(OUTCOMES))
        self.knowledge = Knowledge()
        self.client, self.upstream = Peer(), Peer()
        self.client.open = True
        plan = replace(_plan(options, plugins), wall=self.clock.now)
        self.services = [FakeServices(self.clock, world, one.fail, one.deadline) for one in plan.chain.subscribers]
        self.session = Session(plan, view, self.meter, self.knowledge, self.clock.monotonic, MemorySpool)
        self._run_coroutine = run
        self._pending: dict[type, int] = {}
        self._started = 0
        self._line = 0

    # Life

    def begin(self) -> None:
        """Start the plugins, in order, then the session."""
        for plugin, services in zip(self.plugins, self.services, strict=True):
            self._started += 1
            begun = plugin.start(services)
            if inspect.iscoroutine(begun):
                self._drive(begun)
        known, options = self.options.known, self.options
        if known is not None or options.logged_in:
            lines = [line.encode() for line in (known if known is not None else ("TOP", "UIDL", "PIPELINING"))]
            theirs = Capabilities.parse(lines) if lines else None
            for name in options.upstreams:
                self.knowledge.learn(name, theirs, self.clock.monotonic())
        view, meter, subscribers = self.session.view, self.session.meter, self.session.plan.chain.subscribers
        self.session.meter = observed(subscribers, view, meter, self._observer_failed)
        self.session.start()
        self._drain()
        if options.logged_in:
            self._log_in()

    def _log_in(self) -> None:
        session, options = self.session, self.options
        if options.tls == "starttls":
            session.client_data(b"STLS\r\n")
            self._drain()
            self._answer(SecureClient, TlsView("TLSv1.3"))
        for line in (f"USER {options.user}\r\n", f"PASS {options.password}\r\n"):
            session.client_data(line.encode())
            self._drain()
        if Dial in self._pending:
            self._event(Event("connect"))
            self._upstream(b"+OK\r\n")
        while session.phase is Phase.LOGGING_IN and self.upstream.unread:
            # A server that a plugin named is asked what it can do.
            answer = b"-ERR\r\n" if bytes(self.upstream.unread) == b"CAPA\r\n" else b"+OK\r\n"
            self.upstream.unread.clear()
            self._upstream(answer)
            self._answer(SecureUpstream, None)
        if session.phase is not Phase.TRANSACTION:
            said = bytes(self.client.unread).decode("utf-8", "replace").strip().rpartition("\n")[2]
            self._wrong(f"logged_in: there was no login; the client read {said!r}")
        self.client.unread.clear()
        self.upstream.unread.clear()

    def end(self) -> Played:
        """What came of it. Raises AssertionError when a peer received more than the script says."""
        for leg, peer in ((Leg.CLIENT, self.client), (Leg.UPSTREAM, self.upstream)):
            if peer.unread:
                self._wrong(f"the {leg.value} received more than the script says{self._shown(peer)}")
        session, played = self.session, self.played
        session.client_gone("client_eof")
        played.summary = session.summary()
        if isinstance(session.meter, ObservedMeter):
            session.meter.ended(played.summary)
        self._drain()
        if played.errors and not self.options.may_fail:
            self._wrong("a plugin failed; give play(..., may_fail=True) when that is what you test")
        played.client, played.upstream = bytes(self.client.read), bytes(self.upstream.read)
        played.detail = session.detail
        for index, count in enumerate(self.meter.commands):
            if count:
                verb, outcome = divmod(index, len(OUTCOMES))
                played.commands[VERB_NAMES[verb], OUTCOMES[outcome]] = count
        return played

    def _observer_failed(self, subscriber: Subscriber, error: BaseException) -> None:
        self.meter.plugin_error(subscriber.name, "observe", "fail_open")
        fields = {"plugin": subscriber.name, "hook": "observe", "error": type(error).__name__, "detail": text_of(error)}
        self.played.notes.append(LogLine("error", "plugin_error", fields))

    def stop(self) -> None:
        """Stop what was started, in reverse."""
        for plugin in reversed(self.plugins[: self._started]):
            ended = plugin.stop()
            if inspect.iscoroutine(ended):
                self._drive(ended)
        for services in self.services:
            self.played.log += services.log.lines
            for key, counter in services.metrics.counters.items():
                self.played.counters[key] = self.played.counters.get(key, 0.0) + counter.value
            for key, counter in services.metrics.scanned.items():
                self.played.scanned[key] = self.played.scanned.get(key, 0.0) + counter.value
            self.played.asked += services.metrics.asked.told

    # Steps

    def run(self, steps: Sequence[Step]) -> None:
        """Play ``steps``. Raises AssertionError at the first that does not hold."""
        place = 0
        while place < len(steps):
            step = steps[place]
            place += 1
            self._line = step.line
            if isinstance(step, Send):
                octets = step.octets
                while place < len(steps):
                    following = steps[place]
                    if not isinstance(following, Send) or following.leg is not step.leg:
                        break
                    octets += following.octets
                    place += 1
                self._send(step.leg, octets)
            elif isinstance(step, Event):
                self._event(step)
            else:
                self._received(step)

    def _send(self, leg: Leg, octets: bytes) -> None:
        peer = self.client if leg is Leg.CLIENT else self.upstream
        if not peer.open:
            self._wrong(f"the {leg.value} sends, but its connection is closed, or not made yet (@ connect)")
        size = 1 if self.options.pieces == "octets" else len(octets)
        for start in range(0, len(octets), size):
            piece = octets[start : start + size]
            if leg is Leg.CLIENT:
                self.session.client_data(piece)
                self._drain()
            else:
                self._upstream(piece)

    def _upstream(self, octets: bytes) -> None:
        self.session.upstream_data(octets)
        self._drain()

    def _received(self, step: Expect | Match) -> None:
        client = step.leg is Leg.CLIENT
        peer = self.client if client else self.upstream
        if isinstance(step, Expect):
            size = len(step.octets)
            good = peer.unread.startswith(step.octets)
        else:
            size = peer.unread.find(b"\n") + 1
            good = bool(size) and step.pattern.fullmatch(peer.unread[:size].rstrip(b"\r\n")) is not None
        if not good:
            self._wrong(f"the {step.leg.value} must receive\n  {notation(step)}{self._shown(peer)}")
        del peer.unread[:size]

    def _event(self, event: Event) -> None:
        session, kind = self.session, event.argument
        match event.name:
            case "connect":
                self.upstream.open = True
                self._answer(Dial, Dialed(*reached(self.played.routes, self.options)), "connect")
            case "connect-failed":
                self._answer(Dial, Failure(Kind(kind), "as the script says"), event.name)
            case "client-tls":
                self._answer(SecureClient, TlsView("TLSv1.3", "TLS_AES_256_GCM_SHA384"), event.name)
            case "upstream-tls":
                self._answer(SecureUpstream, None, event.name)
            case "client-eof":
                session.client_eof()
            case "client-gone":
                self.client.open = False
                session.client_gone()
            case "upstream-gone":
                failure = Failure(Kind(kind or "lost"), "as the script says")
                self.upstream.open = False
                if SecureUpstream in self._pending:
                    self._answer(SecureUpstream, failure)
                session.upstream_gone(failure)
            case "wait":
                self._wait(event.seconds)
            case _:
                peer = self.client if event.name == "client-closed" else self.upstream
                if peer.open:
                    self._wrong(f"{event.name}: the connection is open")
        self._drain()

    def _wait(self, seconds: float) -> None:
        session, clock = self.session, self.clock
        end = clock.monotonic() + seconds
        while session.deadline <= end:
            due = session.deadline
            clock.wait(max(0.0, due - clock.monotonic()))
            session.tick()
            self._drain()
            if session.deadline == due:
                self._wrong(f"the deadline passed and nothing came of it in phase {session.phase.value}")
        clock.wait(end - clock.monotonic())

    def _answer(self, kind: type, outcome: Any, event: str = "") -> None:
        number = self._pending.pop(kind, None)
        if number is not None:
            self.session.done(number, outcome)
            self._drain()
        elif event:
            self._wrong(f"@ {event}: the session does not wait for that")

    # The pump's part

    def _drain(self) -> None:
        session = self.session
        while True:
            session.octets_out += sum(map(len, session.to_client))
            for out, peer in ((session.to_client, self.client), (session.to_upstream, self.upstream)):
                peer.unread += b"".join(out)
                peer.read += b"".join(out)
                out.clear()
            effects, session.effects = session.effects, []
            for effect in effects:
                self._perform(effect)
            if session.pulling:
                session.drained()
            elif not (session.to_client or session.to_upstream or session.effects):
                return

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Note):
            fields = dict(effect.fields)
            if effect.error is not None:
                # The log says where it was raised; its author may read what it says.
                fields["detail"] = text_of(effect.error)
            self.played.notes.append(LogLine(effect.level, effect.event, fields))
        elif isinstance(effect, CloseClient):
            self.client.open = False
        elif isinstance(effect, CloseUpstream):
            self.upstream.open = False
            self._pending.pop(Dial, None)
            self._pending.pop(SecureUpstream, None)
        elif isinstance(effect, Judge):
            self.played.judged.append("" if effect.failure is None else effect.failure.kind.value)
        elif isinstance(effect, Await):
            awaitable: Any = effect.awaitable
            try:
                outcome = Returned(self._drive(awaitable))
            except PlayError:
                raise
            except CONTAINED as error:
                outcome = Returned(error=error)
            self.session.done(effect.id, outcome)
        elif isinstance(effect, Derive):
            self.session.done(effect.id, effect.derivation.compute())
        elif isinstance(effect, Paced):
            self.played.paces += effect.paces
        elif not isinstance(effect, LoginTook | Greeted | Ready):
            if isinstance(effect, Dial):
                target = effect.target
                self.played.routes.append(Route(target.upstream, None, target.server, target.key))
            self._pending[type(effect)] = effect.id

    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end. A bare yield (``asyncio.sleep(0)``) is no waiting."""
        if self._run_coroutine is not None:
            return self._run_coroutine(coroutine)
        try:
            while coroutine.send(None) is None:
                continue
            coroutine.close()
        except StopIteration as stop:
            return stop.value
        except RuntimeError as error:
            if "no running event loop" not in str(error):
                raise
        return self._wrong("an async hook waits for something: give play(..., run=asyncio.run)")

    def _shown(self, peer: Peer) -> str:
        if not peer.unread:
            return f"\nbut it received nothing more\n  before that: {escape(peer.read[-120:])}"
        lines = bytes(peer.unread[:600]).splitlines(keepends=True)
        return "\nbut it received" + "".join(f"\n  {escape(line)}" for line in lines[:6])

    def _wrong(self, what: str) -> Any:
        notes = "".join(f"\nnote: {note.event} {dict(note.fields)}" for note in self.played.notes[-3:])
        raise PlayError(f"{self.name}:{self._line}: {what}{notes}")
