"""The proxies under load: for each its configuration, how it is started, and its version.

Every instance has its own directory and ports, one worker, a plain and an implicit-TLS listener, TLS 1.2 and 1.3, and
is ended by its own pid. A peer whose program is missing says so through `missing`.
"""

from __future__ import annotations

import contextlib
import getpass
import grp
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from popproxy_plugins.spam.config import SpamConfig
from popproxy_plugins.spam.marks import Marks
from popproxy_plugins.spam.verdict import Scored, Unscanned

from popproxy.api import HeaderFilter
from tests.bench import account
from tests.bench.certs import Certificate
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
MAX_SESSIONS = 12_000
_NGINX_MODULES = Path("/usr/lib/nginx/modules")


class PeerError(Exception):
    """A proxy that cannot be started, with what it said."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to set a proxy up: its certificate, TLS on the upstream leg or not, a plugin of popproxy's, and what
    popproxy leaves out (blind.BLIND)."""

    key: str = "ecdsa"
    upstream_tls: bool = False
    plugin: str = ""
    blind: str = ""


DEFAULT = Variant()


@dataclass(frozen=True, slots=True)
class Site:
    """Everything a configuration needs to know."""

    folder: Path
    plain: int
    tls: int
    extra: int
    upstream: int
    upstream_tls: bool
    certificate: Certificate
    plugin: str = ""
    scanner: int = 11333
    blind: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy: `write` puts its configuration into site.folder and gives the command that runs it in foreground."""

    name: str
    package: str
    program: str
    write: Callable[[Site], list[str]]
    version: Callable[[], str]
    both_legs: bool = True
    logs_in: bool = True

    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        if self.name == "popproxy":
            run = subprocess.run(
                [*_popproxy(), "serve", "--help"], env=environment(), capture_output=True, text=True, timeout=30
            )
            lines = run.stderr.strip().splitlines()
            return "" if run.returncode == 0 else f"popproxy does not start: {lines[-1] if lines else run.returncode}"
        if which(self.program) is None:
            return f"not installed (Debian package {self.package})"
        return ""


def _nginx(site: Site, buffer: str = "") -> list[str]:
    module = _NGINX_MODULES / "ngx_mail_module.so"
    load = f"load_module {module};" if module.exists() else ""
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"  {kind}_temp_path {site.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = f"""{load}
{user}
daemon off; worker_processes 1; worker_rlimit_nofile {2 * MAX_SESSIONS + 500};
pid {site.folder}/nginx.pid; error_log {site.folder}/error.log warn;
events {{ worker_connections {2 * MAX_SESSIONS}; }}
mail {{
  auth_http 127.0.0.1:{site.extra}/auth;
  pop3_auth plain; pop3_capabilities USER UIDL PIPELINING; proxy_pass_error_message on; {buffer}
  server {{ listen 127.0.0.1:{site.plain}; protocol pop3; }}
  server {{
    listen 127.0.0.1:{site.tls} ssl; protocol pop3; ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate {site.certificate.chain}; ssl_certificate_key {site.certificate.key};
  }}
}}
http {{
  access_log off;
{temporary}
  server {{
    listen 127.0.0.1:{site.extra};
    location = /auth {{
      add_header Auth-Status OK; add_header Auth-Server 127.0.0.1; add_header Auth-Port {site.upstream};
      return 200 "";
    }}
  }}
}}
"""
    path = site.folder / "nginx.conf"
    path.write_text(config)
    return [_need("nginx"), "-p", str(site.folder), "-e", str(site.folder / "error.log"), "-c", str(path)]


def _nginx_64k(site: Site) -> list[str]:
    return _nginx(site, buffer="proxy_buffer 64k;")


def _dovecot(site: Site) -> list[str]:
    login, internal, group = "dovenull", "dovecot", "dovecot"
    if os.geteuid() != 0:
        login = internal = getpass.getuser()
        group = grp.getgrgid(os.getegid()).gr_name
    upstream = f"host=127.0.0.1 port={site.upstream}" + (" ssl=any-cert" if site.upstream_tls else "")
    config = f"""protocols = pop3
