"""Client certificates: asked for as configured, shown to plugins in nginx's words."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from popproxy.api import Code, Credentials, Plugin, PluginConfig, Refuse, SessionView, TlsView
from popproxy.net import front
from popproxy.net.clientcert import described, distinguished
from popproxy.net.tls import CertificateFiles, TlsConfigError, server_context
from tests.net.running import Setup, both_loops, client_context, pem, running
from tests.net.tlspeers import AUTHORITY

KEY = ec.generate_private_key(ec.SECP256R1())


def attribute(oid: x509.ObjectIdentifier, value: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(oid, value, _validate=False)


def certificate(subject: x509.Name, serial: int = 10) -> x509.Certificate:
    now = datetime.datetime(2026, 1, 1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([attribute(NameOID.COMMON_NAME, "CA")]))
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(KEY, SHA256())
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('Joe, "U" +S\N{LATIN SMALL LETTER SHARP S}', r"Joe\, \"U\" \+S\C3\9F"),
        ("#1", r"\#1"),
        (" a ", r"\ a\ "),
        (" ", r"\ "),
        ("a  ", r"a \ "),
        ("<a;b>\\", r"\<a\;b\>\\"),
        ("a=b/c", "a=b/c"),
        ("a\r\nX: \x7f\0", r"a\0D\0AX: \7F\00"),
        ("\N{EURO SIGN}", r"\E2\82\AC"),
    ],
)
def test_values_as_openssl_escapes_them(value: str, text: str) -> None:
    assert distinguished(x509.Name([attribute(NameOID.COMMON_NAME, value)])) == f"CN={text}"


def test_the_last_part_comes_first() -> None:
    name = x509.Name(
        [
            x509.RelativeDistinguishedName([attribute(NameOID.COUNTRY_NAME, "DE")]),
            x509.RelativeDistinguishedName(
                [attribute(NameOID.COMMON_NAME, "joe"), attribute(NameOID.EMAIL_ADDRESS, "joe@example.com")]
            ),
        ]
    )
    assert distinguished(name) == "emailAddress=joe@example.com+CN=joe,C=DE"


def test_a_part_without_a_name_is_shown_as_octets() -> None:
    name = x509.Name([attribute(x509.ObjectIdentifier("1.2.3.4"), "ab")])
    assert distinguished(name) == "1.2.3.4=#0C026162"


def test_numbers_as_nginx_writes_them() -> None:
    made = certificate(x509.Name([attribute(NameOID.COMMON_NAME, "joe")]), 0xABC)
    der = made.public_bytes(Encoding.DER)
    shown = described(der)
    assert (shown.subject, shown.issuer, shown.serial) == ("CN=joe", "CN=CA", "0ABC")
    assert shown.fingerprint == hashlib.sha1(der).hexdigest()
    assert shown.pem == made.public_bytes(Encoding.PEM).decode()


@given(st.lists(st.text(min_size=1, max_size=16), min_size=1, max_size=4))
def test_any_name_is_one_line_of_ascii(values: list[str]) -> None:
    text = distinguished(x509.Name([attribute(NameOID.COMMON_NAME, value) for value in values]))
    assert text.isascii() and text.isprintable()


def test_a_name_longer_than_it_may_be_is_no_warning_for_the_administrator() -> None:
    with pytest.warns(UserWarning, match="length"):
        made = certificate(x509.Name([attribute(NameOID.COMMON_NAME, "x" * 100)]))
    assert described(made.public_bytes(Encoding.DER)).subject == "CN=" + "x" * 100


class Sees(Plugin[PluginConfig]):
    """Remembers the TLS it was shown."""

    seen: TlsView | None = None

    def on_login(self, session: SessionView, credentials: Credentials) -> Refuse:
        self.seen = session.tls
        return Refuse("No", Code.AUTH)


def context_with(issued: trustme.LeafCert | None) -> ssl.SSLContext:
    context = client_context()
    if issued is not None:
        issued.configure_cert(context)
    return context


def setup(loop: str, plugin: Sees, mode: str, tmp_path: Path) -> Setup:
    authority = tmp_path / "clients.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))
    more = f'verify_client = "{mode}"\nclient_ca_file = "{authority}"' if mode != "off" else ""
    return Setup(["pop3+clear://127.0.0.1:1"], loop, tls="implicit", listener=more, plugins=[plugin])


GOOD = AUTHORITY.issue_cert("joe@example.com", common_name="joe")
EVIL = trustme.CA().issue_cert("eve@example.com", common_name="eve")


@both_loops
@pytest.mark.parametrize(
    ("mode", "issued", "verify"),
    [
        ("off", None, ""),
        ("off", GOOD, ""),
        ("optional", None, "NONE"),
        ("optional", GOOD, "SUCCESS"),
        ("required", GOOD, "SUCCESS"),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_plugins_see(
    loop: str, mode: str, issued: trustme.LeafCert | None, verify: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    plugin = Sees(PluginConfig())
    with running(setup(loop, plugin, mode, tmp_path), tmp_path) as proxy:
        context = context_with(issued)
        context.minimum_version = context.maximum_version = version
        client = proxy.client(implicit=context)
        client.user_pass(b"alice", b"x")
        client.close()
    seen = plugin.seen
    assert seen is not None and seen.verify == verify
    if verify == "SUCCESS":
        assert seen.subject.startswith("CN=joe,OU=")
        assert (seen.pem.startswith("-----BEGIN"), len(seen.fingerprint)) == (True, 40)
    else:
        assert (seen.subject, seen.issuer, seen.serial, seen.fingerprint, seen.pem) == ("", "", "", "", "")


@both_loops
@pytest.mark.parametrize(("mode", "issued"), [("optional", EVIL), ("required", EVIL), ("required", None)])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_is_turned_away(
    loop: str, mode: str, issued: trustme.LeafCert | None, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    plugin = Sees(PluginConfig())
    with running(setup(loop, plugin, mode, tmp_path), tmp_path) as proxy:
        context = context_with(issued)
        context.minimum_version = context.maximum_version = version
        with pytest.raises((OSError, AssertionError)):
            proxy.client(implicit=context)
        failed = proxy.wait("tls_failed")
        assert failed["reason"] == ("unverified" if issued else failed["reason"])
    assert plugin.seen is None


@both_loops
def test_a_resumed_session_still_shows_its_certificate(loop: str, tmp_path: Path) -> None:
    plugin = Sees(PluginConfig())
    with running(setup(loop, plugin, "required", tmp_path), tmp_path) as proxy:
        context = context_with(GOOD)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client = proxy.client(implicit=context)
        session = client.socket.session  # type: ignore[union-attr]
        client.close()
        client = proxy.client(implicit=context)
        client.close()
        import socket as sockets

        raw = sockets.create_connection(proxy.address(), timeout=20)
        secured = context.wrap_socket(raw, server_hostname="localhost", session=session)
        assert secured.session_reused
        secured.recv(100)
        secured.sendall(b"USER alice\r\n")
        secured.recv(100)
        secured.sendall(b"PASS x\r\n")
        secured.recv(100)
        secured.close()
    assert plugin.seen is not None
    assert (plugin.seen.resumed, plugin.seen.verify) == (True, "SUCCESS")
    assert plugin.seen.subject.startswith("CN=joe,")


@both_loops
def test_a_certificate_that_cannot_be_read_names_nobody(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(der: bytes) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(front, "described", fails)
    plugin = Sees(PluginConfig())
    with running(setup(loop, plugin, "optional", tmp_path), tmp_path) as proxy:
        client = proxy.client(implicit=context_with(GOOD))
        client.user_pass(b"alice", b"x")
        client.close()
    assert plugin.seen is not None
    assert (plugin.seen.verify, plugin.seen.subject) == ("FAILED:the certificate cannot be read", "")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes | None:
    """One in memory; the client's certificate as the server has it. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return ours.getpeercert(binary_form=True)


@pytest.mark.parametrize("name", ["one.example.com", "two.example.com", "other.example.com"])
def test_every_certificate_chosen_by_sni_asks_alike(name: str, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))
    files = []
    for served in ("one", "two"):
        issued = AUTHORITY.issue_cert(f"{served}.example.com", "other.example.com")
        files.append(CertificateFiles(pem(tmp_path / f"{served}.pem", issued)))
    server = server_context(files, verify_client="required", client_ca_file=authority)
    der = handshake(server, context_with(GOOD), name)
    assert der is not None and described(der).subject.startswith("CN=joe,")
    for shown in (EVIL, None):
        with pytest.raises(ssl.SSLError):
            handshake(server, context_with(shown), name)


def test_authorities_that_cannot_be_used(tmp_path: Path) -> None:
    files = [CertificateFiles(pem(tmp_path / "one.pem", AUTHORITY.issue_cert("one.example.com")))]
    with pytest.raises(TlsConfigError, match="needs client_ca_file"):
        server_context(files, verify_client="optional")
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(TlsConfigError, match=r"ca\.pem"):
        server_context(files, verify_client="optional", client_ca_file=tmp_path / "ca.pem")
