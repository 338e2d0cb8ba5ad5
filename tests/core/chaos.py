"""One session under chaos: a tape of octets decides what peers, plugins and effects do, and the promises are checked.

The same machine serves the property tests, which draw tapes, and the fuzz target, whose inputs are tapes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from math import inf
from typing import Any, TypeVar

from popproxy.api import (
    Answer,
    Bearer,
    BodyFilter,
    Capabilities,
    Code,
    Dates,
    Edit,
    Fail,
    Grow,
    Hangup,
    HeaderFilter,
    Hide,
    Hold,
    Keep,
    Pace,
    Password,
    Plugin,
    Refuse,
    Rename,
    Replace,
    Rewrite,
    Route,
    Sizes,
    TlsView,
    Verifier,
    parse,
)
from popproxy.api.plugin import MECHANISMS
from popproxy.core.authorization import Authorization
from popproxy.core.effects import Await, Derive, Dial, Dialed, Judge, Returned, SecureClient, SecureUpstream
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Limits
from popproxy.core.phases import REASONS, Phase
from popproxy.core.plan import UpstreamPolicy
from popproxy.core.transaction import Transaction
from popproxy.wire.commands import VERBS
from tests.core.bounds import held, most
from tests.core.rig import Rig, plugin

T = TypeVar("T")

SECRET = b"s3cr3t-w0rd"
CHUNK = 500
LIMITS = Limits(
    line=64, auth_line=128, reply=100, listing=200, pipeline=4, bad_commands=9, auth_attempts=4, message_size=300
)
ASKED = (Dial, SecureClient, SecureUpstream, Await, Derive)


class Tape:
    """Choices, one or two octets each; zeros when it has run out."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.place = 0

    @property
    def ended(self) -> bool:
        return self.place >= len(self.octets)

    def number(self, below: int) -> int:
        octet = self.octets[self.place] if not self.ended else 0
        self.place += 1
        return octet % below

    def pick(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]

    def noise(self) -> bytes:
        size = self.number(12)
        taken = self.octets[self.place : self.place + size]
        self.place += size
        return taken


async def waits(*_: object) -> Any: ...


class Halves(BodyFilter):
    """Gives half of what it gets, and the rest at the end."""

    def __init__(self) -> None:
        self.kept = b""

    def feed(self, chunk: bytes) -> bytes:
        half = len(chunk) // 2
        out, self.kept = self.kept + chunk[:half], chunk[half:]
        return out

    def finish(self) -> bytes:
        return self.kept


class Early(HeaderFilter):
    """Says something before it is fed, and breaks at every other header."""

    def __init__(self) -> None:
        super().__init__(lambda header: header.add("\0" if b"x" in bytes(header) else "X-Tag", "y"), growth=80)


class Breaks(BodyFilter):
    """Raises at an x, holds a y back, steps aside at a z."""

    def feed(self, chunk: bytes) -> bytes:
        if b"x" in chunk:
            raise ValueError("an x")
        self.through = b"z" in chunk
        return b"" if b"y" in chunk else chunk


def third_time() -> Callable[..., Any]:
    """A hook that raises every third time."""
    calls: list[None] = []

    def hook(*_: object) -> None:
        calls.append(None)
        if len(calls) % 3 == 0:
            raise ValueError("every third time")

    return hook


def top_as_retr(session: object, command: Any) -> Rewrite | None:
    return Rewrite(parse(b"RETR %d" % command.message)) if command.name == "TOP" else None


def lie(*_: object) -> Any:
    return 5


def dates_then_keeps(session: Any, command: Any) -> Any:
    entry = session.maildrop.get(command.message)
    if command.name != "DELE" or (entry is None and session.maildrop):
        return None
    return Keep() if entry is not None and entry.dated else Dates(frozenset({command.message}))


def dates_all(session: object, maildrop: Any) -> Any:
    return None if all(entry.dated for entry in maildrop.entries.values()) else Dates(frozenset(maildrop.entries))


VERIFIER = Verifier(b"salt", 1, b"s" * 32, b"k" * 32)


def makes_possible(made: Plugin[Any]) -> Plugin[Any]:
    made.mechanisms = frozenset(MECHANISMS)
    return made


