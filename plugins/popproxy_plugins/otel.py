r"""otel: traces of sessions for OpenTelemetry, sent over HTTP (OTLP).

```toml
[[plugin]]
use = "otel"
endpoint = "http://127.0.0.1:4318/v1/traces"
sample = 0.1
```

One span for each session, ``pop3 session``; below it one for each login attempt, for commands (the first ``commands``
of a session; those that were answered together are one) and for plugins' hooks (the first ``hooks``). Nothing that a
client or a server says is in them: no password, no text of an error, no content; the user's name only with
``users = "plain"``.

A session costs a tuple for each span. When it has ended, these go into a queue of ``queue`` sessions; a thread makes
spans of them and sends them. What does not fit is dropped and counted: a collector that is slow or away delays nobody.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from random import random
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from popproxy.api import (
    ConfigNames,
    Counter,
    Observer,
    Plugin,
    PluginConfig,
    Problem,
    ReadableFile,
    Services,
    SessionSummary,
    SessionView,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

EXTRA = 'pip install "popproxy[otel]"'
SCOPE = "popproxy"
BATCH = 64
"""Sessions in one request at most."""
PAUSE = 0.0005
"""Seconds between the spans of two sessions: making some takes as long, and sessions want the interpreter, too."""
_FAULTS = frozenset({"upstream_eof", "upstream_error", "upstream_timeout", "protocol_error", "tls", "internal_error"})
"""Reasons of an end that somebody should look into."""
_RESULTS = ("exported", "failed", "dropped")

Value = str | int | float


class OtelConfig(PluginConfig):
    """Where spans go, and how many."""

    endpoint: str = Field(
        default="http://127.0.0.1:4318/v1/traces", description="URL that takes OTLP over HTTP, with its path"
    )
    headers: dict[str, SecretStr] = Field(
        default={}, description="headers of each request, such as `Authorization`. Secrets"
    )
    ca_file: ReadableFile | None = Field(
        default=None, description="CA certificates for an `https` endpoint; the system's without it"
    )
    service: str = Field(default="popproxy", min_length=1, description="`service.name` of the spans")
    sample: float = Field(default=1.0, ge=0, le=1, description="share of sessions that are traced")
    users: Literal["none", "plain"] = Field(
        default="none", description="whether spans name the user: `enduser.id`, as the client gave it"
    )
    clients: bool = Field(default=True, description="whether spans have the client's address")
    commands: int = Field(default=100, ge=0, le=1000, description="spans of commands for each session at most")
    hooks: int = Field(default=100, ge=0, le=1000, description="spans of plugins' hooks for each session at most")
    queue: int = Field(default=1000, ge=1, le=100_000, description="ended sessions that may wait to be sent")
    timeout: float = Field(default=5.0, gt=0, le=60, description="seconds for one request, with its repetitions")

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.strip("/"):
            raise ValueError(f"{text!r} is no endpoint: write a whole URL, like http://127.0.0.1:4318/v1/traces")
        return text

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, given: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in given.items():
            if not name.replace("-", "").isalnum() or not name.isascii():
                raise ValueError(f"{name!r} is no header name: write letters, digits and -")
            if not value.get_secret_value().isprintable() or not value.get_secret_value().isascii():
                raise ValueError(f"the value of {name} holds a character that cannot be sent")
        return given


@dataclass(slots=True)
class Part:
    """A child span to be. Times in nanoseconds since the epoch."""

    name: str
    begin: int
    end: int
    facts: dict[str, Value]
    bad: bool = False


@dataclass(slots=True)
class Record:
    """A session to be sent."""

    begin: int
    end: int = 0
    facts: dict[str, Value] = field(default_factory=dict[str, Value])
    bad: bool = False
    parts: list[Part] = field(default_factory=list[Part])
    left_out: int = 0


class Trace(Observer):
    """Notes what one session does."""

    __slots__ = ("_commands", "_hooks", "_otel", "_record", "_session")

    def __init__(self, otel: Otel, session: SessionView) -> None:
        self._otel = otel
        self._session = session
        self._record = Record(int(session.began * 1e9) or otel.now())
        self._commands = otel.config.commands
        self._hooks = otel.config.hooks

    def _note(self, name: str, seconds: float, bad: bool, **facts: Value) -> None:
        now = self._otel.now()
        # The session's own beginning is read from another clock, which may have been set since.
        begin = max(self._record.begin, now - int(seconds * 1e9))
        self._record.parts.append(Part(name, min(begin, now), now, facts, bad))

    def login(self, mechanism: str, result: str, seconds: float) -> None:
        facts: dict[str, Value] = {"popproxy.mechanism": mechanism, "popproxy.result": result}
        if len(self._record.parts) < self._otel.most:
            self._note("login", seconds, result != "ok", **facts)

    def commands(self, verb: str, outcome: str, seconds: float, count: int) -> None:
        if not self._commands:
            self._record.left_out += count
            return
        self._commands -= 1
        facts: dict[str, Value] = {"popproxy.verb": verb, "popproxy.outcome": outcome, "popproxy.count": count}
        self._note(verb, seconds, outcome != "ok", **facts)

    def transfer(self, verb: str, seconds: float, octets: int) -> None:
        for part in reversed(self._record.parts[-8:]):
            if part.facts.get("popproxy.verb") == verb and "popproxy.octets" not in part.facts:
                part.end = max(part.end, self._otel.now())
                part.facts["popproxy.octets"] = octets
                return

    def hook(self, plugin: str, hook: str, verdict: str, seconds: float) -> None:
        if self._hooks:
            self._hooks -= 1
            facts: dict[str, Value] = {"popproxy.plugin": plugin, "popproxy.hook": hook, "popproxy.verdict": verdict}
            self._note(f"{plugin} {hook}", seconds, False, **facts)

    def hook_failed(self, plugin: str, hook: str, action: str) -> None:
        if self._hooks:
            self._hooks -= 1
            facts: dict[str, Value] = {"popproxy.plugin": plugin, "popproxy.hook": hook, "popproxy.action": action}
            self._note(f"{plugin} {hook}", 0.0, True, **facts)

    def ended(self, summary: SessionSummary) -> None:
        record, session, config = self._record, self._session, self._otel.config
        record.end = max(record.begin, self._otel.now())
        record.bad = summary.reason in _FAULTS
        told: dict[str, Value | None] = {
            "popproxy.session": session.id,
            "popproxy.listener": session.listener,
            "popproxy.upstream": session.upstream,
            "popproxy.server": session.server,
            "popproxy.mechanism": session.mechanism,
            "popproxy.state": summary.phase,
            "popproxy.reason": summary.reason,
            "popproxy.retrieved": summary.retrieved,
            "popproxy.deleted": summary.deleted,
            "popproxy.octets_received": summary.octets_received,
            "popproxy.octets_sent": summary.octets_sent,
            "popproxy.commands_left_out": record.left_out or None,
            "network.protocol.name": "pop3",
            "tls.protocol.version": None if session.tls is None else session.tls.version or None,
            "tls.cipher": None if session.tls is None else session.tls.cipher or None,
            "client.address": session.client if config.clients else None,
            "client.port": (session.client_port or None) if config.clients else None,
            "enduser.id": session.user if config.users == "plain" else None,
        }
        record.facts = {name: _sendable(value) for name, value in told.items() if value is not None}
        self._otel.put(record)


def _sendable(value: Value) -> Value:
    """Octets of a name that are no UTF-8 cannot be sent: as escapes they can."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


