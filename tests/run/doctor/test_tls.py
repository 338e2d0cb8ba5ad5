"""TLS: whatever is wrong with a certificate or a handshake is named, and no password is sent."""

from __future__ import annotations

import datetime
import ssl
import warnings
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.net.upstream import Peer, Upstream, stall
from tests.run.doctor.patients import AUTHORITY, GOOD, SECRET, Doctor, Told, server, serving

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
OTHER = trustme.CA()


def looked(doctor: Doctor, context: ssl.SSLContext, how: str = "pop3s", name: str = "localhost") -> Told:
    """With a login that never comes about."""
    script = server(tls=context) if how == "pop3s" else server(stls=context)
    with Upstream(script, quits=1) as upstream:
        told = doctor.see(f"{how}://{name}:{upstream.port}", "--user", "joe")
    if told.code:
        assert SECRET not in upstream.received
        assert b"USER" not in upstream.received
    return told


def between() -> ssl.SSLContext:
    return serving(AUTHORITY.create_child_ca().issue_cert("localhost"), chain=False)


def self_signed() -> ssl.SSLContext:
    key = rsa.generate_private_key(65537, 2048)
    return made(key, "localhost")


def weak() -> ssl.SSLContext:
    return made(rsa.generate_private_key(65537, 1024), "localhost", "ALL:@SECLEVEL=0")


def made(key: rsa.RSAPrivateKey, name: str, ciphers: str = "") -> ssl.SSLContext:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 7, NOW - DAY, NOW + 90 * DAY)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if ciphers:
        context.set_ciphers(ciphers)
    with trustme.Blob(pem).tempfile() as path:
        context.load_cert_chain(path)
    return context


