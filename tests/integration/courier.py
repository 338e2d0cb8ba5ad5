"""Courier's POP3 server (courier-pop) with its own users, directories and ports.

Courier's paths are compiled in: /etc/courier/userdb.dat, /run/courier/authdaemon/socket. So that it neither needs
nor touches the system's Courier it runs in a chroot below a temporary directory, made of the installed programs and
the libraries they are linked with. That takes root (CAP_SYS_CHROOT, which a plain container has).
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.integration.daemon import Account, Daemon, listening, private_directory, run
from tests.integration.packages import program, unpacked
from tests.letters import write_maildir
from tests.ports import free_ports

AUTHDAEMON = "/usr/lib/courier/courier-authlib/authdaemond"
MODULES = Path("/usr/lib/courier-authlib")
LOGIN = "/usr/lib/courier/courier/courierpop3login"
SESSION = "/usr/lib/courier/courier/courierpop3d"
MECHANISMS = "LOGIN PLAIN"

AUTHDAEMONRC = """authmodulelist="authuserdb"
authmodulelistorig="authuserdb"
daemons=3
authdaemonvar=/run/courier/authdaemon
DEBUG_LOGIN=0
DEFAULTOPTIONS=""
"""


class Courier:
    """A running Courier on 127.0.0.1: `port` speaks POP3 with STLS, `port_tls` POP3 inside TLS."""

    def __init__(self, root: Path, port: int, port_tls: int) -> None:
        self.root, self.port, self.port_tls = root, port, port_tls
        self._numbers = itertools.count(1)

    def account(self, letters: Sequence[tuple[str, bytes]] = (), password: bytes | None = None) -> Account:
        """A new maildrop holding `letters`. The password is text without line ends."""
        number = next(self._numbers)
        account = Account(f"courier{number}", password or b"cour-secret-%d" % number)
        home = self.root / "mail" / account.user
        write_maildir(home / "Maildir", letters)
        owner = pwd.getpwnam("nobody")
        for path in (home, *home.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        secret = run([program("openssl"), "passwd", "-6", "-stdin"], stdin=account.password + b"\n").decode().strip()
        userdb = self.root / "etc/courier/userdb"
        with userdb.open("a") as users:
            users.write(f"{account.user}\tuid={owner.pw_uid}|gid={owner.pw_gid}|home=/mail/{account.user}")
            users.write(f"|systempw={secret}\n")
        userdb.chmod(0o600)
        run([program("makeuserdb"), "-f", str(userdb)])
        return account

    def log(self) -> str:
        """Everything its processes logged."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.root.glob("*.log")))


def _furnish(root: Path) -> None:
    """The programs, what they are linked with, and empty directories."""
    for directory in ("dev", "etc/courier", "run/courier/authdaemon", "usr/lib", "usr/lib64", "mail", "tmp"):
        (root / directory).mkdir(parents=True)
    for name in ("lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    tree = unpacked("courier-pop")
    sources = {path: Path(path) for path in (program("couriertcpd"), program("couriertls"), AUTHDAEMON)}
    sources |= {path: tree / path.lstrip("/") for path in (LOGIN, SESSION)}
    sources |= {str(path): path for path in MODULES.glob("libauthuserdb.so*")}
    linked = run([program("ldd"), *map(str, sources.values())]).decode()
    sources |= {path: Path(path) for path in re.findall(r"(/\S+) \(0x", linked)}
    for path, source in sources.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    courier = pwd.getpwnam("courier")
    (root / "etc/passwd").write_text(f"courier:x:{courier.pw_uid}:{courier.pw_gid}::/:/bin/false\n")
    (root / "etc/group").write_text(f"courier:x:{courier.pw_gid}:\n")
    (root / "dev/null").touch(0o666)  # authdaemond opens it; an empty file will do, and needs no CAP_MKNOD


def _environment() -> Mapping[str, str]:
    return {
        "PATH": "/usr/bin:/usr/sbin",
        "AUTHMODULES": "authdaemon",
        "MAILDIRPATH": "Maildir",
        "POP3AUTH": MECHANISMS,
        "POP3AUTH_TLS": MECHANISMS,
        "POP3_STARTTLS": "YES",
        "POP3_TLS_REQUIRED": "0",
        "COURIERTLS": "/usr/bin/couriertls",
        "TLS_CERTFILE": "/etc/courier/pop3d.pem",
        "TLS_VERIFYPEER": "NONE",
        "TLS_PROTOCOL": "TLSv1.2++",
    }


@contextmanager
def start(certificate: bytes, key: bytes) -> Iterator[Courier]:
    """Courier with this certificate chain and key (PEM), ended when the block is left."""
    with private_directory("courier") as root, ExitStack() as running:
        _furnish(root)
        (root / "etc/courier/authdaemonrc").write_text(AUTHDAEMONRC)
        (root / "etc/courier/pop3d.pem").write_bytes(key + certificate)
        port, port_tls = free_ports(2)
        tcpd = [program("couriertcpd"), "-address=127.0.0.1", "-maxprocs=100", "-maxperip=100", "-nodnslookup"]
        if b"noidentlookup" in Path(program("couriertcpd")).read_bytes():  # newer ones do no such thing any more
            tcpd.append("-noidentlookup")
        tls = [program("couriertls"), "-server", "-tcpd"]
        commands = {
            "authdaemond": [AUTHDAEMON],
            "pop3": [*tcpd, str(port), LOGIN, SESSION, "Maildir"],
            "pop3s": [*tcpd, str(port_tls), *tls, LOGIN, SESSION, "Maildir"],
        }
        daemons = {}
        for name, command in commands.items():
            extra = {"POP3_TLS": "1", "POP3_STARTTLS": "NO"} if name == "pop3s" else {}
            log, environment = root / f"{name}.log", {**_environment(), **extra}
            daemons[name] = Daemon([program("chroot"), str(root), *command], log, environment=environment)
            running.callback(daemons[name].stop)
        socket = root / "run/courier/authdaemon/socket"
        daemons["authdaemond"].wait_until(socket.exists, "its socket")
        daemons["pop3"].wait_until(lambda: listening("127.0.0.1", port), "its port")
        daemons["pop3s"].wait_until(lambda: listening("127.0.0.1", port_tls), "its port")
        yield Courier(root, port, port_tls)
