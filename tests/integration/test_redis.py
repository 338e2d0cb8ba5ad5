"""RedisStore and real servers: every way to reach one, and every way to lose one."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

import pytest
import trustme

from popproxy.api.store import Fixed, Get, Lease, Mark, Outcome, Put, Sliding, Spend, StoreFailed, TokenBucket
from popproxy.state import batch
from popproxy.state.redis.plan import RedisPlan, Tls, read_url
from popproxy.state.redis.store import RedisStore
from popproxy.state.space import Space
from tests.integration.conftest import stored
from tests.integration.daemon import run
from tests.integration.redis_server import PASSWORD, Redis, cluster, server, watched
from tests.ports import free_ports

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


@dataclass
class Notes:
    """A Watch."""

    kinds: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ups: int = 0
    posts: int = 0
    unasked: int = 0

    def took(self, seconds: float) -> None:
        assert seconds >= 0

    def up(self) -> None:
        self.ups += 1

    def failed(self, error: StoreFailed) -> None:
        self.kinds.append(error.kind)
        self.texts.append(str(error))

    def refused(self, kind: str, runs: int) -> None:
        self.unasked += runs

    def lost(self, posts: int) -> None:
        self.posts += posts


@dataclass
class Worker:
    """A store of one worker, with what was told of it."""

    store: RedisStore
    space: Space
    notes: Notes

    async def places(self, key: str) -> int:
        """Places held at ``key``, as the server counts them."""
        step = Lease(key, 0, "soft")
        return (await self.space.run(step))[step].used

    async def until(self, right: Callable[[], Awaitable[bool]]) -> None:
        """Wait until ``right()``; meanwhile the store may fail."""
        async with asyncio.timeout(60):
            while True:
                try:
                    if await right():
                        return
                except StoreFailed:
                    pass
                await asyncio.sleep(0.05)

    async def works(self) -> bool:
        """Whether a run is done."""
        await self.space.run(Put("works", b"x", 10))
        return True

    async def fails(self, kind: str) -> None:
        """Wait until a run fails with ``kind``."""
        async with asyncio.timeout(60):
            while kind not in self.notes.kinds:
                try:
                    await self.works()
                except StoreFailed as error:
                    assert error.kind in (kind, "resting", "unreachable"), str(error)
                await asyncio.sleep(0.02)


def plan(url: str, timeout: float = 2.0, lease: float = 30.0) -> RedisPlan:
    return RedisPlan(read_url(url), timeout=timeout, lease=lease)


@asynccontextmanager
async def worker(made: RedisPlan) -> AsyncIterator[Worker]:
    notes = Notes()
    store = RedisStore(made, notes)
    await store.open()
    try:
        yield Worker(store, Space(store, "test"), notes)
    finally:
        await store.close()
        assert not any(PASSWORD in text for text in notes.texts)
        assert PASSWORD not in repr(made)


def tcp(redis: Redis, scheme: str = "redis", who: str = "") -> str:
    return f"{scheme}://{who}127.0.0.1:{redis.port}"


async def use(made: RedisPlan) -> None:
    """Everything that a store does, once."""
    async with worker(made) as ours, worker(made) as theirs:
        held = await ours.space.run(Lease("l", 1), Spend("w", Fixed(5, 60)), Put("v", b"x", 60), Mark("m", b"x", 60))
        assert held.granted
        assert not (await theirs.space.run(Lease("l", 1))).granted
        assert [one.key for one in await theirs.space.scan("")] == ["v"]
        ours.space.release(held)
        assert await ours.places("l") == 0
        assert (await theirs.space.run(Lease("l", 1))).granted


@pytest.mark.asyncio
async def test_tcp_and_unix_socket_and_database() -> None:
    with server() as redis:
        await use(plan(tcp(redis)))
        await use(plan(tcp(redis) + "/3"))
        await use(plan(f"unix://{redis.socket}"))
        assert "db3" in redis.ask("INFO", "keyspace") and "db0" in redis.ask("INFO", "keyspace")


@pytest.mark.asyncio
async def test_tls_with_a_certificate_of_ours(authority: trustme.CA, ca_file: Path, tmp_path: Path) -> None:
    theirs, ours = stored(authority, tmp_path, "127.0.0.1"), stored(authority, tmp_path, "proxy.example")
    with server(certificate=theirs, ca_file=ca_file) as redis:
        good = Tls(str(ca_file), str(ours.cert), str(ours.key))
        made = replace(plan(tcp(redis, "rediss")), tls=good)
        await use(made)
        for tls in (Tls(None, good.cert_file, good.key_file), Tls(str(ca_file))):
            async with worker(replace(made, tls=tls)) as refused:
                await refused.fails("protocol")
                assert refused.notes.ups == 0
        named = stored(authority, tmp_path, "localhost")
    with server(certificate=named, ca_file=ca_file) as redis:
        made = replace(plan(tcp(redis, "rediss")), tls=good)
        async with worker(made) as refused:
            await refused.fails("protocol")
        await use(replace(made, tls=replace(good, check_hostname=False)))
    with pytest.raises(OSError):
        RedisStore(replace(made, tls=Tls("/nowhere")))


@pytest.mark.asyncio
async def test_password_and_user_with_no_more_rights_than_needed() -> None:
    with server("--requirepass", PASSWORD) as redis:
        await use(replace(plan(tcp(redis)), password=PASSWORD))
        await use(plan(tcp(redis, who=f":{PASSWORD}@")))
        for password in (None, f"{PASSWORD}x"):
            async with worker(replace(plan(tcp(redis)), password=password)) as refused:
                await refused.fails("auth")
    rules = ("on", f">{PASSWORD}", "~{popproxy}*", "+evalsha", "+script|load", "+scan", "+select")
    rules = (
        *rules,
        *["+get", "+set", "+del", "+hget", "+hset", "+hdel", "+hgetall", "+hincrby", "+pexpire", "+pttl", "+time"],
    )
    rules = (*rules, *["+zadd", "+zcard", "+zpopmin", "+zrevrange", "+zremrangebyscore"])
    with server() as redis:
        redis.ask("ACL", "SETUSER", "pop", *rules)
        made = replace(plan(tcp(redis)), username="pop", password=PASSWORD)
        await use(made)
        async with worker(replace(made, prefix="other")) as refused:
            await refused.fails("auth")


@pytest.mark.asyncio
async def test_a_script_that_a_server_lost_is_loaded_again_and_the_decision_is_made() -> None:
    with server() as redis:
        async with worker(plan(tcp(redis))) as ours:
            assert (await ours.space.run(Lease("l", 9))).granted
            for number in range(2, 5):
                await redis.say("SCRIPT", "FLUSH")
                step = Lease("l", 9)
                assert (await ours.space.run(step))[step].used == number
            assert ours.notes.kinds == []


@pytest.mark.asyncio
async def test_a_decision_takes_one_round_trip_and_a_worker_one_connection() -> None:
    with server() as redis:
        async with worker(plan(tcp(redis))) as ours:
            await ours.works()
            before = await counts(redis)
            steps = [(Spend(f"w{n}", Sliding(5, 60)), Lease(f"l{n}", 5)) for n in range(100)]
            outcomes = await asyncio.gather(*(ours.space.run(*some) for some in steps))
            assert all(outcome.granted for outcome in outcomes)
            after = await counts(redis)
            assert after["evalsha"] - before["evalsha"] == 100, "one call for each"
            assert after["reads"] - before["reads"] <= 10, "and few reads for all of them"
            assert after["clients"] == 2, "and redis-cli"


async def counts(redis: Redis) -> dict[str, int]:
    """From INFO: calls of evalsha, reads from sockets, clients."""
    lines = dict(line.split(":", 1) for line in (await redis.say("INFO", "everything")).splitlines() if ":" in line)
    evalsha = lines.get("cmdstat_evalsha", "calls=0,").split("=")[1].split(",")[0]
    return {
        "evalsha": int(evalsha),
        "reads": int(lines["total_reads_processed"]),
        "clients": int(lines["connected_clients"]),
    }


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ("stop", "kill"))
async def test_a_server_that_ends_in_the_middle_and_comes_back_empty(way: str) -> None:
    with server() as redis:
        async with worker(plan(tcp(redis))) as ours, worker(plan(tcp(redis))) as theirs:
            held = [await ours.space.run(Lease("l", 9)) for _ in range(3)]
            await theirs.space.run(Lease("l", 9))
            getattr(redis, way)()
            await ours.fails("refused")
            ours.space.post(Put("posted", b"x", 60))
            ours.space.release(held[0])
            redis.start()
            await ours.until(ours.works)
            await theirs.until(theirs.works)
            # Both tell the empty server what they hold, less what was released meanwhile.
            assert await ours.places("l") == 3
            step = Get("posted")
            assert (await theirs.space.run(step))[step] == b"x"
            assert ours.notes.ups == 2 and ours.notes.posts == 0


@pytest.mark.asyncio
async def test_a_server_that_was_restarted_meanwhile_costs_no_decision() -> None:
    with server() as redis:
        # A heart-beat would not find out before the decision.
        async with worker(plan(tcp(redis), lease=6000)) as ours:
            await ours.works()
            connection = ours.store._link._connection
            assert connection is not None and connection._reader is not None
            redis.kill()
            redis.start()
            async with asyncio.timeout(60):
                while not (connection._reader.at_eof() or connection._reader.exception()):
                    await asyncio.sleep(0.01)
            assert await ours.works()
            assert ours.notes.kinds == []


@pytest.mark.asyncio
async def test_a_server_with_old_data_does_not_count_what_was_released_since(tmp_path: Path) -> None:
    with server() as redis:
        async with worker(plan(tcp(redis))) as ours:
            held = [await ours.space.run(Lease(key, 9)) for key in ("a", "a", "b")]
            await redis.say("SAVE")
            ours.space.release(held[0])
            ours.space.release(held[2])
            await ours.works()
            redis.kill()
            redis.start()
            await ours.until(ours.works)
            assert [await ours.places("a"), await ours.places("b")] == [1, 0]


@pytest.mark.asyncio
async def test_a_server_that_hangs_fails_runs_fast_and_goes_on(tmp_path: Path) -> None:
    with server() as redis:
        async with worker(plan(tcp(redis), timeout=0.5, lease=60)) as ours:
            held = await ours.space.run(Lease("l", 5))
            redis.hang()
            lost = await asyncio.gather(
                *(ours.space.run(Lease("l", 5), Put("p", b"", 9)) for _ in range(3)), return_exceptions=True
            )
            assert [type(one) for one in lost] == [StoreFailed] * 3
            while len(ours.notes.kinds) < 2:
                with pytest.raises(StoreFailed):
                    await ours.works()
            assert ours.notes.kinds[:2] == ["timeout"] * 2
            # A thousand logins a second: from then on nobody waits, also while the store is tried.
            unasked, tried = ours.notes.unasked, len(ours.notes.kinds)
            asked = 0
            while asked < 1000 or len(ours.notes.kinds) < tried + 2:
                task = asyncio.ensure_future(ours.space.run(Get("x")))
                await asyncio.sleep(0.001)
                assert task.done()
                assert task.exception().kind == "resting"  # type: ignore[union-attr]
                asked += 1
            assert ours.notes.unasked == unasked + asked
            redis.go_on()
            await ours.until(ours.works)
            # What was on its way when the connection broke was not counted, or is not any more.
            assert await ours.places("l") == 1
            ours.space.release(held)
            assert await ours.places("l") == 0


@pytest.mark.asyncio
async def test_a_worker_with_too_much_in_doubt_is_forgotten_by_its_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the connection held all the time: the epoch is still the same."""
    monkeypatch.setattr(batch, "_DOUBTS", 2)
    with server() as redis:
        async with worker(plan(tcp(redis), lease=4.0)) as ours:
            kept = await ours.space.run(Lease("kept", 9))
            held = await ours.space.run(*(Lease(f"l{number}", 9) for number in range(3)))
            await redis.say("ACL", "SETUSER", "default", "-evalsha")
            ours.space.release(held)
            await ours.fails("auth")
            await redis.say("ACL", "SETUSER", "default", "+evalsha")

            async def forgotten() -> bool:
                return [await ours.places(f"l{number}") for number in range(3)] == [0, 0, 0]

            await ours.until(forgotten)
            await ours.until(lambda: holds(ours, "kept", 1))
            ours.space.release(kept)
            assert await ours.places("kept") == 0


