"""Scanners that judge by a field of the message, X-Score, or misbehave as they are told; and what they were asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.net.upstream import PATIENCE, Gone, Peer, Upstream

REQUIRED = 6.0
_SCORE = re.compile(rb"^X-Score: (-?[\d.]+)", re.MULTILINE)

Fault = Callable[[Peer, bytes], None]
"""Plays instead of an answer; it gets the peer and the message."""


class Scanner:
    """``with Scanner("rspamd") as scanner``: an honest rspamd or spamd, until ``fault`` is set.

    ``scanned`` are the messages it got, ``most`` the largest number of them that it had at once.
    """

    def __init__(self, source: str, fault: Fault | None = None) -> None:
        self.source = source
        self.fault = fault
        self.scanned: list[bytes] = []
        self.heads: list[dict[bytes, bytes]] = []
        self.most = 0
        self.go = threading.Event()
        self.go.set()
        self._now = 0
        self._lock = threading.Lock()
        self._server = Upstream(self._play)

    @property
    def address(self) -> str:
        """As the plugin's config names it."""
        where = f"127.0.0.1:{self._server.port}"
        return f"http://{where}" if self.source == "rspamd" else where

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.go.set()
        self._server.__exit__(kind, error, at)

    def _play(self, peer: Peer) -> None:
        while True:
            first = peer.line()
            fields: dict[bytes, bytes] = {b"": first}
            while line := peer.line():
                name, _, value = line.partition(b": ")
                fields[name.lower()] = value
            message = peer.octets(int(fields[b"content-length"]))
            with self._lock:
                self.heads.append(fields)
                self.scanned.append(message)
                self._now += 1
                self.most = max(self.most, self._now)
            try:
                self.go.wait(PATIENCE)
                if self.fault is not None:
                    self.fault(peer, message)
                    return
                peer.send(self.answer(message))
            finally:
                with self._lock:
                    self._now -= 1
            if self.source == "spamd":
                return

    def answer(self, message: bytes) -> bytes:
        """What an honest scanner says."""
        found = _SCORE.search(message)
        score = float(found[1]) if found else 0.0
        spam = score >= REQUIRED
        if self.source == "spamd":
            head = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 6\r\nSpam: %b ; %.1f / %.1f\r\n\r\nA_B,CD"
            return head % (b"True" if spam else b"False", score, REQUIRED)
        action = "add header" if spam else "no action"
        reply = {"score": score, "required_score": REQUIRED, "action": action, "symbols": {"A_B": {}, "CD": {}}}
        body = json.dumps(reply).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def closes(peer: Peer, message: bytes) -> None:
    """Closes without a word."""


def resets(peer: Peer, message: bytes) -> None:
    """Resets."""
    peer.reset()


def babbles(peer: Peer, message: bytes) -> None:
    """Says what is no protocol."""
    peer.send(b"\x00\xff what?\r\n\r\n")


def halves(honest: Scanner) -> Fault:
    """Closes in the middle of its answer."""

    def fault(peer: Peer, message: bytes) -> None:
        answer = honest.answer(message)
        peer.send(answer[: len(answer) - 4])

    return fault


def floods(peer: Peer, message: bytes) -> None:
    """Never stops answering."""
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
    while True:
        peer.send(b"x" * 65536)


def sleeps(peer: Peer, message: bytes) -> None:
    """Says nothing until the proxy closes."""
    try:
        while True:
            peer.octets(1)
    except Gone:
        return
