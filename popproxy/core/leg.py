"""The leg upstream before the login: one dialogue at a time, driven from octets that arrive in any pieces.

A dialogue is a generator that says one thing and gets the whole reply to it. A reply nobody asked for, and octets
that follow an upstream's ``+OK`` to STLS before the handshake, end the leg (promise 3): they are never taken for the
next reply, or a login would be answered before its password was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Limits
from popproxy.core.target import Target
from popproxy.wire.errors import Code
from popproxy.wire.lines import LineBuffer
from popproxy.wire.replies import says_ok
from popproxy.wire.sasl import Derivation
from popproxy.wire.values import value


@value
class Say:
    """Send ``data`` (nothing for the greeting) and wait at most ``seconds`` for the reply to it.

    ``challenge``: within AUTH, where ``+`` is a reply, too. ``secret``: what comes back may repeat a secret, so it
    is never shown (promise 6).
    """

    data: bytes
    seconds: float
    kind: Kind = Kind.LOGIN_TIMEOUT
    multiline: bool = False
    challenge: bool = False
    secret: bool = False


@value
class StartTls:
    """Start TLS now. Nothing is answered but that it is on."""


@value
class Heard:
    """A whole reply. ``ok``: whether it is ``+OK``, None for a SASL challenge; ``lines`` is the content of a multi-line
    one.

    What came of a Derivation is heard as ``raw``, too.
    """

    raw: bytes
    ok: bool | None
    lines: tuple[bytes, ...] = ()


@value
class LoggedIn:
    """The upstream let the user in; ``line`` is how it said so, CRLF included."""

    line: bytes


@value
class LoginRefused:
    """The upstream did not. ``code`` is what the client is told, ``reason`` the upstream's own line.

    ``document`` is the error document of an upstream that refused a token (RFC 7628 section 3.2.2), else empty.
    """

    code: Code
    reason: str
    document: bytes = b""


@value
class Relayed:
    """The whole reply to a command that was relayed before the login, as it travels."""

    ok: bool
    octets: bytes


Result = LoggedIn | LoginRefused | Relayed | Failure | None
Dialogue = Generator[Say | StartTls | Derivation, Heard, Result]


class Leg:
    """A connection to a server of ``target`` on its way to a login, or to its end.

    ``write`` sends octets upstream, ``secure`` asks for TLS (answered with ``secured``), ``derive`` for what takes
    long to compute (answered with ``derived``), ``wait`` sets the time by which the upstream must have answered.
    One dialogue runs at a time; its result goes to ``then``.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_derive",
        "_head",
        "_limits",
        "_running",
        "_secure",
        "_size",
        "_wait",
        "_write",
        "confided",
        "judged",
        "said",
        "securing",
        "target",
        "used",
    )

    def __init__(
        self,
        target: Target,
        limits: Limits,
        write: Callable[[bytes], None],
        secure: Callable[[], None],
        wait: Callable[[float, Kind], None],
        derive: Callable[[Derivation], None],
    ) -> None:
        self.target = target
        self.securing = False
        self.said: Say | None = None
        """What is not answered yet."""
        self.used = False
        """Whether something of the client's was said on it."""
        self.confided = False
        """Whether a secret was."""
        self.judged = False
        """Whether its outcome was told."""
        self._limits = limits
        self._write = write
        self._secure = secure
        self._wait = wait
        self._derive = derive
        self._buffer = LineBuffer(limits.reply)
        self._running: tuple[Dialogue, Callable[[Result], None]] | None = None
        self._head: Heard | None = None
        self._body: list[bytes] = []
        self._size = 0

    @property
    def busy(self) -> bool:
        """Whether a dialogue runs."""
        return self._running is not None

    @property
    def unasked(self) -> bool:
        """Whether octets are there although nothing was asked: look after every call; data() says it itself."""
        return self._running is None and bool(self._buffer.data)

    def run(self, dialogue: Dialogue, then: Callable[[Result], None]) -> None:
        """Start ``dialogue``; ``then`` gets its result, at once or later."""
        self._running = dialogue, then
        self._step(None, dialogue, then)

    def data(self, data: bytes) -> bool:
        """Octets from upstream. Whether some are left although nothing was asked."""
        buffer = self._buffer
        buffer.feed(data)
        while self._running is not None and buffer.data:
            if self.securing:
                self.fail(_injected())
                break
            if self.said is None:
                self.fail(_early())
                break
            line = buffer.next()
            if line is None and not buffer.overlong:
                break
            if line is None or len(line) > self._limits.reply:
                self.fail(Failure(Kind.OVERLONG, f"a reply line of more than {self._limits.reply} octets"))
                break
            heard = self._line(line)
            if isinstance(heard, Failure):
                self.fail(heard)
            elif heard is not None:
                self._step(heard, *self._running)
        return self._running is None and bool(buffer.data)

    def secured(self) -> None:
        """TLS is on."""
        self.securing = False
        if self._running is not None:
            dialogue, then = self._running
            self._step(None, dialogue, then)

    def derived(self, outcome: bytes) -> None:
        """It is computed."""
        if self._running is not None:
            self._step(Heard(outcome, None), *self._running)

    def fail(self, failure: Failure) -> None:
        """End the dialogue with ``failure``."""
        if self._running is not None:
            (dialogue, then), self._running = self._running, None
            dialogue.close()
            then(failure)

    def _line(self, line: bytes) -> Heard | Failure | None:
        """The reply that ends with ``line``; None when it goes on."""
        said = self.said
        if self._head is not None:
            return self._listed(self._head, line[:-2]) if line.endswith(b"\r\n") else self._strange(line)
        ok = says_ok(line)
        if said is None or (ok is None and not (said.challenge and _is_challenge(line))):
            return self._strange(line)
        heard = Heard(line, ok)
        if not (ok and said.multiline):
            return heard
        self._head = heard
        self._body = []
        self._size = 0
        return None

    def _strange(self, line: bytes) -> Failure:
        said = self.said
        shown = "hidden, for it may repeat a secret" if said is not None and said.secret else repr(line[:80])
        return Failure(Kind.PROTOCOL if said is not None and said.data else Kind.GREETING, f"not a reply: {shown}")

    def _listed(self, head: Heard, text: bytes) -> Heard | Failure | None:
        if text == b".":
            self._head = None
            return Heard(head.raw, head.ok, tuple(self._body))
        self._size += len(text) + 2
        if self._size > self._limits.listing:
            return Failure(Kind.OVERLONG, f"a listing of more than {self._limits.listing} octets")
        self._body.append(text[1:] if text.startswith(b".") else text)
        return None

    def _step(self, heard: Heard | None, dialogue: Dialogue, then: Callable[[Result], None]) -> None:
        """Let the dialogue go on to what it says next, or to its end. ``heard``: None at first and once TLS is on."""
        self.said = None
        try:
            step = next(dialogue) if heard is None else dialogue.send(heard)
        except StopIteration as stop:
            self._running = None
            then(stop.value)
            return
        if isinstance(step, Say):
            self.said = step
            if step.data:
                if self._buffer.data:
                    self.fail(_early())
                    return
                self.confided = self.confided or step.secret
                self._write(step.data)
            self._wait(step.seconds, step.kind)
        elif isinstance(step, StartTls):
            if self._buffer.data:
                self.fail(_injected())
                return
            self.securing = True
            self._secure()
        else:
            if self._buffer.data:
                self.fail(_early())
                return
            self._derive(step)


def _is_challenge(line: bytes) -> bool:
    """RFC 5034 section 4: a challenge is ``+``, SP and base64; some servers leave the space out."""
    return line.startswith((b"+ ", b"+\r\n")) and line.endswith(b"\r\n")


def _injected() -> Failure:
    return Failure(Kind.PROTOCOL, "octets in the clear behind the reply to STLS")


def _early() -> Failure:
    return Failure(Kind.UNASKED, "octets that nobody asked for, before the next command")
