"""TLS contexts: which certificate, which versions and suites, and every fault of a file."""

from __future__ import annotations

import datetime
import ssl
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from popproxy.net.tls import (
    INTERMEDIATE_CIPHERS,
    CertificateFiles,
    TlsConfigError,
    certificate_errors,
    certificate_expiry,
    certificate_warnings,
    client_context,
    server_context,
)

NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
KEYS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "ECDSA": ec.generate_private_key(ec.SECP256R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
AUTHORITY = trustme.CA()


def make(
    path: Path,
    *names: str,
    kind: str = "ECDSA",
    start: datetime.datetime | None = None,
    days: float = 30,
    password: bytes | None = None,
    chain: bytes = b"",
) -> CertificateFiles:
    """A self-signed pair in one file."""
    key = KEYS[kind]
    start = start or datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{path.stem} {kind}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    certificate = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    path.write_bytes(private + chain + certificate.public_bytes(Encoding.PEM))
    path.chmod(0o600)
    return CertificateFiles(path, None, password)


def leaf(files: CertificateFiles) -> bytes:
    return x509.load_pem_x509_certificate(files.cert.read_bytes()).public_bytes(Encoding.DER)


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake in memory: both ends, done."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(down, up, server_hostname=name)
    answering = server.wrap_bio(up, down, server_side=True)
    waiting = [asking, answering]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return asking, answering
    raise AssertionError("the handshake does not end")


def anyone(ciphers: str | None = None) -> ssl.SSLContext:
    """A client that takes every certificate; with ``ciphers``, one of TLS 1.2."""
    context = client_context(verify=False)
    if ciphers is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    return context


def served(context: ssl.SSLContext, name: str | None, ciphers: str | None = None) -> bytes | None:
    """The certificate a client gets, DER."""
    return shake(context, anyone(ciphers), name)[0].getpeercert(binary_form=True)


def fault(certificates: Sequence[CertificateFiles]) -> TlsConfigError:
    with pytest.raises(TlsConfigError) as caught:
        server_context(certificates)
    assert str(caught.value).startswith(str(caught.value.path))
    return caught.value


# Which certificate.


def test_the_certificate_is_chosen_by_name(tmp_path: Path) -> None:
    first = make(tmp_path / "first.pem", "first.example", "both.example")
    exact = make(tmp_path / "exact.pem", "Mail.wild.example")
    wild = make(tmp_path / "wild.pem", "*.wild.example", "both.example")
    context = server_context([first, exact, wild])
    for name, files in {
        "first.example": first,
        "mail.wild.example": exact,
        "MAIL.wild.example": exact,
        "other.wild.example": wild,
        "a.b.wild.example": first,
        "wild.example": first,
        "both.example": first,
        "unknown.example": first,
        None: first,
    }.items():
        assert served(context, name) == leaf(files), name


def test_rsa_and_ecdsa_are_offered_together(tmp_path: Path) -> None:
    one = make(tmp_path / "rsa.pem", "mail.example", "old.example", kind="RSA")
    two = make(tmp_path / "ecdsa.pem", "mail.example")
    three = make(tmp_path / "spare.pem", "mail.example")  # the second of its kind: never served
    other = make(tmp_path / "other.pem", "other.example")
    context = server_context([one, two, three, other])
    for name in ("mail.example", None):  # the default offers what its first name has
        assert served(context, name, "ECDHE+aRSA") == leaf(one)
        assert served(context, name, "ECDHE+aECDSA") == leaf(two)
    assert served(context, "old.example", "ECDHE+aRSA") == leaf(one)
    assert served(context, "other.example", "ECDHE+aECDSA") == leaf(other)
    with pytest.raises(ssl.SSLError):
        served(context, "old.example", "ECDHE+aECDSA")


def test_ed25519_works(tmp_path: Path) -> None:
    files = make(tmp_path / "ed.pem", "mail.example", kind="Ed25519")
    assert served(server_context([files]), "mail.example") == leaf(files)


def test_one_context_needs_no_callback(tmp_path: Path) -> None:
    one = make(tmp_path / "one.pem", "a.example", "b.example")
    assert server_context([one]).sni_callback is None


def test_a_certificate_without_names_serves_as_the_default(tmp_path: Path) -> None:
    nameless = make(tmp_path / "nameless.pem")
    named = make(tmp_path / "named.pem", "a.example")
    context = server_context([nameless, named])
    assert served(context, "b.example") == leaf(nameless)
    assert served(context, "a.example") == leaf(named)


def test_a_chain_is_served_and_verified(tmp_path: Path) -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    issued = middle.issue_cert("mail.example")
    path = tmp_path / "chain.pem"
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    (tmp_path / "ca.pem").write_bytes(root.cert_pem.bytes())
    client, server = shake(
        server_context([CertificateFiles(path)]), client_context(ca_file=tmp_path / "ca.pem"), "mail.example"
    )
    assert client.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "pop3"


# Versions, suites, options.


def test_mozilla_intermediate(tmp_path: Path) -> None:
    context = server_context([make(tmp_path / "a.pem", "a.example")])
    suites = [suite["name"] for suite in context.get_ciphers()]
    assert [name for name in suites if not name.startswith("TLS_")] == INTERMEDIATE_CIPHERS.split(":")
    assert {name for name in suites if name.startswith("TLS_")} == {
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    }
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert not context.options & ssl.OP_NO_TICKET
    assert context.num_tickets == 1


def test_the_order_of_the_client_is_preferred(tmp_path: Path) -> None:
    context = server_context([make(tmp_path / "a.pem", "a.example")])
    for chosen in ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-GCM-SHA384"):
        client, _ = shake(context, anyone(f"{chosen}:ECDHE-ECDSA-AES128-GCM-SHA256"), "a.example")
        cipher = client.cipher()
        assert cipher is not None and cipher[0] == chosen


def test_a_server_does_no_dhe_so_that_metrics_need_no_names_for_it(tmp_path: Path) -> None:
    files = make(tmp_path / "a.pem", "a.example", kind="RSA")
    context = server_context([files], ciphers="DHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384")
    with pytest.raises(ssl.SSLError):
        served(context, "a.example", "DHE-RSA-AES256-GCM-SHA384")
    assert served(context, "a.example", "ECDHE-RSA-AES256-GCM-SHA384")


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "X25519"])
def test_the_key_exchange_groups_are_not_narrowed(tmp_path: Path, curve: str) -> None:
    context = server_context([make(tmp_path / "a.pem", "a.example")])
    client = anyone()
    client.set_ecdh_curve(curve)
    assert shake(context, client, "a.example")[0].version() == "TLSv1.3"


