"""play: what a script may do, what it gives back, and how it says that something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from popproxy.api import (
    Answer,
    Command,
    Credentials,
    Fail,
    Hangup,
    HttpFailed,
    LoginResult,
    Plugin,
    PluginConfig,
    Refuse,
    Route,
    ServerAddress,
    Services,
    SessionSummary,
    SessionView,
)
from popproxy.api.fakes import FakeClock, FakeMetrics, FakeResolver
from popproxy.api.testing import PlayError, play
from popproxy.api.transcript import TranscriptError, parse_transcript
from popproxy.core.session import Session


class ReadOnly(Plugin[PluginConfig]):
    def on_command(self, session: SessionView, command: Command) -> Refuse | None:
        return Refuse("Read-only") if command.name == "DELE" else None


DELE = """
C: DELE 1
S: -ERR [SYS/PERM] Read-only
"""
QUIT = """
C: QUIT
U> QUIT
U< +OK bye
S: +OK bye
@ client-closed
"""


def test_a_plugin_test_is_five_lines() -> None:
    played = play(ReadOnly, DELE + QUIT, logged_in=True)
    assert played.calls == [("ReadOnly", "on_command", "deny"), ("ReadOnly", "on_command", "pass")]
    assert played.commands["DELE", "denied"] == 1
    assert played.upstream.endswith(b"PASS sesame\r\nQUIT\r\n")
    assert played.client.endswith(b"+OK bye\r\n")
    assert played.summary is not None
    assert (played.summary.reason, played.session.user, played.session.login) == ("quit", "joe", "joe")
    assert played.summary.octets_sent == len(played.client)


MADE = ReadOnly(PluginConfig())


@pytest.mark.parametrize("plugins", [MADE, [ReadOnly], [MADE, ReadOnly], ReadOnly])
def test_plugins_made_or_not_one_or_many(plugins: Any) -> None:
    play(plugins, DELE, logged_in=True)


def test_no_plugin_at_all() -> None:
    play([], "S: +OK POP3 ready")


class Words(PluginConfig):
    word: str = Field(default="hi", max_length=5)


class Says(Plugin[Words]):
    fail = Fail.CLOSED

    def on_command(self, session: SessionView, command: Command) -> Answer | None:
        if command.name == "RSET":
            raise ValueError("no RSET")
        return Answer(True, self.config.word)


def test_options_of_the_plugin() -> None:
    play(Says, "C: NOOP\nS: +OK yes", config={"word": "yes"}, logged_in=True)
    with pytest.raises(ValueError, match="at most 5"):
        play(Says, "C: NOOP\nS: +OK", config={"word": "too long"}, logged_in=True)
    with pytest.raises(TypeError, match="made already"):
        play(Says(Words()), "C: NOOP\nS: +OK", config={"word": "x"}, logged_in=True)


def test_fail_modes() -> None:
    closed = play(Says, "C: RSET\nS: -ERR [SYS/TEMP] Internal error, try again later", logged_in=True, may_fail=True)
    assert closed.errors == [("Says", "on_command", "fail_closed")]
    (note,) = closed.notes
    assert (note.level, note.event, note.fields["detail"]) == ("error", "plugin_error", "no RSET")
    opened = play(Says, "C: RSET\nU> RSET\nU< +OK\nS: +OK", logged_in=True, fail="open", may_fail=True)
    assert opened.errors == [("Says", "on_command", "fail_open")]


def test_a_failure_that_fail_open_hides_is_not_hidden_from_its_author() -> None:
    text = wrong("C: RSET\nU> RSET\nU< +OK\nS: +OK", plugins=[Says], logged_in=True, fail="open")
    assert "a plugin failed; give play(..., may_fail=True)" in text
    assert "no RSET" in text


class Busy(Plugin[PluginConfig]):
    """Uses everything."""

    async def start(self, services: Services) -> None:
        await asyncio.sleep(0)
        self.services = services
        self.seen = services.metrics.counter("seen", "Commands", "verb", ("NOOP", "other"))
        self.plain = services.metrics.counter("all", "All commands")[""]
        services.log.info("started", at=services.clock.now())

    async def on_command(self, session: SessionView, command: Command) -> Answer | None:
        self.plain.inc()
        self.seen["NOOP" if command.name == "NOOP" else "other"].inc(2)
        if command.name == "NOOP":
            return Answer(True, ",".join(await self.services.resolver.addresses("mail.example.com")))
        return None

    def on_close(self, session: SessionView, summary: SessionSummary) -> None:
        self.services.log.warning("closed", seconds=summary.seconds, reason=summary.reason)

    async def stop(self) -> None:
        self.services.log.error("stopped")


def test_services_life_and_time() -> None:
    played = play(
        Busy,
        "C: NOOP\nS: +OK 192.0.2.7,2001:db8::7\n@ wait 2.5\nC: STAT\nU> STAT\nU< +OK 0 0\nS: +OK 0 0",
        logged_in=True,
        names={"mail.example.com": ["192.0.2.7", "2001:db8::7"]},
    )
    assert played.counters == {("seen", "NOOP"): 2, ("seen", "other"): 2, ("all", ""): 2}
    assert [(line.level, line.event) for line in played.log] == [
        ("info", "started"),
        ("warning", "closed"),
        ("error", "stopped"),
    ]
    assert played.log[1].fields == {"seconds": 2.5, "reason": "client_eof"}


def test_a_name_nobody_knows() -> None:
    played = play(Busy, "C: NOOP\nU> NOOP\nU< +OK\nS: +OK", logged_in=True, may_fail=True)
    assert played.errors == [("Busy", "on_command", "fail_open")]
    assert "names={'mail.example.com'" in str(played.notes[0].fields["detail"])


class Sleeps(Plugin[PluginConfig]):
    async def on_command(self, session: SessionView, command: Command) -> None:
        await asyncio.sleep(0.001)


def test_a_hook_that_really_waits_needs_a_loop() -> None:
    with pytest.raises(PlayError, match=r"run=asyncio\.run"):
        play(Sleeps, "C: NOOP\nU> NOOP", logged_in=True)
    play(Sleeps, "C: NOOP\nU> NOOP\nU< +OK\nS: +OK", logged_in=True, run=asyncio.run)


def test_a_hook_that_waits_for_somebody_else() -> None:
    class Waits(Plugin[PluginConfig]):
        async def on_command(self, session: SessionView, command: Command) -> None:
            await self

        def __await__(self) -> Generator[str, None, None]:
            yield "a future of some loop"

    with pytest.raises(PlayError, match=r"run=asyncio\.run"):
        play(Waits, "C: NOOP\nU> NOOP", logged_in=True)


def test_a_hook_may_raise_what_it_likes() -> None:
    class Raises(Plugin[PluginConfig]):
        async def on_command(self, session: SessionView, command: Command) -> None:
            raise RuntimeError("another one")

    played = play(Raises, "C: NOOP\nU> NOOP\nU< +OK\nS: +OK", logged_in=True, may_fail=True)
    assert played.notes[0].fields["detail"] == "another one"


class Stops(Plugin[PluginConfig]):
    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1


class Fails(Stops):
    def start(self, services: Services) -> None:
        raise OSError("no database")


def test_stop_is_called_whatever_happens() -> None:
    plugin = Stops(PluginConfig())
    with pytest.raises(PlayError):
        play(plugin, "S: never said")
    assert plugin.stops == 1
    failing, behind = Fails(PluginConfig()), Stops(PluginConfig())
    with pytest.raises(OSError, match="no database"):
        play([plugin, failing, behind], "S: +OK POP3 ready")
    assert (plugin.stops, failing.stops, behind.stops) == (2, 1, 0)


# What a failure looks like


def wrong(script: str, **options: Any) -> str:
    with pytest.raises(PlayError) as found:
        play(options.pop("plugins", []), script, **options)
    return str(found.value)


def test_a_line_that_is_another() -> None:
    text = wrong("S: +OK POP3 ready\nC: FOO\nS: +OK", plugins=[])
    assert text == (
        "<script>:3: the client must receive\n  S: +OK\nbut it received\n  -ERR Unknown command\\r\\n"
    )


def test_a_line_that_does_not_come() -> None:
    text = wrong("S: +OK POP3 ready\nS~ -ERR.*")
    assert text.startswith("<script>:2: the client must receive\n  S~ -ERR.*\nbut it received nothing more")
    assert r"+OK POP3 ready\r\n" in text


def test_a_pattern_takes_whole_lines() -> None:
    play([], "S~ \\+OK .*")
    assert "S~ \\+OK" in wrong("S~ \\+OK")
    assert "nothing more" in wrong('S+ "+OK POP3 ready\\r\\n"\nS~ .*')


def test_more_than_the_script_says() -> None:
    assert "the client received more than the script says" in wrong("@ wait 1")
    assert "the upstream received more" in wrong("C: NOOP", logged_in=True)


CAPA = "S~ \\+OK .*\nS: RESP-CODES\nS: AUTH-RESP-CODE\nS: USER\nS: SASL PLAIN LOGIN\nS: .\n"
LOGIN = """
:known none
S: +OK POP3 ready
C: USER joe
S: +OK
C: PASS hush
"""


def test_events_on_the_way() -> None:
    greeting = "S: +OK POP3 ready\n"
    played = play([], ":tls starttls\n" + greeting + "C: STLS\nS: +OK Begin TLS\n@ client-tls\nC: QUIT\nS: +OK Bye")
    assert played.session.tls is not None
    play([], greeting + "@ client-eof\n@ client-closed")
    play([], greeting + "C: NOO\n@ client-gone\nS~ -ERR.*")
    stls = ":upstream_tls starttls" + LOGIN + "@ connect\nU< +OK\nU> STLS\nU< +OK\n"
    play([], stls + "@ upstream-tls\nU> USER joe\nU< -ERR\nS~ -ERR \\[AUTH\\].*")
    played = play([], stls + "@ upstream-gone tls\nS~ -ERR.*")
    assert played.notes[0].fields["kind"] == "tls"
    played = play([], LOGIN + "@ connect-failed dns\nS~ -ERR.*")
    assert played.notes[0].fields["kind"] == "dns"
    played = play([], LOGIN + "@ connect\n@ upstream-gone\nS~ -ERR.*")
    assert played.notes[0].fields["kind"] == "lost"
    assert played.logins == [("USER", "tempfail")]


def test_a_session_that_would_hang_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "tick", lambda session: None)
    assert "the deadline passed and nothing came of it in phase authorization" in wrong("S: +OK POP3 ready\n@ wait 100")


def test_more_than_the_client_takes_at_once() -> None:
    played = play([], ":bare_lf yes\n:known none\nS: +OK POP3 ready\n" + "C: CAPA\n" * 500 + CAPA * 500)
    assert played.commands["CAPA", "ok"] == 500


def test_a_hook_that_ends_the_process_does_not() -> None:
    class Exits(Plugin[PluginConfig]):
        async def on_command(self, session: SessionView, command: Command) -> None:
            raise SystemExit(1)

    played = play(Exits, "C: NOOP\nU> NOOP\nU< +OK\nS: +OK", logged_in=True, may_fail=True)
    assert played.errors == [("Exits", "on_command", "fail_open")]


def test_violations_are_told() -> None:
    played = play([], "S: +OK POP3 ready\nC: FOO\nS~ -ERR.*")
    assert played.violations == [("client", "unknown")]


def test_many_lines_are_shown_in_part() -> None:
    text = wrong("C: RETR 1\nU> RETR 1\nU< +OK\n" + "U< x\n" * 50 + "U< .\nS: no", logged_in=True)
    assert text.count("\n  x") == 5
    text = wrong('C: RETR 1\nU> RETR 1\nU< +OK\nU+ "half a line"\nS: no', logged_in=True)
    assert text.endswith("\n  +OK\\r\\n\n  half a line")


def test_a_closed_connection() -> None:
    greeting = "S: +OK POP3 ready\n"
    assert ":2: client-closed: the connection is open" in wrong(greeting + "@ client-closed")
    assert ":4: the client sends, but its connection is closed" in wrong(greeting + "C: QUIT\nS: +OK Bye\nC: QUIT")
    assert "the upstream sends, but its connection is closed, or not made yet" in wrong(greeting + "U< +OK")


def test_events_nobody_waits_for() -> None:
    for event in ("connect", "connect-failed dns", "client-tls", "upstream-tls"):
        assert "the session does not wait for that" in wrong(f"S: +OK POP3 ready\n@ {event}")


def test_what_the_session_logged_is_shown() -> None:
    text = wrong("C: RSET\nS: +OK", plugins=[Says], logged_in=True)
    assert "note: plugin_error {'plugin': 'Says'" in text
    assert "no RSET" in text


def test_a_login_that_fails() -> None:
    class Closed(Plugin[PluginConfig]):
        def on_login(self, session: SessionView, credentials: Credentials) -> Refuse:
            return Refuse("Not you")

    assert "logged_in: there was no login; the client read '-ERR [SYS/PERM] Not you'" in wrong(
        "C: NOOP", plugins=[Closed], logged_in=True
    )
    assert "Send STLS first" not in wrong("C: FOO", logged_in=True, tls="starttls", auth_before_tls=False)
    assert "No login on a connection" in wrong("C: NOOP", logged_in=True, auth_before_tls=False)


def test_scripts_that_cannot_be_read() -> None:
    with pytest.raises(TranscriptError):
        play([], "X: what")
    assert "unknown option 'colour'; there are tls, " in wrong("S: +OK POP3 ready", colour="red")
    assert "option bare_lf: 'maybe'; write yes or no" in wrong(":bare_lf maybe\nS: +OK POP3 ready")


# Options


def test_options_in_the_script_win() -> None:
    play([], ":greeting two\nS: +OK two", greeting="one")


@pytest.mark.parametrize("pieces", ["whole", "octets"])
@pytest.mark.parametrize("tls", ["off", "starttls", "implicit"])
@pytest.mark.parametrize("upstream_tls", ["off", "starttls", "implicit"])
@pytest.mark.parametrize("mechanism", ["auto", "plain", "login"])
def test_every_way_to_be_logged_in(pieces: str, tls: str, upstream_tls: str, mechanism: str) -> None:
    played = play(
        [], QUIT, logged_in=True, pieces=pieces, tls=tls, upstream_tls=upstream_tls, mechanism=mechanism,
        user="ann@example.com", password="a b", auth_before_tls=tls == "off",
    )  # fmt: skip
    assert played.session.login == "ann@example.com"
    assert played.logins == [("USER", "ok")]
    assert (played.session.tls is None) is (tls == "off")


def test_the_rest_of_the_options() -> None:
    play(
        [],
        """
