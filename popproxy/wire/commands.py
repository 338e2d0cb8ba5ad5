"""The commands of POP3: which exist, where they are legal, what follows them.

One table (RFC 1939, 2449, 2595, 5034, 6856, the older RFC 1081/1082/1225/1460, XCLIENT). A reply to a
command is a single line unless the command's framing says that ``+OK`` brings a multi-line reply; ``-ERR``
is always a single line. Verbs that are fenced are known but refused unless the operator opens them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntFlag


class Where(IntFlag):
    """The states of RFC 1939 in which a client may send a command."""

    AUTHORIZATION = 1
    TRANSACTION = 2
    BOTH = 3


class Framing(Enum):
    """What follows ``+OK``."""

    SINGLE = "single"
    MULTI = "multi"
    LISTING = "listing"
    """MULTI without an argument, SINGLE with one: LIST, UIDL, LANG, XTND BBOARDS."""
    UPLOAD = "upload"
    """After ``+OK`` the client sends a dot-terminated body, then a SINGLE reply follows: XTND XMIT."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One row of the table. ``index`` numbers the rows for counters; ``name`` is upper case."""

    index: int
    name: bytes
    where: Where
    least: int
    most: int
    framing: Framing = Framing.SINGLE
    fenced: bool = False
    numbers: bool = False
    """All arguments are message numbers or line counts: decimal digits only."""


_A, _T, _B = Where.AUTHORIZATION, Where.TRANSACTION, Where.BOTH
_ROWS: tuple[tuple[bytes, Where, int, int, Framing, bool, bool], ...] = (
    (b"USER", _A, 1, 99, Framing.SINGLE, False, False),
    (b"PASS", _A, 1, 99, Framing.SINGLE, False, False),
    (b"APOP", _A, 2, 99, Framing.SINGLE, False, False),
    (b"AUTH", _A, 0, 2, Framing.SINGLE, False, False),
    (b"STLS", _A, 0, 0, Framing.SINGLE, False, False),
    (b"CAPA", _B, 0, 99, Framing.MULTI, False, False),
    (b"UTF8", _A, 0, 0, Framing.SINGLE, False, False),
    (b"LANG", _B, 0, 1, Framing.LISTING, False, False),
    (b"QUIT", _B, 0, 0, Framing.SINGLE, False, False),
    (b"STAT", _T, 0, 0, Framing.SINGLE, False, False),
    (b"LIST", _T, 0, 1, Framing.LISTING, False, True),
    (b"RETR", _T, 1, 1, Framing.MULTI, False, True),
    (b"DELE", _T, 1, 1, Framing.SINGLE, False, True),
    (b"NOOP", _T, 0, 0, Framing.SINGLE, False, False),
    (b"RSET", _T, 0, 0, Framing.SINGLE, False, False),
    (b"TOP", _T, 2, 2, Framing.MULTI, False, True),
    (b"UIDL", _T, 0, 1, Framing.LISTING, False, True),
    (b"LAST", _T, 0, 0, Framing.SINGLE, True, False),
    (b"RPOP", _A, 1, 99, Framing.SINGLE, True, False),
    (b"XTND BBOARDS", _T, 0, 1, Framing.LISTING, True, False),
    (b"XTND X-BBOARDS", _T, 0, 1, Framing.LISTING, True, False),
    (b"XTND ARCHIVE", _T, 1, 1, Framing.SINGLE, True, False),
    (b"XTND XLST", _T, 1, 2, Framing.MULTI, True, False),
    (b"XTND XMIT", _T, 0, 99, Framing.UPLOAD, True, False),
    (b"XCLIENT", _A, 1, 99, Framing.SINGLE, False, False),
    (b"XOIP", _A, 1, 1, Framing.SINGLE, True, False),
    (b"XSENDER", _T, 1, 1, Framing.SINGLE, True, True),
)

VERBS: dict[bytes, Verb] = {row[0]: Verb(number, *row) for number, row in enumerate(_ROWS)}
"""The table by name."""

OTHER = len(VERBS)
"""The index under which verbs outside the table are counted."""

VERB_NAMES: tuple[str, ...] = (*(name.decode("ascii") for name in VERBS), "_other")
"""Names by index, for labels."""

FENCEABLE: tuple[str, ...] = tuple(name.decode("ascii") for name, verb in VERBS.items() if verb.fenced)
"""Verbs an operator may open."""


def declared(name: bytes, framing: Framing, where: Where = Where.TRANSACTION) -> Verb:
    """A verb that the operator's config declares; any arguments, counted as ``_other``."""
    return Verb(OTHER, name.upper(), where, 0, 99, framing)


