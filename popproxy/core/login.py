"""The way to a logged-in upstream: BANNER > STLS > CAPA > READY > AUTH | USER, PASS.

Dialogues for core/leg.py. STLS is required where the plan says so, never tried (promise 5); AUTH goes in one line
where RFC 5034 allows it, else in two steps.
"""

from __future__ import annotations

from popproxy.api.credentials import Credentials, Password
from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Dialogue, Heard, LoggedIn, LoginRefused, Relayed, Say, StartTls
from popproxy.core.lies import unsendable
from popproxy.core.limits import Timeouts
from popproxy.core.plan import UpstreamPolicy
from popproxy.core.target import Target
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import Command
from popproxy.wire.errors import Code
from popproxy.wire.replies import Status
from popproxy.wire.sasl import (
    CLIENT_MECHANISMS,
    ClientMechanism,
    Identity,
    SaslError,
    command_line,
    decode_challenge,
    encode_response,
)

CAPA = b"CAPA\r\n"


class Knowledge:
    """What the upstreams of one worker can do, as they last said it before login, and when (seconds).

    Names are those of ``Target.place``; at most ``places`` of them are kept, those longest not asked go first.
    """

    __slots__ = ("_known", "_places", "lifetime")

    def __init__(self, lifetime: float = 300.0, places: int = 4096) -> None:
        self.lifetime = lifetime
        self._places = places
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
        self._known.pop(upstream, None)
        self._known[upstream] = (now, capabilities)
        if len(self._known) > self._places:
            del self._known[next(iter(self._known))]

    def forget(self, upstream: str) -> None:
        """Ask again at the next login."""
        self._known.pop(upstream, None)


def prepare(
    policy: UpstreamPolicy,
    secure: bool,
    knowledge: Knowledge,
    now: float,
    times: Timeouts,
    ask: bool = True,
    target: Target | None = None,
) -> Dialogue:
    """From connected to ready for a login. ``secure``: TLS is on already. Returns None or a Failure.

    The upstream is asked for its capabilities only when nobody asked within the knowledge's lifetime, and never
    when ``ask`` is false: then it is known to have none. ``target`` None is the upstream itself.
    """
    target = target or Target(policy.name)
    tls, place = target.tls(policy), target.place
    if tls == "implicit" and not secure:
        return Failure(Kind.TLS, "TLS from the start is required, and the connection has none")
    heard = yield Say(b"", times.greeting, Kind.GREETING_TIMEOUT)
    if not heard.ok:
        return Failure(Kind.GREETING, f"greeted with {heard.raw[:80]!r}")
    if tls == "starttls" and not secure:
        heard = yield Say(b"STLS\r\n", times.login)
        if not heard.ok:
            return Failure(Kind.NO_STLS, f"answered STLS with {heard.raw[:80]!r}")
        yield StartTls()
    if not ask:
        knowledge.learn(place, None, now)
    elif not knowledge.fresh(place, now):
        heard = yield Say(CAPA, times.login, multiline=True)
        # RFC 2449 section 5: -ERR means there is no CAPA, which is no fault.
        knowledge.learn(place, Capabilities.parse(heard.lines) if heard.ok else None, now)
    return None


def relay(command: Command, times: Timeouts) -> Dialogue:
    """UTF8, LANG and the like, before the login. Returns Relayed."""
    heard = yield Say(command.line, times.login, multiline=command.multiline)
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
    wrong = unsendable(credentials)
    if wrong is not None:
        return Failure(Kind.CREDENTIALS, wrong)
    mechanism = _choose(policy, credentials, known)
    if isinstance(mechanism, Failure):
        return mechanism
    if mechanism == b"USER":
        heard = yield Say(b"USER " + credentials.user.encode("utf-8", "surrogateescape") + b"\r\n", times.login)
        if heard.ok:
            heard = yield Say(verb + b" " + credentials.password + b"\r\n", times.login, secret=True)
        return _ended(heard, credentials)
    return (yield from _authenticate(policy, mechanism, credentials, known, times))


def _ended(heard: Heard, credentials: Password) -> LoggedIn | LoginRefused | Failure:
    if heard.status is None:
        return Failure(Kind.PROTOCOL, "one challenge too many")
    return LoggedIn(heard.raw) if heard.ok else _refused(heard.status, heard.raw[5:-2], credentials.password)


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


_MESSAGES = {b"PLAIN": 1, b"LOGIN": 2}
"""How many messages the client sends until it has said all."""


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
        if policy.initial_response == "always":
            line = command_line(name, initial, 1 << 20)
        elif known is not None and b"SASL" in known:
            line = command_line(name, initial)
    sent = 0 if line is None else 1
    heard = yield Say(line or b"AUTH " + name + b"\r\n", times.login, challenge=True, secret=line is not None)
    # Some servers write +OK where "+ " is due; taken for success it would let a client in that proved nothing.
    while heard.status is None or (heard.ok and sent < _MESSAGES[name]):
        try:
            if initial is not None and sent == 0:
                answer = initial
            else:
                challenge = heard.raw[:-2] if mechanism.reads_challenges else b"+"
                answer = mechanism.respond(decode_challenge(challenge))
        except SaslError as error:
            return Failure(Kind.PROTOCOL, str(error))
        sent += 1
        heard = yield Say(encode_response(answer), times.login, challenge=True, secret=True)
    return _ended(heard, credentials)


_WORDS: tuple[tuple[Code, tuple[bytes, ...]], ...] = (
    (Code.IN_USE, (b"lock", b"in use", b"busy", b"already open", b"another session")),
    (Code.SYS_TEMP, (b"try again", b"try later", b"temporar", b"unavailable", b"internal error")),
)


def _refused(status: Status, said: bytes, secret: bytes) -> LoginRefused:
    """What a refusal of the upstream means. Its words stay in the log: they can tell users from non-users.

    An upstream without response codes is read by its words, as fetchmail reads it; in doubt the password is bad.
    """
    reason = said.decode("utf-8", "backslashreplace")
    # A server that trims the password repeats it trimmed.
    if (secret.strip() or secret) in said:
        reason = "its words are hidden, for they repeat the password"
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
