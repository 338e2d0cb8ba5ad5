"""What of the maildrop is shown: messages that are too old or too large are hidden, and counted nowhere."""

from __future__ import annotations

from popproxy.api import Dates, Hide, MaildropView, SessionView
from popproxy_plugins.policy.arrivals import Arrivals
from popproxy_plugins.policy.decide import Settings
from popproxy_plugins.policy.ledger import Act

DAY = 86400.0


def hidden(
    settings: Settings, session: SessionView, maildrop: MaildropView, arrivals: Arrivals, now: float
) -> tuple[Hide | Dates | None, list[Act]]:
    """The verdict, and what is done by it; Dates when it depends on ages that are not known yet.

    A message of which nobody can tell when it arrived is shown."""
    acts: list[Act] = []
    larger = settings.hide_larger
    away: set[int] = set()
    if larger is not None:
        away = {number for number, entry in maildrop.entries.items() if entry.octets > larger.value}
        if away:
            acts.append(Act(larger.rule, "hide_larger", "hide"))
    older = settings.hide_older
    if older is not None:
        rest = {number: entry for number, entry in maildrop.entries.items() if number not in away}
        known, unknown = arrivals.of(session, rest)
        if unknown:
            return Dates(unknown), []
        oldest = now - older.value * DAY
        old = {number for number, arrived in known.items() if arrived is not None and arrived < oldest}
        if old:
            acts.append(Act(older.rule, "hide_older", "hide"))
        away |= old
    return (Hide(frozenset(away)) if away else None), acts
