"""Any headers of an auth_http back end are an answer that can be acted on, or a BadReply."""

from __future__ import annotations

from popproxy_plugins.auth_http.reply import TEXT, BadReply, Granted, Refused, read

from popproxy.api import HttpReply, Refuse, server_host

SEEDS = [
    b"Auth-Status: OK\nAuth-Server: 198.51.100.1\nAuth-Port: 110\nAuth-User: joe\nAuth-Pass: x y",
    b"auth-status: Invalid login or password\nAuth-Wait: 3\nAuth-Error-Code: 451 4.3.0",
    b"Auth-Status: WAIT\nAuth-Wait: 5",
    b"Auth-Status: [IN-USE] busy\nAuth-Wait: 99999999999",
    b"Auth-Status: OK\nAuth-Server: [2001:db8::1]\nAuth-Port: 995",
]


def one_input(data: bytes) -> None:
    """Each line is a header. Raises AssertionError when the head of this file does not hold."""
    lines = [line.decode("utf-8", "surrogateescape").partition(":") for line in data.split(b"\n")]
    try:
        answer = read(HttpReply(200, tuple((name, value.strip()) for name, _, value in lines)))
    except BadReply as error:
        assert str(error).isprintable(), "words that break a line of the log"
        return
    if isinstance(answer, Granted):
        assert server_host(answer.host) == answer.host and 1 <= answer.port <= 65535
        assert not {0, 10, 13} & set(answer.password or b""), "a password that breaks a line"
        assert not {"\0", "\r", "\n"} & set(answer.user or ""), "a name that breaks a line"
    elif isinstance(answer, Refused):
        assert len(answer.text) <= TEXT and "\n" not in answer.text
        Refuse(answer.text, answer.code, delay=answer.wait)
    else:
        assert answer.wait >= 0


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
