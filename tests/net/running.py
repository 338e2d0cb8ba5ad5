"""The proxy under test: a Worker on a loop of its own in a thread, made from a config as an administrator writes it.

Leaving the block ends it and looks for what every test wants: no fault in the log, no secret in it, nothing that its
contract does not know, one session line per session, and all gauges at zero.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from prometheus_client import CollectorRegistry

from popproxy.api import Fail, Plugin
from popproxy.config.load import load
from popproxy.config.plan import Bind, Plan
from popproxy.core.chain import Chain, Subscriber
from popproxy.metrics.collector import WorkerMetrics
from popproxy.net.worker import Worker
from popproxy.run.events import strangers
from popproxy.run.logs import EventLog
from popproxy.sample import SampleServer
from tests.letters import write_maildir
from tests.net.tlspeers import AUTHORITY, CERTIFICATE, LOOPS
from tests.net.upstream import PATIENCE
from tests.wireclient import WireClient

USER, PASSWORD = b"alice", "correct horse  b\N{LATIN SMALL LETTER E WITH ACUTE}ta ".encode()
LISTENER = """
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
tls = "{tls}"
auth_before_tls = "allow"
"""

both_loops = pytest.mark.parametrize("loop", LOOPS)


@dataclass
class Setup:
    """What the proxy is made with. ``servers`` are URLs; the other texts are more TOML of their tables."""

    servers: Sequence[str]
    loop: str = "uvloop"
    tls: str = "off"
    listeners: str = ""
    listener: str = ""
    upstream: str = ""
    tail: str = ""
    plugins: Sequence[Plugin[Any]] = ()
    fail: Fail = Fail.OPEN
    deadline: float = 1.0
    timeouts: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)


class Proxy:
    """A running proxy."""

    def __init__(
        self, plan: Plan, loop: str, log: Path, given: Mapping[Bind, socket.socket] | None = None
    ) -> None:
        self.plan = plan
        self.given = given
        self.registry = CollectorRegistry()
        self.faults: list[dict[str, Any]] = []
        self.worker: Worker
        self._log_path = log
        self._log = EventLog(log, form="json", level="debug")
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)

    def start(self) -> None:
        """Raises what the worker raised."""
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        if self._error is not None:
            self._thread.join(PATIENCE)
            self._log.close()
            raise self._error

    def _run(self, loop: str) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            self._loop = runner.get_loop()
            self._loop.set_exception_handler(lambda _, context: self.faults.append(context))
            runner.run(self._main())

    async def _main(self) -> None:
        self._end = asyncio.Event()
        self.worker = Worker(self.plan, self._log, WorkerMetrics(self.registry), given=self.given)
        try:
            await self.worker.start()
        except BaseException as error:
            self._error = error
            self._ready.set()
            return
        self._ready.set()
        await self._end.wait()

    def call(self, work: Coroutine[Any, Any, Any], seconds: float = PATIENCE) -> Any:
        """Run ``work`` on the proxy's loop; its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def adopt(self, plan: Plan) -> None:
        """New sessions go by ``plan``."""

        async def work() -> None:
            await self.worker.adopt(await self.worker.prepare(plan))

        self.call(work())

    def stop(self, deadline: float = 0.0) -> None:
        """End all sessions, as the worker does it."""
        self.call(self.worker.stop(deadline), deadline + PATIENCE)

    def close(self) -> None:
        """The end of the thread, and of the log."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._log.close()

    # What can be seen from outside

    def address(self, number: int = 0) -> tuple[str, int]:
        """Where listener ``number`` is."""
        host, _, port = self.worker.listeners[number].address.rpartition(":")
        return host.strip("[]"), int(port)

    def client(self, number: int = 0, **options: Any) -> WireClient:
        """A connected client that has read the greeting."""
        return WireClient(self.address(number), timeout=PATIENCE, **options)

    def logged_in(self, number: int = 0, **options: Any) -> WireClient:
        """A client with USER and PASS behind it."""
        client = self.client(number, **options)
        reply = client.user_pass(USER, PASSWORD)
        assert reply.startswith(b"+OK"), reply
        return client

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """The log so far; only lines of ``event`` when it is given."""
        # A batch of lines may be written in pieces: what has no end yet is not a line.
        whole = self._log_path.read_text("ascii").rpartition("\n")[0]
        lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if event in ("", line["event"])]

    def wait(self, event: str, number: int = 1) -> dict[str, Any]:
        """The ``number``-th line of this event: the log is written a moment later, by a thread."""
        eventually(lambda: len(self.lines(event)) >= number, f"{number} lines {event!r}")
        return self.lines(event)[number - 1]

    def session(self, number: int = 1) -> dict[str, Any]:
        """The line of the ``number``-th session to end."""
        return self.wait("session", number)

    def sample(self, name: str, /, **labels: str) -> float:
        """A metric's value; 0 when it was never touched."""
        return self.registry.get_sample_value(f"popproxy_{name}", labels) or 0.0

    def total(self, name: str) -> float:
        """The sum of all samples of a metric."""
        return sum(
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"popproxy_{name}"
        )


GAUGES = ("connections_active", "sessions_active", "upstream_connections_active", "upstream_queue_length",
          "buffered_bytes")


