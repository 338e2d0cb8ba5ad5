"""What a plugin is given at start(). All of it belongs to one worker and lives until stop() has returned.

Whatever reaches outside has a deadline and bounds of its own, and fails with Unavailable: trouble that passes,
[SYS/TEMP] for a client, never [AUTH]. Let it leave a hook with ``fail = "closed"``, or catch it and refuse.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from popproxy.api.backends import Backend
    from popproxy.api.plugin import Fail
    from popproxy.api.store import Store

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
K_contra = TypeVar("K_contra", bound=Hashable, contravariant=True)

DECISIONS = ("allow", "deny", "hide", "rewrite", "delay", "audit")
"""What a rule may do, as it is counted."""
LIMITED = ("allowed", "denied", "error", "audited")
"""How a limit may decide, as it is counted."""
BACKEND_ERRORS = ("timeout", "refused", "unreachable", "dns", "tls", "lost", "protocol", "busy", "_other")
"""Why a look-up of a user gave no answer, as it is counted."""
CACHED = ("hit", "negative", "miss")
"""What a cache of users knew: the user, that there is none, nothing."""
SCANNED = ("ham", "spam", "error", "too_big", "skipped")
"""What came of a message that was to be scanned. ``skipped``: its verdict was known before."""
LABEL_WORD = re.compile(r"[a-z0-9_-]{1,40}")
"""The name of a rule or a limit in the config."""

Body = bytes | Iterable[bytes] | AsyncIterable[bytes]


class Unavailable(Exception):
    """Something that was asked cannot answer now. The text names it, and holds nothing of what was asked."""


class HttpFailed(Unavailable):
    """No HTTP reply, or none that can be used.

    ``kind`` is one of ``dns``, ``refused``, ``unreachable``, ``timeout``, ``tls``, ``lost``, ``garbage``,
    ``too_large``.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class StreamFailed(Unavailable):
    """A stream could not be made, or it broke. ``kind`` as in HttpFailed."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class LookupFailed(Unavailable):
    """The source of a look-up is down or slow."""


class Busy(Unavailable):
    """Too much work is waiting for a thread already."""


class LineError(ValueError):
    """What a parser of a watched file raises: line ``line`` (from 1) is wrong, and what to write instead."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class FileFailed(Exception):
    """A watched file cannot be used at the start. The text says file, line where known, and what is wrong."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An HTTP reply. ``headers`` in the order they came; values are UTF-8 with surrogate escapes, without CR and LF."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """The value of the first header called ``name`` in any case, or None."""
        wanted = name.lower()
        return next((value for known, value in self.headers if known.lower() == wanted), None)


class Log(Protocol):
    """Structured log of one plugin. Never pass a secret."""

    def info(self, event: str, **fields: object) -> None:
        """Something an administrator may want to know."""
        ...

    def warning(self, event: str, **fields: object) -> None:
        """Something an administrator should look at."""
        ...

    def error(self, event: str, **fields: object) -> None:
        """Something that is broken."""
        ...


class Clock(Protocol):
    """Time, so that tests can set it."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class Counter(Protocol):
    """A counter with its labels bound."""

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``, which is not negative."""
        ...


class Metrics(Protocol):
    """Counters of one plugin. Label values are fixed at start: nothing read off the wire becomes a label."""

    def counter(self, name: str, help: str, label: str = "", values: Sequence[str] = ()) -> dict[str, Counter]:
        """``popproxy_plugin_<plugin>_<name>_total``: one bound counter per value; without a label under ``""``."""
        ...

    def decisions(self, rules: Sequence[str], actions: Sequence[str]) -> Mapping[str, Mapping[str, Counter]]:
        """``popproxy_policy_decisions_total``: one bound counter by rule and by action. Rules are names of the config,
        1 to 40 of ``a-z 0-9 _ -``; actions are some of allow, deny, hide, rewrite, delay, audit. Raises ValueError."""
        ...

    def limits(self, names: Sequence[str]) -> Mapping[str, Mapping[str, Counter]]:
        """``popproxy_rate_limit_decisions_total``: one bound counter by limit and by result: allowed, denied, error,
        audited. Limits are names of the config as in decisions(). Raises ValueError."""
        ...

    def scans(self, scanner: str) -> Mapping[str, Counter]:
        """``popproxy_scanner_results_total``: one bound counter by result: ham, spam, error, too_big, skipped.
        ``scanner`` is a word of the config, as in decisions(). Raises ValueError."""
        ...

    def backend(self) -> Backend:
        """``popproxy_auth_backend_*`` and ``popproxy_auth_cache_requests_total`` of this plugin, for one that looks
        users up outside of the proxy."""
        ...


class Resolver(Protocol):
    """Host names to addresses without blocking the loop."""

    async def addresses(self, host: str) -> list[str]:
        """IPv4 and IPv6 addresses as text. Raises OSError when there is none."""
        ...

    async def name(self, address: str) -> str | None:
        """The host name that ``address`` claims, None when it has none; it may lie. Raises OSError when nobody can
        tell now."""
        ...


class Http(Protocol):
    """HTTP/1.1 client. Connections are kept and used again; redirects, cookies and proxies are not followed."""

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
        """One request; any status is a reply. Raises HttpFailed, ValueError for a URL or header that cannot be sent.

        ``timeout`` in seconds is for all of it. A body above ``max_octets`` is ``too_large``; with 0 the body is not
        read at all. ``https`` is verified against ``ca_file`` (None: the system's store). ``unix`` is the path of the
        socket to connect to; the URL then gives Host and path only. A kept connection that the peer closed meanwhile
        is replaced and the request sent again, if it is ``repeatable`` (None: GET, HEAD, PUT, DELETE, OPTIONS are)
        and its body can be iterated again.
        """
        ...


class Lookup(Protocol[K_contra, T_co]):
    """Answers of one source by key: cached, and never asked twice at the same time for one key."""

    async def get(self, key: K_contra) -> T_co | None:
        """What the source knows of ``key``; None when it knows nothing. Raises LookupFailed when it is down."""
        ...

    def forget(self, key: K_contra) -> None:
        """Drop what is cached for ``key``, also the answer that is under way: the next get() asks again."""
        ...

    def clear(self) -> None:
        """forget() every key."""
        ...


class Threads(Protocol):
    """A few threads of the worker, for hashing and for files: what takes time and would stop all sessions."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """What ``function(*args)`` returns or raises. Raises Busy when too many wait already.

        A function that has begun runs to its end, even when nobody waits for it any more.
        """
        ...


class WatchedFile(Protocol[T_co]):
    """A parsed file that follows the one on disk."""

    @property
    def value(self) -> T_co:
        """What the newest version that could be parsed holds. It changes between two awaits, never in part."""
        ...

    @property
    def version(self) -> int:
        """1 at the start, one more with every new value."""
        ...


class Stream(Protocol):
    """A connection of octets, for protocols of a plugin's own. Also an async context manager, which closes it."""

    async def read(self, limit: int = 65536) -> bytes:
        """What has come, at most ``limit`` octets; ``b""`` at the end. Raises StreamFailed."""
        ...

    async def write(self, data: bytes) -> None:
        """Send ``data``, waiting while the peer is slow. Raises StreamFailed."""
        ...

    async def write_eof(self) -> None:
        """Tell the peer that nothing more is written; reading goes on. Raises StreamFailed."""
        ...

    async def close(self) -> None:
        """Close it at once. May be called again."""
        ...

    async def __aenter__(self) -> Stream: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Services(Protocol):
    """The services of one plugin, and what its table says of it."""

    @property
    def fail(self) -> Fail:
        """What a failure of this plugin means: its own default, or what the operator wrote."""
        ...

    @property
    def deadline(self) -> float:
        """Seconds an async hook may take. A plugin that must have the last word keeps its own time-outs below it."""
        ...

    @property
    def log(self) -> Log:
        """Log lines with the plugin's name on them."""
        ...

    @property
    def clock(self) -> Clock:
        """The worker's clock."""
        ...

    @property
    def metrics(self) -> Metrics:
        """The plugin's own counters, exported on /metrics."""
        ...

    @property
    def resolver(self) -> Resolver:
        """Name look-ups."""
        ...

    @property
    def http(self) -> Http:
        """HTTP requests."""
        ...

    @property
    def threads(self) -> Threads:
        """Work that would block."""
        ...

    @property
    def store(self) -> Store:
        """What all workers know together."""
        ...

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
    ) -> Lookup[K, V]:
        """Look-ups through ``fetch``, which returns None for a key the source does not know.

        ``fetch`` may take ``timeout`` seconds. An answer is kept for ``ttl`` seconds, "not known" for
        ``negative_ttl``, 0 keeps nothing; at most ``size`` keys, the one not used for longest goes first. Unavailable,
        OSError and TimeoutError become LookupFailed and are not kept; any other exception passes. Counted as
        ``<name>_lookups``, label ``result``: ``cached``, ``found``, ``unknown``, ``failed``;
        with ``backend`` also as ``popproxy_auth_cache_requests_total``.
        """
        ...

    async def file(
        self,
        path: str | PathLike[str],
        parse: Callable[[bytes], T],
        changed: Callable[[T], None] | None = None,
    ) -> WatchedFile[T]:
        """``path`` parsed, and parsed again within seconds when it changes on disk. ``changed`` gets each new value,
        the first one, too.

        ``parse`` runs in a thread and raises ValueError, best a LineError, for content that is wrong. At the start
        that is FileFailed; later the old value stays, the error is logged as ``file_broken`` and counted as
        ``file_loads``, label ``result``: ``ok``, ``failed``.
        """
        ...

    async def stream(self, address: str, timeout: float = 10.0) -> Stream:
        """Connect to ``host:port``, ``[v6]:port`` or ``unix:/path``. ``timeout`` in seconds is for the connect and
        for each read and write. Raises StreamFailed, ValueError for an address of another form."""
        ...
