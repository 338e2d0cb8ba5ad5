"""/v1/openapi.json: the interface of the admin listener as an OpenAPI 3.1 document.

``docs/admin.openapi.json`` is written from here (``python -m popproxy.run.admin.openapi > docs/admin.openapi.json``).
The document is closed where a client can go wrong: what it does not name is refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from popproxy import __version__
from popproxy.net.desk.asking import LONGEST
from popproxy.net.desk.recent import KEPT
from popproxy.net.desk.sessions import MOST, PAGE, PHASES
from popproxy.net.desk.top import PLACES, SINCE
from popproxy.run.admin.schemas import MISSING, SCHEMAS, Schema, count, many, ref, table, text, truth

MANUAL_LONGEST = 3660 * 86400
"""Seconds of the longest ban by hand; brute_force has the same number."""
_SHOWN = 10
_CURSOR = r"^[0-9]{1,12}\.[0-9]{6}~[!-~]{1,64}$"
_IPV4 = r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"


def query(name: str, schema: Schema, about: str = "") -> Schema:
    """A parameter of the query that may be left out."""
    return {"name": name, "in": "query", "schema": schema, **({"description": about} if about else {})}


_WORD = text(minLength=1, maxLength=LONGEST)
_BOOLEAN = {"type": "string", "enum": ["true", "false", "1", "0", ""]}
_ADDRESS: Schema = {
    "anyOf": [
        {"type": "string", "format": "ipv4"},
        {"type": "string", "format": "ipv6"},
        text(pattern=rf"^{_IPV4}/(?:3[0-2]|[12]?[0-9])$"),
        {"type": "string", "const": "unix"},
    ]
}
_NETWORK: Schema = {
    "anyOf": [
        {"type": "string", "format": "ipv4"},
        {"type": "string", "format": "ipv6"},
        text(pattern=rf"^{_IPV4}/24$"),
    ]
}
_FILTER: dict[str, tuple[Schema, str]] = {
    "user": (_WORD, "Name the client gave, or the one used upstream: exact without case, or a glob."),
    "ip": (_ADDRESS, "Address or network of the client; an IPv6 network as well."),
    "listener": (_WORD, "Name of a listener."),
    "upstream": (_WORD, "Name of an upstream."),
    "phase": ({"type": "string", "enum": list(PHASES)}, ""),
    "tls": (truth(), "Whether the client's leg has TLS."),
}
_IN_QUERY = [query(name, _BOOLEAN if name == "tls" else schema, about) for name, (schema, about) in _FILTER.items()]
_NOW = query("now", _BOOLEAN, "Do not wait for replies that are on their way.")
_REASON = text("For the log; 200 characters are kept.", minLength=1, maxLength=LONGEST)
_PLUGIN = query("plugin", _WORD, "Which plugin, where several ban.")


def limit(most: int, default: int) -> Schema:
    """How many."""
    return query("limit", {"type": "integer", "minimum": 1, "maximum": most, "default": default})


def place(name: str, about: str) -> Schema:
    """A part of the path."""
    schema = text(minLength=1, pattern="^[^/]+$")
    return {"name": name, "in": "path", "required": True, "description": about, "schema": schema}


_ID = place("id", "A session's id.")
_UPSTREAM = place("upstream", "Name of an upstream.")
_SERVER = place("server", "Host and port, as /v1/upstreams names them.")


def body(required: bool, schema: Schema) -> Schema:
    """JSON, and nothing else in it."""
    closed = {**schema, "additionalProperties": False}
    return {"required": required, "content": {"application/json": {"schema": closed}}}


_NOTHING = body(False, {"type": "object", "properties": {}})
_WORDS = {
    400: "Something in the request is wrong.",
    401: "On a TCP port: neither token nor client certificate.",
    403: "On a TCP port: not for this name, or not for pages from elsewhere.",
    404: "There is no such thing.",
    409: "Others look on already, as many as may.",
    413: "The body is too large.",
    415: "On a TCP port: a change that a form could have asked for.",
    422: "The new config cannot be used; nothing has changed.",
    503: "Something that is needed does not answer.",
    504: "A worker does not answer.",
}


def operation(
    name: str,
    summary: str,
    good: Schema,
    *faults: int,
    status: int = 200,
    parameters: Sequence[Schema] = (),
    said: Schema | None = None,
    content: str = "application/json",
) -> Schema:
    """One method of a path. ``faults`` beside those that every path has."""
    responses: dict[str, Any] = {str(status): {"description": summary, "content": {content: {"schema": good}}}}
    for fault in sorted({400, 401, 403, 415, 503, 504, *faults}):
        schema = {"allOf": [ref("Error"), ref("Reloaded")]} if fault == 422 else ref("Error")
        responses[str(fault)] = {
            "description": _WORDS[fault], "content": {"application/json": {"schema": schema}},
        }  # fmt: skip
    found: Schema = {"operationId": name, "summary": summary, "responses": responses}
    if parameters:
        found["parameters"] = list(parameters)
    if said is not None:
        found["requestBody"] = said
        responses["413"] = {
            "description": _WORDS[413], "content": {"application/json": {"schema": ref("Error")}},
        }  # fmt: skip
    return found


_WHICH = {name: schema for name, (schema, _) in _FILTER.items()}
_ANY = {"anyOf": [{"required": [name]} for name in _FILTER]}

PATHS: dict[str, dict[str, Schema]] = {
    "/v1/sessions": {
        "get": operation(
            "sessions", "The sessions that are open, page by page.", ref("Sessions"),
            parameters=[
                *_IN_QUERY, limit(MOST, PAGE),
                query("after", text(pattern=_CURSOR), "What the page before said as next."),
            ],
        ),
    },
    "/v1/sessions/{id}": {
        "get": operation("session", "All about one session.", ref("SessionDetails"), 404, parameters=[_ID]),
        "delete": operation(
            "endSession", "End a session: an idle one without a word, a busy one behind its reply.", ref("Kicked"), 404,
            parameters=[_ID, query("reason", _REASON), _NOW],
        ),
    },
    "/v1/sessions/{id}/kick": {
        "post": operation(
            "kickSession", "End a session, as DELETE does.", ref("Kicked"), 404, parameters=[_ID, _NOW],
            said=body(False, {"type": "object", "properties": {"reason": _REASON, "now": truth()}}),
        ),
    },
    "/v1/kick": {
        "post": operation(
            "kick", "End all sessions that are meant; at least one key must say which.", ref("Kicked"),
            parameters=[_NOW],
            said=body(True, {"type": "object", "properties": {**_WHICH, "reason": _REASON, "now": truth()}, **_ANY}),
        ),
    },
    "/v1/top": {
        "get": operation(
            "top", "Who uses most and who fails most, with bounds of the error.", ref("Top"),
            parameters=[
                query("since", {"type": "string", "enum": list(SINCE)}, "The start, or ten to twenty minutes ago."),
                limit(PLACES, _SHOWN),
            ],
        ),
    },
    "/v1/recent": {
        "get": operation(
            "recent", "Who was turned away lately.", table("", events=many(ref("Event")), missing=MISSING),
            parameters=[limit(KEPT, _SHOWN)],
        ),
    },
    "/v1/events": {
        "get": operation(
            "events", "A stream of server-sent events: one tick a second, its data is JSON.", text(),
            content="text/event-stream",
        ),
    },
    "/v1/tap": {
        "get": operation(
            "tap", "The transcript of sessions as it comes, without secrets: a JSON object on each line, without end.",
            ref("Line"), 404, 409, content="application/x-ndjson",
            parameters=[
                query("user", _WORD, "Sessions of this user; may be a glob. One of user, session, ip must be there."),
                query("session", _WORD, "This session; its end is the end of the answer."),
                query("ip", _WORD, "Sessions of this address or network."),
            ],
        ),
    },
    "/v1/upstreams": {
        "get": operation("upstreams", "All upstreams.", table("", upstreams=many(ref("Upstream")), missing=MISSING)),
    },
    "/v1/upstreams/{upstream}": {
        "get": operation(
            "upstream", "One upstream.", {"allOf": [ref("Upstream"), table("", missing=MISSING)]}, 404,
            parameters=[_UPSTREAM],
        ),
    },
    "/v1/upstreams/{upstream}/probe": {
        "post": operation(
            "probe", "Probe all its servers from all workers.", ref("Probes"), 404, parameters=[_UPSTREAM],
            said=_NOTHING,
        ),
    },
    **{
        f"/v1/upstreams/{{upstream}}/servers/{{server}}/{what}": {
            "post": operation(
                f"{what}Server", about, ref(schema), 404, parameters=[_UPSTREAM, _SERVER], said=_NOTHING
            ),
        }
        for what, about, schema in (
            ("drain", "No new logins for this server; its sessions go on.", "Drained"),
            ("undrain", "New logins for this server again.", "Drained"),
            ("probe", "Probe this server from all workers.", "Probes"),
        )
    },
    "/v1/bans": {
        "get": operation(
            "bans", "Who is banned.", table("", bans=many(ref("Ban")), missing=MISSING), 404, parameters=[_PLUGIN]
        ),
        "put": operation(
            "ban", "Ban an address, or one of the networks that are looked up at a login.",
            table("", network=text(), missing=MISSING), 404, parameters=[_PLUGIN],
            said=body(
                True,
                {
                    "type": "object",
                    "properties": {
                        "network": _NETWORK,
                        "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": MANUAL_LONGEST},
                        "reason": text("For who reads the list; 200 characters are kept."),
                        "plugin": _WORD,
                    },
                    "required": ["network", "seconds"],
                },
            ),
        ),
        "delete": operation(
            "unban", "Lift a ban.", table("", network=text(), removed=truth(), missing=MISSING), 404,
            parameters=[{**query("network", _NETWORK), "required": True}, _PLUGIN],
        ),
    },
    "/v1/config": {"get": operation("config", "The config in force, without its secrets.", ref("Config"))},
    "/v1/status": {"get": operation("status", "The process and its workers.", ref("Status"))},
    "/v1/reload": {
        "post": operation(
            "reload", "Read the config again; new sessions go by it.", ref("Reloaded"), 422, said=_NOTHING
        ),
    },
    "/v1/drain": {
        "post": operation(
            "drain", "Take no more sessions, let those that are open end, end the process.",
            table("", state={"type": "string", "const": "draining"}, sessions=count()), status=202, said=_NOTHING,
        ),
    },
    "/v1/openapi.json": {"get": operation("openapi", "This document.", {"type": "object"})},
}  # fmt: skip


def document() -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "popproxy",
            "version": __version__,
            "summary": "The admin listener of a POP3 proxy.",
            "description": "On a Unix socket its permissions say who may use this; on a TCP port a bearer token or a "
            "client certificate is needed. See docs/admin.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost"}],
        "security": [{"token": []}],
        "paths": PATHS,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def document_text() -> str:
    """The document as it is written to docs/."""
    told: Mapping[str, Any] = document()
    return json.dumps(told, indent=2, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document_text())