PLUGINS: list[Callable[[Fail], list[Any]]] = [
    lambda fail: [],
    lambda fail: [],
    lambda fail: [plugin(fail, on_connect=waits, on_capabilities=waits, on_login=waits, on_login_result=waits)],
    lambda fail: [plugin(fail, on_command=waits)],
    lambda fail: [plugin(fail, on_reply=waits)],
    lambda fail: [plugin(fail, on_maildrop=waits), plugin(fail, on_maildrop=lambda *_: Hide(frozenset({1})))],
    lambda fail: [plugin(fail, open_body=lambda *_: Halves()), plugin(fail, open_body=lambda *_: Breaks())],
    lambda fail: [
        plugin(fail, on_message=waits, open_body=lambda *_: Breaks()),
        plugin(fail, on_message=lambda *_: Edit([("X", "y")])),
    ],
    lambda fail: [
        plugin(
            fail, on_login=third_time(), on_command=third_time(), on_reply=third_time(), open_body=third_time(),
            on_message=third_time(),
        )
    ],
    lambda fail: [
        plugin(fail, growth=lambda *_: 64),
        plugin(fail, growth=lambda *_: 80, on_message=waits, open_body=lambda *_: Early()),
        plugin(fail, growth=third_time(), wants_message=third_time(), on_message=lambda *_: Edit([("X", "y")])),
    ],
    lambda fail: [
        plugin(fail, on_maildrop=lambda *_: Grow(100)),
        plugin(fail, on_command=top_as_retr, open_body=lambda *_: Breaks()),
    ],
    lambda fail: [
        plugin(
            fail, on_capabilities=lie, growth=lie, on_command=lie, on_reply=lie, on_maildrop=lie, wants_message=lie,
            on_message=lie,
        )
    ],
    lambda fail: [plugin(fail, on_maildrop=waits, on_command=waits, unneeded=lambda *_: frozenset({"on_reply"}))],
    lambda fail: [
        plugin(fail, on_maildrop=dates_all, on_command=dates_then_keeps, pace=lambda *_: [Pace(1, 1)]),
        plugin(fail, on_maildrop=lambda *_: Hide(frozenset({1})), on_reply=waits),
    ],
    lambda fail: [plugin(fail, unneeded=lie, pace=lie), plugin(fail, unneeded=third_time(), on_command=waits)],
    lambda fail: [makes_possible(plugin(fail, on_verifier=waits, on_login=waits, on_login_result=waits))],
    lambda fail: [
        plugin(fail, on_verifier=lie, on_login=third_time(), on_login_result=lie),
        makes_possible(plugin(fail, on_verifier=lambda *_: VERIFIER)),
    ],
    lambda fail: [
        plugin(fail, on_login=lambda *_: Hold(5), on_login_result=waits),
        plugin(fail, on_login=waits, on_login_result=third_time()),
        plugin(fail, on_login_result=waits),
    ],
]  # fmt: skip