async def holds(ours: Worker, key: str, number: int) -> bool:
    return await ours.places(key) == number


@pytest.mark.asyncio
async def test_full_loading_and_replica() -> None:
    options = ("--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024")
    with server("--maxmemory-policy", "noeviction", *options) as redis, server() as other:
        async with worker(plan(tcp(redis))) as ours:
            await ours.works()
            await redis.say("CONFIG", "SET", "maxmemory", "1")
            await ours.fails("full")
            ups, failures = ours.notes.ups, len(ours.notes.kinds)

            async def failed_again() -> bool:
                return len(ours.notes.kinds) > failures + 3 or not await ours.works()

            await ours.until(failed_again)
            assert ours.notes.ups == ups, "a batch that asks nothing does not show that it is back"
            await redis.say("CONFIG", "SET", "maxmemory", "0")
            await ours.until(ours.works)
            await redis.say("REPLICAOF", "127.0.0.1", str(other.port))
            await ours.fails("read_only")
            await redis.say("REPLICAOF", "NO", "ONE")
            await ours.until(ours.works)
            # A server that reads its data, slowly, says so.
            await redis.say("CONFIG", "SET", "key-load-delay", "20000")
            await redis.say("EVAL", "for i = 1, 200 do redis.call('SET', 'x' .. i, string.rep(i, 100)) end", "0")
            reload = asyncio.ensure_future(redis.say("DEBUG", "RELOAD"))
            try:
                await ours.fails("loading")
            finally:
                await redis.say("CONFIG", "SET", "key-load-delay", "0")
                await reload
            await ours.until(ours.works)


