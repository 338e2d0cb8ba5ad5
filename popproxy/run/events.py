"""The contract of the event log: every event, its level, its fields and what they mean.

``docs/logs.md`` is written from here (``python -m popproxy.run.events > docs/logs.md``). Names are stable: a new
field may appear, a field never changes its meaning. Events of plugins are named ``<plugin>.<event>``, so that no
plugin can speak for the house.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of line. ``fields`` are keys of FIELDS beside ``time``, ``level`` and ``event``."""

    level: str
    meaning: str
    fields: tuple[str, ...]
    also: str = ""
    """Another level that it may have."""


FIELDS: dict[str, tuple[str, str]] = {
    "action": ("string", "what was done about a plugin's failure: `fail_open` or `fail_closed`"),
    "address": ("string", "the address that is listened on, `host:port` or a path"),
    "advice": ("string", "what the administrator can do"),
    "certificate": ("string", "path of the certificate; of all files that changed, for `certificate_renewed`"),
    "cipher": ("string", "TLS cipher of the client's leg, OpenSSL's name; empty without TLS"),
    "client": ("string", "the client's IP address (behind a trusted PROXY header: the real one), or `unix`"),
    "client_port": ("integer", "the client's port"),
    "code": ("string", "response code of the refusal (RFC 2449, RFC 3206), or null"),
    "commands": ("object", "answered commands by verb"),
    "config": ("string", "path of the config file; empty without one"),
    "count": ("integer", "how many"),
    "deleted": ("integer", "DELE commands that the upstream answered with +OK"),
    "detail": ("string", "the cause in words, for people"),
    "error": ("string", "type of the exception"),
    "fingerprint": ("string", "SHA-256 of the certificate, in hex"),
    "grace": ("number", "seconds that busy sessions may go on"),
    "hash": ("string", "hash of the config in force, as in `popproxy_config_info`"),
    "hook": ("string", "the plugin's hook"),
    "kind": ("string", "the fault in one word"),
    "listener": ("string", "name of the listener in the config"),
    "logger": ("string", "the library's logger"),
    "login": ("string", "the user name used on the upstream, or null"),
    "mechanism": ("string", "how the client logged in: `USER`, `PLAIN`, `LOGIN` ..., or null"),
    "mode": ("string", "`implicit` or `stls`"),
    "mark": ("number", "from where on new connections are shed: seconds, octets or descriptors"),
    "octets_in": ("integer", "octets received from the client, inside TLS"),
    "octets_out": ("integer", "octets sent to the client, inside TLS"),
    "pid": ("integer", "process id"),
    "plugin": ("string", "name of the plugin in the config"),
    "problems": ("array", "what is wrong, each with its place and what to write instead"),
    "reason": ("string", "why: one word of a list, for `login_failed` the private cause in words"),
    "resource": ("string", "what is scarce: `lag`, `memory` or `sockets`"),
    "retrieved": ("integer", "RETR commands that were answered with +OK"),
    "seconds": ("number", "how long it lasted"),
    "server": ("string", "the upstream server, `host:port`, or null"),
    "session": ("string", "id of the session, on every line about it"),
    "sessions": ("integer", "sessions"),
    "signal": ("string", "the signal that was received; empty without one"),
    "slot": ("integer", "number of the worker, from 0 on; its successors have the same"),
    "status": ("integer", "exit status of the process, or null"),
    "state": ("string", "the state the session ended in"),
    "store": ("string", "kind of the store: `memory`, `sqlite` or `redis`"),
    "tls": ("string", "TLS version of the client's leg; empty without TLS"),
    "upstream": ("string", "name of the upstream in the config, or null"),
    "user": ("string", "the user name the client gave (plain, hashed or left out, as configured), or null"),
    "value": ("number", "what was measured: seconds, octets or descriptors"),
    "version": ("string", "version of popproxy"),
    "where": ("string", "the innermost frames, `file:line function`"),
}
"""Name: JSON type and meaning."""

