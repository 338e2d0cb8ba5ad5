"""The line between the supervisor and one worker: messages of plain data over a Unix stream socket, and open sockets.

A frame is a head of eight octets (length of the body, number of sockets) and a body in marshal, which both ends trust
because both are this program. Sockets travel beside the head's octets (SCM_RIGHTS), and a message is delivered when it
is whole with all its sockets. Reads and writes never wait; what the peer does not take yet is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

_HEAD = struct.Struct("!II")
_CHUNK = 1 << 18
_RIGHTS = 200
"""Sockets in one sendmsg; Linux takes 253."""
_ANCILLARY = socket.CMSG_SPACE(253 * 4)

Message = tuple[Any, ...]
Taken = Callable[[Message, list[socket.socket]], None]


class Channel:
    """One end, on the running loop, which owns ``sock``.

    ``taken`` gets every message with the sockets that came with it and belong to it; ``gone`` is called once when the
    peer's end is closed (it ended, or was killed) or broken, and not after close().
    """

    def __init__(self, sock: socket.socket, taken: Taken, gone: Callable[[], None]) -> None:
        self._sock = sock
        self._taken = taken
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._read = bytearray()
        self._rights: deque[int] = deque()
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        self._open = True
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, sockets: Sequence[socket.socket] = ()) -> None:
        """Send ``message``; copies of ``sockets`` go with it. Nothing happens on a channel that is closed. Raises
        OSError, and sends nothing, when there is no descriptor left for the copies."""
        if not self._open:
            return
        body = marshal.dumps(message)
        rights: list[int] = []
        try:
            for sock in sockets:
                rights.append(os.dup(sock.fileno()))
        except OSError:
            _close(rights)
            raise
        frame = memoryview(_HEAD.pack(len(body), len(rights)) + body)
        # An octet for each load of sockets: no recvmsg returns more of them than it has room for.
        while len(rights) > _RIGHTS:
            self._unsent.append((frame[:1], rights[:_RIGHTS]))
            frame, rights = frame[1:], rights[_RIGHTS:]
        idle = not self._unsent
        self._unsent.append((frame, rights))
        if idle:
            self._writable()

    def close(self) -> None:
        """Close this end. May be repeated."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, rights in self._unsent:
            _close(rights)
        _close(self._rights)
        self._unsent.clear()
        self._rights.clear()

    def _writable(self) -> None:
        while self._unsent:
            octets, rights = self._unsent[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(rights)}i", *rights))]
            try:
                sent = self._sock.sendmsg([octets], ancillary if rights else [])
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._writable)
                return
            except OSError:
                self._lost()
                return
            # Sockets went with the first octet.
            _close(rights)
            if sent == len(octets):
                self._unsent.popleft()
            else:
                self._unsent[0] = (octets[sent:], [])
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            octets, ancillary, flags, _ = self._sock.recvmsg(_CHUNK, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._rights.extend(struct.unpack(f"{len(data) // 4}i", data))
        if not octets or flags & socket.MSG_CTRUNC:
            # Truncated: this process has no descriptor left for a socket, and the stream cannot be trusted any more.
            self._lost()
            return
        self._read += octets
        self._deliver()

    def _deliver(self) -> None:
        while self._open and len(self._read) >= _HEAD.size:
            length, count = _HEAD.unpack_from(self._read)
            end = _HEAD.size + length
            if len(self._read) < end:
                return
            message = marshal.loads(memoryview(self._read)[_HEAD.size : end].tobytes())
            del self._read[:end]
            sockets = [socket.socket(fileno=self._rights.popleft()) for _ in range(count)]
            self._taken(message, sockets)

    def _lost(self) -> None:
        if self._open:
            self.close()
            # From the loop, not from within send().
            self._loop.call_soon(self._gone)


def _close(descriptors: list[int] | deque[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that are connected."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
