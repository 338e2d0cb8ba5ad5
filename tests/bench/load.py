"""The load generator: jobs in, figures out, one JSON line each, for as long as standard input is open.

Jobs (`op`):
  target   port, tls, quick, resumed   where the following jobs connect
  sessions script, clients, total,     whole sessions from connect to close; a unit is a session or a message
           head
  open     clients, user, at_once      log clients in and hold them
  drive    script, count, at_once,     run a script on every held session; `head` is what the proxy puts in front of
           head                        each message (not for noop)
  close                                QUIT the held sessions
A reply holds `units`, `seconds`, `p50_ms`, `octets`, `resumed` (share of handshakes), or `error`.
Every octet of every RETR is compared with what mail.py says it must be.
"""

from __future__ import annotations

import json
import ssl
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench import mail
from tests.bench.wires import Client, Driver, LoadError, Target, Wire

DEPTH = 64
Job = dict[str, Any]
Figures = dict[str, Any]
Script = Callable[[Wire, mail.Maildrop, bytes], Client]


def maildrop(job: Job) -> mail.Maildrop:
    """The maildrop a job names, ready to be compared with."""
    drop = mail.Maildrop.named(job["user"])
    mail.prepare(drop)
    return drop


def login(wire: Wire, user: str) -> Client:
    """Greeting, USER, PASS: what an ordinary client sends."""
    yield from wire.line()
    yield from wire.send(b"USER %s\r\n" % user.encode())
    yield from wire.line()
    yield from wire.send(b"PASS secret\r\n")
    yield from wire.line()


def retrieve(wire: Wire, number: int, size: int, head: bytes = b"") -> Client:
    """One RETR: ask, status line, every octet."""
    yield from wire.send(b"RETR %d\r\n" % number)
    yield from wire.line()
    if head:
        yield from wire.exactly(head)
    yield from wire.exactly(mail.wire(number, size))


def listings(wire: Wire, drop: mail.Maildrop, sent: bool, grown: int = 0) -> Client:
    """STAT, UIDL, LIST; the commands are out already when `sent`. Each message is `grown` octets larger."""
    larger = mail.Maildrop(drop.count, drop.size + grown)
    for command, reply in (
        (b"STAT\r\n", b"+OK %d %d\r\n" % (larger.count, larger.total)),
        (b"UIDL\r\n", mail.unique_ids(drop)),
        (b"LIST\r\n", mail.listing(larger)),
    ):
        if not sent:
            yield from wire.send(command)
        first = reply.index(b"\n") + 1
        yield from wire.line()
        yield from wire.exactly(reply[first:])


def mailbox(wire: Wire, drop: mail.Maildrop, head: bytes = b"") -> Client:
    """A typical session, one command at a time."""
    yield from listings(wire, drop, False, len(head))
    for number in range(1, drop.count + 1):
        yield from retrieve(wire, number, drop.size, head)
        yield from wire.send(b"DELE %d\r\n" % number)
        yield from wire.line()


def mailbox_pipelined(wire: Wire, drop: mail.Maildrop, head: bytes = b"") -> Client:
    """The same, with the three listings in one write and every RETR and DELE in another."""
    yield from wire.send(b"STAT\r\nUIDL\r\nLIST\r\n")
    yield from listings(wire, drop, True, len(head))
    numbers = range(1, drop.count + 1)
    yield from wire.send(b"".join(b"RETR %d\r\nDELE %d\r\n" % (number, number) for number in numbers))
    for number in numbers:
        yield from wire.line()
        if head:
            yield from wire.exactly(head)
        yield from wire.exactly(mail.wire(number, drop.size))
        yield from wire.line()


