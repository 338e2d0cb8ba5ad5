"""What a client proved or claims. A closed union; repr hides every secret."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Password:
    """A user name and its password in octets, as PASS, SASL PLAIN and LOGIN bring them.

    ``authzid`` is the SASL authorization identity (RFC 4616), empty when none was given.
    """

    user: str
    password: bytes = field(repr=False)
    authzid: str = ""


@dataclass(frozen=True, slots=True)
class Bearer:
    """An OAuth token (RFC 7628, XOAUTH2)."""

    user: str
    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verified:
    """The proxy itself proved who it is; no password is at hand."""

    user: str


@dataclass(frozen=True, slots=True)
class External:
    """A client certificate proved who it is."""

    user: str


Credentials = Password | Bearer | Verified | External