b64 = base64.b64encode
PLAIN = b64(b"\0joe\0" + SECRET)
TOKEN = b64(b"user=joe\x01auth=Bearer " + SECRET + b"\x01\x01")
SCRAM = [b64(b"n,,n=joe,r=c"), b64(b"c=biws,r=cn,p=" + b"A" * 43 + b"=")]
CHALLENGES = [
    b"+ " + b64(told)
    for told in (b"r=nx,s=AAAA,i=1", b"v=" + b"A" * 43 + b"=", b"e=x", b'{"status":"' + SECRET + b'"}')
]
KNOWN: list[list[bytes] | None] = [
    [b"PIPELINING"], [], None, [b"SASL PLAIN"], [b"SASL LOGIN"], [b"SASL XOAUTH2"], [b"SASL SCRAM-SHA-256"],
]  # fmt: skip
BEFORE = [
    b"USER joe", b"PASS " + SECRET, b"PASS  " + SECRET, b"AUTH PLAIN", b"AUTH PLAIN " + PLAIN, PLAIN, b"AUTH LOGIN",
    b"*", b"AUTH", b"STLS", b"CAPA", b"UTF8", b"LANG", b"LANG en", b"QUIT", b"XTND XMIT", b"RPOP joe", b"AUTH PLAIN =",
    b"AUTH XOAUTH2 " + TOKEN, b"AUTH OAUTHBEARER", TOKEN, b"", b"AUTH SCRAM-SHA-256 " + SCRAM[0], *SCRAM,
    b"XCLIENT ADDR=192.0.2.77 TTL=1", b"XCLIENT TTL=0", b"XCLIENT ADDR=x", b"AUTH SCRAM-SHA-1",
    b"AUTH CRAM-MD5", b"APOP joe " + b"0" * 32, b64(b"joe " + b"0" * 32),
]  # fmt: skip
BEHIND = [
    b"STAT", b"LIST", b"LIST 1", b"RETR 1", b"RETR 2", b"TOP 1 0", b"DELE 1", b"DELE 2", b"NOOP", b"RSET", b"UIDL",
    b"UIDL 1", b"noop", b"CAPA", b"LANG", b"QUIT", b"FOO", b"", b"RETR 0", b"LAST", b"XTND XMIT", b"XTND ARCHIVE a",
    b"USER joe", b"x" * 70, b".", b"..", b"NOOP\0", b"A\rB",
]  # fmt: skip
UPSTREAM = [
    b"+OK", b"+OK 1 2", b"-ERR", b"-ERR [SYS/TEMP] no", b"-ERR [AUTH] no", b"+", b"+ Vg==", b".", b"..", b"x", b"y",
    b"", b"1 10", b"2 20", b"PIPELINING", b"TOP", b"+OKAY", b"x" * 110, b"a: b", *CHALLENGES,
]  # fmt: skip
ECHOES = [b"-ERR what is PASS " + SECRET, b"PASS " + SECRET, b"+OK " + SECRET]
BODIES = [
    b".\r\n", b"1 10\r\n2 20\r\n.\r\n", b"a: b\r\n\r\n..\r\n.\r\n", b"x\r\n" * 9 + b".\r\n", b"y\n.\n\r\n.\r\n",
    b"a: b\r\n\r\n" + b"w" * 400 + b"\r\n.\r\n", b"PIPELINING\r\nTOP\r\n.\r\n", b"z\r\n..a\r\n.\r\n",
]  # fmt: skip
VERDICTS: list[Any] = [
    None, None, None, None, Refuse("no"), Answer(True, "yes"), Answer(False, "no", Code.SYS_TEMP),
    Answer(True, body=b".x"), Route("other"), Route("nowhere"),
    Route(None, Password("ann", SECRET)), Rewrite(parse(b"NOOP")), Hangup(),
    Rewrite(parse(b"QUIT")), Hide(frozenset({2})), Sizes({1: 5}), Edit([("A", "b")], ["X*"]), Replace(b"new"),
    Grow(64), Replace(b"n", 90), Keep("kept"), Keep(), Dates(frozenset({1, 2})), Dates(frozenset({3})),
    Capabilities(), 5, VERIFIER, VERIFIER, Rename("ann"), Route(None, Bearer("joe", SECRET)),
    Hold(20), Hold(1e9), Refuse("no", Code.AUTH, delay=20, limited=True), Refuse("no", delay=1, close=True),
    Route(groups=("staff",)), Route(groups=("",)), Refuse("[AUTH] no", None),
]  # fmt: skip
FAILURES = [Failure(kind, "drawn") for kind in Kind]
EVENTS = [
    *["client"] * 10, *["honest"] * 16, *["done"] * 12, *["pulled"] * 6, "blocked", "free", "free", "lazy", "eager",
    "rare", "rare",
]  # fmt: skip
RARE = [*["nothing"] * 8, "upstream", "upstream", "lost", "eof", "gone", "wait", "wait", "stop"]


