"""One POP3 session of the sample server, without a socket (RFC 1939, 2449, 2595, 3206, 5034, 5802, 6856, 7628).

Law: octets in, outputs out, pulled one at a time, so that whoever sends them decides the pace and a large
message is never held whole. Outputs do not depend on how the input was cut. Nothing a client sends raises.
A session that ends without the client's QUIT changes nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from popproxy import __version__
from popproxy.sample.maildir import InUseError, Maildrop
from popproxy.sample.outputs import Close, Job, Output, StartTls
from popproxy.sample.transaction import Transaction
from popproxy.wire import sasl
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import BadCommand, Command, Where, content, parse
from popproxy.wire.lines import LineBuffer
from popproxy.wire.replies import err, ok

LINE_LIMIT = 65_536  # octets of one line; RFC 5034 section 4 sets no limit to the lines of SASL
LANGUAGES = {b"i-default": b"Default language", b"en": b"English"}  # RFC 6856 section 3
MECHANISMS = ("PLAIN", "LOGIN")
KNOWN_MECHANISMS = frozenset({*MECHANISMS, "SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2"})

_STLS_FIRST = err("Use STLS before you log in", b"SYS/PERM")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server offers its clients; the same for all sessions.

    ``passwords``: user to password. ``tokens``: user to OAuth token. ``mechanisms``: of SASL, in the order of the
    list. ``apop_secrets``: user to the secret shared with him; empty means no
    APOP. ``stls``: a certificate is at hand. ``clear_auth``: a login without TLS is allowed.
    ``international``: UTF8 and LANG (RFC 6856); without it, 8-bit headers are sent as they are.
    """

    passwords: Mapping[str, str] = field(repr=False)
    apop_secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    stls: bool = False
    clear_auth: bool = True
    international: bool = True
    mechanisms: tuple[str, ...] = MECHANISMS
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)


