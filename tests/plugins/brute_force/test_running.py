"""brute_force in real sessions: in front of an upstream, and in front of a plugin that judges passwords itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from popproxy_plugins.auth_file import AuthFile, AuthFileConfig
from popproxy_plugins.brute_force import BruteForce, BruteForceConfig

from popproxy.api.played import Played, PlayError
from popproxy.api.testing import play

OPTIONS: dict[str, Any] = {"address": {"delay": 1, "pairs": 3}, "delays": [4], "secret": "a-secret-of-the-tests"}
WELCOME = r"S~ \+OK.*" + "\n"
UPSTREAM = """
@ connect
U< +OK upstream
U> CAPA
U< -ERR no CAPA
U> USER joe
U< +OK
U> PASS {password}
U< {answer}
"""


def asked(password: str) -> str:
    return f"C: USER joe\n{WELCOME}C: PASS {password}\n"


def played(script: str, *behind: Any) -> Played:
    return play([BruteForce(BruteForceConfig(**OPTIONS)), *behind], WELCOME + script)


def test_the_upstream_is_asked_when_the_time_is_over() -> None:
    result = played(
        asked("one")
        + UPSTREAM.format(password="one", answer="-ERR [AUTH] no")
        + "S: -ERR [AUTH] Authentication failed\n"
        + asked("right")
        + "@ wait 4\n"
        + UPSTREAM.replace("U> CAPA\nU< -ERR no CAPA\n", "").format(password="right", answer="+OK in")
        + "S: +OK in\n"
    )
    assert [outcome for _, outcome in result.logins] == ["bad_credentials", "ok"]
    assert result.counters["logins", "held"] == 1


def test_a_judge_behind_it_is_asked_at_once_and_its_answer_waits(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("joe:{PLAIN}right::::::\n")
    judge = AuthFile(AuthFileConfig(path=users))
    result = played(
        asked("one")
        + "S: -ERR [AUTH] Authentication failed\n"
        + asked("two")
        + "@ wait 4\nS: -ERR [AUTH] Authentication failed\n"
        + asked("right")
        + "@ wait 4\n"
        + UPSTREAM.format(password="right", answer="+OK in")
        + "S: +OK in\n",
        judge,
    )
    assert [outcome for _, outcome in result.logins] == ["bad_credentials", "bad_credentials", "ok"]
    at_once = "S: -ERR [AUTH] Authentication failed\n"
    with pytest.raises(PlayError):
        played(asked("one") + at_once + asked("two") + "@ wait 3.9\n" + at_once, judge)


def test_who_is_refused_reads_the_same_with_any_password(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("joe:{PLAIN}right::::::\n")
    refused = "S: -ERR [SYS/TEMP] Too many failed logins, try again later\n"
    failed = "S: -ERR [AUTH] Authentication failed\n"
    result = played(
        asked("one") + failed
        + asked("two") + "@ wait 4\n" + failed
        + asked("three") + "@ wait 4\n" + failed
        + asked("right") + refused
        + asked("wrong") + refused,
        AuthFile(AuthFileConfig(path=users)),
    )  # fmt: skip
    assert [outcome for _, outcome in result.logins] == ["bad_credentials"] * 3 + ["rate_limited"] * 2
    assert result.counters["bans", "address"] == 1
    reasons = [line.fields["reason"] for line in result.notes if line.event == "login_failed"]
    assert reasons[3:] == ["address: the address is banned"] * 2