class Chaos:
    """``step`` does what the tape says next, ``check`` states what holds at any moment, ``promises`` what held."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        tls = tape.pick(["off", "off", "starttls", "implicit"])
        self.policy = UpstreamPolicy(
            "main",
            tape.pick(["off", "starttls"]),
            servers=tape.pick([1, 1, 3]),
            sticky=tape.pick([False, True]),
            xclient=tape.pick(["off", "offered", "required"]),
        )
        make = tape.number(len(PLUGINS))
        self.plugins = PLUGINS[make](tape.pick(list(Fail)))
        self.rig = Rig(
            *self.plugins,
            tls=tls,
            auth_before_tls=tape.pick([True, True, False]),
            known=tape.pick(KNOWN),
            policy=self.policy,
            limits=LIMITS,
            nonce=lambda: b"n",
            xclient=tape.pick([(), (ip_network("192.0.2.0/24"),)]),
            view_tls=TlsView() if tls == "implicit" else None,
            opened=tape.pick([frozenset(), frozenset({b"LAST", b"XTND XMIT", b"XTND ARCHIVE", b"RPOP"})]),
        )
        self.sent = b""
        self.clear = True
        self.told = False
        self.unread = b""
        self.owed = b""
        self.rig.start()
        self.check()
        if tape.pick([True, True, False]):
            self.log_in()
            self.check()

    def run(self) -> None:
        """To the end of the tape, and of the session."""
        while not self.tape.ended:
            self.step(self.tape.pick(EVENTS))
            self.check()
        self.promises()
        self.rig.s.client_gone()
        self.rig.drain()
        if not self.rig.closed:
            # Its QUIT is under way: it goes with the upstream, when the hooks that look at that have ended.
            assert self.rig.s.leaving
            self.rig.lost(FAILURES[0])
        while not self.rig.closed and any(isinstance(effect, ASKED) for effect in self.rig.effects):
            self.done()
        assert self.rig.closed
        self.rig.s.summary()

    def step(self, event: str) -> None:
        rig, s, tape = self.rig, self.rig.s, self.tape
        if event == "rare":
            event = tape.pick(RARE)
        if event == "client" and s.want_client and not rig.closed:
            data = self.octets(BEHIND if s.phase not in (Phase.GREETING, Phase.AUTHORIZATION) else BEFORE)
            self.sent += data
            rig.client(data)
        elif event in ("upstream", "honest") and s.want_upstream and s.upstream_open and not s.blocked:
            if event == "honest":
                self.honest()
            else:
                rig.upstream(self.octets(UPSTREAM + ECHOES * self.told))
        elif event == "done":
            self.done()
        elif event == "lost":
            rig.lost(tape.pick(FAILURES))
        elif event == "eof":
            rig.eof()
        elif event == "gone":
            s.client_gone()
            rig.drain()
        elif event == "wait":
            rig.wait(tape.pick([1.0, 30.0, 700.0]))
        elif event in ("blocked", "free"):
            rig.blocked(event == "blocked")
        elif event in ("lazy", "eager"):
            rig.eager = event == "eager" and not s.blocked
        elif event == "pulled" and s.pulling and not s.blocked:
            s.drained()
            rig.drain()
        elif event == "stop":
            rig.stop()

    def octets(self, lines: list[bytes]) -> bytes:
        """Mostly whole lines, now and then a piece of one, or noise."""
        kind = self.tape.number(8)
        if kind == 0:
            return self.tape.noise()
        if kind == 1:
            return self.tape.pick([b"\r", b"\n", b"\r\n", b".\r\n", b"\r\n.", b"\r\n.\r\n"])
        line = self.tape.pick(lines) + b"\r\n"
        if kind == 2:
            return line[: self.tape.number(len(line))]
        return line if kind < 6 else line + self.tape.pick(lines) + b"\r\n"

    def honest(self) -> None:
        """What an honest server would say next, whole or only a part of it."""
        self.unread += self.rig.asked()
        while b"\r\n" in self.unread and not self.owed:
            line, _, self.unread = self.unread.partition(b"\r\n")
            words = line.split() or [b""]
            self.told = self.told or line in (b"PASS " + SECRET, b"PASS  " + SECRET, b"AUTH PLAIN " + PLAIN, PLAIN)
            reply = self.tape.pick([b"+OK\r\n", b"+OK fine\r\n", b"+OK\r\n", b"-ERR [SYS/TEMP] no\r\n"])
            if self.told and self.rig.s.phase is Phase.LOGGING_IN:
                reply = self.tape.pick([reply, reply, ECHOES[0] + b"\r\n", ECHOES[1] + b"\r\n"])
            listed = words[0] in (b"LIST", b"UIDL", b"LANG") and not words[1:]
            if reply.startswith(b"+") and (listed or words[0] in (b"RETR", b"TOP", b"CAPA")):
                reply += self.tape.pick(BODIES)
            self.owed = reply
        size = self.tape.pick([CHUNK, CHUNK, CHUNK, 1, 5])
        piece, self.owed = self.owed[:size], self.owed[size:]
        if piece:
            self.rig.upstream(piece)

    def done(self) -> None:
        """The oldest effect has an outcome."""
        rig, tape = self.rig, self.tape
        pending = [effect for effect in rig.effects if isinstance(effect, ASKED)]
        if not pending:
            return
        effect = pending[0]
        rig.effects.remove(effect)
        fails = tape.number(8) == 0
        outcome: Any = tape.pick(FAILURES) if fails else None
        if isinstance(effect, Await):
            error = tape.pick([TimeoutError(), ValueError("x"), SystemExit()])
            outcome = Returned(error=error) if fails else Returned(tape.pick(VERDICTS))
        elif not fails and isinstance(effect, Dial):
            outcome = Dialed("mail:110", False)
        elif not fails and isinstance(effect, SecureClient):
            outcome = TlsView("TLSv1.3")
        elif isinstance(effect, Derive):
            outcome = effect.derivation.compute()
        if isinstance(effect, Dial) and effect.why is not None:
            assert not self.told, "another server, although this one was told the password"
        self.connected(effect, outcome)
        rig.s.done(effect.id, outcome)
        rig.drain()
        if isinstance(outcome, Dialed) and not rig.closed and tape.number(4):
            rig.upstream(tape.pick([b"+OK ready\r\n", b"+OK [XCLIENT] ready\r\n"]))

    def connected(self, effect: Any, outcome: Any) -> None:
        """Keep in mind what a connection upstream is."""
        if isinstance(outcome, Dialed):
            self.clear, self.told = True, False
            self.unread = self.owed = b""
            self.rig.asked()
        elif isinstance(effect, SecureUpstream) and outcome is None:
            self.clear = False

    def log_in(self) -> None:
        """Straight through to the TRANSACTION state, where most of the paths are."""
        rig = self.rig
        if rig.plan.tls == "starttls":
            rig.client(b"STLS\r\n")
        for _ in range(30):
            for effect in [effect for effect in rig.effects if isinstance(effect, ASKED)]:
                rig.effects.remove(effect)
                outcomes: dict[type, Any] = {
                    Dial: Dialed("x:110", False), SecureClient: TlsView(), Await: Returned(), Derive: b"x" * 32
                }
                outcome = outcomes.get(type(effect))
                self.connected(effect, outcome)
                rig.s.done(effect.id, outcome)
                rig.drain()
                if isinstance(effect, Dial):
                    rig.upstream(b"+OK [XCLIENT]\r\n")
            if b"PASS" not in self.sent and not rig.pending(SecureClient):
                self.sent += b"USER joe\r\nPASS " + SECRET + b"\r\n"
                rig.client(b"USER joe\r\nPASS " + SECRET + b"\r\n")
            if rig.s.phase is Phase.TRANSACTION:
                break
            for line in rig.asked().split(b"\r\n")[:-1]:
                rig.upstream(b"-ERR\r\n" if line == b"CAPA" else b"+ \r\n" if line[:4] == b"AUTH" else b"+OK\r\n")

    def check(self) -> None:
        """What holds at any moment: bounds, and that somebody is to move, and nobody for ever."""
        rig, s = self.rig, self.rig.s
        waits_for = [effect for effect in rig.effects if isinstance(effect, ASKED)]
        assert held(s) <= most(s, CHUNK, len(self.plugins), maildrop=True)
        if rig.closed:
            rig.ended(s.reason)
            assert s.reason in REASONS
            assert s.deadline == inf
            return
        assert s.deadline < inf or waits_for, "nobody is watched"
        stage: Any = s._stage
        owes = s.upstream_open and (stage.busy if isinstance(stage, Authorization) else bool(stage.flight))
        late = isinstance(stage, Authorization) and stage._entrance._late is not None
        assert not late or stage.busy, "somebody is held who may go on"
        assert s.want_client or s.pulling or s.blocked or waits_for or owes or late, "the client waits for nobody"
        assert s.want_upstream or s.pulling or waits_for, "the upstream waits for nobody"
        if isinstance(stage, Transaction):
            assert not (s.want_upstream and stage.answers.waiting), "octets are welcome that have to wait"
        if self.policy.tls == "starttls" and self.clear:
            assert not re.search(rb"(?m)^(?:USER|PASS|RPOP|AUTH)", rig.upstream_out), "promise 5"

    def promises(self) -> None:
        """What held all the time."""
        rig = self.rig
        quits = len(re.findall(rb"(?m)^QUIT\r$", rig.all_upstream))
        asked = len(re.findall(rb"(?mi)^QUIT *\r$", self.sent))
        assert quits <= asked, "promise 1"
        # Judge names the user, and a client may call itself by its password.
        shown = [effect for effect in rig.effects if not isinstance(effect, Await | Judge)]
        assert SECRET.decode() not in repr(shown), "promise 6"
        if b"XTND XMIT" not in rig.plan.opened:
            for line in rig.all_upstream.split(b"\r\n")[:-1]:
                known = line.split(b" ")[0].upper() in VERBS
                assert known or re.fullmatch(rb"[A-Za-z0-9+/]*=*", line), "one known command a line"
