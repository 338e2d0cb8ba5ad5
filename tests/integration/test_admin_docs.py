"""Every command of docs/admin.md, as it is written there, against a running popproxy."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.packages import program as installed
from tests.net.upstream import Upstream, answering
from tests.run.process import PATIENCE, ROOT, program
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

PAGE = ROOT / "docs" / "admin.md"
TOKEN = "0123456789abcdef-the-token"
CONFIG = """
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
tls = "off"
auth_before_tls = "allow"
[upstream.main]
servers = ["{server}"]
[[plugin]]
use = "brute_force"
[admin]
bind = ["127.0.0.1:0", "unix:{socket}"]
token = {{ file = "{token}" }}
"""


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("curl ")]


def test_each_path_has_a_command_that_works(tmp_path: Path) -> None:
    installed("curl")
    token, socket = tmp_path / "token", tmp_path / "admin.sock"
    token.write_text(TOKEN + "\n")
    document = json.loads((ROOT / "docs" / "admin.openapi.json").read_text())
    left = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        path = tmp_path / "popproxy.toml"
        path.write_text(CONFIG.format(server=upstream.url, socket=socket, token=token))
        with program(tmp_path, "serve", "--config", str(path)) as process:
            process.until(lambda: process.lines("started"))
            port = process.lines("admin_listening")[0]["address"]
            host, _, number = process.lines("listening")[0]["address"].rpartition(":")
            # The drain ends the process: it is the last.
            for command in sorted(commands(), key=lambda line: "/v1/drain" in line):
                with WireClient((host, int(number)), timeout=PATIENCE) as client:
                    words = {
                        "/run/popproxy/admin.sock": str(socket),
                        "/etc/popproxy/admin.token": str(token),
                        "127.0.0.1:9110": port,
                        "SERVER": upstream.url.rpartition("/")[2],
                        "SESSION": newest(socket),
                    }
                    asked = command
                    for word, meant in words.items():
                        asked = asked.replace(word, meant)
                    asked += " --noproxy '*' -w '\\n%{http_code}'"
                    done = subprocess.run(["sh", "-c", asked], capture_output=True, timeout=PATIENCE)
                    body, _, status = done.stdout.decode().rpartition("\n")
                    assert status in ("200", "202"), (command, done.stdout, done.stderr)
                    # Nobody says anything while somebody looks on here.
                    looks = "/v1/tap" in command
                    assert not body.strip() if looks else body.startswith(("{", "id: ")), command
                    left -= {used(command, left)}
                    assert client.greeting.startswith(b"+OK")
            assert process.wait() == 0
    assert not left, "paths without a command"


def newest(socket: Path) -> str:
    told = subprocess.run(
        ["curl", "-sS", "--unix-socket", str(socket), "http://localhost/v1/sessions"], capture_output=True, check=True
    )
    return str(json.loads(told.stdout)["sessions"][-1]["id"])


def used(command: str, left: set[tuple[str, str]]) -> tuple[str, str]:
    """The method and path that a command is about."""
    found = re.search(r"-X (\w+)", command)
    method = found[1] if found else "GET"
    where = re.search(r"http://[^/]+(/v1/[^\s'?]*)", command)
    assert where is not None, command
    for _, path in sorted(left):
        pattern = re.sub(r"\{\w+\}", r"[^/]+", path)
        if re.fullmatch(pattern, where[1]) and (method, path) in left:
            return method, path
    return method, where[1]
