"""Whole sessions: what clients read, and what the server behind is asked."""

from __future__ import annotations

from tests.plugins.policy.wire import Worker

LOGIN = b"USER joe\r\nPASS sesame\r\n"


def test_a_read_only_mailbox_that_says_so() -> None:
    worker = Worker({"name": "archive", "dele": "refuse", "text": "This is an archive"})
    client = worker.inside(worker.message(1), worker.message(2))
    assert client.lines("DELE 1", "STAT", "QUIT")[0] == "-ERR [SYS/PERM] This is an archive"
    assert client.server.kept == [1, 2]
    assert not [line for line in client.server.asked if line.startswith("DELE")]


def test_a_read_only_mailbox_that_does_not_say_so() -> None:
    worker = Worker({"name": "archive", "dele": "keep"})
    client = worker.inside(worker.message(1), worker.message(2), worker.message(3))
    size = len(client.server.messages[2])
    assert client.lines("DELE 1", "DELE 3", "RETR 1", "DELE 1", "STAT") == [
        "+OK", "+OK", "-ERR No such message", "-ERR No such message", f"+OK 1 {size}"
    ]  # fmt: skip
    assert client.send(b"UIDL\r\nRSET\r\n").startswith(b"+OK\r\n2 uid2\r\n.\r\n+OK")
    assert client.lines("RETR 1", "DELE 1", "QUIT")[0].startswith("+OK")
    assert client.server.committed
    assert client.server.kept == [1, 2, 3]


def test_large_messages_are_not_there() -> None:
    worker = Worker({"name": "small", "hide_larger": 1000})
    small, large = worker.message(1), worker.message(1, octets=2000)
    client = worker.inside(large, small, large, small)
    size = len(small)
    assert client.send(b"STAT\r\n") == b"+OK 2 %d\r\n" % (2 * size)
    assert client.send(b"LIST\r\n") == b"+OK\r\n1 %d\r\n2 %d\r\n.\r\n" % (size, size)
    assert client.send(b"UIDL\r\n") == b"+OK\r\n1 uid2\r\n2 uid4\r\n.\r\n"
    assert client.send(b"UIDL 3\r\n") == b"-ERR No such message\r\n"
    assert client.lines("RETR 2", "DELE 2", "QUIT")[1].startswith("+OK")
    assert client.server.kept == [1, 2, 3]
    assert worker.services.metrics.decided["small", "hide"].value == 1


def test_messages_stay_until_they_are_old_enough() -> None:
    worker = Worker({"name": "stay", "leave_on_server": {"days": 14, "dele": "keep"}})
    ages = (20, 1, 14.1, 13.9)
    client = worker.inside(*(worker.message(age) for age in ages))
    assert client.send(b"DELE 1\r\nDELE 2\r\nDELE 3\r\nDELE 4\r\nSTAT\r\n").endswith(b"\r\n+OK 0 0\r\n")
    assert [line for line in client.server.asked if line.startswith("DELE")] == ["DELE 1", "DELE 3"]
    client.lines("QUIT")
    assert client.server.kept == [2, 4]
    assert [line for line in client.server.asked if line.startswith("TOP")] == [f"TOP {n} 0" for n in (1, 2, 3, 4)]


def test_held_back_and_told_so() -> None:
    worker = Worker({"name": "stay", "leave_on_server": {"days": 14}})
    client = worker.inside(worker.message(20), worker.message(1))
    text = "-ERR [SYS/TEMP] Message stays on the server until it is 14 days old"
    assert client.lines("UIDL", "DELE 2", "DELE 1", "DELE 3") == ["+OK", text, "+OK marked", "-ERR No such message"]
    assert client.lines("STAT", "QUIT")[0] == f"+OK 1 {len(client.server.messages[2])}"
    assert client.server.kept == [2]


def test_old_messages_are_hidden_and_a_second_poll_asks_for_no_header() -> None:
    worker = Worker({"name": "new", "hide_older": 30})
    messages = [worker.message(age) for age in (40, 20, 31, 1)]
    for polls in range(3):
        client = worker.inside(*messages)
        assert client.send(b"UIDL\r\n") == b"+OK\r\n1 uid2\r\n2 uid4\r\n.\r\n"
        assert client.lines("STAT")[0] == f"+OK 2 {len(messages[1]) + len(messages[3])}"
        client.lines("QUIT")
        assert len([line for line in client.server.asked if line.startswith("TOP")]) == (0 if polls else 4)


def test_the_first_command_is_a_retr() -> None:
    """Sizes are known before anything is sent, and no header is asked for."""
    worker = Worker({"name": "large", "max_message_octets": 1000})
    client = worker.inside(worker.message(1, octets=2000), worker.message(1))
    said = client.send(b"RETR 1\r\nRETR 2\r\nRETR 3\r\n")
    assert said.startswith(b"-ERR [SYS/PERM] Message is too large\r\n+OK ")
    assert said.endswith(b"\r\n.\r\n-ERR No such message\r\n")
    assert client.server.asked == ["LIST", "UIDL", "RETR 2"]


