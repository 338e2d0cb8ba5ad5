"""What a play is given (Options) and what it gives back (Played); ``popproxy.api.testing`` runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from popproxy.api.fakes import LogLine
from popproxy.api.pace import Pace
from popproxy.api.verdicts import Route
from popproxy.api.views import SessionSummary, SessionView


class PlayError(AssertionError):
    """The conversation did not go as the script says. The text names the script's line and shows what came."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a play can set, by keyword or by ``:key value`` in the script (which wins); the names are the same.

    In a script yes and no stand for true and false, and a list is written with commas.
    """

    tls: str = "off"
    """TLS of the client's leg: ``off``, ``starttls``, ``implicit``."""
    auth_before_tls: bool = True
    """Whether USER, PASS and AUTH are welcome on a clear leg."""
    upstream_tls: str = "off"
    """TLS of the leg upstream: ``off``, ``starttls``, ``implicit``."""
    mechanism: str = "auto"
    initial_response: str = "auto"
    """How the proxy logs in upstream: the keys of ``[upstream.*]``."""
    known: tuple[str, ...] | None = None
    """Capabilities the upstream is already known to have, so that it is not asked; ``none`` when it has no CAPA."""
    upstreams: tuple[str, ...] = ("main",)
    """Names a Route may lead to; the first is the default."""
    servers: int = 1
    """How many servers each upstream has: with several a login may be tried again at the next."""
    sticky: bool = False
    """Whether the user's name decides which of them."""
    xclient: str = "off"
    """Whether servers that announce [XCLIENT] are told of the client: ``off``, ``offered``, ``required``."""
    trusted: tuple[str, ...] = ()
    """Networks from which XCLIENT is believed."""
    logged_in: bool = False
    """Begin behind a login of ``user`` with ``password``, which both peers do by themselves."""
    user: str = "joe"
    password: str = "sesame"
    client: str = "192.0.2.1"
    listener: str = "pop3"
    greeting: str = "POP3 ready"
    implementation: str = ""
    bare_lf: bool = False
    pipelining: bool = True
    open: tuple[str, ...] = ()
    """Fenced verbs that are relayed."""
    verbs: tuple[str, ...] = ()
    """Declared verbs with their framing: ``XFOO multi``."""
    capabilities: tuple[str, ...] = ()
    """Unknown capabilities that are passed on."""
    limits: tuple[str, ...] = ()
    timeouts: tuple[str, ...] = ()
    """Keys of ``[limits]`` and ``[timeouts]`` in octets and seconds: ``line=100``."""
    fail: str = ""
    """``open`` or ``closed`` for all plugins; empty leaves what they declare."""
    may_fail: bool = False
    """Whether a plugin may fail: without it a failure that Fail.OPEN hides from the client ends the play."""
    pieces: str = "whole"
    """How what a peer sends in a row is cut: ``whole`` or ``octets``."""


@dataclass(slots=True)
class Played:
    """What came of it. ``client`` and ``upstream`` are all octets each peer received."""

    session: SessionView
    client: bytes = b""
    upstream: bytes = b""
    log: list[LogLine] = field(default_factory=list[LogLine])
    """What the plugins logged."""
    notes: list[LogLine] = field(default_factory=list[LogLine])
    """What the proxy logged of the session: ``plugin_error``, ``login_failed``, ``upstream_failed``."""
    counters: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    """The plugins' counters by name and label value."""
    scanned: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    """What ``services.metrics.scans()`` counted, by scanner and result."""
    asked: list[str] = field(default_factory=list[str])
    """What ``services.metrics.backend()`` counted: for each look-up ``ok`` or why it failed, for each question to its
    cache ``hit``, ``negative`` or ``miss``."""
    calls: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """Hook calls that ended well: plugin, hook, ``pass`` ``modify`` or ``deny``."""
    errors: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """Hook calls that failed: plugin, hook, ``fail_open`` or ``fail_closed``."""
    violations: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    logins: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Mechanism and result of each attempt."""
    routes: list[Route] = field(default_factory=list[Route])
    """Where each connection upstream was to lead: ``credentials`` is None, ``key`` is what sticky balancing gets."""
    paces: list[Pace] = field(default_factory=list[Pace])
    """What the session was told of by ``pace``; a play sends nothing slower for that."""
    judged: list[str] = field(default_factory=list[str])
    """What each connection upstream showed of its server: empty when it serves, else the kind of its fault."""
    commands: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """Answered commands by verb and outcome."""
    summary: SessionSummary | None = None
    detail: str = ""


class Peer:
    """What one peer has received and the script has not looked at yet."""

    def __init__(self) -> None:
        self.unread = bytearray()
        self.read = bytearray()
        self.open = False


class PlayedMeter:
    """core.meter.SessionMeter that writes into a Played."""

    def __init__(self, played: Played, verbs: Sequence[str], outcomes: int) -> None:
        self.commands = [0] * (len(verbs) * outcomes)
        self.pipelined = [0]
        self._played = played
        self._verbs = verbs

    def latency(self, verb: int, seconds: float, count: int, outcome: int) -> None:
        """See core.meter."""
        assert seconds >= 0 and count > 0, "a latency below 0"

    def transfer(self, verb: int, seconds: float, octets: int) -> None:
        """See core.meter."""
        assert seconds >= 0 and octets > 0, "a transfer of nothing"

    def message(self, verb: int, ok: bool) -> None:
        """See core.meter."""
        assert self._verbs[verb] in ("RETR", "TOP", "DELE")

    def auth(self, mechanism: str, result: str, seconds: float) -> None:
        """See core.meter."""
        self._played.logins.append((mechanism, result))

    def violation(self, side: str, kind: str) -> None:
        """See core.meter."""
        self._played.violations.append((side, kind))

    def plugin(self, plugin: str, hook: str, verdict: str, seconds: float) -> None:
        """See core.meter."""
        self._played.calls.append((plugin, hook, verdict))

    def plugin_error(self, plugin: str, hook: str, action: str) -> None:
        """See core.meter."""
        self._played.errors.append((plugin, hook, action))


_KEYS = {entry.name: entry for entry in fields(Options)}


def read_options(given: Mapping[str, Any], name: str) -> Options:
    """Options from keywords and from the ``:key value`` lines of a script. Raises PlayError."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in _KEYS:
            raise PlayError(f"{name}: unknown option {key!r}; there are {', '.join(_KEYS)}")
        default = _KEYS[key].default
        if isinstance(default, bool) and isinstance(value, str):
            if value not in ("yes", "no"):
                raise PlayError(f"{name}: option {key}: {value!r}; write yes or no")
            values[key] = value == "yes"
        elif isinstance(default, int) and not isinstance(default, bool):
            values[key] = int(value)
        elif isinstance(value, str) and not isinstance(default, str):
            values[key] = () if value == "none" else tuple(part.strip() for part in value.split(","))
        else:
            values[key] = value
    return Options(**values)


def reached(routes: Sequence[Route], options: Options) -> tuple[str, bool]:
    """The server that the last of ``routes`` asked for, and whether TLS is on from the start."""
    server = routes[-1].server if routes else None
    if server is None:
        return "mail.example.com:110", options.upstream_tls == "implicit"
    return f"{server.host}:{server.port or 110}", (server.tls or options.upstream_tls) == "implicit"


def text_of(error: BaseException) -> str:
    """What it says; an exception of a plugin may not even be able to say that."""
    try:
        return str(error)
    except Exception as again:
        return f"{type(error).__name__}, whose text raises {type(again).__name__}"
