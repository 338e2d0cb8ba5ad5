"""The configs of deploy/examples on this machine: paths, ports and mail servers are made up, all else is as shipped."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import trustme

from popproxy.run.process import signals_blocked
from popproxy.sample import SampleServer
from tests.run.process import PATIENCE, Process
from tests.wireclient import WireClient

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "deploy" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.toml"))
HOST = "localhost"
PASSWORD_AT_REDIS = "redis-secret-9Xq"
"""Of popproxy at Redis."""

_BIND = re.compile(r'"(?:\[::\]|127\.0\.0\.1):\d+"')


class Site:
    """A directory that is ``/etc/popproxy``, with the certificates that the examples name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._authority = trustme.CA()
        self.ca_file = directory / "upstream-ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca_file))
        leaf = self._authority.issue_cert(HOST, "127.0.0.1")
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(str(directory / "mail.pem"), append=True)
        leaf.private_key_pem.write_to_path(str(directory / "mail.key"))
        (directory / "mail.key").chmod(0o600)
        (directory / "auth.key").write_text("shared with the back end\n")
        (directory / "routes").write_text("boss@example.com business\n")
        self._authority.cert_pem.write_to_path(str(directory / "redis-ca.pem"))
        (directory / "redis").write_text(PASSWORD_AT_REDIS + "\n")
        phone = "ann+phone@example.com:{PLAIN}of the phone::::::destuser=ann@example.com pass=of-the-account\n"
        (directory / "app-passwords").write_text(phone)
        self.server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(self.server_tls)
        self.client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(self.client_tls)

    def installed(self, name: str, changes: Mapping[str, str] = {}) -> Path:
        """The example as a file here. ``changes`` replace words of it; each must be there."""
        text = (EXAMPLES / name).read_text("utf-8")
        for old, new in {**changes, "/etc/popproxy": str(self.directory)}.items():
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        text = text.replace("/var/lib/popproxy", str(self.directory))
        path = self.directory / name
        path.write_text(_BIND.sub('"127.0.0.1:0"', text), "utf-8")
        return path

    def connect(self, process: Process, listener: str, source: str | None = None, header: bytes = b"") -> WireClient:
        """A client of a listener of the running proxy. ``source`` is the address it comes from; ``header``: see
        WireClient."""
        (line,) = process.until(lambda: [one for one in process.lines("listening") if one["listener"] == listener])
        host, _, port = str(line["address"]).rpartition(":")
        implicit = self.client_tls if listener == "pop3s" else None
        address = (host, int(port))
        return WireClient(address, implicit=implicit, name=HOST, timeout=PATIENCE, source=source, header=header)


@contextmanager
def mail_server(
    directory: Path, users: Mapping[str, str], letters: Mapping[str, bytes], tls: ssl.SSLContext | None
) -> Iterator[int]:
    """A server with a Maildir for each of ``users`` (with their passwords), all holding ``letters``; its port."""
    for user in users:
        for folder in ("new", "cur", "tmp"):
            (directory / user / folder).mkdir(parents=True, exist_ok=True)
        for name, letter in letters.items():
            (directory / user / "new" / name).write_bytes(letter)
    loop = asyncio.new_event_loop()
    maildirs = {user: directory / user for user in users}
    server = SampleServer(maildirs, users, tls=tls, implicit_tls=tls is not None)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    with signals_blocked():
        thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(PATIENCE)
        yield server.port
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
