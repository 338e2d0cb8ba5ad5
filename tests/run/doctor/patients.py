"""Servers with something wrong, and what the doctor says of them."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from popproxy.run.cli import main
from popproxy.sample import SampleServer
from tests.net.upstream import Gone, Peer, Script

AUTHORITY = trustme.CA()
SECRET = b"sesame-opens-doors"


@dataclass(frozen=True)
class Told:
    """What was said of a server. ``words`` are the findings by word; of several the first."""

    code: int
    findings: list[dict[str, Any]]

    @property
    def words(self) -> dict[str, dict[str, Any]]:
        return {finding["word"]: finding for finding in reversed(self.findings)}

    @property
    def wrong(self) -> dict[str, str]:
        """What is not well: word and mark."""
        return {one["word"]: one["mark"] for one in self.findings if one["mark"] in ("warn", "fail")}


class Doctor:
    """Runs the command in this process."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._patch = monkeypatch
        self._capsys = capsys
        self.ca_file = directory / "ca.pem"
        AUTHORITY.cert_pem.write_to_path(str(self.ca_file))

    def run(self, *arguments: str, secret: bytes = SECRET) -> tuple[int, str, str]:
        """Exit code and both streams."""
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(secret + b"\n")))
        code = main(["doctor", *arguments])
        said = self._capsys.readouterr()
        assert SECRET.decode() not in said.out + said.err
        return code, said.out, said.err

    def see(self, url: str, *arguments: str, secret: bytes = SECRET) -> Told:
        """What it says of a server by URL."""
        trust = () if url.startswith("pop3+clear") else ("--ca-file", str(self.ca_file))
        return self._told(*self.run("--upstream", url, "--json", *trust, *arguments, secret=secret))

    def configured(self, url: str, more: str, *arguments: str, top: str = "", secret: bytes = SECRET) -> Told:
        """What it says of an upstream that a config describes further."""
        config = self.directory / "popproxy.toml"
        config.write_text(
            f'{top}\n[[listener]]\nname = "main"\nbind = ["127.0.0.1:1"]\ntls = "off"\nauth_before_tls = "allow"\n'
            f'[upstream.main]\nservers = ["{url}"]\n{more}\n'
        )
        return self._told(*self.run("--config", str(config), "--json", *arguments, secret=secret))

    @staticmethod
    def _told(code: int, out: str, err: str) -> Told:
        assert err == ""
        said = json.loads(out)
        assert said["ok"] is (code == 0)
        return Told(code, [finding for upstream in said["upstreams"] for finding in upstream["findings"]])


def serving(leaf: trustme.LeafCert, chain: bool = True) -> ssl.SSLContext:
    """A server's TLS with this certificate, ``chain``: and those between it and its authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pems = leaf.cert_chain_pems if chain else leaf.cert_chain_pems[:1]
    with leaf.private_key_pem.tempfile() as key, trustme.Blob(b"".join(pem.bytes() for pem in pems)).tempfile() as cert:
        context.load_cert_chain(cert, key)
    return context


GOOD = serving(AUTHORITY.issue_cert("localhost", "127.0.0.1"))
CAPA = b"+OK\r\nUSER\r\nUIDL\r\nTOP\r\nPIPELINING\r\nRESP-CODES\r\nSASL PLAIN\r\nSTLS\r\n.\r\n"
MAIL = {
    b"CAPA": CAPA,
    b"STAT": b"+OK 2 300\r\n",
    b"LIST": b"+OK\r\n1 100\r\n2 200\r\n.\r\n",
    b"UIDL": b"+OK\r\n1 a\r\n2 b\r\n.\r\n",
    b"QUIT": b"+OK bye\r\n",
    b"USER joe": b"+OK\r\n",
    b"PASS " + SECRET: b"+OK welcome\r\n",
}
"""An honest server's answers."""


def server(
    answers: dict[bytes, bytes] | None = None,
    greeting: bytes = b"+OK ready\r\n",
    tls: ssl.SSLContext | None = None,
    stls: ssl.SSLContext | None = None,
    header: bytes = b"",
) -> Script:
    """A script that answers like MAIL, but for ``answers``; an empty answer closes. ``tls`` begins at once, ``stls``
    when it is asked for. ``header`` must come first."""
    known = MAIL | (answers or {})

    def script(peer: Peer) -> None:
        if header and peer.socket.recv(len(header), socket.MSG_WAITALL) != header:
            return
        if tls is not None:
            peer.tls(tls)
        peer.send(greeting)
        while True:
            line = peer.line()
            if line == b"STLS" and stls is not None:
                peer.send(b"+OK\r\n")
                peer.tls(stls)
                continue
            answer = known.get(line, b"-ERR what?\r\n")
            if not answer:
                raise Gone
            peer.send(answer)
            if line == b"QUIT":
                raise Gone

    return script


def resolving(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], list[str]]) -> None:
    """Let every name have these addresses; ``answer`` may raise."""

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        # create_connection() asks too, for the address that the doctor has chosen.
        hosts = [host] if host.replace(".", "").isdigit() or ":" in host else answer()
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in hosts
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def never() -> list[str]:
    """A resolver that does not answer while the test runs."""
    threading.Event().wait(20)
    return []


@contextmanager
def running(sample: SampleServer) -> Iterator[int]:
    """The port of a sample server that runs in a thread."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(sample.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield sample.port
    finally:
        asyncio.run_coroutine_threadsafe(sample.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
