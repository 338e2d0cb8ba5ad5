"""``python -m tests.bench.store``: what a store adds to a login, at 1, 100 and 1,000 logins at the same moment.

A popproxy without a plugin, and one for each store with a plugin that asks it once at each login (counting.py), all
running beside one another on core 0; the mail server, redis-server and the clients are on the last core. Clients
connect and send USER; when all of a burst are that far, they send PASS together, and each measures how long its +OK
takes. Bursts of all proxies take turns, so that a busy machine is busy for all of them. A burst of 1,000 is what one
core has to do one after the other: the differences between the rows are the store's share.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import account, peers
from tests.bench.run import PROXY_CORE, Child
from tests.ports import free_ports

STORES = ("none", "memory", "sqlite", "redis")
BURSTS = {1: 200, 100: 20, 1000: 4}
_CONFIG = """[[listener]]
name = "plain"
bind = ["127.0.0.1:{port}"]
tls = "off"
auth_before_tls = "allow"
max_connections = 5000

[upstream.main]
servers = ["pop3+clear://127.0.0.1:{upstream}"]

[overload]
lag = "off"

{store}
[log]
format = "json"
level = "warning"
"""
_PLUGIN = '[[plugin]]\nuse = "tests.bench.counting:Counting"\nfail = "closed"\n'


@dataclass
class Proxy:
    """A running popproxy, and what was measured of it by size of burst: seconds of each login, those that were refused
    because the store did not answer in time, and CPU of each burst."""

    store: str
    port: int
    process: subprocess.Popen[bytes]
    seconds: dict[int, list[float]] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    cpu: dict[int, list[float]] = field(default_factory=dict)


def store_table(store: str, folder: Path, redis: int) -> str:
    """The config's part for a store."""
    tables = {
        "none": "",
        "memory": _PLUGIN,
        "sqlite": f'[store]\nuse = "sqlite"\npath = "{folder}/store.sqlite"\n{_PLUGIN}',
        "redis": f'[store]\nuse = "redis"\nurl = "redis://127.0.0.1:{redis}"\n{_PLUGIN}',
    }
    return tables[store]


@contextlib.contextmanager
def process(command: Sequence[str], folder: Path, core: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens on ``port``; it is ended behind the block."""
    log = folder / "log"
    with log.open("wb") as out:
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folder,
            env=peers.environment(),
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not listen on {port}: {log.read_text(errors='replace')[-1000:]}")
            time.sleep(0.05)
        yield running
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait(10)


async def client(port: int, user: str, ready: asyncio.Semaphore, go: asyncio.Event) -> float | None:
    """One session; the seconds from PASS to +OK, None for -ERR [SYS/TEMP]."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await expect(reader)
        writer.write(f"USER {user}\r\n".encode())
        await expect(reader)
        ready.release()
        await go.wait()
        began = time.perf_counter()
        writer.write(b"PASS secret\r\n")
        line = await reader.readline()
        took = time.perf_counter() - began
        if line.startswith(b"-ERR [SYS/TEMP]"):
            return None
        if not line.startswith(b"+OK"):
            raise ConnectionError(f"the proxy said {line!r}")
        writer.write(b"QUIT\r\n")
        await expect(reader)
        return took
    finally:
        writer.close()


async def expect(reader: asyncio.StreamReader) -> None:
    """A reply, which must be +OK. Raises ConnectionError."""
    line = await reader.readline()
    if not line.startswith(b"+OK"):
        raise ConnectionError(f"the proxy said {line!r}")


async def burst(proxy: Proxy, size: int) -> None:
    """``size`` logins at the same moment."""
    ready, go = asyncio.Semaphore(0), asyncio.Event()
    before = account.cpu_seconds(proxy.process.pid)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client(proxy.port, f"m0x{1000 + n}", ready, go)) for n in range(size)]
        for _ in range(size):
            await ready.acquire()
        go.set()
    found = [seconds for task in tasks if (seconds := task.result()) is not None]
    proxy.seconds.setdefault(size, []).extend(found)
    proxy.refused[size] = proxy.refused.get(size, 0) + size - len(found)
    proxy.cpu.setdefault(size, []).append((account.cpu_seconds(proxy.process.pid) - before) / size)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values are."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def table(proxies: Sequence[Proxy], sizes: Sequence[int]) -> str:
    """The figures as Markdown."""
    lines = [
        "| logins at once | store | p50 | p99 | added to p50 | CPU for a session | refused |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for size in sizes:
        base = quantile(proxies[0].seconds[size], 0.5)
        for proxy in proxies:
            middle, most = (quantile(proxy.seconds[size], share) * 1000 for share in (0.5, 0.99))
            added = "" if proxy is proxies[0] else f"{middle - base * 1000:+.2f} ms"
            cpu = statistics.median(proxy.cpu[size]) * 1e6
            figures = f"{middle:.2f} ms | {most:.2f} ms | {added} | {cpu:.0f} µs | {proxy.refused[size]}"
            lines.append(f"| {size} | {proxy.store} | {figures} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default=",".join(STORES), help="which, separated by commas (default: %(default)s)")
    parser.add_argument("--sizes", default=",".join(map(str, BURSTS)), help="logins at once (default: %(default)s)")
    parser.add_argument("--rounds", type=float, default=1.0, help="times the usual number of bursts")
    options = parser.parse_args()
    stores = ["none", *(store for store in options.stores.split(",") if store != "none")]
    sizes = [int(size) for size in options.sizes.split(",")]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    last = (os.cpu_count() or 1) - 1
    os.sched_setaffinity(0, {last})
    folder = Path(tempfile.mkdtemp(prefix="pps-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stub = Child("stub")
        stack.callback(stub.stop)
        upstream = stub.read()["plain"]
        redis = 0
        if "redis" in stores:
            (redis,) = free_ports(1)
            stack.enter_context(process(redis_command(redis), folder, last, redis))
        proxies = []
        for store in stores:
            place = folder / store
            place.mkdir()
            (port,) = free_ports(1)
            config = place / "popproxy.toml"
            config.write_text(
                _CONFIG.format(port=port, upstream=upstream, store=store_table(store, place, redis)), "utf-8"
            )
            command = [sys.executable, "-m", "popproxy", "serve", "--config", str(config)]
            proxies.append(Proxy(store, port, stack.enter_context(process(command, place, PROXY_CORE, port))))
        asyncio.run(measure(proxies, sizes, options.rounds))
        print(table(proxies, sizes))
    return 0


def redis_command(port: int) -> list[str]:
    """A redis-server that keeps nothing on disk."""
    found = peers.which("redis-server")
    if found is None:
        raise SystemExit("redis-server is not installed; write --stores memory,sqlite")
    return [found, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


async def measure(proxies: Sequence[Proxy], sizes: Sequence[int], rounds: float) -> None:
    """Bursts of every size, the proxies in turn; the first of each is not counted."""
    for size in sizes:
        number = max(1, round(BURSTS.get(size, 4) * rounds))
        for proxy in proxies:
            await burst(proxy, size)
            proxy.seconds[size].clear()
            proxy.cpu[size].clear()
            proxy.refused[size] = 0
        for turn in range(number):
            gc.collect()
            for place in range(len(proxies)):
                await burst(proxies[(place + turn) % len(proxies)], size)


if __name__ == "__main__":
    raise SystemExit(main())
