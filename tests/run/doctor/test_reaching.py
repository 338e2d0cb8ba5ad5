"""DNS and TCP: what keeps a connection from being made."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

import pytest

from popproxy.run.doctor import names
from tests.net.upstream import Upstream
from tests.run.doctor.patients import Doctor, never, resolving, server


def test_a_name_without_an_address(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolving(monkeypatch, none)
    told = doctor.see("pop3s://mial.example.com")
    assert (told.code, told.wrong) == (1, {"dns_none": "fail"})
    assert "mial.example.com" in told.words["dns_none"]["text"]
    assert "getent ahosts mial.example.com" in told.words["dns_none"]["advice"]


def test_a_resolver_that_fails(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def later() -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    resolving(monkeypatch, later)
    assert doctor.see("pop3s://mail.example.com").wrong == {"dns_unavailable": "fail"}
    resolving(monkeypatch, never)
    assert doctor.see("pop3s://mail.example.com", "--timeout", "50ms").wrong == {"dns_timeout": "fail"}


def test_slow_names(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "SLOW", 0.0)
    with Upstream(server(), quits=1) as upstream:
        resolving(monkeypatch, lambda: ["127.0.0.1"])
        told = doctor.see(f"pop3+clear://mail.example.com:{upstream.port}")
    assert told.code == 0
    assert told.wrong["dns_slow"] == "warn"
    assert told.words["dns_slow"]["seconds"] >= 0


def test_families_are_told(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, lambda: ["2001:db8::7", "192.0.2.7", "192.0.2.8"])
    told = doctor.see("pop3s://mail.example.com", "--timeout", "50ms")
    assert "2001:db8::7, 192.0.2.7, 192.0.2.8 (2 x IPv4, 1 x IPv6)" in told.words["dns"]["text"]


def test_nothing_listens(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told = doctor.see(f"pop3s://127.0.0.1:{port}")
    assert (told.code, told.wrong) == (1, {"tcp_refused": "fail"})
    assert told.words["tcp_refused"]["address"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (TimeoutError("timed out"), "tcp_timeout"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "tcp_unreachable"),
        (OSError(errno.EPERM, "Operation not permitted"), "tcp_failed"),
    ],
)
def test_no_way_there(error: OSError, word: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any, **__: Any) -> socket.socket:
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    told = doctor.see("pop3s://192.0.2.7")
    assert (told.code, told.wrong) == (1, {word: "fail"})
    assert "192.0.2.7:995" in told.words[word]["text"]


def test_a_dead_address_in_front(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with Upstream(server(), quits=1) as upstream:
        resolving(monkeypatch, lambda: ["127.0.0.9", "127.0.0.1"])
        told = doctor.see(f"pop3+clear://mail.example.com:{upstream.port}")
    assert told.code == 1
    assert told.wrong["tcp_refused"] == "fail"
    assert "every login waits for it before 127.0.0.1 is tried" in told.words["tcp_first_dead"]["text"]
    assert told.words["greeting"]["address"] == "127.0.0.1"


def test_each_address_is_greeted(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both take connections, and one of them is no POP3 server."""
    with Upstream(server(), quits=1) as upstream:
        with socket.create_server(("127.0.0.9", upstream.port)) as listener:
            listener.settimeout(20)
            resolving(monkeypatch, lambda: ["127.0.0.1", "127.0.0.9"])
            told = doctor.see(f"pop3+clear://mail.example.com:{upstream.port}", "--timeout", "300ms")
    bad = told.words["greeting_timeout"]
    assert (told.code, bad["address"], told.words["capa"]["address"]) == (1, "127.0.0.9", "127.0.0.1")


def test_a_listener_of_its_own(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, lambda: ["127.0.0.1"])
    assert doctor.configured("pop3+clear://mail.example.com:1", "").wrong == {"tcp_loop": "fail"}


def test_slow_connections(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.create_connection

    def slow(*arguments: Any, **options: Any) -> socket.socket:
        monkeypatch.setattr("popproxy.run.doctor.connecting.monotonic", lambda: time.monotonic() + 5)
        return connect(*arguments, **options)

    with Upstream(server(), quits=1) as upstream:
        monkeypatch.setattr(socket, "create_connection", slow)
        assert doctor.see(upstream.url).wrong["tcp_slow"] == "warn"