@pytest.mark.asyncio
async def test_who_answers_and_is_no_redis() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"+OK POP3 ready\r\n" * 3 + b"what\r\n")
        await reader.read()
        writer.close()

    port = free_ports(1)[0]
    async with await asyncio.start_server(greet, "127.0.0.1", port):
        async with worker(plan(f"redis://127.0.0.1:{port}")) as ours:
            with pytest.raises(StoreFailed) as caught:
                await ours.works()
            assert caught.value.kind in ("protocol", "fault")


@pytest.mark.asyncio
async def test_sentinels_name_another_master_and_it_goes_on() -> None:
    with watched() as servers:
        url = f"redis+sentinel://127.0.0.1:1,{servers.hosts}/ours"
        async with worker(plan(url)) as ours, worker(plan(url)) as theirs:
            held = [await ours.space.run(Lease("l", 9)) for _ in range(2)]
            await ours.space.run(Put("kept", b"x", 600))
            await theirs.space.run(Lease("l", 9))
            servers.second.wait_until(lambda: "connected" in servers.second.ask("ROLE"), "replica")
            for sentinel in servers.sentinels:
                sentinel.wait_until(lambda one=sentinel: "num-slaves\n1" in one.ask("SENTINEL", "MASTERS"), "replica")
            servers.first.kill()
            await ours.until(ours.works)
            await theirs.until(theirs.works)
            assert "master" in await servers.second.say("ROLE")
            assert await ours.places("l") == 3
            ours.space.release(held[0])
            assert await ours.places("l") == 2
        async with worker(plan(url.replace("/ours", "/theirs"))) as lost:
            await lost.fails("unreachable")