:known none
:open LAST, XTND XLST
:verbs XA multi, XB single
:limits line=20
:timeouts idle=5
:implementation me 1
:capabilities X-A
:listener inner
:client 2001:db8::1
C: LAST
U> LAST
U< +OK 1
S: +OK 1
C: XA
U> XA
U< +OK
U< .
S: +OK
S: .
C: CAPA
U> CAPA
U< +OK
U< X-A
U< .
S~ \\+OK .*
S: RESP-CODES
S: AUTH-RESP-CODE
S: USER
S: SASL PLAIN LOGIN
S: X-A
S: IMPLEMENTATION me 1
S: .
@ wait 5
@ client-closed
@ upstream-closed
""",
        logged_in=True,
    )


def test_a_route_to_another_upstream() -> None:
    class Routes(Plugin[PluginConfig]):
        def on_login(self, session: SessionView, credentials: Credentials) -> Route:
            return Route("second")

        def on_login_result(self, session: SessionView, result: LoginResult) -> Answer:
            return Answer(True, f"welcome to {result.upstream}")

    played = play(
        Routes,
        """
:upstreams first, second
:known none
S: +OK POP3 ready
C: USER joe
C: PASS x
S: +OK
@ connect
U< +OK
U> USER joe
U< +OK
U> PASS x
U< +OK
S: +OK welcome to second
""",
    )
    assert played.session.upstream == "second"


def test_a_plugin_that_hangs_up() -> None:
    class Ends(Plugin[PluginConfig]):
        def on_command(self, session: SessionView, command: Command) -> Hangup:
            return Hangup("enough")

    played = play(Ends, "C: NOOP\n@ client-closed\n@ upstream-closed", logged_in=True)
    assert (played.detail, played.summary and played.summary.reason) == ("enough", "policy")


def test_a_script_from_a_file_and_one_that_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "quit.pop3"
    path.write_text("S: +OK POP3 ready\nC: QUIT\nS: +OK Bye\n")
    play([], path)
    play([], parse_transcript(path.read_text()))
    with pytest.raises(PlayError, match=r"quit\.pop3:2"):
        path.write_text("S: +OK POP3 ready\nS: no\n")
        play([], path)


def test_promise_6_a_play_shows_no_password_in_its_notes() -> None:
    text = wrong("S: +OK POP3 ready\nC: USER joe\nS: +OK\nC: PASS hush\n@ connect-failed dns\nS: no")
    assert "hush" not in text


# The fakes


def test_the_clock_stands_still() -> None:
    clock = FakeClock()
    before = clock.now(), clock.monotonic()
    clock.wait(1.5)
    assert (clock.now() - before[0], clock.monotonic() - before[1]) == (1.5, 1.5)


def test_counters_are_strict() -> None:
    metrics = FakeMetrics()
    made = metrics.counter("a", "help", "kind", ("x", "y"))
    made["x"].inc()
    assert [counter.value for counter in metrics.counters.values()] == [1, 0]
    with pytest.raises(ValueError, match="made twice"):
        metrics.counter("a", "help")
    with pytest.raises(ValueError, match="go together"):
        metrics.counter("b", "help", "kind")
    with pytest.raises(ValueError, match="only grows"):
        made["y"].inc(-1)


def test_decisions_and_limits_can_be_read() -> None:
    metrics = FakeMetrics()
    metrics.decisions(["archive"], ["deny", "audit"])["archive"]["deny"].inc()
    metrics.limits(["per-user"])["per-user"]["error"].inc()
    assert {key: counter.value for key, counter in metrics.decided.items()} == {
        ("archive", "deny"): 1, ("archive", "audit"): 0,
    }  # fmt: skip
    assert metrics.limited["per-user", "error"].value == 1
    assert {result for _, result in metrics.limited} == {"allowed", "denied", "error", "audited"}
    metrics.scans("rspamd")["too_big"].inc()
    assert metrics.scanned["rspamd", "too_big"].value == 1
    backend = metrics.backend()
    with backend.asked():
        backend.cached("miss")
    with pytest.raises(HttpFailed), backend.asked():
        raise HttpFailed("garbage", "?")
    assert metrics.asked.told == ["miss", "ok", "protocol"]
    with pytest.raises(ValueError, match="hit, negative, miss"):
        backend.cached("perhaps")
    with pytest.raises(ValueError, match="actions are some of"):
        metrics.decisions(["archive"], ["forbid"])
    with pytest.raises(ValueError, match="is no name for a label"):
        metrics.limits(["Per User"])


def test_the_resolver_knows_what_it_is_given() -> None:
    resolver = FakeResolver({"a": ["192.0.2.1"]})
    assert asyncio.run(resolver.addresses("a")) == ["192.0.2.1"]
    with pytest.raises(OSError, match="no address for 'b'"):
        asyncio.run(resolver.addresses("b"))


def test_where_a_login_was_to_lead_can_be_looked_at() -> None:
    server = ServerAddress("10.0.0.9", 1110, "implicit")

    class Router(Plugin[PluginConfig]):
        def on_login(self, session: SessionView, credentials: Credentials) -> Route:
            return Route("far", server=server, key="shelf")

    played = play(Router, "C: NOOP\nU> NOOP\nU< +OK\nS: +OK", upstreams=("near", "far"), logged_in=True)
    assert played.routes == [Route("far", None, server, "shelf")]
    assert played.session.server == "10.0.0.9:1110"
