"""``popproxy demo`` as a process: what it prints works, and it leaves nothing behind."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.process import PATIENCE, Process, get, program, script
from tests.wireclient import WireClient


def blind() -> ssl.SSLContext:
    """What ``curl -k`` does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def ports(process: Process) -> tuple[int, int, str]:
    """Those of the commands it prints: TLS, STLS, and the address of the metrics."""

    def printed() -> tuple[int, int, str] | None:
        text = process.out.read_text()
        found = (
            re.search(r"curl -k pop3s://demo:demo@127\.0\.0\.1:(\d+)/\n", text),
            re.search(r"curl -k --ssl-reqd pop3://demo:demo@127\.0\.0\.1:(\d+)/\n", text),
            re.search(r"curl http://(127\.0\.0\.1:\d+)/metrics", text),
        )
        if "Ctrl-C" not in text or not all(found):
            return None
        tls, clear, admin = (one[1] for one in found if one)
        return int(tls), int(clear), admin

    result: tuple[int, int, str] = process.until(printed)
    return result


@pytest.fixture
def near() -> Iterator[Path]:
    """A directory whose path leaves room for that of a Unix socket; pytest's own are long."""
    with tempfile.TemporaryDirectory(prefix="pop-") as name:
        yield Path(name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_it_prints_can_be_tried(number: signal.Signals, near: Path) -> None:
    with program(near, "demo", "--port-base", "0") as process:
        tls, clear, admin = ports(process)
        with WireClient(("127.0.0.1", tls), implicit=blind(), timeout=PATIENCE) as client:
            assert client.user_pass(b"demo", b"demo").startswith(b"+OK")
            count = int(client.single(b"STAT").split()[1])
            assert count >= 5
            for message in range(1, count + 1):
                letter = client.multi(b"RETR %d" % message)
                assert letter.startswith(b"+OK") and b"\r\nX-Popproxy: pop3s for demo\r\n" in letter
            assert client.single(b"QUIT").startswith(b"+OK")
        with WireClient(("127.0.0.1", clear), timeout=PATIENCE) as client:
            assert client.user_pass(b"demo", b"demo").startswith(b"-ERR")
            client.stls(blind())
            assert client.user_pass(b"demo", b"demo").startswith(b"+OK")
            assert b"X-Popproxy: pop3 for demo" in client.multi(b"TOP 1 0")
        status, metrics = get(admin, "/metrics")
        assert status == 200 and b'popproxy_messages_total{result="ok",verb="RETR"} %d' % count in metrics
        assert get(admin, "/readyz")[0] == 200
        looks = re.search(r"\n  (.*popproxy) (top --once --admin unix:\S+)\n", process.out.read_text())
        assert looks is not None
        seen = subprocess.run(
            [*shlex.split(looks[1]), *looks[2].split()],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert (seen.returncode, seen.stderr) == (0, "") and re.search(r"(?m)^demo +\S+ +100%$", seen.stdout)
        process.signal(number)
        assert process.wait() == 0
    log = process.err.read_text()
    assert len(re.findall(r"INFO +session ", log)) == 2 and "internal_error" not in log and "Traceback" not in log
    assert re.search(r"WARNING +self_signed", log)
    assert [path.name for path in near.iterdir() if "demo" in path.name] == []


def test_a_directory_too_deep_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    with program(deep, "demo", "--port-base", "0") as process:
        _, _, admin = ports(process)
        assert get(admin, "/readyz")[0] == 200
        assert " top --once" not in process.out.read_text()
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_a_port_in_use_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with program(tmp_path, "demo", "--port-base", str(port)) as process:
            assert process.wait() == 69
    assert f"127.0.0.1:{port}" in process.err.read_text() and "Traceback" not in process.err.read_text()
    assert [path.name for path in tmp_path.iterdir() if "demo" in path.name] == []


def test_nobody_who_reads_what_it_prints_is_no_traceback(tmp_path: Path) -> None:
    code = (
        "import os, sys; reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1); "
        "from popproxy.run.cli import main; code = main(['demo', '--port-base', '0']); os._exit(code)"
    )
    with script(tmp_path, code) as process:
        assert process.wait() == 74
    assert "Traceback" not in process.err.read_text()
    assert [path.name for path in tmp_path.iterdir() if "demo" in path.name] == []
