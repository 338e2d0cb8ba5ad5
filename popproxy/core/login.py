"""The way to an upstream that is ready for a login: BANNER > STLS > XCLIENT > CAPA > READY.

core/authenticate.py goes on from there. Dialogues for core/leg.py. STLS is required where the plan says so, never
tried (promise 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Dialogue, Relayed, Say, StartTls
from popproxy.core.limits import Timeouts
from popproxy.core.plan import UpstreamPolicy
from popproxy.core.target import Target
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import Command
from popproxy.wire.xclient import offered

CAPA = b"CAPA\r\n"


class Knowledge:
    """What the upstreams of one worker can do, as they last said it before login, and when (seconds).

    Names are those of ``Target.place``; at most ``places`` of them are kept, those longest not asked go first.
    """

    __slots__ = ("_known", "_places", "lifetime", "offers", "shapes")

    def __init__(self, lifetime: float = 300.0, places: int = 4096) -> None:
        self.lifetime = lifetime
        self._places = places
        self._known: dict[str, tuple[float, Capabilities | None]] = {}
        self.offers: dict[tuple[tuple[str, str], ...], frozenset[str]] = {}
        """What core/offer.py made of it, by ``SessionPlan.ways``; empty again when something else becomes known."""
        self.shapes: dict[str, tuple[int, int]] = {}
        """Octets of the salt and iterations of the last verifier a plugin gave, by mechanism: decoys look like it."""

    def fresh(self, upstream: str, now: float) -> bool:
        """Whether it was asked within the lifetime."""
        known = self._known.get(upstream)
        return known is not None and now - known[0] < self.lifetime

    def get(self, upstream: str) -> Capabilities | None:
        """What it said last; None when it was never reached or has no CAPA."""
        known = self._known.get(upstream)
        return None if known is None else known[1]

    def learn(self, upstream: str, capabilities: Capabilities | None, now: float) -> None:
        """Keep what it just said; None for an upstream without CAPA."""
        before = self._known.pop(upstream, None)
        if before is None or before[1] != capabilities:
            self.offers.clear()
        self._known[upstream] = (now, capabilities)
        if len(self._known) > self._places:
            del self._known[next(iter(self._known))]
            self.offers.clear()

    def forget(self, upstream: str) -> None:
        """Ask again at the next login."""
        self._known.pop(upstream, None)
        self.offers.clear()


def prepare(
    policy: UpstreamPolicy,
    secure: bool,
    knowledge: Knowledge,
    now: float,
    times: Timeouts,
    ask: bool = True,
    target: Target | None = None,
    introduction: Callable[[], Sequence[bytes]] = tuple,
    greeted: Callable[[], None] | None = None,
) -> Dialogue:
    """From connected to ready for a login. ``secure``: TLS is on already. Returns None or a Failure.

    The upstream is asked for its capabilities only when nobody asked within the knowledge's lifetime, and never
    when ``ask`` is false: then it is known to have none. ``target`` None is the upstream itself.
    ``introduction`` makes the XCLIENT lines for a server that announces to take them from us. ``greeted`` is called
    when its greeting is there.
    """
    if target is None:
        target = Target(policy.name)
    tls, place = target.tls(policy), target.place
    if tls == "implicit" and not secure:
        return Failure(Kind.TLS, "TLS from the start is required, and the connection has none")
    heard = yield Say(b"", times.greeting, Kind.GREETING_TIMEOUT)
    if greeted is not None:
        greeted()
    if not heard.ok:
        return Failure(Kind.GREETING, f"greeted with {heard.raw[:80]!r}")
    lines: Sequence[bytes] = ()
    if policy.xclient != "off":
        if offered(heard.raw):
            lines = introduction()
        elif policy.xclient == "required":
            return Failure(Kind.XCLIENT, "announces no [XCLIENT] to us, which is required")
    if tls == "starttls" and not secure:
        heard = yield Say(b"STLS\r\n", times.login)
        if not heard.ok:
            return Failure(Kind.NO_STLS, f"answered STLS with {heard.raw[:80]!r}")
        yield StartTls()
    for line in lines:
        heard = yield Say(line, times.login)
        if not heard.ok and policy.xclient == "required":
            return Failure(Kind.XCLIENT, f"answered XCLIENT with {heard.raw[:80]!r}")
    if not ask:
        knowledge.learn(place, None, now)
    elif not knowledge.fresh(place, now):
        heard = yield Say(CAPA, times.login, multiline=True)
        # RFC 2449 section 5: -ERR means there is no CAPA, which is no fault.
        knowledge.learn(place, Capabilities.parse(heard.lines) if heard.ok else None, now)
    return None


def relay(command: Command, times: Timeouts) -> Dialogue:
    """UTF8, LANG and the like, before the login. Returns Relayed."""
    heard = yield Say(command.line, times.login, multiline=command.multiline)
    if not (heard.ok and command.multiline):
        return Relayed(heard.ok is True, heard.raw)
    body = b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in heard.lines)
    return Relayed(True, heard.raw + body + b".\r\n")
