"""TLS: the handshake of the proxy, and when it fails, a second one that believes everything, to see why.

No credentials travel on the second one.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from popproxy.run.doctor.case import Case
from popproxy.run.doctor.findings import Findings, shown
from popproxy.run.doctor.talk import Handshake

SOON = 14 * 86400.0
"""Seconds before its end from which on a certificate should have been renewed."""

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_NOT_YET, _EXPIRED, _SELF_SIGNED, _ROOT_UNKNOWN, _ISSUER_UNKNOWN, _FIRST_UNVERIFIED = 9, 10, 18, 19, 20, 21
_WRONG_NAME, _WRONG_ADDRESS = 62, 64
_WEAK = (66, 67, 68)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server shows to who believes everything: its certificates, the leaf first, and the protocol."""

    chain: tuple[x509.Certificate, ...]
    version: str


def lenient(old: bool) -> ssl.SSLContext:
    """A context that believes every certificate; ``old``: and speaks every version that OpenSSL still has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if old:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def seen(sock: ssl.SSLSocket) -> Seen:
    """What ``sock`` shows."""
    return Seen(_chain(sock), sock.version() or "")


def _chain(sock: ssl.SSLSocket) -> tuple[x509.Certificate, ...]:
    """All certificates that the server sent. Python before 3.13 has them, too, but not under a public name."""
    public: Callable[[], list[bytes]] | None = getattr(sock, "get_unverified_chain", None)
    inner: Any = getattr(sock, "_sslobj", None)
    if public is not None:
        sent = public()
    elif hasattr(inner, "get_unverified_chain"):
        sent = [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain() or ()]
    else:
        leaf = sock.getpeercert(binary_form=True)
        sent = [] if leaf is None else [leaf]
    try:
        return tuple(x509.load_der_x509_certificate(one) for one in sent)
    except ValueError:
        # OpenSSL takes certificates that break their own rules; what was wrong is told without them.
        return ()


def judge(case: Case, sock: ssl.SSLSocket, findings: Findings) -> None:
    """A handshake that came about."""
    cipher = sock.cipher()
    shows = seen(sock)
    text = f"{shows.version}, {cipher[0] if cipher else 'no cipher'}"
    left = SOON
    for leaf in shows.chain[:1]:
        ends = leaf.not_valid_after_utc
        text += f"; certificate of {_names(leaf)} by {_name(leaf.issuer)}, until {ends:%Y-%m-%d}"
        left = ends.timestamp() - case.wall()
    if not case.plan.verify:
        findings.warn(
            "tls",
            "tls_unverified",
            f"{text}; nobody checks it (verify = false)",
            "whoever is in between can read every password: give ca_file with the authority instead",
        )
        return
    if left < SOON:
        findings.warn(
            "tls",
            "tls_ends_soon",
            f"{text}: that is in {max(0, round(left / 86400))} days",
            "renew the server's certificate; once it has ended no login gets through",
        )
        return
    findings.ok("tls", "tls", text)


def explain(case: Case, error: Handshake, look: Callable[[ssl.SSLContext], Seen | None], findings: Findings) -> None:
    """Why there is no TLS. ``look`` tries again with another context, and gives None when that fails, too."""
    cause = error.cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        _distrusted(case, cause, look(lenient(False)), findings)
        return
    reason = (getattr(cause, "reason", None) or str(cause)).upper().replace(" ", "_")
    if isinstance(cause, TimeoutError):
        findings.fail(
            "tls",
            "tls_timeout",
            f"the server took the connection but does not shake hands within {case.times.upstream_handshake:g} s",
            "it may expect something else before TLS: plain POP3 (pop3://), or a PROXY header (send_proxy)",
        )
    elif not client_certificate(case, reason, findings):
        _no_tls(case, reason, look(lenient(True)), findings)


def client_certificate(case: Case, reason: str, findings: Findings) -> bool:
    """Whether the server went away because of our certificate, as OpenSSL's ``reason`` tells."""
    reason = reason.upper().replace(" ", "_")
    if "ALERT" not in reason or ("CERTIFICATE" not in reason and "UNKNOWN_CA" not in reason):
        return False
    if case.plan.client_certificate is None:
        what, advice = "asks for a client certificate", _SHOW_ONE
    else:
        what, advice = "refuses our client certificate", "let the server trust the authority of client_certificate"
    findings.fail("tls", "tls_client_certificate", f"the server {what}: {reason.lower()}", advice)
    return True


