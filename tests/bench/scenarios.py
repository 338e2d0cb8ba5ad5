"""What is measured, in which unit, and how far it should go (the ratios popproxy / peer, lower is better).

A scenario's `measure` runs its jobs on one running instance and returns a Reading. CPU is taken around the measured
jobs only: sessions that are merely held open were opened before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.bench import account
from tests.bench.blind import BLIND
from tests.bench.peers import DEFAULT, HEAD, Variant, spam_head

SETTLE = 0.05
MIB = 1024 * 1024
Job = dict[str, Any]


class Loader(Protocol):
    """The load generator's process, as a scenario sees it: a job in, figures out."""

    def ask(self, job: Job) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measurement needs: the instance's root pid (0: no proxy), its ports, the loader, the size factor."""

    pid: int
    plain: int
    tls: int
    loader: Loader
    scale: float

    def sized(self, number: int, least: int = 1) -> int:
        return max(least, round(number * self.scale))


@dataclass(slots=True)
class Reading:
    """One measurement: `value` in the scenario's unit, wall seconds per unit, notes for the reader."""

    value: float
    wall: float = 0.0
    cpu: float = 0.0
    p50_ms: float = 0.0
    notes: list[str] = field(default_factory=list)
    more: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Goal:
    """Ratios popproxy / peer; `absolute` goals are in the scenario's own unit."""

    must: float
    goal: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """`rounds` caps the rounds (0: no cap); `fresh` wants an instance of its own; `extra_peers` take part only here.

    A scenario with a `base` is popproxy's alone: `absolute` is its ratio to the base, another scenario's name; without
    it there is nothing to reach.
    """

    name: str
    title: str
    unit: str
    measure: Callable[[Bench], Reading]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    absolute: Goal | None = None
    variant: Variant = DEFAULT
    rounds: int = 0
    fresh: bool = False
    cpu: bool = True
    extra_peers: tuple[str, ...] = ()
    base: str = ""


def three(must: tuple[float, float, float], goal: tuple[float, float, float]) -> dict[str, Goal]:
    """Goals against nginx, Dovecot, HAProxy in this order."""
    pairs = zip(must, goal, strict=True)
    return {peer: Goal(*pair) for peer, pair in zip(("nginx", "dovecot", "haproxy"), pairs, strict=True)}


def charged(bench: Bench, jobs: list[Job], factor: float) -> Reading:
    """Run the jobs; value = CPU seconds per unit times `factor`, over all of them."""
    before = account.cpu_seconds(bench.pid) if bench.pid else 0.0
    replies = [bench.loader.ask(job) for job in jobs]
    time.sleep(SETTLE)
    spent = account.cpu_seconds(bench.pid) - before if bench.pid else 0.0
    units = sum(reply["units"] for reply in replies)
    reading = Reading(spent / units * factor, sum(reply["seconds"] for reply in replies) / units, spent)
    reading.p50_ms = replies[-1].get("p50_ms", 0.0)
    last = replies[-1]
    if last.get("suite"):
        reading.notes.append(last["suite"])
    reading.more["octets"] = sum(reply["octets"] for reply in replies)
    if "resumed" in last:
        reading.more["resumed"] = last["resumed"]
    return reading


def target(bench: Bench, tls: bool, **more: bool) -> None:
    bench.loader.ask({"op": "target", "port": bench.tls if tls else bench.plain, "tls": tls, **more})


def logins(tls: bool, total: int, resumed: bool = False) -> Callable[[Bench], Reading]:
    """Connect, greeting, USER, PASS, QUIT; 8 clients at a time."""

    def measure(bench: Bench) -> Reading:
        target(bench, tls, resumed=resumed)
        job = {"op": "sessions", "script": "login", "user": "m1x100", "clients": 8}
        bench.loader.ask({**job, "total": 50})
        reading = charged(bench, [{**job, "total": bench.sized(total, 100)}], 1e6)
        if resumed:
            reading.notes.append(f"resumed {reading.more.get('resumed', 0.0):.0%}")
        return reading

    return measure


