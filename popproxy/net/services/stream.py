"""Streams: connections of octets for protocols of a plugin's own."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Awaitable
from types import TracebackType
from typing import TypeVar

from popproxy.api.services import StreamFailed

T = TypeVar("T")

_INET = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:/\[\]\s]+)):(\d{1,5})")


class Connections:
    """The streams of one plugin that are open."""

    def __init__(self) -> None:
        self._open: set[TcpStream] = set()

    async def connect(self, address: str, timeout: float) -> TcpStream:
        """See api.Services.stream."""
        if address.startswith("unix:/"):
            opening = asyncio.open_unix_connection(address.removeprefix("unix:"))
        else:
            match = _INET.fullmatch(address)
            if match is None or not 0 < int(match[3]) < 65536:
                raise ValueError(f"{address!r} is no address: write host:port, [v6]:port or unix:/path")
            opening = asyncio.open_connection(match[1] or match[2], int(match[3]))
        reader, writer = await _bounded(opening, address, timeout, "connect")
        stream = TcpStream(reader, writer, address, timeout, self)
        self._open.add(stream)
        return stream

    def forget(self, stream: TcpStream) -> None:
        """``stream`` is closed."""
        self._open.discard(stream)

    def close(self) -> None:
        """Close all of them."""
        for stream in list(self._open):
            stream.abort()


class TcpStream:
    """api.Stream on a connection, TCP or Unix."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: str,
        timeout: float,
        owner: Connections,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._address = address
        self._timeout = timeout
        self._owner = owner

    async def read(self, limit: int = 65536) -> bytes:
        """See api.Stream."""
        return await _bounded(self._reader.read(limit), self._address, self._timeout, "read")

    async def write(self, data: bytes) -> None:
        """See api.Stream."""
        if self._writer.is_closing():
            raise StreamFailed("lost", f"{self._address}: write: the stream is closed")
        self._writer.write(data)
        await _bounded(self._writer.drain(), self._address, self._timeout, "write")

    async def write_eof(self) -> None:
        """See api.Stream."""
        try:
            self._writer.write_eof()
        except OSError as error:
            raise StreamFailed("lost", f"{self._address}: write: {words(error)}") from error

    async def close(self) -> None:
        """See api.Stream."""
        self.abort()

    def abort(self) -> None:
        """close(), without a coroutine."""
        self._owner.forget(self)
        self._writer.transport.abort()

    async def __aenter__(self) -> TcpStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


async def _bounded(work: Awaitable[T], address: str, timeout: float, what: str) -> T:
    try:
        async with asyncio.timeout(timeout):
            return await work
    except TimeoutError as error:
        raise StreamFailed("timeout", f"{address}: {what}: not done within {timeout:g} s") from error
    except OSError as error:
        raise StreamFailed(kind_of(error), f"{address}: {what}: {words(error)}") from error


def kind_of(error: OSError) -> str:
    """A fault as HttpFailed and StreamFailed name it."""
    if isinstance(error, socket.gaierror):
        return "dns"
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return "refused"
    return "lost" if isinstance(error, ConnectionError) else "unreachable"


def words(error: OSError) -> str:
    """What happened, as the system says it; asyncio puts words of its own into strerror."""
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__
