"""otel: spans of sessions, in memory and at a real receiver of OTLP over HTTP, and nothing secret in them."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from popproxy_plugins.otel import Otel, OtelConfig, _sendable

from popproxy.api import ConfigNames, Plugin, PluginConfig, Refuse
from popproxy.api.testing import play
from tests.net.running import PASSWORD, USER, Setup, eventually, running
from tests.net.upstream import Peer, Upstream

SCRIPT = """
C: STAT
U> STAT
U< +OK 1 9
S: +OK 1 9
C: RETR 1
U> RETR 1
U< +OK
U< one
U< .
S: +OK
S: one
S: .
C: DELE 7
U> DELE 7
U< -ERR no
S: -ERR no
"""


class Kept(Otel):
    """Keeps its spans."""

    def __init__(self, **options: Any) -> None:
        super().__init__(OtelConfig.model_validate(options))
        self.kept = InMemorySpanExporter()

    def exporter(self) -> SpanExporter:
        return self.kept

    def played(self, script: str = SCRIPT, *others: Plugin[Any], **options: Any) -> list[ReadableSpan]:
        play([*others, self], script, logged_in=True, run=asyncio.run, **options)
        return list(self.kept.get_finished_spans())


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def named(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_a_session_is_one_trace() -> None:
    spans = Kept().played()
    assert [span.name for span in spans] == ["login", "STAT", "RETR", "DELE", "pop3 session"]
    root = spans[-1]
    assert root.parent is None and root.context is not None
    assert {span.context.trace_id for span in spans if span.context} == {root.context.trace_id}
    assert {span.parent.span_id for span in spans[:-1] if span.parent} == {root.context.span_id}
    for span in spans:
        assert root.start_time is not None and root.end_time is not None
        assert span.start_time is not None and span.end_time is not None
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time
    shown = facts(root)
    assert {key: shown[key] for key in ("popproxy.session", "popproxy.reason", "popproxy.retrieved")} == {
        "popproxy.session": "1", "popproxy.reason": "client_eof", "popproxy.retrieved": 1,
    }  # fmt: skip
    assert facts(named(spans, "RETR")) == {
        "popproxy.verb": "RETR", "popproxy.outcome": "ok", "popproxy.count": 1, "popproxy.octets": 8,
    }  # fmt: skip
    bad = [span.name for span in spans if span.status.status_code is StatusCode.ERROR]
    assert bad == ["DELE"]
    assert root.resource.attributes["service.name"] == "popproxy"


def test_times_are_those_of_the_session() -> None:
    script = SCRIPT.replace("U> STAT\n", "U> STAT\n@ wait 2\n")
    spans = Kept().played(script)
    stat, root = named(spans, "STAT"), spans[-1]
    assert stat.start_time is not None and stat.end_time is not None and root.end_time is not None
    assert stat.end_time - stat.start_time == 2_000_000_000
    assert root.end_time == 1_767_268_802_000_000_000


class Denies(Plugin[PluginConfig]):
    def on_command(self, session: Any, command: Any) -> Refuse | None:
        if command.name == "NOOP":
            raise ZeroDivisionError
        return Refuse("no") if command.name == "DELE" else None


def test_hooks_of_other_plugins_are_spans() -> None:
    script = "C: DELE 1\nS: -ERR [SYS/PERM] no\nC: NOOP\nU> NOOP\nU< +OK\nS: +OK\n"
    spans = Kept().played(script, Denies(PluginConfig()), may_fail=True)
    hooks = [span for span in spans if span.name == "Denies on_command"]
    assert [facts(span).get("popproxy.verdict", facts(span).get("popproxy.action")) for span in hooks] == [
        "deny", "fail_open",
    ]  # fmt: skip
    assert hooks[1].status.status_code is StatusCode.ERROR


def test_spans_of_a_session_are_bounded() -> None:
    noop = "C: NOOP\nU> NOOP\nU< +OK\nS: +OK\n"
    spans = Kept(commands=3, hooks=2).played(noop * 9, Denies(PluginConfig()), may_fail=True)
    assert [span.name for span in spans].count("NOOP") == 3
    assert [span.name for span in spans].count("Denies on_command") == 2
    assert facts(spans[-1])["popproxy.commands_left_out"] == 6
    assert [span.name for span in Kept(commands=0, hooks=0).played(noop)] == ["login", "pop3 session"]


def test_users_and_addresses_are_options() -> None:
    assert "enduser.id" not in facts(Kept().played()[-1])
    assert facts(Kept(users="plain").played()[-1])["enduser.id"] == "joe"
    assert {key for key in facts(Kept(clients=False).played()[-1]) if key.startswith("client.")} == set()
    assert facts(Kept().played()[-1])["client.address"]


def test_a_name_that_is_no_text_is_sent_as_escapes() -> None:
    assert _sendable("j\udcf6rg") == "j\\udcf6rg"


def test_no_session_is_traced_with_a_share_of_none() -> None:
    assert Kept(sample=0).played() == []


def test_what_finds_no_room_is_dropped_and_counted() -> None:
    class Stuck(Kept):
        def _run(self) -> None:
            """Takes nothing."""

    plugin = Stuck(queue=1)
    for expected in (0, 1):
        played = play(plugin, SCRIPT, logged_in=True, run=asyncio.run)
        assert played.counters["sessions", "dropped"] == expected


class Failing(SpanExporter):
    def __init__(self) -> None:
        self.calls = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.calls += 1
        if self.calls == 1:
            raise ZeroDivisionError
        return SpanExportResult.FAILURE


def test_an_exporter_that_fails_is_counted_and_tried_again() -> None:
    exporter = Failing()

    class Sends(Kept):
        def exporter(self) -> SpanExporter:
            return exporter

    for _ in range(2):
        played = play(Sends(), SCRIPT, logged_in=True, run=asyncio.run)
        assert played.counters["sessions", "failed"] == 1
    assert exporter.calls == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"endpoint": "127.0.0.1:4318"}, "is no endpoint"),
        ({"endpoint": "http://127.0.0.1:4318"}, "write a whole URL"),
        ({"headers": {"X Y": "z"}}, "no header name"),
        ({"headers": {"Authorization": "a\nb"}}, "cannot be sent"),
        ({"sample": 2}, "less than or equal to 1"),
    ],
)
def test_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OtelConfig.model_validate(options)


def test_the_library_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ConfigNames()
    assert list(Kept().check(names)) == []
    monkeypatch.setattr("popproxy_plugins.otel.find_spec", lambda name: None)
    (problem,) = Kept().check(names)
    assert "popproxy[otel]" in problem.hint


# Over real sockets


class Receiver:
    """Takes OTLP over HTTP, as a collector does. ``stuck`` answers nothing."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.stuck = threading.Event()

    @contextmanager
    def serving(self) -> Iterator[str]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kind = self.headers.get("Content-Encoding", "")
                body = gzip.decompress(body) if kind == "gzip" else zlib.decompress(body) if kind else body
                receiver.requests.append((dict(self.headers), body))
                receiver.stuck.wait(20)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        finally:
            self.stuck.set()
            server.shutdown()
            thread.join(10)
            server.server_close()

    @property
    def spans(self) -> list[Any]:
        found = []
        for _, body in self.requests:
            message = ExportTraceServiceRequest()
            message.ParseFromString(body)
            found += [span for one in message.resource_spans for scope in one.scope_spans for span in scope.spans]
        return found