def bulk(tls: bool, head: str = "", warm: int = 1) -> Callable[[Bench], Reading]:
    """4 sessions, each RETRs 16 messages of 4 MiB: 64 in all, four times over at full size.

    `head` is what the proxy puts in front of each message; `warm` RETRs of each session are not measured.
    """

    def measure(bench: Bench) -> Reading:
        target(bench, tls)
        bench.loader.ask({"op": "open", "clients": 4, "user": f"m16x{4 * MIB}"})
        job = {"op": "drive", "script": "retr", "head": head}
        bench.loader.ask({**job, "count": warm})
        jobs: list[Job] = [{**job, "count": 16}] * bench.sized(4)
        reading = charged(bench, jobs, 1.0)
        bench.loader.ask({"op": "close"})
        gib = reading.more["octets"] / 2**30
        reading.wall *= 64 * len(jobs) / gib
        reading.value = reading.cpu / gib * 1e3
        return reading

    return measure


def mailbox(tls: bool, pipelined: bool, sessions: int, head: str = "") -> Callable[[Bench], Reading]:
    """Whole sessions, 4 at a time: connect, login, STAT, UIDL, LIST, 50 x (RETR 30 KB, DELE), QUIT.

    `head` is what the proxy puts in front of each message.
    """

    def measure(bench: Bench) -> Reading:
        target(bench, tls)
        script = "mailbox_pipelined" if pipelined else "mailbox"
        job = {"op": "sessions", "script": script, "user": "m50x30000", "clients": 4, "head": head}
        bench.loader.ask({**job, "total": 4})
        return charged(bench, [{**job, "total": bench.sized(sessions, 8)}], 1e6)

    return measure


def noops(tls: bool, pipelined: bool) -> Callable[[Bench], Reading]:
    """4 sessions; NOOPs one by one, or 64 deep: as many as give CPU enough to measure (20,000 deep take 10 ms)."""

    def measure(bench: Bench) -> Reading:
        target(bench, tls)
        bench.loader.ask({"op": "open", "clients": 4, "user": "m1x100"})
        job = {"op": "drive", "script": "noop_pipelined" if pipelined else "noop"}
        bench.loader.ask({**job, "count": 640})
        reading = charged(bench, [{**job, "count": bench.sized(256_000 if pipelined else 15_000, 640)}], 1e6)
        bench.loader.ask({"op": "close"})
        return reading

    return measure


def memory(tls: bool, retr: bool, sessions: int) -> Callable[[Bench], Reading]:
    """PSS the held, logged-in sessions add to a fresh, warmed instance; with `retr` each got 1 MB first."""

    def measure(bench: Bench) -> Reading:
        target(bench, tls)
        user = f"m2x{MIB}"
        bench.loader.ask({"op": "open", "clients": 16, "user": user})
        if retr:
            bench.loader.ask({"op": "drive", "script": "retr", "count": 1, "at_once": 8})
        bench.loader.ask({"op": "close"})
        time.sleep(0.5)
        before = account.pss_kib(bench.pid)
        number = bench.sized(sessions, 100)
        bench.loader.ask({"op": "open", "clients": number, "user": user})
        if retr:
            bench.loader.ask({"op": "drive", "script": "retr", "count": 1, "at_once": 8})
        time.sleep(0.5)
        reading = Reading((account.pss_kib(bench.pid) - before) / number)
        bench.loader.ask({"op": "close"})
        return reading

    return measure


def delayed_ack(bench: Bench) -> Reading:
    """One session, RETRs of 30 KB one by one, the client's kernel acknowledging when it likes."""
    target(bench, tls=False, quick=False)
    bench.loader.ask({"op": "open", "clients": 1, "user": "m50x30000"})
    reading = charged(bench, [{"op": "drive", "script": "retr", "count": 60}], 1e6)
    bench.loader.ask({"op": "close"})
    reading.value = reading.p50_ms
    return reading


def idle(bench: Bench) -> Reading:
    """CPU of 5,000 held sessions over some seconds; then the p50 of single logins beside them."""
    target(bench, tls=False)
    number = bench.sized(5_000, 500)
    bench.loader.ask({"op": "open", "clients": number, "user": "m1x100"})
    time.sleep(1.0)
    seconds = max(2.0, 5.0 * bench.scale)
    before = account.cpu_seconds(bench.pid) if bench.pid else 0.0
    time.sleep(seconds)
    spent = account.cpu_seconds(bench.pid) - before if bench.pid else 0.0
    reply = bench.loader.ask(
        {"op": "sessions", "script": "login", "user": "m1x100", "clients": 1, "total": bench.sized(200, 50)}
    )
    bench.loader.ask({"op": "close"})
    reading = Reading(spent / seconds * 100, cpu=spent, p50_ms=reply["p50_ms"])
    reading.notes.append(f"{number} sessions, {seconds:g} s")
    reading.more["idle_login_p50_ms"] = reply["p50_ms"]
    return reading


