"""Every metric once: its name, type, help, labels, buckets and how the gauges of several workers merge.

Law: a label value is a word of an enum (words.py) or a name of the config file; what was read off the wire is mapped
to ``_other``. Seconds, octets, ``_total`` on counters. guide.py says of each metric what to do with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Literal

from popproxy.api.plugin import HOOKS
from popproxy.api.services import BACKEND_ERRORS, CACHED, DECISIONS, LIMITED, SCANNED
from popproxy.metrics.words import (
    ADMIN_REFUSALS,
    AUTH_RESULTS,
    CIPHERS_12,
    CIPHERS_13,
    CONNECT,
    DIAL_PHASES,
    DIALS,
    FAST,
    LAG,
    LIFE,
    MECHANISMS,
    OTHER,
    OUTCOMES,
    PLUGIN_ACTIONS,
    PROXY_ERRORS,
    QUEUED,
    REASONS,
    REJECTIONS,
    RESOURCES,
    RETRIES,
    SHORT,
    SIDES,
    SIZES,
    STORE,
    STORE_ERRORS,
    TIMED,
    TLS_FAILURES,
    TLS_MODES,
    TRANSFERS,
    TURNS,
    VERDICTS,
    VIOLATIONS,
    Values,
)
from popproxy.wire.commands import VERB_NAMES

PREFIX = "popproxy_"

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "min", "mean"]


@dataclass(frozen=True, slots=True)
class Label:
    """Label names whose values move together, and every combination they may take.

    Nearly always one name; TLS version and cipher are two, because their product is mostly impossible.
    """

    names: Values
    values: tuple[Values, ...]

    def fit(self, given: Values) -> Values:
        """``given`` if it is in the enum, else the nearest combination with ``_other`` in it, from the right.

        An enum without ``_other`` is closed: what is passed for it has a Literal type, and its last value stands
        for the rest.
        """
        for keep in range(len(given), -1, -1):
            tried = given[:keep] + (OTHER,) * (len(given) - keep)
            if tried in self.values:
                return tried
        return self.values[-1]


def enum(name: str, *values: str) -> Label:
    """A label of one name."""
    return Label((name,), tuple((value,) for value in values))


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    ``name`` is without the prefix and, for a counter, without ``_total``. ``key`` are labels whose values are
    config names bound when the metric is made; ``labels`` are enums. ``buckets`` are upper bounds. ``merge``
    is how a gauge of several workers becomes one. ``start`` says which rows are exported before they are
    touched: None none, otherwise those whose labels have one of the given values ({} is all of them).
    """

    name: str
    kind: Kind
    help: str
    key: Values = ()
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"
    start: Mapping[str, Values] | None = None
    rows: tuple[Values, ...] = field(init=False, repr=False)
    """The product of ``labels``, the last label fastest: the order of a row of cells."""
    shown: tuple[bool, ...] = field(init=False, repr=False)
    """By row: exported from the start."""

    def __post_init__(self) -> None:
        rows = tuple(sum(parts, ()) for parts in product(*(label.values for label in self.labels)))
        names = self.label_names[len(self.key) :]
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "shown", tuple(self._from_start(dict(zip(names, row, strict=True))) for row in rows))

    def _from_start(self, row: Mapping[str, str]) -> bool:
        return self.start is not None and all(row[name] in values for name, values in self.start.items())

    @property
    def full_name(self) -> str:
        """The name with its prefix; a counter's samples add ``_total`` to it."""
        return PREFIX + self.name

    @property
    def label_names(self) -> Values:
        """All label names: ``key``, then ``labels``."""
        return sum((label.names for label in self.labels), self.key)

    @property
    def samples(self) -> int:
        """Samples of one row: 1, or a histogram's buckets, +Inf, sum and count."""
        return len(self.buckets) + 3 if self.kind == "histogram" else 1


_MODE = enum("mode", *TLS_MODES)
_SESSION_STATE = enum("state", "authorization", "transaction", "update", OTHER)
_RESOURCE = enum("resource", *RESOURCES)
_VERB = enum("verb", *VERB_NAMES)
_TLS = Label(
    ("version", "cipher"),
    (
        *(("TLSv1.3", cipher) for cipher in (*CIPHERS_13, OTHER)),
        *(("TLSv1.2", cipher) for cipher in (*CIPHERS_12, OTHER)),
        (OTHER, OTHER),
    ),
)

