"""Whether the process itself is well: workers, the event loop, CPU, memory, descriptors, its log and its config."""

from grafana.boards.board import Board, Row
from grafana.boards.panels import GREEN, ORANGE, RED, Column, Query, above, lines, rows, spread, tile, timeline
from grafana.boards.query import RATE, cores, increase, ours, quantile, total

_SEEN = "on (job, instance) last_over_time(popproxy_build_info[$__range])"

BOARD = Board(
    uid="popproxy-runtime",
    title="popproxy / Runtime",
    description="Whether the process itself is well: workers, event loop, CPU, memory, descriptors, its log and "
    "config.",
    first=(
        tile(
            "Instances up",
            "Instances that answer to the scrape. Compare with what you run; the table below names the one that is "
            "missing.",
            "none", f"sum(up{{}} and {_SEEN})", decimals=0, none="none",
        ),
        tile(
            "Loop lag p99",
            "How late a timer fires, at the worst instance. Above 0.1 s every session waits: a plugin that blocks, or "
            "a CPU that is full. See 'Event loop lag'.",
            "s", f"max({quantile(0.99, 'event_loop_lag_seconds', 'instance')})", marks=above(0.05, 0.1),
        ),
        tile(
            "Nearest to a mark",
            "The resource that is nearest to where new connections are shed. Above 80 % give it more, or take clients "
            "elsewhere; docs/overload.md says which marks there are.",
            "percentunit", "max(popproxy_overload_value / (popproxy_overload_mark > 0))",
            marks=above(0.8, 1), decimals=0, none="no marks",
        ),
        tile(
            "Log lines lost",
            "Lines that nobody read fast enough, in the time shown. What you do not find in the log may have been "
            "there: look at journald's rate limit or the disk.",
            "none", increase("log_records_dropped"), marks=above(1), decimals=0, trend=False,
        ),
        tile(
            "Last reload",
            "Whether the config that was read last is in force at every instance. If it failed, the one before goes "
            "on: popproxy check says what is wrong.",
            "none", "min(popproxy_config_last_reload_successful)", trend=False,
            words={"0": ("failed", RED), "1": ("applied", GREEN)},
        ),
        tile(
            "Workers restarted",
            "Workers that died and were started again, in the time shown. Sessions of a dead worker are lost: look "
            "for the reason with journalctl -u popproxy, and in dmesg for the OOM killer.",
            "none", f"{increase('worker_restarts')} or vector(0)", marks=above(1, 3), decimals=0, trend=False,
        ),
        lines(
            "Event loop lag",
            "How late a timer of 100 ms fires. The median is CPU load; a p99 far above it is something that blocks "
            "the loop for a moment: a plugin, a scrape, a slow disk.",
            "s",
            spread("event_loop_lag_seconds", (0.5, 0.99), "instance", "{{instance}}"),
            w=12, marks=above(0.1), log=10,
        ),
        lines(
            "CPU",
            "Of the cores that each instance can use, one for each worker. Near 100 % add workers, up to the number of "
            "cores, or another host.",
            "percentunit", Query(cores(), "{{instance}}"), w=12,
            marks=above(0.9),
        ),
    ),
    rows=(
        Row(
            "Memory and descriptors",
            (
                lines(
                    "Resident memory",
                    "Memory of each instance. It grows with sessions and does not shrink at once; growth over days "
                    "without more sessions is a leak: please report it.",
                    "bytes", Query(ours("process_resident_memory_bytes"), "{{instance}}"), w=6,
                ),
                lines(
                    "Open descriptors",
                    "Two for each session, and a few: those of the process that has the most, as each worker has the "
                    "limit for itself. Near it new clients are shed: raise LimitNOFILE= in the unit.",
                    "none",
                    (
                        Query(ours("process_open_fds"), "{{instance}}"),
                        Query(f"min({ours('process_max_fds')})", "limit of a process"),
                    ),
                    w=6, log=10,
                ),
                lines(
                    "Octets held",
                    "What waits in spools (whole messages for plugins), for slow peers, and for the log. A plateau at "
                    "limits.spool_memory is a full spool: messages go to disk.",
                    "bytes",
                    (
                        Query(total("spooled_bytes", by="place"), "spool: {{place}}"),
                        Query(total("buffered_bytes", by="side"), "for a slow {{side}}"),
                        Query(total("log_queue_bytes"), "log lines"),
                    ),
                    w=6,
                ),
                lines(
                    "Garbage collection",
                    "Collections per second by generation. Many of generation 2 cost CPU: a plugin that keeps large "
                    "structures.",
                    "ops",
                    Query(
                        f"sum by (generation) ({ours('rate(python_gc_collections_total' + RATE + ')')})",
                        "generation {{generation}}",
                    ),
                    w=6,
                ),
            ),
        ),
        Row(
            "Overload and queues",
            (
                lines(
                    "Resources against their marks",
                    "Where 100 % is reached, new connections are shed. lag: CPU or a blocking plugin. memory: "
                    "MemoryMax= or the machine. sockets: LimitNOFILE=.",
                    "percentunit",
                    Query(
                        "max by (resource) (popproxy_overload_value / (popproxy_overload_mark > 0))", "{{resource}}",
                    ),
                    marks=above(0.8, 1), none="no marks",
                ),
                timeline(
                    "Shedding",
                    "When new connections were turned away for want of a resource. Sessions that were open went on.",
                    Query("max by (resource) (popproxy_overload_shedding)", "{{resource}}"),
                    {"0": ("no", GREEN), "1": ("shedding", RED)}, w=8,
                ),
                lines(
                    "Tasks and accept failures",
                    "Tasks of the event loop follow sessions that wait for something; growth without sessions is a "
                    "leak. Accept failures mean that no descriptor was left.",
                    "none",
                    (
                        Query(total("tasks_active"), "tasks"),
                        Query(increase("accept_failures"), "accept failures in the time shown"),
                    ),
                ),
            ),
        ),
        Row(
            "Workers and config",
            (
                timeline(
                    "Workers",
                    "Each worker over time, where there are several. Red is one that died and was started again: "
                    "journalctl -u popproxy says why.",
                    Query("min by (instance, worker) (popproxy_worker_up)", "{{instance}} {{worker}}"),
                    {"0": ("down", RED), "1": ("up", GREEN)}, w=12, none="one process, no workers",
                ),
                timeline(
                    "Workers that answer",
                    "Whether each worker gave its numbers when it was asked. One that does not is too busy or stuck; "
                    "what it said last goes on to be shown.",
                    Query("min by (instance, worker) (popproxy_worker_scrape_ok)", "{{instance}} {{worker}}"),
                    {"0": ("mute", ORANGE), "1": ("answers", GREEN)}, w=12, none="one process, no workers",
                ),
                rows(
                    "What runs where",
                    "Versions and configs. For long, all instances of a job should have the same: one that differs "
                    "was left out of a deployment.",
                    {
                        "job": "Job", "instance": "Instance", "version": "Version", "python": "Python",
                        "openssl": "OpenSSL", "loop": "Loop", "hash": "Config",
                    },
                    (
                        Column(
                            "", "max by (job, instance, version, python, openssl, loop) (popproxy_build_info)"
                        ),
                        Column("", "max by (job, instance, hash) (popproxy_config_info)"),
                        Column("Config in force for",
                               "time() - max by (job, instance) "
                               "(popproxy_config_last_reload_success_timestamp_seconds)",
                               "s"),
                        Column("Reload", "min by (job, instance) (popproxy_config_last_reload_successful)",
                               words={"0": ("failed", RED), "1": ("applied", GREEN)}),
                        Column("Running for", ours("time() - process_start_time_seconds"), "s"),
                        Column("Draining", "max by (job, instance) (popproxy_draining)",
                               words={"0": ("no", GREEN), "1": ("yes", ORANGE)}),
                    ),
                    h=6,
                ),
            ),
        ),
    ),
)  # fmt: skip
