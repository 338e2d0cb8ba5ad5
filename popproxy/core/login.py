"""The way to a logged-in upstream: BANNER > CAPA > STLS > CAPA > READY > AUTH | USER, PASS.

A dialogue is a generator that says one thing and gets the whole reply to it; the Leg drives it from octets that
arrive in any pieces. A reply nobody asked for, and octets that follow an upstream's ``+OK`` to STLS before the
handshake, end the leg (promise 3): they are never taken for the next reply.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from popproxy.api.credentials import Credentials, Password
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import Command
from popproxy.wire.errors import Code
from popproxy.wire.lines import LineBuffer
from popproxy.wire.replies import Status, parse_status
from popproxy.wire.sasl import (
    CLIENT_MECHANISMS,
    ClientMechanism,
    Identity,
    SaslError,
    command_line,
    decode_challenge,
    encode_response,
)


@dataclass(frozen=True, slots=True)
class Say:
    """Send ``data`` (nothing for the greeting) and wait at most ``seconds`` for the reply to it."""

    data: bytes
    seconds: float
    kind: Kind = Kind.LOGIN_TIMEOUT
    multiline: bool = False


@dataclass(frozen=True, slots=True)
class StartTls:
    """Start TLS now. Nothing is answered but that it is on."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A whole reply. ``status`` is None for a SASL challenge; ``lines`` is the content of a multi-line one."""

    raw: bytes
    status: Status | None
    lines: tuple[bytes, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it is ``+OK``."""
        return self.status is not None and self.status.ok


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The upstream let the user in; ``status`` is its line."""

    status: Status


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """The upstream did not. ``code`` is what the client is told, ``reason`` the upstream's own line."""

    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Relayed:
    """The whole reply to a command that was relayed before the login, as it travels."""

    ok: bool
    octets: bytes


Result = LoggedIn | LoginRefused | Relayed | Failure | None
Dialogue = Generator[Say | StartTls, Heard | None, Result]


class Knowledge:
    """What the upstreams of one worker can do, as they last said it before login, and when (seconds)."""

    __slots__ = ("_known", "lifetime")

    def __init__(self, lifetime: float = 300.0) -> None:
        self.lifetime = lifetime
        self._known: dict[str, tuple[float, Capabilities | None]] = {}

    def fresh(self, upstream: str, now: float) -> bool:
        """Whether it was asked within the lifetime."""
        known = self._known.get(upstream)
        return known is not None and now - known[0] < self.lifetime

    def get(self, upstream: str) -> Capabilities | None:
        """What it said last; None when it was never reached or has no CAPA."""
        known = self._known.get(upstream)
        return None if known is None else known[1]

    def learn(self, upstream: str, capabilities: Capabilities | None, now: float) -> None:
        """Keep what it just said; None for an upstream without CAPA."""
        self._known[upstream] = (now, capabilities)

    def forget(self, upstream: str) -> None:
        """Ask again at the next login."""
        self._known.pop(upstream, None)


class Leg:
    """One connection upstream from its greeting to the login, or to its end.

    ``write`` sends octets upstream, ``secure`` asks for TLS (answered with ``secured``), ``wait`` sets the time
    by which the upstream must have answered. One dialogue runs at a time; its result goes to ``then``.
    """

    __slots__ = (
        "_ask",
        "_body",
        "_buffer",
        "_dialogue",
        "_head",
        "_limits",
        "_secure",
        "_size",
        "_then",
        "_wait",
        "_write",
        "securing",
        "upstream",
    )

    def __init__(
        self,
        upstream: str,
        limits: Limits,
        write: Callable[[bytes], None],
        secure: Callable[[], None],
        wait: Callable[[float, Kind], None],
    ) -> None:
        self.upstream = upstream
        self.securing = False
        self._limits = limits
        self._write = write
        self._secure = secure
        self._wait = wait
        self._buffer = LineBuffer(limits.reply)
        self._dialogue: Dialogue | None = None
        self._then: Callable[[Result], None] | None = None
        self._ask: Say | None = None
        self._head: Heard | None = None
        self._body: list[bytes] = []
        self._size = 0

    @property
    def unasked(self) -> bool:
        """Whether octets are there although nothing was asked: look after every call."""
        return self._dialogue is None and len(self._buffer) > 0

    def run(self, dialogue: Dialogue, then: Callable[[Result], None]) -> None:
        """Start ``dialogue``; ``then`` gets its result, at once or later."""
        self._dialogue = dialogue
        self._then = then
        self._advance(None)

    def data(self, data: bytes) -> None:
        """Octets from upstream."""
        self._buffer.feed(data)
        while self._dialogue is not None:
            if self.securing:
                self.fail(Failure(Kind.PROTOCOL, "octets behind the reply to STLS, before the TLS handshake"))
                return
            line = self._buffer.next()
            if line is None or len(line) > self._limits.reply:
                if line is not None or self._buffer.overlong:
                    self.fail(Failure(Kind.OVERLONG, f"a reply line of more than {self._limits.reply} octets"))
                return
            self._line(line)

    def secured(self) -> None:
        """TLS is on."""
        self.securing = False
        if len(self._buffer):
            self.fail(Failure(Kind.PROTOCOL, "octets in the clear behind the reply to STLS"))
        else:
            self._advance(None)

    def fail(self, failure: Failure) -> None:
        """End the dialogue with ``failure``."""
        then, self._then = self._then, None
        if self._dialogue is not None:
            self._dialogue.close()
            self._dialogue = None
        if then is not None:
            then(failure)

    def _line(self, line: bytes) -> None:
        ask = self._ask
        if ask is None or not line.endswith(b"\r\n"):
            self.fail(Failure(Kind.PROTOCOL, f"not a reply: {line[:80]!r}"))
            return
        text = line[:-2]
        if self._head is not None:
            self._listed(text)
            return
        status = parse_status(text)
        if status is None:
            # RFC 5034 section 4: a challenge is "+ " and base64; some servers leave the space out.
            if ask.data and (text == b"+" or text.startswith(b"+ ")):
                self._advance(Heard(line, None))
            else:
                self.fail(Failure(Kind.PROTOCOL if ask.data else Kind.GREETING, f"not a reply: {text[:80]!r}"))
        elif status.ok and ask.multiline:
            self._head = Heard(line, status)
            self._body = []
            self._size = 0
        else:
            self._advance(Heard(line, status))

    def _listed(self, text: bytes) -> None:
        head = self._head
        if head is None:
            return
        if text == b".":
            self._head = None
            self._advance(Heard(head.raw, head.status, tuple(self._body)))
            return
        self._size += len(text) + 2
        if self._size > self._limits.listing:
            self.fail(Failure(Kind.OVERLONG, f"a listing of more than {self._limits.listing} octets"))
            return
        self._body.append(text[1:] if text.startswith(b".") else text)

    def _advance(self, heard: Heard | None) -> None:
        dialogue = self._dialogue
        if dialogue is None:
            return
        try:
            step = next(dialogue) if heard is None else dialogue.send(heard)
        except StopIteration as stop:
            self._dialogue = None
            self._ask = None
            then, self._then = self._then, None
            if then is not None:
                then(stop.value)
            return
        if isinstance(step, StartTls):
            self._ask = None
            self.securing = True
            self._secure()
            if len(self._buffer):
                self.fail(Failure(Kind.PROTOCOL, "octets in the clear behind the reply to STLS"))
            return
        self._ask = step
        if step.data:
            self._write(step.data)
        self._wait(step.seconds, step.kind)


def prepare(policy: UpstreamPolicy, secure: bool, knowledge: Knowledge, now: float, times: Timeouts) -> Dialogue:
    """From connected to ready for a login. ``secure``: TLS is on already. Returns None or a Failure.

    The upstream is asked for its capabilities only when nobody asked within the knowledge's lifetime.
    """
    heard = yield Say(b"", times.greeting, Kind.GREETING_TIMEOUT)
    if heard is None or heard.status is None or not heard.ok:
        return Failure(Kind.GREETING, f"greeted with {_shown(heard)}")
    if policy.tls == "starttls" and not secure:
        heard = yield Say(b"STLS\r\n", times.login)
        if heard is None or not heard.ok:
            return Failure(Kind.NO_STLS, f"answered STLS with {_shown(heard)}")
        yield StartTls()
    if not knowledge.fresh(policy.name, now):
        heard = yield Say(b"CAPA\r\n", times.login, multiline=True)
        # RFC 2449 section 5: -ERR means there is no CAPA, which is no fault.
        known = Capabilities.parse(heard.lines) if heard is not None and heard.ok else None
        knowledge.learn(policy.name, known, now)
    return None


def relay(command: Command, times: Timeouts) -> Dialogue:
    """UTF8, LANG and the like, before the login. Returns Relayed."""
    heard = yield Say(command.line, times.login, multiline=command.multiline)
    if heard is None or heard.status is None:
        return Failure(Kind.PROTOCOL, f"answered {command.name} with a challenge")
    if not (heard.ok and command.multiline):
        return Relayed(heard.ok, heard.raw)
    body = b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in heard.lines)
    return Relayed(True, heard.raw + body + b".\r\n")


