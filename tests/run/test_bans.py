"""``popproxy bans``: the command line, and a running proxy that hears of it at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from popproxy.run import asked
from popproxy.run.asked import EX_CONFIG, EX_OK, EX_UNAVAILABLE, EX_USAGE, EX_WRONG
from popproxy.run.bans import render
from popproxy.run.cli import main
from tests.run.process import Process, program
from tests.wireclient import WireClient

CONFIG = """
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
tls = "off"
auth_before_tls = "allow"
[upstream.main]
servers = ["pop3+clear://127.0.0.1:9"]
[admin]
bind = "{admin}"
[log]
format = "json"
"""
GUARD = '[[plugin]]\nuse = "brute_force"\nname = "{name}"\nconnect = "manual"\n'


def config(directory: Path, *names: str, admin: str = "") -> Path:
    path = directory / "popproxy.toml"
    text = CONFIG.format(admin=admin or f"unix:{directory}/admin.sock")
    path.write_text(text + "".join(GUARD.format(name=name) for name in names))
    return path


def bans(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["bans", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def greeting(process: Process) -> bytes:
    (line, *_) = process.until(lambda: process.lines("listening"))
    host, _, port = line["address"].rpartition(":")
    with WireClient((host, int(port))) as client:
        return client.greeting


def test_a_running_proxy_bans_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(config(tmp_path, "guard"))
    with program(tmp_path, "serve", "--config", path) as process:
        process.until(lambda: process.lines("started"))
        assert greeting(process).startswith(b"+OK")
        assert bans(capsys, "list", "--config", path) == (EX_OK, "nobody is banned\n", "")
        added = bans(capsys, "add", "127.0.0.1", "--for", "2h", "--reason", "said so", "--config", path)
        assert added == (EX_OK, "127.0.0.1/32 is banned for 2h\n", "")
        assert greeting(process).startswith(b"-ERR [SYS/PERM] Too many failed logins")
        code, text, _ = bans(capsys, "list", "--config", path)
        assert code == EX_OK
        assert text.splitlines()[1].split()[:2] == ["127.0.0.1/32", "manual"]
        assert text.endswith("said so\n")
        (ban,) = json.loads(bans(capsys, "list", "--json", "--config", path)[1])
        assert (ban["network"], ban["by"], ban["reason"]) == ("127.0.0.1/32", "manual", "said so")
        assert 7000 < ban["seconds"] <= 7200
        assert bans(capsys, "remove", "127.0.0.1", "--config", path) == (EX_OK, "127.0.0.1/32 is free\n", "")
        assert bans(capsys, "remove", "127.0.0.1", "--config", path)[0] == EX_WRONG
        assert greeting(process).startswith(b"+OK")
        code, text, _ = bans(capsys, "remove", "127.0.0.1", "--json", "--config", path)
        assert (code, json.loads(text)) == (EX_WRONG, {"network": "127.0.0.1/32", "removed": False})
        code, text, _ = bans(capsys, "add", "2001:db8::1", "--json", "--config", path)
        assert (code, json.loads(text)) == (EX_OK, {"network": "2001:db8::1/128", "seconds": 86400.0})
        # The addresses in the log are not what is banned: of IPv6 it is the network of 64 bits.
        assert bans(capsys, "add", "2001:db8::/64", "--config", path)[0] == EX_OK
        told = "; banned around it: 2001:db8::/64\n"
        assert bans(capsys, "remove", "2001:db8::1", "--config", path)[1] == f"2001:db8::1/128 is free{told}"
        found = bans(capsys, "remove", "2001:db8::2", "--config", path)
        assert found[:2] == (EX_WRONG, f"2001:db8::2/128 was not banned{told}")
        # A request of the admin listener is short.
        for reason in ("\U0001f6ab" * 500, "\x01\n" * 500, '"' * 500):
            assert bans(capsys, "add", "192.0.2.7", "--reason", reason, "--config", path)[0] == EX_OK
            kept = json.loads(bans(capsys, "list", "--json", "--config", path)[1])[0]["reason"]
            assert kept == ("?" * 200 if "\n" in reason else reason[:200])


@pytest.mark.parametrize(
    ("names", "arguments", "code", "told"),
    [
        ([], ["list"], EX_UNAVAILABLE, 'write [[plugin]] use = "brute_force"'),
        (["a", "b"], ["list"], EX_USAGE, "write --plugin and one of: a, b"),
        (["a", "b"], ["list", "--plugin", "c"], EX_USAGE, "'c' does not ban; write one of: a, b"),
        (["a"], ["list"], EX_UNAVAILABLE, "is popproxy running"),
        (["a"], ["add", "joe"], EX_USAGE, "is no address and no network"),
        (["a"], ["add", "10.0.0.0/8"], EX_USAGE, "/32, /24"),
        (["a"], ["add", "2001:db8::/32"], EX_USAGE, "/128, /64, /48"),
        (["a"], ["add", "192.0.2.7", "--for", "ever"], EX_USAGE, '"1h30m"'),
        (["a"], ["add"], EX_USAGE, "NETWORK"),
        (["a"], [], EX_USAGE, "WHAT"),
    ],
)
def test_what_cannot_be_done_is_told(
    names: list[str], arguments: list[str], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, *names)
    found = bans(capsys, *arguments, *(["--config", str(path)] if arguments else []))
    assert found[0] == code
    assert told in found[2]


def test_memory_needs_a_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, "a", admin="127.0.0.1:0")
    code, _, told = bans(capsys, "list", "--config", str(path))
    assert code == EX_UNAVAILABLE
    assert 'write [admin] bind = "unix:' in told


def test_a_bad_config(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(asked.CONFIG_VARIABLE, raising=False)
    path = tmp_path / "popproxy.toml"
    path.write_text("nonsense = 1\n")
    assert bans(capsys, "list", "--config", str(path))[0] == EX_CONFIG


def test_a_list_for_people() -> None:
    def ban(seconds: float, reason: str = "", network: str = "192.0.2.7/32") -> dict[str, Any]:
        return {"network": network, "by": "auto", "reason": reason, "since": 0, "seconds": seconds}

    lines = render([ban(59, "a\x1b[31mb"), ban(7300), ban(200_000, network="2001:db8::/64")]).splitlines()
    assert lines[0].split() == ["NETWORK", "BY", "SINCE", "LEFT", "REASON"]
    assert [line.split()[3] for line in lines[1:]] == ["59s", "2h", "2d"]
    assert lines[1].endswith("a?[31mb")
    assert len({line.index("auto") for line in lines[1:]}) == 1
