"""What the settings say to each command of one session, and how much of them is used up. No call of the store.

There is one Tally for the rules that count and one for those that are audited; both see the same commands, and what the
second one says is only told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from popproxy.api import Code, Command, MaildropEntry, SessionView
from popproxy_plugins.policy.arrivals import Arrivals
from popproxy_plugins.policy.decide import Decided, Settings
from popproxy_plugins.policy.ledger import Act, Action
from popproxy_plugins.policy.volume import Day

DAY = 86400.0
TOP_LINES = 100
"""A TOP of more lines is a RETR in other words, and counts as one."""
BATCH = 64
"""Messages whose age is asked for at once."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The answer depends on when these messages (the client's numbers) arrived; with none of them, on what is in the
    maildrop."""

    messages: frozenset[int]


@dataclass(frozen=True, slots=True)
class Enough:
    """The client goes on and on: hang up."""

    act: Act


Said = Act | Wait | Enough | None


class Bucket:
    """A token bucket of commands: at most ``limit`` at once, and as many again in each minute."""

    __slots__ = ("_at", "_level", "limit")

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = 0.0
        self._at = now

    def take(self, now: float) -> bool:
        """Whether there was room for one more, which is taken."""
        self._level = max(0.0, self._level - max(0.0, now - self._at) * self.limit / 60.0)
        self._at = max(now, self._at)
        if self._level + 1 > self.limit + 1e-6:
            return False
        self._level += 1
        return True


class Tally:
    """See the head of this file. ``now`` are seconds of a clock that never goes back. Without ``asks`` there is never
    a Wait: what is not known of a message is taken to be 0 octets, and not old enough."""

    __slots__ = (
        "_arrivals",
        "_asks",
        "_coming",
        "_commands",
        "_days",
        "_excess",
        "_retrieved",
        "_sent",
        "_settings",
        "listed",
    )

    def __init__(
        self, settings: Settings, days: list[Day], arrivals: Arrivals, now: float, asks: bool = True
    ) -> None:
        self._settings = settings
        self._asks = asks
        self._days = days
        self._arrivals = arrivals
        limit = settings.commands_per_minute
        self._commands = None if limit is None else Bucket(limit.value, now)
        self._excess = None if limit is None else Bucket(limit.value, now)
        self._retrieved = 0
        self._sent = 0
        self._coming = -1
        self.listed = False
        """Whether the maildrop has been listed: where it is empty, there is nothing in it."""

    def say(self, session: SessionView, command: Command, sent: int, now: float, date: float) -> Said:
        """What becomes of ``command``; ``sent`` octets went to the client since its login, ``date`` is the time since
        the epoch. Behind a Wait it is asked again; a command of which nothing is said is taken to go upstream."""
        name = command.name
        if name == "QUIT":
            return None
        self._coming = -1
        said: Act | Wait | None = self._command(name)
        if said is None and name == "DELE":
            said = self._dele(session, command.message or 0, date)
        elif said is None and (name == "RETR" or (name == "TOP" and int(command.arguments[1]) > TOP_LINES)):
            said = self._retr(session, command.message or 0, sent)
        elif said is None and name == "TOP":
            # However few its lines are, they may be long.
            said = self._used_up(max(self._sent, sent) + 1)
        if isinstance(said, Wait):
            return said
        # Last: a command is counted once, however often it was asked about.
        paced = self._paced(now)
        if said is None and paced is None and self._coming >= 0:
            self._retrieved += 1
            self._sent = self._coming
            for day in self._days:
                day.take(self._sent)
        return paced or said

    def _paced(self, now: float) -> Act | Enough | None:
        decided, commands, excess = self._settings.commands_per_minute, self._commands, self._excess
        if decided is None or commands is None or excess is None or commands.take(now):
            return None
        act = _act(decided, "commands_per_minute", "Too many commands, slow down", Code.SYS_TEMP)
        return act if excess.take(now) else Enough(act)

    def _command(self, name: str) -> Act | None:
        decided = self._settings.commands
        if decided is None or decided.value.permits(name):
            return None
        return _act(decided, "commands", "Command is not allowed", Code.SYS_PERM)

    def _dele(self, session: SessionView, number: int, date: float) -> Act | Wait | None:
        dele = self._settings.dele
        if dele is not None and dele.value != "allow":
            return _kept(dele, "dele", dele.value == "keep", "Messages cannot be deleted", Code.SYS_PERM)
        stays = self._settings.leave_on_server
        if stays is None:
            return None
        text = f"Message stays on the server until it is {stays.value.days} days old"
        held = _kept(stays, "leave_on_server", stays.value.dele == "keep", text, Code.SYS_TEMP)
        entries = session.maildrop
        entry = self._entry(entries, number)
        if entry is None:
            return None
        if isinstance(entry, Wait):
            return entry if self._asks else held
        known, unknown = self._arrivals.of(session, {number: entry})
        if unknown:
            if not self._asks:
                return held
            # Who deletes one message deletes those behind it as well.
            behind = {n: entries[n] for n in range(number, number + BATCH) if n in entries}
            return Wait(self._arrivals.of(session, behind)[1])
        arrived = known[number]
        return None if arrived is not None and date - arrived >= stays.value.days * DAY else held

    def _retr(self, session: SessionView, number: int, sent: int) -> Act | Wait | None:
        settings = self._settings
        size = 0
        if settings.max_message_octets or settings.max_octets or self._days:
            entry = self._entry(session.maildrop, number)
            if not isinstance(entry, Wait):
                size = 0 if entry is None else entry.octets
            elif self._asks:
                return entry
        limit = settings.max_messages
        if limit is not None and self._retrieved >= limit.value:
            return _act(limit, "max_messages", "Too many messages in one session", Code.SYS_TEMP)
        limit = settings.max_message_octets
        if limit is not None and size > limit.value:
            return _act(limit, "max_message_octets", "Message is too large", Code.SYS_PERM)
        # Messages that are on their way count with what was announced for them.
        would = max(self._sent, sent) + size
        said = self._used_up(would)
        if said is None:
            self._coming = would
        return said

    def _used_up(self, would: int) -> Act | None:
        """What is refused when ``would`` octets have been sent behind it."""
        limit = self._settings.max_octets
        if limit is not None and would > limit.value:
            return _act(limit, "max_octets", "Too much for one session", Code.SYS_TEMP)
        limit = self._settings.octets_per_day
        if limit is not None and any(day.lacks(would) for day in self._days):
            return _act(limit, "octets_per_day", "Too much was retrieved, try again later", Code.SYS_TEMP)
        return None

    def over(self, sent: int) -> Act | None:
        """At the end of the session: which limit of octets was passed by what was retrieved."""
        return self._used_up(sent) if self._retrieved else None

    def _entry(self, maildrop: Mapping[int, MaildropEntry], number: int) -> MaildropEntry | Wait | None:
        """The message, None when there is none."""
        entry = maildrop.get(number)
        return Wait(frozenset()) if entry is None and not (maildrop or self.listed) else entry


def _act(decided: Decided[Any], point: str, text: str, code: Code, action: Action = "deny") -> Act:
    return Act(decided.rule, point, action, decided.rule.text or text, code)


def _kept(decided: Decided[Any], point: str, keep: bool, text: str, code: Code) -> Act:
    if keep:
        return Act(decided.rule, point, "rewrite")
    return Act(decided.rule, point, "deny", decided.rule.text or text, code)
