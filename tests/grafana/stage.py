"""One real popproxy with something of everything: listeners, upstreams good and bad, plugins; and those around it.

`stage(...)` starts it all; traffic.py plays on it.
"""

from __future__ import annotations

import http.client
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import trustme

from tests.integration import dovecot as dovecot_server
from tests.integration import scanners
from tests.integration.backend import Backend, User, backend
from tests.integration.conftest import NAMES, issued, stored
from tests.integration.daemon import Account, Daemon, listening, private_directory
from tests.integration.dovecot import OPTIONAL, Dovecot
from tests.integration.packages import program
from tests.integration.proxy import FAULTS, PROGRAM, environment, leaks
from tests.ports import free_ports

LARGE = b"From: x@example.com\nSubject: a large one\n\n" + b"0123456789" * 7 + b"\n"
LARGE += b"All work and no play makes Jack a dull boy, and that for megabytes.\n" * 120_000
"""8 MiB: more than the kernel takes for a client that reads nothing."""
ROLES = (
    "reader",
    "scratch",
    "large",
    "denied",
    "kept",
    "limited",
    "faulty",
    "web",
    "group",
    "narrow",
    "odd",
    "gone",
)
"""Accounts, and what happens to those who use them."""
SPARE = "spare"
BROKEN = b"broken@web.example"
"""Whom the HTTP back end answers with nonsense."""

CONFIG = """
workers = {workers}
default_upstream = "main"

[[listener]]
name = "pop3s"
bind = ["127.0.0.1:{pop3s}"]
tls = "implicit"

[[listener]]
name = "pop3"
bind = ["127.0.0.1:{pop3}"]
tls = "starttls"

[[listener]]
name = "clear"
bind = ["127.0.0.1:{clear}"]
tls = "off"
auth_before_tls = "allow"

[[listener]]
name = "few"
bind = ["127.0.0.1:{few}"]
tls = "off"
auth_before_tls = "allow"
max_connections = 1

[[listener]]
name = "balanced"
bind = ["127.0.0.1:{balanced}"]
tls = "off"
auth_before_tls = "allow"
proxy_protocol = {{ trusted = ["127.0.0.0/8"] }}

[tls]
certificates = [{{ cert = "{cert}", key = "{key}" }}]

[upstream.main]
servers = ["pop3s://localhost:{main_tls}"]
ca_file = "{ca_file}"

[upstream.spare]
servers = ["pop3s://localhost:{spare_tls}"]
ca_file = "{ca_file}"
health = {{ fall = 1, backoff = "200ms", longest = "400ms", probe = "1s" }}

[upstream.group]
servers = ["pop3+clear://127.0.0.1:{nobody}", "pop3+clear://127.0.0.1:{main}"]
health = {{ fall = 1, backoff = "100ms", longest = "200ms", probe = "1s" }}

[upstream.narrow]
servers = ["pop3+clear://127.0.0.1:{main}"]
max_sessions = {workers}
queue = {workers}
queue_timeout = "1200ms"

[upstream.odd]
servers = ["pop3+clear://127.0.0.1:{odd}"]

[[plugin]]
use = "tests.grafana.faulty:Faulty"
faulty = "{faulty_user}"

[[plugin]]
use = "brute_force"
allow = ["127.0.0.0/8"]

[[plugin]]
use = "rate_limit"
limits = [{{ name = "polls", key = "user", on = "success", limit = 200, per = "1h" }},
          {{ name = "seldom", key = "user", on = "login", limit = 1, per = "1h", window = "fixed" }}]
when = {{ user = ["{limited_user}"] }}

[[plugin]]
use = "policy"

[[plugin.rules]]
name = "nobody"
when = {{ user = ["{denied_user}"] }}
login = "deny"

[[plugin.rules]]
name = "keep"
when = {{ user = ["{kept_user}"] }}
dele = "keep"
hide_larger = "1MiB"
sessions_per_user = 50

[[plugin]]
use = "auth_http"
when = {{ user = ["{web_user}", "*@web.example"] }}
servers = ["{backend}"]
cache_ttl = 60

[[plugin]]
use = "routing"
rules = [
  {{ user = ["{spare_user}"], upstream = "spare" }},
  {{ user = ["{group_user}"], upstream = "group" }},
  {{ user = ["{narrow_user}", "{gone_user}"], upstream = "narrow" }},
  {{ user = ["{odd_user}"], upstream = "odd" }},
]

[[plugin]]
use = "spam"
source = "rspamd"
servers = ["{scanner}"]
when = {{ user = ["{reader_user}"] }}
deadline = "20s"

[[plugin]]
use = "headers"
rules = [{{ add = "X-Fetched-Through", value = "{{listener}}" }}]

[admin]
bind = "127.0.0.1:{admin}"

[timeouts]
greeting = "2s"

[log]
format = "json"
level = "debug"
"""


