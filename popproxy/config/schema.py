"""What editors and operators are given: the JSON Schema of the config, and an example file with every section."""

from __future__ import annotations

import json
from typing import Any

from popproxy.config.models import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"

EXAMPLE = """\
#:schema ./popproxy.schema.json
# popproxy.toml: an example with every section. `popproxy check` finds all mistakes at once,
# `popproxy config reference` explains every key. A key behind # has no effect; values shown there are examples.
# Relative paths begin where this file is. Durations are seconds (600) or "10m"; sizes octets (65536) or "64KiB".

# The upstream of every login that no plugin routes elsewhere. May be left out when there is only one.
default_upstream = "main"
workers = 1                          # or "auto": one for each processor; then let them share a store, as sqlite

# Where clients connect: TLS from the first octet. verify_client and client_ca_file ask clients for certificates.
[[listener]]
name = "pop3s"
bind = ["[::]:995"]                  # all addresses, IPv6 and IPv4; or "192.0.2.1:995", "unix:/run/popproxy/pop3.sock"
tls  = "implicit"
# greeting = "mail.example.com POP3 ready"
# max_connections = 10000

# Clear until the client sends STLS. Logins before that are refused.
[[listener]]
name = "pop3"
bind = ["[::]:110"]
tls  = "starttls"
# auth_before_tls = "allow"          # lets passwords travel in clear

# Behind a load balancer that announces the client's address in a PROXY header (v1 or v2).
[[listener]]
name = "balanced"
bind = ["127.0.0.1:1995"]
tls  = "implicit"
proxy_protocol = { trusted = ["127.0.0.0/8"] }
# xclient = { trusted = ["10.0.0.0/8"] }                 # the same by Dovecot's XCLIENT, from proxies

# Without certificates, a self-signed one is made on first start.
[tls]
# certificates = [{ cert = "/etc/popproxy/mail.pem", key = "/etc/popproxy/mail.key" }]   # several: chosen by SNI
# certificates = [{ cert = "mail.pem", key = "mail.key", password = { credential = "mail-key" } }]
minimum = "TLSv1.2"
# ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20"                # default: Mozilla intermediate
# self_signed_directory = "/var/lib/popproxy"

# The mail server. pop3s:// is TLS, pop3:// demands STLS; no TLS at all must be written out as pop3+clear://
[upstream.main]
servers = ["pop3s://mail1.example.com", "pop3://mail2.example.com"]
# send_proxy = "v2"                                      # tell the server the client's address in a PROXY header
# xclient = true                                         # ... or by XCLIENT; "required": or not at all
# forward = { proxy = "edge1" }                          # more for XCLIENT: forward_proxy in Dovecot's passdb
# ca_file = "/etc/popproxy/upstream-ca.pem"              # instead of the system's store
# server_name = "mail.example.com"                       # for SNI and verification, instead of the URL's host
# verify = false                                         # lets anyone in between read passwords
# mechanism = "plain"            # or "auto", "user", "login", "scram-sha-256", "oauthbearer", "xoauth2"
# initial_response = "never"                             # AUTH in two steps, for servers that need it
# client_certificate = { cert = "/etc/popproxy/proxy.pem", key = "/etc/popproxy/proxy.key" }

# A group: the users of the archive are spread over three servers, each user always on the same one.
[upstream.archive]
servers = [
  "pop3s://archive1.example.com",
  "pop3s://archive2.example.com:995",
  { url = "pop3s://archive3.example.com", weight = 2, max_sessions = 500 },
]
balance = "sticky"                   # or "first", "round_robin", "least_sessions"
max_sessions = 1000                  # logins beyond wait for a place: at most so many, at most so long
queue = 100
queue_timeout = "5s"
health = { fall = 3, rise = 1, backoff = "1s", longest = "30s", probe = "10s" }

# Plugins, in the order in which requests pass them. Keys other than use, name, when, fail and deadline are the
# plugin's own. Secrets of plugins: { file = "..." }, { env = "NAME" } or { credential = "NAME" }.
[[plugin]]
use = "headers"
name = "external"
when = { domain = ["example.com"], network = ["192.0.2.0/24"], listener = ["pop3s"], tls = true }
fail = "open"                        # "closed": a failure refuses with -ERR [SYS/TEMP]
deadline = "5s"
rules = [{ set = "X-Fetched-By", value = "{user} through {listener}" }]

# /metrics, /healthz, /readyz for who reaches it; sessions and all else that is private on Unix sockets only.
[admin]
bind = "127.0.0.1:9110"              # or ["127.0.0.1:9110", "unix:/run/popproxy/admin.sock"]
# What is private is also on the port for who has the token, or a client certificate of client_ca_file. With cert and
# key the port has TLS. Its hosts are further names by which it may be asked.

[log]
format = "json"                      # or "console", "journald"
level = "info"
users = "plain"                      # or "hashed", "none"
# salt = "long and random"                               # of hashed names; default: another one at every start
# file = "/var/log/popproxy/popproxy.log"                # default: standard error

[timeouts]
idle = "10m"
command = "2m"

[limits]
auth_line = "64KiB"
message_size = "256MiB"

# What all workers know together: counts of limits, sessions of a user, bans.
[store]
use = "memory"                       # in this process, and gone with it
# "sqlite", for this host: path = "/var/lib/popproxy/store.sqlite"
# "redis", for all machines: url = "rediss://store.example.com/0", username = "popproxy",
#   password = { file = "/etc/popproxy/redis" }; for TLS ca_file, client_certificate, verify_name = true;
#   for Sentinels sentinel_username, sentinel_password; prefix = "popproxy", timeout = "500ms"
# Both: lease = "30s", after which is free what a dead worker held.

# What /metrics shows beside the metrics.
[metrics]
exemplars = false                    # OpenMetrics: the session of the last failed login, the last slow command

# New connections are shed while one of these is passed.
[overload]
lag = "2s"                           # how late the event loop is; or "off"
memory = "90%"                       # of the control group's or machine's, or "2GiB", or "off"
sockets = "90%"                      # of RLIMIT_NOFILE, or "off"

[protocol]
open = ["LAST"]                      # fenced verbs that are relayed
# verbs = [{ name = "XFOO", framing = "single" }]        # verbs unknown to popproxy
# capabilities = ["X-FEATURE"]                           # capabilities unknown to popproxy
bare_lf = false
pipelining = true
implementation = ""
# decoy_secret = "long and random"                       # SCRAM: what users who do not exist are shown
"""


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a config file."""
    return {"$schema": DIALECT, **cleaned(Config.model_json_schema())}


def schema_text() -> str:
    """The JSON Schema as the file that is shipped."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def example() -> str:
    """The example file, TOML."""
    return EXAMPLE


def cleaned(node: Any) -> Any:
    """Without what pydantic knows and TOML does not: null, defaults that are null, titles made of key names."""
    if isinstance(node, list):
        return [cleaned(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: {name: cleaned(item) for name, item in value.items()} if key in ("properties", "$defs") else cleaned(value)
        for key, value in node.items()
        if not (key == "default" and value is None) and not (key == "title" and value != Config.model_config["title"])
    }
    choices = [choice for choice in kept.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1 and "anyOf" in kept:
        del kept["anyOf"]
        return {**choices[0], **kept}
    if choices:
        kept["anyOf"] = choices
    return kept
