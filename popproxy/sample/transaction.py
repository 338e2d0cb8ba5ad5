"""The TRANSACTION and UPDATE states of the sample server (RFC 1939 sections 5 to 7).

Law: numbers and sizes never change during a session, a deletion is a mark until UPDATE, and a body that
cannot be sent whole is not ended: the connection is closed instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import BinaryIO

from popproxy.sample.maildir import Maildrop, Message, first_lines, wire_chunks
from popproxy.sample.outputs import Close, Job, Output
from popproxy.wire.commands import Command
from popproxy.wire.dots import Stuffer
from popproxy.wire.replies import err, ok

LIST_BATCH = 500  # lines of LIST and UIDL in one output

_NO_SUCH_MESSAGE = err("No such message")
_log = logging.getLogger(__name__)


class Transaction:
    """The commands on one open maildrop, which it owns: call end() when the session is over.

    ``ascii_only`` refuses messages whose header needs UTF8 (RFC 6856 section 2.1).
    """

    def __init__(self, maildrop: Maildrop, *, ascii_only: bool) -> None:
        self._maildrop = maildrop
        self._ascii_only = ascii_only
        self._deleted: set[int] = set()
        self._last = 0
        self._ended = False
        self.handlers: dict[bytes, Callable[[Command], Iterable[Output]]] = {
            b"STAT": self._stat,
            b"LIST": partial(self._list, lambda message: b"%d" % message.octets),
            b"UIDL": partial(self._list, lambda message: message.uid),
            b"RETR": self._retr,
            b"TOP": self._top,
            b"DELE": self._dele,
            b"NOOP": lambda command: (ok(),),
            b"RSET": self._rset,
            b"LAST": lambda command: (ok(str(self._last)),),
            b"QUIT": self._quit,
        }

    def end(self) -> None:
        """Give the maildrop back as it is. May be called more than once."""
        if not self._ended:
            self._ended = True
            self._maildrop.close()

    def summary(self) -> str:
        """How much there is, in words."""
        present = [message.octets for _, message in self._present()]
        return f"{len(present)} messages ({sum(present)} octets)"

    def _present(self) -> Iterator[tuple[int, Message]]:
        numbered = enumerate(self._maildrop.messages, 1)
        return ((number, message) for number, message in numbered if number not in self._deleted)

    def _named(self, command: Command) -> tuple[int, Message] | None:
        """The message whose number is the first argument, unless it is marked as deleted."""
        number = int(command.arguments[0])
        if not 1 <= number <= len(self._maildrop.messages) or number in self._deleted:
            return None
        return number, self._maildrop.messages[number - 1]

    def _stat(self, command: Command) -> Iterable[Output]:
        sizes = [message.octets for _, message in self._present()]
        return (ok(f"{len(sizes)} {sum(sizes)}"),)

    def _list(self, column: Callable[[Message], bytes], command: Command) -> Iterator[Output]:
        if command.arguments:
            found = self._named(command)
            yield ok(b"%d %b" % (found[0], column(found[1]))) if found else _NO_SUCH_MESSAGE
            return
        yield ok(self.summary())
        lines = (b"%d %b\r\n" % (number, column(message)) for number, message in self._present())
        while batch := b"".join(islice(lines, LIST_BATCH)):
            yield batch
        yield b".\r\n"

    def _dele(self, command: Command) -> Iterable[Output]:
        found = self._named(command)
        if found is None:
            return (_NO_SUCH_MESSAGE,)
        self._deleted.add(found[0])
        return (ok("Marked, to be deleted at QUIT"),)

    def _rset(self, command: Command) -> Iterable[Output]:
        self._deleted.clear()
        self._last = 0  # RFC 1460, RSET
        return (ok(self.summary()),)

    def _retr(self, command: Command) -> Iterator[Output]:
        return self._send(command, None)

    def _top(self, command: Command) -> Iterator[Output]:
        return self._send(command, int(command.arguments[1]))

    def _send(self, command: Command, lines: int | None) -> Iterator[Output]:
        """RETR, or TOP when ``lines`` of the body are asked for."""
        found = self._named(command)
        if found is None:
            yield _NO_SUCH_MESSAGE
            return
        number, message = found
        if self._ascii_only and not message.ascii_header:
            yield err("The header is not ASCII: send UTF8 before you log in", b"UTF8")
            return
        try:
            file = self._maildrop.read(message)
        except OSError as error:
            _log.warning("message not sent: %s", error)
            yield err("The message cannot be read now", b"SYS/TEMP")
            return
        with file:
            if lines is None:
                self._last = max(self._last, number)
                yield ok(f"{message.octets} octets")
            else:
                yield ok("Top of the message follows")
            yield from self._body(file, message, lines)

    def _body(self, file: BinaryIO, message: Message, lines: int | None) -> Iterator[Output]:
        stuffer = Stuffer()
        sent = 0
        chunks = wire_chunks(file)
        try:
            for chunk in chunks if lines is None else first_lines(chunks, lines):
                sent += len(chunk)
                yield stuffer.feed(chunk)
        except OSError as error:
            _log.warning("message cut short, %s: %s", message.path, error)
            yield Close()
            return
        if lines is None and sent != message.octets:
            _log.warning("message cut short, %s: changed while it was read", message.path)
            yield Close()
            return
        yield stuffer.finish()

    def _quit(self, command: Command) -> Iterator[Output]:
        """UPDATE (RFC 1939 section 6). The maildrop is free again before the client reads the reply."""
        gone = [self._maildrop.messages[number - 1] for number in sorted(self._deleted)]
        left: list[OSError] = []
        yield Job(lambda: left.extend(self._maildrop.remove(gone)))
        self.end()
        for error in left:
            _log.warning("message not deleted: %s", error)
        yield err("Some deleted messages are not removed", b"SYS/TEMP") if left else ok("Goodbye")
        yield Close()