_LOGIN_TLS = three((1.2, 1.0, 1.5), (0.95, 0.8, 1.15))
_BULK_TLS = {**three((0.6, 0.15, 1.1), (0.45, 0.07, 0.85)), "nginx64k": Goal(1.0, 1.0)}
_MESSAGE = "CPU us per message"
_NOTHING = Goal(1.05, 1.0)
"""Nothing measurable: below what these runs can tell apart."""

_SPAM = (
    ("spam", "`spam` by the upstream's header", Goal(1.5, 1.15), Goal(1.5, 1.2)),
    ("spam-cached", "`spam` by rspamd, verdicts known", Goal(1.5, 1.15), Goal(2.0, 1.5)),
    ("spam-cold", "`spam` by rspamd, every message scanned", Goal(20, 8), Goal(20, 10)),
)
SPAM: tuple[Scenario, ...] = tuple(
    Scenario(f"{plugin}-{name}", f"{title}: {what}", unit, measure, {}, goal, Variant(plugin=plugin), base=base)
    for plugin, title, of_bulk, of_mailbox in _SPAM
    for name, what, unit, measure, goal, base in (
        (
            "bulk",
            "bulk RETR 64 x 4 MiB, plain",
            "CPU ms per GiB",
            bulk(False, spam_head(plugin), 16),
            of_bulk,
            "bulk-plain",
        ),
        (
            "mailbox",
            "typical mailbox, plain, sequential",
            _MESSAGE,
            mailbox(False, False, 60, spam_head(plugin)),
            of_mailbox,
            "mailbox-plain-seq",
        ),
    )
)
"""rspamd is the stub's: what a scan costs the proxy, not the scanner."""

