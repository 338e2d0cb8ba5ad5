"""`make bench`: popproxy beside nginx, Dovecot and HAProxy, interleaved rounds, CPU per unit as ratios.

The proxies run on core 0, the load generator and the stub on core 1. Within a round every scenario is measured on
every peer, one after the other, in an order that turns with the round. Figures are medians over the rounds; ratios are
medians of per-round ratios. Nothing here asserts a time: the report says what was met and what was not.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.bench import certs, peers, report
from tests.bench.peers import DEFAULT, Instance, Peer, PeerError, Variant
from tests.bench.scenarios import SCENARIOS, Bench, Job, Reading, Scenario

PROXY_CORE = 0
DEFAULT_PEERS = "popproxy,nginx,nginx64k,dovecot,haproxy,direct"


class Silent(Exception):
    """The load generator or the stub ended, or reported a fault on the wire."""


class Child:
    """A process of the bench itself, on the load core: JSON lines in, JSON lines out."""

    def __init__(self, module: str, *arguments: str) -> None:
        core = {(os.cpu_count() or 1) - 1}
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.bench.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=peers.environment(),
            preexec_fn=lambda: os.sched_setaffinity(0, core),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout

    def read(self) -> dict[str, Any]:
        line = self._out.readline()
        if not line:
            raise Silent("it ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Silent(answer["error"])
        return answer

    def ask(self, job: Job) -> dict[str, Any]:
        """One job; Silent when it failed (the process has ended then)."""
        try:
            self._in.write(json.dumps(job) + "\n")
            self._in.flush()
        except BrokenPipeError as error:
            raise Silent("it has ended") from error
        return self.read()

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._in.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._out.close()


@dataclass(slots=True)
class Results:
    """readings[scenario][peer]: one Reading per round, None for a round that failed. `absent`: peer > why not."""

    readings: dict[str, dict[str, list[Reading | None]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, scenario: str, peer: str, reading: Reading | None) -> None:
        self.readings.setdefault(scenario, {}).setdefault(peer, []).append(reading)


class Runner:
    """Everything that lives for the whole run: certificates, stub, loader, and the instances of a round."""

    def __init__(self, folder: Path, scale: float, results: Results) -> None:
        self.results = results
        self._scale = scale
        self._certificates = {kind: certs.make(folder, kind) for kind in ("ecdsa", "rsa")}
        chain = self._certificates["ecdsa"]
        for certificate in self._certificates.values():
            for path in (certificate.chain, certificate.key, certificate.both):
                path.chmod(0o644)
        self._stub = Child("stub", "--cert", str(chain.chain), "--key", str(chain.key))
        self.stub_ports: dict[str, int] = self._stub.read()
        self._loader = Child("load")
        self._standing: dict[tuple[str, Variant], Instance] = {}

    def close(self) -> None:
        self.end_round()
        self._loader.stop()
        self._stub.stop()

    def end_round(self) -> None:
        for instance in self._standing.values():
            instance.stop()
        self._standing.clear()

    def measure(self, scenario: Scenario, peer: str) -> Reading | None:
        """One measurement; a fault is recorded, and what may be broken is replaced."""
        try:
            with self._bench(scenario, peer) as bench:
                return scenario.measure(bench)
        except (Silent, PeerError) as error:
            self.results.faults.append(f"{scenario.name}, {peer}: {error}")
            self._loader.stop()
            self._loader = Child("load")
            broken = self._standing.pop((peer, scenario.variant), None)
            if broken is not None:
                broken.stop()
            return None

    @contextlib.contextmanager
    def _bench(self, scenario: Scenario, peer: str) -> Iterator[Bench]:
        if peer == "direct":
            yield Bench(0, self.stub_ports["plain"], self.stub_ports["tls"], self._loader, self._scale)
            return
        instance = self._instance(peers.PEERS[peer], scenario)
        try:
            yield Bench(instance.pid, instance.plain, instance.tls, self._loader, self._scale)
        finally:
            if scenario.fresh:
                instance.stop()

    def _instance(self, peer: Peer, scenario: Scenario) -> Instance:
        variant = scenario.variant
        if scenario.fresh:
            return self._start(peer, variant)
        if (peer.name, variant) not in self._standing:
            self._standing[peer.name, variant] = self._start(peer, variant)
        return self._standing[peer.name, variant]

    def _start(self, peer: Peer, variant: Variant) -> Instance:
        return Instance(peer, variant, self.stub_ports, self._certificates[variant.key], PROXY_CORE)


def takes_part(scenario: Scenario, peer: str) -> bool:
    """Whether the scenario can be asked of this peer at all."""
    if scenario.base:
        return peer == report.OURS
    if peer == "direct":
        return scenario.name == "delayed-ack" or (scenario.cpu and scenario.variant == DEFAULT)
    if peer == "nginx64k":
        return peer in scenario.extra_peers
    return peers.PEERS[peer].both_legs or not scenario.variant.upstream_tls


def present(names: list[str], results: Results) -> list[str]:
    """The peers that can run; the others go into `absent` with the reason."""
    found = []
    for name in names:
        why = "" if name == "direct" else peers.PEERS[name].missing()
        if why:
            results.absent[name] = why
        else:
            found.append(name)
    return found


def rounds(runner: Runner, chosen: list[Scenario], names: list[str], number: int) -> None:
    """All rounds, with a line of progress for each measurement."""
    began = time.monotonic()
    for turn in range(number):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for scenario in chosen:
            if scenario.rounds and turn >= scenario.rounds:
                continue
            for peer in (name for name in order if takes_part(scenario, name)):
                reading = runner.measure(scenario, peer)
                runner.results.add(scenario.name, peer, reading)
                figure = "failed" if reading is None else f"{reading.value:10.2f} {scenario.unit}"
                print(
                    f"[{time.monotonic() - began:6.0f} s] round {turn + 1}/{number} {scenario.name:18} {peer:9} "
                    f"{figure}  {' '.join(reading.notes) if reading else runner.results.faults[-1]}",
                    file=sys.stderr,
                    flush=True,
                )
        runner.end_round()


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--scenario", default="*", metavar="GLOB", help="scenarios by name; several with commas")
    parser.add_argument("--rounds", type=int, default=0, help="default 5, with --quick 2")
    parser.add_argument("--quick", action="store_true", help="a quarter of the size, two rounds: a first look only")
    parser.add_argument("--peers", default=DEFAULT_PEERS, help=f"default {DEFAULT_PEERS}")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Markdown report; default standard output")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every reading of every round")
    parser.add_argument("--no-install", action="store_true", help="do not apt-get missing peers")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parsed = parser.parse_args(arguments)
    unknown = set(parsed.peers.split(",")) - {*peers.PEERS, "direct"}
    if unknown:
        parser.error(f"--peers: unknown {', '.join(sorted(unknown))}; there are {', '.join([*peers.PEERS, 'direct'])}")
    globs = parsed.scenario.split(",")
    parsed.chosen = [one for one in SCENARIOS if any(fnmatch.fnmatch(one.name, glob) for glob in globs)]
    if not parsed.chosen:
        parser.error(
            f"--scenario {parsed.scenario}: none is named so; there are " + ", ".join(one.name for one in SCENARIOS)
        )
    if parsed.rounds < 1:
        parsed.rounds = 2 if parsed.quick else 5
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; 0 also when goals are missed."""
    parsed = options(arguments)
    if parsed.list:
        print("\n".join(f"{one.name:20} {one.title} ({one.unit})" for one in SCENARIOS))
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = Results()
    if not parsed.no_install and (trouble := peers.install()):
        results.faults.append(trouble)
    names = present(parsed.peers.split(","), results)
    folder = Path(tempfile.mkdtemp(prefix="ppb-", dir="/tmp"))
    folder.chmod(0o755)
    runner: Runner | None = None
    try:
        runner = Runner(folder, 0.25 if parsed.quick else 1.0, results)
        rounds(runner, parsed.chosen, names, parsed.rounds)
    except KeyboardInterrupt:
        print("interrupted: the report holds what was measured so far", file=sys.stderr)
    finally:
        if runner is not None:
            runner.close()
        shutil.rmtree(folder, ignore_errors=True)
    text = report.markdown(results.readings, results.absent, results.faults, parsed.quick)
    if parsed.output is None:
        print(text)
    else:
        parsed.output.write_text(text)
    if parsed.json is not None:
        raw = {
            scenario: {peer: [one and asdict(one) for one in many] for peer, many in table.items()}
            for scenario, table in results.readings.items()
        }
        parsed.json.write_text(json.dumps({"machine": report.machine(), "readings": raw}, indent=1) + "\n")
    return 0
