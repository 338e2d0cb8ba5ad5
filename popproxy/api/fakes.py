"""The services of a plugin under test: what it logs and counts is kept, time stands still until the test moves it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from popproxy.api.backends import Backend, reason_of
from popproxy.api.cache import Cache
from popproxy.api.plugin import Fail
from popproxy.api.services import (
    CACHED,
    DECISIONS,
    LABEL_WORD,
    LIMITED,
    SCANNED,
    Body,
    Counter,
    FileFailed,
    HttpReply,
    LineError,
    LookupFailed,
    StreamFailed,
    Unavailable,
)
from popproxy.api.store import Outcome, Step, Stored, StoreFailed
from popproxy.state.memory import MemoryStore
from popproxy.state.space import Space

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line a plugin logged."""

    level: str
    event: str
    fields: Mapping[str, object]


class FakeLog:
    """api.Log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    def info(self, event: str, **fields: object) -> None:
        """See api.Log."""
        self.lines.append(LogLine("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        """See api.Log."""
        self.lines.append(LogLine("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        """See api.Log."""
        self.lines.append(LogLine("error", event, fields))


class FakeClock:
    """api.Clock that only ``wait`` moves. It begins at noon, 2026-01-01 UTC; its monotonic seconds at 1000."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def now(self) -> float:
        """See api.Clock."""
        return 1_767_268_800.0 + self.elapsed

    def monotonic(self) -> float:
        """See api.Clock."""
        return 1000.0 + self.elapsed

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.elapsed += seconds


class FakeCounter:
    """api.Counter that can be read."""

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """See api.Counter. Raises ValueError for a negative ``amount``."""
        if amount < 0:
            raise ValueError(f"a counter only grows: inc({amount})")
        self.value += amount


class FakeBackend:
    """api.Backend. ``told`` has ``ok`` or the reason for every look-up, and what the cache knew, as they came."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def asked(self) -> Generator[None]:
        """See api.Backend."""
        try:
            yield
        except Exception as error:
            self.told.append(reason_of(error))
            raise
        self.told.append("ok")

    def cached(self, result: str) -> None:
        """See api.Backend. Raises ValueError for a result that is none."""
        if result not in CACHED:
            raise ValueError(f"results are {', '.join(CACHED)}")
        self.told.append(result)


class FakeMetrics:
    """api.Metrics. ``counters`` holds every counter by its name and label value (``""`` without a label), ``decided``
    those of rules by rule and action, ``limited`` those of limits by limit and result, ``scanned`` those of scanners
    by scanner and result; ``asked`` is the back end."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, str], FakeCounter] = {}
        self.decided: dict[tuple[str, str], FakeCounter] = {}
        self.limited: dict[tuple[str, str], FakeCounter] = {}
        self.scanned: dict[tuple[str, str], FakeCounter] = {}
        self.asked = FakeBackend()

    def counter(self, name: str, help: str, label: str = "", values: Sequence[str] = ()) -> dict[str, Counter]:
        """See api.Metrics. Raises ValueError for a name made twice, and for a label without values or the reverse."""
        if any(name == known for known, _ in self.counters):
            raise ValueError(f"counter {name!r} is made twice")
        if bool(label) != bool(values):
            raise ValueError(f"counter {name!r}: a label and its values go together")
        made = {value: FakeCounter() for value in (values or ("",))}
        self.counters.update({(name, value): counter for value, counter in made.items()})
        return dict[str, Counter](made)

    def decisions(self, rules: Sequence[str], actions: Sequence[str]) -> dict[str, dict[str, Counter]]:
        """See api.Metrics. Raises ValueError for an action that is none."""
        if not {*actions} <= {*DECISIONS}:
            raise ValueError(f"actions are some of {', '.join(DECISIONS)}")
        return _grid(self.decided, rules, actions)

    def limits(self, names: Sequence[str]) -> dict[str, dict[str, Counter]]:
        """See api.Metrics."""
        return _grid(self.limited, names, LIMITED)

    def scans(self, scanner: str) -> dict[str, Counter]:
        """See api.Metrics."""
        return _grid(self.scanned, [scanner], SCANNED)[scanner]

    def backend(self) -> FakeBackend:
        """See api.Metrics."""
        return self.asked


