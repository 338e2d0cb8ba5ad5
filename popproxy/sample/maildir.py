"""A Maildir as a POP3 maildrop: numbered, sized, locked, and left as it is until UPDATE.

Law: a message is its file. The base name (what stands before ``:``) gives order and unique-id, so both
survive a change of flags and the move from new/ to cur/. Sizes are those of the octets that travel: every
line ends with CRLF, a bare CR stays what it is (RFC 1939 section 11).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CHUNK = 65_536  # octets read from a file at once

_UID = re.compile(rb"[!-~]{1,70}")  # RFC 1939 section 7, UIDL
_SECONDS = re.compile(rb"[0-9]{1,18}")


class InUseError(Exception):
    """Another session holds the maildrop."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the session found it.

    ``octets`` is what RETR sends before byte-stuffing and without the terminator; ``ascii_header`` says
    whether its header needs RFC 6856 to travel; ``file_state`` is (octets, mtime in ns) of the file.
    """

    base: bytes
    path: Path
    uid: bytes
    octets: int
    ascii_header: bool
    file_state: tuple[int, int]


class Maildrop:
    """The exclusive view of one session on a Maildir. Made by Maildir.open(); close() gives the lock back."""

    def __init__(self, maildir: Maildir, lock: int, messages: tuple[Message, ...]) -> None:
        self.messages = messages
        self._maildir = maildir
        self._lock = lock

    def read(self, message: Message) -> BinaryIO:
        """The message's file, opened, for wire_chunks().

        OSError if it is gone, or is no longer the file whose size was announced.
        """
        try:
            file = message.path.open("rb")
        except FileNotFoundError:
            file = self._find(message).open("rb")
        if _state(os.fstat(file.fileno())) != message.file_state:
            file.close()
            raise OSError(f"{message.path} was changed while a session held it; a Maildir file never changes")
        return file

    def remove(self, messages: Iterable[Message]) -> list[OSError]:
        """Delete the files for good; the errors of those that are still there, so [] when all are gone."""
        errors: list[OSError] = []
        for message in messages:
            try:
                try:
                    message.path.unlink()
                except FileNotFoundError:
                    self._find(message).unlink()
            except FileNotFoundError:
                continue  # another program deleted it first: what the client asked for is so
            except OSError as error:
                errors.append(error)
        return errors

    def close(self) -> None:
        """Give the lock back; deletes nothing. Call it once."""
        os.close(self._lock)

    def _find(self, message: Message) -> Path:
        """Where the message is now: a mail reader renames a file when its flags change."""
        path = self._maildir.files().get(message.base)
        if path is None:
            raise FileNotFoundError(f"message {message.path.name} is no longer in {self._maildir.directory}")
        return path


class Maildir:
    """One Maildir (cur/ and new/) for the life of a server; remembers the sizes it has counted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._known: dict[bytes, Message] = {}

    def open(self) -> Maildrop:
        """Lock the Maildir and count its messages, in a stable order: oldest delivery first.

        Reads every file that is new since the last time: call it off the event loop. InUseError when the
        lock is held, in this process or in another; OSError when the Maildir cannot be read.
        """
        lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = {base: self._measured(base, path) for base, path in self.files().items()}
        except BlockingIOError as error:
            os.close(lock)
            raise InUseError(f"{self.directory} is held by another session") from error
        except BaseException:
            os.close(lock)
            raise
        self._known = found
        return Maildrop(self, lock, tuple(sorted(found.values(), key=_delivery)))

    def files(self) -> dict[bytes, Path]:
        """Base name and path of every message there is now."""
        found: dict[bytes, Path] = {}
        # cur/ last: a message that is moved out of new/ meanwhile is met twice, never missed.
        for folder in ("new", "cur"):
            with os.scandir(self.directory / folder) as entries:
                for entry in entries:
                    base = os.fsencode(entry.name).partition(b":")[0]
                    if base and not base.startswith(b".") and entry.is_file():
                        found[base] = Path(entry.path)
        return found

    def _measured(self, base: bytes, path: Path) -> Message:
        with path.open("rb") as file:
            state = _state(os.fstat(file.fileno()))
            known = self._known.get(base)
            if known is not None and known.file_state == state and known.path == path:
                return known
            ascii_header = all(chunk.isascii() for chunk in first_lines(wire_chunks(file), 0))
            file.seek(0)
            octets = sum(map(len, wire_chunks(file)))
        uid = base if _UID.fullmatch(base) else hashlib.sha256(base).hexdigest().encode("ascii")
        return Message(base, path, uid, octets, ascii_header, state)


def wire_chunks(file: BinaryIO) -> Iterator[bytes]:
    """A stored message as it travels, before byte-stuffing, at most about two CHUNKs at a time.

    A bare LF becomes CRLF, a bare CR stays, a last line without an end gets one. An empty file has no lines.
    """
    held = b""  # a CR at the edge of a chunk: whether it is bare is known with the next octet
    last = b"\n"
    while chunk := file.read(CHUNK):
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""
        if held:
            chunk = chunk[:-1]
        if chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            last = chunk[-1:]
            yield chunk
    if held or last != b"\n":
        yield held + b"\r\n"


def first_lines(chunks: Iterator[bytes], lines: int) -> Iterator[bytes]:
    """The header, the blank line and so many ``lines`` of the body: TOP (RFC 1939 section 7).

    ``chunks`` come from wire_chunks(), so that LF occurs in CRLF only. A message without a blank line is
    all header and passes whole.
    """
    before = b"\r\n"  # the last octets seen; a message may begin with its blank line
    in_header = True
    for chunk in chunks:
        at = 0
        if in_header:
            found = (before + chunk).find(b"\r\n\r\n")
            if found < 0:
                before = (before + chunk)[-3:]
                yield chunk
                continue
            in_header = False
            at = found + 4 - len(before)
        ends = chunk.count(b"\n", at)
        if ends < lines:
            lines -= ends
            yield chunk
            continue
        for _ in range(lines):
            at = chunk.index(b"\n", at) + 1
        yield chunk[:at]
        return


def _state(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _delivery(message: Message) -> tuple[int, bytes]:
    """Sorts by the second of delivery that begins a Maildir name, then by the name."""
    seconds = _SECONDS.match(message.base)
    return int(seconds.group()) if seconds else 0, message.base
