"""Behind the login: which commands, how many, how much, and what becomes of DELE."""

from __future__ import annotations

from typing import Any

import pytest

from popproxy.api import Code, Dates, Hangup, Hide, Keep, MaildropEntry, Refuse
from tests.plugins.policy.rig import DAY, Rig


def refusal(verdict: Any) -> tuple[Code | None, str]:
    """Code and text of a Refuse."""
    assert isinstance(verdict, Refuse), verdict
    return verdict.code, verdict.text


def entry(number: int, octets: int = 100, age: float | None = None, *, rig: Rig | None = None) -> MaildropEntry:
    """A message; with ``age`` in days it is dated."""
    arrived = None if age is None or rig is None else rig.clock.now() - age * DAY
    return MaildropEntry(number, octets, b"u%d" % number, arrived, age is not None)


def test_allowed_and_denied_commands() -> None:
    rig = Rig(
        {"name": "list", "when": {"user": ["ann"]}, "commands": {"allow": ["STAT", "RETR"]}},
        {"name": "no_top", "commands": {"deny": ["TOP", "UIDL"]}, "text": "Not here"},
    )
    session = rig.enter()
    assert refusal(rig.command(session, "TOP 1 0")) == (Code.SYS_PERM, "Not here")
    assert refusal(rig.command(session, "uidl")) == (Code.SYS_PERM, "Not here")
    for line in ("RETR 1", "DELE 1", "LIST", "QUIT", "CAPA", "NOOP"):
        assert rig.command(session, line) is None
    ann = rig.enter("ann")
    assert refusal(rig.command(ann, "RSET")) == (Code.SYS_PERM, "Command is not allowed")
    for line in ("STAT", "RETR 1", "QUIT", "CAPA", "NOOP"):
        assert rig.command(ann, line) is None
    assert rig.counted("no_top", "deny") == 2
    assert len(rig.told("denied")) == 2
    line = rig.told("denied")[0]
    assert (line["rule"], line["point"], line["code"], line["user"]) == ("no_top", "commands", "SYS/PERM", "joe")


def test_who_tries_a_thousand_times_makes_one_line() -> None:
    rig = Rig({"name": "ro", "dele": "refuse"})
    session = rig.enter()
    for number in range(1, 1001):
        assert refusal(rig.command(session, f"DELE {number}")) == (Code.SYS_PERM, "Messages cannot be deleted")
    assert rig.counted("ro", "deny") == 1000
    assert len(rig.told("denied")) == 1


def test_dele_is_accepted_and_dropped() -> None:
    rig = Rig({"name": "ro", "dele": "keep"})
    session = rig.enter()
    assert "on_maildrop" not in rig.unneeded
    assert rig.command(session, "DELE 1") == Keep()
    assert rig.counted("ro", "rewrite") == 1


@pytest.mark.parametrize("dele", ["keep", "refuse"])
def test_a_message_stays_until_it_is_old_enough(dele: str) -> None:
    rig = Rig({"name": "stay", "leave_on_server": {"days": 14, "dele": dele}})
    session = rig.enter()
    rig.list(session, entry(1, age=14.01, rig=rig), entry(2, age=13.99, rig=rig), entry(3, age=-1, rig=rig))
    assert rig.command(session, "DELE 1") is None
    for line in ("DELE 2", "DELE 3"):
        verdict = rig.command(session, line)
        if dele == "keep":
            assert verdict == Keep()
        else:
            assert refusal(verdict) == (Code.SYS_TEMP, "Message stays on the server until it is 14 days old")
    assert rig.command(session, "DELE 4") is None


def test_a_message_whose_age_nobody_knows_stays() -> None:
    rig = Rig({"name": "stay", "leave_on_server": {"days": 1, "dele": "keep"}})
    session = rig.enter()
    rig.list(session, MaildropEntry(1, 100, b"a", None, True))
    assert rig.command(session, "DELE 1") == Keep()


def test_ages_are_asked_for_in_batches_and_once() -> None:
    rig = Rig({"name": "stay", "leave_on_server": {"days": 14}})
    session = rig.enter()
    assert rig.command(session, "DELE 3") == Dates(frozenset())
    young = [MaildropEntry(number, 100, b"u%d" % number) for number in range(1, 201)]
    rig.list(session, *young)
    assert rig.command(session, "DELE 3") == Dates(frozenset(range(3, 67)))
    old = [entry(one.number, age=20, rig=rig) if 3 <= one.number < 67 else one for one in young]
    session.maildrop = {one.number: one for one in old}
    for number in range(3, 67):
        assert rig.command(session, f"DELE {number}") is None
    assert rig.command(session, "DELE 190") == Dates(frozenset(range(190, 201)))
    again = rig.enter()
    rig.list(again, *young)
    for number in range(3, 67):
        assert rig.command(again, f"DELE {number}") is None
    other = rig.enter("ann")
    rig.list(other, *young)
    assert isinstance(rig.command(other, "DELE 3"), Dates)