def log_in(
    policy: UpstreamPolicy, credentials: Credentials, known: Capabilities | None, times: Timeouts, verb: bytes
) -> Dialogue:
    """Log in. ``verb`` is PASS, or RPOP for a client that was let use it. Returns LoggedIn, LoginRefused or Failure."""
    if not isinstance(credentials, Password):
        return Failure(Kind.CREDENTIALS, f"no password at hand for {policy.name}; {type(credentials).__name__} given")
    spoken = (credentials.user.encode("utf-8", "surrogateescape"), credentials.authzid.encode(), credentials.password)
    if any(octet in word for word in spoken for octet in (b"\r", b"\n", b"\0")):
        # A plugin's Route can bring anything: a line end would be a command of its own.
        return Failure(Kind.CREDENTIALS, "CR, LF or NUL in the credentials")
    mechanism = _choose(policy, credentials, known)
    if isinstance(mechanism, Failure):
        return mechanism
    if mechanism == b"USER":
        heard = yield Say(b"USER " + credentials.user.encode("utf-8", "surrogateescape") + b"\r\n", times.login)
        if heard is None or heard.status is None:
            return Failure(Kind.PROTOCOL, "answered USER with a challenge")
        if not heard.ok:
            return _refused(heard.status)
        heard = yield Say(verb + b" " + credentials.password + b"\r\n", times.login)
        if heard is None or heard.status is None:
            return Failure(Kind.PROTOCOL, "answered PASS with a challenge")
        return LoggedIn(heard.status) if heard.ok else _refused(heard.status)
    return (yield from _authenticate(policy, mechanism, credentials, known, times))


