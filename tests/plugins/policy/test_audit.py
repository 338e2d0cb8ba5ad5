"""In audit mode everything is told, and nothing is changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import MaildropEntry, ReplyView, parse
from tests.plugins.policy.rig import Rig
from tests.plugins.policy.wire import Client, Worker

DENIED: list[tuple[dict[str, Any], str]] = [
    ({"login": "deny"}, "SYS/PERM"),
    ({"networks": ["198.51.100.0/24"]}, "SYS/PERM"),
    ({"mechanisms": ["OAUTHBEARER"]}, "SYS/PERM"),
]


@pytest.mark.parametrize(("setting", "code"), DENIED, ids=[next(iter(case[0])) for case in DENIED])
def test_a_login_that_would_be_refused(setting: dict[str, Any], code: str) -> None:
    rig = Rig({"name": "trial", **setting}, mode="audit")
    session = rig.session()
    assert rig.connect(session) is None
    assert rig.login(session) is None
    line = rig.told("audit")[0]
    assert (line["rule"], line["point"], line["action"], line["code"]) == ("trial", next(iter(setting)), "deny", code)
    assert len(rig.told("audit")) == 1
    assert (rig.counted("trial", "audit"), rig.counted("trial", "deny")) == (1, 0)


def test_sessions_that_would_be_too_many_take_no_place_from_others() -> None:
    rig = Rig(
        {"name": "real", "when": {"network": ["198.51.100.0/24"]}, "sessions_per_user": 1},
        {"name": "trial", "sessions_per_user": 1, "mode": "audit"},
    )
    for _ in range(3):
        rig.enter()
    assert rig.counted("trial", "audit") == 2
    assert rig.limited("sessions_per_user", "audited") == 2
    assert [line["code"] for line in rig.told("audit")] == ["IN-USE", "IN-USE"]
    rig.enter(client="198.51.100.1")
    assert rig.login(rig.session("198.51.100.1")) is not None
    for session in rig.entered:
        rig.close(session)
    assert rig.store.held == set()


def test_an_audited_limit_needs_no_store() -> None:
    rig = Rig({"name": "trial", "sessions_per_user": 1, "store_failure": "closed"}, mode="audit")
    rig.store.down = True
    assert rig.login(rig.session()) is None
    assert rig.limited("sessions_per_user", "error") == 1


def test_the_day_in_audit_mode() -> None:
    rig = Rig({"name": "trial", "octets_per_day": 1000}, mode="audit")
    rig.close(rig.enter(), sent=5000)
    session = rig.enter()
    assert rig.counted("trial", "audit") == 1
    assert rig.command(session, "RETR 1") is None


WOULD: list[tuple[dict[str, Any], list[str], str, str]] = [
    ({"commands": {"deny": ["TOP"]}}, ["TOP 1 0"], "commands", "deny"),
    ({"dele": "refuse"}, ["DELE 1"], "dele", "deny"),
    ({"dele": "keep"}, ["DELE 1"], "dele", "rewrite"),
    ({"leave_on_server": {"days": 3}}, ["DELE 1"], "leave_on_server", "deny"),
    ({"max_messages": 1}, ["RETR 1", "RETR 1"], "max_messages", "deny"),
    ({"max_octets": 150}, ["RETR 1", "RETR 1"], "max_octets", "deny"),
    ({"commands_per_minute": 1}, ["NOOP", "NOOP"], "commands_per_minute", "deny"),
    ({"hide_larger": 1000}, ["LIST"], "hide_larger", "hide"),
    ({"hide_older": 1}, ["STAT"], "hide_older", "hide"),
]


@pytest.mark.parametrize(("setting", "lines", "point", "action"), WOULD, ids=[case[2] for case in WOULD])
def test_what_would_be_done_behind_the_login(
    setting: dict[str, Any], lines: list[str], point: str, action: str
) -> None:
    rig = Rig({"name": "trial", **setting}, mode="audit")
    session = rig.enter()
    assert "on_maildrop" in rig.unneeded
    session.maildrop = {1: MaildropEntry(1, 100, b"a")}
    for line in lines * 3:
        assert rig.command(session, line) is None
    told = rig.told("audit")
    assert [(line["rule"], line["point"], line["action"]) for line in told] == [("trial", point, action)]
    assert rig.counted("trial", "audit") == 1


def test_a_message_that_would_be_too_large() -> None:
    rig = Rig({"name": "trial", "max_message_octets": 1000}, mode="audit")
    session = rig.enter()
    assert "on_reply" not in rig.unneeded
    for text in (b"999 octets", b"", b"octets 5000", b"1001 octets"):
        assert rig.policy.on_reply(session, parse(b"RETR 1"), ReplyView(True, None, text)) is None
        assert rig.counted("trial", "audit") == (text == b"1001 octets")


@pytest.mark.parametrize("point", ["max_octets", "octets_per_day"])
@pytest.mark.parametrize(
    ("lines", "times"),
    [(["RETR 1"], 0), (["RETR 2"], 1), (["RETR 1", "RETR 1", "RETR 1"], 1), (["LIST", "RETR 2"], 1), (["TOP 1 0"], 0)],
    ids=["less", "more", "together", "listed", "head"],
)
def test_octets_that_would_be_too_many(point: str, lines: list[str], times: int) -> None:
    """Nobody has listed the maildrop for it, so what was sent tells."""
    worker = Worker({"name": "trial", point: 900}, mode="audit")
    client = worker.inside(worker.message(1, octets=500), worker.message(1, octets=1000))
    assert all(line.startswith("+OK") for line in client.lines(*lines, "QUIT"))
    client.gone()
    assert worker.services.metrics.decided["trial", "audit"].value == times
    assert client.server.asked == lines


def test_what_is_not_known_hides_no_other_limit() -> None:
    rule = {"name": "trial", "max_octets": "1GB", "max_messages": 2, "leave_on_server": {"days": 5}}
    worker = Worker(rule, mode="audit")
    client = worker.inside(worker.message(1), worker.message(1))
    client.lines("RETR 1", "RETR 2")
    assert worker.services.metrics.decided["trial", "audit"].value == 0
    client.lines("RETR 1", "DELE 1")
    told = [(line.fields["point"], line.fields["code"]) for line in worker.services.log.lines if line.event == "audit"]
    assert told == [("max_messages", "SYS/TEMP"), ("leave_on_server", "SYS/TEMP")]


def test_a_refusal_at_connect_is_told_with_the_name_that_comes_behind() -> None:
    rig = Rig({"name": "over", "login": "deny"}, mode="audit")
    session = rig.session()
    assert rig.connect(session) is None
    assert rig.told("audit") == []
    rig.login(session, "ann")
    rig.close(session)
    assert [line["user"] for line in rig.told("audit")] == ["ann"]


def test_who_never_logs_in_would_have_been_refused_at_connect() -> None:
    rig = Rig({"name": "over", "login": "deny"}, mode="audit")
    session = rig.session()
    rig.connect(session)
    rig.close(session)
    assert [(line["user"], line["point"]) for line in rig.told("audit")] == [(None, "login")]
    assert rig.counted("over", "audit") == 1


def test_a_session_that_was_faster() -> None:
    rig = Rig({"name": "trial", "rate": 1000}, mode="audit")
    session = rig.enter()
    assert "pace" in rig.unneeded
    rig.close(session, sent=11_001, seconds=10)
    rig.close(rig.enter(), sent=11_000, seconds=10)
    assert [line["point"] for line in rig.told("audit")] == ["rate"]


def test_an_audited_rule_takes_nothing_from_those_that_count() -> None:
    rig = Rig({"name": "trial", "dele": "allow", "mode": "audit"}, {"name": "real", "dele": "refuse"})
    assert rig.command(rig.enter(), "DELE 1") is not None
    rig = Rig({"name": "trial", "dele": "refuse", "mode": "audit"}, {"name": "real", "dele": "allow"})
    assert rig.command(rig.enter(), "DELE 1") is None
    assert rig.counted("trial", "audit") == 1


LINES = [
    b"STAT", b"LIST", b"LIST 1", b"UIDL", b"UIDL 2", b"RETR 1", b"RETR 2", b"RETR 9", b"TOP 1 0", b"TOP 2 500",
    b"DELE 1", b"DELE 2", b"DELE 2", b"RSET", b"NOOP", b"CAPA", b"LAST", b"nonsense", b"Retr 1", b"RETR 0",
]  # fmt: skip
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "login": st.just("deny"),
    "networks": st.just(["198.51.100.0/24"]),
    "hours": st.just(["Mon 00:00-01:00"]),
    "tls": st.just(True),
    "mechanisms": st.just(["OAUTHBEARER"]),
    "commands": st.sampled_from([{"deny": ["TOP", "RETR"]}, {"allow": ["STAT"]}]),
    "dele": st.sampled_from(["refuse", "keep"]),
    "leave_on_server": st.just({"days": 5, "dele": "keep"}),
    "expire": st.sampled_from([0, 5, "NEVER"]),
    "login_delay": st.just("1h"),
    "max_messages": st.integers(1, 2),
    "max_octets": st.integers(1, 200),
    "octets_per_day": st.integers(1, 200),
    "max_message_octets": st.integers(1, 50),
    "hide_older": st.just(1),
    "hide_larger": st.just(50),
    "rate": st.just(1),
    "user_rate": st.just(1),
    "commands_per_minute": st.integers(1, 3),
    "sessions_per_user": st.just(1),
    "sessions_per_address": st.just(1),
    "logins": st.just("1/day"),
}
RULES = st.lists(
    st.sampled_from(sorted(SETTINGS)).flatmap(lambda point: st.tuples(st.just(point), SETTINGS[point])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=120, deadline=None)
@given(RULES, st.lists(st.lists(st.sampled_from(LINES), max_size=5), max_size=8), st.sampled_from(["merge", "first"]))
def test_a_session_reads_the_very_octets_it_would_read_without(
    rules: list[tuple[str, Any]], packets: list[list[bytes]], match: str
) -> None:
    audited = Worker(
        *({"name": f"r{number}", point: value} for number, (point, value) in enumerate(rules)),
        mode="audit",
        match=match,
        timezone="UTC",
    )
    plain = Worker()
    clients: list[Client] = []
    for worker in (audited, plain):
        # The second one is over every limit of sessions and logins.
        worker.inside()
        clients.append(worker.client(worker.message(3), worker.message(30, octets=400)))
    one, other = clients
    assert one.greeting == other.greeting
    wire = [b"".join(line + b"\r\n" for line in packet) for packet in packets]
    for octets in (b"CAPA\r\n", b"USER joe\r\nPASS sesame\r\n", *wire, b"QUIT\r\n"):
        assert one.send(octets) == other.send(octets)
    assert one.server.asked == other.server.asked
    assert one.server.kept == other.server.kept
    for client in clients:
        client.gone()
    assert len(audited.store.held) <= 1