@dataclass(frozen=True, slots=True)
class Command:
    """A client command: its verb and the octets after the single space behind it.

    ``argument`` of PASS keeps its spaces and 8-bit octets. repr hides what may be secret.
    """

    verb: Verb
    argument: bytes = b""

    @property
    def name(self) -> str:
        """The verb in upper case, ``XTND XLST`` with its sub-command."""
        return self.verb.name.decode("ascii", "replace")

    @property
    def arguments(self) -> tuple[bytes, ...]:
        """The argument split at spaces."""
        return tuple(_words(self.argument))

    @property
    def message(self) -> int | None:
        """The message number this command names, or None."""
        if not self.verb.numbers or not self.argument:
            return None
        return int(self.argument.split(None, 1)[0])

    @property
    def multiline(self) -> bool:
        """Whether ``+OK`` brings a multi-line reply."""
        framing = self.verb.framing
        return framing is Framing.MULTI or (framing is Framing.LISTING and not lists_one(self))

    @property
    def line(self) -> bytes:
        """The command as it travels, CRLF included."""
        if self.argument:
            return self.verb.name + b" " + self.argument + b"\r\n"
        return self.verb.name + b"\r\n"

    def __repr__(self) -> str:
        return f"Command({redacted(self)})"


_SECRET = {b"PASS", b"AUTH", b"APOP", b"RPOP"}


def lists_one(command: Command) -> bool:
    """Whether a LISTING command asks for one item. ``LANG *`` selects, it does not list (RFC 6856 section 3)."""
    return bool(command.argument)


def redacted(command: Command) -> str:
    """The command for a log: what may be secret is left out by type, never by pattern."""
    name = command.name
    if not command.argument:
        return name
    if command.verb.name in _SECRET:
        return f"{name} <hidden>"
    return f"{name} {command.argument.decode('utf-8', 'backslashreplace')!r}"


class BadCommand(ValueError):
    """A line that is no command. The text is fit for the client; ``kind`` is a stable word for counters."""

    def __init__(self, kind: str, text: str, verb: Verb | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.verb = verb


_NUL, _CR = 0, 13


def content(line: bytes, bare_lf: bool = False) -> bytes:
    """The line without its CRLF. Raises BadCommand for a bare LF (unless allowed), for NUL and for a bare CR."""
    if line.endswith(b"\r\n"):
        text = line[:-2]
    elif bare_lf:
        text = line[:-1]
    else:
        raise BadCommand("bare_lf", "End command lines with CRLF")
    # Octets as numbers: bytes in bytes raise and catch a TypeError first, which made this the dearest look at a line.
    if _NUL in text:
        raise BadCommand("nul", "NUL is not allowed in a command")
    if _CR in text:
        raise BadCommand("bare_cr", "CR is not allowed inside a command")
    return text


def one_command(command: Command, extra: Mapping[bytes, Verb] | None = None) -> bool:
    """Whether ``command`` on the wire is itself and nothing more: no argument of it can end its line."""
    try:
        return parse(content(command.line), extra) == command
    except BadCommand:
        return False


def parse(text: bytes, extra: Mapping[bytes, Verb] | None = None) -> Command:
    """The command in ``text``: see split()."""
    return Command(*split(text, extra))


def split(text: bytes, extra: Mapping[bytes, Verb] | None = None) -> tuple[Verb, bytes]:
    """Verb and argument of the command in ``text`` (a line without its end). Raises BadCommand.

    Keywords are case-insensitive; spaces around arguments are taken off and runs of them made one, except
    behind PASS, USER and APOP, where everything after the single space counts (RFC 1939 section 7).
    """
    name, space, rest = text.partition(b" ")
    name = name.upper()
    verb = VERBS.get(name)
    if verb is None:
        if name == b"XTND":
            sub, _, behind = rest.strip(b" ").partition(b" ")
            verb = VERBS.get(b"XTND " + sub.upper())
            if verb is not None:
                rest = behind
        if verb is None and extra is not None:
            verb = extra.get(name)
        if verb is None:
            raise BadCommand("unknown", "Unknown command")
    if name in (b"PASS", b"USER", b"APOP"):
        if not space or not rest or (name == b"APOP" and len(_words(rest)) < verb.least):
            needed = "a name and a digest" if name == b"APOP" else "an argument"
            raise BadCommand("arguments", f"{name.decode()} needs {needed}", verb)
        return verb, rest
    words = _words(rest)
    if not verb.least <= len(words) <= verb.most:
        raise BadCommand("arguments", "Wrong number of arguments", verb)
    if verb.numbers:
        _check_numbers(verb, words)
    return verb, b" ".join(words)


def _words(text: bytes) -> list[bytes]:
    """Split at SP only: a TAB read as SP would turn one command into another on its way upstream."""
    return [word for word in text.split(b" ") if word]


def _check_numbers(verb: Verb, words: list[bytes]) -> None:
    """Message numbers begin at 1; only the line count of TOP may be 0. Signs and more than 10 digits are refused."""
    for place, word in enumerate(words):
        if not word.isdigit() or len(word) > 10:
            raise BadCommand("number", "Not a number", verb)
        if place == 0 and int(word) == 0:
            raise BadCommand("number", "Message numbers begin at 1", verb)
