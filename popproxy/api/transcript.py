r"""Transcripts: a POP3 conversation as text, one step a line; ``popproxy.api.testing.play`` drives a session by it.

```
:tls starttls               options first: a key and a value, their meaning is the player's
# a comment; blank lines count for nothing
@ connect                   something happens, or (closed) must have happened
C: RETR 1                   the client sends this line, CRLF added
U> RETR 1                   the upstream must receive exactly this line
U< +OK                      the upstream sends this line
S: +OK                      the client must receive exactly this line
S~ \+OK [0-9]+ octets       ... a line that this regular expression matches as a whole; U~ likewise upstream
C+ "RETR 1\r"               octets without CRLF, quoted or in hex: C+ U+ send, S+ U>+ must be received
U+ 0d 0a
```

Escapes in texts: ``\r \n \t \0 \\ \xNN`` (and ``\"`` between quotes). Other characters travel as UTF-8. White space at
the end of a line is refused, because nobody sees it: write ``\x20``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class Leg(Enum):
    """One side of the proxy."""

    CLIENT = "client"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Send:
    """The peer on ``leg`` sends ``octets`` (CRLF included where the step was a line)."""

    leg: Leg
    octets: bytes
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Expect:
    """The peer on ``leg`` must receive exactly ``octets`` next."""

    leg: Leg
    octets: bytes
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Match:
    """The peer on ``leg`` must receive a line next whose text without CRLF ``pattern`` matches as a whole."""

    leg: Leg
    pattern: re.Pattern[bytes]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Event:
    """``name`` happens; one whose name ends with ``-closed`` is what the proxy must have done by now."""

    name: str
    argument: str = ""
    line: int = field(default=0, compare=False)

    @property
    def expected(self) -> bool:
        """Whether it is to be checked, not to be done."""
        return self.name.endswith("-closed")

    @property
    def seconds(self) -> float:
        """The argument of ``wait``."""
        return float(self.argument)


Step = Send | Expect | Match | Event

_SECONDS = re.compile(r"\d+(?:\.\d+)?\Z", re.ASCII)
_KIND = re.compile(r"[a-z][a-z0-9_-]*\Z")
_NOTHING = re.compile(r"\Z")

EVENTS: Mapping[str, tuple[re.Pattern[str], bool, str]] = {
    "connect": (_NOTHING, False, "@ connect"),
    "connect-failed": (_KIND, True, "@ connect-failed KIND"),
    "client-tls": (_NOTHING, False, "@ client-tls"),
    "upstream-tls": (_NOTHING, False, "@ upstream-tls"),
    "client-eof": (_NOTHING, False, "@ client-eof"),
    "client-gone": (_NOTHING, False, "@ client-gone"),
    "upstream-gone": (_KIND, False, "@ upstream-gone, or @ upstream-gone KIND"),
    "wait": (_SECONDS, True, "@ wait SECONDS, like @ wait 0.5"),
    "client-closed": (_NOTHING, False, "@ client-closed"),
    "upstream-closed": (_NOTHING, False, "@ upstream-closed"),
}
"""Every event: what its argument looks like, whether it must be given, how to write it."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A parsed transcript. Two with the same options and steps are equal whatever their names and line numbers."""

    name: str = field(compare=False)
    options: Mapping[str, str]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        """The notation; parsing it gives an equal transcript."""
        lines = [f":{key} {value}" for key, value in self.options.items()]
        return "".join(f"{line}\n" for line in (*lines, *map(notation, self.steps)))


class TranscriptError(ValueError):
    """A transcript that cannot be read: ``file``, ``line`` (0: the whole), ``what`` is wrong, what to ``write``."""

    def __init__(self, file: str, line: int, what: str, write: str) -> None:
        super().__init__(f"{file}:{line}: {what}; write {write}")
        self.file = file
        self.line = line
        self.what = what
        self.write = write


