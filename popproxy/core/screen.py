"""on_command: plugins look at a command of the TRANSACTION state before it goes anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from popproxy.api.verdicts import Answer, Dates, Hangup, Keep, Refuse, Rewrite
from popproxy.core import hooks
from popproxy.core.careful import answered, needs_body
from popproxy.core.chain import Entry
from popproxy.core.lies import Lie
from popproxy.core.meter import DENIED, OK
from popproxy.wire.commands import Command, Where, one_command
from popproxy.wire.replies import err

if TYPE_CHECKING:
    from popproxy.core.transaction import Transaction


def screen(transaction: Transaction, command: Command, now: float) -> None:
    """Call on_command, then send, answer or end. Only an async hook, and Dates, let the client's further lines wait."""
    t, s = transaction, transaction.s
    entries = t.chain["on_command"]
    current = [command]
    decided: list[Any] = []
    again: list[tuple[Entry, frozenset[int]]] = []

    def use(entry: Entry, verdict: Any) -> bool:
        if command.verb.name == b"QUIT" and not isinstance(verdict, Hangup):
            if verdict is hooks.BROKEN:
                return False
            raise Lie(f"{type(verdict).__name__}: QUIT can only be stopped by a Hangup")
        if isinstance(verdict, Rewrite):
            current[0] = _rewritten(t, current[0], verdict.command)
            return False
        if isinstance(verdict, Answer):
            needs_body(verdict, command.multiline)
        elif isinstance(verdict, Keep):
            _check_keep(t, current[0])
        elif isinstance(verdict, Dates):
            if not _dates(t, verdict, current[0]):
                return False
            again.append((entry, verdict.messages))
            return True
        decided.append(verdict)
        return True

    def ask(entries: tuple[Entry, ...]) -> None:
        if not hooks.call(s, entries, lambda: (s.seen(), current[0]), use, then):
            t.suspend()

    def then() -> None:
        suspended = t.busy
        if again and t.numbering is not None:
            entry, messages = again.pop()
            t.numbering.date(messages, current[0], lambda: ask(entries[entries.index(entry) :]))
            if suspended and not t.answers.reading:
                t.moved(s.clock())
            return
        if suspended:
            t.resume()
        if decided:
            _stopped(t, decided[0], command, current[0], now)
        else:
            t.mapped(current[0], command, now)
        if suspended and not t.answers.reading:
            t.moved(s.clock())

    ask(entries)


def _rewritten(t: Transaction, command: Command, wanted: Command) -> Command:
    """Raises Lie unless ``wanted`` may stand for ``command``.

    Promise 1: a plugin cannot make a QUIT, not even inside an argument; and what the client awaits keeps its framing.
    """
    plan = t.s.plan
    if not one_command(wanted, plan.verbs):
        raise Lie("Rewrite: not one command as popproxy.api.parse gives it")
    verb = wanted.verb
    if verb.name == b"QUIT" or Where.TRANSACTION not in verb.where:
        raise Lie(f"Rewrite: {wanted.name} may not be sent for {command.name}")
    if verb.fenced and verb.name not in plan.opened:
        raise Lie(f"Rewrite: {wanted.name} is fenced; the operator would have to open it")
    uploads = (command.verb.framing.value == "upload", verb.framing.value == "upload")
    if wanted.multiline != command.multiline or uploads[0] != uploads[1]:
        raise Lie(f"Rewrite: the reply to {wanted.name} is not framed as the one to {command.name}")
    return wanted


def _check_keep(t: Transaction, command: Command) -> None:
    """Raises Lie unless DELE is about to be sent and the numbers are the proxy's."""
    if command.verb.name != b"DELE":
        raise Lie(f"Keep: for DELE only, not for {command.name}")
    if t.numbering is None:
        raise Lie("Keep: no plugin has an on_maildrop in this session, so nobody but the upstream can count")


def _dates(t: Transaction, verdict: Dates, command: Command) -> bool:
    """Whether there is something to find out, which ends each time. Without a view that is not known yet, and an empty
    one looks the same to a plugin: nothing, where ``command`` names a message that is not there. Otherwise raises Lie.
    """
    if t.numbering is None:
        raise Lie("Dates: no plugin has an on_maildrop in this session, so nobody knows its messages")
    if t.numbering.undated(verdict.messages) == []:
        if not t.numbering.lacks(command.message):
            raise Lie("Dates: all of these are dated, or are not there")
        return False
    return True


def _stopped(
    t: Transaction, verdict: Hangup | Refuse | Answer | Keep, command: Command, current: Command, now: float
) -> None:
    s = t.s
    verb = command.verb.index
    if isinstance(verdict, Hangup):
        s.count(verb, DENIED)
        s.end("policy", verdict.reason or "hung up by a plugin")
    elif isinstance(verdict, Refuse):
        s.count(verb, DENIED)
        t.local(err(verdict.text, None if verdict.code is None else verdict.code.value))
    elif isinstance(verdict, Keep):
        assert t.numbering is not None, "a Keep that was not looked at"
        t.numbering.keep(current, command, verdict.text, now)
    else:
        s.count(verb, OK if verdict.ok else DENIED)
        t.local(answered(verdict, command.multiline))
