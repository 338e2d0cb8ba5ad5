"""The sample server's sockets: asyncio around Session.

Law: pull, never push. A connection reads only when all outputs of what it read are sent, and takes the next
output only when the client has taken the last one, so a session holds one read and a bounded write buffer.
Reading stands still between two reads; that is also why nothing sent in clear can slip behind STLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import cast

from popproxy.sample.maildir import Maildir
from popproxy.sample.outputs import Close, Job, StartTls
from popproxy.sample.session import KNOWN_MECHANISMS, MECHANISMS, Offer, Session

GATHER = 16_384  # small outputs are put together up to this many octets
WRITE_BUFFER = 131_072  # octets waiting for the client before the next output is taken

_log = logging.getLogger(__name__)


class SampleServer:
    """A POP3 server over Maildirs: ``async with SampleServer(...) as server: ... server.port``.

    ``maildirs`` and ``passwords`` have the same users. With ``tls`` the server offers STLS, or speaks TLS from
    the first octet when ``implicit_tls`` is set. ``port`` 0 takes a free one. ``apop_secrets`` (user: secret)
    turns APOP on, ``mechanisms`` are those of SASL (wire/sasl), ``tokens`` (user: token) what OAUTHBEARER and
    XOAUTH2 let in, ``clear_auth=False`` refuses a login without TLS, ``international=False`` makes it a server
    that does not know RFC 6856. ``idle_timeout`` is in seconds: for a client that neither sends nor takes
    anything (RFC 1939 section 3 asks for ten minutes at least). ValueError tells what does not fit together.
    """

    def __init__(
        self,
        maildirs: Mapping[str, Path],
        passwords: Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        apop_secrets: Mapping[str, str] | None = None,
        clear_auth: bool = True,
        international: bool = True,
        mechanisms: tuple[str, ...] = MECHANISMS,
        tokens: Mapping[str, str] | None = None,
        idle_timeout: float = 600.0,
    ) -> None:
        if lonely := sorted(maildirs.keys() ^ passwords.keys()):
            raise ValueError(f"each user needs a Maildir and a password; one of both is missing for {lonely}")
        if unknown := sorted((apop_secrets or {}).keys() - maildirs.keys()):
            raise ValueError(f"apop_secrets names users without a Maildir: {unknown}")
        if implicit_tls and tls is None:
            raise ValueError("implicit_tls needs a certificate: give tls=<ssl.SSLContext>")
        if not clear_auth and tls is None:
            raise ValueError("clear_auth=False without tls=<ssl.SSLContext> lets nobody log in")
        self._maildirs = {user: Maildir(directory) for user, directory in maildirs.items()}
        if unknown := sorted(set(mechanisms) - KNOWN_MECHANISMS):
            raise ValueError(f"mechanisms names what this server does not speak: {unknown}")
        self._offer = Offer(
            passwords, apop_secrets or {}, tls is not None, clear_auth, international, mechanisms, tokens or {}
        )
        self._address = (host, port)
        self._tls = tls
        self._implicit_tls = implicit_tls
        self._idle_timeout = idle_timeout
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The TCP port. RuntimeError before start()."""
        if self._server is None:
            raise RuntimeError("the sample server has no port before start()")
        return cast(int, self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen. OSError when the port is taken; FileNotFoundError when a Maildir lacks new/ or cur/."""
        for maildir in self._maildirs.values():
            for folder in (maildir.directory / "new", maildir.directory / "cur"):
                if not folder.is_dir():
                    raise FileNotFoundError(f"{folder} is no directory: a Maildir has new/ and cur/")
        host, port = self._address
        implicit = self._tls if self._implicit_tls else None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, host, port, ssl=implicit)

    async def stop(self) -> None:
        """Stop listening and cut all sessions: nothing is deleted, except where UPDATE has begun."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in self._sessions:
            task.cancel()
        if self._sessions:
            await asyncio.wait(self._sessions)

    async def __aenter__(self) -> SampleServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.stop()

    def _connection(self) -> _Connection:
        stamp = f"<{secrets.token_hex(8)}.{time.time_ns()}@sample.example.org>".encode("ascii")
        session = Session(
            self._offer,
            lambda user: self._maildirs[user].open(),
            tls=self._implicit_tls,
            timestamp=stamp,
        )
        return _Connection(session, self._tls, self._idle_timeout, self._keep)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._sessions.add(task)
        task.add_done_callback(self._forget)
        if self._server is None:  # a TLS handshake outlived stop()
            task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._sessions.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a session of the sample server failed", exc_info=error)


class _Connection(asyncio.Protocol):
    """One client: feeds its Session and carries out what the session asks for."""

    def __init__(
        self,
        session: Session,
        tls: ssl.SSLContext | None,
        idle_timeout: float,
        keep: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._session = session
        self._tls = tls
        self._idle_timeout = idle_timeout
        self._keep = keep
        self._in_tls = False
        self._in_handshake = False
        self._inbox = bytearray()
        self._no_more_input = False
        self._arrival = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._use(cast(asyncio.Transport, transport))
        self._in_tls = transport.get_extra_info("ssl_object") is not None
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.get_running_loop().create_task(self._serve())
        task.add_done_callback(self._over)
        self._keep(task)

    def data_received(self, data: bytes) -> None:
        if not self._in_handshake:  # what comes with its last octets comes before _transport is the new one
            self._transport.pause_reading()
        self._inbox += data
        self._arrival.set()

    def eof_received(self) -> bool:
        """A client that has sent all it will send still gets its replies; asyncio's TLS has no half-close."""
        self._no_more_input = True
        self._arrival.set()
        return not self._in_tls

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.set()
        self._no_more_input = True
        self._arrival.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # The one task of the connection

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        transport.pause_reading()

    async def _serve(self) -> None:
        """Greeting to end. However it ends, the session ends and the connection is closed."""
        try:
            self._transport.write(self._session.greeting())
            while (data := await self._read()) and await self._answer(data):
                pass
            self._transport.close()
            async with asyncio.timeout(self._idle_timeout):
                await self._lost.wait()
        except (TimeoutError, ssl.SSLError, ConnectionError) as error:
            _log.info("a client of the sample server went away: %r", error)
        finally:
            self._over()
            if not self._in_handshake:  # a transport whose handshake failed does not say when it is gone
                await self._lost.wait()

    def _over(self, task: asyncio.Task[None] | None = None) -> None:
        """Also called for a task that was cancelled before it began. May be called more than once."""
        self._session.end()
        self._transport.abort()

    async def _read(self) -> bytes:
        """The next octets of the client; none when there will be no more."""
        if not self._inbox and not self._no_more_input:
            self._arrival.clear()
            self._transport.resume_reading()
            async with asyncio.timeout(self._idle_timeout):
                await self._arrival.wait()
        data = bytes(self._inbox)
        self._inbox.clear()
        return data

    async def _answer(self, data: bytes) -> bool:
        """Send what the session has to say to ``data``; False when that ends the connection."""
        waiting: list[bytes] = []
        octets = 0
        with contextlib.closing(self._session.receive(data)) as outputs:
            for output in outputs:
                if isinstance(output, bytes):
                    waiting.append(output)
                    octets += len(output)
                    if octets < GATHER:
                        continue
                await self._send(waiting)
                octets = 0
                # A client that is gone asks for nothing more: also a QUIT behind unread replies deletes nothing.
                if self._lost.is_set() or isinstance(output, Close):
                    return False
                if isinstance(output, Job):
                    await _run(output)
                elif isinstance(output, StartTls):
                    await self._start_tls()
        await self._send(waiting)
        return not self._lost.is_set()

    async def _send(self, waiting: list[bytes]) -> None:
        """Write, and wait until the client has taken enough of it. Empties ``waiting``."""
        if waiting:
            self._transport.write(b"".join(waiting))
            waiting.clear()
        async with asyncio.timeout(self._idle_timeout):
            await asyncio.sleep(0)  # a client that takes all at once must not keep the loop to itself
            await self._writable.wait()

    async def _start_tls(self) -> None:
        assert self._tls is not None, "a session asks for TLS only where it is offered"
        if self._inbox:
            raise ConnectionAbortedError("the client sent more in clear behind STLS")
        self._in_handshake = True
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(
            self._transport, self, self._tls, server_side=True, ssl_handshake_timeout=self._idle_timeout
        )
        if transport is None:
            raise ConnectionResetError("the client left during the TLS handshake")
        self._in_tls = True
        self._in_handshake = False
        self._use(transport)
        self._session.tls_started()


async def _run(job: Job) -> None:
    """Run the job in a thread, to its end also when the connection is cut: it may hold the lock, or delete."""
    done = asyncio.ensure_future(asyncio.to_thread(job.run))
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait((done,))
        raise