async def become_master(replica: Redis) -> None:
    """Let it take over. Redis gives a request up after five seconds, as when its peers were slow to vote."""
    asked = -inf
    async with asyncio.timeout(60):
        while "master" not in await replica.say("ROLE"):
            if time.monotonic() > asked + 6:
                asked = time.monotonic()
                await replica.say("CLUSTER", "FAILOVER")
            await asyncio.sleep(0.1)


@pytest.mark.asyncio
async def test_a_cluster_is_followed_when_our_keys_move_to_another_node() -> None:
    with cluster(replicas=1) as nodes:
        url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}"
        await use(plan(url))
        async with worker(plan(url)) as ours:
            held = await ours.space.run(Lease("l", 9))
            keys = [int(await node.say("DBSIZE")) for node in nodes]
            owner = max(range(3), key=lambda number: keys[number])
            assert sum(1 for number in keys[:3] if number) == 1, "all keys are at one node"
            # Its replica takes over by request: what is asked of the old one is MOVED.
            replica = next(node for node in nodes[3:] if f"\n{nodes[owner].port}\n" in node.ask("ROLE"))
            await become_master(replica)
            await ours.until(ours.works)
            assert await ours.places("l") == 1
            # It goes away with nobody to replace it but the old one.
            nodes[owner].wait_until(lambda: "\nconnected\n" in nodes[owner].ask("ROLE"), "replica")
            replica.kill()
            await ours.until(ours.works)
            assert await ours.places("l") == 1
            # And without any node that could: it fails, and says why, until the node is back.
            nodes[owner].kill()
            with pytest.raises(StoreFailed):
                await ours.works()
            nodes[owner].start()
            await ours.until(ours.works)
            assert await ours.places("l") == 1
            ours.space.release(held)
            assert await ours.places("l") == 0


