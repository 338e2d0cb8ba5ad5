from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from popproxy import __version__
from popproxy.run import asked
from popproxy.run.asked import EX_CONFIG, EX_INTERRUPTED, EX_IOERR, EX_OK, EX_UNAVAILABLE, EX_USAGE
from popproxy.run.cli import main

GOOD = (
    '[[listener]]\nname = "pop3s"\nbind = ["127.0.0.1:9995"]\ntls = "implicit"\n'
    '[upstream.main]\nservers = ["pop3s://mail.example.com"]\n'
)


@pytest.fixture(autouse=True)
def no_config_of_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(asked.CONFIG_VARIABLE, raising=False)
    monkeypatch.setattr(asked, "SYSTEM_CONFIG", tmp_path / "system.toml")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.toml"
    file.write_text(GOOD.replace('"implicit"', '"implict"').replace("pop3s://mail", "imap://mail"))
    return file


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, str]]:
    """What serve() was called with."""
    calls: list[tuple[Any, str]] = []
    told: list[str] = []

    def serve(plan: Any, loop: str, warnings: list[str], again: Any = None) -> int:
        calls.append((plan, loop))
        told[:] = warnings
        return 3

    module = ModuleType("popproxy.run.serve")
    module.told = told  # type: ignore[attr-defined]
    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "popproxy.run.serve", module)
    return calls


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, popproxy.run.cli as cli; cli.parser().format_help(); "
        "print([name for name in sys.modules if name.split('.')[0] in sys.argv[1:]], "
        "len([name for name in sys.modules if name.startswith('popproxy')]))"
    )
    slow = ["pydantic", "pydantic_core", "uvloop", "cryptography", "prometheus_client", "aiohttp", "textual", "rich"]
    slow += ["asyncio", "ssl", "http", "json", "tomllib", "dataclasses"]
    done = subprocess.run([sys.executable, "-c", code, *slow], capture_output=True, text=True, timeout=30, check=True)
    heavy, ours = done.stdout.rsplit(maxsplit=1)
    assert heavy == "[]"
    assert int(ours) <= 8, "each command's own rooms are imported when it is run"


def test_help_and_version_as_a_module() -> None:
    run = [sys.executable, "-m", "popproxy"]
    shown = subprocess.run([*run, "--help"], capture_output=True, text=True, timeout=30, check=False)
    assert shown.returncode == 0
    for command in ("serve", "check", "explain", "config", "who", "status", "doctor", "demo", "three ways to start"):
        assert command in shown.stdout
    version = subprocess.run([*run, "--version"], capture_output=True, text=True, timeout=30, check=False)
    assert version.stdout == f"popproxy {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["unknown"],
        ["serve", "--conf", "x"],
        ["serve", "--config", "a", "--upstream", "b"],
        ["serve", "--loop", "trio"],
        ["explain"],
        ["explain", "--ip", "::1"],
        ["config"],
        ["demo", "--port-base", "80"],
        ["demo", "--port-base", "x"],
    ],
)
def test_a_wrong_command_line_is_64(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == EX_USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: popproxy")


@pytest.mark.parametrize("argv", [["--help"], ["serve", "--help"], ["explain", "--help"], ["config", "--help"]])
def test_help_is_0(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert "usage: popproxy" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["serve"], ["check"], ["explain", "--user", "u", "--ip", "::1"]])
def test_without_a_config_the_three_ways_are_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == EX_USAGE
    told = capsys.readouterr().err
    assert "--upstream pop3s://mail.example.com" in told
    assert "--config popproxy.toml" in told
    assert "$POPPROXY_CONFIG" in told


def test_check_of_a_good_config_is_one_line(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(good)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{good}: good: 1 listener, 1 upstream, 0 plugins; hash ")
    assert printed.out.count("\n") == 1
    assert printed.err.startswith(f"popproxy: warning: {good}:1: tls: there is no certificate")


def test_check_names_a_store_that_is_not_memory(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good.write_text(good.read_text() + f'\n[store]\nuse = "sqlite"\npath = "{good.parent}/store"\n')
    assert main(["check", "--config", str(good)]) == 0
    assert ": good: 1 listener, 1 upstream, 0 plugins, store sqlite; hash " in capsys.readouterr().out


def test_check_prints_every_problem(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(bad)]) == EX_CONFIG
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines() == [
        f'{bad}:4: listener[pop3s].tls: "implict" is not one of the choices; write "off", "starttls" or "implicit"',
        f"{bad}:6: upstream.main.servers[#1]: unknown scheme imap://; write pop3s://mail.example.com (TLS), "
        "pop3://mail.example.com (STLS required) or pop3+clear://mail.example.com (no TLS)",
    ]


def test_check_as_json(good: Path, bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "--config", str(bad)]) == EX_CONFIG
    result = json.loads(capsys.readouterr().out)
    assert (result["file"], result["ok"], result["warnings"]) == (str(bad), False, [])
    assert [(problem["line"], problem["key"]) for problem in result["problems"]] == [
        (4, "listener[pop3s].tls"),
        (6, "upstream.main.servers[#1]"),
    ]
    assert main(["check", "--json", "--config", str(good)]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["ok"], result["problems"], len(result["warnings"])) == (True, [], 1)
    assert printed.err == ""