class Odd:
    """A server that greets and then talks nonsense."""

    def __init__(self) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"+OK odd\r\n")
                while self.rfile.readline():
                    self.wfile.write(b"What did you say?\r\n")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """The end."""
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Stage:
    """What runs. `ports` are those of the listeners by name, and `admin`; `accounts` are by role."""

    daemon: Daemon
    ports: dict[str, int]
    accounts: dict[str, Account]
    authority: trustme.CA
    spare: Dovecot
    backend: Backend
    workers: int
    revived: list[Daemon] = field(default_factory=list)

    def get(self, path: str, accept: str = "") -> bytes:
        """GET from the admin listener; AssertionError unless it is 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["admin"], timeout=10)
        try:
            connection.request("GET", path, headers={"Accept": accept} if accept else {})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        assert response.status == 200, (response.status, body)
        return body

    def kill_spare(self) -> None:
        """The only server of the upstream `spare` is gone, at once."""
        (self.revived[-1] if self.revived else self.spare.daemon).stop()

    def revive_spare(self) -> None:
        """It is back where it was."""
        command = [program("dovecot"), "-F", "-c", str(self.spare.base / "dovecot.conf")]
        daemon = Daemon(command, self.spare.base / "log")
        self.revived.append(daemon)
        daemon.wait_until(lambda: listening(OPTIONAL, self.spare.port_tls), "Dovecot's port again")


@contextmanager
def stage(authority: trustme.CA, workers: int = 1) -> Iterator[Stage]:
    """All of it, ready. At its end popproxy must exit with 0, without a fault of its own or a password in its log."""
    with ExitStack() as running:
        base = running.enter_context(private_directory("stage"))
        main = running.enter_context(dovecot_server.start(*issued(authority, *NAMES)))
        spare = running.enter_context(dovecot_server.start(*issued(authority, *NAMES)))
        scanner = running.enter_context(scanners.rspamd())
        asked = running.enter_context(backend())
        odd = Odd()
        running.callback(odd.close)
        accounts = _accounts(main, spare)
        asked.answer = lambda request: {} if request.text("Auth-User") == BROKEN else asked.judge(request)
        asked.users[accounts["web"].name] = User(accounts["web"].password, OPTIONAL, main.port_tls)
        ca_file = base / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        certificate = stored(authority, base, *NAMES)
        names = ("pop3s", "pop3", "clear", "few", "balanced", "admin", "nobody")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        config = base / "popproxy.toml"
        config.write_text(
            CONFIG.format(
                **ports,
                **{f"{role}_user": account.user for role, account in accounts.items()},
                workers=workers,
                cert=certificate.cert,
                key=certificate.key,
                ca_file=ca_file,
                main=main.port,
                main_tls=main.port_tls,
                spare_tls=spare.port_tls,
                odd=odd.port,
                backend=asked.url,
                scanner=scanner.address,
            )
        )
        daemon = Daemon([*PROGRAM, "serve", "--config", str(config)], base / "log", environment=environment(base))
        made = Stage(daemon, ports, accounts, authority, spare, asked, workers)
        try:
            daemon.wait_until(lambda: _ready(made), "readiness")
            yield made
        finally:
            code = daemon.stop()
            for revived in made.revived:
                revived.stop()
        log = daemon.log.read_bytes()
        assert code == 0, f"popproxy exits with {code}\n{daemon.tail()}"
        assert not leaks(log), f"passwords in the log: {leaks(log)}"
        faults = [line for line in log.splitlines() if json.loads(line)["event"] in FAULTS]
        assert not faults, f"faults of popproxy itself: {faults[:3]}"


def _accounts(main: Dovecot, spare: Dovecot) -> dict[str, Account]:
    letters = [(f"letter{n}", b"From: a@example.com\nSubject: letter %d\n\nHello.\n" % n) for n in range(4)]
    more = {"scratch": letters * 5, "large": [("large", LARGE)], "kept": [*letters, ("large", LARGE)]}
    accounts = {role: main.account(more.get(role, letters)) for role in ROLES}
    others = [spare.account(letters) for _ in range(len(ROLES) + 1)]
    return accounts | {SPARE: others[-1]}


def _ready(made: Stage) -> bool:
    try:
        made.get("/readyz")
    except (OSError, AssertionError):
        return False
    return True
