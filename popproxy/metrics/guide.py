"""What to do with each metric, and ``docs/metrics.md``, which is written from here and from the table in names.py:
``python -m popproxy.metrics.guide > docs/metrics.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from popproxy.metrics.names import METRICS, Metric
from popproxy.metrics.words import Values

USES: dict[str, str] = {
    "build_info": "Join it to see which version a change came with; more than one row: not all hosts are updated.",
    "config_info": "Differs between hosts that should be alike: one of them was not reloaded.",
    "config_last_reload_successful": "0: `popproxy check` says what is wrong; the config before goes on.",
    "config_last_reload_success_timestamp_seconds": "Annotate boards with it. Older than the file: not reloaded.",
    "connections": "`rate()` is the load of new clients. None at all while there should be: look at the listener.",
    "connections_rejected": "`limit`: raise `max_connections` or find who holds them (`popproxy top`); `overload`: see "
    "`overload_shedding`; `denied`: a plugin in on_connect; `tls`: before the greeting of an implicit TLS listener; "
    "`proxy_header`: see `proxy_protocol_errors_total`.",
    "accept_failures": "Anything: raise LimitNOFILE of the service, or give memory.",
    "connections_active": "Divide by `connections_limit`: above 0.8 raise the limit or add a host.",
    "connections_limit": "The divisor of `connections_active`.",
    "connections_used_ratio": "The kernel deals clients out, not evenly: a worker that is full turns them away while "
    "others have room. At 1 it does; above 0.85 raise the limit or add a host.",
    "proxy_protocol_errors": "`signature`, `timeout`, `eof`: somebody who is `trusted` sends no header (a health check "
    "of the balancer?); others: the header is broken.",
    "tls_handshakes": "Who still needs TLS 1.2, before `minimum` is raised; `resumed` low: clients come from afar.",
    "tls_handshake_failures": "`no_shared_cipher`, `protocol`: old clients, or a probe; `cert_rejected`: a client does "
    "not trust the certificate, look at its chain and name; `unverified`: bad client certificates; `eof`: scanners.",
    "tls_handshake_duration_seconds": "Grows with the processor's load first, then with the network.",
    "tls_certificate_expiry_timestamp_seconds": "Minus `time()`: renew below 14 days, wake somebody below 3.",
    "auth_attempts": "`bad_credentials` above its normal: somebody guesses, or a rename went wrong; `tempfail`: an "
    "upstream or a back end is down; `rate_limited`, `policy`: your own rules; `tls_required`: clients to set up anew.",
    "auth_duration_seconds": "What users wait for a login. Compare `upstream_login_duration_seconds` and "
    "`auth_backend_duration_seconds` to see whose fault it is.",
    "auth_backend_duration_seconds": "Its count is all look-ups: errors divided by it are the share without answer.",
    "auth_backend_errors": "`timeout`, `lost`: it is overloaded; `refused`, `unreachable`, `dns`: it is down or moved; "
    "`tls`: its certificate; `protocol`: an answer that made no sense, the log says which; `busy`: too little threads.",
    "auth_cache_requests": "Few `hit`: raise the plugin's `cache_ttl`; each `miss` asks the back end.",
    "sessions_active": "Many in `authorization`: logins hang; many in `transaction` for long: see `backpressure`.",
    "sessions": "By `reason`: `upstream_*` is the servers' fault, `idle_timeout` and `client_*` the clients', "
    "`internal_error` ours: report it. `policy` is a plugin, `kicked` an administrator.",
    "session_duration_seconds": "Much below a second: clients that poll too often.",
    "commands": "`err` by verb: what clients ask in vain; `upstream_lost`, `timeout`: the upstream; `malformed`: see "
    "`protocol_violations_total`.",
    "command_duration_seconds": "The upstream's speed as users feel it. STAT and LIST slow: its index; RETR: its disk.",
    "command_transfer_duration_seconds": "Long while `command_duration_seconds` is short: slow clients, or a pace.",
    "pipelined_commands": "How much clients gain from pipelining; nothing to do.",
    "protocol_violations": "`side=\"upstream\"`: the server is broken, look at its log; `client`: a bad program or an "
    "attack, `popproxy tap` shows it.",
    "transferred_bytes": "Traffic. Clients' `sent` above upstreams' `received`: plugins make messages longer.",
    "messages": "What users do. DELE far below RETR: they leave mail on the server. `ok` is the answer, +OK; how many "
    "messages came whole is `message_size_bytes_count`.",
    "message_size_bytes": "For sizing `limits.spool_memory`. Messages that broke off are not in it.",
    "backpressure_pauses": "Of a side: how often it was not read, because the other one is slow.",
    "buffered_bytes": "Held in memory for peers that are slow. A buffer counts from 64 KiB on until it is taken; what "
    "less waits in others does not. Grows without end: report it.",
    "upstream_connections": "Anything but `ok`: the word says what failed; `popproxy doctor --upstream U` says why.",
    "upstream_connect_duration_seconds": "Which part of a dial is slow: name service, network, TLS, or the server "
    "itself (`greeting`). Probes count, too.",
    "upstream_login_duration_seconds": "The upstream's own authentication. Servers answer a failure late by intention.",
    "upstream_connections_active": "Divide by `upstream_connections_limit`.",
    "upstream_connections_limit": "0: no limit.",
    "upstream_connections_used_ratio": "At 1 logins wait at a worker, though others may have room.",
    "upstream_up": "0: no new logins go there, all workers say so. All of an upstream at 0: nobody can log in. In "
    "between: some workers do not reach it, or have not tried it again (`popproxy upstreams`, by worker in the log).",
    "upstream_state_changes": "More than a few an hour: the server flaps; take it out (`popproxy upstreams drain`).",
    "upstream_health_checks": "What probes found, before a login would.",
    "upstream_retries": "Logins that were saved by another server; the reason is what to repair.",
    "upstream_queue_length": "Above 0 for long: `max_connections` of the upstream is too low, or it is slow.",
    "upstream_queued": "`timeout` and `full`: users were turned away.",
    "upstream_queue_duration_seconds": "What waiting adds to a login.",
    "plugin_calls": "`deny` by hook: what plugins refuse.",
    "plugin_duration_seconds": "A synchronous hook above 10 ms holds up all sessions of its worker: see "
    "`event_loop_lag_seconds`.",
    "plugin_errors": "`fail_open`: the plugin's work was left out; `fail_closed`: users were refused. The log has the "
    "place (`plugin_error`).",
    "scanner_results": "`error`: the scanner is down or slow; `skipped`: its verdict was known, which costs nothing.",
    "policy_decisions": "Which rule decides how often; `audit` before it is switched on.",
    "rate_limit_decisions": "`denied`: whom a limit meets; `error`: the store is down, see `store_up`.",
    "rate_limit_store_duration_seconds": "Added to each login and to what limits look at.",
    "store_errors": "By what is wrong with the store; `resting`: nobody asked, because it failed twice.",
    "store_up": "0: limits decide by their `fail`.",
    "store_posts_lost": "Counts that will be too low.",
    "spooled_bytes": "Near `limits.spool_memory` or `limits.spool_disk`: raise it; beyond it plugins see no messages.",
    "event_loop_lag_seconds": "Above 0.1: too few workers, or a plugin that blocks. The first sign of overload.",
    "overload_mark": "The divisor of `overload_value`.",
    "overload_value": "Divide by `overload_mark`; at 1 new connections are shed.",
    "overload_shedding": "1: clients are turned away. docs/overload.md.",
    "tasks_active": "Far above `connections_active`: report it. Hooks that wait for something are one each.",
    "log_queue_bytes": "Near 4 MiB: the disk or the reader of the pipe is too slow, and lines will be lost.",
    "log_records_dropped": "Lines that nobody will ever read; see `log_queue_bytes`.",
    "admin_refused": "`token`: somebody guesses, or a program has an old token; `nothing`: somebody looks around. "
    "`admin_denied` in the log says from where: let nobody reach the port who need not. `host`: a name is missing in "
    "`[admin] hosts`; `origin`, `content_type`: a web page, or a script that should say it sends JSON.",
    "draining": "1: the process ends, or is being replaced. Silence alerts for it.",
    "worker_up": "0 for long: the worker dies again and again; the log says why.",
    "worker_scrape_ok": "0: its loop is stuck (a plugin that blocks), and its last numbers are shown.",
    "worker_restarts": "Anything: a worker died. Report it with the log around `worker_restarts_total`'s step.",
}
"""What to do with a metric, by name. In Markdown."""

_CONFIG = {
    "listener": "name of the listener",
    "upstream": "name of the upstream",
    "server": "host and port of one of the upstream's servers",
    "plugin": "name of the plugin's table; `_other` for what is not configured",
    "hook": "hook of the plugin API that the plugin has",
    "name": "the certificate, by the config",
    "rule": "name of a rule of the plugin",
    "limit": "name of a limit of the plugin",
    "backend": "name of the plugin that asks",
    "scanner": "`rspamd`, `spamd`",
    "store": "kind of the store",
    "worker": "slot of the worker, 0 to `workers` - 1",
    "hash": "hash of the config in force",
    "version": "of popproxy",
    "python": "version",
    "openssl": "version",
    "loop": "event loop and its version",
}
"""Labels whose values come from the config or from what is installed."""

_HEAD = """# Metrics