def old() -> ssl.SSLContext:
    context = serving(AUTHORITY.issue_cert("localhost"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


CONTEXTS = {
    "tls_expired": lambda: serving(
        AUTHORITY.issue_cert("localhost", not_before=NOW - 90 * DAY, not_after=NOW - DAY)
    ),
    "tls_not_yet_valid": lambda: serving(AUTHORITY.issue_cert("localhost", not_before=NOW + DAY)),
    "tls_wrong_name": lambda: serving(AUTHORITY.issue_cert("mail.example.com", "*.example.com")),
    "tls_unknown_ca": lambda: serving(OTHER.create_child_ca().issue_cert("localhost")),
    "tls_incomplete_chain": between,
    "tls_self_signed": self_signed,
    "tls_weak": weak,
    "tls_old": old,
}
SAYS = {
    "tls_expired": ("expired on 20", "renew it"),
    "tls_not_yet_valid": ("is not valid before", "clock of this machine"),
    "tls_wrong_name": (
        "for mail.example.com, *.example.com, not for localhost",
        'server_name = "mail.example.com"',
    ),
    "tls_unknown_ca": ("is not in", "ca_file ="),
    "tls_incomplete_chain": ("sends its own certificate only", "whole chain"),
    "tls_self_signed": ("self-signed", "ca_file ="),
    "tls_weak": ("a key of 1024 bits", "2048 bits"),
    "tls_old": ("speaks TLSv1.1 at most", "TLS 1.2"),
}


@pytest.mark.parametrize("how", ["pop3s", "pop3"])
@pytest.mark.parametrize("word", CONTEXTS)
def test_what_is_wrong_is_named(word: str, how: str, doctor: Doctor) -> None:
    told = looked(doctor, CONTEXTS[word](), how)
    assert told.code == 1
    assert told.wrong == {word: "fail"}
    text, advice = SAYS[word]
    assert text in told.words[word]["text"]
    assert advice in told.words[word]["advice"]


def test_an_authority_that_sends_itself(doctor: Doctor) -> None:
    leaf = OTHER.issue_cert("localhost")
    leaf.cert_chain_pems.append(OTHER.cert_pem)
    assert looked(doctor, serving(leaf)).wrong == {"tls_unknown_ca": "fail"}


def test_a_good_one(doctor: Doctor) -> None:
    for how in ("pop3s", "pop3"):
        told = looked(doctor, GOOD, how)
        assert (told.code, told.wrong) == (0, {})
        assert "TLSv1.3" in told.words["tls"]["text"]
        assert "certificate of localhost (and 1 more)" in told.words["tls"]["text"]
        assert told.words["login"]["mark"] == "ok"


def test_it_ends_soon(doctor: Doctor) -> None:
    told = looked(doctor, serving(AUTHORITY.issue_cert("localhost", not_after=NOW + 3 * DAY)))
    assert (told.code, told.wrong) == (0, {"tls_ends_soon": "warn"})
    assert "in 3 days" in told.words["tls_ends_soon"]["text"]


def test_nobody_checks(doctor: Doctor) -> None:
    with Upstream(server(tls=self_signed()), quits=1) as upstream:
        told = doctor.configured(f"pop3s://localhost:{upstream.port}", "verify = false")
    assert (told.code, told.wrong) == (0, {"tls_unverified": "warn"})


@pytest.mark.parametrize("greeting", [b"+OK ready\r\n", b"220 mail.example.com ESMTP\r\n"])
def test_clear_where_tls_was_expected(greeting: bytes, doctor: Doctor) -> None:
    with Upstream(server(greeting=greeting)) as upstream:
        told = doctor.see(f"pop3s://localhost:{upstream.port}")
    assert (told.code, told.wrong) == (1, {"tls_plain": "fail"})
    assert greeting.decode().strip() in told.words["tls_plain"]["text"]
    assert "pop3://" in told.words["tls_plain"]["advice"]


@pytest.mark.parametrize("how", ["pop3", "pop3+clear"])
def test_tls_where_clear_was_expected(how: str, doctor: Doctor) -> None:
    with Upstream(server(tls=GOOD)) as upstream:
        told = doctor.see(f"{how}://localhost:{upstream.port}", "--timeout", "300ms")
    assert told.code == 1
    assert told.wrong["tls_unexpected"] == "fail"
    assert "pop3s://" in told.words["tls_unexpected"]["advice"]


def test_no_handshake(doctor: Doctor) -> None:
    with Upstream(stall) as upstream:
        told = doctor.see(f"pop3s://localhost:{upstream.port}", "--timeout", "200ms")
    assert (told.code, told.wrong) == (1, {"tls_timeout": "fail"})


def test_a_handshake_cut_short(doctor: Doctor) -> None:
    def cut(peer: Peer) -> None:
        peer.octets(20)

    with Upstream(cut) as upstream:
        told = doctor.see(f"pop3s://localhost:{upstream.port}", "--timeout", "300ms")
    assert (told.code, told.wrong) == (1, {"tls_failed": "fail"})


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_asked_for(version: ssl.TLSVersion, doctor: Doctor) -> None:
    context = serving(AUTHORITY.issue_cert("localhost"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    AUTHORITY.configure_trust(context)
    with Upstream(server(tls=context), quits=1) as upstream:
        told = doctor.see(f"pop3s://localhost:{upstream.port}")
        assert told.code == 1
        # Before TLS 1.3 a server does not say why it breaks off.
        word = "tls_client_certificate" if version == ssl.TLSVersion.TLSv1_3 else "tls_failed"
        assert told.wrong == {word: "fail"}
        assert "write client_certificate =" in told.words[word]["advice"]
        own = doctor.directory / "own.pem"
        AUTHORITY.issue_cert("proxy").private_key_and_cert_chain_pem.write_to_path(str(own))
        good = doctor.configured(
            f"pop3s://localhost:{upstream.port}", f'ca_file = "ca.pem"\nclient_certificate = {{ cert = "{own}" }}'
        )
    assert (good.code, good.wrong) == (0, {})


@pytest.mark.parametrize(
    ("answers", "word"),
    [
        ({b"STLS": b"-ERR no\r\n"}, "stls_refused"),
        ({b"STLS": b"-ERR no\r\n", b"CAPA": b"-ERR what?\r\n"}, "stls_refused"),
        ({b"STLS": b""}, "stls_failed"),
        ({b"CAPA": b"+OK\r\nUSER\r\n\0"}, "stls_failed"),
        ({b"STLS": b"+OK\r\n-ERR injected\r\n"}, "stls_injected"),
    ],
)
def test_stls_that_does_not_come_about(answers: dict[bytes, bytes], word: str, doctor: Doctor) -> None:
    with Upstream(server(answers)) as upstream:
        told = doctor.see(f"pop3://localhost:{upstream.port}", "--user", "joe", "--timeout", "300ms")
    assert (told.code, told.wrong) == (1, {word: "fail"})
    assert SECRET not in upstream.received


def test_stls_is_not_announced(doctor: Doctor) -> None:
    with Upstream(server({b"CAPA": b"+OK\r\nUSER\r\nUIDL\r\n.\r\n"}, stls=GOOD), quits=1) as upstream:
        told = doctor.see(f"pop3://localhost:{upstream.port}")
    assert (told.code, told.wrong) == (0, {"stls_unannounced": "warn"})


def test_files_that_cannot_be_used(doctor: Doctor, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    code, out, err = doctor.run("--upstream", "pop3s://localhost:1", "--ca-file", str(bad))
    assert (code, out) == (78, "")
    assert f"{bad}: is not PEM" in err
