"""The upstream side: ``[upstream.NAME]``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from popproxy.api.options import shown
from popproxy.config.listener import Certificate
from popproxy.config.problems import Wrong
from popproxy.config.urls import Server, ServerUrl, parse_server
from popproxy.config.values import Duration, Many, Model, ReadableFile
from popproxy.core.plan import Mechanism


def _server_name(value: object) -> str:
    try:
        server = parse_server(f"pop3s://{value}")
    except Wrong:
        server = None
    if not isinstance(value, str) or server is None or server.host != value.lower():
        raise Wrong(f"{shown(value)} is no host name", 'write only a name, like "mail.example.com"')
    return server.host


HostName = Annotated[str, PlainValidator(_server_name), WithJsonSchema({"type": "string", "format": "hostname"})]


class GroupServer(Model):
    """A server with what sets it apart from its neighbours. One that nothing sets apart is written as its URL."""

    url: ServerUrl = Field(examples=["pop3s://mail1.example.com"], description="Its URL.")
    weight: int = Field(
        default=1,
        ge=1,
        le=1000,
        examples=[2],
        description="Its share of the users or logins, in proportion to the weights of the others.",
    )
    max_sessions: int | None = Field(
        default=None,
        ge=1,
        examples=[500],
        description="Sessions it gets at once from this process. Without it, as many as come.",
    )


def _entry(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


ServerEntry = Annotated[GroupServer, BeforeValidator(_entry, json_schema_input_type=ServerUrl | GroupServer)]


def _told(value: object) -> object:
    return {True: "offered", False: "off"}[value] if isinstance(value, bool) else value


XclientTo = Annotated[
    Literal["off", "offered", "required"],
    BeforeValidator(_told, json_schema_input_type=bool | Literal["off", "offered", "required"]),
]


class Health(Model):
    """When a server is out of rotation and how it comes back. What counts against it: no connection, no TLS, no
    greeting in time, a fault before the login, no answer to the login, `[SYS/TEMP]` as the answer."""

    fall: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="Faults in a row that take it out. Several of one user's logins count once.",
    )
    rise: int = Field(default=1, ge=1, le=1000, description="Trials in a row that bring it back.")
    backoff: Duration = Field(
        default=1.0,
        examples=["1s"],
        description="From there to the first login that may try it again, one at a time; twice as long after each "
        "trial that fails. When no server is in rotation, one login at a time tries without waiting, and keeps others "
        "from it no longer than `backoff`.",
    )
    longest: Duration = Field(default=30.0, examples=["30s"], description="The longest that waiting becomes.")
    probe: Duration | None = Field(
        default=None,
        examples=["10s"],
        description="How often each server is probed: connection, TLS, greeting; never a login and never QUIT. "
        "Without it only those that are out of rotation and that no login tries, twice a minute: logins are probes "
        "enough where there are many.",
    )


class Upstream(Model):
    """A POP3 server, or several with the same maildrops. Write one `[upstream.NAME]` table for each."""

    servers: Many[ServerEntry] = Field(
        min_length=1,
        examples=[
            ["pop3s://mail.example.com"],
            ["pop3://mail1.example.com", {"url": "pop3://mail2.example.com:1110", "weight": 2}],
        ],
        description="URLs, or tables with a URL and more. `pop3s://` (or `pops://`): TLS from the first octet, port "
        "995. `pop3://` (or `pop://`): STLS is required, port 110. `pop3+clear://`: no TLS at all, port 110. An "
        "upstream is either all TLS or all clear.",
    )
    balance: Literal["first", "round_robin", "least_sessions", "sticky"] = Field(
        default="first",
        description="Which server gets a login. `first`: the first in the list that works. `round_robin`: in turn, by "
        "weight. `least_sessions`: the one with the fewest sessions of this process for its weight. `sticky`: each "
        "user has a server (by weight), the same in every process and on every machine; only a dead server's users "
        "move.",
    )
    max_sessions: int | None = Field(
        default=None,
        ge=1,
        examples=[2000],
        description="Sessions all servers together get at once from this process. Without it, as many as come.",
    )
    queue: int = Field(
        default=100,
        ge=0,
        le=100_000,
        description="Logins that may wait for a place when `max_sessions` are reached; further ones get "
        "`-ERR [SYS/TEMP]`.",
    )
    queue_timeout: Duration = Field(
        default=5.0, examples=["5s"], description="How long a login waits for a place before it gets `-ERR [SYS/TEMP]`."
    )
    health: Health = Field(default_factory=Health, description="When a server is out of rotation.")
    send_proxy: Literal["v1", "v2"] | None = Field(
        default=None,
        examples=["v2"],
        description="Begin each connection with a PROXY header of this version, which tells the server the client's "
        "address. `v2` also tells of TLS, the session id and the TTL. The server must expect the header, and believe "
        "it from this host only.",
    )
    xclient: XclientTo = Field(
        default="off",
        examples=[True, "required"],
        description="Tell a server that announces `[XCLIENT]` to us (Dovecot with `login_trusted_networks`, popproxy) "
        "the client's address, the session id and a TTL. `true` or `offered`: where it is announced, a refusal "
        "counts for nothing. `required`: a server that does not announce or take it is not used. `false` or `off`: "
        "never.",
    )
    forward: dict[str, str] = Field(
        default_factory=dict,
        examples=[{"proxy": "edge1"}],
        description="Fields for XCLIENT's FORWARD, which Dovecot hands to its passdb as `forward_*`. What a trusted "
        "proxy in front forwarded is handed on with them.",
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
    mechanism: Mechanism = Field(
        default="auto",
        description="How the proxy logs in: `user` is USER and PASS, the others are SASL; `oauthbearer` and `xoauth2` "
        "need a token. `auto` takes what the server announces and the credentials can do: of passwords USER and PASS, "
        "PLAIN, LOGIN, SCRAM-SHA-256; of tokens OAUTHBEARER, XOAUTH2. What the proxy offers its own clients depends on "
        "this.",
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

    @property
    def group(self) -> tuple[Server, ...]:
        """The servers with what is set for each."""
        return tuple(
            replace(entry.url, weight=entry.weight, max_sessions=entry.max_sessions or 0) for entry in self.servers
        )