class Load:
    """The state between jobs: a target, the sessions held open, the driver."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.target = Target(0)
        self.held: list[tuple[Wire, mail.Maildrop]] = []
        self.clock: list[float] = []
        self.octets = 0
        self.head = b""

    def do(self, job: Job) -> Figures:
        """One job; raises LoadError for what went wrong on a wire."""
        self.clock = []
        self.octets = 0
        before = (self.target.handshakes, self.target.resumed)
        began = time.perf_counter()
        operation: Callable[[Job], int] = getattr(self, "do_" + job["op"])
        units = operation(job)
        seconds = time.perf_counter() - began
        figures: Figures = {"units": units, "seconds": seconds, "octets": self.octets, "suite": self.target.suite}
        if self.clock:
            figures["p50_ms"] = statistics.median(self.clock) * 1000
        if self.target.handshakes > before[0]:
            figures["resumed"] = (self.target.resumed - before[1]) / (self.target.handshakes - before[0])
        return figures

    def do_target(self, job: Job) -> int:
        """Point at a proxy. `resumed` makes one session first, whose ticket the following connections use."""
        self.target = Target(job["port"], client_context() if job["tls"] else None, job.get("quick", True))
        if job.get("resumed"):
            self.driver.run([self._take_ticket()], 1)
        return 0

    def _take_ticket(self) -> Client:
        wire = yield from Wire.connect(self.driver, self.target)
        yield from login(wire, "m1x100")
        assert isinstance(wire.sock, ssl.SSLSocket)
        self.target.ticket = wire.sock.session
        yield from wire.quit()

    def do_sessions(self, job: Job) -> int:
        """`total` sessions of a script, `clients` at a time."""
        drop = maildrop(job)
        script = SESSION_SCRIPTS[job["script"]]
        self.head = job.get("head", "").encode()
        clients = (self._session(script, drop) for _ in range(job["total"]))
        self.driver.run(clients, job["clients"])
        return int(job["total"]) * (drop.count if script is not None else 1)

    def _session(self, script: Script | None, drop: mail.Maildrop) -> Client:
        began = time.perf_counter()
        wire = yield from Wire.connect(self.driver, self.target)
        yield from login(wire, drop.user)
        if script is None:
            self.clock.append(time.perf_counter() - began)
        else:
            yield from script(wire, drop, self.head)
            self.clock.append(time.perf_counter() - began)
        yield from wire.quit()
        self.octets += wire.octets

    def do_open(self, job: Job) -> int:
        """Add `clients` logged-in sessions to those held."""
        drop = maildrop(job)
        self.driver.run((self._hold(drop) for _ in range(job["clients"])), job.get("at_once", 16))
        return int(job["clients"])

    def _hold(self, drop: mail.Maildrop) -> Client:
        wire = yield from Wire.connect(self.driver, self.target)
        yield from login(wire, drop.user)
        self.held.append((wire, drop))

    def do_drive(self, job: Job) -> int:
        """A script on every held session, `count` units each; their sum."""
        script: Callable[[Wire, mail.Maildrop, int], Client] = getattr(self, "drive_" + job["script"])
        self.head = job.get("head", "").encode()
        before = sum(wire.octets for wire, _ in self.held)
        self.driver.run(self._drives(script, job["count"]), job.get("at_once", len(self.held)))
        self.octets = sum(wire.octets for wire, _ in self.held) - before
        return int(job["count"]) * len(self.held)

    def _drives(self, script: Callable[[Wire, mail.Maildrop, int], Client], count: int) -> Iterator[Client]:
        for wire, drop in self.held:
            yield script(wire, drop, count)

    def drive_noop(self, wire: Wire, drop: mail.Maildrop, count: int) -> Client:
        """`count` NOOPs, each after the reply to the one before."""
        clock = self.clock
        for _ in range(count):
            began = time.perf_counter()
            yield from wire.send(b"NOOP\r\n")
            yield from wire.lines(1)
            clock.append(time.perf_counter() - began)

    def drive_noop_pipelined(self, wire: Wire, drop: mail.Maildrop, count: int) -> Client:
        """`count` NOOPs, DEPTH in one write, then their replies."""
        while count > 0:
            depth = min(DEPTH, count)
            yield from wire.send(b"NOOP\r\n" * depth)
            yield from wire.lines(depth)
            count -= depth

    def drive_retr(self, wire: Wire, drop: mail.Maildrop, count: int) -> Client:
        """`count` RETRs, one after the other, round the maildrop."""
        for index in range(count):
            number = index % drop.count + 1
            began = time.perf_counter()
            yield from retrieve(wire, number, drop.size, self.head)
            self.clock.append(time.perf_counter() - began)

    def do_close(self, job: Job) -> int:
        """End the held sessions; how many there were."""
        held, self.held = self.held, []
        self.driver.run((wire.quit() for wire, _ in held), 64)
        return len(held)


SESSION_SCRIPTS: dict[str, Script | None] = {
    "login": None,
    "mailbox": mailbox,
    "mailbox_pipelined": mailbox_pipelined,
}


def client_context() -> ssl.SSLContext:
    """OpenSSL's defaults, TLS 1.2 at least; certificates unchecked, for what is measured is the proxy."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def main() -> None:
    load = Load()
    for line in sys.stdin:
        try:
            figures = load.do(json.loads(line))
        except LoadError as error:
            print(json.dumps({"error": str(error)}), flush=True)
            return
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
