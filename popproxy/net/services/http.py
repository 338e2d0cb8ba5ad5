"""HTTP requests of plugins, on aiohttp, which is imported when the first request is made."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from popproxy.api.services import Body, HttpFailed, HttpReply
from popproxy.net.services.stream import kind_of, words

if TYPE_CHECKING:
    from aiohttp import BaseConnector, ClientResponse, ClientSession

CONNECTIONS = 100
"""Connections to all servers of one plugin; more requests wait within their deadline."""
IDLE = 30.0
"""Seconds a connection is kept that nobody uses."""
PIECE = 65536

_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_NOT_ASKED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class HttpClient:
    """api.Http. One pool of connections for every CA file and every Unix socket."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], ClientSession] = {}

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = (),
        body: Body | None = None,
        timeout: float = 10.0,
        max_octets: int = 1 << 20,
        ca_file: str | PathLike[str] | None = None,
        unix: str | PathLike[str] | None = None,
        repeatable: bool | None = None,
    ) -> HttpReply:
        """See api.Http."""
        where = _where(url, unix)
        pairs = _checked(headers)
        session = self._session("" if ca_file is None else fspath(ca_file), "" if unix is None else fspath(unix))
        again = method in _REPEATABLE if repeatable is None else repeatable
        # An iterator has been eaten; whatever makes a new one can be sent again.
        again = again and not (isinstance(body, Iterator | AsyncIterator))
        try:
            async with asyncio.timeout(timeout):
                return await self._until_fresh(session, method, url, pairs, body, max_octets, again, where)
        except TimeoutError as error:
            raise HttpFailed("timeout", f"{where}: not done within {timeout:g} s") from error

    async def close(self) -> None:
        """Close all connections."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    async def _until_fresh(
        self,
        session: ClientSession,
        method: str,
        url: str,
        headers: list[tuple[str, str]],
        body: Body | None,
        max_octets: int,
        again: bool,
        where: str,
    ) -> HttpReply:
        from aiohttp import ClientError, ClientOSError, ServerDisconnectedError

        while True:
            # The trace says here whether the connection was a kept one.
            used: list[bool] = []
            try:
                response = await session.request(
                    method,
                    url,
                    headers=headers,
                    data=_data(body),
                    allow_redirects=False,
                    trace_request_ctx=used,
                )
            except (ServerDisconnectedError, ClientOSError) as error:
                # Each such connection leaves the pool, so this ends: with a new one at the latest.
                if again and used and used[-1]:
                    continue
                raise _failed(error, where) from error
            except (ClientError, OSError) as error:
                raise _failed(error, where) from error
            try:
                content = await _content(response, max_octets, where)
            except (ClientError, OSError) as error:
                raise _failed(error, where) from error
            finally:
                # A connection with an unread rest is closed, another one kept.
                response.release()
            raw = response.raw_headers
            text = [(n.decode("utf-8", "surrogateescape"), v.decode("utf-8", "surrogateescape")) for n, v in raw]
            return HttpReply(response.status, tuple(text), content)

    def _session(self, ca_file: str, unix: str) -> ClientSession:
        session = self._sessions.get((ca_file, unix))
        if session is None:
            session = self._sessions[ca_file, unix] = _opened(ca_file, unix)
        return session


def _opened(ca_file: str, unix: str) -> ClientSession:
    from aiohttp import (
        ClientSession,
        ClientTimeout,
        DummyCookieJar,
        TCPConnector,
        TraceConfig,
        UnixConnector,
    )

    trace = TraceConfig()

    async def reused(_: ClientSession, context: Any, __: object) -> None:
        context.trace_request_ctx.append(True)

    async def created(_: ClientSession, context: Any, __: object) -> None:
        context.trace_request_ctx.append(False)

    trace.on_connection_reuseconn.append(reused)
    trace.on_connection_create_end.append(created)
    connector: TCPConnector | UnixConnector
    if unix:
        connector = UnixConnector(unix, limit=CONNECTIONS, keepalive_timeout=IDLE)
    else:
        verified = _verified(ca_file) if ca_file else True
        connector = TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE, ssl=verified)
    _forgets_what_spoke(connector)
    return ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=None),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=_NOT_ASKED,
        trace_configs=[trace],
    )


def _forgets_what_spoke(connector: BaseConnector) -> None:
    """Let ``connector`` give out no kept connection on which octets have come since.

    Nobody asked for them (RFC 9112 section 9.2), and aiohttp would take them for the answer to the next request, which
    may be about another user.
    """
    give = connector._get

    async def get(key: Any, traces: Any) -> Any:
        for kept, _ in connector._conns.get(key, ()):
            if kept.should_close:
                kept.close()
        return await give(key, traces)

    connector._get = get  # type: ignore[method-assign]


def _verified(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise HttpFailed("tls", f"{ca_file}: no CA certificates: {words(error)}") from error


async def _content(response: ClientResponse, max_octets: int, where: str) -> bytes:
    if not max_octets:
        return b""
    parts: list[bytes] = []
    octets = 0
    async for part in response.content.iter_chunked(PIECE):
        octets += len(part)
        if octets > max_octets:
            raise HttpFailed("too_large", f"{where}: the reply has more than {max_octets} octets")
        parts.append(part)
    return b"".join(parts)


def _data(body: Body | None) -> Any:
    if isinstance(body, Iterable) and not isinstance(body, bytes):
        return _async(body)
    return body


async def _async(body: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in body:
        yield part


def _checked(headers: Headers) -> list[tuple[str, str]]:
    """Raises ValueError for what would break a line (RFC 9112 section 5), without its value: it may be a secret."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    for name, value in pairs:
        if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"{name!r} is no header name")
        if any(sign in value for sign in "\r\n\0"):
            raise ValueError(f"the header {name} holds CR, LF or NUL")
    return pairs


def _where(url: str, unix: str | PathLike[str] | None) -> str:
    """Host and port for an error: a URL's user, path and query may hold secrets."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL for services.http begins with http://host or https://host")
    if unix is not None:
        return f"unix:{fspath(unix)}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _failed(error: Exception, where: str) -> HttpFailed:
    from aiohttp import (
        ClientConnectorCertificateError,
        ClientConnectorDNSError,
        ClientConnectorError,
        ClientPayloadError,
        ClientSSLError,
        ServerDisconnectedError,
    )

    if isinstance(error, ClientConnectorCertificateError):
        cause = error.certificate_error
        detail = getattr(cause, "verify_message", "") or type(cause).__name__
        return HttpFailed("tls", f"{where}: certificate: {detail}")
    if isinstance(error, ClientSSLError):
        return HttpFailed("tls", f"{where}: TLS: {words(error.os_error)}")
    if isinstance(error, ClientConnectorDNSError):
        return HttpFailed("dns", f"{where}: cannot resolve the name: {words(error.os_error)}")
    if isinstance(error, ClientConnectorError):
        return HttpFailed(kind_of(error.os_error), f"{where}: {words(error.os_error)}")
    if isinstance(error, ServerDisconnectedError):
        return HttpFailed("lost", f"{where}: closed before its reply")
    if isinstance(error, ClientPayloadError):
        return HttpFailed("lost", f"{where}: closed in the middle of its reply")
    if isinstance(error, OSError):
        return HttpFailed("lost", f"{where}: {words(error)}")
    # What is left is no HTTP; the parser's words quote what it read.
    return HttpFailed("garbage", f"{where}: its reply is no HTTP ({type(error).__name__})")
