"""The handshake: what is agreed, and every way not to agree, on both loops."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import warnings
from collections.abc import Callable

import pytest
import trustme

from popproxy.net.tls import INTERMEDIATE_CIPHERS
from popproxy.net.tlstransport import TlsFailure
from popproxy.wire.clienthello import Hello, NeedMore, read_hello
from tests.net.tlspeers import (
    LOOPS,
    PATIENCE,
    V12,
    V13,
    BareClient,
    Recorder,
    Scripted,
    begin,
    client_side,
    reset,
    run,
    server_side,
    stdlib_client,
    tcp_pair,
)

both_loops = pytest.mark.parametrize("loop", LOOPS)
both_versions = pytest.mark.parametrize("version", [V12, V13])


def refused(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLError | None:
    """What a stdlib client is told, if it is told no."""
    try:
        stdlib_client(sock, context).close()
    except ssl.SSLError as exc:
        return exc
    return None


@both_versions
@both_loops
def test_what_was_agreed(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        transport, outcome = begin(ours, server_side(), None, check_alpn=b"pop3")
        client = await asyncio.to_thread(stdlib_client, theirs, client_side(version, ["imap", "pop3"]))
        assert await outcome is None
        with pytest.raises(AttributeError):
            transport.tls.alpn = "other"  # type: ignore[misc]
        cipher = client.cipher()
        assert cipher is not None
        assert (transport.tls.version, transport.tls.cipher) == (client.version(), cipher[0])
        assert (transport.tls.alpn, transport.tls.server_name) == ("pop3", "localhost")
        assert not transport.tls.resumed
        assert transport.tls.peer_cert_subject is None
        assert 0 < transport.tls.handshake_seconds < PATIENCE
        transport.abort()
        client.close()

    run(loop, scene)


@both_loops
def test_a_client_without_alpn_or_sni_is_taken(loop: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        transport, outcome = begin(ours, server_side(), None, check_alpn=b"pop3")
        context = client_side()
        context.check_hostname = False
        client = await asyncio.to_thread(context.wrap_socket, theirs)
        assert await outcome is None
        assert (transport.tls.alpn, transport.tls.server_name) == (None, None)
        transport.abort()
        client.close()

    run(loop, scene)


@both_versions
@both_loops
def test_a_client_of_another_protocol_is_refused(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        context = client_side(version, ["http/1.1", "h2"])
        transport, outcome = begin(ours, server_side(), None, check_alpn=b"pop3")
        told = await asyncio.to_thread(refused, theirs, context)
        failure = await outcome
        assert failure == TlsFailure("alpn", "the peer offers only 'http/1.1', 'h2'")
        assert told is not None and "no application protocol" in str(told)
        assert transport.is_closing()
        theirs.close()

    run(loop, scene)


@both_loops
def test_alpn_is_not_looked_at_unless_asked(loop: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        transport, outcome = begin(ours, server_side())
        client = await asyncio.to_thread(stdlib_client, theirs, client_side(alpn=["h2"]))
        assert await outcome is None
        assert transport.tls.alpn is None
        transport.abort()
        client.close()

    run(loop, scene)


@both_versions
@both_loops
def test_the_resumed_flag(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        server, client_context = server_side(), client_side(version)
        session: ssl.SSLSession | None = None
        for resumed in (False, True):
            theirs, ours = tcp_pair()
            recorder = Recorder()
            transport, outcome = begin(ours, server, recorder)
            client = await asyncio.to_thread(stdlib_client, theirs, client_context, session=session)
            assert await outcome is None
            assert transport.tls.resumed is resumed
            transport.write(b"+OK\r\n")
            assert await asyncio.to_thread(client.recv, 5) == b"+OK\r\n"
            session = client.session
            client.close()
            await recorder.lost

    run(loop, scene)


@both_loops
def test_our_client_resumes_too(loop: str) -> None:
    async def scene() -> None:
        server, context = server_side(), client_side()
        session: ssl.SSLSession | None = None
        for resumed in (False, True):
            theirs, ours = tcp_pair()
            theirs.setblocking(False)
            recorder = Recorder()
            upstream, up = begin(theirs, server)
            transport, shaken = begin(
                ours, context, recorder, server_side=False, server_hostname="localhost", session=session
            )
            assert (await up, await shaken) == (None, None)
            assert transport.tls.resumed is resumed
            assert transport.tls.server_name == "localhost"
            assert transport.tls.peer_cert_subject is not None
            upstream.write(b"+OK\r\n")
            await recorder.octets(5)
            session = transport.get_extra_info("ssl_object").session
            transport.close()
            await recorder.lost
            upstream.abort()

    run(loop, scene)


# A ClientHello in pieces, and what is none.


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The octets seen at each look at a ClientHello from now on."""
    looks: list[int] = []

    def counting(data: bytes) -> NeedMore | Hello:
        looks.append(len(data))
        return read_hello(data)

    monkeypatch.setattr("popproxy.net.tlshandshake.read_hello", counting)
    return looks


