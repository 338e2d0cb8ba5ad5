"""The greeting, and what is told the server in front of it."""

from __future__ import annotations

import pytest

from popproxy.net.introduce import own_header
from popproxy.run.doctor import greeting
from tests.net.upstream import Peer, Upstream, slam, slam_with_reset, stall
from tests.run.doctor.patients import GOOD, Doctor, server


@pytest.mark.parametrize(
    ("line", "protocol"),
    [
        (b"220 mail.example.com ESMTP ready\r\n", "SMTP"),
        (b"220 (vsFTPd 3.0.3)\r\n", "FTP"),
        (b"* OK [CAPABILITY IMAP4rev1] ready.\r\n", "IMAP"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"200 news.example.com\r\n", "NNTP"),
        (b'"IMPLEMENTATION" "Dovecot Pigeonhole"\r\n', "ManageSieve"),
        (b"\x15\x03\x01\0\x02\x02\x46", "TLS"),
    ],
)
def test_another_protocol(line: bytes, protocol: str, doctor: Doctor) -> None:
    with Upstream(server(greeting=line)) as upstream:
        told = doctor.see(upstream.url, "--user", "joe", "--timeout", "300ms")
    assert (told.code, told.wrong) == (1, {"greeting_other": "fail"})
    assert told.words["greeting_other"]["text"].startswith(f"this is {protocol}")
    assert b"joe" not in upstream.received


def test_one_that_waits_for_a_request(doctor: Doctor) -> None:
    def http(peer: Peer) -> None:
        peer.line()
        peer.send(b"HTTP/1.0 400 Bad Request\r\nServer: nginx\r\n\r\n")

    with Upstream(http) as upstream:
        told = doctor.see(upstream.url, "--timeout", "300ms")
    assert told.wrong == {"greeting_other": "fail"}


@pytest.mark.parametrize(
    ("script", "word"),
    [
        (server(greeting=b"hello\r\n"), "greeting_strange"),
        (server(greeting=b"+OK"), "greeting_strange"),
        (stall, "greeting_timeout"),
        (slam, "greeting_closed"),
        (server(greeting=b"-ERR too many connections\r\n"), "greeting_refused"),
    ],
)
def test_no_good_one(script: object, word: str, doctor: Doctor) -> None:
    with Upstream(script) as upstream:  # type: ignore[arg-type]
        told = doctor.see(upstream.url, "--timeout", "200ms")
    assert (told.code, told.wrong) == (1, {word: "fail"})


def test_a_reset(doctor: Doctor) -> None:
    with Upstream(slam_with_reset) as upstream:
        told = doctor.see(upstream.url, "--timeout", "200ms")
    # The kernel decides whether it comes before the connection is made, or after.
    assert (told.code, len(told.wrong)) == (1, 1)
    assert set(told.wrong) < {"tcp_reset", "tcp_unsteady", "greeting_closed"}


@pytest.mark.parametrize(
    ("code", "means"),
    [("SYS/TEMP", "for now"), ("sys/perm", "until somebody acts"), ("LOGIN-DELAY", "too soon"), ("X-NEW", "")],
)
def test_a_refusal_with_a_code(code: str, means: str, doctor: Doctor) -> None:
    with Upstream(server(greeting=f"-ERR [{code}] not now\r\n".encode())) as upstream:
        told = doctor.see(upstream.url)
    text = told.words["greeting_refused"]["text"]
    assert f"[{code}] not now" in text
    assert (f"which means: {means}" in text or means in text) and ("which means" in text) is bool(means)


def test_a_slow_one(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "SLOW", 0.0)
    with Upstream(server(), quits=1) as upstream:
        told = doctor.see(upstream.url)
    assert (told.code, told.wrong) == (0, {"greeting_slow": "warn", "tls_off": "warn", "capa_stls_unused": "warn"})


def configured(version: str, how: str) -> str:
    return f'send_proxy = "{version}"\n' + ("" if how == "pop3+clear" else 'ca_file = "ca.pem"\n')


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("how", ["pop3+clear", "pop3", "pop3s"])
class TestProxyHeader:
    def test_understood(self, version: str, how: str, doctor: Doctor) -> None:
        header = own_header(version)  # type: ignore[arg-type]
        script = server(header=header, tls=GOOD if how == "pop3s" else None, stls=GOOD)
        with Upstream(lambda peer: None, script, quits=1) as upstream:  # the first is closed as it was opened
            told = doctor.configured(f"{how}://localhost:{upstream.port}", configured(version, how))
        assert told.code == 0, told
        assert told.words["proxy"]["mark"] == "ok"

    def test_not_spoken(self, version: str, how: str, doctor: Doctor) -> None:
        with Upstream(server(tls=GOOD if how == "pop3s" else None, stls=GOOD), quits=9) as upstream:
            url = f"{how}://localhost:{upstream.port}"
            told = doctor.configured(url, configured(version, how), "--timeout", "400ms")
        assert told.code == 1
        assert told.wrong["proxy_not_spoken"] == "fail"
        assert "haproxy = yes" in told.words["proxy_not_spoken"]["advice"]

    def test_expected(self, version: str, how: str, doctor: Doctor) -> None:
        header = own_header(version)  # type: ignore[arg-type]
        script = server(header=header, tls=GOOD if how == "pop3s" else None, stls=GOOD)
        with Upstream(script, quits=1) as upstream:
            told = doctor.see(f"{how}://localhost:{upstream.port}", "--timeout", "300ms")
        assert told.code == 1
        assert f'send_proxy = "{version}"' in told.words["proxy_expected"]["advice"]


TRUSTING = b"+OK [XCLIENT] ready\r\n"


@pytest.mark.parametrize(
    ("more", "greeting", "answer", "word", "mark"),
    [
        ("", TRUSTING, b"", "xclient_unused", "note"),
        ("xclient = true", b"+OK ready\r\n", b"", "xclient_not_announced", "warn"),
        ('xclient = "required"', b"+OK ready\r\n", b"", "xclient_not_announced", "fail"),
        ("xclient = true", TRUSTING, b"-ERR no\r\n", "xclient_refused", "warn"),
        ('xclient = "required"', TRUSTING, b"-ERR no\r\n", "xclient_refused", "fail"),
        ('xclient = "required"', TRUSTING, b"+OK\r\n", "xclient", "ok"),
    ],
)
def test_xclient(more: str, greeting: bytes, answer: bytes, word: str, mark: str, doctor: Doctor) -> None:
    def script(peer: Peer) -> None:
        peer.send(greeting)
        while line := peer.line():
            peer.send(answer if line.startswith(b"XCLIENT ADDR=127.0.0.1 ") else b"+OK\r\nUSER\r\nUIDL\r\n.\r\n")
            if line == b"QUIT":
                return

    with Upstream(script, quits=1) as upstream:
        told = doctor.configured(upstream.url, more)
    assert told.code == (mark == "fail")
    assert told.words[word]["mark"] == mark
    assert ("capa" in told.words) is (mark != "fail")
