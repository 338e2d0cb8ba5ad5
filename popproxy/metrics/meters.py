"""What the rooms below count with. One ListenerMeter per listener, one UpstreamMeter per upstream, all bound once.

ListenerMeter has the shape that core asks of a session's meter. Strings are looked up in enums, and what is
unknown is counted as ``_other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from popproxy.metrics.buffers import Buffers
from popproxy.metrics.cells import Cell, Families, Index
from popproxy.metrics.exemplars import Exemplars, Named, TracedMeter
from popproxy.metrics.names import METRICS
from popproxy.metrics.words import (
    ATTEMPTED,
    CONNECT,
    DIAL_FAULTS,
    FAST,
    LIFE,
    OTHER,
    SHORT,
    SIZES,
    STATES,
)
from popproxy.wire.commands import VERB_NAMES

Side = Literal["client", "upstream"]
TlsMode = Literal["implicit", "stls"]
DialPhase = Literal["dns", "tcp", "tls", "greeting"]

_INDEXES = {
    name: Index(METRICS[name])
    for name in (
        "connections_rejected", "proxy_protocol_errors", "tls_handshakes", "tls_handshake_failures",
        "tls_handshake_duration_seconds", "auth_attempts", "auth_duration_seconds", "sessions_active", "sessions",
        "command_duration_seconds", "command_transfer_duration_seconds", "protocol_violations", "messages",
        "backpressure_pauses", "upstream_connections", "upstream_connect_duration_seconds", "upstream_retries",
        "upstream_state_changes",
        "upstream_health_checks", "upstream_queued", "plugin_calls", "plugin_errors",
    )
}  # fmt: skip
_REJECTED = _INDEXES["connections_rejected"]
_PROXY = _INDEXES["proxy_protocol_errors"]
_TLS = _INDEXES["tls_handshakes"]
_TLS_FAILED = _INDEXES["tls_handshake_failures"]
_TLS_TIME = _INDEXES["tls_handshake_duration_seconds"]
_AUTH = _INDEXES["auth_attempts"]
_AUTH_TIME = _INDEXES["auth_duration_seconds"]
_STATE = _INDEXES["sessions_active"]
_ENDED = _INDEXES["sessions"]
_VIOLATION = _INDEXES["protocol_violations"]
_PAUSE = _INDEXES["backpressure_pauses"]
_DIAL = _INDEXES["upstream_connections"]
_DIAL_TIME = _INDEXES["upstream_connect_duration_seconds"]
_RETRY = _INDEXES["upstream_retries"]
_TURN = _INDEXES["upstream_state_changes"]
_CHECK = _INDEXES["upstream_health_checks"]
_QUEUED = _INDEXES["upstream_queued"]
_VERDICT = _INDEXES["plugin_calls"]
_ACTION = _INDEXES["plugin_errors"]



class _Rows(dict[str, int | None]):
    """Rows of sessions_active by phase; None where there is no session, ``_other`` for what is unknown."""

    def __missing__(self, phase: str) -> int | None:
        return _STATE[OTHER,]


_STATE_OF = _Rows({"": None, "closed": None, **{phase: _STATE[state,] for phase, state in STATES.items()}})
_RETR = VERB_NAMES.index("RETR")
_MESSAGE = {VERB_NAMES.index(verb): _INDEXES["messages"][verb, "ok"] for verb in ("RETR", "TOP", "DELE")}
_LATENCY = [_INDEXES["command_duration_seconds"][verb,] for verb in VERB_NAMES]
_TRANSFER = [_INDEXES["command_transfer_duration_seconds"][verb,] for verb in VERB_NAMES]


@dataclass(frozen=True, slots=True)
class HookCells:
    """The cells of one hook of one plugin."""

    calls: list[int]
    errors: list[int]
    seconds: Cell


class Hooks(dict[tuple[str, str], HookCells]):
    """Cells by plugin and hook. What was never bound is counted together under ``_other``."""

    def __init__(self, families: Families) -> None:
        super().__init__()
        self._families = families
        self._other = self._cells(OTHER, OTHER)

    def bind(self, plugin: str, hooks: Sequence[str]) -> None:
        """Make the cells of a configured plugin. May be repeated; the counts go on."""
        for hook in hooks:
            self[plugin, hook] = self._cells(plugin, hook)

    def _cells(self, plugin: str, hook: str) -> HookCells:
        counters, histograms = self._families.counters, self._families.histograms
        return HookCells(
            counters["plugin_calls"].bind(plugin, hook),
            counters["plugin_errors"].bind(plugin, hook),
            histograms["plugin_duration_seconds"].bind(plugin, hook)[0],
        )

    def __missing__(self, key: tuple[str, str]) -> HookCells:
        return self._other


class ListenerMeter:
    """The counters of one listener: what core's SessionMeter asks for, and what the pump and the listener count.

    Seconds are never negative. All methods belong to the event loop's thread.
    """

    __slots__ = (
        "_accept_failures", "_active", "_attempts", "_auth_time", "_bytes", "_connections", "_ended", "_exemplars",
        "_families", "_hooks", "_latency", "_life", "_limit", "_messages", "_name", "_pauses", "_proxy", "_rejected",
        "_sizes", "_states", "_tls", "_tls_failed", "_tls_time", "_transfer", "_used", "_violations", "buffers",
        "commands", "pipelined",
    )  # fmt: skip

    def __init__(
        self, families: Families, hooks: Hooks, name: str, buffers: Buffers, exemplars: Exemplars
    ) -> None:
        self._exemplars = exemplars
        self.buffers = buffers
        """Where the pumps note whose buffers are full."""
        counters, gauges, histograms = families.counters, families.gauges, families.histograms
        self._name = name
        self._families = families
        self._hooks = hooks
        self.commands: list[int] = counters["commands"].bind(name)
        self.pipelined: list[int] = counters["pipelined_commands"].bind(name)
        self._connections = counters["connections"].bind(name)
        self._rejected = counters["connections_rejected"].bind(name)
        self._proxy = counters["proxy_protocol_errors"].bind(name)
        self._tls = counters["tls_handshakes"].bind(name)
        self._tls_failed = counters["tls_handshake_failures"].bind(name)
        self._attempts = counters["auth_attempts"].bind(name)
        self._ended = counters["sessions"].bind(name)
        self._messages = counters["messages"].bind()
        self._violations = counters["protocol_violations"].bind()
        self._bytes = counters["transferred_bytes"].bind()
        self._pauses = counters["backpressure_pauses"].bind()
        self._active = gauges["connections_active"].bind(name)
        self._limit = gauges["connections_limit"].bind(name)
        self._used = gauges["connections_used_ratio"].bind(name)
        self._accept_failures = counters["accept_failures"].bind(name)
        self._states = gauges["sessions_active"].bind(name)
        self._tls_time = histograms["tls_handshake_duration_seconds"].bind(name)
        self._life = histograms["session_duration_seconds"].bind(name)[0]
        latencies = histograms["command_duration_seconds"].bind()
        self._latency = [latencies[row] for row in _LATENCY]
        transfers = histograms["command_transfer_duration_seconds"].bind()
        self._transfer = [transfers[row] for row in _TRANSFER]
        self._auth_time = histograms["auth_duration_seconds"].bind()
        self._sizes = histograms["message_size_bytes"].bind()[0]

    def traced(self, session: Named) -> TracedMeter:
        """What a session counts with when exemplars are wanted."""
        return TracedMeter(self, self._name, self._exemplars, session)

    def latency(self, verb: int, seconds: float, count: int, outcome: int) -> None:
        """``count`` commands of this verb got the first octet of their reply after ``seconds``."""
        cell = self._latency[verb]
        cell[bisect_left(FAST, seconds)] += count
        cell[-1] += seconds * count

    def transfer(self, verb: int, seconds: float, octets: int) -> None:
        """A multi-line reply of ``octets`` took ``seconds`` from its first to its last octet."""
        cell = self._transfer[verb]
        cell[bisect_left(FAST, seconds)] += 1
        cell[-1] += seconds
        if verb == _RETR:
            sizes = self._sizes
            sizes[bisect_left(SIZES, octets)] += 1
            sizes[-1] += octets

    def message(self, verb: int, ok: bool) -> None:
        """RETR, TOP or DELE was answered."""
        self._messages[_MESSAGE[verb] + (not ok)] += 1

    def auth(self, mechanism: str, result: str, seconds: float) -> None:
        """A login attempt ended ``seconds`` after the credentials were complete (not timed when they never were)."""
        self._attempts[_AUTH[mechanism, result]] += 1
        if result in ATTEMPTED:
            cell = self._auth_time[_AUTH_TIME[mechanism, "ok" if result == "ok" else "fail"]]
            cell[bisect_left(FAST, seconds)] += 1
            cell[-1] += seconds

    def violation(self, side: str, kind: str) -> None:
        """``side`` is ``client`` or ``upstream``."""
        self._violations[_VIOLATION[side, kind]] += 1

    def plugin(self, plugin: str, hook: str, verdict: str, seconds: float) -> None:
        """A hook was called and returned in time."""
        cells = self._hooks[plugin, hook]
        cells.calls[_VERDICT[verdict,]] += 1
        cells.seconds[bisect_left(SHORT, seconds)] += 1
        cells.seconds[-1] += seconds

    def plugin_error(self, plugin: str, hook: str, action: str) -> None:
        """A hook raised, hung or lied."""
        self._hooks[plugin, hook].errors[_ACTION[action,]] += 1

    def connection(self) -> None:
        """A client was accepted."""
        self._connections[0] += 1

    def rejected(self, reason: str) -> None:
        """A client was closed before its greeting (``reason`` of names.REJECTIONS)."""
        self._rejected[_REJECTED[reason,]] += 1

    def active(self, change: int) -> None:
        """A connection was opened (1) or closed (-1)."""
        self._active[0] += change

    def limit(self, connections: int) -> None:
        """How many connections the listener takes at once."""
        self._limit[0] = connections

    def measure(self) -> None:
        """Somebody scrapes: how full it is."""
        self._used[0] = _share(self._active[0], self._limit[0])

    def accept_failed(self) -> None:
        """The system had no descriptor or memory left for a client."""
        self._accept_failures[0] += 1

    def proxy_error(self, reason: str) -> None:
        """A bad or missing PROXY header (``reason`` of names.PROXY_ERRORS)."""
        self._proxy[_PROXY[reason,]] += 1

    def tls_ok(self, mode: TlsMode, version: str, cipher: str, resumed: bool, seconds: float) -> None:
        """A handshake was completed; version and cipher as OpenSSL names them."""
        self._tls[_TLS[mode, version, cipher, "true" if resumed else "false"]] += 1
        cell = self._tls_time[_TLS_TIME[mode,]]
        cell[bisect_left(CONNECT, seconds)] += 1
        cell[-1] += seconds

    def tls_failed(self, mode: TlsMode, reason: str) -> None:
        """A handshake failed (``reason`` of names.TLS_FAILURES)."""
        self._tls_failed[_TLS_FAILED[mode, reason]] += 1

    def certificate(self, name: str, not_after: float) -> None:
        """The certificate called ``name`` in the config is served until ``not_after`` (seconds since the epoch)."""
        self._families.gauges["tls_certificate_expiry_timestamp_seconds"].bind(self._name, name)[0] = not_after

    def certificate_gone(self, name: str) -> None:
        """It is served no more."""
        self._families.gauges["tls_certificate_expiry_timestamp_seconds"].forget(self._name, name)

    def bytes_(self, client_received: int, client_sent: int, upstream_received: int, upstream_sent: int) -> None:
        """Octets since the last call, inside TLS. Called when a command ends, not per chunk."""
        counts = self._bytes
        counts[0] += client_received
        counts[1] += client_sent
        counts[2] += upstream_received
        counts[3] += upstream_sent

    def pause(self, side: str) -> None:
        """Reading from ``side`` stopped because the other side is slow."""
        self._pauses[_PAUSE[side,]] += 1

    def session_state(self, old: str, new: str) -> None:
        """A session went from phase ``old`` to ``new``; ``""`` and ``closed`` stand for no session."""
        left, entered = _STATE_OF[old], _STATE_OF[new]
        if left is not None:
            self._states[left] -= 1
        if entered is not None:
            self._states[entered] += 1

    def session_end(self, state: str, reason: str, seconds: float) -> None:
        """A session ended in phase ``state`` because of ``reason``, ``seconds`` after accept."""
        self._ended[_ENDED[STATES.get(state, "authorization"), reason]] += 1
        cell = self._life
        cell[bisect_left(LIFE, seconds)] += 1
        cell[-1] += seconds


class UpstreamMeter:
    """The counters of one upstream. ``server`` is a name of its config, host and port."""

    __slots__ = (
        "_active", "_dials", "_families", "_limit", "_login", "_name", "_phases", "_queue", "_queue_time", "_queued",
        "_retries", "_used",
    )  # fmt: skip

    def __init__(self, families: Families, name: str) -> None:
        self._name = name
        self._families = families
        self._retries = families.counters["upstream_retries"].bind(name)
        self._limit = families.gauges["upstream_connections_limit"].bind(name)
        self._used = families.gauges["upstream_connections_used_ratio"].bind(name)
        self._queue = families.gauges["upstream_queue_length"].bind(name)
        self._queued = families.counters["upstream_queued"].bind(name)
        self._queue_time = families.histograms["upstream_queue_duration_seconds"].bind(name)[0]
        self._dials = families.counters["upstream_connections"].bind(name)
        self._phases = families.histograms["upstream_connect_duration_seconds"].bind(name)
        self._login = families.histograms["upstream_login_duration_seconds"].bind(name)
        self._active = families.gauges["upstream_connections_active"].bind(name)

    def dial(self, result: str) -> None:
        """A dial ended: ``ok`` or the kind of its fault."""
        self._dials[_DIAL[DIAL_FAULTS.get(result, result),]] += 1

    def phase(self, phase: DialPhase, seconds: float) -> None:
        """A part of a dial took ``seconds``."""
        cell = self._phases[_DIAL_TIME[phase,]]
        cell[bisect_left(CONNECT, seconds)] += 1
        cell[-1] += seconds

    def login(self, result: Literal["ok", "fail"], seconds: float) -> None:
        """A login on the upstream ended."""
        cell = self._login[result != "ok"]
        cell[bisect_left(FAST, seconds)] += 1
        cell[-1] += seconds

    def active(self, change: int) -> None:
        """A connection to the upstream was opened (1) or closed (-1)."""
        self._active[0] += change

    def limit(self, connections: int) -> None:
        """How many connections there may be, 0 for no bound."""
        self._limit[0] = connections

    def measure(self) -> None:
        """Somebody scrapes: how full it is."""
        self._used[0] = _share(self._active[0], self._limit[0])

    def retry(self, reason: str) -> None:
        """A login goes to another server because of a fault of this kind."""
        self._retries[_RETRY[reason,]] += 1

    def up(self, server: str, up: bool) -> None:
        """Whether the server is in rotation."""
        self._families.gauges["upstream_up"].bind(self._name, server)[0] = int(up)
        self._families.counters["upstream_state_changes"].bind(self._name, server)

    def gone(self, server: str) -> None:
        """It is no server of the upstream any more."""
        self._families.gauges["upstream_up"].forget(self._name, server)

    def turned(self, server: str, up: bool) -> None:
        """It left rotation or came back."""
        self.up(server, up)
        row = _TURN["up" if up else "down",]
        self._families.counters["upstream_state_changes"].bind(self._name, server)[row] += 1

    def checked(self, server: str, result: str) -> None:
        """A probe ended: ``ok`` or the kind of its fault."""
        row = _CHECK[DIAL_FAULTS.get(result, result),]
        self._families.counters["upstream_health_checks"].bind(self._name, server)[row] += 1

    def queue(self, length: int) -> None:
        """So many logins wait for a place."""
        self._queue[0] = length

    def queued(self, result: str, seconds: float) -> None:
        """A login waits no more, or never could (``result`` of names.QUEUED)."""
        self._queued[_QUEUED[result,]] += 1
        if result != "full":
            self._queue_time[bisect_left(FAST, seconds)] += 1
            self._queue_time[-1] += seconds


def _share(used: float, limit: float) -> float:
    return used / limit if limit else 0.0
