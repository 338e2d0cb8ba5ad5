"""What SCRAM keeps of a password, on either side (RFC 5802 section 3)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from popproxy.wire.sasl.saslprep import saslprep

HASHES: Final[Mapping[str, str]] = MappingProxyType({"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"})
"""The hash of each mechanism, as hashlib calls it (RFC 7677, RFC 5802)."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps of a password for SCRAM (RFC 5802 section 3): enough to check a proof, not to make one.

    ``salt``, ``stored_key`` and ``server_key`` are octets, not base64. The keys have 32 octets for SCRAM-SHA-256
    and 20 for SCRAM-SHA-1. Raises ValueError for what cannot be one.
    """

    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("salt", "stored_key", "server_key"):
            if not isinstance(getattr(self, name), bytes):
                raise TypeError(f"Verifier: {name} must be bytes, not {type(getattr(self, name)).__name__}")
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError("Verifier: iterations must be 1 or more")
        if not self.salt:
            raise ValueError("Verifier: the salt is empty")
        if len(self.stored_key) != len(self.server_key) or len(self.stored_key) not in (20, 32):
            raise ValueError("Verifier: both keys must have 32 octets (SCRAM-SHA-256) or 20 (SCRAM-SHA-1)")

    @classmethod
    def derive(cls, mechanism: str, password: str, salt: bytes, iterations: int = 4096) -> Verifier:
        """The verifier of a password. Takes time by design, so not inside a hook that is a plain ``def``.

        Raises ValueError for an unknown mechanism, and for a password that SASLprep (RFC 4013) refuses.
        """
        if mechanism not in HASHES:
            raise ValueError(f"Verifier: {mechanism!r} is none of {', '.join(HASHES)}")
        salted = Derivation(HASHES[mechanism], password_octets(password), salt, iterations).compute()
        return cls(salt, iterations, *keys_of(HASHES[mechanism], salted)[1:])


@dataclass(frozen=True, slots=True)
class Derivation:
    """The one slow step of SCRAM: SaltedPassword := Hi(Normalize(password), salt, i). Secrets are not in the repr.

    ``compute`` takes about half a microsecond for each iteration: whoever must not wait computes it elsewhere.
    """

    hash: str
    password: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    iterations: int

    def compute(self) -> bytes:
        """SaltedPassword."""
        return hashlib.pbkdf2_hmac(self.hash, self.password, self.salt, self.iterations)


def password_octets(password: str) -> bytes:
    """Normalize(password). Raises SaslError("identity")."""
    return saslprep("password", password).encode()


def digest(hash: str, data: bytes) -> bytes:
    """H(data)."""
    return hashlib.new(hash, data).digest()


def mac(hash: str, key: bytes, data: bytes) -> bytes:
    """HMAC(key, data)."""
    return hmac.digest(key, data, hash)


def keys_of(hash: str, salted: bytes) -> tuple[bytes, bytes, bytes]:
    """ClientKey, StoredKey and ServerKey of a SaltedPassword."""
    client = mac(hash, salted, b"Client Key")
    return client, digest(hash, client), mac(hash, salted, b"Server Key")


def fake(seed: bytes, mechanism: str, user: str, salt_octets: int = 16, iterations: int = 4096) -> Verifier:
    """A verifier that no password fits, always the same for one user as long as ``seed`` stays.

    A client cannot tell it from a genuine one of the same shape: who asks for a user that does not exist reads a
    salt and an iteration count, and is refused as with a wrong password.
    """
    hash = HASHES[mechanism]
    name = mechanism.encode() + b"\0" + user.encode("utf-8", "surrogateescape")
    salt = b""
    while len(salt) < salt_octets:
        salt += mac(hash, seed, name + b"\0salt%d" % len(salt))
    # The keys are no hash of anything that is sent, so nothing fits them.
    stored, server = (mac(hash, seed, name + b"\0" + key) for key in (b"stored", b"server"))
    return Verifier(salt[:salt_octets], iterations, stored, server)


