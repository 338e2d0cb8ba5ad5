"""Dovecot (dovecot-pop3d) with its own configuration, directories, users and ports.

It treats a client whose address equals its own as secured, so the variants which must refuse a clear login sit on
other loopback addresses: a client there comes from 127.0.0.1. One Dovecot so serves all variants:

    127.0.0.1  TLS offered, clear logins allowed      127.0.0.3  no TLS at all
    127.0.0.2  TLS required before a login            127.0.0.4  as .1, and a session locks its maildrop
"""

from __future__ import annotations

import base64
import grp
import itertools
import os
import pwd
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.daemon import Account, Daemon, listening, private_directory, run
from tests.integration.packages import program
from tests.letters import DIFFICULT, write_maildir
from tests.ports import free_ports
from tests.wireclient import WireClient

ACCOUNTS = 250
OPTIONAL, REQUIRED, CLEAR, LOCKING = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
HOSTS = (OPTIONAL, REQUIRED, CLEAR, LOCKING)

UNSTUFFED = frozenset({"message_is_a_dot", "message_is_a_dot_line"})
"""Dovecot 2.3 does not stuff a dot which is the very first octet of a message. A message that is nothing but this
dot so ends its reply early, and its real end is left over as a line nobody asked for."""

LETTERS = [(name, letter) for name, letter in DIFFICULT if name not in UNSTUFFED]
"""The difficult letters that Dovecot can send."""

COMMON = """
protocols = pop3
base_dir = {base}/run
log_path = /dev/stderr
auth_mechanisms = plain login
auth_verbose = yes
auth_failure_delay = 0
auth_master_user_separator = *
mail_max_userip_connections = 1000
first_valid_uid = 1
pop3_uidl_format = %08Xu%08Xv
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service pop3-login {{
  chroot =
  {endless}
  client_limit = 1000
  inet_listener pop3 {{
    {address} = {hosts}
    port = {port}
  }}
  inet_listener pop3s {{
    {address} = {hosts}
    port = {port_tls}
    ssl = yes
  }}
}}
"""

OLD = """
state_dir = {base}/state
disable_plaintext_auth = no
listen = 127.0.0.1
ssl = yes
ssl_cert = <{base}/cert.pem
ssl_key = <{base}/key.pem
mail_location = maildir:{base}/mail/%u
passdb {{
  driver = passwd-file
  args = scheme=plain username_format=%u {base}/masters
  master = yes
  result_success = continue
}}
passdb {{
  driver = passwd-file
  args = scheme=plain username_format=%u {base}/users
}}
userdb {{
  driver = static
  args = uid={mail_uid} gid={mail_gid} home={base}/mail/%u
}}
local 127.0.0.2 {{
  ssl = required
  disable_plaintext_auth = yes
}}
local 127.0.0.3 {{
  ssl = no
}}
local 127.0.0.4 {{
  pop3_lock_session = yes
}}
"""

NEW = """
state_dir = {base}/state
auth_allow_cleartext = yes
listen = 127.0.0.1
ssl = yes
ssl_server_cert_file = {base}/cert.pem
ssl_server_key_file = {base}/key.pem
mail_driver = maildir
mail_path = {base}/mail/%{{user}}
passdb masters {{
  driver = passwd-file
  master = yes
  result_success = continue
  default_password_scheme = plain
  auth_username_format = %{{user}}
  passwd_file_path = {base}/masters
}}
passdb passwd-file {{
  default_password_scheme = plain
  auth_username_format = %{{user}}
  passwd_file_path = {base}/users
}}
userdb static {{
  fields {{
    uid = {mail_uid}
    gid = {mail_gid}
    home = {base}/mail/%{{user}}
  }}
}}
local 127.0.0.2 {{
  ssl = required
  auth_allow_cleartext = no
}}
local 127.0.0.3 {{
  ssl = no
}}
local 127.0.0.4 {{
  pop3_lock_session = yes
}}
"""


ALL_MECHANISMS = """auth_mechanisms = plain login scram-sha-256 scram-sha-1 cram-md5 apop oauthbearer xoauth2
passdb {{
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = {base}/oauth2.conf
}}
"""

OAUTH2 = """introspection_url = {url}
introspection_mode = post
force_introspection = yes
username_attribute = username
active_attribute = active
active_value = true
"""


