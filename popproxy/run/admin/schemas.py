"""What the admin listener answers, as JSON Schema: the named parts of its OpenAPI document."""

from __future__ import annotations

from typing import Any

from popproxy.net.desk.recent import EVENTS
from popproxy.net.desk.sessions import PHASES
from popproxy.net.desk.top import BY, OF, SINCE

Schema = dict[str, Any]


def text(about: str = "", **more: Any) -> Schema:
    """A string."""
    return {"type": "string", **({"description": about} if about else {}), **more}


def number(about: str = "", **more: Any) -> Schema:
    """A number, seconds where nothing else is said."""
    return {"type": "number", **({"description": about} if about else {}), **more}


def count(about: str = "") -> Schema:
    """A whole number from 0 on."""
    return {"type": "integer", "minimum": 0, **({"description": about} if about else {})}


def truth(about: str = "") -> Schema:
    """A boolean."""
    return {"type": "boolean", **({"description": about} if about else {})}


def maybe(schema: Schema) -> Schema:
    """Or null."""
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else {"anyOf": [schema, {"type": "null"}]}


def many(items: Schema, about: str = "") -> Schema:
    """A list."""
    return {"type": "array", "items": items, **({"description": about} if about else {})}


def table(about: str = "", /, **properties: Schema) -> Schema:
    """An object that has all of ``properties``; others may be added in later versions."""
    found: Schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {**found, "description": about} if about else found


