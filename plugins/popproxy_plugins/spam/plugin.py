"""The plugin: which hook does what, and where a verdict is kept between them.

One place edits: the filter of open_body, which exists for every RETR and TOP. What it writes is decided before its
first octet, by what is known (open_body) or found out (on_message), and is "not scanned" otherwise: so every message
grows by the same number of octets, also when a scan fails, is left out, or is given up by the proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from hashlib import sha256

from popproxy.api import (
    BodyFilter,
    Code,
    Command,
    CommandVerdict,
    Explained,
    Fail,
    Header,
    HeaderFilter,
    MaildropView,
    MessageVerdict,
    MessageView,
    Plugin,
    Refuse,
    Replace,
    Rewrite,
    Services,
    SessionView,
    Slot,
    parse,
)
from popproxy_plugins.spam.actions import Decision
from popproxy_plugins.spam.cache import Verdicts
from popproxy_plugins.spam.config import SpamConfig
from popproxy_plugins.spam.explained import steps_of
from popproxy_plugins.spam.gate import Gate
from popproxy_plugins.spam.marks import Marks
from popproxy_plugins.spam.notice import notice, top_of
from popproxy_plugins.spam.rspamd import Rspamd
from popproxy_plugins.spam.servers import Servers
from popproxy_plugins.spam.spamd import Spamd
from popproxy_plugins.spam.verdict import ScanFailed, Scored, Unscanned
from popproxy_plugins.spam.written import read

_UNSCANNED_TEXT = "Message could not be checked for spam, try again later"
_TOO_LARGE_TEXT = "Message is too large to be checked for spam"
_RESULTS = ("ham", "spam", "late", "busy", "away", "wrong")
_OUTCOMES = ("ham", "spam", "unscanned", "replaced", "refused", "refused_unscanned")
_RESULT_OF = {
    Unscanned.LATE: "late",
    Unscanned.BUSY: "busy",
    Unscanned.AWAY: "away",
    Unscanned.WRONG: "wrong",
}
_OF_SCANS = frozenset({"on_maildrop", "on_command"})
_OF_WHOLE = frozenset({"wants_message", "on_message"})
_UID = 255
"""Octets of the longest unique id that is kept; RFC 1939 section 7 allows 70."""
_BREATH = 1 << 20
"""Octets that are hashed before other sessions may go on."""


class Turn:
    """One message on its way. ``judged`` is None while the header is to say it; ``replaced`` when a notice goes out."""

    __slots__ = ("judged", "replaced")

    def __init__(self, judged: Scored | Unscanned | None) -> None:
        self.judged = judged
        self.replaced = False


class Writer(HeaderFilter):
    """Writes the verdict of its turn through ``write``. ``holds`` when something else than the message may follow.

    A header that is too large to be edited gets the fields on top, and no tag; with ``strict`` it is a failure.
    """

    __slots__ = ("_strict", "_turn", "_write", "holds")

    def __init__(
        self, turn: Turn, write: Callable[[Turn, Header], None], growth: int, holds: bool, strict: bool = False
    ) -> None:
        super().__init__(growth=growth)
        self._turn = turn
        self._write = write
        self.holds = holds
        self._strict = strict

    def edit(self, header: Header) -> None:
        """See HeaderFilter."""
        self._write(self._turn, header)

    def overflow(self, top: Header) -> None:
        """See HeaderFilter."""
        if self._strict:
            raise ValueError("the header of the message is above 256 KiB")
        if self._turn.judged is None:
            self._turn.judged = Unscanned.HEADER
        self._write(self._turn, top)
        top.remove("Subject")

    def feed(self, chunk: bytes) -> bytes:
        """See HeaderFilter. A notice is what it is already."""
        if self._turn.replaced:
            self.through = True
        return super().feed(chunk)


class Spam(Plugin[SpamConfig]):
    """Scores messages with rspamd or SpamAssassin, or as the upstream did, and tags, replaces or refuses them."""

    fail = Fail.OPEN

    def __init__(self, config: SpamConfig) -> None:
        super().__init__(config)
        self._marks = Marks(config)
        self._scans = config.source != "headers"
        self._turn: Slot[Turn | None] = Slot("turn", None)
        self._pinned: Slot[dict[Hashable, Scored] | None] = Slot("pinned", None)
        self._ambiguous: Slot[frozenset[bytes]] = Slot("ambiguous", frozenset())
        self._closed = False
        if not self._scans:
            self.skips = _OF_SCANS if config.ends else _OF_SCANS | _OF_WHOLE

    def start(self, services: Services) -> None:
        config = self.config
        self._services = services
        self._closed = services.fail is Fail.CLOSED
        # Below the deadline of the hook, so that the answer is always the one given here.
        self._seconds = max(services.deadline - 1.0, services.deadline * 0.8)
        clock = services.clock.monotonic
        self._verdicts = Verdicts(config.cache, config.cache_seconds, clock)
        self._gate = Gate(config.scans, config.queue)
        self._servers = Servers(config.asked, clock, self._server_failed, self._seconds)
        self._scanner = self._client(services)
        counter = services.metrics.counter
        if self._scans:
            self._results = counter("scans", "Scans by result", "result", _RESULTS)
            self._scanned = services.metrics.scans(config.source)
            self._hits = counter("known", "Messages whose verdict was known already", "by", ("uid", "content"))
        self._outcomes = counter("messages", "Messages by what the client got", "outcome", _OUTCOMES)

    def _client(self, services: Services) -> Rspamd | Spamd:
        config = self.config
        if config.source == "spamd":
            return Spamd(services.stream, "user" in config.told)
        password = None if config.password is None else config.password.get_secret_value()
        return Rspamd(services.http, config.told, password, config.ca_file)

    def explain(self, session: SessionView, user: str) -> Explained:
        return Explained(steps_of(self.config, self._marks.growth))

    # Hooks

    def growth(self, session: SessionView) -> int:
        return self._marks.growth

    def on_maildrop(self, session: SessionView, maildrop: MaildropView) -> None:
        """Subscribed for session.maildrop, which has the unique ids. One that two messages have names neither."""
        seen: set[bytes] = set()
        twice: set[bytes] = set()
        for entry in maildrop.entries.values():
            if entry.uid is not None:
                (twice if entry.uid in seen else seen).add(entry.uid)
        self._ambiguous.set(session, frozenset(twice))

    def on_command(self, session: SessionView, command: Command) -> CommandVerdict:
        if not self._scans or command.name not in ("RETR", "TOP"):
            return None
        known = self._known(session, command)
        if known is None:
            if self._too_large(session, command):
                if command.name == "RETR" or self._scans_top:
                    self._scanned["too_big"].inc()
                return self._unscanned(Unscanned.TOO_LARGE) if self._closed else None
            whole = command.name == "TOP" and self._scans_top
        else:
            decision = self._marks.decide(known)
            if decision.refusal is not None:
                return self._refused(decision, known)
            whole = command.name == "TOP" and decision.notice is not None
            self._pin(session, command, known)
            if command.name == "RETR" or self._scans_top:
                self._scanned["skipped"].inc()
        return Rewrite(parse(b"RETR %d" % (command.message or 0))) if whole else None

    def wants_message(self, session: SessionView, command: Command) -> bool:
        if not self._scans:
            return self.config.ends
        known = self._known(session, command)
        if known is not None:
            return self._marks.decide(known).whole
        if command.name == "TOP" and not self._scans_top:
            return False
        return self._closed or not self._too_large(session, command)

    def open_body(self, session: SessionView, command: Command) -> BodyFilter:
        turn = Turn(None)
        if self._scans:
            turn.judged = self._known(session, command) or self._expected(session, command)
        self._turn.set(session, turn)
        holds = self.config.ends or (self._scans and self._closed)
        return Writer(turn, self._write, self._marks.growth, holds, self._closed)

    async def on_message(self, session: SessionView, command: Command, message: MessageView) -> MessageVerdict:
        header = Header(message.header)
        judged: Scored | Unscanned
        if self._scans:
            judged = self._known(session, command) or await self._judge(session, command, message)
        else:
            judged = self._read(header)
        turn = self._turn.get(session)
        if turn is not None:
            turn.judged = judged
        if isinstance(judged, Unscanned):
            return self._unscanned(judged) if self._scans and self._closed else None
        decision = self._marks.decide(judged)
        if decision.refusal is not None:
            return self._refused(decision, judged)
        if decision.notice is None or turn is None:
            return None
        turn.replaced = True
        self._outcomes["replaced"].inc()
        room = message.octets + self._marks.growth
        made = notice(header, message.octets, room, decision.notice, judged, self._marks)
        if command.name == "TOP":
            part = top_of(made, room, int(command.arguments[1]))
            return Replace(made, octets=room) if part is None else Replace(part)
        return Replace(made, octets=room)

    def _write(self, turn: Turn, header: Header) -> None:
        """What the filter writes."""
        judged = self._read(header) if turn.judged is None else turn.judged
        self._marks.write(header, judged)
        if isinstance(judged, Scored):
            self._outcomes["spam" if self._marks.decide(judged).flagged else "ham"].inc()
        elif not turn.replaced:
            self._outcomes["unscanned"].inc()

    # Verdicts

    def _read(self, header: Header) -> Scored | Unscanned:
        """What the upstream found."""
        config = self.config
        return read(header, config.read, config.trust, config.flag_score) or Unscanned.NOTHING

    @property
    def _scans_top(self) -> bool:
        return self.config.top == "scan" or self._closed

    def _key(self, session: SessionView, command: Command) -> Hashable:
        """What names the message beyond this session; None when nothing does.

        Its size is a part of it: a server that gives an id to another message later must not lend it a verdict.
        """
        entry = session.maildrop.get(command.message or 0)
        if entry is None or entry.uid is None or len(entry.uid) > _UID or not session.login:
            return None
        if entry.uid in self._ambiguous.get(session):
            return None
        return session.server, session.login, entry.uid, entry.octets

    def _known(self, session: SessionView, command: Command) -> Scored | None:
        key = self._key(session, command)
        if key is None:
            return None
        return (self._pinned.get(session) or {}).get(key) or self._verdicts.get(key)

    def _pin(self, session: SessionView, command: Command, known: Scored) -> None:
        """What on_command went by holds for the rest of the session, also when the cache drops it."""
        key = self._key(session, command)
        pinned = self._pinned.get(session)
        if pinned is None:
            pinned = dict[Hashable, Scored]()
            self._pinned.set(session, pinned)
        if key not in pinned:
            pinned[key] = known
            self._hits["uid"].inc()

    def _too_large(self, session: SessionView, command: Command) -> bool:
        entry = session.maildrop.get(command.message or 0)
        return entry is not None and entry.octets - self._marks.growth > self.config.max_size

    def _expected(self, session: SessionView, command: Command) -> Unscanned:
        """What is written unless on_message finds something else."""
        if self._too_large(session, command):
            return Unscanned.TOO_LARGE
        return Unscanned.PART if command.name == "TOP" and not self._scans_top else Unscanned.FAILED

    async def _judge(self, session: SessionView, command: Command, message: MessageView) -> Scored | Unscanned:
        """Scan the message, unless its content is known."""
        if message.octets > self.config.max_size:
            if not self._too_large(session, command):
                # Nothing but the message itself has told; otherwise on_command has counted it.
                self._scanned["too_big"].inc()
            return Unscanned.TOO_LARGE
        clock = self._services.clock.monotonic
        end = clock() + self._seconds
        try:
            async with asyncio.timeout(self._seconds) as waiting:
                content = await self._content(session, message)
                scored = self._verdicts.get(content)
                if scored is None:
                    async with self._gate:
                        # From here on the servers watch the time, so that the one that lets it pass is known.
                        waiting.reschedule(None)
                        scored = await self._servers.scan(
                            lambda name, seconds: self._scanner.scan(name, seconds, session, message), end - clock()
                        )
                    found = "spam" if self._marks.decide(scored).flagged else "ham"
                    self._results[found].inc()
                    self._scanned[found].inc()
                else:
                    self._hits["content"].inc()
                    self._scanned["skipped"].inc()
        except TimeoutError:
            return self._failed(session, ScanFailed(Unscanned.LATE, f"no verdict within {self._seconds:g} s"))
        except ScanFailed as failed:
            return self._failed(session, failed)
        for key in (content, self._key(session, command)):
            if key is not None:
                self._verdicts.put(key, scored)
        return scored

    async def _content(self, session: SessionView, message: MessageView) -> Hashable:
        """What names the content. A scanner that hears of the user may judge the same content differently."""
        digest = sha256()
        hashed = 0
        for chunk in message.chunks():
            digest.update(chunk)
            hashed += len(chunk)
            if hashed >= _BREATH:
                hashed = 0
                await asyncio.sleep(0)
        told = self.config.told
        return digest.digest(), session.login if told else None, session.client if "ip" in told else None

    # Outcomes

    def _refused(self, decision: Decision, scored: Scored) -> Refuse:
        self._outcomes["refused"].inc()
        return Refuse(decision.refusal or "", decision.code, reason=f"spam score {scored.score:.2f}")

    def _unscanned(self, why: Unscanned) -> Refuse:
        """Closed: no message goes out unseen."""
        self._outcomes["refused_unscanned"].inc()
        if why is Unscanned.TOO_LARGE:
            return Refuse(_TOO_LARGE_TEXT, Code.SYS_PERM, reason=why.value)
        return Refuse(_UNSCANNED_TEXT, Code.SYS_TEMP, reason=why.value)

    def _failed(self, session: SessionView, failure: ScanFailed) -> Unscanned:
        self._results[_RESULT_OF[failure.why]].inc()
        self._scanned["error"].inc()
        self._services.log.warning("not_scanned", session=session.id, why=failure.why.value, detail=str(failure))
        return failure.why

    def _server_failed(self, server: str, failure: ScanFailed) -> None:
        self._services.log.warning("scanner_failed", server=server, why=failure.why.value, detail=str(failure))