_SHOW_ONE = "write client_certificate = { cert = ..., key = ... } for this upstream"


def _no_tls(case: Case, reason: str, old: Seen | None, findings: Findings) -> None:
    if old is not None and old.version not in ("TLSv1.2", "TLSv1.3"):
        findings.fail(
            "tls",
            "tls_old",
            f"the server speaks {old.version} at most, which the proxy does not take (TLS 1.2 or later)",
            "update the server, or allow TLS 1.2 in its config (Dovecot: ssl_min_protocol, ssl_protocols)",
        )
        return
    if old is not None:
        _weak(f"no TLS that is strong enough for both sides ({reason.lower()})", old.chain, findings)
        return
    perhaps = f"if it asks for client certificates, {_SHOW_ONE}; else " if "ALERT_HANDSHAKE_FAILURE" in reason else ""
    findings.fail(
        "tls",
        "tls_failed",
        f"the TLS handshake failed: {reason.lower()}",
        f"{perhaps}see what `openssl s_client -connect {case.server.host}:{case.server.port}` says, and its log",
    )


def _weak(text: str, chain: tuple[x509.Certificate, ...], findings: Findings) -> None:
    bits = [getattr(one.public_key(), "key_size", 0) for one in chain[:1]]
    size = f"; the server has a key of {bits[0]} bits" if bits and bits[0] else ""
    findings.fail(
        "tls",
        "tls_weak",
        f"{text}{size}",
        "give the server an RSA key of 2048 bits or an ECDSA key, a certificate signed with SHA-256, and ciphers with "
        "ECDHE and AES-GCM",
    )


def _distrusted(case: Case, error: ssl.SSLCertVerificationError, shows: Seen | None, findings: Findings) -> None:
    code, chain = error.verify_code, () if shows is None else shows.chain
    now = datetime.fromtimestamp(case.wall(), UTC)
    clock = f"the clock of this machine says {now:%Y-%m-%d %H:%M} UTC"
    if code == _EXPIRED:
        dead = next((one for one in chain if one.not_valid_after_utc <= now), None)
        what = "a certificate" if dead is None else f"the certificate of {_names(dead)}"
        since = "" if dead is None else f" on {dead.not_valid_after_utc:%Y-%m-%d}"
        findings.fail(
            "tls",
            "tls_expired",
            f"{what} expired{since}; {clock}",
            "renew it and let the server load it; if it is not expired, set the clock of this machine",
        )
    elif code == _NOT_YET:
        early = next((one for one in chain if one.not_valid_before_utc > now), None)
        what = "a certificate" if early is None else f"the certificate of {_names(early)}"
        until = "" if early is None else f" before {early.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        findings.fail(
            "tls",
            "tls_not_yet_valid",
            f"{what} is not valid{until}; {clock}",
            "set the clock of this machine (timedatectl), or wait if the clock is right",
        )
    elif code in (_WRONG_NAME, _WRONG_ADDRESS):
        _misnamed(case, chain, findings)
    elif code in _WEAK:
        _weak(f"the certificate is too weak: {error.verify_message}", chain, findings)
    else:
        _unknown(case, code, error.verify_message, chain, findings)