_WHO = ("session", "listener", "client", "client_port")
_NOTED = (*_WHO, "user", "upstream", "server")
"""Fields of every line that a session writes itself."""

EVENTS: dict[str, Event] = {
    "starting": Event("info", "The process begins to work.", ("version", "pid", "config", "hash")),
    "config_loaded": Event("info", "A config is in force.", ("config", "hash")),
    "config_retired": Event("info", "The last session of a config that was in force before is over.", ("hash",)),
    "config_warning": Event("warning", "The config works, but perhaps not as it should.", ("detail",)),
    "config_failed": Event("error", "A config was refused; the one before stays in force.", ("config", "problems")),
    "self_signed": Event(
        "warning",
        "No certificate is configured, so one was made; clients will not trust it.",
        ("certificate", "fingerprint", "advice"),
    ),
    "certificate_renewed": Event(
        "info",
        "Files of certificates, keys or authorities have changed, and new handshakes use them.",
        ("certificate", "detail"),
    ),
    "certificate": Event("warning", "A certificate works, but not as it should.", ("certificate", "detail")),
    "listening": Event("info", "A listener is open.", ("listener", "address", "tls")),
    "admin_listening": Event("info", "The admin listener is open.", ("address",)),
    "admin_denied": Event(
        "warning",
        "Somebody asked a port of the admin listener for what they may not have. One line a second at most.",
        ("client", "reason", "count"),
    ),
    "admin_failed": Event(
        "warning",
        "The Unix socket of the admin listener in the runtime directory cannot be opened.",
        ("address", "detail"),
    ),
    "start_failed": Event("error", "The process cannot begin to work and ends.", ("detail",)),
    "started": Event("info", "All listeners are open.", ("seconds",)),
    "stopping": Event(
        "info", "No new sessions. Those that are busy may go on for `grace` seconds.", ("signal", "sessions", "grace")
    ),
    "stopped": Event("info", "The last line.", ("sessions", "seconds")),
    "refused": Event(
        "info",
        "A connection was closed before its greeting.",
        ("listener", "client", "client_port", "reason", "detail"),
    ),
    "accept_failed": Event(
        "error", "No descriptor or memory was left to accept a client; it is tried again.", ("listener", "detail")
    ),
    "overload": Event(
        "warning", "A mark is passed: new connections are shed.", ("resource", "value", "mark", "seconds")
    ),
    "overload_over": Event(
        "info", "It is clearly below the mark again, `seconds` later.", ("resource", "value", "mark", "seconds")
    ),
    "tls_failed": Event("info", "A client's TLS handshake failed.", (*_WHO, "mode", "reason", "detail")),
    "login_failed": Event(
        "info",
        "A login was refused. `client` and `reason` are what fail2ban needs.",
        (*_NOTED, "mechanism", "code", "reason", "detail"),
    ),
    "login_held": Event(
        "info",
        "A plugin lets a login wait before it goes on.",
        (*_NOTED, "mechanism", "seconds", "reason"),
    ),
    "session": Event(
        "info",
        "A session is over: the one line that tells everything about it.",
        (
            *_WHO, "tls", "cipher", "user", "login", "mechanism", "upstream", "server", "commands", "retrieved",
            "deleted", "octets_in", "octets_out", "seconds", "state", "reason", "detail",
        ),
    ),
    "upstream_failed": Event(
        "error", "A session had trouble with its upstream.", (*_NOTED, "kind", "detail"), "warning"
    ),
    "upstream_retry": Event(
        "warning",
        "A server failed, and the login went on to another one. Where no connection could be made `server` is null and "
        "`detail` names each that was tried.",
        (*_NOTED, "kind", "detail"),
    ),
    "upstream_down": Event("error", "A server is out of rotation.", ("upstream", "server", "kind", "detail")),
    "upstream_up": Event("info", "A server is back in rotation.", ("upstream", "server", "seconds")),
    "store_down": Event(
        "warning", "The store does not answer; it is tried again, and plugins go by their fail modes.",
        ("store", "reason", "detail"),
    ),
    "store_up": Event("info", "The store answers again, `seconds` later.", ("store", "seconds")),
    "plugin_error": Event(
        "error", "A hook raised, hung or lied.", (*_NOTED, "plugin", "hook", "action", "error", "detail")
    ),
    "worker_started": Event(
        "info", "A worker serves, for the first time or in place of one that died.", ("slot", "pid", "seconds")
    ),
    "worker_died": Event(
        "error", "A worker is gone, and its `sessions` with it; another one is started. `signal` or `status` says how "
        "it ended.", ("slot", "pid", "signal", "status", "sessions", "seconds", "detail"),
    ),
    "internal_error": Event("error", "A fault of popproxy itself; please report it.", (*_WHO, "error", "where")),
    "library": Event("warning", "A library had something to say.", ("logger", "detail", "error", "where"), "error"),
    "log_dropped": Event("warning", "Lines were lost: nobody read the log fast enough.", ("count", "detail")),
    "log_failed": Event(
        "error", "The log file cannot be opened again and the old one is kept, or there is no journal.", ("detail",)
    ),
}  # fmt: skip
"""The events of the house by name."""