@pytest.mark.asyncio
async def test_clocks_that_differ_by_a_minute_change_nothing() -> None:
    with server() as redis:
        made = replace(plan(f"unix://{redis.socket}", timeout=5), lease=8.0)
        start = f"__import__('popproxy.state.redis.store').state.redis.store.RedisStore({source(made)})"
        async with worker(made) as ours, clocked("+60s", start) as fast, clocked("-60s", start) as slow:
            spent = await asyncio.gather(*(ask(one, "spend", "w", 50, 40) for one in (fast, slow)))
            assert sum(spent) == 50
            assert await ask(fast, "lease", "l", 3, 2) == 2
            assert await ask(slow, "lease", "l", 3, 2) == 1
            # Longer than a lease: by a machine's clock one of them would be dead, and its places given away.
            await asyncio.sleep(made.lease * 1.2)
            assert await ours.places("l") == 3
            assert await ask(slow, "lease", "l", 3, 1) == 0
            assert not (await ours.space.run(Lease("l", 3))).granted


def source(made: RedisPlan) -> str:
    """An expression of ``made``, for another process."""
    room = "__import__('popproxy.state.redis.plan').state.redis.plan"
    return (
        f"{room}.RedisPlan({room}.Place('unix', path={made.place.path!r}), timeout={made.timeout}, lease={made.lease})"
    )


def library() -> Path:
    """Of faketime, for programs with threads."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


@asynccontextmanager
async def clocked(offset: str, start: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A member whose clock is wrong by ``offset``."""
    # Not by the program faketime: it stays in between, and does not take its child along when it is killed.
    faked = {"LD_PRELOAD": str(library()), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    theirs = await asyncio.to_thread(run, [sys.executable, "-c", "import time; print(time.time())"], environment=faked)
    assert abs(float(theirs) - time.time()) > 40
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.state.member", start,
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=os.environ | faked,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ask(process: asyncio.subprocess.Process, *words: object) -> int:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
    return int(await asyncio.wait_for(process.stdout.readline(), 60))


LASTING = """
local lasting = 0
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('PTTL', key) == -1 then lasting = lasting + 1 end
end
return lasting
"""
"""How many keys have no end."""


@pytest.mark.asyncio
async def test_polling_leaves_nothing_behind() -> None:
    with server("--hz", "100") as redis:
        async with worker(replace(plan(f"unix://{redis.socket}"), lease=4.0)) as ours:
            for begin in range(0, 2000, 200):
                outcomes = await asyncio.gather(*(login(ours, begin + n, 0.4) for n in range(200)))
                for outcome in outcomes:
                    ours.space.release(outcome)
            await ours.works()
            assert await redis.say("EVAL", LASTING, "0") == "0", "every key has an end"
            await ours.until(lambda: empty(redis))


async def login(ours: Worker, number: int, window: float) -> Outcome:
    """What a login asks, of a user whom nobody saw before."""
    return await ours.space.run(
        Spend(f"day:{number}", Fixed(9, window)), Spend(f"rate:{number}", TokenBucket(9, window)),
        Spend(f"address:{number}", Sliding(9, window)), Mark(f"seen:{number}", b"192.0.2.1", window),
        Lease(f"sessions:{number}", 3),
    )  # fmt: skip


async def empty(redis: Redis) -> bool:
    """Whether nothing is left but the owner and what ``works`` wrote."""
    return int(await redis.say("DBSIZE")) <= 2
