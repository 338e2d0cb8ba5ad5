"""A message was answered ``+OK``: who filters it, and who must see the whole of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from popproxy.api.bodies import BodyFilter, HeaderFilter
from popproxy.api.plugin import Fail
from popproxy.core import hooks
from popproxy.core.body import FilterStage, Stage
from popproxy.core.chain import Entry
from popproxy.core.cut import Cut
from popproxy.core.lies import check, check_growth
from popproxy.wire.commands import Command

if TYPE_CHECKING:
    from popproxy.core.transaction import Transaction


def stages(t: Transaction, command: Command, sent: Command) -> list[Stage] | None:
    """The filters for the message that follows ``command``; None when a closed plugin failed to give one.

    A plugin that announced a growth and gives no filter gets one that does nothing but grow (promise 9). Where a
    plugin has ``sent`` RETR for TOP the last one cuts.
    """
    growth = t.growth
    announcing = {entry.subscriber.name for entry in t.chain["growth"]}
    openers = {entry.subscriber.name: entry for entry in t.chain["open_body"]}
    found: list[Stage] = []
    for subscriber in reversed(t.chain.subscribers):
        octets = growth.of(subscriber.name)
        entry = openers.get(subscriber.name)
        if entry is None and not octets:
            continue
        made: BodyFilter | None = None
        if entry is not None:
            made, good = _opened(t, entry, command, octets if octets or subscriber.name in announcing else None)
            if not good and subscriber.fail is Fail.CLOSED:
                return None
        if made is None and octets:
            made = HeaderFilter(growth=octets)
        if made is not None:
            entry = entry or Entry(subscriber, "open_body", subscriber.plugin.open_body, False)
            found.append(FilterStage(entry, made, lambda entry, error: hooks.report(t.s, entry, error)))
    if command.verb.name == b"TOP" and sent.verb.name == b"RETR":
        found.append(Cut(int(command.arguments[1])))
    return found


def _opened(t: Transaction, entry: Entry, command: Command, growth: int | None) -> tuple[BodyFilter | None, bool]:
    """The plugin's filter, and whether it did not fail."""
    s = t.s
    started = s.clock()
    made: BodyFilter | None
    try:
        made = entry.call(s.seen(), command)
        if made is not None:
            check(entry.hook, made)
            check_growth(made, growth)
    except hooks.CONTAINED as error:
        hooks.report(s, entry, error)
        return None, False
    s.meter.plugin(entry.subscriber.name, entry.hook, "modify" if made else "pass", s.clock() - started)
    return made, True


def wanting(t: Transaction, command: Command) -> tuple[Entry, ...] | None:
    """The on_message hooks that are called for the message; None when a closed plugin failed to say."""
    entries = t.chain["on_message"]
    if not t.chain["wants_message"]:
        return entries
    askers = {entry.subscriber.name: entry for entry in t.chain["wants_message"]}
    found: list[Entry] = []
    for entry in entries:
        asker = askers.get(entry.subscriber.name)
        wants = True if asker is None else _wants(t, asker, command)
        if wants is None and entry.subscriber.fail is Fail.CLOSED:
            return None
        if wants is not False:
            found.append(entry)
    return tuple(found)


def _wants(t: Transaction, entry: Entry, command: Command) -> bool | None:
    """What wants_message says; None when it failed."""
    s = t.s
    started = s.clock()
    try:
        wants = entry.call(s.seen(), command)
        check(entry.hook, wants)
    except hooks.CONTAINED as error:
        hooks.report(s, entry, error)
        return None
    s.meter.plugin(entry.subscriber.name, entry.hook, "pass", s.clock() - started)
    return bool(wants)
