"""The servers behind: which are in rotation, how fast they are, and what is wrong with the others."""

from grafana.boards.board import Board, Row
from grafana.boards.panels import GREEN, RED, YELLOW, Column, Query, above, at_least, bars, lines, rows, tile, timeline
from grafana.boards.query import each, increase, quantile, rate, share, total

_SEEN = "ceil(popproxy_upstream_up) + floor(popproxy_upstream_up)"
"""2: all workers have the server in rotation, 1: some, 0: none."""

BOARD = Board(
    uid="popproxy-upstreams",
    title="popproxy / Upstreams",
    description="The servers behind popproxy: which are in rotation, how fast they are, and what is wrong with the "
    "rest.",
    chosen=("upstream",),
    first=(
        tile(
            "Servers in rotation",
            "Servers that every worker of every instance sends logins to. 0 is an outage, or a worker that sees none. "
            "Compare with what you have configured; the timeline says since when one is out.",
            "none", "count(min by (upstream, server) (popproxy_upstream_up) == 1) or vector(0)",
            marks=at_least(1), decimals=0,
        ),
        tile(
            "Servers out",
            "Servers that all workers of one instance or more have out of rotation. popproxy upstreams shows why and "
            "when they are tried again; popproxy doctor --upstream NAME finds out what is wrong.",
            "none", "count(min by (upstream, server) (popproxy_upstream_up) == 0) or vector(0)",
            marks=above(1), decimals=0,
        ),
        tile(
            "Failed dials",
            "Share of connections to upstreams that could not be made. 'Dials by result' below says what was wrong.",
            "percentunit",
            share(rate("upstream_connections", 'result!="ok"'), rate("upstream_connections")),
            marks=above(0.01, 0.1), none="no dials", decimals=1,
        ),
        tile(
            "Connect p95",
            "19 of 20 of all parts of a dial (DNS, TCP, TLS, greeting) take less than this. If it is high, 'Connect "
            "time by phase' says which.",
            "s", quantile(0.95, "upstream_connect_duration_seconds"), marks=above(0.5, 2), none="no dials",
        ),
        tile(
            "Login p95",
            "19 of 20 logins on the upstream take less than this. If only this is high, the upstream's user database "
            "is slow.",
            "s", quantile(0.95, "upstream_login_duration_seconds"), marks=above(1, 5), none="no logins",
        ),
        tile(
            "Logins that wait",
            "Logins that wait because max_sessions of the upstream are taken. If it does not go back to 0, raise "
            "max_sessions or add servers.",
            "none", f"{total('upstream_queue_length')} or vector(0)", marks=above(1, 20), decimals=0,
        ),
        timeline(
            "Rotation",
            "Each server over time: green in rotation, red out, yellow out at some of the workers. One red band is a "
            "server; all red at once is the network, DNS or a CA; short red bands that repeat are flapping: raise its "
            "fall and rise.",
            Query(f"min by (upstream, server) ({_SEEN})", "{{upstream}} {{server}}"),
            {"0": ("out", RED), "1": ("out at some", YELLOW), "2": ("in rotation", GREEN)},
            w=14,
        ),
        rows(
            "Servers",
            "Every server with how often it left rotation and how many probes failed in the time shown. Begin with "
            "the one that is out, then with the one that changes most.",
            {"upstream": "Upstream", "server": "Server"},
            (
                Column("Now", f"min by (upstream, server) ({_SEEN})",
                       words={"0": ("out", RED), "1": ("some", YELLOW), "2": ("in", GREEN)}),
                Column("Went out", increase("upstream_state_changes", 'to="down"', "upstream, server"), "none",
                       above(1, 4)),
                Column("Bad probes", increase("upstream_health_checks", 'result!="ok"', "upstream, server"), "none",
                       above(1, 10)),
            ),
            w=10,
        ),
    ),
    rows=(
        Row(
            "Dials and logins",
            (
                lines(
                    "Dials by result",
                    "Connections to upstreams. Only 'ok' should be here. refused: nothing listens; timeout and "
                    "unreachable: network or firewall; dns; tls: its certificate or our CA; greeting: overloaded.",
                    "ops", Query(each("upstream_connections", "result"), "{{result}}"), stacked=True,
                ),
                lines(
                    "Connect time by phase (p95)",
                    "dns: your resolver. tcp: the network, or a full backlog. tls: CPU on either side. greeting: the "
                    "server is busy before it has even spoken.",
                    "s", Query(quantile(0.95, "upstream_connect_duration_seconds", "phase"), "{{phase}}"),
                    none="no dials", log=10,
                ),
                lines(
                    "Login time on the upstream",
                    "From credentials to the upstream's answer. Refused logins are often slow on purpose there; good "
                    "ones that are slow are its user database.",
                    "s",
                    (
                        Query(quantile(0.5, "upstream_login_duration_seconds", "result"), "p50 {{result}}"),
                        Query(quantile(0.95, "upstream_login_duration_seconds", "result"), "p95 {{result}}"),
                    ),
                    none="no logins",
                ),
            ),
        ),
        Row(
            "Room and detours",
            (
                lines(
                    "Sessions against the limit",
                    "Share of max_sessions that is taken at the fullest worker, for upstreams that have one. At 100 % "
                    "logins wait: raise it, if the server can bear that.",
                    "percentunit",
                    Query(
                        "max by (upstream) (popproxy_upstream_connections_used_ratio) and sum by (upstream) "
                        "(popproxy_upstream_connections_limit) > 0",
                        "{{upstream}}",
                    ),
                    w=6, marks=above(0.85), high=1, none="no upstream has max_sessions",
                ),
                lines(
                    "Waiting for a place",
                    "Logins that found no place, by how their waiting ended. timeout and full were refused: raise "
                    "max_sessions or the queue; ok only waited.",
                    "ops", Query(each("upstream_queued", "upstream, result"), "{{upstream}} {{result}}"),
                    w=6, none="nobody waits",
                ),
                lines(
                    "Time of waiting (p95)",
                    "How long logins wait for a place. More than a few seconds is felt by users.",
                    "s", Query(quantile(0.95, "upstream_queue_duration_seconds", "upstream"), "{{upstream}}"),
                    w=6, marks=above(2), none="nobody waits",
                ),
                lines(
                    "Logins that went on to another server",
                    "Retries, by what was wrong with the server before. Users notice nothing yet; the server is about "
                    "to be taken out.",
                    "ops", Query(each("upstream_retries", "upstream, reason"), "{{upstream}} {{reason}}"),
                    w=6, none="no retries",
                ),
                bars(
                    "Changes of rotation",
                    "How often servers left or came back in the time shown; each worker counts for itself. More than "
                    "4 of each in 15 minutes is flapping: look at the probes.",
                    "none",
                    Query(increase("upstream_state_changes", by="upstream, server, to"), "{{server}} {{to}}"),
                    w=12, h=7, marks=above(2, 5),
                ),
                lines(
                    "Probes that fail",
                    "Health checks of servers. Probes that fail while logins work are a firewall or a limit for the "
                    "proxy's address on the server.",
                    "ops",
                    Query(each("upstream_health_checks", "server, result", 'result!="ok"'), "{{server}} {{result}}"),
                    w=12, h=7, none="no probe fails",
                ),
            ),
        ),
        Row(
            "Upstream $upstream",
            (
                lines(
                    "Sessions",
                    "Connections to this upstream now, and its limit if it has one. They follow the users' day; a "
                    "cliff is a crash, a flat top a limit.",
                    "none",
                    (
                        Query(total("upstream_connections_active"), "sessions"),
                        Query("sum(popproxy_upstream_connections_limit > 0)", "limit"),
                    ),
                    w=8, h=7,
                ),
                lines(
                    "Failed dials to it",
                    "What went wrong with this upstream. popproxy doctor --upstream NAME walks the same way and "
                    "explains it.",
                    "ops", Query(each("upstream_connections", "result", 'result!="ok"'), "{{result}}"),
                    w=8, h=7, none="none failed",
                ),
                lines(
                    "Time to a mailbox (p95)",
                    "Parts of a dial and the login, for this upstream alone. Compare it with the others: the part "
                    "that differs is where to look.",
                    "s",
                    (
                        Query(quantile(0.95, "upstream_connect_duration_seconds", "phase"), "{{phase}}"),
                        Query(quantile(0.95, "upstream_login_duration_seconds"), "login"),
                    ),
                    w=8, h=7, none="no dials", log=10,
                ),
            ),
            repeat="upstream",
        ),
    ),
)  # fmt: skip