def test_check_of_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(tmp_path / "x.toml")]) == EX_CONFIG
    assert "cannot be read: No such file or directory" in capsys.readouterr().out


def test_where_the_config_is_looked_for(
    good: Path, bad: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asked, "SYSTEM_CONFIG", good)
    assert main(["check"]) == 0
    monkeypatch.setenv(asked.CONFIG_VARIABLE, str(bad))
    assert main(["check"]) == EX_CONFIG
    assert main(["check", "--config", str(good)]) == 0


def test_serve_runs_the_plan_of_the_file(good: Path, served: list[tuple[Any, str]]) -> None:
    assert main(["serve", "--config", str(good), "--loop", "asyncio"]) == 3
    ((plan, loop),) = served
    assert (plan.source, loop) == (good, "asyncio")
    assert plan.admin is None


def test_serve_without_a_file(served: list[tuple[Any, str]]) -> None:
    argv = ["serve", "--upstream", "pop3s://mail.example.com", "--listen", "pop3s://127.0.0.1:9995"]
    assert main([*argv, "--listen", "pop3://127.0.0.1:1110"]) == 3
    plan, loop = served[0]
    assert [listener.name for listener in plan.listeners] == ["pop3s", "pop3"]
    assert str(plan.admin.binds[0]) == "127.0.0.1:9110"
    assert loop == "uvloop"
    assert "self-signed" in "\n".join(sys.modules["popproxy.run.serve"].told)
    assert main([*argv, "--admin", "off"]) == 3
    assert served[1][0].admin is None