_L, _U, _S, _P = ("listener",), ("upstream",), ("upstream", "server"), ("plugin", "hook")
_STORE, _W, _B = ("store",), ("worker",), ("backend",)
_TABLE: tuple[Metric, ...] = (
    Metric(
        "build_info", "gauge", "Always 1; the labels tell what runs.",
        ("version", "python", "openssl", "loop"), merge="max", start={},
    ),
    Metric("config_info", "gauge", "Always 1; the hash of the config in force.", ("hash",), merge="max", start={}),
    Metric(
        "config_last_reload_successful", "gauge", "1 if the last config that was to be read is in force.",
        merge="min", start={},
    ),
    Metric(
        "config_last_reload_success_timestamp_seconds", "gauge", "When the config in force was put in force.",
        merge="max", start={},
    ),
    Metric("connections", "counter", "Accepted client connections.", _L, start={}),
    Metric(
        "connections_rejected", "counter", "Client connections closed before the greeting.", _L,
        (enum("reason", *REJECTIONS, OTHER),), start={},
    ),
    Metric(
        "accept_failures", "counter", "Times no descriptor or memory was left to accept a client.", _L, start={},
    ),
    Metric("connections_active", "gauge", "Client connections open now.", _L, start={}),
    Metric("connections_limit", "gauge", "Client connections allowed at once.", _L, start={}),
    Metric(
        "connections_used_ratio", "gauge", "Share of its connections that the fullest worker has open.", _L,
        merge="max", start={},
    ),
    Metric(
        "proxy_protocol_errors", "counter", "Bad or missing PROXY headers.", _L,
        (enum("reason", *PROXY_ERRORS, OTHER),), start={"reason": ("signature", "timeout", "eof")},
    ),
    Metric(
        "tls_handshakes", "counter", "Completed TLS handshakes with clients.", _L,
        (_MODE, _TLS, enum("resumed", "false", "true")),
    ),
    Metric(
        "tls_handshake_failures", "counter", "Failed TLS handshakes with clients.", _L,
        (_MODE, enum("reason", *TLS_FAILURES, OTHER)), start={},
    ),
    Metric(
        "tls_handshake_duration_seconds", "histogram", "From ClientHello to Finished.", _L,
        (_MODE,), buckets=CONNECT,
    ),
    Metric(
        "tls_certificate_expiry_timestamp_seconds", "gauge", "End of validity of the certificate being served.",
        ("listener", "name"), merge="min", start={},
    ),
    Metric(
        "auth_attempts", "counter", "Login attempts by how they ended.", _L,
        (enum("mechanism", *MECHANISMS), enum("result", *AUTH_RESULTS, OTHER)),
        start={"mechanism": ("USER", "PLAIN"), "result": ("ok", "bad_credentials", "tempfail")},
    ),
    Metric(
        "auth_duration_seconds", "histogram", "From complete credentials to the reply.", (),
        (enum("mechanism", "USER", "PLAIN", "XOAUTH2", OTHER), enum("result", "ok", "fail")), buckets=FAST,
    ),
    Metric(
        "auth_backend_duration_seconds", "histogram",
        "Look-ups of users that a plugin makes outside of the proxy, with an answer or without.", _B, buckets=FAST,
        start={},
    ),
    Metric(
        "auth_backend_errors", "counter", "Look-ups of users that gave no answer.", _B,
        (enum("reason", *BACKEND_ERRORS),), start={},
    ),
    Metric(
        "auth_cache_requests", "counter", "Look-ups of users by what the plugin's cache knew.", _B,
        (enum("result", *CACHED),), start={},
    ),
    Metric("sessions_active", "gauge", "Sessions now, by POP3 state.", _L, (_SESSION_STATE,), start={}),
    Metric(
        "sessions", "counter", "Ended sessions, by the state they ended in and why.", _L,
        (enum("state", "authorization", "transaction", "update"), enum("reason", *REASONS, OTHER)),
        start={"reason": ("quit", "upstream_eof", "upstream_error", "upstream_timeout", "internal_error")},
    ),
    Metric(
        "session_duration_seconds", "histogram", "From accept to close.", _L, buckets=LIFE, start={},
    ),
    Metric("commands", "counter", "Answered commands.", _L, (_VERB, enum("outcome", *OUTCOMES))),
    Metric(
        "command_duration_seconds", "histogram", "From the command line to the first octet of its reply.", (),
        (enum("verb", *TIMED, OTHER),), buckets=FAST, start={"verb": ("STAT", "LIST", "UIDL")},
    ),
    Metric(
        "command_transfer_duration_seconds", "histogram", "From the first to the last octet of a reply.", (),
        (enum("verb", *TRANSFERS, OTHER),), buckets=FAST,
    ),
    Metric(
        "pipelined_commands", "counter", "Commands read while an earlier one was not answered yet.", _L, start={},
    ),
    Metric(
        "protocol_violations", "counter", "What a peer sent against the protocol.", (),
        (enum("side", *SIDES, OTHER), enum("kind", *VIOLATIONS)),
    ),
    Metric(
        "transferred_bytes", "counter", "Octets on the wire inside TLS.", (),
        (enum("side", *SIDES), enum("direction", "received", "sent")), start={},
    ),
    Metric(
        "messages", "counter", "RETR, TOP and DELE by their answer.", (),
        (enum("verb", "RETR", "TOP", "DELE"), enum("result", "ok", "err")), start={},
    ),
    Metric("message_size_bytes", "histogram", "Sizes of retrieved messages.", (), buckets=SIZES, start={}),
    Metric(
        "backpressure_pauses", "counter", "Times a side was not read because the other was slow.", (),
        (enum("side", *SIDES, OTHER),), start={"side": SIDES},
    ),
    Metric(
        "buffered_bytes", "gauge", "Octets in buffers that are full because a peer takes them slowly.", (),
        (enum("side", *SIDES),), start={},
    ),
    Metric(
        "upstream_connections", "counter", "Dials by how they ended.", _U, (enum("result", *DIALS, OTHER),), start={},
    ),
    Metric(
        "upstream_connect_duration_seconds", "histogram", "Time of each part of a dial that succeeded.", _U,
        (enum("phase", *DIAL_PHASES),), buckets=CONNECT,
    ),
    Metric(
        "upstream_login_duration_seconds", "histogram", "Login on the upstream.", _U,
        (enum("result", "ok", "fail"),), buckets=FAST,
    ),
    Metric("upstream_connections_active", "gauge", "Connections to the upstream now.", _U, start={}),
    Metric("upstream_connections_limit", "gauge", "Connections to the upstream allowed at once, 0 for no limit.", _U),
    Metric(
        "upstream_connections_used_ratio", "gauge",
        "Share of its connections to the upstream that the fullest worker has open, 0 without a limit.", _U,
        merge="max", start={},
    ),
    Metric(
        "upstream_up", "gauge", "Share of the workers that have the server in rotation.", _S, merge="mean", start={},
    ),
    Metric(
        "upstream_state_changes", "counter", "Times the server left rotation or came back.", _S,
        (enum("to", *TURNS),), start={},
    ),
    Metric(
        "upstream_health_checks", "counter", "Probes by how they ended.", _S, (enum("result", *DIALS, OTHER),),
    ),
    Metric(
        "upstream_retries", "counter", "Logins that went on to another server, by what was wrong with the one before.",
        _U, (enum("reason", *RETRIES, OTHER),),
    ),
    Metric("upstream_queue_length", "gauge", "Logins that wait for a place at the upstream now.", _U),
    Metric(
        "upstream_queued", "counter", "Logins that found all places taken, by how their waiting ended.", _U,
        (enum("result", *QUEUED, OTHER),), start={"result": ("timeout", "full")},
    ),
    Metric("upstream_queue_duration_seconds", "histogram", "Waiting for a place.", _U, buckets=FAST),
    Metric(
        "plugin_calls", "counter", "Hook calls that returned in time.", _P,
        (enum("verdict", *VERDICTS),), start={},
    ),
    Metric("plugin_duration_seconds", "histogram", "From a hook's call to its verdict.", _P, buckets=SHORT),
    Metric(
        "plugin_errors", "counter", "Hook calls that raised, hung or lied, by what was done about it.", _P,
        (enum("action", *PLUGIN_ACTIONS),), start={},
    ),
    Metric(
        "scanner_results", "counter", "Messages that were to be scanned, by what came of it.", ("scanner",),
        (enum("result", *SCANNED),), start={},
    ),
    Metric(
        "policy_decisions", "counter", "What the rules of a policy decided.", ("plugin", "rule"),
        (enum("action", *DECISIONS),), start={},
    ),
    Metric(
        "rate_limit_decisions", "counter", "What limits decided.", ("plugin", "limit"),
        (enum("result", *LIMITED),), start={},
    ),
    Metric(
        "rate_limit_store_duration_seconds", "histogram", "One run of steps in the store.", _STORE, buckets=STORE,
        start={},
    ),
    Metric(
        "store_errors", "counter",
        "Round trips to the store that failed, by what was wrong; decisions that were not asked while it was resting.",
        _STORE, (enum("reason", *STORE_ERRORS, OTHER),), start={},
    ),
    Metric("store_up", "gauge", "1 while the store answers.", _STORE, merge="min", start={}),
    Metric(
        "store_posts_lost", "counter", "What was to be written later and found no room while the store was down.",
        _STORE, start={},
    ),
    Metric(
        "spooled_bytes", "gauge", "Octets of messages that wait in a spool.", (),
        (enum("place", "memory", "disk"),), start={},
    ),
    Metric(
        "event_loop_lag_seconds", "histogram", "How late a timer of the event loop fires.", (),
        buckets=LAG, start={},
    ),
    Metric(
        "overload_mark", "gauge", "From where on new connections are shed: seconds, octets, descriptors; 0 for never.",
        (), (_RESOURCE,), merge="max", start={},
    ),
    Metric(
        "overload_value", "gauge", "What is measured now against its mark.", (), (_RESOURCE,), merge="max", start={},
    ),
    Metric(
        "overload_shedding", "gauge", "1 while new connections are shed because of it.", (), (_RESOURCE,),
        merge="max", start={},
    ),
    Metric("tasks_active", "gauge", "Tasks of the event loop: hooks that wait, dials, look-ups.", (), start={}),
    Metric("log_queue_bytes", "gauge", "Octets of log lines that are not written yet.", (), start={}),
    Metric("log_records_dropped", "counter", "Log records lost to a full buffer or a failed write.", (), start={}),
    Metric(
        "admin_refused", "counter", "Requests for /v1 of the admin listener that were refused.", (),
        (enum("reason", *ADMIN_REFUSALS),), start={},
    ),
    Metric("draining", "gauge", "1 while the process shuts down.", (), merge="max", start={}),
    Metric("worker_up", "gauge", "1 while the worker runs. Only with several workers.", _W, start={}),
    Metric("worker_scrape_ok", "gauge", "1 if the worker answered when it was asked last.", _W, start={}),
    Metric("worker_restarts", "counter", "Times a worker was started in place of one that died.", _W, start={}),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""The table by name."""

RESERVED: frozenset[str] = frozenset(metric.full_name for metric in _TABLE)
"""Names a plugin's counter may not take."""


def ceiling(
    listeners: int,
    upstreams: int,
    plugins: int,
    hooks: int = len(HOOKS),
    certificates: int = 1,
    servers: int = 1,
    rules: int = 8,
    limits: int = 4,
    workers: int = 0,
    backends: int = 2,
    scanners: int = 1,
) -> int:
    """The most samples /metrics can ever hold for a config of this size, whatever peers send.

    ``hooks`` are the hooks each plugin overrides, ``certificates`` those of each listener, ``servers`` those of each
    upstream; one hook more stands for plugins that are not configured. ``rules`` and ``limits`` are those of all
    plugins together, ``workers`` are slots of a supervisor, none in one process; ``backends`` are plugins that look
    users up. Not counted: the fixed few dozen ``process_*`` and ``python_*``, and the counters plugins make for
    themselves.
    """
    sizes = {"listener": listeners, "upstream": upstreams, "plugin": plugins, "hook": hooks, "name": certificates}
    sizes |= {"server": servers, "rule": rules, "limit": limits, "worker": workers, "backend": backends}
    sizes["scanner"] = scanners
    total = 0
    for metric in _TABLE:
        key = [name for name in metric.key if name != "plugin" or "hook" in metric.key]
        keys = prod(sizes.get(name, 1) for name in key) + ("hook" in metric.key)
        total += keys * len(metric.rows) * metric.samples
    return total