class Otel(Plugin[OtelConfig]):
    """Traces of sessions for OpenTelemetry."""

    _count: Mapping[str, Counter]

    def __init__(self, config: OtelConfig) -> None:
        super().__init__(config)
        self.most = config.commands + config.hooks + 100
        self._queue: queue.Queue[Record | None] = queue.Queue(config.queue)
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    def check(self, names: ConfigNames) -> Iterable[Problem]:
        """The libraries are there."""
        if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
            return [Problem((), "otel needs the OpenTelemetry libraries, which are not installed", EXTRA)]
        return []

    def start(self, services: Services) -> None:
        self._services = services
        self._count = services.metrics.counter("sessions", "Traced sessions by what became of them", "result", _RESULTS)
        self._exporter = self.exporter()
        self._thread = threading.Thread(target=self._run, name="popproxy-otel", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """What waits is sent, in the time that the hook has."""
        thread = self._thread
        if thread is not None:
            self._ending.set()
            await self._services.threads.run(thread.join, max(0.1, self._services.deadline - 0.5))
            # What still waits to be sent once more is given up.
            self._exporter.shutdown()

    def observe(self, session: SessionView) -> Observer | None:
        if self.config.sample < 1 and random() >= self.config.sample:
            return None
        return Trace(self, session)

    def now(self) -> int:
        """Nanoseconds since the epoch."""
        return int(self._services.clock.now() * 1e9)

    def put(self, record: Record) -> None:
        """Have it sent, if there is room."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._count["dropped"].inc()

    def exporter(self) -> SpanExporter:
        """What sends spans. Proxies and the like in the environment do not count."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from requests import Session

        config = self.config
        session = Session()
        session.trust_env = False
        return OTLPSpanExporter(
            endpoint=config.endpoint,
            headers={name: value.get_secret_value() for name, value in config.headers.items()},
            timeout=config.timeout,
            certificate_file=None if config.ca_file is None else str(config.ca_file),
            session=session,
        )

    # In the thread

    def _run(self) -> None:
        """Send until stop() is called and the queue is empty."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        kiln = Kiln(self.config.service)
        while True:
            records = self._waiting()
            if not records:
                if self._ending.is_set():
                    break
                continue
            try:
                good = self._exporter.export(kiln.spans(records)) is SpanExportResult.SUCCESS
            except Exception as error:
                # A collector's fault or the library's: the next batch may pass.
                self._services.log.warning("not_exported", error=type(error).__name__)
                good = False
            self._count["exported" if good else "failed"].inc(len(records))

    def _waiting(self) -> list[Record]:
        """Up to BATCH records; none when there was none for a moment."""
        records: list[Record] = []
        try:
            while len(records) < BATCH:
                record = self._queue.get(timeout=0.2) if not records else self._queue.get_nowait()
                if record is not None:
                    records.append(record)
        except queue.Empty:
            pass
        return records


class Kiln:
    """Makes spans of records."""

    def __init__(self, service: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        made: list[ReadableSpan] = []

        class Keep(SpanProcessor):
            """Takes what has ended."""

            def on_end(self, span: ReadableSpan) -> None:
                made.append(span)

        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create({"service.name": service}), shutdown_on_exit=False
        )
        provider.add_span_processor(Keep())
        self._made = made
        self._tracer = provider.get_tracer(SCOPE)

    def spans(self, records: Sequence[Record]) -> list[ReadableSpan]:
        """All spans of these sessions."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        for record in records:
            root = self._tracer.start_span(
                "pop3 session", Context(), trace.SpanKind.SERVER, record.facts, start_time=record.begin
            )
            below = trace.set_span_in_context(root, Context())
            for part in record.parts:
                span = self._tracer.start_span(part.name, below, attributes=part.facts, start_time=part.begin)
                if part.bad:
                    span.set_status(trace.StatusCode.ERROR)
                span.end(part.end)
            if record.bad:
                root.set_status(trace.StatusCode.ERROR)
            root.end(record.end)
            time.sleep(PAUSE)
        made = self._made.copy()
        self._made.clear()
        return made
