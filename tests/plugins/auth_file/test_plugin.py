"""auth_file in a play: who may log in, what an unknown user sees, where a login goes, what is offered."""

from __future__ import annotations

import asyncio
import base64
import hmac
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from popproxy_plugins.auth_file import AuthFile, AuthFileConfig, schemes
from popproxy_plugins.auth_file.users import User
from pydantic import ValidationError

from popproxy.api import (
    Bearer,
    Busy,
    Code,
    ConfigNames,
    Credentials,
    Digest,
    External,
    FileFailed,
    Password,
    Plugin,
    PluginConfig,
    Refuse,
    Rename,
    Route,
    ServerAddress,
    SessionView,
    Verified,
    Verifier,
)
from popproxy.api.fakes import FakeClock, FakeServices, World
from popproxy.api.testing import play

TRY = """
S: +OK POP3 ready
C: USER {}
S: +OK
C: PASS {}
"""
IN = """
@ connect
U< +OK upstream
U> CAPA
U< -ERR
U> USER {}
U< +OK
U> PASS {}
U< +OK logged in
S: +OK logged in
"""
FAILED = "S: -ERR [AUTH] Authentication failed"
KNOWN = ", ".join(schemes.KNOWN)
HASH = schemes.make("SSHA512", b"sesame")


def file_of(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "users"
    path.write_text("\n".join(lines) + "\n")
    return path


def played(path: Path, script: str, **options: Any) -> Any:
    config = {"path": path, **options.pop("config", {})}
    return play(AuthFile, script, config=config, **options)


# Checked here


def test_a_password_that_is_right_goes_on_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    path = file_of(tmp_path, f"joe:{HASH}")
    result = played(path, TRY.format("joe", "wrong") + FAILED + "\nC: USER joe\nS: +OK\nC: PASS sesame"
                    + IN.format("joe", "sesame"))
    assert (result.counters["logins", "wrong"], result.counters["logins", "proven"]) == (1, 1)
    assert "sesame" not in repr(result.log) + repr(result.notes)


def test_an_unknown_user_reads_the_same_and_costs_a_hash_as_well(tmp_path: Path) -> None:
    path = file_of(tmp_path, f"joe:{HASH}", "ann:")
    for name, reason in (("joe", "wrong"), ("eve", "not in the users file"), ("ann", "the file has none")):
        calls: list[Any] = []

        class Counting(AuthFile):
            async def start(self, services: Any, calls: list[Any] = calls) -> None:
                calls.append(services.threads)
                await super().start(services)

            start.__signature__ = __import__("inspect").signature(Plugin.start)  # type: ignore[attr-defined]

        result = play(Counting, TRY.format(name, "x") + FAILED, config={"path": path})
        assert reason in result.notes[-1].fields["reason"]
        assert calls[0].calls == 1


def test_disabled_and_from_elsewhere_is_told_only_to_who_knows_the_password(tmp_path: Path) -> None:
    path = file_of(tmp_path, f"joe:{HASH}::::::disabled", f"ann:{HASH}::::::allow_nets=10.0.0.0/8")
    for name in ("joe", "ann"):
        played(path, TRY.format(name, "x") + FAILED)
        result = played(path, TRY.format(name, "sesame") + "S: -ERR [SYS/PERM] Login is not possible")
        assert result.counters["logins", "denied"] == 1
    played(path, TRY.format("ann", "sesame") + IN.format("ann", "sesame"), client="10.1.2.3")


def test_fields_say_where_to_and_as_whom(tmp_path: Path) -> None:
    fields = "upstream=other host=192.0.2.7 port=1110 destuser=j%%25 pass=master"
    path = file_of(tmp_path, f"joe:{HASH}::::::{fields}")
    result = played(path, TRY.format("joe", "sesame") + IN.format("j%25", "master"), upstreams=("main", "other"))
    assert (result.session.upstream, result.session.login) == ("other", "j%25")
    assert "master" not in repr(result.log) + repr(result.notes)


def test_too_much_to_do_is_trouble_and_no_wrong_password(tmp_path: Path) -> None:
    class Full(AuthFile):
        async def start(self, services: Any) -> None:
            await super().start(services)

            async def run(*_: object) -> None:
                raise Busy("1000 calls run or wait")

            services.threads.run = run

    script = TRY.format("joe", "sesame") + "S: -ERR [SYS/TEMP] Try again later"
    play(Full, script, config={"path": file_of(tmp_path, f"joe:{HASH}")})


def test_sha_crypt_is_checked_one_by_one(tmp_path: Path) -> None:
    made = schemes.make("SHA512-CRYPT", b"sesame")
    plugin = started(file_of(tmp_path, f"joe:{made}"))

    async def scene() -> None:
        running = most = 0

        async def run(function: Any, *arguments: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return function(*arguments)

        plugin._services.threads.run = run  # type: ignore[method-assign]
        verdicts = await asyncio.gather(*(plugin.on_login(SESSION, Password("joe", b"sesame")) for _ in range(5)))
        assert verdicts == [None] * 5
        assert most == 1

    asyncio.run(scene())


# The upstream judges


def test_the_upstream_judges_and_unknown_users_are_its_own(tmp_path: Path) -> None:
    path = file_of(tmp_path, f"joe:{HASH}::::::destuser=joseph")
    for name, upstream in (("joe", "joseph"), ("eve", "eve")):
        played(path, TRY.format(name, "any") + IN.format(upstream, "any"), config={"check": "upstream"})
    played(path, TRY.format("eve", "any") + FAILED, config={"check": "upstream", "unknown": "refuse"})


def test_a_disabled_user_reads_what_a_wrong_password_reads(tmp_path: Path) -> None:
    path = file_of(tmp_path, "joe:::::::nologin")
    played(path, TRY.format("joe", "any") + FAILED, config={"check": "upstream"})


def test_a_password_of_the_file_is_no_way_in(tmp_path: Path) -> None:
    path = file_of(tmp_path, "joe:::::::pass=master")
    with pytest.raises(FileFailed, match=rf"{path}:1: pass= needs check"):
        played(path, TRY.format("joe", "x"), config={"check": "upstream"})


# Other credentials


class Makes(Plugin[PluginConfig]):
    """Stands for a mechanism."""

    credentials: Credentials

    def on_login(self, session: SessionView, credentials: Credentials) -> Route:
        return Route(credentials=self.credentials)


SESSION = SessionView("1", "pop3", "192.0.2.1")
APOP = b"<1.2@proxy>"
ANSWER = md5(APOP + b"sesame").hexdigest().encode()


def started(path: Path, **options: Any) -> AuthFile:
    plugin = AuthFile(AuthFileConfig(path=path, **options))
    done(plugin.start(FakeServices(FakeClock(), World())))
    return plugin


def done(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


@pytest.mark.parametrize(
    ("credentials", "line", "verdict"),
    [
        (Digest("joe", "APOP", APOP, ANSWER), "joe:{PLAIN}sesame", Route(credentials=Password("joe", b"sesame"))),
        (Digest("joe", "APOP", APOP, b"0" * 32), "joe:{PLAIN}sesame", Refuse),
        (
            Digest("joe", "CRAM-MD5", APOP, hmac.new(b"sesame", APOP, "md5").hexdigest().encode()),
            "joe:{PLAIN}sesame::::::destuser=j pass=master",
            Route(credentials=Password("j", b"master")),
        ),
        (Digest("joe", "APOP", APOP, ANSWER), f"joe:{HASH}", Refuse),
        (Digest("eve", "APOP", APOP, ANSWER), "joe:{PLAIN}sesame", Refuse),
        (Verified("joe"), f"joe:{HASH}::::::pass=master", Route(credentials=Password("joe", b"master"))),
        (Verified("joe"), "joe:{PLAIN}sesame", Route(credentials=Password("joe", b"sesame"))),
        (Verified("joe"), f"joe:{HASH}", None),
        (Verified("joe", "joe"), f"joe:{HASH}::::::destuser=j", Route(credentials=Verified("j"))),
        (External("joe"), f"joe:{HASH}::::::destuser=j", Route(credentials=External("j"))),
        (Verified("eve"), "joe:", Refuse),
        (Verified("joe", "boss"), "joe:{PLAIN}sesame", Refuse),
        (External("joe"), "joe:::::::pass=x", Route(credentials=Password("joe", b"x"))),
        (Bearer("joe", b"token"), "joe:", None),
        (Password("joe", b"sesame", "boss"), "joe:{PLAIN}sesame::::::pass=master", Refuse),
        (Password("joe", b"sesame", "boss"), "joe:{PLAIN}sesame", None),
        (Password("joe", b"sesame", "joe"), "joe:{PLAIN}sesame", Route(credentials=Password("joe", b"sesame"))),
        (
            Password("joe", b"sesame", "boss"),
            "joe:{PLAIN}sesame::::::host=::1 ssl=yes",
            Route(credentials=None, server=ServerAddress("::1", None, "implicit")),
        ),
    ],
)
def test_credentials_of_every_kind(credentials: Credentials, line: str, verdict: Any, tmp_path: Path) -> None:
    got = done(started(file_of(tmp_path, line)).on_login(SESSION, credentials))
    assert isinstance(got, Refuse) if verdict is Refuse else got == verdict


@pytest.mark.parametrize("credentials", [Bearer("joe", b"token"), Digest("joe", "APOP", APOP, ANSWER)])
@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ("disabled", Refuse),
        ("allow_nets=203.0.113.0/24", Refuse),
        ("upstream=other host=192.0.2.7", Route("other", None, ServerAddress("192.0.2.7"))),
        ("destuser=j", Route),
    ],
)
def test_what_somebody_else_judges_is_bound_by_the_file_as_well(
    credentials: Credentials, fields: str, verdict: Any, tmp_path: Path
) -> None:
    path = file_of(tmp_path, f"joe:{{PLAIN}}sesame::::::{fields}")
    got = done(started(path, check="upstream").on_login(SESSION, credentials))
    if verdict is Route:
        assert got == Route(credentials=replace(credentials, user="j"))
    elif verdict is Refuse:
        assert isinstance(got, Refuse) and got.code is Code.AUTH
    else:
        assert got == verdict


def test_a_token_of_somebody_unknown_goes_the_way_of_a_password(tmp_path: Path) -> None:
    path = file_of(tmp_path, f"joe:{HASH}::::::pass=master", "ann:{PLAIN}sesame")
    here = started(path)
    for user in ("eve", ""):
        assert isinstance(done(here.on_login(SESSION, Bearer(user, b"token"))), Refuse)
    passes = started(path, unknown="pass")
    assert done(passes.on_login(SESSION, Bearer("eve", b"token"))) is None
    # No password of the file for a token that nobody has looked at.
    for user in ("joe", "ann"):
        assert done(here.on_login(SESSION, Bearer(user, b"token"))) is None


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1"])
@pytest.mark.parametrize("line", ["joe:{PLAIN}sesame", f"joe:{schemes.make('SCRAM-SHA-256', b'sesame', 10)}"])
def test_the_salt_does_not_tell_whose_name_is_spelled_another_way(mechanism: str, line: str, tmp_path: Path) -> None:
    plugin = started(file_of(tmp_path, line))

    def seen(user: str) -> Any:
        found = done(plugin.on_verifier(SESSION, user, mechanism))
        return found.salt if isinstance(found, Verifier) else found

    # What nobody has, the core makes up for the name in lower case.
    assert seen("eve") is None and seen("EVE") == Rename("eve")
    assert seen("joe") == seen("JOE") or (seen("joe"), seen("JOE")) == (None, Rename("joe"))


# SCRAM


def test_verifiers_are_those_of_the_file_or_made_of_its_passwords(tmp_path: Path) -> None:
    kept = schemes.make("SCRAM-SHA-256", b"sesame")
    plugin = started(file_of(tmp_path, f"joe:{kept}", "ann:{PLAIN}sesame", f"bob:{HASH}", "bad:{PLAIN}\udcff".encode(
        "utf-8", "surrogateescape").decode("latin-1")))

    def asked(user: str, mechanism: str) -> Verifier | None:
        given: Verifier | None = done(plugin.on_verifier(SESSION, user, mechanism))
        return given

    assert asked("joe", "SCRAM-SHA-256") == schemes.parse(kept, "PLAIN").verifier
    assert asked("joe", "SCRAM-SHA-1") is None
    made = asked("ann", "SCRAM-SHA-1")
    assert made == asked("ann", "SCRAM-SHA-1") == Verifier.derive("SCRAM-SHA-1", "sesame", made.salt if made else b"")
    assert asked("bob", "SCRAM-SHA-256") is None
    assert asked("eve", "SCRAM-SHA-256") is None


def test_mechanisms_follow_the_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, f"joe:{HASH}")
    plugin = started(path, mechanisms=("SCRAM-SHA-256", "APOP"))
    assert plugin.mechanisms == frozenset()
    path.write_text("joe:{PLAIN}sesame\n")
    assert plugin._file.version == 2
    assert plugin.mechanisms == {"SCRAM-SHA-256", "APOP"}
    upstream = started(path, check="upstream")
    assert upstream.mechanisms == frozenset()
    path.write_text("joe:{SCRAM-SHA-256}4096,c2FsdA==,%s,%s\n" % ((base64.b64encode(b"x" * 32).decode(),) * 2))
    assert started(path).mechanisms == frozenset()
    assert started(path, passwords_behind=True).mechanisms == {"SCRAM-SHA-256"}
    assert "on_verifier" in upstream.skips


