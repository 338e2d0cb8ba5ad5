"""spam: what rspamd is told and what it answers; a server that misbehaves at every stage, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.spam.rspamd import Rspamd, metadata, verdict_of
from popproxy_plugins.spam.verdict import ScanFailed, Scored, Unscanned

from popproxy.api import Header, HttpReply, SessionView
from popproxy.api.fakes import FakeHttp
from popproxy.net.services.http import HttpClient
from tests.net.upstream import PATIENCE, Peer, Script, Upstream, slam, stall
from tests.ports import free_ports

MESSAGE = b"Return-Path: <sender@example.com>\r\nSubject: hi\r\n\r\n.body\r\n"
ALL = ("from", "rcpt", "deliver_to", "user", "ip")
GOOD = {"score": 7.25, "required_score": 15.0, "action": "add header", "symbols": {"A_B": {}, "C": {"score": 1}}}


class Message:
    """A spooled message in small pieces."""

    number = 1

    def __init__(self, octets: bytes = MESSAGE) -> None:
        self._octets = octets
        self.octets = len(octets)
        self.header = octets.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    def chunks(self) -> Iterator[bytes]:
        for place in range(0, len(self._octets), 65536):
            yield self._octets[place : place + 65536]


def session(**more: Any) -> SessionView:
    return SessionView("s", "pop3", client="192.0.2.1", user="joe", login="joe@example.com", **more)


# What it is told


def test_the_metadata() -> None:
    header = Header(MESSAGE)
    assert metadata(ALL, session(), header) == {
        "From": "sender@example.com",
        "Rcpt": "joe@example.com",
        "Deliver-To": "joe@example.com",
        "User": "joe@example.com",
        "IP": "192.0.2.1",
    }
    assert metadata((), session(), header) == {}


def test_what_is_not_known_is_left_out() -> None:
    view = SessionView("s", "pop3", client="unix", user="joe")
    assert metadata(ALL, view, Header(b"")) == {"Deliver-To": "joe", "User": "joe"}
    assert metadata(ALL, SessionView("s", "pop3"), Header(b"Return-Path: <>\r\n")) == {}


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("jörg@example.com", "j%C3%B6rg@example.com"),
        ("50%off", "50%25off"),
        ("tab\there", "tab%09here"),
        ("esc\x1b\x7f", "esc%1B%7F"),
        ("\udcff", "?"),
    ],
)
def test_names_are_safe_in_a_header(name: str, sent: str) -> None:
    view = SessionView("s", "pop3", user=name)
    assert metadata(("deliver_to",), view, Header(b"")) == {"Deliver-To": sent}


@pytest.mark.parametrize("name", ["joe\r\nUser: evil", "joe\n", "joe\r", "j\0e"])
def test_a_name_that_would_break_a_line_is_not_sent(name: str) -> None:
    assert metadata(ALL[1:4], SessionView("s", "pop3", login=name + "@x"), Header(b"")) == {}


@pytest.mark.parametrize(
    ("path", "sender"),
    [
        ("<a@b>", "a@b"),
        ("a@b", "a@b"),
        ("<a@b> (comment)", "a@b"),
        ("<a b>", None),
        ("<" + "x" * 400 + ">", None),
        ("<a\0b>", None),
        ("<é@b>", "%C3%A9@b"),
    ],
)
def test_the_envelopes_sender(path: str, sender: str | None) -> None:
    assert metadata(("from",), session(), Header(f"Return-Path: {path}\r\n".encode())).get("From") == sender


def test_the_request() -> None:
    http = FakeHttp(lambda request: HttpReply(200, (), json.dumps(GOOD).encode()))
    client = Rspamd(http, ("deliver_to",), "secret", None)
    for server in ("http://scan.example.com:11333/", "unix:/run/rspamd.sock"):
        verdict = asyncio.run(client.scan(server, 5.0, session(), Message()))
        assert verdict == Scored(7.25, True, 15.0, ("A_B", "C"))
    first, second = http.requests
    assert (first.method, first.url, first.unix) == ("POST", "http://scan.example.com:11333/checkv2", None)
    assert (second.url, second.unix) == ("http://localhost/checkv2", "/run/rspamd.sock")
    assert first.header("Password") == "secret"
    assert first.header("Deliver-To") == "joe@example.com"
    assert first.header("Content-Length") == str(len(MESSAGE))
    assert first.body == MESSAGE


# What it answers


@pytest.mark.parametrize(
    ("action", "spam"),
    [
        ("no action", False),
        ("greylist", False),
        ("soft reject", False),
        ("add header", True),
        ("rewrite subject", True),
        ("quarantine", True),
        ("discard", True),
        ("reject", True),
        ("something new", False),
    ],
)
def test_actions(action: str, spam: bool) -> None:
    assert verdict_of(200, json.dumps({**GOOD, "action": action}).encode()).spam is spam


def test_what_may_be_missing() -> None:
    assert verdict_of(200, b'{"score": 1, "action": "greylist"}') == Scored(1.0, False)
    assert verdict_of(200, b'{"score": 1, "action": "greylist", "symbols": null}') == Scored(1.0, False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>not found</html>",
        b"[]",
        b"null",
        b"{}",
        b'{"score": 1.0}',
        b'{"action": "reject"}',
        b'{"score": "1.0", "action": "reject"}',
        b'{"score": true, "action": "reject"}',
        b'{"score": null, "action": "reject"}',
        b'{"score": NaN, "action": "reject"}',
        b'{"score": Infinity, "action": "reject"}',
        b'{"score": 1e999, "action": "reject"}',
        b'{"score": 1e9, "action": "reject"}',
        b'{"score": ' + b"9" * 5000 + b', "action": "reject"}',
        b'{"score": 1, "required_score": NaN, "action": "reject"}',
        b'{"score": 1, "required_score": "x", "action": "reject"}',
        b'{"score": 1, "action": 5}',
        b'{"score": 1, "action": "reject", "symbols": [1]}',
        b'{"score": 1, "action": "reject"',
        b'{"score": 1, "action": "\xff"}',
        b'{"symbols": ' + b'{"a": ' * 5000,
        b"[" * 100_000,
        b'{"error": "cannot parse"}',
    ],
)
def test_what_is_no_verdict(body: bytes) -> None:
    with pytest.raises(ScanFailed) as caught:
        verdict_of(200, body)
    assert caught.value.why is Unscanned.WRONG


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (500, Unscanned.AWAY),
        (503, Unscanned.AWAY),
        (429, Unscanned.AWAY),
        (400, Unscanned.WRONG),
        (403, Unscanned.WRONG),
        (404, Unscanned.WRONG),
        (302, Unscanned.WRONG),
        (204, Unscanned.WRONG),
    ],
)
def test_a_status_that_is_no_verdict(status: int, why: Unscanned) -> None:
    with pytest.raises(ScanFailed) as caught:
        verdict_of(status, json.dumps(GOOD).encode())
    assert caught.value.why is why


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["score", "required_score", "action", "symbols", "x"]), JSON) | JSON)
def test_any_json_is_a_verdict_or_wrong(reply: Any) -> None:
    try:
        verdict = verdict_of(200, json.dumps(reply).encode())
    except ScanFailed as failed:
        assert failed.why is Unscanned.WRONG
    else:
        assert verdict.score == reply["score"]


# A server that misbehaves


def asked(
    script: Script, message: bytes = MESSAGE, seconds: float = 5.0, then: Callable[[], None] = lambda: None
) -> Scored | ScanFailed:
    """What comes of a scan at a server that plays ``script``; ``then`` is called when the scan is over."""

    async def work(port: int) -> Scored | ScanFailed:
        client = HttpClient()
        try:
            scanner = Rspamd(client, ALL, None, None)
            return await scanner.scan(f"http://127.0.0.1:{port}", seconds, session(), Message(message))
        except ScanFailed as failed:
            return failed
        finally:
            await client.close()
            then()
            # What is still to be written keeps a closed connection open, until the server ends it.
            selector: Any = asyncio.get_running_loop()
            while len(selector._selector.get_map()) > 1:
                await asyncio.sleep(0.001)

    with Upstream(script) as server:
        return asyncio.run(work(server.port))


def request_of(peer: Peer) -> bytes:
    """The body of a request."""
    length = 0
    while line := peer.line().lower():
        if line.startswith(b"content-length: "):
            length = int(line.split()[1])
    return peer.octets(length)


def says(reply: bytes) -> Script:
    def script(peer: Peer) -> None:
        request_of(peer)
        peer.send(reply)

    return script


def http(body: bytes, length: int | None = None, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body) if length is None else length, body)


REPLY = json.dumps(GOOD).encode()


def test_a_server_that_behaves_gets_the_whole_message() -> None:
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        got.append(request_of(peer))
        peer.send(http(REPLY))

    large = MESSAGE + b"x" * 3_000_000
    assert asked(script, large) == Scored(7.25, True, 15.0, ("A_B", "C"))
    assert got == [large]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"", Unscanned.AWAY),
        (b"HTTP/1.1 200", Unscanned.AWAY),
        (b"\x16\x03\x01 garbage\r\n\r\n", Unscanned.WRONG),
        (b"-ERR what\r\n", Unscanned.WRONG),
        (http(REPLY, len(REPLY) + 10), Unscanned.AWAY),
        (http(REPLY, len(REPLY) - 1), Unscanned.WRONG),
        (http(REPLY[:40]), Unscanned.WRONG),
        (http(b"{}" + b" " * (1 << 21)), Unscanned.WRONG),
        (http(b"busy", status=b"503 Busy"), Unscanned.AWAY),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Unscanned.WRONG),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"sco", Unscanned.AWAY),
    ],
)
def test_a_server_that_answers_wrong(reply: bytes, why: Unscanned) -> None:
    failed = asked(says(reply))
    assert isinstance(failed, ScanFailed)
    assert failed.why is why, str(failed)


def test_nobody_is_there() -> None:
    async def work() -> None:
        client = HttpClient()
        scanner = Rspamd(client, ALL, None, None)
        for server in (f"http://127.0.0.1:{free_ports(1)[0]}", "unix:/nowhere/rspamd.sock"):
            with pytest.raises(ScanFailed) as caught:
                await scanner.scan(server, 5.0, session(), Message())
            assert caught.value.why is Unscanned.AWAY
        await client.close()

    asyncio.run(work())


def begins(end: Script) -> Script:
    """Takes the head of a request and then plays ``end``."""

    def script(peer: Peer) -> None:
        while peer.line():
            pass
        end(peer)

    return script


@pytest.mark.parametrize("end", [Peer.reset, slam])
def test_a_server_that_closes_while_the_message_is_sent(end: Script) -> None:
    failed = asked(begins(end), MESSAGE + b"x" * 8_000_000)
    assert isinstance(failed, ScanFailed)
    assert failed.why is Unscanned.AWAY


@pytest.mark.parametrize("script", [stall, begins(lambda peer: peer.drip(b"HTTP/1.1 2", 0.05))])
def test_a_server_that_never_answers(script: Script) -> None:
    failed = asked(script, seconds=0.2)
    assert isinstance(failed, ScanFailed)
    assert failed.why is Unscanned.LATE


def test_a_server_that_does_not_read() -> None:
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.line()
        done.wait(PATIENCE)

    failed = asked(script, MESSAGE + b"x" * 8_000_000, seconds=0.2, then=done.set)
    assert isinstance(failed, ScanFailed)
    assert failed.why is Unscanned.LATE