def _misnamed(case: Case, chain: tuple[x509.Certificate, ...], findings: Findings) -> None:
    names = _all_names(chain[0]) if chain else []
    shown_names = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") or "no name at all"
    plain = next((name for name in names if not name.startswith("*")), "")
    advice = "get a certificate with this name in subjectAltName"
    if plain and not _is_address(plain):
        advice = f'if that is the right server, write server_name = "{plain}", or its name into the URL; else {advice}'
    findings.fail(
        "tls", "tls_wrong_name", f"the certificate is for {shown_names}, not for {case.name}", advice
    )


def _unknown(
    case: Case, code: int, message: str, chain: tuple[x509.Certificate, ...], findings: Findings
) -> None:
    """The way from the server's certificate to one that is trusted has a gap."""
    where = f"{case.plan.ca_file}" if case.plan.ca_file else "the system's store"
    if code == _SELF_SIGNED and chain:
        findings.fail(
            "tls",
            "tls_self_signed",
            f"the certificate of {_names(chain[0])} is self-signed, and not in {where}",
            "get one from an authority, or write ca_file = with a copy of this certificate (PEM)",
        )
        return
    top = chain[-1] if chain else None
    issuer = "its issuer" if top is None else _name(top.issuer)
    if code == _ROOT_UNKNOWN:
        findings.fail(
            "tls",
            "tls_unknown_ca",
            f"the certificate leads to the authority {issuer}, which is not in {where}",
            "write ca_file = with the certificate of this authority (PEM), if you trust it",
        )
    elif code in (_ISSUER_UNKNOWN, _FIRST_UNVERIFIED) and len(chain) == 1:
        public = bool(_issuer_url(chain[0]))
        advice = f"let the server send the certificate of {issuer}, too (its certificate file holds the whole chain)"
        if not public:
            advice += "; or, if that is the authority itself, write ca_file = with its certificate"
        findings.fail(
            "tls",
            "tls_incomplete_chain",
            f"the server sends its own certificate only; its issuer {issuer} is not in {where}",
            advice,
        )
    elif code in (_ISSUER_UNKNOWN, _FIRST_UNVERIFIED):
        findings.fail(
            "tls",
            "tls_unknown_ca",
            f"the server sends {len(chain)} certificates; the last one's issuer {issuer} is not in {where}",
            "write ca_file = with the certificate of this authority (PEM), if you trust it",
        )
    else:
        findings.fail(
            "tls",
            "tls_untrusted",
            f"the certificate is not good: {message}",
            "see `openssl x509 -text` of the server's certificate, and get one that is right",
        )


def plain_words(octets: bytes, findings: Findings) -> None:
    """TLS was expected from the first octet, and the server said this in clear."""
    if octets.startswith((b"+OK", b"-ERR")):
        findings.fail(
            "tls",
            "tls_plain",
            f"the server speaks POP3 in clear on this port: {shown(octets)}",
            "write pop3:// (STLS is required) instead of pop3s://, or the port that has TLS, 995",
        )
    else:
        findings.fail(
            "tls",
            "tls_plain",
            f"the server does not speak TLS on this port: {shown(octets)}",
            "write the port of POP3 with TLS, 995, or pop3:// for one with STLS",
        )


def _issuer_url(one: x509.Certificate) -> str:
    """Where the certificate of its issuer can be had, as public authorities write into theirs."""
    try:
        access = one.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return ""
    issuers = AuthorityInformationAccessOID.CA_ISSUERS
    found = [str(one.access_location.value) for one in access if one.access_method == issuers]
    return found[0] if found else ""


def _all_names(one: x509.Certificate) -> list[str]:
    try:
        names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    hosts = names.get_values_for_type(x509.DNSName)
    return [*hosts, *(str(address) for address in names.get_values_for_type(x509.IPAddress))]


def _names(one: x509.Certificate) -> str:
    names = _all_names(one)
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "") if names else _name(one.subject)


def _name(name: x509.Name) -> str:
    """The name of an authority, as short as it can be told."""
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        found = name.get_attributes_for_oid(oid)
        if found:
            return f'"{found[0].value!s}"'
    return f'"{name.rfc4514_string()}"'


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