def _grid(
    kept: dict[tuple[str, str], FakeCounter], names: Sequence[str], values: Sequence[str]
) -> dict[str, dict[str, Counter]]:
    wrong = [name for name in names if not LABEL_WORD.fullmatch(name)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no name for a label: write 1 to 40 of a-z, 0-9, _ and -")
    return {name: {value: kept.setdefault((name, value), FakeCounter()) for value in values} for name in names}


class FakeResolver:
    """api.Resolver that knows the names it is given."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = names

    async def addresses(self, host: str) -> list[str]:
        """See api.Resolver."""
        if host not in self.names:
            raise OSError(f"no address for {host!r}: give play(..., names={{{host!r}: [...]}})")
        return list(self.names[host])

    async def name(self, address: str) -> str | None:
        """See api.Resolver."""
        return next((host for host, addresses in self.names.items() if address in addresses), None)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request a plugin made."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(default=b"", repr=False)
    unix: str | None = None

    def header(self, name: str) -> str | None:
        """The value of the first header called ``name`` in any case, or None."""
        return HttpReply(0, self.headers).header(name)


Answering = Callable[[HttpRequest], HttpReply]
Speaking = Callable[[bytes], bytes]


class FakeHttp:
    """api.Http whose replies a function of the test makes; it may raise HttpFailed. ``requests`` are kept."""

    def __init__(self, answer: Answering | None) -> None:
        self.answer = answer
        self.requests: list[HttpRequest] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: Body | None = None,
        timeout: float = 10.0,
        max_octets: int = 1 << 20,
        ca_file: str | PathLike[str] | None = None,
        unix: str | PathLike[str] | None = None,
        repeatable: bool | None = None,
    ) -> HttpReply:
        """See api.Http."""
        pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
        where = None if unix is None else fspath(unix)
        request = HttpRequest(method, url, pairs, await _joined(body), where)
        self.requests.append(request)
        if self.answer is None:
            raise AssertionError(f"nobody answers {method} {url}: give play(..., http=function)")
        return self.answer(request)


async def _joined(body: Body | None) -> bytes:
    if body is None or isinstance(body, bytes):
        return body or b""
    if isinstance(body, AsyncIterable):
        return b"".join([part async for part in body])
    return b"".join(body)


class FakeLookup(Generic[K, V]):
    """api.Lookup without time-outs: a play has one session and a clock that stands still."""

    def __init__(
        self,
        name: str,
        fetch: Callable[[K], Awaitable[V | None]],
        counters: Mapping[str, Counter],
        cache: Cache[K, V],
        backend: Backend | None = None,
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._count = counters
        self._cache = cache
        self._backend = backend

    async def get(self, key: K) -> V | None:
        """See api.Lookup."""
        known = self._cache.get(key)
        if known is not None:
            self._count["cached"].inc()
            if self._backend is not None:
                self._backend.cached("negative" if known[0] is None else "hit")
            return known[0]
        if self._backend is not None:
            self._backend.cached("miss")
        try:
            value = await self._fetch(key)
        except (Unavailable, OSError) as error:
            self._count["failed"].inc()
            raise LookupFailed(f"{self._name}: {error}") from error
        self._count["unknown" if value is None else "found"].inc()
        self._cache.put(key, value)
        return value

    def forget(self, key: K) -> None:
        """See api.Lookup."""
        self._cache.forget(key)

    def clear(self) -> None:
        """See api.Lookup."""
        self._cache.clear()


class FakeThreads:
    """api.Threads that runs everything at once, in the only thread there is. ``calls`` are counted."""

    def __init__(self) -> None:
        self.calls = 0

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See api.Threads."""
        self.calls += 1
        return function(*args)


class FakeFile(Generic[T]):
    """api.WatchedFile on a real file, looked at whenever ``value`` or ``version`` is."""

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], T],
        changed: Callable[[T], None] | None,
        log: FakeLog,
        loads: Mapping[str, Counter],
    ) -> None:
        self._path = path
        self._parse = parse
        self._changed = changed
        self._log = log
        self._loads = loads
        try:
            self._data = path.read_bytes()
            self._value = parse(self._data)
        except (OSError, ValueError) as error:
            raise FileFailed(_words(path, error)) from error
        self._version = 0
        self._take()

    @property
    def value(self) -> T:
        """See api.WatchedFile."""
        self._look()
        return self._value

    @property
    def version(self) -> int:
        """See api.WatchedFile."""
        self._look()
        return self._version

    def _look(self) -> None:
        try:
            data = self._path.read_bytes()
            if data == self._data:
                return
            self._data = data
            self._value = self._parse(data)
        except (OSError, ValueError) as error:
            self._loads["failed"].inc()
            self._log.error("file_broken", path=str(self._path), detail=_words(self._path, error))
        else:
            self._take()

    def _take(self) -> None:
        self._version += 1
        self._loads["ok"].inc()
        if self._changed is not None:
            self._changed(self._value)


