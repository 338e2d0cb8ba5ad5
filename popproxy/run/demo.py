"""``popproxy demo``: a proxy in front of the sample mailbox, with everything on, to try by hand.

It is the real thing: the config below is loaded, checked and compiled as a file of an administrator's would be.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from popproxy.config.load import load
from popproxy.net.worker import Worker
from popproxy.run.admin import Admin
from popproxy.run.process import signals_blocked
from popproxy.run.serve import serve
from popproxy.sample import SampleServer
from popproxy.sample.letters import write_sample

PORT_BASE = 1990
USER, PASSWORD = "demo", "demo"

_CONFIG = """
default_upstream = "sample"

[[listener]]
name = "pop3s"
bind = ["127.0.0.1:{tls}"]
tls = "implicit"

[[listener]]
name = "pop3"
bind = ["127.0.0.1:{clear}"]
tls = "starttls"

[tls]
self_signed_directory = "{state}"

[upstream.sample]
servers = ["pop3+clear://127.0.0.1:{sample}"]

[[plugin]]
use = "headers"
rules = [{{ add = "X-Popproxy", value = "{{listener}} for {{user}}" }}]

[admin]
bind = ["127.0.0.1:{admin}"{socket}]

[log]
format = "console"
"""

_TRY = """
popproxy demo: a proxy in front of a sample mailbox (user "{user}", password "{password}").
Try, in another terminal:

{commands}

Ctrl-C ends it. One log line per session follows.
"""

_COMMANDS = (
    ("curl -k pop3s://{user}:{password}@127.0.0.1:{tls}/", "list the mailbox over TLS"),
    ("curl -k pop3s://{user}:{password}@127.0.0.1:{tls}/1", "read a message: note the X-Popproxy header"),
    ("curl -k --ssl-reqd pop3://{user}:{password}@127.0.0.1:{clear}/", "the same by STLS"),
    ("openssl s_client -quiet -crlf -connect 127.0.0.1:{tls}", "speak POP3 yourself: CAPA, USER, PASS, STAT ..."),
    ("openssl s_client -quiet -crlf -starttls pop3 -connect 127.0.0.1:{clear}", "the same by STLS"),
    ("curl http://127.0.0.1:{admin}/metrics", "what Prometheus sees"),
    ("curl http://127.0.0.1:{admin}/readyz", "whether it serves"),
)
_LOOKS = (
    ("{popproxy} top --once --admin {socket}", "who is here, who was turned away"),
    ("{popproxy} tap --user {user} --admin {socket}", "what they say, from now on"),
    ("curl --unix-socket {path} http://localhost/v1/status", "the admin API"),
)
_LONGEST_SOCKET = 100
"""Octets of a Unix socket's path; Linux takes 107, others 103."""


def demo(port_base: int | None = None) -> int:
    """Run the demo on ports ``port_base`` (STLS), +5 (TLS) and +10 (admin) until Ctrl-C; 0 takes free ports."""
    base = PORT_BASE if port_base is None else port_base
    with tempfile.TemporaryDirectory(prefix="popproxy-demo-") as name:
        root = Path(name)
        write_sample(root / "Maildir")
        with _sample(root / "Maildir") as sample:
            ports = {"clear": base, "tls": base and base + 5, "admin": base and base + 10}
            config = root / "popproxy.toml"
            path = f"{root}/admin.sock"
            socket = f', "unix:{path}"' if len(path.encode()) <= _LONGEST_SOCKET else ""
            config.write_text(_CONFIG.format(**ports, sample=sample, state=root / "state", socket=socket))
            return serve(load(config).plan, "uvloop", _show)


async def _show(worker: Worker, admin: Admin | None) -> None:
    ports = {listener.front.listener.name: listener.address.rpartition(":")[2] for listener in worker.listeners}
    addresses = admin.addresses if admin is not None else []
    where = next((one.rpartition(":")[2] for one in addresses if not one.startswith("unix:")), "")
    sockets = [one for one in addresses if one.startswith("unix:")]
    shown = [*_COMMANDS, *(_LOOKS if sockets else ())]
    socket = sockets[0] if sockets else ""
    told = {
        "user": USER,
        "password": PASSWORD,
        "tls": ports["pop3s"],
        "clear": ports["pop3"],
        "admin": where,
        "popproxy": _command(),
        "socket": socket,
        "path": socket.removeprefix("unix:"),
    }
    commands = "\n".join(f"  # {what}\n  {command.format(**told)}" for command, what in shown)
    print(_TRY.format(user=USER, password=PASSWORD, commands=commands), flush=True)


def _command() -> str:
    """What to type for popproxy: after `make run` it is in no directory of PATH."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{sys.executable} -m popproxy"
    found = shutil.which("popproxy")
    return "popproxy" if found is not None and called.exists() and called.samefile(found) else str(called)


@contextmanager
def _sample(maildir: Path) -> Iterator[int]:
    """The sample mailbox in a thread and loop of its own; its port."""
    loop = asyncio.new_event_loop()
    server = SampleServer({USER: maildir}, {USER: PASSWORD})
    thread = threading.Thread(target=loop.run_forever, name="popproxy-sample", daemon=True)
    with signals_blocked():
        thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield server.port
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
