"""``python -m popproxy.sample``: a mail server to try things with."""

from __future__ import annotations

import poplib
import signal
import subprocess
import sys

import pytest

from popproxy.sample.__main__ import main


def test_it_serves_its_users_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-m", "popproxy.sample", "alice:secret", "bob:se:cret"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            told = program.stdout.readline()
            assert told.endswith(" for alice, bob\n")
            port = int(told.partition("127.0.0.1:")[2].split()[0])
            for user, password in ("alice", "secret"), ("bob", "se:cret"):
                client = poplib.POP3("127.0.0.1", port, timeout=10)
                client.user(user)
                client.pass_(password)
                count, _ = client.stat()
                client.dele(1)
                client.quit()
                assert count == 8, "each has letters of their own"
        finally:
            program.send_signal(signal.SIGTERM)
        assert program.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "USER:PASSWORD"),
        (["alice"], "'alice' is no user; write USER:PASSWORD, like alice:secret"),
        (["alice:secret", "--port", "70000"], "write another --port"),
    ],
)
def test_what_cannot_be_used_is_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
