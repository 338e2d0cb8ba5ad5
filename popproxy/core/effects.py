"""What a session asks of the world: a closed list. The pump carries each out and answers with ``done``.

Effects with an ``id`` are answered exactly once by ``Session.done(id, outcome)``; the others are not answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import field
from typing import Any, Literal

from popproxy.api.pace import Pace
from popproxy.api.views import TlsView
from popproxy.core.chain import Entry
from popproxy.core.failures import Failure
from popproxy.core.target import Target
from popproxy.wire.sasl import Derivation
from popproxy.wire.values import value

Level = Literal["debug", "info", "warning", "error"]


@value
class Dial:
    """Connect to a server of ``target``, TLS included when its URL says so. Outcome: Dialed or Failure.

    ``avoid``: servers, named as Dialed has them, that were tried for this login and failed, the last one by ``why``.
    """

    id: int
    target: Target
    avoid: tuple[str, ...] = ()
    why: Failure | None = None


@value
class Dialed:
    """A connection to ``server`` (host and port as text) is there; ``secure`` when TLS is already on."""

    server: str
    secure: bool


@value
class Judge:
    """What this session's last Dialed has shown: it serves (None), or it does not. Comes before the CloseUpstream.

    ``who`` is the login that showed it, or the client's address where the server was told of it before; None when
    nothing of the client's had been said yet.
    """

    failure: Failure | None
    who: str | None = None


@value
class LoginTook:
    """A login on a server of ``upstream`` ended ``seconds`` after it began; ``ok``: the user is in."""

    upstream: str
    ok: bool
    seconds: float


@value
class Greeted:
    """A server of ``upstream`` said its first line, good or bad, ``seconds`` after it was connected."""

    upstream: str
    seconds: float


@value
class Ready:
    """This session's last Dialed has greeted and is ready for a login. A Judge may follow."""


READY = Ready()


@value
class SecureClient:
    """Send what is due to the client, then start TLS as server. Outcome: TlsView, or Failure (connection gone)."""

    id: int


@value
class SecureUpstream:
    """Send what is due upstream, then start TLS as client. Outcome: None when done, or Failure."""

    id: int


@value
class Derive:
    """Compute ``derivation`` where it holds nobody up. Outcome: the octets."""

    id: int
    derivation: Derivation


@value
class Await:
    """Await an async hook, at most its subscriber's deadline. Outcome: Returned."""

    id: int
    entry: Entry
    awaitable: Awaitable[Any]


@value
class Returned:
    """How an async hook ended: its value, or what it raised (a time-out is a TimeoutError)."""

    value: Any = None
    error: BaseException | None = None


@value
class Paced:
    """From here on the client is sent no more octets per second than each of ``paces`` has."""

    paces: tuple[Pace, ...]


@value
class CloseClient:
    """Send what is due to the client, then close its connection."""


@value
class CloseUpstream:
    """Close the connection upstream at once. Never preceded by a QUIT that the client did not send."""


@value
class Note:
    """A log line. Fields hold no secret; ``error`` is what a plugin raised, for its author and never for the log."""

    level: Level
    event: str
    fields: Mapping[str, object] = field(default_factory=dict)
    error: BaseException | None = field(default=None, compare=False)


Effect = (
    Dial | Judge | LoginTook | Greeted | Ready | SecureClient | SecureUpstream
    | Derive | Await | Paced | CloseClient | CloseUpstream | Note
)  # fmt: skip
Outcome = Dialed | TlsView | Returned | Failure | bytes | None
