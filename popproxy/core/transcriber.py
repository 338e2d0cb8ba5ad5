"""The transcript of a session for somebody who looks on: lines redacted by type, bodies summed up.

It stands beside the session and changes nothing. Lines of the client before the login are told by the stage itself,
which alone knows whether they belong to an exchange; all else are octets as they come and go. Replies are framed by
what was asked for, as the session frames them.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from popproxy.core.answers import Answers
from popproxy.core.flight import CAREFUL, LOCAL, MULTI, FlightEntry
from popproxy.core.phases import Phase
from popproxy.core.redaction import Secrets, line_of, reply_kind, shown, text_of
from popproxy.core.transaction import Transaction
from popproxy.wire.commands import VERBS, Command, Where
from popproxy.wire.framer import BodyScanner

if TYPE_CHECKING:
    from popproxy.core.session import Session

CLIENT, TO_CLIENT, TO_UPSTREAM, UPSTREAM, NOTE = "C>", "<S", "U>", "<U", "--"
"""Marks: what the client said, was told, what was said upstream, what came from there, and what happened."""

Tell = Callable[[str, str], None]
"""Takes a line: its mark and its text."""

_LINE = 65536
"""Octets of a line that are kept; of a longer one nothing is shown."""
_CAPABILITIES = 4096


class _Body:
    """A dot-terminated body on its way: counted, not kept."""

    __slots__ = ("_dots", "_lines", "_octets", "_scanner", "_tail", "kept")

    def __init__(self, scanner: BodyScanner | None = None, keep: bool = False) -> None:
        self._scanner = scanner or BodyScanner()
        self._octets = self._lines = self._dots = 0
        self._tail = b"\r\n"
        self.kept: bytearray | None = bytearray() if keep else None

    def take(self, data: bytes, place: int) -> int:
        """Take what is of the body from ``place`` on: the offset behind its end, or -1 when it goes on."""
        end = self._scanner.scan(data, place)
        piece = data[place : len(data) if end < 0 else end]
        self._octets += len(piece)
        self._lines += piece.count(b"\n")
        self._dots += (self._tail + piece).count(b"\n..")
        self._tail = (self._tail + piece)[-2:]
        if self.kept is not None and len(self.kept) < _CAPABILITIES:
            self.kept += piece
        return end

    def summary(self, what: str) -> str:
        """``<message: 31,245 octets, 402 lines>``: without the dots and the line that only carry it."""
        octets, lines = max(0, self._octets - 3 - self._dots), max(0, self._lines - 1)
        return f"<{what}: {octets:,} octets, {lines:,} {'line' if lines == 1 else 'lines'}>"


class _Lines:
    """Octets cut into lines, in pieces of any size."""

    __slots__ = ("_begun", "_lost")

    def __init__(self) -> None:
        self._begun = b""
        self._lost = 0

    def take(self, data: bytes, place: int) -> tuple[bytes | None, int]:
        """The line that ends in ``data`` from ``place`` on, its end included, and the offset behind it; None when
        none ends there. An overlong line comes as an empty one."""
        end = data.find(b"\n", place)
        piece = data[place : len(data) if end < 0 else end + 1]
        if self._lost or len(self._begun) + len(piece) > _LINE:
            self._lost += len(self._begun) + len(piece)
            self._begun = b""
        else:
            self._begun += piece
        if end < 0:
            return None, len(data)
        line, self._begun, self._lost = self._begun, b"", 0
        return line, end + 1


class _Replies:
    """What comes from one peer in answer to what the other asked. ``asked`` are the kinds of reply that are due."""

    __slots__ = ("_body", "_hides", "_kind", "_lines", "_mark", "_tell", "_uploads", "asked")

    def __init__(self, mark: str, tell: Tell, hides: Callable[[bytes], bool], uploads: Callable[[], None]) -> None:
        self.asked: deque[str] = deque()
        self._mark = mark
        self._tell = tell
        self._hides = hides
        self._uploads = uploads
        self._lines = _Lines()
        self._body: _Body | None = None
        self._kind = ""

    def inside(self, kind: str, scanner: BodyScanner | None) -> None:
        """A body is on its way already; its beginning was not seen."""
        if scanner is None:
            scanner = BodyScanner()
            # It cannot be told where in a line this begins: at no place where a terminator could.
            scanner.scan(b"....")
        self._body, self._kind = _Body(scanner), f"rest of a {kind}"

    def feed(self, data: bytes) -> None:
        """Octets of the peer."""
        place = 0
        while place < len(data):
            if self._body is not None:
                end = self._body.take(data, place)
                if end < 0:
                    return
                place = end
                self._ended(self._body)
            else:
                line, place = self._lines.take(data, place)
                if line is not None:
                    self._line(line)

    def _ended(self, body: _Body) -> None:
        self._body = None
        if body.kept is not None:
            names = b", ".join(bytes(body.kept).split(b"\r\n")[:-2])
            if not self._hides(names):
                self._tell(self._mark, f"<capabilities: {text_of(names)}>")
                return
        self._tell(self._mark, body.summary(self._kind))

    def _line(self, line: bytes) -> None:
        text = line_of(line)
        status = b"+OK" if text.startswith(b"+OK") else b"-ERR" if text.startswith(b"-ERR") else b""
        if not status:
            challenge = text == b"+" or text.startswith(b"+ ")
            told = f"+ <sasl challenge, {len(text[2:])} octets>" if challenge else f"<no reply, {len(text)} octets>"
            self._tell(self._mark, told)
            return
        kind = self.asked.popleft() if self.asked else ""
        said = text[len(status) :]
        if self._hides(said):
            self._tell(self._mark, f"{status.decode()} <text that repeats a secret, {len(said)} octets>")
        else:
            self._tell(self._mark, status.decode() + text_of(said))
        if status != b"+OK" or not kind:
            return
        if kind == "upload":
            self._uploads()
        else:
            self._body, self._kind = _Body(keep=kind == "capabilities"), kind


class _Sender:
    """Commands and uploads of one peer, as octets, in the state ``where``."""

    __slots__ = ("_lines", "_mark", "_tell", "line", "upload")

    def __init__(self, mark: str, tell: Tell, line: Callable[[bytes], None]) -> None:
        self.line = line
        self.upload: _Body | None = None
        self._mark = mark
        self._tell = tell
        self._lines = _Lines()

    def feed(self, data: bytes) -> None:
        """Octets of the peer."""
        place = 0
        while place < len(data):
            if self.upload is not None:
                end = self.upload.take(data, place)
                if end < 0:
                    return
                self._tell(self._mark, self.upload.summary("message"))
                self.upload, place = None, end
            else:
                line, place = self._lines.take(data, place)
                if line is not None:
                    self.line(line)


class Transcriber:
    """Writes down what ``session`` says and hears from here on. ``tell`` takes each line."""

    def __init__(self, session: Session, tell: Tell) -> None:
        self._session = session
        self._tell = tell
        self._said = Secrets()
        # Who comes later does not know whether a name was given before.
        self._named = session.octets_in > 0
        self._authenticating = False
        # A secret that was said before is not known, and the answer to it is on its way.
        self._late = session.phase is Phase.LOGGING_IN
        self._sent = _Sender(CLIENT, tell, self._client_line)
        self._asked = _Sender(TO_UPSTREAM, tell, self._upstream_line)
        self._answered = _Replies(TO_CLIENT, tell, self._hides, self._client_uploads)
        self._heard = _Replies(UPSTREAM, tell, self._hides, self._upstream_uploads)
        if isinstance(session.stage, Transaction):
            self._join(session.stage)

    def _join(self, stage: Transaction) -> None:
        """The session is past its login: what is on its way is known."""
        answers: Answers = stage.answers
        due = [_due(entry) for entry in (*stage.flight, *(entry for _, entry in stage.backlog))]
        self._answered.asked.extend(due)
        self._heard.asked.extend(_due(entry) for entry in stage.flight if entry[0] != LOCAL)
        if answers.streaming and due:
            kind = due[0] or "reply"
            self._answered.asked.popleft()
            self._heard.asked.popleft()
            self._heard.inside(kind, copy.copy(answers.scanner))
            self._answered.inside(kind, copy.copy(answers.scanner) if answers.sink is None else None)
        elif answers.held:
            self._heard.feed(answers.held)
        if stage.upload is not None:
            self._sent.upload = _Body(copy.copy(stage.upload))
            self._asked.upload = _Body(copy.copy(stage.upload))
        self._sent.feed(stage.rest)

    # What the session tells

    def line(self, line: bytes, exchange: bool) -> None:
        """A line of the client before the login; ``exchange``: it belongs to AUTH."""
        self._late = False
        text = line_of(line)
        if exchange:
            self._said.sasl(text)
            self._tell(CLIENT, "*" if text == b"*" else f"<sasl response, {len(text)} octets>")
            return
        told, command = shown(text, Where.AUTHORIZATION, self._session.plan.verbs)
        name = b"" if command is None else command.verb.name
        if command is not None and name == b"USER" and (self._named or b" " in command.argument):
            # A second name in a row is often the password, and so is a second word.
            told = f"USER <name, {len(command.argument)} octets>"
            self._said.name(command.argument)
        self._named = name == b"USER"
        self._keep(text, command)
        self._answered.asked.append(reply_kind(command))
        self._tell(CLIENT, told)

    def rest(self, data: bytes) -> None:
        """The login is over; ``data`` is what the client sent behind it."""
        self._sent.feed(data)

    # What the pump tells

    def client_data(self, data: bytes) -> None:
        """Octets of the client; before the login line() has them."""
        if isinstance(self._session.stage, Transaction):
            self._sent.feed(data)

    def client_told(self, data: bytes) -> None:
        """Octets for the client."""
        self._answered.feed(data)

    def upstream_data(self, data: bytes) -> None:
        """Octets from upstream."""
        if self._authenticating and (b"+OK" in data or b"-ERR" in data):
            self._authenticating = False
        self._heard.feed(data)

    def upstream_told(self, data: bytes) -> None:
        """Octets for the upstream."""
        self._asked.feed(data)

    def upstream_new(self) -> None:
        """Another connection upstream: nothing is due on it but a greeting."""
        self._authenticating = False
        self._asked = _Sender(TO_UPSTREAM, self._tell, self._upstream_line)
        self._heard = _Replies(UPSTREAM, self._tell, self._hides, self._upstream_uploads)

    def note(self, event: str, fields: Mapping[str, object]) -> None:
        """Something happened. Fields are those of the log, which hold no secret; bytes are not shown all the same."""
        words = [f"{key}={self._word(value)}" for key, value in fields.items() if value is not None and value != ""]
        self._tell(NOTE, " ".join((event, *words)))

    def _word(self, value: object) -> str:
        if isinstance(value, str):
            octets = value.encode("utf-8", "backslashreplace")
            text = "<hidden, for it repeats a secret>" if self._hides(octets) else text_of(octets)
            return text if " " not in text and '"' not in text else '"' + text.replace('"', '\\"') + '"'
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:.3f}" if isinstance(value, float) else str(value) if isinstance(value, int) else "<hidden>"

    # Lines of commands

    def _client_line(self, line: bytes) -> None:
        text = line_of(line)
        told, command = shown(text, Where.TRANSACTION, self._session.plan.verbs)
        self._keep(text, command)
        self._answered.asked.append(reply_kind(command))
        self._tell(CLIENT, told if line else f"<line of more than {_LINE} octets>")

    def _keep(self, text: bytes, command: Command | None) -> None:
        if command is None:
            self._said.strange(text)
        else:
            self._said.command(command)

    def _upstream_line(self, line: bytes) -> None:
        text = line_of(line)
        if self._authenticating:
            self._said.sasl(text)
            self._tell(TO_UPSTREAM, f"<sasl response, {len(text)} octets>")
            return
        here = Where.TRANSACTION if isinstance(self._session.stage, Transaction) else Where.AUTHORIZATION
        told, command = shown(text, here, self._session.plan.verbs)
        if command is not None and command.verb.name == b"USER" and self._said.repeated(command.argument):
            told = f"USER <name, {len(command.argument)} octets>"
        if command is None and here is Where.AUTHORIZATION:
            # A server that says +OK where a challenge is due ends AUTH too early for who only listens.
            self._said.sasl(text)
        self._said.command(command)
        self._authenticating = command is not None and command.verb.name == b"AUTH" and here is Where.AUTHORIZATION
        self._heard.asked.append(reply_kind(command))
        self._tell(TO_UPSTREAM, told)

    def _hides(self, text: bytes) -> bool:
        view = self._session.view
        return self._late or self._said.repeated(text, view.user, view.login)

    def _client_uploads(self) -> None:
        self._sent.upload = _Body()

    def _upstream_uploads(self) -> None:
        self._asked.upload = _Body()


_KINDS = {VERBS[b"RETR"].index: "message", VERBS[b"TOP"].index: "message"}


def _due(entry: FlightEntry) -> str:
    """The kind of reply that an entry of the flight awaits."""
    kind, index, _, thing = entry
    if kind == CAREFUL:
        return reply_kind(thing.sent)
    if kind == LOCAL:
        return "listing" if isinstance(thing, bytes) and thing.count(b"\n") > 1 else ""
    return _KINDS.get(index, "listing") if kind == MULTI else ""

