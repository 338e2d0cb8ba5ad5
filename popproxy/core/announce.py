"""Which capabilities are shown: what the upstream can do now and the proxy relays, plus what the proxy itself does.

RFC 2449 section 5: a list may differ before and after TLS and login. USER, SASL and STLS are the proxy's own; TOP,
UIDL, PIPELINING, EXPIRE, LOGIN-DELAY, UTF8 and LANG are the upstream's and never invented. RESP-CODES and
AUTH-RESP-CODE are always there, because the proxy's own refusals carry codes (RFC 3206). Unknown capabilities are
dropped unless the operator passes them: a client could use a command whose framing nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from popproxy.api.verdicts import Refuse
from popproxy.core import hooks
from popproxy.core.chain import Entry
from popproxy.core.mechanisms import USER
from popproxy.core.meter import ERR, OK
from popproxy.core.offer import SASL
from popproxy.core.plan import SessionPlan
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import VERBS

if TYPE_CHECKING:
    from popproxy.core.session import Session

RELAYED: tuple[bytes, ...] = (b"TOP", b"UIDL", b"EXPIRE", b"LOGIN-DELAY", b"UTF8", b"LANG")


def announce(
    plan: SessionPlan, upstream: Capabilities | None, *, logins: frozenset[str], stls: bool
) -> Capabilities:
    """The list to show. ``logins``: the mechanisms that are welcome on this leg now (core/offer.py), none where no
    credentials are; ``stls``: STLS would be accepted.

    ``upstream`` None is an upstream without CAPA: only what the proxy itself does is certain then.
    """
    theirs = upstream if upstream is not None else Capabilities()
    items: list[tuple[bytes, tuple[bytes, ...]]] = [
        (name, theirs.parameters(name)) for name in RELAYED if name in theirs
    ]
    if plan.pipelining and b"PIPELINING" in theirs:
        items.append((b"PIPELINING", ()))
    items += [(b"RESP-CODES", ()), (b"AUTH-RESP-CODE", ())]
    if USER in logins:
        items.append((b"USER", ()))
    sasl = tuple(name.encode() for name in SASL if name in logins)
    if sasl:
        items.append((b"SASL", sasl))
    if stls:
        items.append((b"STLS", ()))
    items += [(name, theirs.parameters(name)) for name in _others(theirs) if name in plan.capabilities]
    if plan.implementation:
        items.append((b"IMPLEMENTATION", tuple(plan.implementation.encode("ascii", "replace").split())))
    return Capabilities(items)


def _others(theirs: Capabilities) -> Iterable[bytes]:
    known = {*RELAYED, b"PIPELINING", b"RESP-CODES", b"AUTH-RESP-CODE", b"USER", b"SASL", b"STLS", b"IMPLEMENTATION"}
    return [name for name in theirs if name not in known]


def show(session: Session, entries: tuple[Entry, ...], offered: Capabilities, then: Callable[[bytes], None]) -> bool:
    """on_capabilities, then the whole reply to CAPA goes to ``then``. False when an async hook decides later."""
    s = session
    shown = [offered]
    broken: list[Refuse] = []

    def use(entry: Entry, verdict: Any) -> bool:
        if isinstance(verdict, Capabilities):
            shown[0] = verdict
        else:
            broken.append(verdict)
        return bool(broken)

    def done() -> None:
        s.count(VERBS[b"CAPA"].index, ERR if broken else OK)
        then(hooks.BROKEN_LINE if broken else shown[0].reply())

    return hooks.call(s, entries, lambda: (s.seen(), shown[0]), use, done)