@both_loops
def test_a_hello_in_single_octets_is_looked_at_a_few_times_only(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = count_looks(monkeypatch)

    async def scene() -> None:
        theirs, ours = tcp_pair()
        recorder = Recorder()
        transport, outcome = begin(ours, server_side(), recorder, check_alpn=b"pop3")
        client = BareClient(theirs, client_side(alpn=["pop3"]))
        hello = client.hello()

        def trickle() -> None:
            for octet in hello:
                theirs.send(bytes((octet,)))
                time.sleep(0.0002)
            client.shake()
            client.send(b"QUIT\r\n")

        await asyncio.to_thread(trickle)
        assert await outcome is None
        assert transport.tls.alpn == "pop3"
        assert await recorder.octets(6) == b"QUIT\r\n"
        assert transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        assert looks[-1] == len(hello)
        assert len(looks) < 12  # about one for each header, not one for each octet
        transport.abort()
        await recorder.lost
        theirs.close()

    run(loop, scene)


@both_loops
def test_a_hello_in_pieces_over_a_unix_socket_does_not_spin(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = count_looks(monkeypatch)

    async def scene() -> None:
        theirs, ours = socket.socketpair()
        theirs.settimeout(PATIENCE)
        ours.setblocking(False)
        transport, outcome = begin(ours, server_side(), None, check_alpn=b"pop3")
        client = BareClient(theirs, client_side())
        hello = client.hello()
        for piece in (hello[:100], hello[100:200]):
            theirs.send(piece)
            await asyncio.sleep(0.1)
        assert len(looks) < 20
        theirs.send(hello[200:])
        await asyncio.to_thread(client.shake)
        assert await outcome is None
        transport.abort()
        theirs.close()

    run(loop, scene)


@both_loops
def test_a_hello_cut_short_ends_at_once(loop: str) -> None:
    async def scene() -> None:
        for octets in (0, 3, 100):
            theirs, ours = tcp_pair()
            _, outcome = begin(ours, server_side(), None, check_alpn=b"pop3")
            theirs.send(BareClient(theirs, client_side()).hello()[:octets])
            await asyncio.sleep(0.02)
            theirs.shutdown(socket.SHUT_WR)
            failure = await asyncio.wait_for(outcome, PATIENCE)
            assert failure is not None and failure.reason == "eof"
            theirs.close()

    run(loop, scene)


@pytest.mark.parametrize(
    ("octets", "shown"),
    [
        (b"USER alice\r\nPASS secret\r\n", "'USER'"),
        (b"PASS secret\r\n", "'PASS'"),
        (b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n", "'AUTH'"),
        (b"\x1b[2Jx\r\n", r"'\x1b[2J'"),
    ],
)
@both_loops
def test_plain_text_on_a_tls_port_ends_at_once(loop: str, octets: bytes, shown: str) -> None:
    """Promise 6: whoever says it has a password behind it."""
    async def scene() -> None:
        theirs, ours = tcp_pair()
        theirs.sendall(octets)
        _, outcome = begin(ours, server_side(), None, check_alpn=b"pop3")
        failure = await asyncio.wait_for(outcome, PATIENCE)
        assert failure is not None and failure.reason == "plaintext"
        assert failure.detail == f"the peer began with {shown}"
        assert await asyncio.to_thread(theirs.recv, 100) == b""
        theirs.close()

    run(loop, scene)


@both_loops
def test_a_hello_that_cannot_be_judged_is_never_left_to_openssl(loop: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        hello = bytearray(BareClient(theirs, client_side()).hello())
        hello[-1:] = b""  # the last extension ends too early
        hello[3:5] = (len(hello) - 5).to_bytes(2)
        hello[6:9] = (len(hello) - 9).to_bytes(3)
        _, outcome = begin(ours, server_side(), None, check_alpn=b"pop3")
        theirs.sendall(hello)
        failure = await asyncio.wait_for(outcome, PATIENCE)
        assert failure is not None and failure.reason == "protocol"
        assert await asyncio.to_thread(theirs.recv, 100) == b"\x15\x03\x03\x00\x02\x02\x32"
        theirs.close()

    run(loop, scene)


# Silence, and peers that go away.


@pytest.mark.parametrize("octets", [0, 50])
@both_loops
def test_a_peer_that_stalls_is_given_up(loop: str, octets: int) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        theirs.send(BareClient(theirs, client_side()).hello()[:octets])
        _, outcome = begin(ours, server_side(), None, handshake_timeout=0.1, check_alpn=b"pop3")
        failure = await outcome
        assert failure is not None and failure.reason == "timeout"
        assert await asyncio.to_thread(theirs.recv, 100) == b""
        theirs.close()

    run(loop, scene)


@both_loops
def test_an_upstream_that_never_answers_is_given_up(loop: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        _, outcome = begin(
            ours, client_side(), None, server_side=False, server_hostname="localhost", handshake_timeout=0.1
        )
        failure = await outcome
        assert failure is not None and failure.reason == "timeout"
        theirs.close()

    run(loop, scene)


@both_loops
def test_a_peer_that_closes_or_resets(loop: str) -> None:
    async def scene() -> None:
        for server, leave, reason in (
            (True, reset, "reset"),
            (False, reset, "reset"),
            (False, lambda sock: sock.shutdown(socket.SHUT_WR), "eof"),
        ):
            theirs, ours = tcp_pair()
            options = {"server_side": server, "server_hostname": None if server else "localhost"}
            _, outcome = begin(ours, server_side() if server else client_side(), None, **options)
            await asyncio.sleep(0.02)
            leave(theirs)
            failure = await asyncio.wait_for(outcome, PATIENCE)
            assert failure is not None and failure.reason == reason
            theirs.close()

    run(loop, scene)


@pytest.mark.parametrize(("leave", "reason"), [(reset, "reset"), (lambda sock: sock.shutdown(socket.SHUT_WR), "eof")])
@both_loops
def test_a_client_that_leaves_in_the_middle(loop: str, leave: Callable[[socket.socket], None], reason: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        theirs.sendall(BareClient(theirs, client_side()).hello())
        _, outcome = begin(ours, server_side())
        assert await asyncio.to_thread(theirs.recv, 65536)  # the server's flight
        leave(theirs)
        failure = await asyncio.wait_for(outcome, PATIENCE)
        assert failure is not None and failure.reason == reason
        theirs.close()

    run(loop, scene)


@both_loops
def test_a_peer_gone_before_we_begin(loop: str) -> None:
    async def scene() -> None:
        for server in (True, False):
            theirs, ours = tcp_pair()
            reset(theirs)
            options = {"server_side": server, "server_hostname": None if server else "localhost"}
            transport, outcome = begin(ours, server_side() if server else client_side(), None, **options)
            assert not outcome.done()  # never from within the constructor
            failure = await asyncio.wait_for(outcome, PATIENCE)
            assert failure is not None and failure.reason == "reset"
            assert transport.is_closing()
            transport.abort()

    run(loop, scene)


@pytest.mark.parametrize("moment", ["waiting", "stalled", "shaking", "failed"])
@both_loops
def test_after_abort_ready_is_not_called(loop: str, moment: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        if moment == "failed":
            theirs.sendall(b"USER x\r\n")
        elif moment == "stalled":
            theirs.close()
            ours.close()
            theirs, ours = socket.socketpair()
            ours.setblocking(False)
            theirs.sendall(BareClient(theirs, client_side()).hello()[:100])
        elif moment == "shaking":
            theirs.sendall(BareClient(theirs, client_side()).hello())
        transport, outcome = begin(ours, server_side(), None, check_alpn=b"pop3")
        if moment in ("shaking", "stalled"):
            await asyncio.sleep(0.01)
        transport.abort()
        await asyncio.sleep(0.05)
        assert not outcome.done()
        assert transport.is_closing()
        assert ours.fileno() == -1
        theirs.close()

    run(loop, scene)


@both_loops
def test_a_handshake_that_must_write_first(loop: str) -> None:
    async def scene() -> None:
        busy = ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "the send buffer is full")
        theirs, ours = tcp_pair()
        transport, outcome = begin(ours, Scripted.server(do_handshake=[busy, None, busy]))
        client = await asyncio.to_thread(stdlib_client, theirs, client_side())
        assert await outcome is None
        transport.abort()
        client.close()

    run(loop, scene)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OSError(113, "No route to host"), "_other"),
        (ConnectionResetError(104, "Connection reset by peer"), "reset"),
        (ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "closed"), "eof"),
        (ssl.SSLError(1, "[SSL: HTTP_REQUEST] http request"), "plaintext"),
        (ssl.SSLError(1, "[SSL] something new"), "protocol"),
    ],
)
@both_loops
def test_what_the_socket_may_raise(loop: str, fault: Exception, reason: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        theirs.sendall(BareClient(theirs, client_side()).hello())
        _, outcome = begin(ours, Scripted.server(do_handshake=[fault]))
        failure = await outcome
        assert failure is not None and failure.reason == reason
        theirs.close()

    run(loop, scene)


# No agreement.


@both_loops
def test_tls_1_1_is_refused(loop: str) -> None:
    async def scene() -> None:
        context = client_side()
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        server = server_side()
        server.minimum_version = V12
        theirs, ours = tcp_pair()
        _, outcome = begin(ours, server, None, check_alpn=b"pop3")
        told = await asyncio.to_thread(refused, theirs, context)
        failure = await outcome
        assert failure is not None and failure.reason == "protocol"
        assert told is not None and "protocol version" in str(told)
        theirs.close()

    run(loop, scene)


@both_loops
def test_no_shared_cipher(loop: str) -> None:
    async def scene() -> None:
        server, client = server_side(), client_side(V12)
        server.set_ciphers(INTERMEDIATE_CIPHERS)
        client.set_ciphers("AES256-SHA256")
        theirs, ours = tcp_pair()
        _, outcome = begin(ours, server)
        assert await asyncio.to_thread(refused, theirs, client) is not None
        failure = await outcome
        assert failure is not None and failure.reason == "no_shared_cipher"
        theirs.close()

    run(loop, scene)


@both_versions
@both_loops
def test_a_client_that_refuses_our_certificate(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        context = client_side(version)
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trustme.CA().configure_trust(stranger)
        stranger.minimum_version = stranger.maximum_version = context.maximum_version
        theirs, ours = tcp_pair()
        _, outcome = begin(ours, server_side())
        assert await asyncio.to_thread(refused, theirs, stranger) is not None
        failure = await outcome
        assert failure is not None and failure.reason == "cert_rejected"
        theirs.close()

    run(loop, scene)


def by_a_stranger() -> tuple[ssl.SSLContext, str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(context)
    return context, "localhost"


def by_the_name() -> tuple[ssl.SSLContext, str]:
    return client_side(), "mail.example.org"


@pytest.mark.parametrize("doubt", [by_a_stranger, by_the_name])
@both_loops
def test_we_refuse_a_certificate(loop: str, doubt: Callable[[], tuple[ssl.SSLContext, str]]) -> None:
    async def scene() -> None:
        context, name = doubt()
        theirs, ours = tcp_pair()
        theirs.setblocking(False)
        _, up = begin(theirs, server_side())
        _, outcome = begin(ours, context, None, server_side=False, server_hostname=name)
        failure = await outcome
        assert failure is not None and failure.reason == "unverified"
        assert failure.detail
        seen = await up
        assert seen is not None and seen.reason == "cert_rejected"

    run(loop, scene)


@both_loops
def test_an_upstream_that_speaks_in_clear(loop: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        _, outcome = begin(ours, client_side(), None, server_side=False, server_hostname="localhost")
        theirs.sendall(b"+OK POP3 \xff ready\r\n")
        failure = await asyncio.wait_for(outcome, PATIENCE)
        assert failure == TlsFailure("plaintext", r"the peer answered in clear: '+OK POP3 \xff ready\r\n'")
        theirs.close()

    run(loop, scene)


@both_loops
def test_a_host_name_that_is_none(loop: str) -> None:
    async def scene() -> None:
        for name in (None, ".example", "x" * 300):
            theirs, ours = tcp_pair()
            _, outcome = begin(ours, client_side(), None, server_side=False, server_hostname=name)
            failure = await outcome
            assert failure is not None and failure.reason == "_other"
            assert "Error: " in failure.detail
            theirs.close()

    run(loop, scene)


@both_loops
def test_the_subject_of_a_client_certificate(loop: str) -> None:
    async def scene() -> None:
        authority = trustme.CA()
        server, client = server_side(), client_side()
        server.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(server)
        authority.issue_cert("u@example.org", common_name="Jürgen").configure_cert(client)
        theirs, ours = tcp_pair()
        transport, outcome = begin(ours, server)
        peer = await asyncio.to_thread(stdlib_client, theirs, client)
        assert await outcome is None
        subject = transport.tls.peer_cert_subject
        assert subject is not None and subject.endswith(r"commonName=J\xfcrgen")
        transport.abort()
        peer.close()

    run(loop, scene)
