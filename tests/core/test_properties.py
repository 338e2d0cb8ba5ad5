"""Any octets from both peers, in any order and any pieces, with every outcome of every effect: the promises hold."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from math import inf
from typing import Any

from hypothesis import event as seen
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import (
    Answer,
    BodyFilter,
    Capabilities,
    Code,
    Edit,
    Fail,
    Hide,
    Password,
    Refuse,
    Replace,
    Rewrite,
    Route,
    TlsView,
    parse,
)
from popproxy.core.authorization import Authorization
from popproxy.core.effects import Await, Dial, Dialed, Returned, SecureClient, SecureUpstream
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Limits
from popproxy.core.phases import REASONS
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.commands import VERBS
from tests.core.bounds import held, most
from tests.core.rig import Rig, plugin

SECRET = b"s3cr3t-w0rd"
CHUNK = 200
LIMITS = Limits(
    line=64, auth_line=128, reply=100, listing=200, pipeline=4, bad_commands=6, auth_attempts=4, message_size=300
)


async def waits(*_: object) -> Any: ...


class Drops(BodyFilter):
    """Gives half of what it gets, and the rest at the end."""

    def __init__(self) -> None:
        self.kept = b""

    def feed(self, chunk: bytes) -> bytes:
        half = len(chunk) // 2
        out, self.kept = self.kept + chunk[:half], chunk[half:]
        return out

    def finish(self) -> bytes:
        return self.kept


class Breaks(BodyFilter):
    def feed(self, chunk: bytes) -> bytes:
        if b"x" in chunk:
            raise ValueError("an x")
        return b"" if b"y" in chunk else chunk


def third_time() -> Callable[..., Any]:
    """A hook that raises every third time."""
    calls: list[None] = []

    def hook(*_: object) -> None:
        calls.append(None)
        if len(calls) % 3 == 0:
            raise ValueError("every third time")

    return hook


def lie(*_: object) -> Any:
    return 5



PLUGINS: dict[str, Any] = {
    "none": lambda fail: [],
    "async": lambda fail: [
        plugin(
            fail, on_connect=waits, on_capabilities=waits, on_login=waits, on_login_result=waits, on_command=waits,
            on_reply=waits,
        )
    ],
    "maildrop": lambda fail: [
        plugin(fail, on_maildrop=waits),
        plugin(fail, on_maildrop=lambda *_: Hide(frozenset({1}))),
    ],
    "filters": lambda fail: [plugin(fail, open_body=lambda *_: Drops()), plugin(fail, open_body=lambda *_: Breaks())],
    "messages": lambda fail: [
        plugin(fail, on_message=waits, open_body=lambda *_: Breaks()),
        plugin(fail, on_message=lambda *_: Edit([("X", "y")])),
    ],
    "broken": lambda fail: [
        plugin(
            fail, on_login=third_time(), on_command=third_time(), on_reply=third_time(), open_body=third_time(),
            on_message=third_time(),
        )
    ],
    "liar": lambda fail: [plugin(fail, on_connect=lie, on_command=lie, on_reply=lie)],
}  # fmt: skip

PLAIN = base64.b64encode(b"\0joe\0" + SECRET)
CLIENT_LINES = [
    b"USER joe", b"PASS " + SECRET, b"PASS  " + SECRET, b"AUTH PLAIN", b"AUTH PLAIN " + PLAIN, PLAIN, b"AUTH LOGIN",
    b"*", b"AUTH", b"STLS", b"CAPA", b"UTF8", b"LANG", b"LANG en", b"QUIT", b"STAT", b"LIST", b"LIST 1", b"RETR 1",
    b"TOP 1 0", b"DELE 1", b"NOOP", b"RSET", b"UIDL", b"UIDL 1", b"noop", b"FOO", b"", b"RETR 0", b"LAST", b"x" * 70,
]  # fmt: skip
UPSTREAM_LINES = [
    b"+OK", b"+OK 1 2", b"-ERR", b"-ERR [SYS/TEMP] no", b"-ERR [AUTH] no", b"+", b"+ Vg==", b".", b"..", b"x", b"y",
    b"", b"1 10", b"2 20", b"PIPELINING", b"TOP", b"+OKAY", b"x" * 110, b"a: b",
]  # fmt: skip


def stream(lines: list[bytes]) -> st.SearchStrategy[bytes]:
    """Mostly whole lines, now and then a piece of one, or noise."""
    line = st.sampled_from([line + b"\r\n" for line in lines])
    whole = st.lists(line, min_size=1, max_size=4).map(b"".join)
    piece = st.tuples(line, st.integers(0, 40)).map(lambda both: both[0][: both[1]])
    noise = st.one_of(st.binary(max_size=30), st.sampled_from([b"\r", b"\n", b"\r\n.", b".\r\n", b"\r\n.\r\n", b"\0"]))
    return st.one_of(whole, whole, whole, piece, noise).map(lambda data: data[:CHUNK])


VERDICTS: list[Any] = [
    None, None, None, Refuse("no"), Answer(True, "yes"), Answer(False, "no", Code.SYS_TEMP), Answer(True, body=b".x"),
    Route("other"), Route("nowhere"), Route(None, Password("ann", SECRET)), Rewrite(parse(b"NOOP")),
    Rewrite(parse(b"QUIT")), Hide(frozenset({2})), Edit([("A", "b")], ["X*"]), Replace(b"new"), Capabilities(), 5, "x",
]  # fmt: skip
BODIES = [
    b".\r\n", b"1 10\r\n2 20\r\n.\r\n", b"a: b\r\n\r\n..\r\n.\r\n", b"x\r\n" * 9 + b".\r\n", b"y\n.\n\r\n.\r\n",
    b"z" * 400 + b"\r\n.\r\n", b"PIPELINING\r\nTOP\r\n.\r\n",
]  # fmt: skip
FAILURES = [Failure(kind, "drawn") for kind in Kind]
EVENTS = [
    *["client"] * 8, *["honest"] * 12, *["done"] * 10, *["pulled"] * 4, "upstream", "upstream", "lost", "eof", "gone",
    "wait", "blocked", "free", "free", "lazy", "eager", "stop",
]  # fmt: skip


ASKED = (Dial, SecureClient, SecureUpstream, Await)


class Chaos:
    """One drawn session; ``check`` states what must hold at any moment."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        name = draw(st.sampled_from(sorted(PLUGINS)), "plugins")
        tls = draw(st.sampled_from(["off", "starttls", "implicit"]), "tls")
        self.policy = UpstreamPolicy("main", draw(st.sampled_from(["off", "starttls"]), "upstream"))
        self.plugins = PLUGINS[name](draw(st.sampled_from(list(Fail)), "fail"))
        known = draw(st.sampled_from([None, [], [b"PIPELINING"], [b"SASL PLAIN"]]), "known")
        self.rig = Rig(
            *self.plugins, tls=tls, auth_before_tls=draw(st.booleans(), "allow"), known=known, policy=self.policy,
            limits=LIMITS, view_tls=TlsView() if tls == "implicit" else None,
            opened=frozenset({b"LAST"}) if draw(st.booleans(), "open") else frozenset(),
        )  # fmt: skip
        self.name = name
        self.sent = b""
        self.secured_at: int | None = None
        self.connections = 0
        self.unread = b""
        self.owed = b""

    def step(self, event: str) -> None:
        rig, s = self.rig, self.rig.s
        if event == "client" and s.want_client and not rig.closed:
            data = self.draw(stream(CLIENT_LINES), "client")
            self.sent += data
            rig.client(data)
        elif event == "upstream" and s.want_upstream and s.upstream_open and rig.eager:
            rig.upstream(self.draw(stream(UPSTREAM_LINES), "upstream"))
        elif event == "honest" and s.want_upstream and s.upstream_open and rig.eager:
            self.honest()
        elif event == "done":
            self.done()
        elif event in ("lazy", "eager"):
            rig.eager = event == "eager" and not s.blocked
        elif event == "pulled" and s.pulling and not s.blocked:
            s.drained()
            rig.drain()
        elif event == "lost":
            rig.lost(self.draw(st.sampled_from(FAILURES), "failure"))
        elif event == "eof":
            rig.eof()
        elif event == "gone":
            s.client_gone()
            rig.drain()
        elif event == "wait":
            rig.wait(self.draw(st.sampled_from([1.0, 30.0, 700.0]), "seconds"))
        elif event in ("blocked", "free"):
            rig.blocked(event == "blocked")
        elif event == "stop":
            rig.stop()

    def honest(self) -> None:
        """What an honest server would say next, whole or only a part of it."""
        self.unread += self.rig.asked()
        while b"\r\n" in self.unread and not self.owed:
            line, _, self.unread = self.unread.partition(b"\r\n")
            words = line.split() or [b""]
            reply = self.draw(st.sampled_from([b"+OK\r\n", b"+OK fine\r\n", b"-ERR [SYS/TEMP] no\r\n"]), "reply")
            listed = words[0] in (b"LIST", b"UIDL", b"LANG") and not words[1:]
            multi = listed or words[0] in (b"RETR", b"TOP", b"CAPA")
            if multi and reply.startswith(b"+"):
                reply += self.draw(st.sampled_from(BODIES), "body")
            self.owed = reply
        size = self.draw(st.sampled_from([1, 5, 1000, 1000]), "size")
        piece, self.owed = self.owed[:size], self.owed[size:]
        if piece:
            self.rig.upstream(piece)

    def done(self) -> None:
        rig = self.rig
        pending = [effect for effect in rig.effects if isinstance(effect, ASKED)]
        if not pending:
            return
        effect = pending[0]
        rig.effects.remove(effect)
        outcome: Any
        if isinstance(effect, Await):
            verdict = self.draw(st.sampled_from(VERDICTS), "verdict")
            late = self.draw(st.sampled_from([None, None, None, TimeoutError(), ValueError("x")]), "error")
            outcome = Returned(verdict) if late is None else Returned(error=late)
        elif self.draw(st.integers(0, 5), "fails") == 0:
            outcome = self.draw(st.sampled_from(FAILURES), "failure")
        elif isinstance(effect, Dial):
            outcome = Dialed("mail:110", False)
            self.secured_at = None if self.policy.tls == "starttls" else 0
        elif isinstance(effect, SecureClient):
            outcome = TlsView("TLSv1.3")
        else:
            outcome = None
            self.secured_at = len(rig.all_upstream)
        rig.s.done(effect.id, outcome)
        rig.drain()
        if isinstance(effect, Dial) and isinstance(outcome, Dialed):
            self.connections += 1
            self.unread = self.owed = b""
            if not rig.closed and self.draw(st.integers(0, 3), "greets"):
                rig.upstream(b"+OK ready\r\n")

    def log_in(self) -> None:
        """Straight through to the TRANSACTION state, where most of the paths are."""
        rig = self.rig
        if self.rig.plan.tls == "starttls":
            rig.client(b"STLS\r\n")
        for _ in range(30):
            for effect in [effect for effect in rig.effects if isinstance(effect, ASKED)]:
                rig.effects.remove(effect)
                outcomes = {Dial: Dialed("x:110", False), SecureClient: TlsView(), Await: Returned()}
                if isinstance(effect, SecureUpstream):
                    self.secured_at = 0
                rig.s.done(effect.id, outcomes.get(type(effect)))
                rig.drain()
                if isinstance(effect, Dial):
                    rig.upstream(b"+OK\r\n")
            if b"PASS" not in self.sent and not rig.pending(SecureClient):
                self.sent += b"USER joe\r\nPASS " + SECRET + b"\r\n"
                rig.client(b"USER joe\r\nPASS " + SECRET + b"\r\n")
            for line in rig.asked().split(b"\r\n")[:-1]:
                rig.upstream(b"-ERR\r\n" if line == b"CAPA" else b"+OK\r\n")

    def check(self) -> None:
        rig, s = self.rig, self.rig.s
        waits_for = [effect for effect in rig.effects if isinstance(effect, ASKED)]
        assert held(s) <= most(s, CHUNK, len(self.plugins), self.name == "maildrop")
        if rig.closed:
            rig.ended(s.reason)
            assert s.reason in REASONS
            assert s.deadline == inf
            return
        # Liveness: somebody is always to move, and nobody for ever.
        assert s.deadline < inf or waits_for, "nobody is watched"
        stage: Any = s._stage
        owes_upstream = s.upstream_open and (stage.busy if isinstance(stage, Authorization) else bool(stage.flight))
        assert s.want_client or s.pulling or s.blocked or waits_for or owes_upstream, "the client waits for nobody"
        assert s.want_upstream or s.pulling or waits_for, "the upstream waits for nobody"

    def promises(self) -> None:
        rig = self.rig
        upstream = rig.all_upstream
        # 1: every QUIT upstream is one the client sent, behind a login.
        quits = len(re.findall(rb"(?m)^QUIT\r$", upstream))
        assert quits <= len(re.findall(rb"(?mi)^QUIT *\r$", self.sent))
        if quits:
            assert quits == 1
            assert rig.s.state_at_end in ("update", "transaction", "streaming") or not rig.closed
        # 5: no credentials in the clear where STLS is required.
        if self.policy.tls == "starttls":
            for line in re.findall(rb"(?m)^(?:USER|PASS|AUTH).*$", upstream):
                assert self.secured_at is not None, line
        # 6: the secret is in no effect and in nothing the client reads back from the proxy's own words.
        assert SECRET.decode() not in repr([effect for effect in rig.effects if not isinstance(effect, Await)])
        assert SECRET not in rig.all_client
        # One command a line, each one known.
        for line in upstream.split(b"\r\n")[:-1]:
            verb = line.split(b" ")[0].upper()
            assert verb in VERBS or re.fullmatch(rb"[A-Za-z0-9+/]*=*", line), line


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_promises_1_to_7_whatever_the_peers_and_plugins_do(data: st.DataObject) -> None:
    chaos = Chaos(data.draw)
    chaos.rig.start()
    chaos.check()
    if data.draw(st.booleans(), "log in"):
        chaos.log_in()
        chaos.check()
    seen(f"begins in {chaos.rig.s.phase.word}")
    for event in data.draw(st.lists(st.sampled_from(EVENTS), max_size=60)):
        chaos.step(event)
        chaos.check()
    chaos.promises()
    seen(f"ends for {chaos.rig.s.reason}")
    chaos.rig.s.client_gone()
    chaos.rig.drain()
    assert chaos.rig.closed
    chaos.rig.s.summary()
