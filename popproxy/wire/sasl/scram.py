"""SCRAM-SHA-256 and SCRAM-SHA-1 (RFC 5802, RFC 7677), without channel binding.

Server side: ``client-first`` leads to Wanted, the verifier to ``server-first``, a good ``client-final`` to
``server-final`` as one more challenge (POP3 has no data with its success, RFC 5034 section 4), the client's empty
answer to Complete. Client side: the salted password is left to the caller, because the server says how long it takes.
"""

from __future__ import annotations

import binascii
import hmac
import re
from typing import Final, Literal

from popproxy.wire.sasl import gs2
from popproxy.wire.sasl.identity import Identity, Secret, with_password
from popproxy.wire.sasl.keys import HASHES, Derivation, Verifier, digest, keys_of, mac
from popproxy.wire.sasl.lines import SaslError
from popproxy.wire.sasl.mechanism import Challenge, ClientMechanism, Complete, ServerMechanism, Step, Wanted
from popproxy.wire.sasl.saslprep import saslprep

MOST_ITERATIONS: Final = 1_000_000
"""What a server may ask for; it costs a client about half a second."""

_NONCE = re.compile(rb"[!-+\--~]+")
_COUNT = re.compile(rb"[1-9][0-9]{0,8}")
_ATTRIBUTE = re.compile(rb"([A-Za-z])=([^\0]+)")


class ScramServer(ServerMechanism):
    """The server's side of ``name``. ``nonce``: printable ASCII without a comma, never used before."""

    name: bytes

    def __init__(self, name: str, nonce: bytes) -> None:
        self.name = name.encode()
        self._hash = HASHES[name]
        self._fresh = nonce
        self._next: Literal["start", "first", "verifier", "final", "empty", "nothing"] = "start"
        self._identity = Identity("nobody", kind=Secret.NONE)
        self._header = self._bare = self._first = self._nonce = b""
        self._verifier: Verifier | None = None

    def start(self, initial: bytes | None) -> Step:
        """See ServerMechanism."""
        if self._next != "start":
            raise SaslError("sequence", "SCRAM was started twice")
        self._next = "first"
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        """See ServerMechanism. Raises SaslError("proof") for a client that does not know the password."""
        expected, self._next = self._next, "nothing"
        if expected == "first":
            return self._client_first(data)
        if expected == "final" and self._verifier is not None:
            return self._client_final(data, self._verifier)
        if expected == "empty":
            if data:
                raise SaslError("syntax", "the answer to the server's last message is empty")
            return Complete(self._identity)
        raise SaslError("sequence", "SCRAM has no message here")

    def supply(self, verifier: Verifier) -> Step:
        """See ServerMechanism. Raises ValueError for a verifier made for another hash."""
        if self._next != "verifier":
            raise SaslError("sequence", "SCRAM wants no verifier here")
        if len(verifier.stored_key) != len(digest(self._hash, b"")):
            raise ValueError(f"the verifier is not made for {self.name.decode()}")
        self._next = "final"
        self._verifier = verifier
        salt = binascii.b2a_base64(verifier.salt, newline=False)
        self._first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, verifier.iterations)
        return Challenge(self._first)

    def _client_first(self, message: bytes) -> Step:
        authzid, self._header, self._bare = gs2.split_header(message)
        name, nonce = _attributes(self._bare, b"nr")[:2]
        user = gs2.unescaped("user name", name)
        if _NONCE.fullmatch(nonce) is None:
            raise SaslError("syntax", "the nonce holds a character it may not")
        self._nonce = nonce + self._fresh
        self._identity = Identity(user, authzid, kind=Secret.NONE)
        self._next = "verifier"
        return Wanted(user)

    def _client_final(self, message: bytes, verifier: Verifier) -> Step:
        without_proof, _, proof = message.rpartition(b",p=")
        binding, nonce = _attributes(without_proof, b"cr")[:2]
        if _decoded(binding) != self._header:
            raise SaslError("syntax", "the GS2 header is not the one of the first message")
        if nonce != self._nonce:
            raise SaslError("syntax", "the nonce is not the one that was sent")
        said = b",".join((self._bare, self._first, without_proof))
        signature = mac(self._hash, verifier.stored_key, said)
        sent = _decoded(proof)
        if len(sent) != len(signature):
            raise SaslError("syntax", "the proof has another length than the hash")
        if not hmac.compare_digest(digest(self._hash, _xor(sent, signature)), verifier.stored_key):
            raise SaslError("proof", "the proof does not fit the password")
        self._next = "empty"
        return Challenge(b"v=" + binascii.b2a_base64(mac(self._hash, verifier.server_key, said), newline=False))