def ref(name: str) -> Schema:
    """One of the named schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


MISSING = many(count(), "Numbers of the workers that did not answer in time.")
_WORKER = count("Number of the worker, from 0 on.")
_RESTART = many(text(), "Keys of the config that count only when popproxy is started again.")
_NULL_TEXT = maybe(text())
_STATES = {"type": "string", "enum": ["up", "down", "trial"]}

_SESSION: dict[str, Schema] = {
    "worker": _WORKER,
    "id": text("The session on every line of the log."),
    "listener": text("Its name in the config."),
    "client": text("IP address, or unix."),
    "client_port": count(),
    "tls": text("Version of the client's leg, empty without TLS."),
    "phase": {"type": "string", "enum": list(PHASES)},
    "user": maybe(text("The name the client gave.")),
    "login": maybe(text("The name used upstream, after a login.")),
    "mechanism": _NULL_TEXT,
    "upstream": maybe(text("Its name in the config.")),
    "server": maybe(text("Host and port.")),
    "since": number("When the client came, in seconds since the epoch."),
    "seconds": number("How long it lasts."),
    "awaits": {"type": "string", "enum": ["client", "upstream", "proxy"], "description": "Who is to move."},
    "idle": maybe(number("For how many seconds they have been awaited; null where nobody notes it.")),
    "octets_in": count("From the client, inside TLS."),
    "octets_out": count("To the client, inside TLS."),
    "retrieved": count("Messages."),
    "ends": text("Why it is about to end; empty while it is not."),
}
_COUNTS: Schema = {"type": "object", "additionalProperties": count()}
_TLS = table(
    "", version=text(), cipher=text(), resumed=truth(), server_name=_NULL_TEXT, by_proxy=truth(), verify=text(),
    subject=text(), fingerprint=text(),
)  # fmt: skip
_FAILURE = table("", time=number("Seconds since the epoch."), kind=text("In one word."), detail=text("In words."))
_HEAVY = table("", key=text("User or address."), count=count("At most."), error=count("At least so many fewer."))
_HEAVIEST = table(
    "The heaviest, in an order.",
    top=many(_HEAVY), bound=count("What a key that is not in the list has at most."), total=count("Of all keys."),
)  # fmt: skip
_EVENT = table(
    "Names of fields are those of the log.",
    worker=_WORKER, time=number("Seconds since the epoch."), event={"type": "string", "enum": list(EVENTS)},
    session=_NULL_TEXT, listener=_NULL_TEXT, client=_NULL_TEXT, client_port=maybe(count()), user=_NULL_TEXT,
    mechanism=_NULL_TEXT, code=_NULL_TEXT, reason=_NULL_TEXT, detail=_NULL_TEXT,
)  # fmt: skip

SCHEMAS: dict[str, Schema] = {
    "Line": {
        "type": "object",
        "description": "A line of a transcript; or, with dropped, how many came too fast and are lost.",
        "properties": {
            "time": text("ISO 8601, UTC."),
            "worker": count(),
            "session": text(),
            "mark": {
                "type": "string",
                "enum": ["C>", "<S", "U>", "<U", "--"],
                "description": "The client said, was told; said upstream, came from there; what happened.",
            },
            "text": text("Printable ASCII."),
            "dropped": count(),
        },
        "required": ["time", "worker"],
    },
    "Error": table("What is wrong, and what to write instead.", error=text()),
    "Session": table("", **_SESSION),
    "SessionDetails": table(
        "",
        **_SESSION,
        local=text("The proxy's own address."),
        local_port=count(),
        proxied=truth("Whether a PROXY header or XCLIENT told who the client is."),
        attempt=count("Which attempt to log in this is, or was."),
        groups=many(text()),
        tls_details=maybe(_TLS),
        commands={"type": "object", "additionalProperties": _COUNTS, "description": "Verb, outcome, how often."},
        deleted=count("Messages."),
        upstream_octets_in=count("From the upstream, inside TLS."),
        upstream_octets_out=count("To the upstream, inside TLS."),
        maildrop=maybe(table("Known only where a plugin looks at it.", messages=count(), octets=count())),
        slots=many(
            table("What a plugin keeps; values whose type may hold a secret are hidden.", name=text(), value={})
        ),
    ),
    "Sessions": table(
        "",
        sessions=many(ref("Session"), "The oldest first."),
        matched=count("How many there are on all pages."),
        next=maybe(text("What after says for the next page; null on the last.")),
        missing=MISSING,
    ),
    "Kicked": table("", kicked=count("How many."), sessions=many(text(), "The first hundred."), missing=MISSING),
    "Upstream": table(
        "",
        name=text(),
        balance={"type": "string", "enum": ["first", "round_robin", "least_sessions", "sticky"]},
        verify=truth("Whether certificates are checked."),
        sessions=count("Of all workers."),
        max_sessions=count("Of each worker; 0 for no bound."),
        waiting=count("Logins that wait for a place."),
        queue=count("How many may wait, in each worker."),
        servers=many(ref("Server")),
    ),
    "Server": table(
        "",
        server=text("Host and port."),
        url=text(),
        tls={"type": "string", "enum": ["implicit", "starttls", "off"]},
        weight=count(),
        max_sessions=count("Of each worker; 0 for no bound."),
        sessions=count("Of all workers."),
        state={"type": "string", "enum": ["up", "down", "trial", "mixed"], "description": "mixed: workers differ."},
        drained=truth("Whether no worker gives it new logins."),
        last_failure=maybe(_FAILURE),
        workers=many(
            table(
                "",
                worker=_WORKER,
                state=_STATES,
                drained=truth(),
                sessions=count(),
                since=number("Seconds since the state changed."),
                next_trial=maybe(number("Seconds until a login may try it; null while it is up.")),
            )
        ),
    ),
    "Probes": table(
        "",
        ok=truth("Whether all are well."),
        probes=many(
            table(
                "",
                worker=_WORKER,
                server=text(),
                ok=truth(),
                kind=text("What is wrong in one word."),
                detail=text("In words."),
                seconds=number(),
                state=_STATES,
            )
        ),
        missing=MISSING,
    ),
    "Drained": table(
        "",
        upstream=text(),
        server=text(),
        drained=truth(),
        changed=truth("Whether it was otherwise before."),
        sessions=count("Those it still has."),
        missing=MISSING,
    ),
    "Ban": table(
        "",
        network=text(),
        by={"type": "string", "enum": ["auto", "manual"]},
        reason=text(),
        since={"type": "integer", "description": "Seconds since the epoch."},
        seconds={"type": "integer", "description": "How long it still lasts."},
    ),
    "Status": table(
        "",
        state={"type": "string", "enum": ["starting", "ready", "reloading", "draining"]},
        version=text(),
        pid=count(),
        config=text("Path of the file, empty without one."),
        hash=text("Of the config in force."),
        since=number("Start, in seconds since the epoch."),
        reloaded=number("When the config came into force."),
        reload_ok=truth("Whether the last reload did."),
        restart=_RESTART,
        sessions=count(),
        workers=many(
            table(
                "", worker=_WORKER, pid=count(), up=truth(), sessions=count(), restarts=count(), generation=count()
            )
        ),
    ),
    "Reloaded": table(
        "",
        hash=text("Of the config in force."),
        problems=many({"type": "object"}, "Why nothing has changed."),
        warnings=many(text()),
        restart=_RESTART,
    ),
    "Top": table(
        "",
        since={"type": "string", "enum": list(SINCE)},
        seconds=number("How long that is."),
        missing=MISSING,
        **{of: table("", **dict.fromkeys(BY, _HEAVIEST)) for of in OF},
    ),
    "Event": _EVENT,
    "Config": {"type": "object", "description": "The config in force with its defaults, secrets hidden."},
}
