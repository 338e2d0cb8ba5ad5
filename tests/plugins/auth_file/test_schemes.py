"""Password schemes: hashes that others made, hashes of our own, and what is no hash. Dovecot's own are in
tests/integration."""

from __future__ import annotations

import builtins
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.auth_file import schemes, shacrypt

from popproxy.api import Verifier

FAST = ["SHA256-CRYPT", "SHA512-CRYPT", "SSHA256", "SSHA512", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"]
ROUNDS = {"BLF-CRYPT": 4, "ARGON2ID": 1, "ARGON2I": 1}


def tagged(scheme: str, octets: bytes, encoding: str = "") -> str:
    return f"{{{scheme}{encoding}}}{octets.hex() if encoding == '.hex' else b64encode(octets).decode()}"


@pytest.mark.parametrize("scheme", schemes.MADE)
@pytest.mark.parametrize("password", [b"sesame", "w\N{LATIN SMALL LETTER O WITH DIAERESIS}rd :".encode(), b"x" * 72])
def test_what_is_made_is_read_back(scheme: str, password: bytes) -> None:
    made = schemes.make(scheme, password, ROUNDS.get(scheme))
    assert made.startswith(f"{{{scheme}")
    assert ":" not in made and "\n" not in made
    secret = schemes.parse(made, "PLAIN")
    assert secret.scheme == scheme
    assert secret.proven(password)
    assert not secret.proven(password + b"x" if len(password) < 72 else password[:-1])
    assert not secret.proven(b"")
    assert password.decode() not in repr(secret)
    assert made != schemes.make(scheme, password, ROUNDS.get(scheme)) or scheme == "PLAIN"


@pytest.mark.parametrize("scheme", FAST)
@settings(max_examples=20, deadline=None)
@given(password=st.text(alphabet="abc \N{EURO SIGN}:{}%", min_size=1, max_size=40))
def test_any_password_is_read_back(scheme: str, password: str) -> None:
    secret = schemes.parse(schemes.make(scheme, password.encode()), "CRYPT")
    assert secret.proven(password.encode())
    assert not secret.proven(password.encode() + b"!")


@pytest.mark.parametrize("kind", ["5", "6"])
@pytest.mark.parametrize("rounds", [1000, 5000, 1042])
@pytest.mark.parametrize("length", [1, 15, 31, 32, 33, 63, 64, 65, 200])
def test_sha_crypt_of_every_length_is_valid(kind: str, rounds: int, length: int) -> None:
    made = shacrypt.make(kind, b"p" * length, "salt", rounds)
    assert shacrypt.valid(made)
    assert shacrypt.check(made, b"p" * length)
    assert not shacrypt.check(made, b"p" * (length - 1))


def test_sha_crypt_is_what_openssl_makes() -> None:
    """openssl passwd -5 -salt saltstring, and -6."""
    made = shacrypt.make("5", b"Hello world!", "saltstring")
    assert made == "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"
    made = shacrypt.make("6", b"Hello world!", "saltstring")
    assert made == (
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
    )


@pytest.mark.parametrize("scheme", ["SHA", "SHA1", "SHA256", "SHA512", "SSHA", "SSHA256", "SSHA512"])
@pytest.mark.parametrize("encoding", ["", ".b64", ".base64", ".hex"])
def test_digests_in_every_encoding(scheme: str, encoding: str) -> None:
    import hashlib

    salt = b"salt" if scheme.startswith("SS") else b""
    name = {"SHA": "sha1", "SHA1": "sha1", "SSHA": "sha1"}.get(scheme, f"sha{scheme[-3:]}")
    octets = hashlib.new(name, b"sesame" + salt).digest() + salt
    secret = schemes.parse(tagged(scheme.lower(), octets, encoding), "PLAIN")
    assert secret.proven(b"sesame") and not secret.proven(b"sesam")


def test_a_hexadecimal_digest_is_told_by_its_length() -> None:
    assert schemes.parse("{SHA256}" + sha256(b"x").hexdigest(), "PLAIN").proven(b"x")


def test_the_default_scheme_is_for_what_has_no_braces() -> None:
    assert schemes.parse("sesame", "PLAIN").plain == b"sesame"
    assert schemes.parse("{clear}sesame", "CRYPT").plain == b"sesame"
    assert schemes.parse("{CLEARTEXT}{x}", "CRYPT").plain == b"{x}"
    assert schemes.parse(shacrypt.make("6", b"x", "s"), "CRYPT").scheme == "SHA512-CRYPT"
    assert schemes.parse("{PLAIN}\udcff", "CRYPT").plain == b"\xff"


def test_a_scram_verifier_is_for_its_mechanism() -> None:
    verifier = Verifier.derive("SCRAM-SHA-256", "sesame", b"salt", 4096)
    parts = ",".join(b64encode(part).decode() for part in (b"salt", verifier.stored_key, verifier.server_key))
    secret = schemes.parse(f"{{SCRAM-SHA-256}}4096,{parts}", "PLAIN")
    assert secret.verifier == verifier
    assert secret.proven(b"sesame") and not secret.proven(b"\xff")


def test_an_overlong_password_is_wrong_and_costs_no_more() -> None:
    long = b"x" * (schemes.LONGEST + 1)
    secret = schemes.parse(schemes.make("SHA512-CRYPT", long[:-1]), "CRYPT")
    assert secret.proven(long[:-1])
    assert not secret.proven(long)


BAD = [
    ("{MD4}x", "the scheme {MD4} is not known"),
    ("{PLAIN.rot13}x", "the encoding is not known"),
    ("{PLAIN.b64}%", "is not b64"),
    ("{PLAIN.hex}0", "is not hex"),
    ("{PLAIN}", "empty"),
    ("{SHA256}eA==", "1 octets are not a digest of it"),
    ("{SSHA256}" + b64encode(b"x" * 32).decode(), "not a digest and a salt"),
    ("{SHA512-CRYPT}$6$salt$short", "no hash"),
    ("{SHA512-CRYPT}" + "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc8", "no hash"),
    ("{SHA512-CRYPT}$6$rounds=99999999$s$" + "a" * 86, "no hash, or one of more than 10000000 rounds"),
    ("{CRYPT}$1$salt$hash", "of the old hashes only"),
    ("{CRYPT}ab01FAX.bQRSU", "of the old hashes only"),
    ("{BLF-CRYPT}$2y$05$short", "no hash"),
    ("{BLF-CRYPT}$2y$31$" + "a" * 53, "a cost that is not"),
    ("{ARGON2ID}$argon2id$v=19$m=65536", "no hash"),
    ("{ARGON2ID}$argon2i$v=19$m=16,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g", "no hash"),
    ("{ARGON2ID}$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g", "asks for more than"),
    ("{SCRAM-SHA-256}4096,c2FsdA==,eA==,eA==", "write iterations"),
    ("{SCRAM-SHA-256}x,c2FsdA==,eA==,eA==", "write iterations"),
    ("{SCRAM-SHA-256}4096", "write iterations"),
    ("{SCRAM-SHA-256}4096,c2FsdA==," + ",".join([b64encode(b"x" * 20).decode()] * 2), "wrong length"),
    ("{SHA512-CRYPT}\N{EURO SIGN}", "a hash is ASCII"),
]


@pytest.mark.parametrize(("text", "told"), BAD)
def test_what_is_no_secret_is_told_without_it(text: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        schemes.parse(text, "PLAIN")
    assert told in str(caught.value)
    body = text.partition("}")[2]
    assert len(body) < 3 or body not in str(caught.value)


@given(st.text(), st.sampled_from(schemes.KNOWN))
def test_any_text_is_a_secret_or_a_value_error(text: str, scheme: str) -> None:
    for given_text in (text, f"{{{scheme}}}{text}", f"{{{scheme}.hex}}{text}"):
        try:
            schemes.parse(given_text, scheme)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("scheme", "password", "rounds", "told"),
    [
        ("MD5", b"x", None, "is not made"),
        ("PLAIN", b"", None, "1 to"),
        ("PLAIN", b"x" * 2000, None, "1 to"),
        ("BLF-CRYPT", b"x" * 73, 4, "72"),
        ("BLF-CRYPT", b"x", 40, "4 to 20"),
        ("ARGON2ID", b"x", 1000, "1 to 100"),
        ("SCRAM-SHA-256", b"\xff", None, "UTF-8"),
        ("SCRAM-SHA-256", b"x", -1, "no work"),
        ("ARGON2ID", b"x", 0, "no work"),
        ("SHA512-CRYPT", b"x", 999, "1000 to 10000000"),
        ("SHA256-CRYPT", b"x", 10_000_001, "1000 to 10000000"),
    ],
)
def test_what_cannot_be_made(scheme: str, password: bytes, rounds: int | None, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        schemes.make(scheme, password, rounds)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert schemes.missing() is None
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "bcrypt":
            raise ModuleNotFoundError("no bcrypt", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert schemes.missing() == "bcrypt"


def test_no_library_is_loaded_before_an_entry_needs_it() -> None:
    code = (
        "import sys; from popproxy_plugins.auth_file import schemes; schemes.parse('{PLAIN}x', 'CRYPT');"
        "sys.exit(bool({'argon2', 'bcrypt'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