def test_minimum_and_own_ciphers(tmp_path: Path) -> None:
    files = make(tmp_path / "a.pem", "a.example")
    with pytest.raises(ssl.SSLError):
        served(server_context([files], minimum="TLSv1.3"), "a.example", "ECDHE+aECDSA")
    context = server_context([files], ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    assert served(context, "a.example", "ECDHE+aECDSA") == leaf(files)
    with pytest.raises(ssl.SSLError):
        served(context, "a.example", "ECDHE-ECDSA-AES128-GCM-SHA256")
    with pytest.raises(TlsConfigError, match=r"knows none of 'NONSENSE'") as caught:
        server_context([files], ciphers="NONSENSE")
    assert caught.value.path is None


# Faults.


def test_no_certificate_at_all() -> None:
    with pytest.raises(TlsConfigError, match="at least one"):
        server_context([])


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    assert fault([CertificateFiles(tmp_path / "none.pem")]).message == "there is no such file"
    assert fault([CertificateFiles(tmp_path)]).message.startswith("is a directory")
    good = make(tmp_path / "a.pem", "a.example")
    assert fault([CertificateFiles(good.cert, tmp_path / "none.key")]).path == tmp_path / "none.key"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make(tmp_path / "a.pem", "a.example")

    def denied(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")  # root reads every file, so chmod would prove nothing

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert fault([files]).message == "cannot be read: Permission denied; let the proxy's user read it"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not PEM"),
        (b"\x30\x82\x01", "is not PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is it the key?"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "damaged"),
    ],
)
def test_what_is_no_certificate(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes(content)
    found = fault([CertificateFiles(path)])
    assert found.path == path
    assert message in found.message


def test_keys_that_do_not_fit(tmp_path: Path) -> None:
    one = make(tmp_path / "one.pem", "a.example")
    two = make(tmp_path / "two.pem", "a.example", kind="RSA")
    assert "does not belong" in fault([CertificateFiles(one.cert, two.cert)]).message
    bare = tmp_path / "bare.pem"
    bare.write_bytes(ssl.DER_cert_to_PEM_cert(leaf(one)).encode())
    found = fault([CertificateFiles(bare)])
    assert found.message == "holds no PEM private key; name the file of the key"
    assert fault([CertificateFiles(one.cert, bare)]).message == "holds no PEM private key"
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert fault([CertificateFiles(one.cert, broken)]).message == "the private key is damaged"


def test_a_chain_in_the_wrong_order(tmp_path: Path) -> None:
    issuer = ssl.DER_cert_to_PEM_cert(leaf(make(tmp_path / "ca.pem", kind="RSA"))).encode()
    assert "put it before its chain" in fault([make(tmp_path / "a.pem", "a.example", chain=issuer)]).message


def test_encrypted_keys(tmp_path: Path) -> None:
    files = make(tmp_path / "a.pem", "a.example", password=b"open sesame")
    assert served(server_context([files]), "a.example") == leaf(files)
    assert "encrypted" in fault([CertificateFiles(files.cert)]).message
    wrong = CertificateFiles(files.cert, None, b"shut sesame")
    assert fault([wrong]).message == "the password does not open the private key"
    assert "sesame" not in repr(wrong) + str(fault([wrong]))
    plain = make(tmp_path / "b.pem", "b.example")
    server_context([CertificateFiles(plain.cert, None, b"not needed")])


def test_keys_tls_cannot_use(tmp_path: Path) -> None:
    key = dsa.generate_private_key(2048)
    subject = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "dsa.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
    assert "take RSA or ECDSA" in fault([CertificateFiles(path)]).message


def test_a_certificate_openssl_refuses(tmp_path: Path) -> None:
    files = AUTHORITY.issue_cert("a.example")
    path = tmp_path / "weak.pem"
    weak = rsa.generate_private_key(65537, 1024)
    issued = x509.load_pem_x509_certificate(files.cert_chain_pems[0].bytes())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(issued.subject)
        .issuer_name(issued.subject)
        .public_key(weak.public_key())
        .serial_number(1)
        .not_valid_before(issued.not_valid_before_utc)
        .not_valid_after(issued.not_valid_after_utc)
        .sign(weak, hashes.SHA256())
    )
    pem = weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
    try:
        server_context([CertificateFiles(path)])
    except TlsConfigError as exc:
        assert exc.path == path
        assert "OpenSSL refuses" in exc.message
    else:
        assert ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).security_level < 2


