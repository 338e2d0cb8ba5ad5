"""TLS contexts from files: what a listener offers and what an upstream is asked for.

Law: a context that is made works; every fault of a file is found here, with its path and a remedy.
The server's default is Mozilla's "intermediate" of Server Side TLS 5.7: TLS 1.2 and later, these cipher suites,
the client's order preferred, no compression, no renegotiation. Two limits of Python's ssl: the key exchange
groups stay OpenSSL's own list (X25519, P-256 and P-384 among them), because set_ecdh_curve would narrow it to
one; and the DHE suites, though listed, are never chosen, because no DH parameters are loaded.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

__all__ = [
    "INTERMEDIATE_CIPHERS",
    "CertificateFiles",
    "MinimumVersion",
    "TlsConfigError",
    "VerifyClient",
    "certificate_errors",
    "certificate_expiry",
    "certificate_warnings",
    "client_context",
    "server_context",
]

MinimumVersion = Literal["TLSv1.2", "TLSv1.3"]
VerifyClient = Literal["off", "optional", "required"]

INTERMEDIATE_CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "DHE-RSA-AES128-GCM-SHA256",
        "DHE-RSA-AES256-GCM-SHA384",
        "DHE-RSA-CHACHA20-POLY1305",
    )
)
"""The TLS 1.2 suites of Mozilla intermediate 5.7; those of TLS 1.3 are OpenSSL's three defaults, the same ones."""

_ALPN = ["pop3"]  # RFC 7301 registry
_TICKETS = 1  # per handshake; a mail client opens one connection at a time, and each ticket is a write
_MINIMUM = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_KEY_KINDS: tuple[tuple[type, str], ...] = (
    (rsa.RSAPublicKey, "RSA"),
    (ec.EllipticCurvePublicKey, "ECDSA"),
    (ed25519.Ed25519PublicKey, "Ed25519"),
    (ed448.Ed448PublicKey, "Ed448"),
)


class TlsConfigError(Exception):
    """A certificate, key or cipher list that cannot be used: ``path`` of the file (None: no file is at fault)
    and ``message``, which says what is wrong and what to do. Never holds a secret."""

    def __init__(self, path: Path | None, message: str) -> None:
        super().__init__(f"{path}: {message}" if path is not None else message)
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate with its chain (PEM, leaf first) and its private key (PEM; ``key`` None: in the same file).
    ``password`` opens an encrypted key."""

    cert: Path
    key: Path | None = None
    password: bytes | None = field(default=None, repr=False)

    @property
    def key_path(self) -> Path:
        return self.cert if self.key is None else self.key


@dataclass(frozen=True, slots=True)
class _Loaded:
    files: CertificateFiles
    leaf: x509.Certificate
    names: tuple[str, ...]  # lower case, in the certificate's order
    kind: str  # of key: OpenSSL holds one chain of each kind in a context


def server_context(
    certificates: Sequence[CertificateFiles],
    *,
    minimum: MinimumVersion = "TLSv1.2",
    ciphers: str | None = None,
    verify_client: VerifyClient = "off",
    client_ca_file: Path | None = None,
) -> ssl.SSLContext:
    """The context of a listener; make it once and share it among its sessions.

    The certificate is chosen by SNI: the exact name in subjectAltName, then the wildcard, then the first of
    ``certificates``. Certificates of different key kinds (RSA, ECDSA) for one name are offered together; of two
    of one kind the first is taken. ``ciphers`` is an OpenSSL list for TLS 1.2. ALPN is "pop3", session tickets
    are on. ``verify_client`` asks clients for a certificate of an authority in ``client_ca_file``; one that is shown
    and not good ends the handshake. Raises TlsConfigError.
    """
    if not certificates:
        raise TlsConfigError(None, "no certificate is given: a TLS listener needs at least one")
    loaded = [_load(files) for files in certificates]
    chosen: dict[str, dict[str, _Loaded]] = {}
    for one in loaded:
        for name in one.names:
            chosen.setdefault(name, {}).setdefault(one.kind, one)
    first = loaded[0]
    fallback = chosen[first.names[0]] if first.names else {first.kind: first}
    default = _offer(fallback, minimum, ciphers)
    contexts: dict[frozenset[CertificateFiles], ssl.SSLContext | None] = {_key(fallback): None}
    by_name: dict[str, ssl.SSLContext | None] = {}
    for name, group in chosen.items():
        key = _key(group)
        if key not in contexts:
            contexts[key] = _offer(group, minimum, ciphers)
        by_name[name] = contexts[key]
    if verify_client != "off":
        # All of them: OpenSSL takes the mode from the first context and the authorities from the one chosen by SNI.
        for context in {default, *(one for one in contexts.values() if one is not None)}:
            _ask_clients(context, verify_client, client_ca_file)
    if len(contexts) > 1:
        default.sni_callback = _chooser(by_name)
    return default


def client_context(
    *,
    ca_file: Path | None = None,
    verify: bool = True,
    minimum: MinimumVersion = "TLSv1.2",
    client_certificate: CertificateFiles | None = None,
) -> ssl.SSLContext:
    """The context for an upstream: its certificate and host name are checked against ``ca_file``, or the system's
    store when None, unless ``verify`` is False; offers ALPN "pop3". Raises TlsConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _MINIMUM[minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(_ALPN)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, ca_file)
    if client_certificate is not None:
        _load(client_certificate)
        _use(context, client_certificate)
    return context


def certificate_expiry(path: Path) -> float:
    """When the first certificate of ``path`` ends (notAfter), in unix seconds. Raises TlsConfigError."""
    return _certificates(path)[0].not_valid_after_utc.timestamp()


