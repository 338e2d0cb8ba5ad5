"""Who is let in, who is not and why: logins, TLS, and what is turned away."""

from grafana.boards.board import Board, Row
from grafana.boards.panels import Column, Query, above, bars, below, lines, rows, tile
from grafana.boards.query import each, increase, quantile, rate, share

_ANSWERED = 'result=~"ok|bad_credentials|tempfail"'
_BY_US = 'result=~"policy|rate_limited|in_use|tls_required"'
# Where none has ever succeeded there is no series of those that did.
_HANDSHAKES = f"(({rate('tls_handshakes')} or vector(0)) + {rate('tls_handshake_failures')})"

BOARD = Board(
    uid="popproxy-logins",
    title="popproxy / Logins and security",
    description="Who is let in, who is not and why; TLS with clients; what is turned away. For names and addresses "
    "see popproxy top and the logs board: they are never labels.",
    chosen=("listener",),
    first=(
        tile(
            "Logins let in",
            "Logins per second that succeeded. A drop to nothing during the day is an outage, whatever else is green: "
            "look at 'Logins by result'.",
            "ops", rate("auth_attempts", 'result="ok"'), none="no logins",
        ),
        tile(
            "Wrong passwords",
            "Share of answered logins whose password was wrong. Above 50 % somebody guesses, or a password store was "
            "changed: popproxy top shows users and addresses with most failures.",
            "percentunit",
            share(rate("auth_attempts", 'result="bad_credentials"'), rate("auth_attempts", _ANSWERED)),
            marks=above(0.2, 0.5), none="no logins", decimals=1,
        ),
        tile(
            "Failed for our trouble",
            "Share of answered logins that ended with [SYS/TEMP]: users were told to try again later. Look at the "
            "upstreams board, then at 'Auth back ends'.",
            "percentunit", share(rate("auth_attempts", 'result="tempfail"'), rate("auth_attempts", _ANSWERED)),
            marks=above(0.005, 0.05), none="no logins", decimals=1, board="popproxy-upstreams",
        ),
        tile(
            "Refused by our rules",
            "Logins per second that policies, limits, places or a missing TLS refused. If users complain, find the "
            "rule on the plugins board, and try it with popproxy explain.",
            "ops", f"{rate('auth_attempts', _BY_US)} or vector(0)", board="popproxy-plugins",
        ),
        tile(
            "Handshakes that failed",
            "Share of TLS handshakes with clients that failed. Above 10 % look at the reasons: old clients after a "
            "change of TLS settings, or a certificate that clients do not trust.",
            "percentunit", share(rate("tls_handshake_failures"), _HANDSHAKES),
            marks=above(0.1, 0.3), none="no TLS", decimals=1,
        ),
        tile(
            "Turned away",
            "Connections per second that were closed before a greeting. Look at the reasons below.",
            "ops", rate("connections_rejected"), marks=above(1, 20), none="none",
        ),
        lines(
            "Logins by result",
            "All attempts by how they ended. Red: our trouble or the upstream's. Yellow: wrong passwords. Purple: our "
            "policies and limits. 'aborted' are clients that left while we worked.",
            "ops", Query(each("auth_attempts", "result"), "{{result}}"), w=12, stacked=True, none="no logins",
        ),
        lines(
            "Failed logins by mechanism",
            "What failed attempts use. A mechanism that nobody of yours configures is a robot; one that fails alone "
            "is a back end of its own, such as the token server of XOAUTH2.",
            "ops",
            Query(each("auth_attempts", "mechanism, result", 'result!="ok"'), "{{mechanism}} {{result}}"),
            w=12, none="no failed logins",
        ),
    ),
    rows=(
        Row(
            "Time of logins",
            (
                lines(
                    "Login time",
                    "From complete credentials to the reply. A high median is slow for all: the upstream or an auth "
                    "back end. A p99 that is high alone is retries or one bad server; slow refusals may be "
                    "brute_force's.",
                    "s",
                    (
                        Query(quantile(0.5, "auth_duration_seconds"), "all p50"),
                        Query(quantile(0.99, "auth_duration_seconds"), "all p99"),
                        Query(
                            quantile(0.95, "auth_duration_seconds", "mechanism, result"),
                            "{{mechanism}} {{result}} p95",
                        ),
                    ),
                    w=16, marks=above(5), none="no logins", log=10,
                ),
                bars(
                    "Logins by mechanism",
                    "How users log in, in the time shown. Before a mechanism is switched off, see here that nobody is "
                    "left who needs it.",
                    "none", Query(increase("auth_attempts", 'result="ok"', "mechanism"), "{{mechanism}}"),
                    w=8, none="no logins",
                ),
                lines(
                    "Auth back ends: time (p95)",
                    "Look-ups of users that plugins make outside: HTTP, files. Every login waits for them; when this "
                    "rises, look at that server, and let the plugin cache for longer.",
                    "s", Query(quantile(0.95, "auth_backend_duration_seconds", "backend"), "{{backend}}"),
                    h=7, marks=above(1), none="no back ends",
                ),
                lines(
                    "Auth back ends: no answer",
                    "Look-ups that gave no answer: these logins ended with [SYS/TEMP]. refused and timeout: is the "
                    "server up? tls: its certificate. protocol: it answers something else.",
                    "ops", Query(each("auth_backend_errors", "backend, reason"), "{{backend}} {{reason}}"),
                    h=7, none="every look-up is answered",
                ),
                lines(
                    "Auth back ends: cache",
                    "Look-ups by what the plugin's cache knew. All misses: names that nobody has, which is guessing, "
                    "or a cache time that is too short.",
                    "ops", Query(each("auth_cache_requests", "result"), "{{result}}"),
                    h=7, stacked=True, none="no back ends",
                ),
            ),
        ),
        Row(
            "TLS with clients",
            (
                bars(
                    "TLS versions and resumption",
                    "Handshakes in the time shown. Before TLS 1.2 goes, nobody should be left here; few resumed "
                    "sessions cost CPU at every login.",
                    "none",
                    Query(increase("tls_handshakes", by="version, resumed"), "{{version}} resumed={{resumed}}"),
                    w=6, none="no TLS",
                ),
                bars(
                    "Ciphers",
                    "What was agreed on in the time shown. '_other' is a cipher outside Mozilla's intermediate list: "
                    "look at tls.ciphers in your config.",
                    "none", Query(increase("tls_handshakes", by="cipher"), "{{cipher}}"), w=6, none="no TLS",
                ),
                lines(
                    "Failed handshakes by reason",
                    "no_shared_cipher and protocol: clients that are too old for your settings. cert_rejected: "
                    "clients do not trust the certificate, renew or complete its chain. eof and reset: mostly "
                    "scanners.",
                    "ops", Query(each("tls_handshake_failures", "mode, reason"), "{{mode}} {{reason}}"),
                    w=6, none="no TLS",
                ),
                lines(
                    "Handshake time (p95)",
                    "From ClientHello to Finished. It grows with the clients' distance, and with the CPU's load: "
                    "compare the runtime board.",
                    "s", Query(quantile(0.95, "tls_handshake_duration_seconds", "mode"), "{{mode}}"),
                    w=6, marks=above(1), none="no TLS",
                ),
            ),
        ),
        Row(
            "Doors",
            (
                lines(
                    "New connections by listener",
                    "Accepted clients. Far more connections than logins are scanners, health checks or clients that "
                    "give up at the handshake.",
                    "ops", Query(each("connections", "listener"), "{{listener}}"), none="no connections",
                ),
                lines(
                    "Turned away by reason",
                    "limit: raise max_connections. denied: a plugin. overload: see runtime. tls: a handshake that "
                    "came to nothing. PROXY: the load balancer's header was bad or missing: compare its settings. "
                    "admin: requests for /v1 that were refused; admin_denied in the log says from where.",
                    "ops",
                    (
                        Query(each("connections_rejected", "listener, reason"), "{{listener}} {{reason}}"),
                        Query(each("proxy_protocol_errors", "listener, reason"), "{{listener}} PROXY {{reason}}"),
                        Query(each("admin_refused", "reason"), "admin {{reason}}"),
                    ),
                    none="none turned away",
                ),
                rows(
                    "Certificates being served",
                    "The certificates that clients see now, those that end first on top. Renew below 14 days; if the "
                    "file is newer than this says, popproxy has not picked it up.",
                    {"listener": "Listener", "name": "Certificate"},
                    (
                        Column(
                            "Ends in",
                            "min by (listener, name) (popproxy_tls_certificate_expiry_timestamp_seconds) - time()",
                            "s", below(3 * 86400, 14 * 86400),
                        ),
                    ),
                    w=8,
                ),
            ),
        ),
    ),
)  # fmt: skip
