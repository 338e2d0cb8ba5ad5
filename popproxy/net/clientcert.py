"""A client's certificate as text: what nginx writes into its Auth-SSL headers, character for character.

Names are RFC 2253 as OpenSSL prints it (XN_FLAG_RFC2253): the last part first, short attribute names, octets outside
of ASCII as ``\\XX`` of their UTF-8. So they may stand in a header, a log line or a users file.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import warnings
from dataclasses import dataclass

from cryptography import x509

_SHORT = {
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionL",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionST",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionC",
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.15": "businessCategory",
    "2.5.4.17": "postalCode",
    "2.5.4.41": "name",
    "2.5.4.42": "GN",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
}

_SPECIAL = re.compile(r'[,+"\\<>;]')


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Subject and issuer; serial number and SHA-1 in hexadecimal; the certificate in PEM."""

    subject: str
    issuer: str
    serial: str
    fingerprint: str
    pem: str


def described(der: bytes) -> ClientCertificate:
    """The certificate in text. Raises ValueError for one that cannot be read, verified or not."""
    certificate = x509.load_der_x509_certificate(der)
    with warnings.catch_warnings():
        # A name longer than X.520 allows is the authority's affair.
        warnings.simplefilter("ignore", UserWarning)
        subject, issuer = distinguished(certificate.subject), distinguished(certificate.issuer)
    digits = f"{certificate.serial_number:X}"
    return ClientCertificate(
        subject,
        issuer,
        digits.zfill(len(digits) + len(digits) % 2),
        hashlib.sha1(der, usedforsecurity=False).hexdigest(),
        ssl.DER_cert_to_PEM_cert(der),
    )


def distinguished(name: x509.Name) -> str:
    """A name as RFC 2253 and OpenSSL write it."""
    return ",".join("+".join(_attribute(part) for part in reversed(list(rdn))) for rdn in reversed(name.rdns))


def _attribute(attribute: x509.NameAttribute[str | bytes]) -> str:
    short = _SHORT.get(attribute.oid.dotted_string)
    octets = attribute.value if isinstance(attribute.value, bytes) else attribute.value.encode()
    if short is None or isinstance(attribute.value, bytes):
        # RFC 2253 section 2.4: what has no name is shown as the octets of its BER encoding, here as UTF8String.
        length = len(octets)
        head = bytes((12, length)) if length < 128 else bytes((12, 130)) + length.to_bytes(2)
        return f"{short or attribute.oid.dotted_string}=#{(head + octets).hex().upper()}"
    text = _SPECIAL.sub(r"\\\g<0>", attribute.value)
    text = "".join(sign if " " <= sign <= "~" else _hex(sign) for sign in text)
    if text[:1] in ("#", " "):
        text = "\\" + text
    if len(text) > 1 and text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1] + "\\ "
    return f"{short}={text}"


def _hex(sign: str) -> str:
    return "".join(f"\\{octet:02X}" for octet in sign.encode())
