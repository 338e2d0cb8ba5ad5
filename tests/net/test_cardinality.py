"""Hostile clients over real sockets: whatever they send, no series appears for it."""

from __future__ import annotations

import random
import socket
import ssl
import string
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry

from popproxy.metrics.exposition import render
from popproxy.metrics.names import METRICS
from tests.net.running import Proxy, Setup, eventually, running
from tests.net.tlspeers import client_side
from tests.net.upstream import PATIENCE, Peer, Upstream

LISTENERS = """
[[listener]]
name = "clear"
bind = ["127.0.0.1:0"]
tls = "off"
auth_before_tls = "allow"
[[listener]]
name = "tls"
bind = ["127.0.0.1:0"]
tls = "implicit"
[[listener]]
name = "behind"
bind = ["127.0.0.1:0"]
tls = "off"
auth_before_tls = "allow"
proxy_protocol = { trusted = ["127.0.0.1/32"] }
"""
ROUNDS = 12

Series = set[tuple[str, tuple[tuple[str, str], ...]]]


def series(registry: CollectorRegistry) -> Series:
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}


class Hostile:
    """Says things nobody has ever said before. ``said`` are the words that must not be seen in a metric."""

    def __init__(self, proxy: Proxy, seed: int) -> None:
        self.proxy = proxy
        self.random = random.Random(seed)
        self.said: list[str] = []
        self.visits = 0

    def word(self) -> str:
        word = "Q" + "".join(self.random.choices(string.ascii_uppercase, k=9))
        self.said.append(word)
        return word

    def talk(self, listener: int, octets: bytes) -> None:
        """Send, and read until the proxy closes or has nothing more to say."""
        self.visits += 1
        with socket.create_connection(self.proxy.address(listener), timeout=PATIENCE) as sock, suppress(OSError):
            sock.sendall(octets)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

    def verbs(self) -> None:
        self.talk(0, b"".join(f"{self.word()} {self.word()}\r\n".encode() for _ in range(3)) + b"QUIT\r\n")

    def users(self) -> None:
        self.talk(0, f"USER {self.word()}@{self.word()}.example\r\nPASS {self.word()}\r\nQUIT\r\n".encode())

    def mechanisms(self) -> None:
        self.talk(0, f"AUTH {self.word()}\r\nAUTH {self.word()} =\r\nQUIT\r\n".encode())

    def apop(self) -> None:
        self.talk(0, f"APOP {self.word()} {'0' * 32}\r\nQUIT\r\n".encode())

    def server_names(self) -> None:
        self.visits += 1
        with socket.create_connection(self.proxy.address(1), timeout=PATIENCE) as sock, suppress(OSError):
            context = client_side()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(sock, server_hostname=f"{self.word()}.example") as tls:
                tls.recv(100)
                tls.sendall(b"QUIT\r\n")
                tls.recv(100)

    def no_tls(self) -> None:
        self.talk(1, f"{self.word()}\r\n".encode())

    def headers(self) -> None:
        self.talk(2, f"PROXY {self.word()} {self.word()} 1 2 3\r\n".encode())

    def attributes(self) -> None:
        self.talk(2, f"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nXCLIENT {self.word()}={self.word()}\r\nQUIT\r\n".encode())

    @property
    def ways(self) -> list[Callable[[], None]]:
        return [
            self.verbs, self.users, self.mechanisms, self.apop, self.server_names, self.no_tls, self.headers,
            self.attributes,
        ]  # fmt: skip


def refusing(peer: Peer) -> None:
    peer.greet()
    while line := peer.line():
        peer.send(b"+OK\r\nUSER\r\n.\r\n" if line == b"CAPA" else b"-ERR [AUTH] no\r\n")


def test_hostile_clients_add_no_series(tmp_path: Path) -> None:
    with Upstream(refusing) as upstream, running(Setup([upstream.url], listeners=LISTENERS), tmp_path) as proxy:
        hostile = Hostile(proxy, 1)

        def settled() -> Series:
            eventually(lambda: proxy.total("connections_active") == 0, "end of all sessions")
            return series(proxy.registry)

        for way in hostile.ways:
            way()
        warm = settled()
        for _ in range(ROUNDS):
            for way in hostile.random.sample(hostile.ways, len(hostile.ways)):
                way()
        assert settled() == warm
        text = render(proxy.registry)[0].decode()
        assert [word for word in hostile.said if word in text] == []
        assert len(hostile.said) > 100
        assert proxy.total("connections_total") == hostile.visits


def test_octets_at_random_stay_within_the_words_of_the_table(tmp_path: Path) -> None:
    known = {f"popproxy_{metric.name}": metric for metric in METRICS.values()}
    names = {"clear", "tls", "behind", "main", "_other"}
    with Upstream(refusing) as upstream, running(Setup([upstream.url], listeners=LISTENERS), tmp_path) as proxy:
        hostile = Hostile(proxy, 2)
        for listener in (0, 1, 2):
            for _ in range(8):
                hostile.talk(listener, hostile.random.randbytes(300) + b"\r\n" + hostile.random.randbytes(9))
        eventually(lambda: proxy.total("connections_active") == 0, "end of all sessions")
        for family in proxy.registry.collect():
            metric = known[family.name]
            rows = set(metric.rows)
            for sample in family.samples:
                labels = {name: value for name, value in sample.labels.items() if name != "le"}
                assert tuple(labels[name] for name in metric.label_names[len(metric.key) :]) in rows
                if set(metric.key) & {"listener", "upstream"}:
                    assert labels[metric.key[0]] in names
