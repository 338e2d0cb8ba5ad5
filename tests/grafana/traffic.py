"""Scripted traffic that touches every metric: `play(stage)`, one round; play it twice for rates.

Each scene is what some client does, and asserts what it reads. What cannot be provoked from outside is not here:
UNTOUCHED says what, and why.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.grafana.stage import BROKEN, SPARE, Stage
from tests.integration.daemon import SECRETS, Account
from tests.wireclient import WireClient

HOST = "127.0.0.1"
WRONG = b"a-wrong-word-in-the-gate"
SECRETS.add(WRONG)

UNTOUCHED = {
    "admin_refused": "the stage has /v1 on no port; tests/run/test_admin_access.py is refused for every reason",
    "accept_failures": "no descriptor or memory is left: nothing a test should do to a shared machine",
    "log_records_dropped": "whoever reads the log would have to stall",
    "store_errors": "the store is in memory; tests/integration/test_redis.py takes one down",
    "store_posts_lost": "the same",
    "spooled_bytes": "a level that is mostly zero again when Prometheus looks",
    "overload_shedding": "the same, and a mark would have to be passed",
    "draining": "the process would have to end",
    "worker_restarts": "a worker would have to die; tests/run/test_supervisor.py kills some",
    "log_queue_bytes": "a level that is mostly zero again when Prometheus looks",
}
"""Metrics that are shown and stay zero."""
OF_WORKERS = ("worker_up", "worker_scrape_ok", "worker_restarts")
"""Metrics that one process does not have."""


def play(stage: Stage) -> None:
    """All scenes once, some of them side by side."""
    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(scene, stage) for scene in SCENES]:
            future.result()


def client(stage: Stage, listener: str, **options: object) -> WireClient:
    """A connection in the clear."""
    return WireClient((HOST, stage.ports[listener]), **options)  # type: ignore[arg-type]


def trusting(stage: Stage) -> ssl.SSLContext:
    """A client's TLS that believes the stage's certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stage.authority.configure_trust(context)
    return context


def inside(stage: Stage, role: str, listener: str = "clear") -> WireClient:
    """A client of this role that has logged in."""
    found = client(stage, listener)
    said = login(found, stage.accounts[role])
    assert said.startswith(b"+OK"), (role, said)
    return found


def login(found: WireClient, account: Account) -> bytes:
    """USER and PASS; the last reply."""
    return found.user_pass(account.name, account.password)


def quit_(found: WireClient) -> None:
    """QUIT, and the end."""
    assert found.single(b"QUIT").startswith(b"+OK")
    found.close()


def whole_session(stage: Stage) -> None:
    """Implicit TLS, all that a mail program asks, a scanner that looks at it."""
    with WireClient((HOST, stage.ports["pop3s"]), implicit=trusting(stage), name="localhost") as found:
        assert found.multi(b"CAPA").startswith(b"+OK")
        assert login(found, stage.accounts["reader"]).startswith(b"+OK")
        assert found.single(b"STAT").startswith(b"+OK 4")
        for command in (b"LIST", b"UIDL", b"RETR 1", b"RETR 2", b"TOP 3 1"):
            assert found.multi(command).startswith(b"+OK"), command
        assert found.single(b"RETR 99").startswith(b"-ERR")
        assert found.single(b"XNONSENSE").startswith(b"-ERR")
        replies = found.run([(b"NOOP", False)] * 5 + [(b"LIST 1", False), (b"RSET", False)], window=7)
        assert all(reply.startswith(b"+OK") for reply in replies), replies
        quit_(found)


def after_stls(stage: Stage) -> None:
    """STLS, then each SASL mechanism that passwords can do; before it nobody may log in."""
    account = stage.accounts["reader"]
    with client(stage, "pop3") as found:
        assert found.single(b"USER " + account.name).startswith(b"-ERR")
        found.stls(trusting(stage))
        assert found.auth_plain(account.name, account.password).startswith(b"+OK")
        quit_(found)
    with client(stage, "pop3") as found:
        found.stls(trusting(stage))
        assert found.auth_login(account.name, account.password).startswith(b"+OK")
        quit_(found)


def deletes(stage: Stage) -> None:
    """DELE and QUIT."""
    found = inside(stage, "scratch")
    assert found.single(b"DELE 1").startswith(b"+OK")
    quit_(found)


def failed_logins(stage: Stage) -> None:
    """A wrong password, a line that is no base64, an exchange that is broken off, a user who may not."""
    with client(stage, "clear") as found:
        assert found.user_pass(b"nobody", WRONG).startswith(b"-ERR [AUTH]")
    with client(stage, "clear") as found:
        assert found.auth_plain(b"nobody", WRONG).startswith(b"-ERR [AUTH]")
    with client(stage, "clear") as found:
        assert found.single(b"AUTH PLAIN !!!").startswith(b"-ERR")
        assert found.single(b"AUTH PLAIN").startswith(b"+ ")
        assert found.single(b"*").startswith(b"-ERR")
    with client(stage, "clear") as found:
        assert login(found, stage.accounts["denied"]).startswith(b"-ERR [SYS/PERM]")


def limited(stage: Stage) -> None:
    """More logins than a limit allows; each worker counts for itself, and the kernel chooses it."""
    for _ in range(40):
        with client(stage, "clear") as found:
            said = login(found, stage.accounts["limited"])
        if not said.startswith(b"+OK"):
            break
    assert said.startswith(b"-ERR [SYS/TEMP]"), said


