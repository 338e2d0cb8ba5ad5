"""auth_http in a play: what the client hears, what the log says, who is asked in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from popproxy_plugins.auth_http import AuthHttp, AuthHttpConfig
from pydantic import ValidationError

from popproxy.api import (
    Bearer,
    ConfigNames,
    Credentials,
    Digest,
    HttpFailed,
    HttpReply,
    Plugin,
    PluginConfig,
    Route,
    SessionView,
)
from popproxy.api.fakes import HttpRequest
from popproxy.api.testing import play

SERVERS = ("http://a.example:9000/auth", "https://b.example/auth")
GRANTED = {"Auth-Status": "OK", "Auth-Server": "198.51.100.1", "Auth-Port": "1110"}
WRONG = {"Auth-Status": "Invalid login or password", "Auth-Wait": "3"}
TRY = """
S: +OK POP3 ready
C: USER joe
S: +OK
C: PASS sesame
"""
IN = """
@ connect
U< +OK upstream
U> USER joe
U< +OK
U> PASS sesame
U< +OK logged in
S: +OK logged in
"""
AWAY = "S: -ERR [SYS/TEMP] Mail server not available, try again later"


class Backend:
    """Answers in turn, the last one again and again; keeps what it was asked."""

    def __init__(self, *answers: dict[str, str] | Exception | int) -> None:
        self.answers = list(answers)
        self.asked: list[HttpRequest] = []

    def __call__(self, request: HttpRequest) -> HttpReply:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return HttpReply(answer)
        return HttpReply(200, tuple(answer.items()))


def played(script: str, backend: Callable[[HttpRequest], HttpReply], **options: Any) -> Any:
    given = {"servers": SERVERS, **options.pop("config", {})}
    return play(AuthHttp, script, config=given, http=backend, **options)


# A server of the back end's choosing is one whose capabilities nobody knows.
CAPA = "U> CAPA\nU< -ERR\n"


def test_a_login_goes_on_at_the_server_that_the_back_end_names() -> None:
    backend = Backend(GRANTED)
    result = played(TRY + IN.replace("U> USER", CAPA + "U> USER"), backend)
    (asked,) = backend.asked
    assert (asked.method, asked.url, asked.unix) == ("GET", SERVERS[0], None)
    assert [asked.header(name) for name in ("Auth-User", "Auth-Pass", "Client-IP")] == ["joe", "sesame", "192.0.2.1"]
    assert result.counters["answers", "granted"] == 1


def test_groups_of_the_back_end_are_those_of_the_session() -> None:
    result = played(TRY + IN.replace("U> USER", CAPA + "U> USER"), Backend({**GRANTED, "Auth-Groups": "staff, dev"}))
    assert result.session.groups == {"staff", "dev"}


def test_name_and_password_of_the_back_end_are_used_upstream_and_logged_nowhere() -> None:
    backend = Backend({**GRANTED, "Auth-User": "j%oe", "Auth-Pass": "an other"})
    script = TRY + IN.replace("U> USER joe", CAPA + "U> USER j%oe").replace("U> PASS sesame", "U> PASS an other")
    result = played(script, backend)
    assert result.session.login == "j%oe"
    assert "an other" not in repr(result.log) + repr(result.notes)


def test_a_wrong_password_waits_and_may_be_tried_again() -> None:
    backend = Backend(WRONG, GRANTED)
    again = "@ wait 3\nS: -ERR [AUTH] Invalid login or password\nC: USER joe\nS: +OK\nC: PASS sesame\n"
    played(TRY + again + IN.replace("U> USER", CAPA + "U> USER"), backend)
    assert [asked.header("Auth-Login-Attempt") for asked in backend.asked] == ["1", "2"]


def test_without_a_wait_the_connection_is_closed_as_nginx_does_it() -> None:
    played(TRY + "S: -ERR [AUTH] No\n@ client-closed", Backend({"Auth-Status": "No"}))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"Auth-Status": "Later", "Auth-Error-Code": "451 4.3.0"}, "[SYS/TEMP] Later"),
        ({"Auth-Status": "[SYS/TEMP] Later"}, "[SYS/TEMP] Later"),
        ({"Auth-Status": "Closed", "Auth-Error-Code": "550"}, "[SYS/PERM] Closed"),
        ({"Auth-Status": "N\N{LATIN SMALL LETTER O WITH DIAERESIS}"}, "[AUTH] N?"),
    ],
)
def test_promise_8_the_code_fits_the_answer(answer: dict[str, str], said: str) -> None:
    played(TRY + f"S: -ERR {said}\n@ client-closed", Backend(answer))


def test_wait_is_waited_for_and_asked_again_as_the_same_attempt() -> None:
    backend = Backend({"Auth-Status": "WAIT", "Auth-Wait": "1"}, {"Auth-Status": "WAIT"}, WRONG)
    played(TRY + "@ wait 3\nS: -ERR [AUTH] Invalid login or password", backend, run=asyncio.run)
    assert [asked.header("Auth-Login-Attempt") for asked in backend.asked] == ["1", "1", "1"]


@pytest.mark.parametrize(
    "answer",
    [
        HttpFailed("refused", "a.example:9000: Connection refused"),
        HttpFailed("timeout", "a.example:9000: not done within 4 s"),
        500,
        503,
        200,
        302,
        404,
        {"Auth-Status": "OK"},
        {"Auth-Status": "OK", "Auth-Server": "no host", "Auth-Port": "110"},
        {"Auth-Status": "OK", "Auth-Server": "127.0.0.1", "Auth-Port": "x"},
        {"Auth-Status": "OK", "Auth-Server": "127.0.0.1", "Auth-Port": "110", "Auth-Pass": "a\nb"},
    ],
)
@pytest.mark.parametrize("fail", ["open", "closed"])
def test_promise_8_trouble_of_the_back_end_is_no_wrong_password(answer: Any, fail: str) -> None:
    result = played(TRY + AWAY, Backend(answer), fail=fail)
    (note,) = [note for note in result.notes if note.event == "login_failed"]
    assert note.fields["reason"].startswith("auth_http: ")
    assert "sesame" not in repr(result.log) + repr(result.notes)
    assert {line.event for line in result.log} <= {"server_failed", "bad_reply"}
    assert not result.upstream


def test_the_log_says_which_header_was_wrong() -> None:
    result = played(TRY + AWAY, Backend({"Auth-Status": "OK", "Auth-Server": "no host", "Auth-Port": "110"}))
    (line,) = result.log
    assert (line.level, line.event, line.fields["server"]) == ("error", "bad_reply", "a.example:9000")
    assert line.fields["detail"] == "Auth-Server: 'no host' is no host name and no IP address"
    assert result.counters["answers", "bad"] == 1


def test_the_next_server_is_asked_and_the_one_that_failed_is_asked_last_for_a_while() -> None:
    def backend(request: HttpRequest) -> HttpReply:
        asked.append(request.url)
        if request.url == SERVERS[0] and down:
            raise HttpFailed("refused", "a.example:9000: Connection refused")
        return HttpReply(200, tuple(WRONG.items()))

    asked: list[str] = []
    down = [1]
    once = "C: USER joe\nS: +OK\nC: PASS sesame\n@ wait 3\nS: -ERR [AUTH] Invalid login or password\n"
    script = "S: +OK POP3 ready\n" + once + once + "@ wait 10\n" + once
    result = played(script, backend)
    a, b = SERVERS
    assert asked == [a, b, b, a, b]
    assert [line.event for line in result.log] == ["server_failed", "server_failed"]


def test_all_servers_are_asked_also_when_all_have_failed() -> None:
    backend = Backend(HttpFailed("lost", "x: lost"))
    result = played(TRY + AWAY + "\nC: USER joe\nS: +OK\nC: PASS sesame\n" + AWAY, backend)
    assert [asked.url for asked in backend.asked] == [*SERVERS, *SERVERS]
    assert result.counters["answers", "down"] == 2


def test_headers_and_a_secret_of_the_operator() -> None:
    backend = Backend(WRONG)
    config = {"headers": {"X-Site": "a b"}, "secret": "hush", "secret_header": "X-Key", "servers": ("unix:/run/a:/b",)}
    played(TRY + "@ wait 3\nS: -ERR [AUTH] Invalid login or password", backend, config=config)
    (asked,) = backend.asked
    assert asked.headers[-2:] == (("X-Site", "a b"), ("X-Key", "hush"))
    assert (asked.url, asked.unix) == ("http://localhost/b", "/run/a")


def test_upstream_and_tls_of_the_server_are_the_operators() -> None:
    backend = Backend(GRANTED)
    config = {"upstream": "other", "tls": "off"}
    script = TRY + IN.replace("U> USER", CAPA + "U> USER")
    result = played(script, backend, config=config, upstreams=("main", "other"))
    assert result.session.upstream == "other"


def test_an_authorization_identity_is_refused_and_not_dropped() -> None:
    plain = "S: +OK POP3 ready\nC: AUTH PLAIN Ym9zcwBqb2UAc2VzYW1l\nS: -ERR [SYS/PERM] Log in as yourself"
    backend = Backend(GRANTED)
    played(plain, backend)
    assert not backend.asked
    same = "S: +OK POP3 ready\nC: AUTH PLAIN am9lAGpvZQBzZXNhbWU=\n"
    played(same + IN.replace("U> USER", CAPA + "U> USER"), backend)


class Makes(Plugin[PluginConfig]):
    """Stands for a mechanism."""

    credentials: Credentials

    def on_login(self, session: SessionView, credentials: Credentials) -> Route:
        return Route(credentials=self.credentials)


def made(credentials: Credentials, script: str, backend: Backend) -> Any:
    maker = Makes(PluginConfig())
    maker.credentials = credentials
    return play([maker, AuthHttp(AuthHttpConfig(servers=SERVERS))], script, http=backend)


def test_a_token_cannot_be_asked_about() -> None:
    backend = Backend(GRANTED)
    made(Bearer("joe", b"token"), TRY + "S: -ERR [SYS/PERM] Log in with a password", backend)
    assert not backend.asked


def test_a_digest_needs_the_password_that_the_back_end_knows() -> None:
    digest = Digest("joe", "APOP", b"<1.2@proxy>", b"f" * 32)
    backend = Backend({**GRANTED, "Auth-Pass": "sesame"})
    made(digest, TRY + IN.replace("U> USER", CAPA + "U> USER"), backend)
    assert backend.asked[0].header("Auth-Salt") == "<1.2@proxy>"
    result = made(digest, TRY + AWAY, Backend(GRANTED))
    assert [line.event for line in result.log] == ["bad_reply"]


def test_mechanisms_are_announced_only_when_the_back_end_can_judge_them() -> None:
    assert AuthHttp(AuthHttpConfig(servers=SERVERS)).mechanisms == frozenset()
    assert AuthHttp(AuthHttpConfig(servers=SERVERS, mechanisms=("APOP",))).mechanisms == {"APOP"}


# Cache

ONCE = "C: USER joe\nS: +OK\nC: PASS {0}\n@ connect\nU< +OK hi\n"
FAILS = "U> USER joe\nU< +OK\nU> PASS {0}\nU< -ERR [AUTH] no\nS: -ERR [AUTH] Authentication failed\n"


def test_no_answer_is_kept_unless_the_operator_wants_it() -> None:
    backend = Backend(WRONG)
    once = "C: USER joe\nS: +OK\nC: PASS sesame\n@ wait 3\nS: -ERR [AUTH] Invalid login or password\n"
    result = played("S: +OK POP3 ready\n" + once * 2, backend, config={"cache_ttl": 60})
    assert len(backend.asked) == 2
    assert result.counters["replies_lookups", "cached"] == 0
    assert "on_login_result" in AuthHttp(AuthHttpConfig(servers=SERVERS)).skips


def test_a_kept_answer_is_forgotten_when_the_upstream_refuses() -> None:
    backend = Backend(GRANTED)
    script = "S: +OK POP3 ready\n" + (ONCE + CAPA + FAILS + ONCE + FAILS).format("sesame")
    result = played(script, backend, config={"cache_ttl": 60})
    assert len(backend.asked) == 2
    assert result.asked == ["miss", "ok", "miss", "ok"]


def test_look_ups_are_counted_by_what_became_of_them() -> None:
    faults = HttpFailed("timeout", "?"), 502, {"Auth-Status": "OK", "Auth-Server": "nobody knows"}
    result = played(TRY + AWAY + "\n" + TRY.removeprefix("\nS: +OK POP3 ready\n") + AWAY + "\n", Backend(*faults))
    assert result.asked == ["timeout", "protocol", "protocol"]


def test_a_kept_answer_is_used_for_the_same_login_only() -> None:
    plugin = AuthHttp(AuthHttpConfig(servers=SERVERS, cache_ttl=60))
    asked: list[HttpRequest] = []

    def backend(request: HttpRequest) -> HttpReply:
        asked.append(request)
        return HttpReply(200, tuple(GRANTED.items()))

    class Twice(Plugin[PluginConfig]):
        """Asks the plugin behind it several times."""

        async def on_login(self, session: SessionView, credentials: Credentials) -> None:
            for _ in range(3):
                await plugin.on_login(session, credentials)

    play([plugin, Twice(PluginConfig())], TRY + "@ wait 1", http=backend)
    assert len(asked) == 1
    held = repr([vars(plugin), vars(plugin._replies)])  # the fake look-up holds the cache
    assert "sesame" not in held
    assert plugin._questions == {}


# Client-Host


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"client.example.org": ["192.0.2.1"]}, "client.example.org"),
        ({}, "[UNAVAILABLE]"),
        ({"bad name": ["192.0.2.1"]}, "[UNAVAILABLE]"),
    ],
)
def test_client_host(names: dict[str, list[str]], told: str) -> None:
    backend = Backend(WRONG)
    script = TRY + "@ wait 3\nS: -ERR [AUTH] Invalid login or password"
    played(script, backend, config={"client_host": True}, names=names)
    assert backend.asked[0].header("Client-Host") == told


def test_a_name_that_does_not_lead_back_is_no_name() -> None:
    class Resolver:
        async def name(self, address: str) -> str:
            return "liar.example"

        async def addresses(self, host: str) -> list[str]:
            if host != "liar.example":
                raise OSError("down")
            return ["203.0.113.1"]

    class Down(Resolver):
        async def name(self, address: str) -> str:
            raise OSError("down")

    for resolver, told in ((Resolver(), "[UNAVAILABLE]"), (Down(), "[TEMPUNAVAIL]")):

        class Mine(AuthHttp):
            def start(self, services: Any, resolver: Any = resolver) -> None:
                services.resolver = resolver
                super().start(services)

            start.__signature__ = __import__("inspect").signature(Plugin.start)  # type: ignore[attr-defined]

        backend = Backend(WRONG)
        config = {"servers": SERVERS, "client_host": True}
        script = TRY + "@ wait 3\nS: -ERR [AUTH] Invalid login or password"
        play(Mine, script, config=config, http=backend)
        assert backend.asked[0].header("Client-Host") == told


# Options


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"servers": ()}, "at least 1"),
        ({"servers": ("ftp://a",)}, "write http://host"),
        ({"servers": ("http://",)}, "write http://host"),
        ({"servers": ("http://a:x/",)}, "write http://host"),
        ({"servers": ("http://a:0/",)}, "write http://host"),
        ({"servers": ("http://a/ b",)}, "write http://host"),
        ({"servers": ("http://a/#x",)}, "write http://host"),
        ({"servers": ("unix:run/a",)}, "write http://host"),
        ({"servers": ("http://joe:sesame@a/",)}, "is no secret"),
        ({"headers": {"X A": "b"}}, "no header name"),
        ({"headers": {"Auth-User": "b"}}, "of the contract itself"),
        ({"headers": {"X": "a\r\nb"}}, "cannot be sent"),
        ({"secret": "a\nb"}, "cannot be sent"),
        ({"secret_header": "Client-IP"}, "of the contract itself"),
        ({"timeout": 0}, "greater than 0"),
        ({"ca_file": "/nowhere/ca.pem"}, "cannot read"),
        ({"mechanisms": ("PLAIN",)}, "APOP"),
        ({"server": ()}, "server"),
    ],
)
def test_wrong_options_are_told_and_secrets_are_not(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told) as caught:
        AuthHttpConfig(**{"servers": SERVERS, **options})
    assert "sesame" not in str(caught.value)


def test_an_upstream_that_is_not_there_is_a_problem_of_the_config() -> None:
    names = ConfigNames(("main",))
    (problem,) = AuthHttp(AuthHttpConfig(servers=SERVERS, upstream="mian")).check(names)
    assert (problem.key, problem.hint) == (("upstream",), "did you mean main?")
    assert AuthHttp(AuthHttpConfig(servers=SERVERS)).check(names) == []


def test_a_ca_file_without_certificates_is_a_problem_of_the_config(tmp_path: Path) -> None:
    for content in ("", "no certificate\n"):
        (tmp_path / "ca.pem").write_text(content)
        config = AuthHttpConfig(servers=SERVERS, ca_file=tmp_path / "ca.pem")
        (problem,) = AuthHttp(config).check(ConfigNames(("main",)))
        assert problem.key == ("ca_file",) and "BEGIN CERTIFICATE" in problem.hint


def test_it_explains_itself_without_asking(tmp_path: Path) -> None:
    explained = AuthHttp(AuthHttpConfig(servers=SERVERS, upstream="x")).explain(SessionView("1", "pop3"), "joe")
    assert explained.steps == ("asks a.example:9000, then b.example who may log in, and at which server",)
    assert explained.upstream == "x"