def _words(path: Path, error: Exception) -> str:
    return f"{path}:{error.line}: {error}" if isinstance(error, LineError) else f"{path}: {error}"


class FakeStream:
    """api.Stream to a function of the test: it gets all that was written before a read, its result is what is read.

    It may raise StreamFailed. ``written`` is kept.
    """

    def __init__(self, speak: Speaking) -> None:
        self.written = b""
        self.closed = False
        self._speak = speak
        self._heard = b""
        self._unread = b""

    async def read(self, limit: int = 65536) -> bytes:
        """See api.Stream."""
        if not self._unread and self._heard:
            heard, self._heard = self._heard, b""
            self._unread = self._speak(heard)
        got, self._unread = self._unread[:limit], self._unread[limit:]
        return got

    async def write(self, data: bytes) -> None:
        """See api.Stream."""
        if self.closed:
            raise StreamFailed("lost", "write: the stream is closed")
        self.written += data
        self._heard += data

    async def write_eof(self) -> None:
        """See api.Stream."""

    async def close(self) -> None:
        """See api.Stream."""
        self.closed = True

    async def __aenter__(self) -> FakeStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


class FakeStore:
    """api.Store in memory, on the clock of the test. While ``down`` it fails as a store does that nobody reaches."""

    def __init__(self, clock: FakeClock) -> None:
        self._space = Space(MemoryStore(clock.now), "test")
        self.down = False
        self.runs = 0

    async def run(self, *steps: Step[Any]) -> Outcome:
        """See api.Store. ``runs`` counts the calls."""
        self.runs += 1
        if self.down:
            raise StoreFailed("the store is down")
        return await self._space.run(*steps)

    def post(self, *steps: Step[Any]) -> None:
        """See api.Store. While it is down, what is posted is lost."""
        if not self.down:
            self._space.post(*steps)

    def release(self, outcome: Outcome) -> None:
        """See api.Store."""
        self._space.release(outcome)

    async def scan(self, prefix: str, most: int = 1000) -> list[Stored]:
        """See api.Store."""
        if self.down:
            raise StoreFailed("the store is down")
        return await self._space.scan(prefix, most)


@dataclass(frozen=True, slots=True)
class World:
    """What is outside of a play: host names, who answers HTTP, and who speaks at which address of a stream."""

    names: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    http: Answering | None = None
    streams: Mapping[str, Speaking] = field(default_factory=dict[str, Speaking])


class FakeServices:
    """api.Services of one plugin under test."""

    def __init__(self, clock: FakeClock, world: World, fail: Fail = Fail.OPEN, deadline: float = 10.0) -> None:
        self.fail = fail
        self.deadline = deadline
        self.log = FakeLog()
        self.clock = clock
        self.metrics = FakeMetrics()
        self.resolver = FakeResolver(world.names)
        self.http = FakeHttp(world.http)
        self.threads = FakeThreads()
        self.store = FakeStore(clock)
        self.streams: list[FakeStream] = []
        self._world = world
        self._loads: dict[str, Counter] = {}

    def lookup(
        self,
        name: str,
        fetch: Callable[[K], Awaitable[V | None]],
        *,
        timeout: float = 5.0,
        ttl: float = 60.0,
        negative_ttl: float = 10.0,
        size: int = 10_000,
        backend: Backend | None = None,
    ) -> FakeLookup[K, V]:
        """See api.Services."""
        counters = self.metrics.counter(
            f"{name}_lookups", f"Look-ups of {name}", "result", ("cached", "found", "unknown", "failed")
        )
        return FakeLookup(name, fetch, counters, Cache(self.clock.monotonic, ttl, negative_ttl, size), backend)

    async def file(
        self,
        path: str | PathLike[str],
        parse: Callable[[bytes], T],
        changed: Callable[[T], None] | None = None,
    ) -> FakeFile[T]:
        """See api.Services."""
        if not self._loads:
            self._loads = self.metrics.counter("file_loads", "Files read", "result", ("ok", "failed"))
        return FakeFile(Path(path), parse, changed, self.log, self._loads)

    async def stream(self, address: str, timeout: float = 10.0) -> FakeStream:
        """See api.Services."""
        speak = self._world.streams.get(address)
        if speak is None:
            raise StreamFailed("refused", f"nobody is at {address}: give play(..., streams={{{address!r}: function}})")
        stream = FakeStream(speak)
        self.streams.append(stream)
        return stream
