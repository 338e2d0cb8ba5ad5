"""systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram per event.

A datagram is a list of fields, ``NAME=value`` LF; a value that holds LF stands behind its name, LF and its length
(64 bits, little endian). What is too large for a datagram is put into a sealed memfd, and its descriptor sent.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from popproxy.run.logline import LINE, encoded, plain_text

JOURNAL = Path("/run/systemd/journal/socket")

_PRIORITY = {"debug": b"7", "info": b"6", "warning": b"4", "error": b"3"}
_NO_NAME = re.compile(r"[^A-Z0-9_]")
_NAME = 64
"""Characters of the longest name that the journal takes; a longer one is dropped by it."""
_SEND_BUFFER = 8 << 20
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_LATER = (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTCONN, errno.ECONNRESET)
"""The journal was started anew: its socket is another one."""


def entry(time: str, level: str, event: str, fields: Mapping[str, object]) -> bytes:
    """The datagram of an event. A field ``client_port`` becomes POPPROXY_CLIENT_PORT; empty ones are left out."""
    text = plain_text(event, fields)
    parts = [
        _field("MESSAGE", text.encode("ascii", "backslashreplace")),
        _field("PRIORITY", _PRIORITY[level]),
        _field("SYSLOG_IDENTIFIER", b"popproxy"),
        _field("POPPROXY_EVENT", encoded(event).encode("utf-8", "backslashreplace")[:LINE]),
        _field("POPPROXY_TIME", time.encode("ascii")),
    ]
    for key, value in fields.items():
        if value is not None and value != "":
            name = "POPPROXY_" + _NO_NAME.sub("_", key.upper())
            parts.append(_field(name[:_NAME], encoded(value).encode("utf-8", "backslashreplace")))
    return b"".join(parts)


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode("ascii") + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode("ascii") + b"=" + value + b"\n"


class Journal:
    """The journal that listens at ``path``. An Outlet of run/outlet.py; a line is an entry(). Raises OSError when
    none listens."""

    longest = LINE

    def __init__(self, path: Path = JOURNAL) -> None:
        self._path = path
        self._socket = self._connected()

    def _connected(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            # The kernel gives what it may; a burst then waits in the socket and not for the journal.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            made.connect(str(self._path))
        except OSError:
            made.close()
            raise
        return made

    def write(self, lines: Sequence[bytes]) -> tuple[int, str]:
        """See Outlet. A journal that was started anew is found again."""
        lost, why = 0, ""
        for line in lines:
            try:
                self._send(line)
            except OSError as error:
                lost, why = lost + 1, f"{self._path}: {error.strerror or error}"
        return lost, why

    def _send(self, line: bytes) -> None:
        try:
            self._deliver(line)
        except OSError as error:
            if error.errno not in _LATER:
                raise
            self.reopen()
            self._deliver(line)

    def _deliver(self, line: bytes) -> None:
        try:
            self._socket.send(line)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._by_descriptor(line)

    def _by_descriptor(self, line: bytes) -> None:
        memory = os.memfd_create("popproxy-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(line)
            # The journal maps it: it takes only what nobody can change any more.
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            passed = array.array("i", [memory])
            self._socket.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
        finally:
            os.close(memory)

    def reopen(self) -> None:
        """See Outlet: connect anew."""
        fresh = self._connected()
        self.close()
        self._socket = fresh

    def close(self) -> None:
        """See Outlet."""
        self._socket.close()
