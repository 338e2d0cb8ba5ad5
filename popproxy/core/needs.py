"""What is asked once, when TRANSACTION begins: which hooks the plugins do not need for this session, and their pace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from popproxy.api.pace import Pace
from popproxy.api.plugin import Fail
from popproxy.core import hooks
from popproxy.core.chain import Chain, Entry
from popproxy.core.lies import check

if TYPE_CHECKING:
    from popproxy.core.session import Session


def narrow(session: Session, chain: Chain) -> Chain | None:
    """``chain`` without what the plugins do not need; None when one failed that is closed."""
    left_out: set[tuple[str, str]] = set()
    for entry in chain["unneeded"]:
        good, names = _ask(session, entry)
        if not good:
            return None
        left_out.update((entry.subscriber.name, hook) for hook in names or ())
    return chain.without(frozenset(left_out)) if left_out else chain


def paces(session: Session, chain: Chain) -> tuple[Pace, ...] | None:
    """What the plugins want, each once; None when one failed that is closed."""
    found: dict[int, Pace] = {}
    for entry in chain["pace"]:
        good, wanted = _ask(session, entry)
        if not good:
            return None
        found.update((id(pace), pace) for pace in wanted or ())
    return tuple(found.values())


def _ask(session: Session, entry: Entry) -> tuple[bool, Any]:
    """What the hook returned, None when it failed; and false when that ends the session."""
    started = session.clock()
    try:
        value = entry.call(session.seen())
        check(entry.hook, value)
    except hooks.CONTAINED as error:
        hooks.report(session, entry, error)
        return entry.subscriber.fail is not Fail.CLOSED, None
    verdict = "modify" if value else "pass"
    session.meter.plugin(entry.subscriber.name, entry.hook, verdict, session.clock() - started)
    return True, value
