"""The certificate of the first start: what is in it, when it is kept, when it is replaced."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from popproxy.net import selfsigned
from popproxy.net.selfsigned import FILE_NAME, ensure_self_signed
from popproxy.net.tls import TlsConfigError, certificate_warnings, client_context, server_context
from tests.net.test_tls import make


def leaf(directory: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / FILE_NAME).read_bytes())


def test_what_is_made(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "tls"
    made = ensure_self_signed(directory, ["mail.example.org", "192.0.2.1", "bücher.example"])
    assert made.made
    assert made.files.cert == made.files.key_path == directory / FILE_NAME
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.files.cert.stat().st_mode) == 0o600
    assert os.listdir(directory) == [FILE_NAME]
    certificate = leaf(directory)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mail.example.org", "xn--bcher-kva.example", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(address) for address in ("192.0.2.1", "127.0.0.1", "::1")
    ]
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=396) < left <= datetime.timedelta(days=397)
    assert certificate_warnings([made.files]) == []


def test_it_serves_and_can_be_trusted(tmp_path: Path) -> None:
    files = ensure_self_signed(tmp_path, []).files
    server, client = server_context([files]), client_context(ca_file=files.cert)
    for name in ("localhost", "127.0.0.1", "::1"):
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        asking = client.wrap_bio(down, up, server_hostname=name)
        answering = server.wrap_bio(up, down, server_side=True)
        for end in (asking, answering, asking):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
        assert asking.version() == "TLSv1.3", name


def test_a_valid_one_is_kept(tmp_path: Path) -> None:
    assert ensure_self_signed(tmp_path, ["a.example", "b.example"]).made
    before = (tmp_path / FILE_NAME).read_bytes()
    again = ensure_self_signed(tmp_path, ["b.example"])
    assert not again.made
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_an_expired_one_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfsigned, "_LIFE", datetime.timedelta(minutes=-1))
    assert ensure_self_signed(tmp_path, []).made
    serial = leaf(tmp_path).serial_number
    monkeypatch.undo()
    assert ensure_self_signed(tmp_path, []).made
    assert leaf(tmp_path).serial_number != serial
    assert not ensure_self_signed(tmp_path, []).made


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_one_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert ensure_self_signed(tmp_path, []).made
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    server_context([ensure_self_signed(tmp_path, []).files])


def test_one_that_lacks_a_name_is_replaced(tmp_path: Path) -> None:
    ensure_self_signed(tmp_path, ["a.example"])
    assert ensure_self_signed(tmp_path, ["b.example"]).made
    assert not ensure_self_signed(tmp_path, ["b.example"]).made


def test_one_without_names_is_replaced(tmp_path: Path) -> None:
    make(tmp_path / FILE_NAME)
    assert ensure_self_signed(tmp_path, []).made
    assert not ensure_self_signed(tmp_path, []).made


def test_long_names_and_bad_names(tmp_path: Path) -> None:
    name = ".".join(["x" * 60] * 3)
    assert ensure_self_signed(tmp_path, [name]).made
    assert not ensure_self_signed(tmp_path, [name]).made
    for bad in ("ü" * 70, "", "two words"):
        with pytest.raises(TlsConfigError, match="neither a host name nor an address"):
            ensure_self_signed(tmp_path, [bad])


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TlsConfigError, match="cannot be written") as caught:
        ensure_self_signed(tmp_path / "file" / "tls", [])
    assert caught.value.path == tmp_path / "file" / "tls" / FILE_NAME


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TlsConfigError, match="No space left"):
        ensure_self_signed(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_leave_one_good_pair(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ensure_self_signed(tmp_path, ["a.example"]), range(8)))
    assert any(one.made for one in made)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    server_context([made[0].files])