def _choose(policy: UpstreamPolicy, credentials: Password, known: Capabilities | None) -> bytes | Failure:
    """USER unless the operator or the upstream says otherwise, or an authorization identity must travel."""
    offered = {name.upper() for name in known.parameters(b"SASL")} if known is not None else set()
    asked = policy.mechanism
    if credentials.authzid:
        if asked in ("auto", "plain") and (asked == "plain" or b"PLAIN" in offered):
            return b"PLAIN"
        return Failure(Kind.CREDENTIALS, "an authorization identity needs SASL PLAIN upstream")
    if asked != "auto":
        return asked.upper().encode("ascii")
    if known is not None and b"USER" not in known:
        for name in (b"PLAIN", b"LOGIN"):
            if name in offered:
                return name
    return b"USER"


def _authenticate(
    policy: UpstreamPolicy, name: bytes, credentials: Password, known: Capabilities | None, times: Timeouts
) -> Dialogue:
    """AUTH, in one line where RFC 5034 section 4 allows it, else in two steps (as Microsoft 365 wants it)."""
    try:
        identity = Identity(credentials.user, credentials.authzid, credentials.password)
        mechanism: ClientMechanism = CLIENT_MECHANISMS[name](identity)
    except SaslError as error:
        return Failure(Kind.CREDENTIALS, str(error))
    initial = mechanism.initial()
    line = None
    if initial is not None and policy.initial_response != "never":
        announced = known is not None and b"SASL" in known
        if policy.initial_response == "always":
            line = command_line(name, initial, 1 << 20)
        elif announced:
            line = command_line(name, initial)
    pending = None if line is not None else initial
    heard = yield Say(line or command_line(name, None) or b"", times.login)
    while heard is not None and heard.status is None:
        try:
            if pending is not None:
                answer, pending = pending, None
            else:
                answer = mechanism.respond(_challenge(mechanism, heard.raw[:-2]))
        except SaslError as error:
            return Failure(Kind.PROTOCOL, str(error))
        heard = yield Say(encode_response(answer), times.login)
    if heard is None or heard.status is None:
        return Failure(Kind.PROTOCOL, "no end of AUTH")
    return LoggedIn(heard.status) if heard.ok else _refused(heard.status)


def _challenge(mechanism: ClientMechanism, line: bytes) -> bytes:
    return decode_challenge(line) if mechanism.reads_challenges else b""


_WORDS: tuple[tuple[Code, tuple[bytes, ...]], ...] = (
    (Code.IN_USE, (b"lock", b"in use", b"busy", b"already open", b"another session")),
    (Code.SYS_TEMP, (b"try again", b"try later", b"temporar", b"unavailable", b"internal error")),
)


def _refused(status: Status) -> LoginRefused:
    """What a refusal of the upstream means. Its words stay in the log: they can tell users from non-users.

    An upstream without response codes is read by its words, as fetchmail reads it; in doubt the password is bad.
    """
    reason = (b"[%b] %b" % (status.code, status.text) if status.code else status.text).decode("utf-8", "replace")
    if status.code is not None:
        word = status.code
        for code in (Code.AUTH, Code.SYS_TEMP, Code.SYS_PERM, Code.IN_USE, Code.LOGIN_DELAY, Code.UTF8):
            if word == code.value or word.startswith(code.value + b"/"):
                return LoginRefused(code, reason)
        if word.startswith(b"SYS"):
            return LoginRefused(Code.SYS_TEMP, reason)
    text = status.text.lower()
    for code, words in _WORDS:
        if any(word in text for word in words):
            return LoginRefused(code, reason)
    return LoginRefused(Code.AUTH, reason)


def _shown(heard: Heard | None) -> str:
    return "nothing" if heard is None else repr(heard.raw[:80])