class Session:
    """The server's side of one connection.

    ``open_maildrop`` is called in a Job, with the name of a user who has proved who he is; it may raise
    InUseError and OSError. ``timestamp``, ``<...>``, is unique to this session (RFC 1939 section 7, APOP).
    """

    def __init__(
        self,
        offer: Offer,
        open_maildrop: Callable[[str], Maildrop],
        *,
        tls: bool = False,
        timestamp: bytes = b"",
    ) -> None:
        self._offer = offer
        self._open_maildrop = open_maildrop
        self._tls = tls
        self._timestamp = timestamp
        self._lines = LineBuffer(LINE_LIMIT)
        self._user: bytes | None = None
        self._mechanism: sasl.ServerMechanism | None = None
        self._refusing = False
        self._utf8 = False
        self._transaction: Transaction | None = None
        self._closed = False
        self._handlers: dict[bytes, Callable[[Command], Iterable[Output]]] = {
            b"USER": self._on_user,
            b"PASS": self._on_pass,
            b"APOP": self._on_apop,
            b"AUTH": self._on_auth,
            b"STLS": self._on_stls,
            b"CAPA": self._on_capa,
            b"QUIT": lambda command: (ok("Goodbye"), Close()),
        }
        if offer.international:
            self._handlers |= {b"UTF8": self._on_utf8, b"LANG": self._on_lang}

    def greeting(self) -> bytes:
        """The first line of the session; the timestamp is in it only where APOP is offered."""
        text = b"popproxy sample mailbox ready"
        return ok(text + b" " + self._timestamp if self._offer.apop_secrets else text)

    def tls_started(self) -> None:
        """The handshake that StartTls asked for is done. What was said before it is forgotten."""
        self._tls = True
        self._user = None

    def end(self) -> None:
        """The connection is over: the maildrop is given back as it is. May be called more than once."""
        self._closed = True
        if self._transaction is not None:
            self._transaction.end()

    def receive(self, data: bytes) -> Generator[Output, None, None]:
        """The outputs that ``data`` brings, in order. Take them all before the next call, or end()."""
        self._lines.feed(data)
        while not self._closed:
            line = self._lines.next()
            if line is None and not self._lines.overlong:
                return
            if line is None or len(line) > LINE_LIMIT:
                outputs: Iterable[Output] = (err("Line too long"), Close())
            else:
                outputs = self._line(line)
            for output in outputs:
                if isinstance(output, Close):
                    self.end()
                yield output

    def _line(self, line: bytes) -> Iterable[Output]:
        try:
            text = content(line, bare_lf=True)
            if self._mechanism is not None:
                return self._on_response(self._mechanism, text)
            command = parse(text)
        except BadCommand as error:
            self._mechanism = None
            self._refusing = False
            return (err(str(error)),)
        here = Where.AUTHORIZATION if self._transaction is None else Where.TRANSACTION
        if not command.verb.where & here:
            return (err(f"{command.name} is not a command of the {here.name} state"),)
        handler = self._handlers.get(command.verb.name)
        return handler(command) if handler is not None else (err("Unknown command"),)

    @property
    def _names(self) -> list[bytes]:
        return [name.encode() for name in self._offer.mechanisms]

    def _must_start_tls(self) -> bool:
        return not self._tls and not self._offer.clear_auth

    def _on_user(self, command: Command) -> Iterable[Output]:
        if self._must_start_tls():
            return (_STLS_FIRST,)
        self._user = command.argument
        return (ok("Send PASS"),)

    def _on_pass(self, command: Command) -> Iterable[Output]:
        if self._must_start_tls():
            return (_STLS_FIRST,)
        if self._user is None:
            return (err("Send USER first"),)
        user, self._user = self._user, None
        return self._log_in(user, command.argument)

    def _on_apop(self, command: Command) -> Iterable[Output]:
        if self._must_start_tls():
            return (_STLS_FIRST,)
        if not self._offer.apop_secrets:
            return (err("APOP is not offered"),)
        user, _, digest = command.argument.rpartition(b" ")
        secret = self._offer.apop_secrets.get(_name(user))
        if secret is None:
            return self._admit(user, False)
        right = hashlib.md5(self._timestamp + secret.encode(), usedforsecurity=False).hexdigest().encode()
        return self._admit(user, hmac.compare_digest(right, digest))

    def _on_auth(self, command: Command) -> Iterable[Output]:
        if self._must_start_tls():
            return (_STLS_FIRST,)
        words = command.arguments
        if not words:  # a habit from before RFC 5034
            return (ok("Mechanisms follow"), *(name + b"\r\n" for name in self._names), b".\r\n")
        name = words[0].upper()
        if name not in self._names:
            return (err("Unknown mechanism"),)
        mechanism = sasl.SERVER_MECHANISMS[name](secrets.token_urlsafe(18).encode())
        try:
            initial = sasl.decode_initial(words[1]) if len(words) == 2 else None
            return self._after(mechanism, mechanism.start(initial))
        except sasl.SaslError as error:
            return self._malformed(error)

    def _on_response(self, mechanism: sasl.ServerMechanism, text: bytes) -> Iterable[Output]:
        self._mechanism = None
        if self._refusing:  # RFC 7628 section 3.2.3: the answer to the error document, whatever it is
            self._refusing = False
            return self._admit(b"", False)
        if text == sasl.CANCEL:
            return (err("Authentication cancelled"),)
        try:
            return self._after(mechanism, mechanism.respond(sasl.decode_response(text)))
        except sasl.SaslError as error:
            return self._malformed(error)

    def _after(self, mechanism: sasl.ServerMechanism, step: sasl.Step) -> Iterable[Output]:
        if isinstance(step, sasl.Challenge):
            self._mechanism = mechanism
            return (sasl.encode_challenge(step.data),)
        if isinstance(step, sasl.Wanted):
            return self._after(mechanism, mechanism.supply(self._verifier(mechanism.name.decode(), step.user)))
        who = step.identity
        if who.authzid not in ("", who.authcid):  # nobody here may act as somebody else
            return self._admit(b"", False)
        if who.kind is sasl.Secret.TOKEN:
            return self._judge(mechanism, who)
        if who.kind is sasl.Secret.NONE:
            return self._admit(who.authcid.encode(), True)
        return self._log_in(who.authcid.encode(), who.secret)

    def _judge(self, mechanism: sasl.ServerMechanism, who: sasl.Identity) -> Iterable[Output]:
        known = self._offer.tokens.get(who.authcid)
        if known is not None and hmac.compare_digest(known.encode(), who.secret):
            return self._admit(who.authcid.encode(), True)
        self._mechanism = mechanism
        self._refusing = True
        return (sasl.encode_challenge(mechanism.refused() or b""),)

    def _verifier(self, mechanism: str, user: str) -> sasl.Verifier:
        """What SCRAM needs of a user; it fits no password when there is no such user."""
        password = self._offer.passwords.get(user)
        if password is None:
            return sasl.fake(b"sample", mechanism, user)
        return sasl.Verifier.derive(mechanism, password, hashlib.sha256(user.encode()).digest()[:16])

    @staticmethod
    def _malformed(error: sasl.SaslError) -> Iterable[Output]:
        wrong = error.reason in ("identity", "proof")
        return (err("Authentication is malformed", b"AUTH" if wrong else None),)

    def _log_in(self, user: bytes, password: bytes) -> Iterable[Output]:
        known = self._offer.passwords.get(_name(user))
        return self._admit(user, known is not None and hmac.compare_digest(known.encode(), password))

    def _admit(self, user: bytes, proved: bool) -> Iterator[Output]:
        if not proved:
            yield err("Authentication failed", b"AUTH")
            return
        refusals: list[bytes] = []
        yield Job(partial(self._enter, _name(user), refusals))
        if self._transaction is None:
            yield from refusals
        else:
            yield ok(self._transaction.summary())

    def _enter(self, user: str, refusals: list[bytes]) -> None:
        """Open the maildrop and enter TRANSACTION, or say why not."""
        try:
            maildrop = self._open_maildrop(user)
        except InUseError:
            refusals.append(err("The maildrop is held by another session", b"IN-USE"))
        except OSError as error:
            _log.warning("maildrop of %r not opened: %s", user, error)
            refusals.append(err("The maildrop cannot be opened now", b"SYS/TEMP"))
        else:
            ascii_only = self._offer.international and not self._utf8
            self._transaction = Transaction(maildrop, ascii_only=ascii_only)
            self._handlers |= self._transaction.handlers

    def _on_stls(self, command: Command) -> Iterable[Output]:
        if self._tls:
            return (err("TLS is already active"),)
        if not self._offer.stls:
            return (err("STLS is not offered"),)
        if self._utf8:  # RFC 6856 section 2.1
            return (err("STLS is not allowed after UTF8"),)
        if len(self._lines):  # RFC 2595 section 4: what came in clear never counts under TLS
            return (err("Nothing may follow STLS before the handshake"), Close())
        return (ok("Begin TLS"), StartTls())

    def _on_utf8(self, command: Command) -> Iterable[Output]:
        self._utf8 = True
        return (ok("UTF-8 is welcome"),)

    def _on_capa(self, command: Command) -> Iterable[Output]:
        """RFC 2449 section 5: what is there in AUTHORIZATION is announced in both states."""
        tags = [b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"EXPIRE NEVER"]
        if not self._must_start_tls():
            tags += [b"USER", b"SASL " + b" ".join(self._names)]
        if self._offer.stls and not self._tls:
            tags.append(b"STLS")
        if self._offer.international:
            tags += [b"UTF8", b"LANG"]
        if self._transaction is not None:
            tags.append(b"IMPLEMENTATION popproxy-sample-" + __version__.encode())
        return (Capabilities.parse(tags).reply(),)

    def _on_lang(self, command: Command) -> Iterable[Output]:
        """RFC 6856 section 3. Every text of this server is English in ASCII, which is i-default too."""
        wanted = command.argument.lower()
        if not wanted:
            lines = (tag + b" " + name + b"\r\n" for tag, name in LANGUAGES.items())
            return (ok("Languages follow"), *lines, b".\r\n")
        tag = b"i-default" if wanted == b"*" else wanted
        while tag and tag not in LANGUAGES:  # lookup of RFC 4647 section 3.4: en-GB finds en
            tag = tag.rpartition(b"-")[0]
        return (ok(tag + b" Texts are in English"),) if tag else (err("That language is not spoken here"),)


def _name(user: bytes) -> str:
    """The user's name; octets that are not UTF-8 make a name nobody has."""
    return user.decode("utf-8", "surrogateescape")
