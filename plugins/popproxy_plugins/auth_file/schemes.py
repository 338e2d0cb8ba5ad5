"""Password schemes as Dovecot writes them: ``{SCHEME}text``, ``{SCHEME.b64}text``, ``{SCHEME.hex}text``.

argon2-cffi and bcrypt are imported when the first entry needs them. Everything that checks or makes takes time and
is meant for a thread. No error text holds a password or a hash.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hmac import compare_digest
from secrets import choice, token_bytes

from popproxy.api import Verifier
from popproxy_plugins.auth_file import shacrypt

LONGEST = 1024
"""Octets of a password that is hashed: a longer one is wrong, and costs no more than this."""
MEMORY = 1 << 20
"""KiB that an argon2 hash may ask for."""

EXTRA = 'pip install "popproxy[auth]"'

Check = Callable[[bytes], bool]

_TAGGED = re.compile(r"\{([A-Za-z0-9-]+)(?:\.([A-Za-z0-9]+))?\}(.*)", re.DOTALL)
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_SALT = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_HASHES = {"SHA": "sha1", "SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512"}
_SALTED = {"SSHA": "sha1", "SSHA256": "sha256", "SSHA512": "sha512"}
_PLAIN = ("PLAIN", "CLEAR", "CLEARTEXT")
_SCRAM = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256"}
_CRYPT = {
    "SHA256-CRYPT": "$5$",
    "SHA512-CRYPT": "$6$",
    "BLF-CRYPT": "$2",
    "ARGON2I": "$argon2i$",
    "ARGON2ID": "$argon2id$",
}

KNOWN = (*_CRYPT, "CRYPT", *_SALTED, *_HASHES, *_SCRAM, *_PLAIN)
"""Every scheme that is read."""
MADE = ("ARGON2ID", "ARGON2I", "BLF-CRYPT", "SHA512-CRYPT", "SHA256-CRYPT", "SCRAM-SHA-256", "SCRAM-SHA-1",
        "SSHA512", "SSHA256", "PLAIN")  # fmt: skip
"""Those that make() makes, the best first."""
_LIBRARIES = {"ARGON2ID": "argon2", "ARGON2I": "argon2", "BLF-CRYPT": "bcrypt"}


@dataclass(frozen=True, slots=True)
class Secret:
    """What a users file holds of a password. ``check`` takes time unless ``plain`` is there."""

    scheme: str
    check: Check = field(repr=False)
    plain: bytes | None = field(default=None, repr=False)
    verifier: Verifier | None = field(default=None, repr=False)

    @property
    def slow_python(self) -> bool:
        """Whether check() keeps the interpreter to itself: a few at once would slow down every session."""
        return self.scheme in ("SHA256-CRYPT", "SHA512-CRYPT")

    def proven(self, password: bytes) -> bool:
        """Whether this is the password. Takes time."""
        return self.check(password[:LONGEST]) and len(password) <= LONGEST


def parse(text: str, default: str) -> Secret:
    """The secret that ``text`` holds; ``default`` is the scheme of one without braces.

    Raises ValueError for what is no secret of its scheme, ImportError when a library is missing.
    """
    match = _TAGGED.fullmatch(text)
    scheme, encoding, body = (match[1], match[2], match[3]) if match else (default, None, text)
    scheme = scheme.upper()
    if scheme not in KNOWN:
        raise ValueError(f"the scheme {{{scheme}}} is not known; there are {', '.join(KNOWN)}")
    octets = body.encode("utf-8", "surrogateescape")
    if encoding is not None:
        octets = _decoded(octets, encoding.lower(), scheme)
    elif scheme in _HASHES or scheme in _SALTED:
        octets = _raw(octets, scheme)
    if scheme in _PLAIN:
        return _plain(octets)
    if scheme in _SCRAM:
        return _scram(octets, scheme)
    if scheme in _HASHES or scheme in _SALTED:
        return _hashed(octets, scheme)
    return _crypt(octets, scheme)


def make(scheme: str, password: bytes, rounds: int | None = None) -> str:
    """``{SCHEME}text`` of ``password``. ``rounds`` is the cost in the scheme's own unit, None a good one.

    Raises ValueError for a scheme not in MADE, and for a password it cannot hold.
    """
    if not password or len(password) > LONGEST:
        raise ValueError(f"a password has 1 to {LONGEST} octets")
    if rounds is not None and rounds < 1:
        raise ValueError(f"{rounds} rounds are no work at all: write more, or leave it out")
    salt = "".join(choice(_SALT) for _ in range(16))
    match scheme:
        case "PLAIN":
            # Base64 because a colon would end the field, and a line break the line.
            return f"{{PLAIN.b64}}{b64encode(password).decode()}"
        case "SHA512-CRYPT" | "SHA256-CRYPT":
            if rounds is not None and not shacrypt.LEAST <= rounds <= shacrypt.MOST:
                raise ValueError(f"the rounds of SHA-crypt are {shacrypt.LEAST} to {shacrypt.MOST}")
            kind = _CRYPT[scheme][1]
            return f"{{{scheme}}}{shacrypt.make(kind, password, salt, rounds or shacrypt.ROUNDS)}"
        case "SSHA512" | "SSHA256":
            octets = token_bytes(8)
            made = hashlib.new(_SALTED[scheme], password + octets).digest()
            return f"{{{scheme}}}{b64encode(made + octets).decode()}"
        case "SCRAM-SHA-256" | "SCRAM-SHA-1":
            verifier = Verifier.derive(scheme, _text(password), token_bytes(16), rounds or 10_000)
            parts = (verifier.salt, verifier.stored_key, verifier.server_key)
            return f"{{{scheme}}}{verifier.iterations},{','.join(b64encode(part).decode() for part in parts)}"
        case "BLF-CRYPT":
            return f"{{{scheme}}}{_make_bcrypt(password, rounds or 12)}"
        case "ARGON2ID" | "ARGON2I":
            return f"{{{scheme}}}{_make_argon2(scheme, password, rounds or 3)}"
        case _:
            raise ValueError(_unmade(scheme))


def makeable(scheme: str) -> None:
    """Raises what make() would raise for ``scheme`` whatever the password is, before anybody is asked for one."""
    if scheme not in MADE:
        raise ValueError(_unmade(scheme))
    if scheme in _LIBRARIES:
        __import__(_LIBRARIES[scheme])


def _unmade(scheme: str) -> str:
    return f"the scheme {scheme!r} is not made; there are {', '.join(MADE)}"


def missing() -> str | None:
    """The library that is not installed, or None."""
    for name in sorted(set(_LIBRARIES.values())):
        try:
            __import__(name)
        except ImportError:
            return name
    return None


def _text(password: bytes) -> str:
    try:
        return password.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("SCRAM needs a password in UTF-8") from None


def _decoded(octets: bytes, encoding: str, scheme: str) -> bytes:
    try:
        if encoding in ("b64", "base64"):
            return b64decode(octets, validate=True)
        if encoding == "hex":
            return bytes.fromhex(octets.decode("ascii"))
    except ValueError:
        raise ValueError(f"{{{scheme}.{encoding}}}: what follows is not {encoding}") from None
    raise ValueError(f"{{{scheme}.{encoding}}}: the encoding is not known; write .b64 or .hex")


def _raw(octets: bytes, scheme: str) -> bytes:
    """Base64, or hexadecimal where the length says so: as Dovecot tells them apart."""
    size = hashlib.new(_HASHES.get(scheme) or _SALTED[scheme]).digest_size
    if scheme in _HASHES and len(octets) == 2 * size:
        return _decoded(octets, "hex", scheme)
    return _decoded(octets, "b64", scheme)


def _plain(octets: bytes) -> Secret:
    if not octets:
        raise ValueError("the password is empty: nobody could log in with it")
    return Secret("PLAIN", lambda password: compare_digest(password, octets), octets)


def _hashed(octets: bytes, scheme: str) -> Secret:
    name = _HASHES.get(scheme) or _SALTED[scheme]
    size = hashlib.new(name).digest_size
    made, salt = octets[:size], octets[size:]
    if len(made) < size or bool(salt) != (scheme in _SALTED):
        what = "a digest and a salt" if scheme in _SALTED else "a digest"
        raise ValueError(f"{{{scheme}}}: {len(octets)} octets are not {what} of it")
    return Secret(scheme, lambda password: compare_digest(hashlib.new(name, password + salt).digest(), made))


def _scram(octets: bytes, scheme: str) -> Secret:
    try:
        count, *parts = octets.decode("ascii").split(",")
        if len(parts) != 3 or re.fullmatch(r"\d{1,8}", count, re.ASCII) is None:
            raise ValueError
        salt, stored_key, server_key = (b64decode(part, validate=True) for part in parts)
        verifier = Verifier(salt, int(count), stored_key, server_key)
    except ValueError:
        raise ValueError(f"{{{scheme}}}: write iterations,salt,stored key,server key (base64)") from None
    if len(verifier.stored_key) != hashlib.new(_SCRAM[scheme]).digest_size:
        raise ValueError(f"{{{scheme}}}: the keys have the wrong length")

    def check(password: bytes) -> bool:
        try:
            made = Verifier.derive(scheme, password.decode("utf-8"), verifier.salt, verifier.iterations)
        except ValueError:
            return False
        return compare_digest(made.stored_key, verifier.stored_key)

    return Secret(scheme, check, verifier=verifier)


def _crypt(octets: bytes, scheme: str) -> Secret:
    try:
        text = octets.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError(f"{{{scheme}}}: a hash is ASCII") from None
    if scheme == "CRYPT":
        found = [name for name, begin in _CRYPT.items() if text.startswith(begin)]
        if not found:
            raise ValueError("{CRYPT}: of the old hashes only $5$, $6$, $2a$, $2b$, $2y$ and $argon2 are read")
        scheme = found[-1]
    if scheme in ("SHA256-CRYPT", "SHA512-CRYPT"):
        if not text.startswith(_CRYPT[scheme]) or not shacrypt.valid(text):
            raise ValueError(f"{{{scheme}}}: no hash, or one of more than {shacrypt.MOST} rounds")
        return Secret(scheme, lambda password: shacrypt.check(text, password))
    return _bcrypt(text) if scheme == "BLF-CRYPT" else _argon2(text, scheme)


def _bcrypt(text: str) -> Secret:
    import bcrypt

    match = _BCRYPT.fullmatch(text)
    if match is None or not 4 <= int(match[1]) <= 20:
        raise ValueError("{BLF-CRYPT}: no hash, or a cost that is not 04 to 20")
    # crypt(3) looks at 72 octets; the library refuses more.
    return Secret("BLF-CRYPT", lambda password: bcrypt.checkpw(password[:72], text.encode()))


def _make_bcrypt(password: bytes, rounds: int) -> str:
    import bcrypt

    if len(password) > 72:
        raise ValueError("BLF-CRYPT looks at 72 octets only: choose a shorter password or another scheme")
    if not 4 <= rounds <= 20:
        raise ValueError("the rounds of BLF-CRYPT are 4 to 20, each twice the work")
    return "$2y" + bcrypt.hashpw(password, bcrypt.gensalt(rounds)).decode()[3:]


def _argon2(text: str, scheme: str) -> Secret:
    from argon2 import extract_parameters
    from argon2.exceptions import VerificationError
    from argon2.low_level import Type, verify_secret

    kind = Type.ID if scheme == "ARGON2ID" else Type.I
    try:
        found = extract_parameters(text)
        small = found.memory_cost <= MEMORY and found.time_cost <= 100 and found.parallelism <= 64
        good = found.type is kind and small
    except (ValueError, VerificationError):
        good = False
    if not good:
        most = f"{MEMORY >> 10} MiB, 100 rounds, 64 lanes"
        raise ValueError(f"{{{scheme}}}: no hash, or one that asks for more than {most}")
    encoded = text.encode()

    def check(password: bytes) -> bool:
        try:
            return verify_secret(encoded, password, kind)
        except VerificationError:
            return False

    return Secret(scheme, check)


def _make_argon2(scheme: str, password: bytes, rounds: int) -> str:
    from argon2.low_level import Type, hash_secret

    if not 1 <= rounds <= 100:
        raise ValueError("the rounds of argon2 are 1 to 100")
    kind = Type.ID if scheme == "ARGON2ID" else Type.I
    return hash_secret(password, token_bytes(16), rounds, 65536, 1, 32, kind).decode()
