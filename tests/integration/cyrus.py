"""Cyrus's POP3 server (cyrus-pop3d) with its own configuration, password database, spool and ports.

Cyrus makes a maildrop at the first login (autocreate). Letters are then laid into its spool as they are, with CRLF
for LF, and `reconstruct` takes them up: LMTP delivery would refuse or edit the difficult ones. It logs to syslog
only, so there is no log to show.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.integration.daemon import Account, Daemon, listening, private_directory, run
from tests.integration.packages import program, unpacked
from tests.ports import free_ports
from tests.wireclient import WireClient

BIN = Path("/usr/lib/cyrus/bin")

IMAPD_CONF = """configdirectory: {base}/config
defaultpartition: default
partition-default: {base}/spool
servername: localhost
cyrus_user: {user}
admins: nobody
unixhierarchysep: yes
mboxlist_db: twoskip
autocreate_quota: 0
allowplaintext: yes
allowstarttls: yes
popminpoll: 0
failedloginpause: 0
poptimeout: 10
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {base}/sasldb
sasl_mech_list: PLAIN LOGIN
tls_server_cert: {base}/cert.pem
tls_server_key: {base}/key.pem
duplicatesuppression: no
"""

CYRUS_CONF = """START {{
  recover cmd="{bin}/ctl_cyrusdb -C {conf} -r"
}}
SERVICES {{
  pop3 cmd="{pop3d} -C {conf}" listen="127.0.0.1:{port}" proto="tcp4" prefork=1
  pop3s cmd="{pop3d} -C {conf} -s" listen="127.0.0.1:{port_tls}" proto="tcp4" prefork=0
}}
EVENTS {{
}}
"""


class Cyrus:
    """A running Cyrus on 127.0.0.1: `port` speaks POP3 with STLS, `port_tls` POP3 inside TLS."""

    def __init__(self, base: Path, owner: pwd.struct_passwd, port: int, port_tls: int) -> None:
        self.base, self.port, self.port_tls = base, port, port_tls
        self._owner = owner
        self._numbers = itertools.count(1)

    def account(self, letters: Sequence[tuple[str, bytes]] = (), password: bytes | None = None) -> Account:
        """A new maildrop holding `letters`, in their order."""
        number = next(self._numbers)
        account = Account(f"cyrus{number}", password or b"cyru-secret-%d" % number)
        sasldb = self.base / "sasldb"
        run(
            [program("saslpasswd2"), "-p", "-c", "-f", str(sasldb), "-u", "localhost", account.user],
            stdin=account.password,
        )
        os.chown(sasldb, self._owner.pw_uid, self._owner.pw_gid)
        with WireClient(("127.0.0.1", self.port)) as client:
            reply = client.user_pass(account.name, account.password)
            assert reply.startswith(b"+OK"), f"Cyrus refuses a new account: {reply!r}"
            assert client.single(b"QUIT").startswith(b"+OK")
        spool = Path(self._tool("mbpath", f"user/{account.user}").decode().strip())
        for index, (_, letter) in enumerate(letters, 1):
            path = spool / f"{index}."
            path.write_bytes(re.sub(rb"(?<!\r)\n", b"\r\n", letter))
            path.chmod(0o600)
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)
        self._tool("reconstruct", f"user/{account.user}")
        return account

    def _tool(self, name: str, *arguments: str) -> bytes:
        return run([str(BIN / name), "-C", str(self.base / "imapd.conf"), *arguments])

    def log(self) -> str:
        """What its master wrote; its sessions log to syslog."""
        return (self.base / "log").read_text(errors="replace")


@contextmanager
def start(certificate: bytes, key: bytes) -> Iterator[Cyrus]:
    """Cyrus with this certificate chain and key (PEM), ended when the block is left."""
    with private_directory("cyrus") as base:
        owner = pwd.getpwnam("cyrus") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        port, port_tls = free_ports(2)
        conf = base / "imapd.conf"
        conf.write_text(IMAPD_CONF.format(base=base, user=owner.pw_name))
        pop3d = unpacked("cyrus-pop3d") / "usr/lib/cyrus/bin/pop3d"
        services = CYRUS_CONF.format(bin=BIN, conf=conf, pop3d=pop3d, port=port, port_tls=port_tls)
        (base / "cyrus.conf").write_text(services)
        (base / "cert.pem").write_bytes(certificate)
        (base / "key.pem").write_bytes(key)
        (base / "key.pem").chmod(0o600)
        for name in ("config", "config/db", "config/socket", "config/proc", "config/lock", "spool"):
            (base / name).mkdir()
        for path in (base, *base.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [str(BIN / "master"), "-C", str(conf), "-M", str(base / "cyrus.conf"), "-p", str(base / "pid")]
        daemon = Daemon(command, base / "log")
        try:
            daemon.wait_until(lambda: listening("127.0.0.1", port) and listening("127.0.0.1", port_tls), "its ports")
            yield Cyrus(base, owner, port, port_tls)
        finally:
            daemon.stop()