base_dir = {site.folder}/run
state_dir = {site.folder}/state
log_path = {site.folder}/dovecot.log
default_login_user = {login}
default_internal_user = {internal}
default_internal_group = {group}
default_client_limit = {2 * MAX_SESSIONS}
disable_plaintext_auth = no
ssl = yes
ssl_min_protocol = TLSv1.2
ssl_cert = <{site.certificate.chain}
ssl_key = <{site.certificate.key}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
service pop3-login {{
  chroot =
  service_count = 0
  process_limit = 1
  process_min_avail = 1
  vsz_limit = 2G
  inet_listener pop3 {{
    address = 127.0.0.1
    port = {site.plain}
  }}
  inet_listener pop3s {{
    address = 127.0.0.1
    port = {site.tls}
    ssl = yes
  }}
}}
passdb {{
  driver = static
  args = proxy=y {upstream} nopassword=y
}}
"""
    path = site.folder / "dovecot.conf"
    path.write_text(config)
    return [_need("dovecot"), "-F", "-c", str(path)]


def _haproxy(site: Site) -> list[str]:
    server = f"server stub 127.0.0.1:{site.upstream}" + (" ssl verify none" if site.upstream_tls else "")
    config = f"""global
  maxconn {MAX_SESSIONS // 2}
  nbthread 1
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen plain
  bind 127.0.0.1:{site.plain}
  {server}
listen tls
  bind 127.0.0.1:{site.tls} ssl crt {site.certificate.both}
  {server}
"""
    path = site.folder / "haproxy.cfg"
    path.write_text(config)
    return [_need("haproxy"), "-db", "-q", "-f", str(path)]


HEAD = "X-Popproxy-Padding: " + "-" * 26 + "\r\nX-Spam-Flag: YES\r\n"
"""What the variant "headers" puts on top of each message."""
_SCANNED = """[[plugin]]
use = "spam"
source = "rspamd"
servers = ["http://127.0.0.1:SCANNER"]
max_size = 8388608
deadline = "30s"
"""
PLUGINS = {
    "": "",
    "unsubscribed": """[[plugin]]
use = "tests.bench.unsubscribed:Unsubscribed"
""",
    "headers": """[[plugin]]
use = "headers"
rules = [{ set = "X-Spam-Flag", value = "YES" }]
""",
    "spam": """[[plugin]]
use = "spam"
""",
    "spam-cold": f"""{_SCANNED}
cache = 0
""",
    "spam-cached": _SCANNED,
}
"""Tables of popproxy's configuration, by Variant.plugin. SCANNER is the port of the stub's rspamd."""


def spam_head(plugin: str) -> str:
    """What the variant `plugin`, one of those with `spam`, puts on top of each message."""
    scanned = "SCANNER" in PLUGINS[plugin]
    judged = Scored(1.5, False, 15.0, ("BENCH",)) if scanned else Unscanned.NOTHING
    marks = Marks(SpamConfig())
    made = HeaderFilter(lambda header: marks.write(header, judged), growth=marks.growth).feed(b"A: b\r\n\r\n")
    return made.removesuffix(b"A: b\r\n\r\n").decode()


def _popproxy_site(site: Site) -> list[str]:
    scheme, trust = ("pop3s", f'ca_file = "{site.certificate.chain}"') if site.upstream_tls else ("pop3+clear", "")
    config = f"""[[listener]]
name = "plain"
bind = ["127.0.0.1:{site.plain}"]
tls = "off"
auth_before_tls = "allow"

[[listener]]
name = "tls"
bind = ["127.0.0.1:{site.tls}"]
tls = "implicit"

[tls]
certificates = [{{ cert = "{site.certificate.chain}", key = "{site.certificate.key}" }}]

[upstream.main]
servers = ["{scheme}://127.0.0.1:{site.upstream}"]
{trust}

{PLUGINS[site.plugin].replace("SCANNER", str(site.scanner))}
[admin]
bind = "127.0.0.1:{site.extra}"

[log]
format = "json"
"""
    path = site.folder / "popproxy.toml"
    path.write_text(config)
    return [*_popproxy(site.blind), "serve", "--config", str(path)]


def _popproxy(blind: str = "") -> list[str]:
    return [sys.executable, "-m", "tests.bench.blind", blind] if blind else [sys.executable, "-m", "popproxy"]


def environment() -> dict[str, str]:
    """This environment, with the repository's own popproxy first on the path."""
    path = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in path if entry)}


