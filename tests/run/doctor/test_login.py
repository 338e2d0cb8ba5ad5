"""Capabilities, login and maildrop: judged by the proxy's own rules, and nothing is taken or deleted."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from popproxy.run.doctor import login
from popproxy.sample import SampleServer
from tests.net.upstream import Peer, Upstream
from tests.run.doctor.patients import SECRET, Doctor, Told, running, server

EXPECTED = {"tls_off": "warn", "capa_stls_unused": "warn"}
"""What is always said of these servers."""


def wrong(told: Told) -> dict[str, str]:
    return {word: mark for word, mark in told.wrong.items() if word not in EXPECTED}


def test_all_is_well(doctor: Doctor) -> None:
    with Upstream(server(), quits=1) as upstream:
        told = doctor.see(upstream.url, "--user", "joe")
    assert (told.code, wrong(told)) == (0, {})
    assert told.words["login"]["text"] == "logged in by USER and PASS"
    assert told.words["stat"]["text"] == "2 messages, 300 octets"
    assert told.words["uidl"]["mark"] == "ok"
    (_, peer) = upstream.peers
    lines = bytes(peer.received).split(b"\r\n")
    assert lines == [b"CAPA", b"USER joe", b"PASS " + SECRET, b"STAT", b"LIST", b"UIDL", b"QUIT", b""]


def test_nobody_logs_in(doctor: Doctor) -> None:
    with Upstream(server(), quits=1) as upstream:
        told = doctor.see(upstream.url)
    assert told.words["login_untried"]["advice"] == "write --user to try it"
    assert bytes(upstream.peers[-1].received) == b"CAPA\r\nQUIT\r\n"


@pytest.mark.parametrize(
    ("reply", "word", "text"),
    [
        (b"-ERR [AUTH] no\r\n", "login_auth", "the credentials are not right"),
        (b"-ERR no\r\n", "login_auth", "(read from its words: it sent no response code)"),
        (b"-ERR [SYS/TEMP] later\r\n", "login_sys_temp", "trouble of the server's own, for now"),
        (b"-ERR [SYS/PERM] never\r\n", "login_sys_perm", "until somebody acts"),
        (b"-ERR [IN-USE] busy\r\n", "login_in_use", "the maildrop is in use"),
        (b"-ERR maildrop is locked\r\n", "login_in_use", "(read from its words"),
        (b"-ERR [LOGIN-DELAY] wait\r\n", "login_login_delay", "too soon after the last login"),
        (b"-ERR " + SECRET + b" is wrong\r\n", "login_auth", "hidden"),
        (b"", "login_failed", "lost"),
        (b"nonsense\r\n", "login_failed", "hidden, for it may repeat a secret"),
    ],
)
def test_a_refusal_is_explained(reply: bytes, word: str, text: str, doctor: Doctor) -> None:
    with Upstream(server({b"PASS " + SECRET: reply}), quits=1) as upstream:
        told = doctor.see(upstream.url, "--user", "joe")
    assert (told.code, wrong(told)) == (1, {word: "fail"})
    assert text in told.words[word]["text"]


def test_no_answer_to_a_login(doctor: Doctor) -> None:
    def mute(peer: Peer) -> None:
        peer.greet()
        peer.line()
        peer.send(b"+OK\r\nUSER\r\nUIDL\r\n.\r\n")
        peer.until_gone()

    with Upstream(mute, quits=1) as upstream:
        told = doctor.see(upstream.url, "--user", "joe", "--timeout", "200ms")
    assert (told.code, wrong(told)) == (1, {"login_timeout": "fail"})


def test_a_slow_login_and_a_slow_maildrop(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "SLOW", 0.0)
    with Upstream(server(), quits=1) as upstream:
        told = doctor.see(upstream.url, "--user", "joe")
    assert (told.code, wrong(told)) == (0, {"login_slow": "warn", "maildrop_slow": "warn"})


@pytest.mark.parametrize(
    ("capa", "expected"),
    [
        (b"-ERR what?\r\n", {"capa_none": "warn"}),
        (b"+OK\r\nUSER\r\n.\r\n", {"capa_no_uidl": "warn"}),
        (b"+OK\r\nUIDL\r\nSASL GSSAPI\r\n.\r\n", {"mechanism_none": "warn"}),
        (b"+OK\r\nUIDL\r\nSASL SCRAM-SHA-256 CRAM-MD5\r\n.\r\n", {}),
        (b"+OK\r\nUIDL\r\nSASL XOAUTH2\r\n.\r\n", {}),
        (b"what?\r\n", {"capa_failed": "fail"}),
    ],
)
def test_capabilities(capa: bytes, expected: dict[str, str], doctor: Doctor) -> None:
    with Upstream(server({b"CAPA": capa}), quits=1) as upstream:
        told = doctor.see(upstream.url)
    assert wrong(told) == expected
    if capa == b"+OK\r\nUSER\r\n.\r\n":
        missing = [one["word"] for one in told.findings if one["word"].startswith("capa_no_")]
        assert missing == ["capa_no_uidl", "capa_no_top", "capa_no_pipelining", "capa_no_resp_codes"]
    if b"XOAUTH2" in capa:
        assert told.words["mechanism_tokens"]["mark"] == "note"


def test_the_mechanism_of_the_config(doctor: Doctor) -> None:
    plain = b"AUTH PLAIN " + base64.b64encode(b"\0joe\0" + SECRET)
    with Upstream(server({plain: b"+OK\r\n"}), quits=1) as upstream:
        told = doctor.configured(upstream.url, 'mechanism = "plain"', "--user", "joe")
    assert (told.code, wrong(told)) == (0, {})
    assert told.words["login"]["text"] == "logged in by AUTH PLAIN"
    with Upstream(server(), quits=1) as upstream:
        told = doctor.configured(upstream.url, 'mechanism = "login"', "--user", "joe")
    assert told.words["mechanism_not_announced"]["mark"] == "warn"
    with Upstream(server({b"CAPA": b"+OK\r\nUIDL\r\nSASL XOAUTH2\r\n.\r\n"}), quits=1) as upstream:
        told = doctor.see(upstream.url, "--user", "joe")
    assert wrong(told) == {"login_impossible": "fail"}
    assert b"joe" not in upstream.received


def test_a_real_server_by_scram_and_by_token(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "mail" / "new").mkdir(parents=True)
    (tmp_path / "mail" / "cur").mkdir()
    (tmp_path / "mail" / "new" / "1").write_bytes(b"Subject: one\r\n\r\nbody\r\n")
    for mechanism in ("scram-sha-256", "xoauth2", "oauthbearer"):
        sample = SampleServer(
            {"joe": tmp_path / "mail"},
            {"joe": SECRET.decode()},
            mechanisms=("SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"),
            tokens={"joe": SECRET.decode()},
        )
        with running(sample) as port:
            url = f"pop3+clear://127.0.0.1:{port}"
            told = doctor.configured(url, f'mechanism = "{mechanism}"', "--user", "joe")
            bad = doctor.configured(url, f'mechanism = "{mechanism}"', "--user", "joe", secret=b"wrong")
        assert (told.code, wrong(told)) == (0, {})
        assert told.words["login"]["text"] == f"logged in by AUTH {mechanism.upper()}"
        assert (bad.code, wrong(bad)) == (1, {"login_auth": "fail"})
    assert [path.name for path in (tmp_path / "mail").rglob("1*")] == ["1"]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({b"STAT": b"+OK 3 300\r\n"}, {"maildrop_sums": "warn", "uidl_wrong": "warn"}),
        ({b"STAT": b"+OK many\r\n"}, {"maildrop_broken": "fail"}),
        ({b"LIST": b"-ERR no\r\n"}, {"maildrop_broken": "fail"}),
        ({b"UIDL": b""}, {"maildrop_broken": "fail"}),
        ({b"UIDL": b"-ERR no\r\n"}, {"uidl_refused": "warn"}),
        ({b"UIDL": b"+OK\r\n1 a\r\n2 a\r\n.\r\n"}, {"uidl_wrong": "warn"}),
        ({b"UIDL": b"+OK\r\n1 a\r\n2 " + b"b" * 71 + b"\r\n.\r\n"}, {"uidl_wrong": "warn"}),
        ({b"QUIT": b"-ERR some messages not removed\r\n"}, {"maildrop_broken": "fail"}),
    ],
)
def test_a_maildrop_that_is_not_well(
    answers: dict[bytes, bytes], expected: dict[str, str], doctor: Doctor
) -> None:
    with Upstream(server(answers), quits=1) as upstream:
        told = doctor.see(upstream.url, "--user", "joe")
    assert wrong(told) == expected
    for command in (b"RETR", b"TOP", b"DELE", b"RSET"):
        assert command not in upstream.received