def test_messages_of_a_session() -> None:
    rig = Rig({"name": "few", "max_messages": 3})
    session = rig.enter()
    assert "on_maildrop" in rig.unneeded
    for line in ("RETR 1", "TOP 2 10", "RETR 2", "TOP 3 101", "TOP 3 100"):
        assert rig.command(session, line) is None
    assert refusal(rig.command(session, "RETR 4")) == (Code.SYS_TEMP, "Too many messages in one session")
    assert isinstance(rig.command(session, "TOP 4 5000"), Refuse)
    assert rig.command(session, "QUIT") is None
    assert rig.command(rig.enter(), "RETR 1") is None


def test_octets_of_a_session_count_what_is_on_its_way() -> None:
    """A whole row of commands is looked at before the first octet is sent."""
    rig = Rig({"name": "much", "max_octets": 1000})
    session = rig.enter()
    assert rig.command(session, "RETR 1") == Dates(frozenset())
    rig.list(session, *(entry(number, 300) for number in range(1, 9)))
    assert [rig.command(session, f"RETR {number}") for number in (1, 2, 3)] == [None, None, None]
    assert refusal(rig.command(session, "RETR 4")) == (Code.SYS_TEMP, "Too much for one session")
    session.sent = 1001
    rig.list(session, entry(1, 0))
    assert isinstance(rig.command(session, "RETR 1"), Refuse)
    assert rig.command(session, "STAT") is None


def test_heads_are_given_as_long_as_octets_are_left() -> None:
    """Few lines may be long ones: a TOP is as good as a RETR for who wants more than there is."""
    rig = Rig({"name": "much", "max_octets": 1000, "octets_per_day": 2000})
    session = rig.enter()
    session.sent = 999
    assert rig.command(session, "TOP 1 100") is None
    session.sent = 1000
    assert refusal(rig.command(session, "TOP 1 100")) == (Code.SYS_TEMP, "Too much for one session")
    assert refusal(rig.command(session, "TOP 1 0")) == (Code.SYS_TEMP, "Too much for one session")
    assert rig.command(session, "LIST") is None


def test_the_largest_message() -> None:
    rig = Rig({"name": "large", "max_message_octets": 1000})
    session = rig.enter()
    rig.list(session, entry(1, 1000), entry(2, 1001))
    assert rig.command(session, "RETR 1") is None
    assert refusal(rig.command(session, "RETR 2")) == (Code.SYS_PERM, "Message is too large")
    assert isinstance(rig.command(session, "TOP 2 99999"), Refuse)
    assert rig.command(session, "TOP 2 0") is None
    assert rig.command(session, "DELE 2") is None
    assert rig.command(session, "RETR 3") is None


def test_another_maildrop_is_listed_anew() -> None:
    rig = Rig({"name": "large", "max_message_octets": 1000})
    session = rig.enter()
    rig.list(session, entry(1))
    assert rig.command(session, "XTND ARCHIVE old") is None
    session.maildrop = {}
    assert rig.command(session, "RETR 7") == Dates(frozenset())


def test_the_rest_of_the_day() -> None:
    rig = Rig({"name": "day", "octets_per_day": 1000})
    rig.close(rig.enter(), sent=600)
    session = rig.enter()
    rig.list(session, entry(1, 300), entry(2, 500))
    assert refusal(rig.command(session, "RETR 2")) == (Code.SYS_TEMP, "Too much was retrieved, try again later")
    assert rig.command(session, "RETR 1") is None
    assert isinstance(rig.command(session, "RETR 1"), Refuse)


def test_commands_a_minute() -> None:
    rig = Rig({"name": "calm", "commands_per_minute": 60})
    session = rig.enter()
    for _ in range(60):
        assert rig.command(session, "NOOP") is None
    assert refusal(rig.command(session, "NOOP")) == (Code.SYS_TEMP, "Too many commands, slow down")
    rig.clock.wait(2)
    assert [rig.command(session, "STAT") for _ in range(2)] == [None, None]
    assert isinstance(rig.command(session, "STAT"), Refuse)
    assert rig.command(session, "QUIT") is None


def test_who_does_not_slow_down_is_hung_up_on() -> None:
    rig = Rig({"name": "calm", "commands_per_minute": 60})
    session = rig.enter()
    answers = [rig.command(session, "NOOP") for _ in range(200)]
    first = next(place for place, answer in enumerate(answers) if isinstance(answer, Hangup))
    assert first == 120
    assert answers[first] == Hangup("policy rule calm: commands_per_minute")
    assert rig.command(session, "QUIT") is None


