"""What users do with their mail, how fast it is answered, and what goes wrong with it."""

from grafana.boards.board import Board, Row
from grafana.boards.panels import Column, Query, above, bars, heat, lines, rows, spread, tile
from grafana.boards.query import RATE, each, increase, quantile, quantile_shown, rate, share, total

_TROUBLE = 'outcome=~"timeout|upstream_lost"'
_ALL = increase("commands", by="verb")
_NOT_OK = 'outcome!="ok"'
_TALK = 'verb=~"STAT|LIST|UIDL"'

BOARD = Board(
    uid="popproxy-commands",
    title="popproxy / Commands and mail",
    description="What users do with their mail, how fast it is answered, and what goes wrong with it.",
    chosen=("listener",),
    first=(
        tile(
            "Commands",
            "Answered commands per second. A sudden drop with sessions still open is an upstream that does not "
            "answer: look at 'Not answered with +OK'.",
            "ops", rate("commands"), none="no commands",
        ),
        tile(
            "Commands lost",
            "Share of commands that got no answer, because of a time-out or a lost upstream. Users see broken "
            "downloads: look at the upstreams board.",
            "percentunit", share(rate("commands", _TROUBLE), rate("commands")),
            marks=above(0.001, 0.01), none="no commands", decimals=2, board="popproxy-upstreams",
        ),
        tile(
            "STAT, LIST and UIDL p99",
            "99 of 100 of them have begun to be answered within this time. These three open every session; above 2 s "
            "clients begin to give up. Compare the upstream's login time and the plugins.",
            "s", quantile(0.99, "command_duration_seconds", where=_TALK),
            marks=above(1, 2), none="no commands", board="popproxy-plugins",
        ),
        tile(
            "Messages fetched",
            "Messages per second that were sent whole. This is what the service is for; compare it with last week at "
            "this hour.",
            "ops", rate("messages", 'verb="RETR", result="ok"'), none="none",
        ),
        tile(
            "To clients",
            "Octets per second to clients, inside TLS. At the network's limit users wait: look at pauses below.",
            "Bps", rate("transferred_bytes", 'side="client", direction="sent"'), none="none",
        ),
        tile(
            "Protocol violations",
            "What peers send against RFC 1939, per second. From an upstream it is worth a bug report; from clients it "
            "is mostly scanners.",
            "ops", f"{rate('protocol_violations')} or vector(0)", marks=above(5), none="none",
        ),
        lines(
            "Commands by verb",
            "What clients ask for. Many CAPA or NOOP with few RETR are monitors; UIDL without RETR are users with no "
            "new mail.",
            "ops", Query(each("commands", "verb"), "{{verb}}"), w=12, stacked=True, none="no commands",
        ),
        lines(
            "Not answered with +OK",
            "err: the upstream said -ERR. denied: a plugin did. timeout, upstream_lost: no answer came, see the "
            "upstreams board. malformed: the client's fault.",
            "ops", Query(each("commands", "verb, outcome", _NOT_OK), "{{verb}} {{outcome}}"),
            w=12, none="all commands are answered with +OK",
        ),
    ),
    rows=(
        Row(
            "How fast",
            (
                heat(
                    "Time to the first octet",
                    "How answers spread over time, all verbs. Two bands are two kinds of upstream or a cache; a band "
                    "that moves up is load. Find the verb in the table.",
                    "s", f"sum by (le) (increase(popproxy_command_duration_seconds_bucket{RATE}))", w=8,
                ),
                lines(
                    "Time to the first octet by verb (p95)",
                    "From the command line to the first octet of the answer. RETR and TOP wait for plugins that look "
                    "at whole messages; LIST and UIDL for the upstream's maildrop.",
                    "s", Query(quantile(0.95, "command_duration_seconds", "verb"), "{{verb}}"),
                    marks=above(2), none="no commands", log=10,
                ),
                lines(
                    "Time to the last octet (p95)",
                    "From the first to the last octet of long answers. If it grows while the first octet is fast, "
                    "clients or the network are slow.",
                    "s", Query(quantile(0.95, "command_transfer_duration_seconds", "verb"), "{{verb}}"),
                    none="none",
                ),
                rows(
                    "By verb, over the time shown",
                    "One line for each verb. Sort by a column to find what is slow or fails most often.",
                    {"verb": "Verb"},
                    (
                        Column("Commands", increase("commands", by="verb"), "none"),
                        Column(
                            "Not +OK",
                            f"({increase('commands', _NOT_OK, 'verb')} or {_ALL} * 0) / {_ALL}",
                            "percentunit", above(0.05, 0.5),
                        ),
                        Column("p50", quantile_shown(0.5, "command_duration_seconds", "verb"), "s"),
                        Column("p95", quantile_shown(0.95, "command_duration_seconds", "verb"), "s", above(1, 2)),
                        Column("p99", quantile_shown(0.99, "command_duration_seconds", "verb"), "s", above(2, 5)),
                    ),
                    w=16, sort="Commands",
                ),
                lines(
                    "Pipelined commands",
                    "Share of commands that came before the one before was answered. Only clients that saw PIPELINING "
                    "in CAPA do it; if it falls to nothing, an upstream has lost the capability.",
                    "percentunit",
                    Query(f"{rate('pipelined_commands')} / ({rate('commands')} > 0)", "pipelined"),
                    high=1, none="no commands",
                ),
            ),
        ),
        Row(
            "Mail",
            (
                lines(
                    "Messages by command and result",
                    "RETR, TOP and DELE. 'err' after RETR are messages that went away, or that a plugin refused: see "
                    "the plugins board.",
                    "ops", Query(each("messages", "verb, result"), "{{verb}} {{result}}"),
                ),
                lines(
                    "Message sizes",
                    "Of messages that were fetched. If p99 grows, so do transfer times and spools: see spooled octets "
                    "on the runtime board.",
                    "bytes",
                    spread("message_size_bytes"),
                    none="no messages", log=2,
                ),
                lines(
                    "Octets by side and direction",
                    "Inside TLS. 'client sent' and 'upstream received' belong together; more towards the upstream "
                    "than a few octets per command is unusual.",
                    "Bps", Query(each("transferred_bytes", "side, direction"), "{{side}} {{direction}}"),
                ),
            ),
        ),
        Row(
            "Sessions and their ends",
            (
                lines(
                    "Sessions by state",
                    "Open sessions. 'authorization' that grows is logins that hang; 'update' that grows is an "
                    "upstream that is slow to delete.",
                    "none", Query(total("sessions_active", 'state!="_other"', "state"), "{{state}}"), w=6, stacked=True,
                ),
                bars(
                    "Why sessions ended",
                    "In the time shown. quit and client_eof are normal; idle_timeout are clients that forget; "
                    "everything with upstream or protocol in it is worth a look in the logs.",
                    "none", Query(increase("sessions", by="reason"), "{{reason}}"), w=6, none="no sessions",
                ),
                lines(
                    "How long sessions last",
                    "From accept to close. If p95 grows, so does the number of connections: slow transfers, or "
                    "clients that stay.",
                    "s",
                    spread("session_duration_seconds", (0.5, 0.95)),
                    w=6, none="no sessions", log=10,
                ),
                lines(
                    "Slow peers and violations",
                    "Reads that were paused for a slow peer, and what was sent against the protocol, by side. Pauses "
                    "of the upstream's side mean slow clients.",
                    "ops",
                    (
                        Query(each("backpressure_pauses", "side"), "pause: {{side}}"),
                        Query(each("protocol_violations", "side, kind"), "{{side}}: {{kind}}"),
                    ),
                    w=6, none="none",
                ),
            ),
        ),
    ),
)  # fmt: skip