# The file changes


def test_a_new_file_counts_and_a_broken_one_does_not(tmp_path: Path) -> None:
    path = file_of(tmp_path, "joe:{PLAIN}one")
    plugin = started(path)

    def verdict(password: bytes) -> Any:
        return done(plugin.on_login(SESSION, Password("joe", password)))

    assert verdict(b"one") is None
    path.write_text("joe:{PLAIN}two\n")
    assert verdict(b"two") is None
    path.write_text("joe:{PLAIN}three\nbroken\n")
    assert verdict(b"two") is None
    assert isinstance(verdict(b"three"), Refuse)
    (line,) = plugin._services.log.lines  # type: ignore[attr-defined]
    assert line.fields["detail"] == f"{path}:2: no colon: write user:password, or user: for one without a password"


def test_groups_of_the_file_are_those_of_the_session(tmp_path: Path) -> None:
    path = file_of(tmp_path, "joe:{PLAIN}sesame::::::groups=staff,dev")
    verdict = done(started(path).on_login(SESSION, Password("joe", b"sesame")))
    assert verdict == Route(groups=("staff", "dev"))
    assert AuthFile(AuthFileConfig(path=path)).explain(SESSION, "joe").groups == ("staff", "dev")


# Options, check, explain


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"path": "/nowhere"}, "cannot read"),
        ({"check": "there"}, "here"),
        ({"scheme": "MD4"}, "is no scheme; write one of"),
        ({"mechanisms": ("PLAIN",)}, "APOP"),
        ({"hosts": 1}, "hosts"),
    ],
)
def test_wrong_options(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=told):
        AuthFileConfig(**{"path": file_of(tmp_path, "joe:"), **options})