PLUGIN_FIELDS: dict[str, tuple[str, str]] = {
    "delay": ("number", "seconds that the login would have waited"),
    "limit": ("string", "name of the limit"),
    "names": ("integer", "different user names"),
    "network": ("string", "the network, or the address as one"),
    "of": ("integer", "how much the limit allows"),
    "pairs": ("integer", "different pairs of name and password"),
    "passwords": ("integer", "different passwords"),
    "point": ("string", "what was done or refused: the hook or the command"),
    "result": ("string", "the judgement in one word"),
    "rule": ("string", "name of the rule"),
    "status": ("integer", "HTTP status of the answer"),
    "times": ("integer", "how often, this time included"),
    "used": ("integer", "how much of it was used"),
    "why": ("string", "the reason in one word, or null"),
}
"""Fields of plugins' lines beside those of FIELDS."""

_THEIRS = ("session", "client", "user")
_BAN = ("network", "kind", "client", "seconds", "times", "pairs", "names", "passwords")

PLUGINS: dict[str, Event] = {
    "auth_http.bad_reply": Event(
        "error", "What a back end answered cannot be used.", ("server", "status", "session", "detail")
    ),
    "auth_http.server_failed": Event(
        "warning", "A back end did not answer; another one is asked.", ("server", "detail")
    ),
    "brute_force.audited": Event(
        "info", "A login would have been refused or held.", (*_THEIRS, "result", "delay", "why")
    ),
    "brute_force.banned": Event("warning", "An address or a network is banned.", _BAN),
    "brute_force.would_ban": Event("warning", "The same in audit mode: nobody is banned.", _BAN),
    "brute_force.guessed": Event(
        "warning", "Where a user is known many of its passwords were wrong.", ("network", "client", "passwords")
    ),
    "brute_force.store_failed": Event("error", "The store does not answer; the fail mode decides.", ("detail",)),
    "brute_force.store_back": Event("info", "It answers again.", ()),
    "otel.not_exported": Event("warning", "Spans could not be sent to the collector.", ("error",)),
    "policy.denied": Event("info", "A rule has refused something.", (*_THEIRS, "rule", "point", "action", "code")),
    "policy.applied": Event("info", "A rule has changed something.", (*_THEIRS, "rule", "point", "action", "code")),
    "policy.audit": Event("info", "An audited rule would have done it.", (*_THEIRS, "rule", "point", "action", "code")),
    "policy.store_down": Event("warning", "The store does not answer; the fail mode decides.", ("detail",)),
    "policy.store_back": Event("info", "It answers again.", ()),
    "rate_limit.audited": Event("info", "An audited limit has no room.", (*_THEIRS, "limit", "used", "of")),
    "rate_limit.store_failed": Event("error", "The store does not answer; the fail mode decides.", ("detail",)),
    "rate_limit.store_back": Event("info", "It answers again.", ()),
    "spam.not_scanned": Event("warning", "A message has no score.", ("session", "why", "detail")),
    "spam.scanner_failed": Event("warning", "A scanner failed; another one is asked.", ("server", "why", "detail")),
}
"""Events of the plugins that come with popproxy, by plugin and name; a table of another name writes that instead."""

