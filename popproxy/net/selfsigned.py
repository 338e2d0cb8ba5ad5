"""A certificate for the first start, when the operator has named none: clients will warn, mail will flow.

Law: the file is complete or not there. Certificate and key are one file, so that one rename replaces the pair,
also while two workers start at once.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from popproxy.net.tls import CertificateFiles, TlsConfigError, certificate_errors

__all__ = ["FILE_NAME", "SelfSigned", "ensure_self_signed"]

FILE_NAME = "self-signed.pem"
_LIFE = datetime.timedelta(days=397)  # the longest that Apple and Chrome take
_HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ALWAYS = ("localhost", "127.0.0.1", "::1")
_COMMON_NAME_MAX = 64  # characters, RFC 5280 appendix A.1


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """``files`` to serve with; ``made``: new in this call, so that the caller can warn once."""

    files: CertificateFiles
    made: bool


def ensure_self_signed(directory: Path, names: Sequence[str]) -> SelfSigned:
    """The self-signed certificate in ``directory``, made when there is none that is valid for ``names``.

    ECDSA P-256, 397 days, for serverAuth, no CA; valid for ``names`` (host names or addresses), localhost,
    127.0.0.1 and ::1. A certificate that has expired, is damaged or lacks one of the names is replaced.
    The directory is made with mode 0700 if missing; the file has mode 0600. Raises TlsConfigError.
    """
    path = directory / FILE_NAME
    files = CertificateFiles(path)
    wanted = [_general_name(name) for name in dict.fromkeys((*names, *_ALWAYS))]
    if _is_valid(files, wanted):
        return SelfSigned(files, made=False)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, _make(wanted))
    except OSError as exc:
        raise TlsConfigError(
            path,
            f"cannot be written: {exc.strerror}; let the proxy's user write here, or configure a certificate",
        ) from exc
    return SelfSigned(files, made=True)


def _is_valid(files: CertificateFiles, wanted: list[x509.GeneralName]) -> bool:
    if certificate_errors([files]):
        return False
    leaf = x509.load_pem_x509_certificate(files.cert.read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        return False
    try:
        present = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return set(wanted) <= set(present)


def _general_name(name: str) -> x509.GeneralName:
    with suppress(ValueError):  # not an address: then it is a host name
        return x509.IPAddress(ipaddress.ip_address(name))
    try:
        ascii_name = name.encode("idna").decode("ascii")
    except ValueError as exc:
        raise TlsConfigError(None, f"{name!r} is neither a host name nor an address: {exc}") from exc
    if not _HOST_NAME.fullmatch(ascii_name):
        raise TlsConfigError(None, f"{name!r} is neither a host name nor an address")
    return x509.DNSName(ascii_name)


def _make(names: list[x509.GeneralName]) -> bytes:
    """Key and certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    common_name = str(names[0].value)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "popproxy self-signed"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME_MAX]),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of clients that run late
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
