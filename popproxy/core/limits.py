"""Every budget of a session, in two frozen values. Octets and seconds.

What one session holds at most, beside one chunk in each direction and the transports' write buffers (net's): before
the login ``auth_line`` (client), ``reply`` and ``listing`` (upstream); after it ``line`` and ``pipeline`` lines
(client), ``reply`` and ``listing`` or HEADER (upstream; 16 times ``listing`` when a plugin looks at the maildrop),
``KEPT`` for each body filter that has given nothing on, ``message_memory`` for a spooled message, and BURST.
"""

from __future__ import annotations

from dataclasses import dataclass

BURST = 16384
"""Octets of its own replies the proxy makes before it waits until the client has room for more."""
HEADER = 32768
"""Octets of a message's header that are looked at for its date."""
KEPT = 1 << 20
"""Octets kept for a body filter that has given nothing on, so that Fail.OPEN can still go on without it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in octets and counts."""

    line: int = 1024
    """A client command line. RFC 2449 asks for 255; names and passwords of 255 octets need more."""
    auth_line: int = 65536
    """An AUTH command or a SASL continuation line (RFC 5034 names no limit; OAuth tokens exceed 4 KiB)."""
    reply: int = 8192
    """A status line from upstream. RFC 2449 asks for 512."""
    listing: int = 1 << 20
    """A multi-line reply that the proxy must hold to rewrite it: CAPA; LIST and UIDL for a maildrop view times 16."""
    pipeline: int = 512
    """Commands sent upstream and not answered yet; the client's reading stops there."""
    bad_commands: int = 20
    """Refused lines in one session before it is closed."""
    auth_attempts: int = 10
    """Failed logins in one session before it is closed."""
    message_memory: int = 1 << 20
    """Octets of a spooled message kept in memory before it goes to an unlinked file."""
    message_size: int = 256 << 20
    """The largest message that is spooled; a larger one passes unscanned or is refused by the plugin's fail mode."""
    spool_memory: int = 64 << 20
    """Octets of spooled messages in memory, of all sessions of a worker; what finds no room goes to disk."""
    spool_disk: int = 4 << 30
    """Octets of spooled messages on disk, of all sessions of a worker; what finds no room is as one too large."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bounds in seconds."""

    handshake: float = 15.0
    """TLS handshake or PROXY header on the client's leg."""
    pre_auth: float = 60.0
    """From accept to credentials complete, however slowly they drip in; anew after a failed login."""
    idle: float = 600.0
    """Between two commands, and for a client that takes nothing of what it asked for (RFC 1939: at least 600)."""
    connect: float = 10.0
    """TCP connect upstream, each address."""
    upstream_handshake: float = 10.0
    """TLS handshake upstream."""
    greeting: float = 15.0
    """From connected to the upstream's greeting."""
    login: float = 60.0
    """Each reply of the upstream while the proxy logs in."""
    command: float = 120.0
    """Silence of the upstream while it owes a reply or the rest of one."""
    update: float = 600.0
    """The upstream's answer to QUIT: UPDATE may take minutes."""
    hook: float = 10.0
    """One call of an async hook."""
    keepalive: float = 15.0
    """Between two signs of life for a client that waits for on_message (``BodyFilter.early``)."""
    drain: float = 30.0
    """Of a process that ends: from when it takes no new sessions to when it ends those that are still open."""