<!-- Written by `python -m popproxy.metrics.guide > docs/metrics.md`; change popproxy/metrics/guide.py (what to do) and
popproxy/metrics/names.py (the table) instead. -->

`/metrics` on the admin listener, in Prometheus' text format or OpenMetrics, whichever the scraper asks for. Seconds and
octets; counters end with `_total`; no `_created` series. What has an alert is there with 0 from the start, so that
`rate()` sees the first event; what was never touched is not there at all. Beside these there are prometheus_client's
`process_*` and `python_*`.

## Cardinality

A label value is a word of a list below or a name of the config file. What a client or a server sends is looked up in
the list and is `_other` when it is not there: no verb, user, mechanism, server name or PROXY header adds a series.
Users, addresses, domains, message ids and error texts are never labels; for those there are the logs
([logs.md](logs.md)) and `popproxy top`. With 4 listeners, 4 upstreams and 10 plugins that have every hook there are at
most {ceiling} samples, whatever peers send; an ordinary install shows less than 1,500. Counters that plugins make for
themselves (`popproxy_plugin_<plugin>_<name>_total`) have at most 500 values each, fixed when they start.

## Several workers

One `/metrics` shows all workers as one: counters and histograms are the sum, also of workers that have died (a counter
never goes down); gauges merge as their type says in the table (sum, highest, lowest, mean). A worker that does not
answer within two seconds is shown with what it said last, and `popproxy_worker_scrape_ok` says so. Only
`popproxy_worker_*` tells one from another. `process_*` and `python_gc_*` are the sum over all processes, but for
`process_start_time_seconds` (the oldest process), `process_open_fds` (the process that has the most) and
`process_max_fds` (the least), as each process has a limit of its own. Workers tell what they have counted every five
seconds, whether somebody scrapes or not: what one counted after that is lost when it is killed.