def test_every_error_and_every_warning(tmp_path: Path) -> None:
    old = make(tmp_path / "old.pem", "a.example", start=NOON, days=10)
    early = make(tmp_path / "early.pem", "b.example", start=NOON + datetime.timedelta(days=60))
    nameless = make(tmp_path / "nameless.pem", start=NOON)
    nameless.cert.chmod(0o644)
    missing = CertificateFiles(tmp_path / "missing.pem")
    assert [error.path for error in certificate_errors([old, missing, early, missing])] == [missing.cert] * 2
    now = (NOON + datetime.timedelta(days=20)).timestamp()
    warnings = certificate_warnings([old, early, nameless], now=now)
    assert [warning.split(": ", 1)[0] for warning in warnings] == [
        str(files.cert) for files in (old, early, nameless, nameless)
    ]
    for warning, words in zip(
        warnings, ("expired on 2024-05-11", "not valid before 2024-06-30", "never chosen", "chmod o="), strict=True
    ):
        assert words in warning
    assert certificate_warnings([make(tmp_path / "fine.pem", "a.example")]) == []
    assert stat.S_IMODE(nameless.cert.stat().st_mode) == 0o644
    server_context([old])  # expired is no error


def test_expiry(tmp_path: Path) -> None:
    files = make(tmp_path / "a.pem", "a.example", start=NOON, days=30)
    assert certificate_expiry(files.cert) == (NOON + datetime.timedelta(days=30)).timestamp()
    with pytest.raises(TlsConfigError, match="no such file"):
        certificate_expiry(tmp_path / "none.pem")


# Towards an upstream.


def test_an_upstream_is_verified_by_default(tmp_path: Path) -> None:
    files = make(tmp_path / "a.pem", "a.example")
    server = server_context([files])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client_context(), "a.example")
    trusting = client_context(ca_file=files.cert)
    client, answering = shake(server, trusting, "a.example")
    assert answering.selected_alpn_protocol() == "pop3"
    assert client.version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server, trusting, "b.example")
    assert trusting.check_hostname
    assert served(server, "b.example") == leaf(files)
    assert client_context().minimum_version == ssl.TLSVersion.TLSv1_2
    assert client_context(minimum="TLSv1.3").minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    files = make(tmp_path / "a.pem", "a.example")
    issued = AUTHORITY.issue_cert("proxy@example.org")
    mine = tmp_path / "mine.pem"
    mine.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    server = server_context([files])
    server.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(server)
    context = client_context(ca_file=files.cert, client_certificate=CertificateFiles(mine))
    _, answering = shake(server, context, "a.example")
    certificate = answering.getpeercert()
    assert certificate is not None
    assert certificate["subjectAltName"] == (("email", "proxy@example.org"),)


def test_faults_of_a_ca_file(tmp_path: Path) -> None:
    with pytest.raises(TlsConfigError, match="no such file"):
        client_context(ca_file=tmp_path / "none.pem")
    path = tmp_path / "text.pem"
    path.write_text("not a certificate")
    with pytest.raises(TlsConfigError, match="is not PEM"):
        client_context(ca_file=path)
    with pytest.raises(TlsConfigError, match="no such file"):
        client_context(client_certificate=CertificateFiles(tmp_path / "none.pem"))


def test_a_ca_file_openssl_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make(tmp_path / "a.pem", "a.example")

    def refuse(_context: ssl.SSLContext, cafile: Path) -> None:
        raise ssl.SSLError(1, f"cannot use {cafile.name}")

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", refuse)
    with pytest.raises(TlsConfigError, match=r"OpenSSL refuses these CA certificates: .*a\.pem") as caught:
        client_context(ca_file=files.cert)
    assert caught.value.path == files.cert