def test_too_many_sessions_and_who_may_come_behind() -> None:
    worker = Worker({"name": "few", "sessions_per_user": 1})
    first, second = worker.inside(), worker.client()
    assert second.send(LOGIN) == b"+OK\r\n-ERR [IN-USE] Too many sessions at once\r\n"
    assert second.open
    assert [note.fields["reason"] for note in second.notes] == ["policy rule few: sessions_per_user"]
    first.gone()
    assert second.send(LOGIN) == b"+OK\r\n+OK welcome\r\n"
    second.lines("QUIT")
    second.gone()
    assert worker.store.held == set()
    worker.inside()


def test_wrong_passwords_use_up_nothing() -> None:
    worker = Worker({"name": "few", "sessions_per_user": 1, "logins": "1/day", "login_delay": "1h"})
    for _ in range(5):
        assert worker.client().send(b"USER joe\r\nPASS wrong\r\n") == b"+OK\r\n-ERR [AUTH] Authentication failed\r\n"
    assert worker.store.runs == 0
    worker.inside()


def test_refused_at_the_door() -> None:
    worker = Worker({"name": "office", "networks": ["198.51.100.0/24"], "text": "POP only from the office"})
    outside = worker.client()
    assert outside.greeting == b"-ERR [SYS/PERM] POP only from the office\r\n"
    assert not outside.open
    assert worker.client(address="198.51.100.9").greeting.startswith(b"+OK")


def test_refused_before_the_server_hears_of_it() -> None:
    worker = Worker({"name": "no", "when": {"user": ["joe"]}, "login": "deny"})
    client = worker.client()
    assert client.send(LOGIN) == b"+OK\r\n-ERR [SYS/PERM] Login is not allowed\r\n"
    assert client.server.lines == []


def test_a_row_of_commands_stays_within_the_limit() -> None:
    worker = Worker({"name": "much", "max_octets": 1000})
    client = worker.inside(*(worker.message(1, octets=400) for _ in range(5)))
    client.lines("STAT")
    said = client.send(b"".join(b"RETR %d\r\n" % number for number in range(1, 6)))
    assert said.count(b"+OK 400 octets") == 2
    assert said.count(b"-ERR [SYS/TEMP] Too much for one session\r\n") == 3
    assert client.lines("QUIT")[0].startswith("+OK")


def test_hung_up_without_a_quit() -> None:
    worker = Worker({"name": "calm", "commands_per_minute": 5})
    client = worker.inside(worker.message(1))
    client.lines("DELE 1")
    said = client.lines(*["NOOP"] * 20)
    assert said.count("+OK nothing") == 4
    assert said.count("-ERR [SYS/TEMP] Too many commands, slow down") == 5
    assert not client.open
    assert not client.server.committed
    assert client.server.kept == [1]


def test_what_capa_says() -> None:
    worker = Worker(
        {"name": "all", "commands": {"deny": ["TOP"]}, "expire": 30},
        {"name": "joe", "when": {"user": ["joe"]}, "login_delay": "1m"},
        {"name": "rest", "login_delay": "5m"},
    )
    client = worker.client()
    before = client.send(b"CAPA\r\n").split(b"\r\n")
    assert b"EXPIRE 30" in before
    assert b"LOGIN-DELAY 300 USER" in before
    assert b"TOP" not in before
    client.send(LOGIN)
    behind = client.send(b"CAPA\r\n").split(b"\r\n")
    assert b"LOGIN-DELAY 60" in behind
    assert b"UIDL" in behind
    assert b"TOP" not in behind


def test_sessions_that_no_rule_is_for_pass_as_they_are() -> None:
    """No hook of the plugin is left behind the login, so lines and replies pass untouched."""
    worker = Worker({"name": "joe", "when": {"user": ["joe"]}, "dele": "keep", "hide_larger": 10, "rate": 1000})
    joe, ann = worker.inside(worker.message(1)), worker.inside(worker.message(1), user="ann")
    hooks = ("on_maildrop", "on_command", "on_reply", "pace", "open_body", "on_message")
    assert not any(ann.hooks(hook) for hook in hooks)
    assert any(joe.hooks(hook) for hook in hooks)
    assert ann.lines("STAT", "LIST") == [f"+OK 1 {len(ann.server.messages[1])}", "+OK 1 messages"]
    assert joe.lines("STAT", "LIST") == ["+OK 0 0", "+OK"]


def test_two_of_them_do_not_get_into_each_others_way() -> None:
    """A config may use the plugin twice, say with one of them for a domain only."""
    worker = Worker(
        {"name": "first", "dele": "refuse", "sessions_per_address": 1},
        behind=[{"name": "second", "commands": {"deny": ["TOP"]}, "sessions_per_user": 2}],
    )
    client = worker.inside(worker.message(1))
    assert len(worker.store.held) == 2
    assert client.lines("DELE 1", "TOP 1 0") == [
        "-ERR [SYS/PERM] Messages cannot be deleted",
        "-ERR [SYS/PERM] Command is not allowed",
    ]
    assert worker.client().send(LOGIN).endswith(b"-ERR [IN-USE] Too many sessions at once\r\n")
    client.gone()
    worker.inside()