def test_a_command_is_counted_once_however_often_it_is_asked_about() -> None:
    rig = Rig({"name": "both", "commands_per_minute": 1, "max_message_octets": 500})
    session = rig.enter()
    assert isinstance(rig.command(session, "RETR 1"), Dates)
    rig.list(session, entry(1))
    assert rig.command(session, "RETR 1") is None
    assert refusal(rig.command(session, "RETR 1"))[0] is Code.SYS_TEMP


def test_large_messages_are_hidden() -> None:
    rig = Rig({"name": "small", "hide_larger": 1000})
    session = rig.enter()
    assert rig.list(session, entry(1, 1000), entry(2, 1001), entry(3, 5)) == Hide(frozenset({2}))
    assert rig.counted("small", "hide") == 1
    assert rig.list(rig.enter("ann"), entry(1, 1000)) is None
    assert rig.counted("small", "hide") == 1


def test_old_messages_are_hidden_when_their_age_is_known() -> None:
    rig = Rig({"name": "new", "hide_older": 30, "hide_larger": 1000})
    session = rig.enter()
    undated = [entry(number) for number in (1, 2, 3)]
    assert rig.list(session, *undated, entry(4, 2000)) == Dates(frozenset({1, 2, 3}))
    dated = [entry(1, age=31, rig=rig), entry(2, age=29, rig=rig), MaildropEntry(3, 100, b"u3", None, True)]
    assert rig.list(session, *dated, entry(4, 2000)) == Hide(frozenset({1, 4}))
    again = rig.enter()
    assert rig.list(again, *undated, entry(4, 2000)) == Hide(frozenset({1, 4}))
    rig.clock.wait(2 * DAY)
    assert rig.list(rig.enter(), *undated) == Hide(frozenset({1, 2}))


def test_without_unique_ids_nothing_is_remembered() -> None:
    rig = Rig({"name": "new", "hide_older": 30})
    for _ in range(2):
        session = rig.enter()
        assert rig.list(session, MaildropEntry(1, 100, None)) == Dates(frozenset({1}))
        old = MaildropEntry(1, 100, None, rig.clock.now() - 40 * DAY, True)
        assert rig.list(session, old) == Hide(frozenset({1}))


NEEDED: list[tuple[dict[str, Any], set[str]]] = [
    ({"login": "allow"}, set()),
    ({"sessions_per_user": 1}, set()),
    ({"dele": "allow"}, set()),
    ({"commands": {"deny": ["TOP"]}}, {"on_command"}),
    ({"dele": "refuse"}, {"on_command"}),
    ({"max_messages": 5}, {"on_command"}),
    ({"commands_per_minute": 5}, {"on_command"}),
    ({"dele": "keep"}, {"on_command", "on_maildrop"}),
    ({"leave_on_server": {"days": 1}}, {"on_command", "on_maildrop"}),
    ({"max_octets": 5}, {"on_command", "on_maildrop"}),
    ({"hide_older": 5}, {"on_maildrop"}),
    ({"hide_larger": 5}, {"on_maildrop"}),
    ({"rate": 5}, {"pace"}),
    ({"user_rate": 5}, {"pace"}),
]


@pytest.mark.parametrize(("setting", "needed"), NEEDED, ids=[str(case[0]) for case in NEEDED])
def test_hooks_that_no_rule_needs_for_this_user_are_not_called(setting: dict[str, Any], needed: set[str]) -> None:
    rig = Rig({"name": "some", "when": {"user": ["joe"]}, **setting})
    behind = {"on_command", "on_maildrop", "on_reply", "pace"}
    rig.enter("ann")
    assert behind <= rig.unneeded
    rig.enter("joe")
    assert behind - rig.unneeded == needed
    assert behind - rig.policy.skips == needed


def test_the_pace_of_a_user_is_shared_and_outlives_the_sessions() -> None:
    rig = Rig({"name": "slow", "rate": 1000, "user_rate": 2000})
    first, second, other = rig.enter(), rig.enter(), rig.enter("ann")
    paces = [rig.policy.pace(session) for session in (first, second, other)]
    assert [[pace.rate for pace in one] for one in paces] == [[1000, 2000]] * 3
    assert paces[0][1] is paces[1][1]
    assert len({id(pace) for pace in (paces[0][0], paces[1][0], paces[0][1], paces[2][1])}) == 4
    rig.close(first)
    assert rig.policy.pace(rig.enter())[1] is paces[1][1]
    for session in (second, other, *rig.entered):
        rig.close(session)
    assert rig.policy.pace(rig.enter())[1] is paces[1][1]