def parse_transcript(text: str, name: str = "<transcript>") -> Transcript:
    """Read a transcript. ``name`` stands in messages. Raises TranscriptError."""
    options: dict[str, str] = {}
    steps: list[Step] = []
    for number, line in enumerate(re.split(r"\r?\n", text), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        try:
            if line != line.rstrip():
                raise _Wrong("white space at the end of the line", r"\x20 for a space that counts")
            if line.startswith(":"):
                _option(line, options, bool(steps))
            else:
                steps.append(_step(line, number))
        except _Wrong as wrong:
            raise TranscriptError(name, number, wrong.what, wrong.write) from None
    if not steps:
        raise TranscriptError(name, 0, "no step", "at least one, like C: QUIT")
    return Transcript(name, options, tuple(steps))


def load_transcript(path: Path) -> Transcript:
    """Read a transcript file (UTF-8). Raises TranscriptError and OSError."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise TranscriptError(str(path), 0, f"octet {error.start} is not UTF-8", r"\xNN for other octets") from None
    return parse_transcript(text, str(path))


class _Wrong(Exception):
    """What is wrong in a line, before it is known where."""

    def __init__(self, what: str, write: str) -> None:
        super().__init__(what)
        self.what = what
        self.write = write


_OPTION = re.compile(r":([a-z][a-z0-9_]*) (\S.*)\Z")


def _option(line: str, options: dict[str, str], late: bool) -> None:
    match = _OPTION.match(line)
    if match is None:
        raise _Wrong(f"{line!r} is no option", ":key value, the key in lower case, like :tls starttls")
    key, value = match.groups()
    if late:
        raise _Wrong(f"option {key} behind the first step", "options above all steps")
    if key in options:
        raise _Wrong(f"option {key} given twice", "it once")
    options[key] = value


def _step(line: str, number: int) -> Step:
    marker, _, text = line.partition(" ")
    make = _STEPS.get(marker)
    if make is None:
        known = " ".join(_STEPS)
        raise _Wrong(f"{line.split()[0]!r} begins no step", f"one of {known} and a space at the beginning of the line")
    return make(text, number)


def _line(kind: type[Send] | type[Expect], leg: Leg) -> Callable[[str, int], Step]:
    return lambda text, number: kind(leg, _octets(text) + b"\r\n", number)


def _raw(kind: type[Send] | type[Expect], leg: Leg) -> Callable[[str, int], Step]:
    return lambda text, number: kind(leg, _raw_octets(text), number)


def _match(leg: Leg) -> Callable[[str, int], Step]:
    def make(text: str, number: int) -> Step:
        if not text:
            raise _Wrong("no regular expression", r"one behind the marker, like S~ \+OK.*")
        try:
            return Match(leg, re.compile(text.encode()), number)
        except re.error as error:
            raise _Wrong(f"{text!r} is no regular expression: {error}", "a Python regular expression") from None

    return make


def _event(text: str, number: int) -> Step:
    name, _, argument = text.partition(" ")
    event = EVENTS.get(name)
    if event is None:
        raise _Wrong(f"{name!r} is no event", "one of " + ", ".join(EVENTS))
    pattern, needed, write = event
    if not (pattern.match(argument) or (not argument and not needed)):
        what = f"{argument!r} is no argument of {name}" if argument else f"{name} without its argument"
        raise _Wrong(what, write)
    return Event(name, argument, number)


_STEPS: Mapping[str, Callable[[str, int], Step]] = {
    "C:": _line(Send, Leg.CLIENT),
    "S:": _line(Expect, Leg.CLIENT),
    "U>": _line(Expect, Leg.UPSTREAM),
    "U<": _line(Send, Leg.UPSTREAM),
    "C+": _raw(Send, Leg.CLIENT),
    "U+": _raw(Send, Leg.UPSTREAM),
    "S+": _raw(Expect, Leg.CLIENT),
    "U>+": _raw(Expect, Leg.UPSTREAM),
    "S~": _match(Leg.CLIENT),
    "U~": _match(Leg.UPSTREAM),
    "@": _event,
}

_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|[rnt0\\\"]|.?)", re.DOTALL)
_SIMPLE = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\", '"': b'"'}
_SHOWN = {octets[0]: f"\\{letter}" for letter, octets in _SIMPLE.items() if letter != '"'}
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})(?: ?[0-9A-Fa-f]{2})*\Z")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\Z')


def _octets(text: str) -> bytes:
    parts: list[bytes] = []
    place = 0
    for match in _ESCAPE.finditer(text):
        parts.append(text[place : match.start()].encode())
        place = match.end()
        escape = match.group(1)
        if escape in _SIMPLE:
            parts.append(_SIMPLE[escape])
        elif len(escape) == 3:
            parts.append(bytes((int(escape[1:], 16),)))
        else:
            raise _Wrong(f"{match.group()} is no escape", r"\r \n \t \0 \\ or \xNN")
    parts.append(text[place:].encode())
    return b"".join(parts)


def _raw_octets(text: str) -> bytes:
    if _HEX.match(text):
        return bytes.fromhex(text)
    quoted = _QUOTED.match(text)
    if quoted is None:
        raise _Wrong(f"{text!r} is neither quoted nor hex", r'"text\r\n" or 0d 0a')
    octets = _octets(quoted.group(1))
    if not octets:
        raise _Wrong("no octets", "at least one")
    return octets


def escape(octets: Iterable[int]) -> str:
    """``octets`` with everything but printable ASCII escaped."""
    return "".join(
        _SHOWN[octet] if octet in _SHOWN else chr(octet) if 0x20 <= octet < 0x7F else f"\\x{octet:02x}"
        for octet in octets
    )


def notation(step: Step) -> str:
    """The line that stands for ``step``."""
    if isinstance(step, Event):
        return f"@ {step.name} {step.argument}".rstrip()
    if isinstance(step, Match):
        return f"{'S~' if step.leg is Leg.CLIENT else 'U~'} {step.pattern.pattern.decode()}"
    client = step.leg is Leg.CLIENT
    if step.octets.endswith(b"\r\n"):
        text = escape(step.octets[:-2])
        shown = text[:-1] + r"\x20" if text.endswith(" ") else text
        marker = ("C:" if client else "U<") if isinstance(step, Send) else ("S:" if client else "U>")
        return f"{marker} {shown}".rstrip()
    marker = ("C+" if client else "U+") if isinstance(step, Send) else ("S+" if client else "U>+")
    quoted = escape(step.octets).replace('"', r"\"")
    return f'{marker} "{quoted}"'