def certificate_errors(certificates: Sequence[CertificateFiles]) -> list[TlsConfigError]:
    """Every fault of every file, where server_context would raise the first one."""
    errors = []
    for files in certificates:
        try:
            _load(files)
        except TlsConfigError as exc:
            errors.append(exc)
    return errors


def certificate_warnings(certificates: Sequence[CertificateFiles], *, now: float | None = None) -> list[str]:
    """What works but not as the operator wants it: expired, not yet valid, never chosen, a key others can read.

    ``now`` is in unix seconds (None: the clock). Raises TlsConfigError as server_context does.
    """
    now = time.time() if now is None else now
    warnings = []
    for position, files in enumerate(certificates):
        one = _load(files)
        start, end = one.leaf.not_valid_before_utc, one.leaf.not_valid_after_utc
        if end.timestamp() <= now:
            warnings.append(f"{files.cert}: expired on {end:%Y-%m-%d}: clients refuse it; renew it")
        elif start.timestamp() > now:
            warnings.append(f"{files.cert}: not valid before {start:%Y-%m-%d}: check the clock, or wait")
        if not one.names and position:
            warnings.append(f"{files.cert}: has no DNS name in subjectAltName and is not the first: never chosen")
        if files.key_path.stat().st_mode & 0o004:
            warnings.append(f"{files.key_path}: every user can read this private key: chmod o= it")
    return warnings


def _offer(group: dict[str, _Loaded], minimum: MinimumVersion, ciphers: str | None) -> ssl.SSLContext:
    """One server context with these chains."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = _TICKETS
    context.set_alpn_protocols(_ALPN)
    try:
        context.set_ciphers(INTERMEDIATE_CIPHERS if ciphers is None else ciphers)
    except ssl.SSLError as exc:
        raise TlsConfigError(
            None,
            f"ciphers: OpenSSL knows none of {ciphers!r}: write a list as for `openssl ciphers`, or leave it out",
        ) from exc
    for one in group.values():
        _use(context, one.files)
    return context


def _ask_clients(context: ssl.SSLContext, verify_client: VerifyClient, ca_file: Path | None) -> None:
    if ca_file is None:
        raise TlsConfigError(None, f"verify_client = {verify_client!r} needs client_ca_file")
    _trust(context, ca_file)
    context.verify_mode = ssl.CERT_REQUIRED if verify_client == "required" else ssl.CERT_OPTIONAL


def _trust(context: ssl.SSLContext, ca_file: Path) -> None:
    _certificates(ca_file)
    try:
        context.load_verify_locations(cafile=ca_file)
    except OSError as exc:
        raise TlsConfigError(ca_file, f"OpenSSL refuses these CA certificates: {exc}") from exc


def _key(group: dict[str, _Loaded]) -> frozenset[CertificateFiles]:
    return frozenset(one.files for one in group.values())


def _chooser(
    by_name: dict[str, ssl.SSLContext | None],
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """The SNI callback; None in ``by_name`` is the context at hand (naming it would make a reference cycle)."""

    def choose(tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower()
        context = by_name[name] if name in by_name else by_name.get("*." + name.partition(".")[2])
        if context is not None:
            tls.context = context

    return choose


def _use(context: ssl.SSLContext, files: CertificateFiles) -> None:
    try:
        # An empty password, not None: with None OpenSSL would ask on the terminal.
        context.load_cert_chain(files.cert, files.key, password=files.password or b"")
    except OSError as exc:
        raise TlsConfigError(files.cert, f"OpenSSL refuses this certificate: {exc}") from exc


def _load(files: CertificateFiles) -> _Loaded:
    """Reads and checks one pair."""
    certificates = _certificates(files.cert)
    leaf = certificates[0]
    wanted = _private_key_public(files)
    if _public(leaf) != wanted:
        if any(_public(other) == wanted for other in certificates[1:]):
            message = f"the certificate of the key {files.key_path} is not the first one: put it before its chain"
        else:
            message = f"the key {files.key_path} does not belong to this certificate: give the pair that does"
        raise TlsConfigError(files.cert, message)
    public_key = leaf.public_key()
    kind = next((name for cls, name in _KEY_KINDS if isinstance(public_key, cls)), "")
    if not kind:
        raise TlsConfigError(files.cert, f"TLS cannot use a {type(public_key).__name__}: take RSA or ECDSA")
    return _Loaded(files, leaf, _names(leaf), kind)


def _certificates(path: Path) -> list[x509.Certificate]:
    data = _read(path)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as exc:
        if b"-----BEGIN CERTIFICATE-----" in data:
            message = f"a certificate in this file is damaged: {exc}"
        elif b"-----BEGIN" in data:
            message = "holds no certificate, only other PEM blocks: is it the key?"
        else:
            message = "is not PEM: convert it, for example with `openssl x509 -inform DER -in FILE -out FILE.pem`"
        raise TlsConfigError(path, message) from exc


def _private_key_public(files: CertificateFiles) -> bytes:
    """The public half of the private key, as DER."""
    path = files.key_path
    data = _read(path)
    if b"PRIVATE KEY-----" not in data:
        where = "; name the file of the key" if files.key is None else ""
        raise TlsConfigError(path, f"holds no PEM private key{where}")
    password = files.password if b"ENCRYPTED" in data else None
    try:
        key = load_pem_private_key(data, password)
    except TypeError as exc:
        raise TlsConfigError(path, "the private key is encrypted: give its password, or decrypt it") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        fault = "the password does not open the private key" if password else "the private key is damaged"
        raise TlsConfigError(path, fault) from exc
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise TlsConfigError(path, "there is no such file") from exc
    except IsADirectoryError as exc:
        raise TlsConfigError(path, "is a directory: name the PEM file in it") from exc
    except OSError as exc:
        raise TlsConfigError(path, f"cannot be read: {exc.strerror}; let the proxy's user read it") from exc
