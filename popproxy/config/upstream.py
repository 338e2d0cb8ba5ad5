"""The upstream side: ``[upstream.NAME]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from popproxy.config.listener import Certificate
from popproxy.config.problems import Wrong
from popproxy.config.urls import ServerUrl, parse_server
from popproxy.config.values import Many, Model, ReadableFile, shown


def _server_name(value: object) -> str:
    try:
        server = parse_server(f"pop3s://{value}")
    except Wrong:
        server = None
    if not isinstance(value, str) or server is None or server.host != value.lower():
        raise Wrong(f"{shown(value)} is no host name", 'write only a name, like "mail.example.com"')
    return server.host


HostName = Annotated[str, PlainValidator(_server_name), WithJsonSchema({"type": "string", "format": "hostname"})]


class Upstream(Model):
    """A POP3 server, or several with the same maildrops. Write one `[upstream.NAME]` table for each."""

    servers: Many[ServerUrl] = Field(
        min_length=1,
        examples=[["pop3s://mail.example.com"], ["pop3://mail1.example.com", "pop3://mail2.example.com:1110"]],
        description="URLs, tried in order. `pop3s://` (or `pops://`): TLS from the first octet, port 995. `pop3://` "
        "(or `pop://`): STLS is required, port 110. `pop3+clear://`: no TLS at all, port 110. An upstream is either "
        "all TLS or all clear.",
    )
    ca_file: ReadableFile | None = Field(
        default=None,
        examples=["/etc/popproxy/upstream-ca.pem"],
        description="PEM file with the certificates to trust instead of the system's store.",
    )
    verify: bool = Field(
        default=True,
        description="Whether the server's certificate and name are verified. `false` lets anyone in between read "
        "every password.",
    )
    server_name: HostName | None = Field(
        default=None,
        examples=["mail.example.com"],
        description="Name to ask for (SNI) and to verify instead of the URL's host.",
    )
    mechanism: Literal["auto", "user", "plain", "login"] = Field(
        default="auto",
        description="How the proxy logs in: `user` is USER and PASS, `plain` and `login` are SASL. `auto` takes USER "
        "and PASS unless the server announces only SASL.",
    )
    initial_response: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="Whether AUTH carries its first response on the same line (RFC 5034). `auto`: when the server "
        "announces SASL and the line fits. `never`: always two steps. `always`: one line, whatever its length.",
    )
    client_certificate: Certificate | None = Field(
        default=None,
        examples=[{"cert": "/etc/popproxy/proxy.pem", "key": "/etc/popproxy/proxy.key"}],
        description="Certificate the proxy shows to the server.",
    )
