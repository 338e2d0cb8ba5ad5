"""Every budget an operator may set: ``[timeouts]`` and ``[limits]``. Defaults are those of core.limits."""

from __future__ import annotations

from pydantic import Field

from popproxy.config.values import Duration, Model, Size
from popproxy.core import limits

_T = limits.Timeouts()
_L = limits.Limits()


class Timeouts(Model):
    """Bounds in time: seconds (`600`) or strings (`"90s"`, `"10m"`, `"1h30m"`)."""

    handshake: Duration = Field(
        default=_T.handshake, description="TLS handshake or PROXY header on the client's leg."
    )
    pre_auth: Duration = Field(
        default=_T.pre_auth,
        description="From accept to complete credentials, however slowly they drip in; anew after a failed login.",
    )
    idle: Duration = Field(
        default=_T.idle,
        examples=["10m"],
        description="Between two commands, and for a client that takes nothing of what it asked for. RFC 1939 asks "
        "for ten minutes at least.",
    )
    connect: Duration = Field(default=_T.connect, description="TCP connect to an upstream, each address.")
    upstream_handshake: Duration = Field(default=_T.upstream_handshake, description="TLS handshake upstream.")
    greeting: Duration = Field(default=_T.greeting, description="From connected to the upstream's greeting.")
    login: Duration = Field(
        default=_T.login, description="Each reply of the upstream while the proxy logs in."
    )
    command: Duration = Field(
        default=_T.command,
        examples=["2m"],
        description="Silence of the upstream while it owes a reply or the rest of one.",
    )
    update: Duration = Field(
        default=_T.update,
        description="The upstream's answer to QUIT: removing deleted messages may take minutes.",
    )
    hook: Duration = Field(
        default=_T.hook, description="One call of an async hook of a plugin, unless its table has a `deadline`."
    )
    keepalive: Duration = Field(
        default=_T.keepalive,
        description="While a plugin looks at a whole message: between two signs of life for the client, a few octets "
        "of the header that comes first in any case.",
    )
    drain: Duration = Field(
        default=_T.drain,
        description="When popproxy is told to end: how long open sessions may take. Idle ones end at once, those that "
        "transfer something may finish; give whatever supervises popproxy a little more patience.",
    )


class Limits(Model):
    """Bounds in octets (`65536` or `"64KiB"`) and counts, for one session unless it says otherwise."""

    line: Size = Field(
        default=_L.line,
        ge=255,
        le=65536,
        description="Octets of a client's command line. RFC 2449 asks for 255; long names and passwords need more.",
    )
    auth_line: Size = Field(
        default=_L.auth_line,
        ge=1024,
        le=1 << 20,
        examples=["64KiB"],
        description="Octets of an AUTH command or a SASL line; OAuth tokens exceed 4 KiB.",
    )
    reply: Size = Field(
        default=_L.reply, ge=512, le=65536, description="Octets of an upstream's status line. RFC 2449 asks for 512."
    )
    listing: Size = Field(
        default=_L.listing,
        ge=65536,
        le=1 << 30,
        examples=["1MiB"],
        description="Octets of a multi-line reply that is held to be rewritten: CAPA; LIST and UIDL of a maildrop "
        "view take 16 times as much.",
    )
    pipeline: int = Field(
        default=_L.pipeline,
        ge=1,
        le=65536,
        description="Commands sent upstream and not answered yet; reading from the client stops there.",
    )
    bad_commands: int = Field(
        default=_L.bad_commands, ge=1, description="Refused lines after which a session is closed."
    )
    auth_attempts: int = Field(
        default=_L.auth_attempts, ge=1, description="Failed logins after which a session is closed."
    )
    message_memory: Size = Field(
        default=_L.message_memory,
        le=1 << 30,
        examples=["1MiB"],
        description="Octets of a spooled message kept in memory before it goes to an unlinked file.",
    )
    message_size: Size = Field(
        default=_L.message_size,
        ge=65536,
        examples=["256MiB"],
        description="Octets of the largest message that is spooled for plugins; a larger one passes unscanned or is "
        "refused, as the plugin's fail mode says.",
    )
    spool_memory: Size = Field(
        default=_L.spool_memory,
        examples=["64MiB"],
        description="Octets of spooled messages in memory, all sessions of a worker together; what finds no room there "
        "goes to an unlinked file.",
    )
    spool_disk: Size = Field(
        default=_L.spool_disk,
        examples=["4GiB"],
        description="Octets of spooled messages on disk (in `TMPDIR`), all sessions of a worker together; what finds "
        "no room there passes unscanned or is refused, as the plugin's fail mode says.",
    )
