"""Logging in upstream: AUTH, or USER and PASS; and what a refusal means.

A dialogue for core/leg.py, on a leg that is ready (core/login.py). AUTH goes in one line where RFC 5034 allows it, else
in two steps, which Microsoft 365 insists on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from popproxy.api.credentials import Bearer, Credentials, Password
from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Dialogue, Heard, LoggedIn, LoginRefused, Say
from popproxy.core.lies import unsendable
from popproxy.core.limits import Timeouts
from popproxy.core.mechanisms import choose
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.errors import Code
from popproxy.wire.replies import Status, parse_status
from popproxy.wire.sasl import ClientMechanism, Derivation, SaslError, command_line, decode_challenge, encode_response


def log_in(
    policy: UpstreamPolicy,
    credentials: Credentials,
    known: Capabilities | None,
    times: Timeouts,
    verb: bytes,
    nonce: Callable[[], bytes],
) -> Dialogue:
    """Log in. ``verb`` is PASS, or RPOP for a client that was let use it; ``nonce`` gives one that was never used.

    Returns LoggedIn, LoginRefused or Failure.
    """
    wrong = unsendable(credentials)
    if wrong is not None:
        return Failure(Kind.CREDENTIALS, wrong)
    mechanism = choose(policy, credentials, known, nonce)
    if isinstance(mechanism, str):
        return Failure(Kind.CREDENTIALS, mechanism)
    secret = _secret(credentials)
    if mechanism is not None:
        return (yield from _authenticate(policy, mechanism, secret, known, times))
    heard = yield Say(b"USER " + credentials.user.encode("utf-8", "surrogateescape") + b"\r\n", times.login)
    if heard.ok:
        heard = yield Say(verb + b" " + secret + b"\r\n", times.login, secret=True)
    return _ended(heard, [secret])


def _secret(credentials: Credentials) -> bytes:
    if isinstance(credentials, Password):
        return credentials.password
    return credentials.token if isinstance(credentials, Bearer) else b""


def _ended(heard: Heard, secrets: Sequence[bytes], document: bytes = b"") -> LoggedIn | LoginRefused | Failure:
    if heard.ok:
        return LoggedIn(heard.raw)
    status = parse_status(heard.raw[:-2])
    if status is None:
        return Failure(Kind.PROTOCOL, "one challenge too many")
    return _refused(status, heard.raw[5:-2], secrets, document)


def _authenticate(
    policy: UpstreamPolicy, mechanism: ClientMechanism, secret: bytes, known: Capabilities | None, times: Timeouts
) -> Dialogue:
    """AUTH: the opening, then an answer for every challenge."""
    name = mechanism.name
    initial = mechanism.initial()
    line = None
    if initial is not None and policy.initial_response != "never":
        if policy.initial_response == "always":
            line = command_line(name, initial, 1 << 20)
        elif known is not None and b"SASL" in known:
            line = command_line(name, initial)
    sent = 0 if line is None else 1
    told = [secret] if line is None else [secret, line.split()[-1]]
    heard = yield Say(line or b"AUTH " + name + b"\r\n", times.login, challenge=True, secret=line is not None)
    # Some servers write +OK where "+ " is due; taken for success it would let a client in that proved nothing.
    while heard.ok is None or (heard.ok and sent < mechanism.messages):
        try:
            if initial is not None and sent == 0:
                answer: bytes | Derivation = initial
            else:
                challenge = heard.raw[:-2] if mechanism.reads_challenges else b"+"
                answer = mechanism.respond(decode_challenge(challenge))
            if isinstance(answer, Derivation):
                answer = mechanism.derived((yield answer).raw)
        except SaslError as error:
            return Failure(Kind.PROTOCOL, f"{name.decode()}: {error}")
        sent += 1
        response = encode_response(answer)
        told.append(response.strip())
        heard = yield Say(response, times.login, challenge=True, secret=True)
    if heard.ok and mechanism.failed:
        return Failure(Kind.PROTOCOL, f"{name.decode()}: a success behind a failure")
    return _ended(heard, told, mechanism.document)


def _repeats(text: bytes, secrets: Sequence[bytes]) -> bool:
    """A server that trims the password repeats it trimmed; one that repeats a long line may cut it short, and one that
    writes commands in capitals does so with all of it."""
    text = text.lower()
    secret, *encoded = (word.lower() for word in secrets)
    return (secret.strip() or secret) in text or any(word and word[:8] in text for word in encoded)


_WORDS: tuple[tuple[Code, tuple[bytes, ...]], ...] = (
    (Code.IN_USE, (b"lock", b"in use", b"busy", b"already open", b"another session")),
    (Code.SYS_TEMP, (b"try again", b"try later", b"temporar", b"unavailable", b"internal error")),
)


def _refused(status: Status, said: bytes, secrets: Sequence[bytes], document: bytes) -> LoginRefused:
    """What a refusal of the upstream means. Its words stay in the log: they can tell users from non-users.

    An upstream without response codes is read by its words, as fetchmail reads it; in doubt the password is bad.
    ``secrets``: the secret itself, then all base64 it was sent in.
    """
    if _repeats(document, secrets):
        document = b""
    told = said + (b" " + document if document else b"")
    reason = told.decode("utf-8", "backslashreplace")
    if _repeats(told, secrets):
        reason = "its words are hidden, for they repeat the password"
    if status.code is not None:
        word = status.code
        for code in (Code.AUTH, Code.SYS_TEMP, Code.SYS_PERM, Code.IN_USE, Code.LOGIN_DELAY, Code.UTF8):
            if word == code.value or word.startswith(code.value + b"/"):
                return LoginRefused(code, reason, document)
        if word.startswith(b"SYS"):
            return LoginRefused(Code.SYS_TEMP, reason, document)
    text = status.text.lower()
    for code, words in _WORDS:
        if any(word in text for word in words):
            return LoginRefused(code, reason, document)
    return LoginRefused(Code.AUTH, reason, document)