def policies(stage: Stage) -> None:
    """A rule that keeps what is deleted and hides what is large."""
    found = inside(stage, "kept")
    assert found.single(b"STAT").startswith(b"+OK 4")
    assert found.single(b"DELE 1").startswith(b"+OK")
    quit_(found)


def looked_up(stage: Stage) -> None:
    """The HTTP back end lets one in, another one not, and fails at a third."""
    quit_(inside(stage, "web"))
    with client(stage, "clear") as found:
        assert found.user_pass(BROKEN, WRONG).startswith(b"-ERR [SYS/TEMP]")
    with client(stage, "clear") as found:
        assert found.user_pass(b"nobody@web.example", WRONG).startswith(b"-ERR [AUTH]")


def failing_plugin(stage: Stage) -> None:
    """A plugin that raises, and fails open."""
    found = inside(stage, "faulty")
    for _ in range(3):
        assert found.single(b"NOOP").startswith(b"+OK")
    quit_(found)


def upstreams(stage: Stage) -> None:
    """A group whose first server is dead; one that talks nonsense; the one that the gate kills later."""
    time.sleep(0.3)  # The dead server has its trial by a login, not by a probe.
    for _ in range(2):
        quit_(inside(stage, "group"))
    with client(stage, "clear") as found:
        assert login(found, stage.accounts["odd"]).startswith(b"-ERR [SYS/TEMP]")
    quit_(inside(stage, SPARE))


def narrow_upstream(stage: Stage) -> None:
    """All places taken: one waits and gets in, one waits in vain, one finds the queue full, one goes away."""
    account = stage.accounts["narrow"]
    line = b"USER " + account.name + b"\r\nPASS " + account.password + b"\r\n"
    holders: list[WireClient] = []
    while len(holders) < stage.workers:  # The kernel says which worker a client meets.
        found = client(stage, "clear")
        if login(found, account).startswith(b"+OK"):
            holders.append(found)
        else:
            found.close()
    waiting = [client(stage, "clear") for _ in range(4 * stage.workers)]
    for found in waiting:
        found.send(line)
    for found in waiting:
        assert found.read_line().startswith(b"+OK")
    refused = [found.read_line() for found in waiting]
    assert all(said.startswith(b"-ERR [SYS/TEMP]") for said in refused), refused
    waiting[0].send(line)
    assert waiting[0].read_line().startswith(b"+OK")
    time.sleep(0.1)
    for found in holders:
        quit_(found)
    waiting[0].read_line()
    for found in waiting:
        found.close()
    gone = stage.accounts["gone"]
    with inside(stage, "narrow"):
        found = client(stage, "clear")
        found.send(b"USER " + gone.name + b"\r\nPASS " + gone.password + b"\r\n")
        assert found.read_line().startswith(b"+OK")
        time.sleep(0.1)
        found.close()
        time.sleep(0.1)


def turned_away(stage: Stage) -> None:
    """A listener that is full, and one that wants a PROXY header."""
    with contextlib.ExitStack() as held:
        said = b""
        for _ in range(50):
            try:
                said = held.enter_context(client(stage, "few")).greeting
            except EOFError:
                said = b"-ERR closed"
            if said.startswith(b"-ERR"):
                break
        assert said.startswith(b"-ERR"), said
    header = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 110\r\n"
    with client(stage, "balanced", header=header) as found:
        assert login(found, stage.accounts["reader"]).startswith(b"+OK")
        quit_(found)
    with client(stage, "balanced", header=b"USER alice\r\n", greet=False) as found:
        with contextlib.suppress(ConnectionResetError):
            found.read_eof()


def failed_handshakes(stage: Stage) -> None:
    """A client that does not believe the certificate, one that speaks no TLS, one that only knocks."""
    address = (HOST, stage.ports["pop3s"])
    with contextlib.suppress(ssl.SSLError, OSError):
        WireClient(address, implicit=ssl.create_default_context(), name="localhost").close()
    with client(stage, "pop3s", greet=False) as found:
        with contextlib.suppress(OSError):
            found.send(b"USER alice\r\nPASS secret\r\n")
            found.read_eof()
    socket.create_connection(address, 5).close()
    context = trusting(stage)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with WireClient(address, implicit=context, name="localhost") as found:
        quit_(found)


def violations(stage: Stage) -> None:
    """What no client should send, and ends without QUIT."""
    with client(stage, "clear") as found:
        found.send(b"NOOP\nQUIT\r\n")
        with contextlib.suppress(OSError):
            found.read_eof()
    with client(stage, "clear") as found:
        found.send(b"A" * 5000 + b"\r\n")
        with contextlib.suppress(OSError, EOFError):
            found.read_line()
    inside(stage, "reader").close()
    found = inside(stage, "reader")
    found.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    found.close()


def slow_reader(stage: Stage) -> None:
    """A client that asks for a large message and takes it late."""
    found = inside(stage, "large")
    found.send(b"RETR 1\r\n")
    time.sleep(1.2)  # Longer than a scrape is apart: the octets that wait for it are seen.
    assert found.read_reply(multi=True).startswith(b"+OK")
    quit_(found)


def token(stage: Stage) -> None:
    """A mechanism that nobody offers here."""
    with client(stage, "clear") as found:
        found.send(b"AUTH XOAUTH2 " + base64.b64encode(b"user=x\1auth=Bearer y\1\1") + b"\r\n")
        assert found.read_line().startswith(b"-ERR")


SCENES: tuple[Callable[[Stage], None], ...] = (
    slow_reader, narrow_upstream, upstreams, whole_session, after_stls, deletes, failed_logins, limited, policies,
    looked_up, failing_plugin, turned_away, failed_handshakes, violations, token,
)  # fmt: skip
