"""Any octets are users who can be routed to, or one LineError that names a line of them."""

from __future__ import annotations

from popproxy_plugins.auth_file.users import read

from popproxy.api import LineError, server_host

SEEDS = [
    b"joe:{PLAIN}x:1:1:gecos:/home:sh:host=192.0.2.7 port=1110 starttls=any-cert destuser=%n@%d pass=m",
    b"ann:::::::allow_nets=local,10.0.0.0/8 nologin=no upstream=main userdb_quota_rule=*:bytes=1",
    b"# comment\n\nann:{SHA256.hex}" + b"0" * 64 + b"\nbob:\r\n",
    b"u:{SCRAM-SHA-256}4096,c2FsdA==,eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=,"
    b"eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=::::::disabled",
    b"c:$6$salt$" + b"a" * 86 + b"\nd:$2y$05$" + b"a" * 53 + b"\ne:$argon2id$v=19$m=16,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
]


def one_input(data: bytes) -> None:
    """See the head of this file. Raises AssertionError when that does not hold."""
    try:
        users = read(data)
    except LineError as error:
        assert 1 <= error.line <= data.count(b"\n") + 1, "a line that is not there"
        assert str(error), "a refusal without a reason"
        return
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        user = users.get(line.partition(":")[0])
        if user is None:
            continue
        assert not {"\0", "\r", "\n"} & set(user.name), "a name that breaks a line"
        assert user.destuser != "", "a name that cannot be sent"
        assert user.host is None or server_host(user.host) == user.host
        assert user.port is None or 1 <= user.port <= 65535
        user.welcome("192.0.2.1")
        user.welcome("unix")


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