def test_serve_tells_which_ports_it_chose(
    served: list[tuple[Any, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("popproxy.config.defaults._may_bind", lambda port: False)
    assert main(["serve", "--upstream", "pop3s://mail.example.com"]) == 3
    told = "\n".join(sys.modules["popproxy.run.serve"].told)
    assert "listening on 1995 (TLS) and 1110 (STLS)" in told and "there is no certificate" in told
    assert capsys.readouterr().err == "", "the log may be JSON on the same stream"


def test_serve_takes_the_admin_address_for_a_file_too(good: Path, served: list[tuple[Any, str]]) -> None:
    assert main(["serve", "--config", str(good), "--admin", "127.0.0.1:1"]) == 3
    assert [str(bind) for bind in served[0][0].admin.binds] == ["127.0.0.1:1"]


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["--listen", "pop3s://127.0.0.1:1", "--config", "x"], EX_USAGE, "--listen needs --upstream"),
        (["--upstream", "mail"], EX_CONFIG, "command line: --upstream: the URL has no scheme; write pop3s://mail"),
        (["--upstream", "pop3s://m", "--listen", "x"], EX_CONFIG, "command line: --listen: the URL has no scheme"),
        (["--upstream", "pop3s://m", "--admin", "x"], EX_CONFIG, "command line: --admin: 'x' has no port"),
    ],
)
def test_serve_refuses(
    argv: list[str], code: int, told: str, served: list[tuple[Any, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *argv]) == code
    assert told in capsys.readouterr().err
    assert served == []


def test_serve_with_a_bad_file_serves_nothing(
    bad: Path, served: list[tuple[Any, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--config", str(bad)]) == EX_CONFIG
    assert capsys.readouterr().err.count("\n") == 2
    assert served == []


def test_a_loop_that_is_not_installed(
    good: Path, served: list[tuple[Any, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", "--config", str(good), "--loop", "uvloop"]) == EX_UNAVAILABLE
    assert "write --loop asyncio" in capsys.readouterr().err
    assert main(["serve", "--config", str(good)]) == 3
    assert served[0][1] == "asyncio"


def test_explain(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["explain", "--user", "bob", "--ip", "192.0.2.1", "--config", str(good)]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("bob from 192.0.2.1\nat ") and "\n\nlistener pop3s  127.0.0.1:9995" in shown
    assert main([*argv, "--json"]) == 0
    assert [upstream["name"] for upstream in json.loads(capsys.readouterr().out)["upstreams"]] == ["main"]


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        ("2026-12-24T18:00+01:00", "2026-12-24T17:00:00+00:00"),
        ("2026-12-24T18:00:30Z", "2026-12-24T18:00:30+00:00"),
        ("2026-12-24T18:00", datetime(2026, 12, 24, 18).astimezone(UTC).isoformat()),
        ("2026-12-24", datetime(2026, 12, 24).astimezone(UTC).isoformat()),
    ],
)
def test_explain_of_another_time(at: str, shown: str, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["explain", "--user", "bob", "--config", str(good), "--at", at, "--mechanism", "scram-sha-256"]
    assert main([*argv, "--group", "staff", "--group", "dev", "--json"]) == EX_OK
    told = json.loads(capsys.readouterr().out)
    assert (told["at"], told["mechanism"], told["groups"]) == (shown, "SCRAM-SHA-256", ["staff", "dev"])


def test_explain_takes_any_user_and_no_address(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["explain", "--user", "b\udcff\x1bb", "--config", str(good)]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("b\\xff\\x1bb from 127.0.0.1\n")
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["listeners"][0]["login"] == "b\\xff\\x1bb"


def test_explain_without_a_file_and_without_tls(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["explain", "--user", "bob", "--ip", "::1", "--upstream", "pop3s://mail.example.com"]
    assert main([*argv, "--listener", "pop3", "--no-tls"]) == 0
    assert "login    no: auth_before_tls" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--at", "tomorrow"], "--at: 'tomorrow' is no time; write it like 2026-12-24T18:00"),
        (["--at", "0001-01-01T00:00+23:59"], "is no time"),
        (["--mechanism", "NTLM"], "--mechanism: 'NTLM' is none that popproxy has; write one of: USER, PLAIN"),
        (["--ip", "nowhere"], "--ip: 'nowhere' is no IP address; write it like 192.0.2.7"),
        (["--ip", "::1", "--listener", "imap"], "--listener: there is no listener 'imap'; write one of: pop3s"),
    ],
)
def test_explain_refuses(good: Path, argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--user", "bob", "--config", str(good), *argv]) == EX_USAGE
    assert told in capsys.readouterr().err


def test_explain_of_a_bad_file(bad: Path) -> None:
    assert main(["explain", "--user", "bob", "--ip", "::1", "--config", str(bad)]) == EX_CONFIG


def test_config_schema_example_and_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "popproxy.toml"
    assert main(["config", "example"]) == 0
    assert "listener" in tomllib.loads(capsys.readouterr().out)
    assert main(["config", "reference"]) == 0
    assert capsys.readouterr().out.startswith("# Configuration\n")


def test_config_reference_of_a_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "reference", "--plugin", "headers"]) == 0
    options = capsys.readouterr().out
    assert "| `rules` | list of tables | **required** |" in options
    page = tmp_path / "headers.md"
    begin, end = options.splitlines()[0], options.splitlines()[-1]
    page.write_text(f"# headers\n\n{begin}\nold\n{end}\n\nMore.\n")
    assert main(["config", "reference", "--plugin", "headers", "--page", str(page)]) == 0
    assert page.read_text() == f"# headers\n\n{options}\nMore.\n"


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["--plugin", "heders"], EX_USAGE, "--plugin: there is no plugin 'heders'; write one of: auth_"),
        (["--page", "x.md"], EX_USAGE, "--page needs --plugin"),
        (["--plugin", "headers", "--page", "empty.md"], EX_USAGE, "empty.md: has no place for the options; write "),
        (["--plugin", "headers", "--page", "none.md"], EX_IOERR, "none.md: "),
    ],
)
def test_config_reference_refuses(
    argv: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.md").write_text("# headers\n")
    assert main(["config", "reference", *argv]) == code
    assert told in capsys.readouterr().err



@pytest.mark.parametrize(("argv", "base"), [([], None), (["--port-base", "20000"], 20000), (["--port-base", "0"], 0)])
def test_demo(argv: list[str], base: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int | None] = []
    module = ModuleType("popproxy.run.demo")

    def demo(port_base: int | None) -> int:
        calls.append(port_base)
        return 5

    module.demo = demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "popproxy.run.demo", module)
    assert main(["demo", *argv]) == 5
    assert calls == [base]


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "popproxy", "config", "schema"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (EX_IOERR, "")


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("popproxy.run.people.who.who", interrupted)
    assert main(["who"]) == EX_INTERRUPTED
