"""One connection of the doctor: blocking, so that it can be followed step by step, and driven through core's Leg.

The Leg decides what is a reply and what is not, as it does for the proxy; this room has the socket and the clock.
"""

from __future__ import annotations

import socket
import ssl
from time import monotonic

from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Dialogue, Heard, Leg, Result, Say, StartTls
from popproxy.core.limits import Limits
from popproxy.core.target import Target
from popproxy.wire.sasl import Derivation

_SHARE = 65536
_KEPT = 4096


class Handshake(Exception):
    """TLS was asked for and did not come about; ``cause`` is what OpenSSL or the socket said."""

    def __init__(self, cause: OSError | ValueError) -> None:
        super().__init__(str(cause))
        self.cause = cause

    @property
    def no_tls(self) -> bool:
        """Whether what came was no TLS at all, as far as OpenSSL can tell."""
        reason = (getattr(self.cause, "reason", None) or str(self.cause)).upper()
        return isinstance(self.cause, ssl.SSLError) and ("VERSION_NUMBER" in reason or "RECORD" in reason)


class Talk:
    """A conversation on ``sock``, which it closes. ``context`` is for STLS, with the certificate's name ``name``."""

    def __init__(
        self, sock: socket.socket, limits: Limits, context: ssl.SSLContext | None, name: str, handshake: float
    ) -> None:
        self.sock = sock
        self.heard = b""
        """The first octets that came, whatever they were."""
        self.seconds = 0.0
        """How long the last dialogue took."""
        self.trouble: Handshake | None = None
        """Why STLS came to nothing."""
        self._context = context
        self._name = name
        self._handshake = handshake
        self._deadline = 0.0
        self._late = Kind.GREETING_TIMEOUT
        self._derivation: Derivation | None = None
        self._leg = Leg(Target(""), limits, self._write, lambda: None, self._wait, self._derive)
        self._gone: Failure | None = None
        self._unsent: OSError | None = None

    @property
    def secure(self) -> bool:
        """Whether TLS is on."""
        return isinstance(self.sock, ssl.SSLSocket)

    @property
    def unasked(self) -> bool:
        """Whether the server said something that nobody asked for."""
        return self._leg.unasked

    def close(self) -> None:
        """Close, without a word."""
        self.sock.close()

    def run(self, dialogue: Dialogue) -> Result:
        """The result of a dialogue; a Failure when it cannot come to its end."""
        results: list[Result] = []
        started = monotonic()
        self._leg.run(dialogue, results.append)
        while not results:
            self._go_on()
        self.seconds = monotonic() - started
        return results[0]

    def ask(
        self, line: bytes, seconds: float, multiline: bool = False, kind: Kind = Kind.COMMAND_TIMEOUT
    ) -> Heard | Failure:
        """The reply to one command line, CRLF included; with nothing, the greeting."""
        heard: list[Heard] = []

        def once() -> Dialogue:
            heard.append((yield Say(line, seconds, kind, multiline)))
            return None

        result = self.run(once())
        return result if isinstance(result, Failure) else heard[0]

    def start_tls(self) -> Failure | None:
        """The handshake after an STLS that was answered ``+OK``."""

        def secure() -> Dialogue:
            yield StartTls()
            return None

        result = self.run(secure())
        return result if isinstance(result, Failure) else None

    def peek(self, seconds: float) -> bytes:
        """What comes within ``seconds`` without being asked for; empty when nothing does."""
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(_SHARE)
        except OSError:
            return b""

    def _go_on(self) -> None:
        leg = self._leg
        if leg.securing:
            self._secure()
        elif self._derivation is not None:
            derivation, self._derivation = self._derivation, None
            leg.derived(derivation.compute())
        elif self._gone is not None:
            leg.fail(self._gone)
        else:
            self._read()

    def _read(self) -> None:
        left = self._deadline - monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
            data = self.sock.recv(_SHARE)
        except TimeoutError:
            self._leg.fail(Failure(self._late, "no answer in time"))
            return
        except OSError as error:
            self._gone = Failure(Kind.RESET, str(error))
            return
        if not data:
            why = "" if self._unsent is None else f": {self._unsent}"
            self._gone = Failure(Kind.LOST, f"the server closed the connection{why}")
            return
        self.heard += data[: _KEPT - len(self.heard)]
        self._leg.data(data)

    def _secure(self) -> None:
        assert self._context is not None, "the config asks for STLS, so there is a context"
        try:
            self.sock = shake(self.sock, self._context, self._name, self._handshake)
        except Handshake as error:
            self.trouble = error
            self._leg.fail(Failure(Kind.TLS, str(error)))
        else:
            self._leg.secured()

    def _write(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            # A server may have said why it goes away: that is read first, then this is told.
            self._unsent = error

    def _wait(self, seconds: float, kind: Kind) -> None:
        self._deadline = monotonic() + seconds
        self._late = kind

    def _derive(self, derivation: Derivation) -> None:
        self._derivation = derivation


def shake(sock: socket.socket, context: ssl.SSLContext, name: str, seconds: float) -> ssl.SSLSocket:
    """TLS as a client on ``sock``, which is closed when it fails. Raises Handshake."""
    sock.settimeout(seconds)
    try:
        # Asked first: of a socket that the peer has reset wrap_socket() makes one that shakes no hands, or leaks it.
        sock.getpeername()
        tls = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        sock.close()
        raise Handshake(error) from error
    try:
        tls.do_handshake()
    except OSError as error:
        tls.close()
        raise Handshake(error) from error
    return tls