def eventually(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Return once ``condition()`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} within {seconds:g} s"
        time.sleep(0.01)


def plan_of(setup: Setup, directory: Path) -> Plan:
    """The plan of ``setup``; its files are in ``directory``."""
    certificate = pem(directory / "proxy.pem", CERTIFICATE)
    authority = directory / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))
    clear = all("+clear" in server for server in setup.servers)
    config = directory / "popproxy.toml"
    config.write_text(
        f"""
{setup.listeners or LISTENER.format(tls=setup.tls)}
{setup.listener}
[tls]
certificates = [{{ cert = "{certificate}" }}]
[upstream.main]
servers = {json.dumps(list(setup.servers))}
{"" if clear or "ca_file" in setup.upstream or "verify" in setup.upstream else f'ca_file = "{authority}"'}
{setup.upstream}
{setup.tail}
"""
    )
    plan = load(config).plan
    subscribers = tuple(
        Subscriber(type(plugin).__name__.lower(), plugin, setup.fail, setup.deadline) for plugin in setup.plugins
    )
    timeouts = replace(plan.timeouts, **setup.timeouts)
    limits = replace(plan.limits, **setup.limits)
    listeners = tuple(
        replace(
            listener,
            session=replace(listener.session, chain=Chain(subscribers), timeouts=timeouts, limits=limits),
        )
        for listener in plan.listeners
    )
    return replace(plan, listeners=listeners, plugins=subscribers, timeouts=timeouts, limits=limits)


def pem(path: Path, certificate: trustme.LeafCert) -> Path:
    """Key and chain in one file."""
    path.write_bytes(
        certificate.private_key_pem.bytes() + b"".join(part.bytes() for part in certificate.cert_chain_pems)
    )
    path.chmod(0o600)
    return path


@contextmanager
def running(setup: Setup, directory: Path, faults: int = 0, circle: bool = False) -> Iterator[Proxy]:
    """The proxy, started. ``faults``: ``internal_error`` lines that are expected. ``circle``: it may be its own client
    by way of another proxy, which keeps the id of a session."""
    log = directory / "log.json"
    log.unlink(missing_ok=True)
    proxy = Proxy(plan_of(setup, directory), setup.loop, log)
    proxy.start()
    try:
        yield proxy
        proxy.stop()
    except BaseException:
        with suppress(Exception):
            proxy.stop()
        proxy.close()
        raise
    proxy.close()
    text = log.read_bytes()
    assert not proxy.faults, proxy.faults
    assert len(proxy.lines("internal_error")) == faults, proxy.lines("internal_error")
    assert not [form for form in forms(PASSWORD) if form in text], "the password is in the log"
    odd = {what for line in proxy.lines() for what in strangers(line)}
    assert not odd, f"popproxy/run/events.py does not know this: {sorted(odd)}"
    ids = [line["session"] for line in proxy.lines("session")]
    assert circle or len(ids) == len(set(ids)), "two lines for one session"
    for gauge in GAUGES:
        assert proxy.total(gauge) == 0, gauge
    for dialer in proxy.worker.fronts[0].dialers.values():
        assert dialer.group.sessions == 0, "places were lost"


def forms(secret: bytes) -> Iterator[bytes]:
    """How a secret could stand in a log."""
    latin = secret.decode("latin-1")
    yield secret
    yield latin.encode()
    yield repr(secret)[2:-1].encode()
    yield json.dumps(latin)[1:-1].encode()
    yield json.dumps(repr(secret)[2:-1])[1:-1].encode()
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + secret)
        yield coded[(0, 2, 3)[before] : len(coded) // 4 * 4 - 4]


@contextmanager
def sample(directory: Path, letters: Sequence[tuple[str, bytes]], **options: Any) -> Iterator[SampleServer]:
    """The honest server with ``letters`` in alice's maildrop, on a thread of its own."""
    maildir = directory / "Maildir"
    write_maildir(maildir, letters)
    loop = asyncio.new_event_loop()
    server = SampleServer({"alice": maildir}, {"alice": PASSWORD.decode()}, **options)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(PATIENCE)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


def client_context(**options: Any) -> ssl.SSLContext:
    """A client that trusts the tests' authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    context.check_hostname = False
    for name, value in options.items():
        setattr(context, name, value)
    return context


def reset(client: WireClient) -> None:
    """End with a RST."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()


def half_close(client: WireClient) -> None:
    """No more from this client: close_notify over TLS, a FIN otherwise."""
    if isinstance(client.socket, ssl.SSLSocket):
        # SSL_shutdown has two steps: the first sends, the second would wait for the peer's close_notify.
        client.socket.settimeout(0.0)
        with suppress(ssl.SSLWantReadError):
            client.socket.unwrap()
        client.socket.settimeout(PATIENCE)
    else:
        client.socket.shutdown(socket.SHUT_WR)


def read_rest(client: WireClient) -> bytes:
    """What the proxy still sends until it closes. CPython raises instead of b"" when our close_notify is out."""
    parts = [bytes(client._buffer)]
    with suppress(ssl.SSLZeroReturnError):
        while data := client.socket.recv(1 << 16):
            parts.append(data)
    return b"".join(parts)


def pour(client: WireClient, data: bytes, answer: int, look: Callable[[], None] = lambda: None) -> bytes:
    """Send ``data`` and read ``answer`` octets, both at once: an SSLSocket belongs to one thread."""
    sock = client.socket
    got = bytearray(client._buffer)
    client._buffer.clear()
    sent = 0
    end = time.monotonic() + PATIENCE
    sock.setblocking(False)
    while len(got) < answer:
        assert time.monotonic() < end, f"{len(got)} of {answer} octets, {sent} sent"
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            piece = sock.recv(1 << 16)
            assert piece, f"closed after {len(got)} octets"
            got += piece
            look()
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            # The same octets again when TLS could not take them: SSL_write(3).
            sent += sock.send(data[sent : sent + (1 << 16)]) if sent < len(data) else 0
    sock.settimeout(PATIENCE)
    return bytes(got)