USERS = ("user", "login")
"""Fields that hold a user name: shown plain, hashed or not at all."""

_HEAD = """# Logs

<!-- Written by `python -m popproxy.run.events > docs/logs.md`; change popproxy/run/events.py instead. -->

One JSON object a line, ASCII only, on standard output, standard error or in a file. Every line begins with `time`
(ISO 8601, UTC, milliseconds), `level` (`debug`, `info`, `warning`, `error`) and `event`. The names below are a
contract: fields may be added, none changes its meaning. Passwords and SASL payloads never appear; a value whose
type is not known to be harmless is shown as `<type hidden>`. User names (`user`, `login`) are shown plain, as the
first 12 hex digits of SHA-256 over a salt and the name, or not at all, as configured. Without `[log] salt` the salt is
random at every start and the same in all workers: a hash tells users apart until the restart. A password that was typed
where the name belongs is a name. Where names are not plain, `<user>` stands for the line's name in a
`detail` or `reason` of several words: servers and plugins name whom they refuse.

A line of a plugin has the event `<plugin>.<event>`, a field `plugin`, and fields of the plugin's own. With several
workers `worker` (0, 1, ...) stands behind `event` on every line of theirs; without it the line is of the process that
started them. They may write to one pipe, socket or file: a write is whole lines, to a pipe at most 4096 octets of them
(a longer line is cut), so that no line stands inside another. `USR1` opens a file anew: rename it first, and nothing is
lost; no copytruncate.

With `format = "journald"` each event is an entry of systemd's journal: `MESSAGE`, `PRIORITY`,
`SYSLOG_IDENTIFIER=popproxy`, `POPPROXY_EVENT`, `POPPROXY_TIME`, and each field below in capitals behind `POPPROXY_`,
unless it is empty.

```sh
jq -r 'select(.event == "session") | [.time, .client, .user, .seconds, .reason] | @tsv'   # who was here
jq -r 'select(.event == "login_failed") | .client' | sort | uniq -c | sort -rn            # who guesses
journalctl -t popproxy POPPROXY_SESSION=3f9a1c00002a                                     # one session, in the journal
```
"""


def _rows(events: dict[str, Event]) -> list[str]:
    rows = []
    for name, event in events.items():
        fields = ", ".join(f"`{field}`" for field in event.fields)
        level = f"{event.level} or {event.also}" if event.also else event.level
        rows.append(f"| `{name}` | {level} | {event.meaning} | {fields} |")
    return rows


def strangers(line: Mapping[str, object]) -> list[str]:
    """What the contract does not know of a line of the log: its event, its level, fields. Plugins that do not come with
    popproxy have no contract here."""
    name = str(line.get("event"))
    event = EVENTS.get(name) or PLUGINS.get(name)
    if event is None:
        return [] if "plugin" in line and "." in name else [f"event {name}"]
    found = [f"field {field}" for field in line if field not in (*_EVERYWHERE, *event.fields)]
    if line.get("level") not in (event.level, event.also):
        found.append(f"level {line.get('level')}")
    return [f"{name}: {what}" for what in found]


_EVERYWHERE = ("time", "level", "event", "worker", "plugin")


def markdown() -> str:
    """``docs/logs.md``."""
    lines = [_HEAD, "## Events", "", "| event | level | meaning | fields |", "|---|---|---|---|"]
    lines += _rows(EVENTS)
    lines += ["", "## Fields", "", "| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in FIELDS.items()]
    lines += ["", "## Plugins", "", "Those that come with popproxy write these, with `plugin` on each."]
    lines += ["", "| event | level | meaning | fields |", "|---|---|---|---|", *_rows(PLUGINS)]
    lines += ["", "| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in PLUGIN_FIELDS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