class Dovecot:
    """A running Dovecot. `port` speaks POP3 with STLS, `port_tls` POP3 inside TLS, on every host above."""

    def __init__(self, base: Path, daemon: Daemon, port: int, port_tls: int, owner: tuple[int, int]) -> None:
        self.base, self.daemon, self.port, self.port_tls = base, daemon, port, port_tls
        self._owner = owner
        self.master = Account("overseer", b"dove-master-secret")
        """Logs in as anybody: ``user*overseer``, or with the user as authorization identity."""
        (base / "masters").write_bytes(_entry(self.master))
        self._numbers = itertools.count(1)
        self._ready = [Account(f"reader{number}", b"dove-secret-%d" % number) for number in range(ACCOUNTS, 0, -1)]
        with (base / "users").open("wb") as users:
            users.writelines(map(_entry, self._ready))

    def proxies(self, account: Account, host: str, port: int) -> None:
        """From now on sessions of ``account`` are not its own: it proxies them there, by TLS."""
        fields = f"::::::proxy=y host={host} port={port} ssl=any-cert\n"
        line = _entry(account).removesuffix(b"::::::\n") + fields.encode()
        users = (self.base / "users").read_bytes().replace(_entry(account), line)
        (self.base / "users").write_bytes(users)

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        os.killpg(self.daemon.process.pid, number)

    def account(self, letters: Iterable[tuple[str, bytes]] = (), password: bytes | None = None) -> Account:
        """A new maildrop holding `letters`; the password may be any octets."""
        account = self._ready.pop() if password is None else Account(f"special{next(self._numbers)}", password)
        maildir = self.maildir(account)
        write_maildir(maildir, letters)
        for path in (maildir, *maildir.rglob("*")):
            os.chown(path, *self._owner)
        if password is not None:
            with (self.base / "users").open("ab") as users:
                users.write(_entry(account))
            self.daemon.wait_until(lambda: self._knows(account), "sight of a new user")
        return account

    def _knows(self, account: Account) -> bool:
        with WireClient((OPTIONAL, self.port)) as client:
            return client.user_pass(account.name, account.password).startswith(b"+OK")

    def maildir(self, account: Account) -> Path:
        """Where the letters of `account` lie."""
        return self.base / "mail" / account.user

    def kept(self, account: Account) -> list[bytes]:
        """The letters which are in the maildrop now, as stored, sorted."""
        maildir = self.maildir(account)
        return sorted(path.read_bytes() for place in ("cur", "new") for path in (maildir / place).iterdir())

    def endings(self, account: Account) -> list[str]:
        """Its lines about ended sessions of `account`."""
        about = re.compile(rf"pop3\({re.escape(account.user)}\).*Disconnected:.*")
        return about.findall(self.log())

    def logins(self, account: Account) -> int:
        """How many sessions of `account` got in."""
        return len(re.findall(rf"(?:Login|Logged in): user=<{re.escape(account.user)}>", self.log()))

    def log(self) -> str:
        """Everything it logged."""
        return self.daemon.log.read_text(errors="replace")


def _entry(account: Account) -> bytes:
    """Its line of the passwd-file. Dovecot looks for new lines once a second at most."""
    return account.name + b":{PLAIN.b64}" + base64.b64encode(account.password) + b"::::::\n"


def _identity() -> tuple[str, tuple[int, int]]:
    """The users Dovecot runs as, and the owner of the mail: its own and nobody as root, else ourselves."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        return "default_internal_user = dovecot\ndefault_login_user = dovenull\n", (nobody.pw_uid, nobody.pw_gid)
    me, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    users = f"default_internal_user = {me}\ndefault_internal_group = {group}\ndefault_login_user = {me}\n"
    return users, (os.geteuid(), os.getegid())


def modern() -> bool:
    """Whether the installed version is 2.4 or later."""
    version = run([program("dovecot"), "--version"]).decode()
    found = re.match(r"(\d+)\.(\d+)", version)
    assert found is not None, f"dovecot --version says {version!r}"
    return (int(found[1]), int(found[2])) >= (2, 4)


def _configuration(base: Path, port: int, port_tls: int) -> tuple[str, tuple[int, int]]:
    """The text of dovecot.conf for the installed version (2.4 renamed half of the settings), and the mail's owner."""
    new = modern()
    users, (uid, gid) = _identity()
    text = (COMMON + (NEW if new else OLD)).format(
        base=base,
        port=port,
        port_tls=port_tls,
        mail_uid=uid,
        mail_gid=gid,
        hosts=" ".join(HOSTS),
        address="listen" if new else "address",
        endless="restart_request_count = unlimited" if new else "service_count = 0",
    )
    if new:
        text = text.replace("%08Xu%08Xv", "%{uid | hex(8)}%{uidvalidity | hex(8)}")
        text = f"dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n{text}"
    return text + users, (uid, gid)


@contextmanager
def start(certificate: bytes, key: bytes, introspection: str = "", more: str = "") -> Iterator[Dovecot]:
    """Dovecot with this certificate chain and key (PEM), ended when the block is left.

    `introspection` is the URL of an Issuer: with it Dovecot speaks every mechanism it knows. Not for modern() ones.
    `more` is more config.
    """
    with private_directory("dovecot") as base:
        port, port_tls = free_ports(2, *HOSTS)
        text, owner = _configuration(base, port, port_tls)
        if introspection:
            text = text.replace("auth_mechanisms = plain login\n", ALL_MECHANISMS.format(base=base))
            (base / "oauth2.conf").write_text(OAUTH2.format(url=introspection))
        (base / "dovecot.conf").write_text(text + more)
        (base / "cert.pem").write_bytes(certificate)
        (base / "key.pem").write_bytes(key)
        (base / "key.pem").chmod(0o600)
        (base / "mail").mkdir()
        os.chown(base / "mail", *owner)
        daemon = Daemon([program("dovecot"), "-F", "-c", str(base / "dovecot.conf")], base / "log")
        try:
            server = Dovecot(base, daemon, port, port_tls, owner)
            daemon.wait_until(lambda: listening(OPTIONAL, port) and listening(OPTIONAL, port_tls), "Dovecot's port")
            yield server
        finally:
            daemon.stop()