## Exemplars

With `[metrics] exemplars = true`, OpenMetrics has the session id (`session_id`) of the last failed login on
`popproxy_auth_attempts_total` (by mechanism and result) and of the last command above one second on
`popproxy_command_duration_seconds` (by verb and bucket). Grafana shows them as dots; `session_id` finds the session's
lines in the log.
Prometheus keeps them with `--enable-feature=exemplar-storage`. Off by default; when it is off nothing is done for it.

## The table

Names are shown without their prefix `popproxy_`. They are a contract: a metric may be added, none changes its meaning.
"""

_DIFFERENCES = """## Not here, and why

- `audit_queue_length`: there is no such queue. What is audited is counted (`policy_decisions_total{action="audit"}`)
  and logged like everything else; the log's own queue is `log_queue_bytes`.
- `connections_rejected_total{reason="per_ip"}` and `"denylist"`: limits by address and bans are plugins (`rate_limit`,
  `brute_force`), whose refusals before the greeting are `denied`; which limit it was is in
  `rate_limit_decisions_total`, which ban in the plugin's own counters.
- `plugin_calls_total{verdict="defer"}` and `"skip"`: a verdict is `pass`, `modify` or `deny` (a Hold is a `modify`); a
  hook that is not needed is not called. `plugin_errors_total{action="disabled"}`: no plugin is switched off by its
  errors.
- `auth_duration_seconds` has USER, PLAIN, XOAUTH2 and `_other`, and no listener: nobody waits longer at one of them.
- `upstream_up` and its kin are by server, because that is what goes up and down.
- `auth_cache_requests_total` has the plugin's name, too: two back ends have two caches.
- `command_duration_seconds` has no duration of their own for the ten rarest verbs; `commands_total` counts each.
- Top users and addresses: `popproxy top`, and queries on the log. As labels they would have no bound.
"""


def markdown() -> str:
    """``docs/metrics.md``."""
    from popproxy.metrics.names import ceiling

    lines = [_HEAD.replace("{ceiling}", f"{ceiling(4, 4, 10):,}")]
    lines += ["| metric | type | labels | meaning | what to do with it |", "|---|---|---|---|---|"]
    lines += [_row(metric) for metric in METRICS.values()]
    lines += ["", "## Buckets", "", "| metric | upper bounds |", "|---|---|"]
    for metric in METRICS.values():
        if metric.buckets:
            bounds = ", ".join(f"{bound:g}" for bound in metric.buckets)
            lines.append(f"| `{metric.name}` | {bounds} |")
    lines += ["", "## Values", "", "| label | of | values |", "|---|---|---|"]
    lines += _values()
    return "\n".join(lines) + "\n\n" + _DIFFERENCES


def _row(metric: Metric) -> str:
    shown = metric.name + ("_total" if metric.kind == "counter" else "")
    kind = f"gauge ({metric.merge})" if metric.kind == "gauge" else metric.kind
    labels = ", ".join(f"`{name}`" for name in metric.label_names)
    return f"| `{shown}` | {kind} | {labels} | {metric.help} | {USES[metric.name]} |"


def _values() -> Iterator[str]:
    """The words of every enum, once for all metrics that have the same; then the names of the config."""
    found: dict[tuple[str, Values], list[str]] = {}
    for metric in METRICS.values():
        for label in metric.labels:
            for place, name in enumerate(label.names):
                words = tuple(dict.fromkeys(row[place] for row in label.values))
                found.setdefault((name, words), []).append(metric.name)
    for (name, words), metrics in sorted(found.items()):
        values = ", ".join(f"`{word}`" for word in words)
        yield f"| `{name}` | {', '.join(f'`{metric}`' for metric in metrics)} | {values} |"
    for name in sorted({name for metric in METRICS.values() for name in metric.key}):
        metrics = [metric.name for metric in METRICS.values() if name in metric.key]
        yield f"| `{name}` | {', '.join(f'`{metric}`' for metric in metrics)} | {_CONFIG[name]} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