class ScramClient(ClientMechanism):
    """The client's side of ``name``. ``nonce``: printable ASCII without a comma, never used before.

    Raises SaslError("identity") for an identity without a password, and for a user name or a password that is not
    UTF-8 or that SASLprep refuses.
    """

    name: bytes
    messages = 3
    reads_challenges = True

    def __init__(self, name: str, identity: Identity, nonce: bytes) -> None:
        self.name = name.encode()
        self._hash = HASHES[name]
        self._nonce = nonce
        try:
            password = with_password(identity).secret.decode()
        except UnicodeDecodeError:
            raise SaslError("identity", "the password is not UTF-8, which SCRAM needs") from None
        self._password = saslprep("password", password).encode()
        self._header = gs2.header(identity.authzid)
        self._bare = b"n=" + gs2.escaped(saslprep("user name", identity.authcid)) + b",r=" + nonce
        self._next: Literal["first", "salted", "final", "nothing"] = "first"
        self._said = self._final = self._signature = b""

    def initial(self) -> bytes:
        """See ClientMechanism."""
        return self._header + self._bare

    def respond(self, challenge: bytes) -> bytes | Derivation:
        """See ClientMechanism."""
        expected, self._next = self._next, "nothing"
        if expected == "first":
            return self._server_first(challenge)
        if expected == "final":
            return self._server_final(challenge)
        raise SaslError("sequence", "the server asks for more than SCRAM has")

    def derived(self, salted: bytes) -> bytes:
        """See ClientMechanism."""
        if self._next != "salted":
            raise SaslError("sequence", "SCRAM derives nothing here")
        self._next = "final"
        client, stored, server = keys_of(self._hash, salted)
        proof = _xor(client, mac(self._hash, stored, self._said))
        self._signature = mac(self._hash, server, self._said)
        return self._final + b",p=" + binascii.b2a_base64(proof, newline=False)

    def _server_first(self, message: bytes) -> Derivation:
        nonce, salt, count = _attributes(message, b"rsi")[:3]
        if _NONCE.fullmatch(nonce) is None or not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise SaslError("syntax", "the server's nonce does not go on from the client's")
        if _COUNT.fullmatch(count) is None or int(count) > MOST_ITERATIONS:
            raise SaslError("syntax", f"the iteration count is no number from 1 to {MOST_ITERATIONS}")
        self._next = "salted"
        self._final = b"c=" + binascii.b2a_base64(self._header, newline=False) + b",r=" + nonce
        self._said = b",".join((self._bare, message, self._final))
        return Derivation(self._hash, self._password, _decoded(salt), int(count))

    def _server_final(self, message: bytes) -> bytes:
        if message.startswith(b"e="):
            self.failed = True
            return b""
        if not hmac.compare_digest(_decoded(_attributes(message, b"v")[0]), self._signature):
            raise SaslError("proof", "the server does not prove that it knows the password")
        return b""


def _attributes(message: bytes, names: bytes) -> list[bytes]:
    """The values of the attributes that must come first, in this order. Those behind them are extensions, which
    nobody has to know (RFC 5802 section 5.1); ``m=`` must be known, and nobody does. Raises SaslError("syntax")."""
    values: list[bytes] = []
    for place, part in enumerate(message.split(b",")):
        match = _ATTRIBUTE.fullmatch(part)
        if match is None or (place < len(names) and match.group(1) != names[place : place + 1]):
            raise SaslError("syntax", "a SCRAM message has an attribute missing, malformed or out of its place")
        values.append(match.group(2))
    if len(values) < len(names):
        raise SaslError("syntax", "a SCRAM message ends too early")
    return values


def _decoded(text: bytes) -> bytes:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise SaslError("syntax", "a value inside a SCRAM message is not base64") from None
    if not data or binascii.b2a_base64(data, newline=False) != text:
        raise SaslError("syntax", "a value inside a SCRAM message is empty, or base64 that is not canonical")
    return data


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(one, other, strict=True))