def which(program: str) -> str | None:
    """The program's path; daemons live where users' paths may not lead."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _need(program: str) -> str:
    found = which(program)
    if found is None:
        raise PeerError(f"{program} is not installed")
    return found


def _said(*command: str) -> Callable[[], str]:
    """What a version command prints: the first version number in it."""

    def ask() -> str:
        if which(command[0]) is None:
            return "not installed"
        run = subprocess.run(
            [_need(command[0]), *command[1:]], capture_output=True, text=True, timeout=30, env=environment()
        )
        match = re.search(r"\d+\.\d+[.\d]*", run.stdout + run.stderr)
        return match[0] if match and run.returncode == 0 else "not here"

    return ask


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("popproxy", "", sys.executable, _popproxy_site, _said(sys.executable, "-m", "popproxy", "--version")),
        Peer("nginx", "libnginx-mod-mail", "nginx", _nginx, _said("nginx", "-v"), both_legs=False),
        Peer("nginx64k", "libnginx-mod-mail", "nginx", _nginx_64k, _said("nginx", "-v"), both_legs=False),
        Peer("dovecot", "dovecot-pop3d", "dovecot", _dovecot, _said("dovecot", "--version")),
        Peer("haproxy", "haproxy", "haproxy", _haproxy, _said("haproxy", "-v"), logs_in=False),
    )
}
PACKAGES = ("nginx-light", "libnginx-mod-mail", "dovecot-core", "dovecot-pop3d", "haproxy")


def install() -> str:
    """apt-get the peers that are missing, when root; a sentence about what went wrong, or nothing."""
    if all(which(peer.program) for peer in PEERS.values()) and _NGINX_MODULES.joinpath("ngx_mail_module.so").exists():
        return ""
    if os.geteuid() != 0 or which("apt-get") is None:
        return "not root, or no apt-get: peers that are missing stay missing"
    run = subprocess.run(
        ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return "" if run.returncode == 0 else f"apt-get install failed: {run.stderr.strip()[-300:]}"


class Instance:
    """A running proxy. `plain` and `tls` are its ports, `pid` the root of its processes."""

    def __init__(self, peer: Peer, variant: Variant, stub: dict[str, int], certificate: Certificate, core: int) -> None:
        self.peer = peer
        self.folder = Path(tempfile.mkdtemp(prefix="ppb-", dir="/tmp"))
        self.folder.chmod(0o755)
        plain, tls, extra = free_ports(3)
        upstream = stub["tls" if variant.upstream_tls else "plain"]
        more = (variant.upstream_tls, certificate, variant.plugin, stub["scanner"], variant.blind)
        self.site = Site(self.folder, plain, tls, extra, upstream, *more)
        self.plain, self.tls = self.site.plain, self.site.tls
        self._log = self.folder / "output.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                peer.write(self.site),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment(),
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        self.pid = self._process.pid
        try:
            for port in (self.plain, self.tls):
                self._await(port)
        except PeerError:
            self.stop()
            raise

    def _await(self, port: int) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        said = "; ".join(path.read_text(errors="replace")[-600:].strip() for path in sorted(self.folder.glob("*.log")))
        raise PeerError(f"{self.peer.name} does not listen on port {port}: {said}")

    def stop(self) -> None:
        """TERM, then KILL after ten seconds, its own processes only; its directory goes too."""
        if self._process.poll() is None:
            members = account.family(self.pid)
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                for member in reversed(members):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(member, signal.SIGKILL)
                self._process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)
