"""The front side: ``[[listener]]`` and ``[tls]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from popproxy.config.problems import Wrong
from popproxy.config.secrets import Secret
from popproxy.config.urls import BindAddress
from popproxy.config.values import LineText, Many, Mode, Model, Name, Network, PathText, ReadableFile
from popproxy.core.plan import LegTls


def _greeting(text: str) -> str:
    if "<" in text:
        raise Wrong(
            "a greeting with < reads as an offer of APOP (RFC 1939 section 7)", "leave angle brackets out of it"
        )
    return text


class ProxyProtocol(Model):
    """Connections that carry the client's address in a PROXY header (v1 or v2)."""

    trusted: Many[Network] = Field(
        min_length=1,
        examples=[["10.0.0.0/8", "2001:db8::/32"]],
        description="Networks of the load balancers. The listener then accepts connections only from these networks, "
        "and each must begin with a PROXY header; anything else is closed. On a Unix socket the header is always "
        "demanded.",
    )


class XclientFrom(Model):
    """Proxies that say in Dovecot's XCLIENT command who the client is."""

    trusted: Many[Network] = Field(
        min_length=1,
        examples=[["10.0.0.0/8"]],
        description="Networks of the proxies. Only they are shown `[XCLIENT]` in the greeting, and what they say "
        "(address, port, session id, TTL, TLS) rules the session: limits, plugins and the log see the real client. "
        "From anywhere else the command is accepted and ignored. On a Unix socket it is always believed.",
    )


class Listener(Model):
    """Where clients connect. Write one `[[listener]]` table for each."""

    name: Name = Field(
        examples=["pop3s"], description="Unique name: in logs, metric labels, `when` and `popproxy explain`."
    )
    bind: Many[BindAddress] = Field(
        min_length=1,
        examples=[["[::]:995"], ["127.0.0.1:110", "[::1]:110"], ["unix:/run/popproxy/pop3.sock"]],
        description='Addresses: `"[::]:995"`, `"127.0.0.1:110"` or `"unix:/path"`. `[::]` takes IPv4 as well, unless '
        "the same port is also bound on `0.0.0.0`. Port 0 takes any free port.",
    )
    tls: LegTls = Field(
        examples=["implicit", "starttls", "off"],
        description="`implicit`: TLS from the first octet (port 995). `starttls`: clear until the client sends STLS "
        "(port 110). `off`: no TLS.",
    )
    verify_client: Literal["off", "optional", "required"] = Field(
        default="off",
        description="Whether clients are asked for a certificate. `optional`: those without one are served as well. "
        "One that is shown must be good, or the handshake fails. Plugins read it from `session.tls`; it logs nobody in "
        "by itself.",
    )
    client_ca_file: ReadableFile | None = Field(
        default=None,
        examples=["/etc/popproxy/clients-ca.pem"],
        description="PEM file with the authorities whose client certificates are good.",
    )
    auth_before_tls: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="Whether USER, PASS, APOP and AUTH are taken on a leg without TLS. `allow` lets passwords travel "
        "in clear.",
    )
    proxy_protocol: ProxyProtocol | None = Field(
        default=None,
        examples=[{"trusted": ["10.0.0.0/8"]}],
        description="Demand a PROXY header (v1 or v2) from load balancers in trusted networks.",
    )
    xclient: XclientFrom | None = Field(
        default=None,
        examples=[{"trusted": ["10.0.0.0/8"]}],
        description="Believe XCLIENT from other proxies (Dovecot, popproxy) in trusted networks.",
    )
    greeting: Annotated[LineText, AfterValidator(_greeting)] = Field(
        default="POP3 ready",
        examples=["mail.example.com POP3 ready"],
        description="The text behind `+OK` in the greeting. Printable ASCII.",
    )
    max_connections: int = Field(
        default=10000,
        ge=1,
        le=1_000_000,
        examples=[2000],
        description="Connections open at once; further ones are refused until one ends.",
    )
    unix_mode: Mode = Field(
        default="0660",
        validate_default=True,
        examples=["0660"],
        description="Permissions of the listener's Unix sockets, as octal digits.",
    )


class Certificate(Model):
    """A certificate with its key."""

    cert: ReadableFile = Field(
        examples=["/etc/popproxy/mail.pem"], description="PEM file: the certificate, then its chain."
    )
    key: ReadableFile | None = Field(
        default=None,
        examples=["/etc/popproxy/mail.key"],
        description="PEM file with the private key. Without it, the key is read from `cert`.",
    )
    password: Secret | None = Field(
        default=None,
        examples=[{"file": "/etc/popproxy/mail.pass"}, {"credential": "mail-key"}],
        description="Password of an encrypted key. A secret.",
    )


class Tls(Model):
    """TLS on the clients' leg."""

    certificates: Many[Certificate] = Field(
        default=(),
        examples=[[{"cert": "/etc/popproxy/mail.pem", "key": "/etc/popproxy/mail.key"}]],
        description="Certificates, chosen by the name the client asks for (SNI); the first serves all other names. "
        "Without any, a self-signed one is made on first start.",
    )
    minimum: Literal["TLSv1.2", "TLSv1.3"] = Field(
        default="TLSv1.2",
        description="Oldest protocol version that is accepted. TLS 1.0 and 1.1 are not available (RFC 8996).",
    )
    ciphers: str | None = Field(
        default=None,
        examples=["ECDHE+AESGCM:ECDHE+CHACHA20"],
        description="TLS 1.2 ciphers in OpenSSL's notation. Without it, Mozilla's intermediate list.",
    )
    self_signed_directory: PathText | None = Field(
        default=None,
        examples=["/var/lib/popproxy"],
        description="Where a self-signed certificate is made and kept when there are no certificates. Without it, "
        "`$STATE_DIRECTORY` (set by systemd), else `/var/lib/popproxy` when it can be written, else "
        "`~/.local/state/popproxy`.",
    )
