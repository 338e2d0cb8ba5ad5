"""brute_force with a real Redis: a small attack on four proxies at once, and bans that all processes see."""

from __future__ import annotations

import asyncio
import json
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import ClassVar

import pytest

from tests.bench.spray import Scale, in_redis
from tests.integration.conftest import Start
from tests.integration.daemon import SECRETS
from tests.integration.proxy import PROGRAM, Proxy, Setup, environment
from tests.integration.redis_server import server
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

WRONG = b"a-guessed-password"
SECRETS.add(WRONG)
CONFIG = """
[[plugin]]
use = "brute_force"
address = {{ pairs = 3 }}
delays = ["1ms"]
[[plugin]]
use = "auth_file"
path = {users}
[store]
{store}
"""


def test_an_attack_on_four_proxies_with_one_redis() -> None:
    scale = Scale(users=200, targets=10, attackers=100, hours=1.0)
    with server() as redis:
        report = asyncio.run(in_redis(scale, f"redis://127.0.0.1:{redis.port}"))
        assert report.refused == 0
        assert report.tried == 100 * 60
        assert 100 <= report.through <= 100 * 3 + 10 * 20
        # Nothing stays for ever.
        keys = redis.ask("--scan").splitlines()
        assert keys
        assert [key for key in keys if redis.ask("TTL", key) == "-1"] == []


class Slow(socketserver.StreamRequestHandler):
    """A server that has not yet said no to the password."""

    asked: ClassVar[SimpleQueue[bytes]] = SimpleQueue()

    def handle(self) -> None:
        self.wfile.write(b"+OK\r\n")
        for line in self.rfile:
            if line.startswith(b"PASS "):
                self.asked.put(line)
            else:
                self.wfile.write(b"+OK\r\n" if line.startswith(b"USER ") else b"-ERR\r\n")


@pytest.mark.parametrize("how", ["closes TLS", "resets"])
def test_who_goes_away_before_the_server_says_no_has_failed(start: Start, setup: Setup, how: str) -> None:
    plugins = '[[plugin]]\nuse = "brute_force"\naddress = { names = 3, delay = 0 }\n'
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Slow) as slow:
        slow.daemon_threads = True
        threading.Thread(target=slow.serve_forever, daemon=True).start()
        address = f"pop3+clear://127.0.0.1:{slow.server_address[1]}"
        proxy = start(replace(setup, server=address, upstream=plugins))
        port, implicit = (proxy.pop3s, context) if "TLS" in how else (proxy.clear, None)
        for number in range(3):
            with WireClient(("127.0.0.1", port), implicit=implicit) as client:
                client.send(b"USER user%d\r\n" % number)
                assert client.read_line().startswith(b"+OK")
                client.send(b"PASS " + WRONG + b"\r\n")
                assert Slow.asked.get(timeout=20) == b"PASS " + WRONG + b"\r\n"
                if "resets" in how:
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            lines = proxy.wait_for_sessions(number + 1)
            assert {line["state"] for line in lines} == {"logging_in"}
        with WireClient(("127.0.0.1", port), implicit=implicit) as client:
            assert client.user_pass(b"joe", WRONG).startswith(b"-ERR [SYS/TEMP] Too many failed logins")
        slow.shutdown()


def popproxy(proxy: Proxy, *arguments: str) -> tuple[int, str]:
    command = [*PROGRAM, *arguments, "--config", str(proxy.config)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(proxy.config.parent), timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def guess(proxy: Proxy, name: bytes) -> bytes:
    with WireClient(("127.0.0.1", proxy.clear)) as client:
        return client.user_pass(name, WRONG)


def shared(start: Start, setup: Setup, directory: Path, store: str) -> tuple[Proxy, Proxy]:
    users = directory / "users"
    users.write_text("joe:{PLAIN}another-password::::::\n")
    plugins = CONFIG.format(users=json.dumps(str(users)), store=store)
    both = replace(setup, server="pop3://127.0.0.1:1", upstream=plugins)
    return start(both), start(both)


def bans_are_shared(first: Proxy, second: Proxy) -> None:
    failed, refused = b"-ERR [AUTH]", b"-ERR [SYS/TEMP] Too many failed logins"
    for number, proxy in enumerate((first, second, first)):
        assert guess(proxy, b"user%d" % number).startswith(failed)
    assert guess(second, b"joe").startswith(refused)
    assert guess(first, b"joe").startswith(refused)
    code, told = popproxy(second, "bans", "list", "--json")
    assert code == 0, told
    (ban,) = json.loads(told)
    assert (ban["network"], ban["by"]) == ("127.0.0.1/32", "auto")
    assert "3 pairs, 3 names" in ban["reason"]
    assert popproxy(first, "bans", "remove", "127.0.0.1") == (0, "127.0.0.1/32 is free\n")
    assert guess(second, b"joe").startswith(failed)
    code, told = popproxy(second, "bans", "add", "127.0.0.0/24", "--for", "1h", "--reason", "said so")
    assert code == 0, told
    assert guess(first, b"joe").startswith(b"-ERR [SYS/PERM]")


def test_bans_in_redis(start: Start, setup: Setup, tmp_path: Path) -> None:
    with server() as redis:
        first, second = shared(start, setup, tmp_path, f'use = "redis"\nurl = "redis://127.0.0.1:{redis.port}"')
        bans_are_shared(first, second)
        redis.stop()
        # Down: logins pass uncounted, and the command says what is wrong.
        assert guess(first, b"joe").startswith(b"-ERR [AUTH]")
        code, told = popproxy(first, "bans", "list")
        assert code == 69
        assert "the store: " in told
        redis.start()
        # Each goes on by itself when it has found the store again.
        numbers = count()
        for proxy in (first, second):
            proxy.daemon.wait_until(
                lambda proxy=proxy: guess(proxy, b"again%d" % next(numbers)).startswith(b"-ERR [SYS/TEMP]"), "a ban"
            )


def test_bans_in_sqlite(start: Start, setup: Setup, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    first, second = shared(start, setup, tmp_path, f'use = "sqlite"\npath = {json.dumps(str(path))}')
    bans_are_shared(first, second)


def test_a_file_that_is_not_there_is_not_made(setup: Setup, tmp_path: Path) -> None:
    path = tmp_path / "popproxy.toml"
    path.write_text(
        '[[listener]]\nname = "a"\nbind = ["127.0.0.1:0"]\ntls = "implicit"\n[upstream.main]\nservers = ["pop3s://a.example"]\n'
        f'[[plugin]]\nuse = "brute_force"\n[store]\nuse = "sqlite"\npath = {json.dumps(str(tmp_path / "no.sqlite"))}\n'
    )
    command = [sys.executable, "-m", "popproxy", "bans", "list", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(tmp_path), timeout=60)
    assert done.returncode == 69
    assert "popproxy makes it when it starts" in done.stderr
    assert not (tmp_path / "no.sqlite").exists()