BLINDED: tuple[Scenario, ...] = tuple(
    Scenario(
        f"{name}-without-{parts.replace(',', '-')}",
        f"without {parts.replace(',', ' and ')}: {what}",
        unit,
        measure,
        variant=Variant(blind=parts),
        base=base,
    )
    for name, what, unit, measure, base in (
        ("login", "login, plain", "CPU us per login", logins(False, 8000), "login-plain"),
        ("noop", "NOOP sequential, plain", "CPU us per NOOP", noops(False, False), "noop-plain-seq"),
    )
    for parts in BLIND
)
"""What metrics and logs cost: the same without them. Their part of the base is what is missing to 1."""

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "login-plain",
        "login, plain",
        "CPU us per login",
        logins(False, 8000),
        three((1.5, 0.9, 2.2), (1.0, 0.6, 1.5)),
    ),
    Scenario("login-tls-ecdsa", "login, TLS ECDSA", "CPU us per login", logins(True, 1500), _LOGIN_TLS),
    Scenario(
        "login-tls-rsa",
        "login, TLS RSA",
        "CPU us per login",
        logins(True, 1200),
        _LOGIN_TLS,
        variant=Variant(key="rsa"),
    ),
    Scenario("login-tls-resumed", "login, TLS resumed", "CPU us per login", logins(True, 1500, True), _LOGIN_TLS),
    Scenario(
        "bulk-plain",
        "bulk RETR 64 x 4 MiB, plain",
        "CPU ms per GiB",
        bulk(False),
        three((0.65, 0.7, 1.1), (0.4, 0.45, 0.75)),
    ),
    Scenario(
        "bulk-tls",
        "bulk RETR 64 x 4 MiB, TLS",
        "CPU ms per GiB",
        bulk(True),
        _BULK_TLS,
        extra_peers=("nginx64k",),
    ),
    Scenario(
        "mailbox-plain-seq",
        "typical mailbox, plain, sequential",
        _MESSAGE,
        mailbox(False, False, 300),
        three((1.3, 1.0, 1.4), (0.95, 0.65, 1.0)),
    ),
    Scenario(
        "mailbox-plain-pipe",
        "typical mailbox, plain, pipelined",
        _MESSAGE,
        mailbox(False, True, 500),
        three((1.0, 1.0, 1.3), (0.7, 0.7, 0.9)),
    ),
    Scenario(
        "mailbox-tls-seq",
        "typical mailbox, TLS, sequential",
        _MESSAGE,
        mailbox(True, False, 160),
        three((1.2, 0.3, 1.4), (0.85, 0.2, 1.0)),
    ),
    Scenario(
        "mailbox-tls-pipe",
        "typical mailbox, TLS, pipelined",
        _MESSAGE,
        mailbox(True, True, 240),
        three((1.1, 0.25, 1.3), (0.85, 0.15, 1.0)),
    ),
    Scenario(
        "noop-plain-seq",
        "NOOP sequential, plain",
        "CPU us per NOOP",
        noops(False, False),
        three((1.4, 0.9, 1.3), (1.0, 0.65, 0.95)),
    ),
    Scenario(
        "noop-tls-seq",
        "NOOP sequential, TLS",
        "CPU us per NOOP",
        noops(True, False),
        three((1.5, 0.8, 1.4), (1.1, 0.5, 1.0)),
    ),
    Scenario(
        "noop-plain-pipe",
        "NOOP pipelined 64 deep, plain",
        "CPU us per NOOP",
        noops(False, True),
        three((4, 4, 6), (1.5, 1.5, 2)),
    ),
    Scenario(
        "noop-tls-pipe",
        "NOOP pipelined 64 deep, TLS",
        "CPU us per NOOP",
        noops(True, True),
        three((3, 2.5, 5), (1.3, 1.0, 1.8)),
    ),
    Scenario(
        "unsubscribed-login",
        "a plugin without hooks: login, plain",
        "CPU us per login",
        logins(False, 8000),
        absolute=_NOTHING,
        variant=Variant(plugin="unsubscribed"),
        base="login-plain",
    ),
    Scenario(
        "unsubscribed-noop",
        "a plugin without hooks: NOOP pipelined 64 deep, plain",
        "CPU us per NOOP",
        noops(False, True),
        absolute=_NOTHING,
        variant=Variant(plugin="unsubscribed"),
        base="noop-plain-pipe",
    ),
    *BLINDED,
    Scenario(
        "headers-bulk",
        "a header set by `headers`: bulk RETR 64 x 4 MiB, plain",
        "CPU ms per GiB",
        bulk(False, HEAD),
        absolute=Goal(1.5, 1.15),
        variant=Variant(plugin="headers"),
        base="bulk-plain",
    ),
    *SPAM,
    Scenario(
        "memory-plain",
        "idle session, plain",
        "KiB PSS per session",
        memory(False, False, 800),
        absolute=Goal(10, 5),
        rounds=2,
        fresh=True,
        cpu=False,
    ),
    Scenario(
        "memory-tls",
        "idle session, TLS",
        "KiB PSS per session",
        memory(True, False, 400),
        absolute=Goal(40, 20),
        rounds=2,
        fresh=True,
        cpu=False,
    ),
    Scenario(
        "memory-tls-retr",
        "idle session, TLS after one 1 MB RETR",
        "KiB PSS per session",
        memory(True, True, 300),
        absolute=Goal(64, 25),
        rounds=2,
        fresh=True,
        cpu=False,
    ),
    Scenario(
        "memory-tls-both",
        "idle session, TLS on both legs after one 1 MB RETR",
        "KiB PSS per session",
        memory(True, True, 300),
        absolute=Goal(130, 45),
        rounds=2,
        fresh=True,
        cpu=False,
        variant=Variant(upstream_tls=True),
    ),
    Scenario(
        "delayed-ack",
        "sequential RETR 30 KB, delayed ACKs",
        "p50 ms",
        delayed_ack,
        {"nginx": Goal(0.05, 0.05), "haproxy": Goal(float("inf"), 1.0)},
        cpu=False,
        rounds=3,
    ),
    Scenario(
        "idle-cpu",
        "CPU with 5,000 idle sessions (quick: 1,250)",
        "% of a core",
        idle,
        absolute=Goal(0.5, 0.0),
        rounds=1,
        fresh=True,
        cpu=False,
    ),
)
IDLE_LOGIN_GOAL = {"dovecot": Goal(1.2, 0.8)}