def honest(peer: Peer) -> None:
    peer.login()
    while (line := peer.line()) != b"QUIT":
        peer.send(b"+OK 1 9\r\n" if line == b"STAT" else b"+OK\r\nsecret words of a letter\r\n.\r\n")
    peer.send(b"+OK\r\n")


def test_a_collector_gets_sessions_and_no_secret(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.stuck.set()
    with receiver.serving() as url, Upstream(honest, quits=2) as upstream:
        plugin = Otel(OtelConfig.model_validate({"endpoint": url, "headers": {"X-Token": "sesame-7"}}))
        with running(Setup([upstream.url], plugins=[plugin], deadline=10.0), tmp_path) as proxy:
            for _ in range(2):
                with proxy.logged_in() as client:
                    assert client.single(b"STAT") == b"+OK 1 9\r\n"
                    assert client.multi(b"RETR 1").startswith(b"+OK")
                    assert client.single(b"QUIT") == b"+OK\r\n"
            eventually(lambda: len(receiver.spans) >= 10, "two traces")
            eventually(lambda: proxy.sample("plugin_otel_sessions_total", result="exported") == 2, "count")
            ids = {proxy.session(number)["session"] for number in (1, 2)}
    spans = receiver.spans
    assert sorted(span.name for span in spans) == sorted(["pop3 session", "login", "STAT", "RETR", "QUIT"] * 2)
    sessions = [
        fact.value.string_value for span in spans for fact in span.attributes if fact.key == "popproxy.session"
    ]
    assert set(sessions) == ids and len(ids) == 2
    for span in spans:
        assert abs(span.start_time_unix_nano / 1e9 - time.time()) < 3600
        assert span.end_time_unix_nano >= span.start_time_unix_nano
    headers = {name.lower(): value for name, value in receiver.requests[0][0].items()}
    assert headers["x-token"] == "sesame-7"
    wire = b"".join(body for _, body in receiver.requests)
    for secret in (PASSWORD, USER, b"secret words", b"sesame-7"):
        assert secret not in wire


def test_a_collector_that_hangs_delays_nobody(tmp_path: Path) -> None:
    receiver = Receiver()
    with receiver.serving() as url, Upstream(honest, quits=3) as upstream:
        plugin = Otel(OtelConfig(endpoint=url, queue=1, timeout=20))
        with running(Setup([upstream.url], plugins=[plugin], deadline=1.0), tmp_path) as proxy:
            for number in range(3):
                with proxy.logged_in() as client:
                    assert client.single(b"QUIT") == b"+OK\r\n"
                proxy.session(number + 1)
                if not number:
                    eventually(lambda: len(receiver.requests) == 1, "first request")
            assert proxy.sample("plugin_otel_sessions_total", result="dropped") == 1
            assert not receiver.stuck.is_set()
            assert all(line["seconds"] < 15 for line in proxy.lines("session"))
    eventually(lambda: all(thread.name != "popproxy-otel" for thread in threading.enumerate()), "end of its thread")