NAMES = ConfigNames(("main", "other"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("joe", ":1: no colon"),
        ("joe:::::::upstream=mian", ":1: there is no upstream 'mian'"),
        ("joe:{X}y", ":1: the scheme"),
    ],
)
def test_the_config_check_reads_the_file(line: str, told: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, line)
    (problem,) = AuthFile(AuthFileConfig(path=path)).check(NAMES)
    assert problem.key == ("path",)
    assert problem.message.startswith(str(path) + told)


def test_the_config_check_finds_nothing_else(tmp_path: Path) -> None:
    assert AuthFile(AuthFileConfig(path=file_of(tmp_path, "joe:::::::upstream=other"))).check(NAMES) == []


def test_a_missing_library_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("popproxy_plugins.auth_file.missing", lambda: "argon2")
    (problem,) = AuthFile(AuthFileConfig(path=file_of(tmp_path, "joe:"))).check(NAMES)
    assert (problem.message, problem.hint) == (
        "auth_file needs the library argon2, which is not installed",
        'pip install "popproxy[auth]"',
    )


@pytest.mark.parametrize(
    ("line", "options", "steps", "refused"),
    [
        ("joe:x", {"scheme": "PLAIN"}, ("line 1 of {}; the password is judged by popproxy",), False),
        (
            "joe:::::::host=a port=1 destuser=j",
            {"check": "upstream"},
            ("line 1 of {}; the password is judged by the upstream", "goes to a port 1"),
            False,
        ),
        ("joe:::::::disabled", {}, ("line 1 of {}; the password is judged by popproxy", "disabled"), True),
        (
            "joe:::::::allow_nets=10.0.0.1",
            {},
            ("line 1 of {}; the password is judged by popproxy", "not from 192.0.2.1"),
            True,
        ),
        (
            "joe:::::::groups=staff,dev",
            {},
            ("line 1 of {}; the password is judged by popproxy", "groups staff, dev"),
            False,
        ),
        ("ann:", {}, ("not in {}: refused",), True),
        ("ann:", {"unknown": "pass"}, ("not in {}: passed on as it is",), False),
        ("broken:{X}", {}, (f"{{}} cannot be used: the scheme {{{{X}}}} is not known; there are {KNOWN}",), True),
    ],
)
def test_it_explains_itself(
    line: str, options: dict[str, Any], steps: tuple[str, ...], refused: bool, tmp_path: Path
) -> None:
    path = file_of(tmp_path, line)
    explained = AuthFile(AuthFileConfig(path=path, **options)).explain(SESSION, "joe")
    assert explained.steps == tuple(step.format(path) for step in steps)
    assert explained.refused is refused


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    user = User("joe", 1, schemes.parse("{PLAIN}sesame", "PLAIN"), password=b"master")
    assert "sesame" not in repr(user) and "master" not in repr(user)
