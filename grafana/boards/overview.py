"""The first board: is mail being picked up, who is hurt, where is it stuck."""

from grafana.boards.board import Board, Row
from grafana.boards.panels import (
    GREEN,
    ORANGE,
    RED,
    Column,
    Query,
    above,
    below,
    lines,
    rows,
    tile,
)
from grafana.boards.query import cores, each, ours, quantile, rate, share, total

_ANSWERED = 'result=~"ok|bad_credentials|tempfail"'
_BADLY = 'reason!~"quit|client_eof|idle_timeout|shutdown"'

BOARD = Board(
    uid="popproxy-overview",
    title="popproxy / Overview",
    description="Is mail being picked up, who is hurt, where is it stuck. Begin here; the other boards say more.",
    chosen=("listener", "upstream"),
    first=(
        tile(
            "Alerts firing",
            "Alerts of popproxy's rules that fire now. Open the alert and follow its runbook; without the rules "
            "loaded this is always 0.",
            "none", 'count(ALERTS{alertname=~"Popproxy.*", alertstate="firing"}) or vector(0)',
            w=3, marks=above(1), decimals=0,
        ),
        tile(
            "Instances down",
            "Instances that were scraped in the time shown and do not answer now. Look at the service on that host: "
            "systemctl status popproxy, journalctl -u popproxy.",
            "none",
            "count(up{} == 0 and on (job, instance) last_over_time(popproxy_build_info[$__range])) or vector(0)",
            w=3, marks=above(1), decimals=0, board="popproxy-runtime",
        ),
        tile(
            "Servers out",
            "Upstream servers that all workers have out of rotation. Logins go to those that are left; if none is "
            "left nobody gets mail. Look at the upstreams board for why.",
            "none", "count(min by (upstream, server) (popproxy_upstream_up) == 0) or vector(0)",
            w=3, marks=above(1), decimals=0, board="popproxy-upstreams",
        ),
        tile(
            "Logins lost to us",
            "Share of answered logins that failed for trouble of ours or of the upstream ([SYS/TEMP]), not for a "
            "wrong password. From 0.5 % on look at 'Where the time goes' and the upstreams board.",
            "percentunit",
            share(rate("auth_attempts", 'result="tempfail"'), rate("auth_attempts", _ANSWERED)),
            w=3, marks=above(0.005, 0.05), none="no logins", decimals=1, board="popproxy-logins",
        ),
        tile(
            "Login p95",
            "19 of 20 logins are answered within this time, from complete credentials to the reply. If it is high, "
            "'Where the time goes' names the stage.",
            "s", quantile(0.95, "auth_duration_seconds"),
            w=3, marks=above(1, 5), none="no logins", board="popproxy-logins",
        ),
        tile(
            "Commands p99",
            "99 of 100 commands have begun to be answered within this time. If it is high, compare the upstream's and "
            "the plugins' times.",
            "s", quantile(0.99, "command_duration_seconds"),
            w=3, marks=above(1, 5), none="no commands", board="popproxy-commands",
        ),
        tile(
            "Fullest listener",
            "Connections of the fullest worker of the fullest listener against its share of max_connections; at 100 % "
            "it turns clients away. Above 85 % raise the limit and LimitNOFILE=, or find out what keeps sessions open.",
            "percentunit", "max(popproxy_connections_used_ratio)",
            w=3, marks=above(0.7, 0.85), none="no limit", decimals=0, board="popproxy-runtime",
        ),
        tile(
            "Certificate ends in",
            "Until the first of the certificates being served ends. Below 14 days the renewal or its reload does not "
            "work; below 3 renew by hand.",
            "s", "min(popproxy_tls_certificate_expiry_timestamp_seconds) - time()",
            w=3, marks=below(3 * 86400, 14 * 86400), none="no TLS", decimals=0, trend=False, board="popproxy-logins",
        ),
        lines(
            "Logins by result",
            "Is anybody let in? Green is mail being picked up. Red is our trouble: go to the upstreams board. Yellow "
            "is wrong passwords: one wave is an attack, a lasting step a changed password store.",
            "ops", Query(each("auth_attempts", "result"), "{{result}}"),
            w=12, stacked=True, none="no logins",
        ),
        lines(
            "Messages",
            "What users do with their mail. Logins without messages mean empty maildrops or clients that give up: "
            "look at the commands board for -ERR and at session ends.",
            "ops", Query(each("messages", "verb", 'result="ok"'), "{{verb}}"), w=6,
        ),
        lines(
            "Octets of mail",
            "Mail in flight. The two lines belong together; where the upstream's is above the client's for long, "
            "clients are slow and spools fill.",
            "Bps",
            (
                Query(rate("transferred_bytes", 'side="client", direction="sent"'), "to clients"),
                Query(rate("transferred_bytes", 'side="upstream", direction="received"'), "from upstreams"),
            ),
            w=6,
        ),
    ),
    rows=(
        Row(
            "Who is hurt",
            (
                lines(
                    "Logins that failed, by listener",
                    "Not let in, whatever the reason. One listener alone points to its clients or its certificate, "
                    "all together to an upstream or an auth backend.",
                    "ops",
                    Query(each("auth_attempts", "listener", 'result!="ok"'), "{{listener}}"),
                    none="no failed logins",
                ),
                lines(
                    "Sessions that ended badly",
                    "Sessions that ended otherwise than by QUIT, a client that left, idling or a shutdown. "
                    "'upstream_*' is the upstream, 'client_stalled' a slow network, 'policy' our own rules.",
                    "ops", Query(each("sessions", "reason", _BADLY), "{{reason}}"), none="none ended badly",
                ),
                lines(
                    "Turned away before the greeting",
                    "Clients that got no session. 'limit': raise max_connections. 'overload': the machine is short. "
                    "'tls': see handshakes. 'proxy_header': the load balancer in front is set up otherwise.",
                    "ops", Query(each("connections_rejected", "reason"), "{{reason}}"), none="none turned away",
                ),
            ),
        ),
        Row(
            "Where is it stuck",
            (
                lines(
                    "Where the time goes (p95)",
                    "The stages of a session side by side. The line that rises first is where to look: handshake: "
                    "CPU; connect: network or upstream; upstream login: its user database; plugins: the plugins board.",
                    "s",
                    (
                        Query(quantile(0.95, "tls_handshake_duration_seconds"), "client handshake"),
                        Query(quantile(0.95, "auth_duration_seconds"), "login, in all"),
                        Query(quantile(0.95, "upstream_queue_duration_seconds"), "wait for a place"),
                        Query(quantile(0.95, "upstream_connect_duration_seconds", "phase"), "upstream {{phase}}"),
                        Query(quantile(0.95, "upstream_login_duration_seconds"), "upstream login"),
                        Query(quantile(0.95, "command_duration_seconds"), "command, first octet"),
                        Query(quantile(0.95, "command_transfer_duration_seconds"), "command, to the last octet"),
                        Query(quantile(0.95, "plugin_duration_seconds"), "plugin hooks"),
                    ),
                    w=12, h=9, log=10,
                ),
                lines(
                    "Dials that failed",
                    "Connections to upstreams that could not be made, by what was wrong. refused: the server is down; "
                    "timeout: network or firewall; tls: its certificate; greeting: it is overloaded.",
                    "ops",
                    Query(each("upstream_connections", "upstream, result", 'result!="ok"'), "{{upstream}} {{result}}"),
                    w=6, h=9, none="all dials work",
                ),
                lines(
                    "Sessions by state",
                    "Who is here now. Many in 'authorization' are logins that hang or clients that guess; many in "
                    "'transaction' with few octets sent are slow clients or a slow upstream.",
                    "none", Query(total("sessions_active", 'state!="_other"', "state"), "{{state}}"),
                    w=6, h=9, stacked=True,
                ),
            ),
        ),
        Row(
            "Instances",
            (
                rows(
                    "Instances",
                    "One line for each popproxy. Compare them: the one that differs is the one to look at; different "
                    "config hashes for long mean that a deployment has not reached all.",
                    {"job": "Job", "instance": "Instance", "version": "Version", "hash": "Config"},
                    (
                        Column("Up", "up{} and on (job, instance) last_over_time(popproxy_build_info[$__range])",
                               words={"0": ("down", RED), "1": ("up", GREEN)}),
                        Column("", "max by (job, instance, version) (popproxy_build_info)"),
                        Column("", "max by (job, instance, hash) (popproxy_config_info)"),
                        Column("Connections", total("connections_active", by="job, instance")),
                        Column("of", total("connections_limit", by="job, instance")),
                        Column("Logins", rate("auth_attempts", 'result="ok"', "job, instance"), "ops"),
                        Column("Loop lag p99", quantile(0.99, "event_loop_lag_seconds", "job, instance"), "s",
                               above(0.05, 0.1)),
                        Column("CPU", cores(), "percentunit", above(0.7, 0.9)),
                        Column("Memory", ours("process_resident_memory_bytes"), "bytes"),
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
