"""The whole config as pydantic models; each description is the documentation of its key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema

from popproxy.api.options import shown
from popproxy.config.admin import Admin as Admin
from popproxy.config.budgets import Limits, Timeouts
from popproxy.config.listener import Listener, Tls
from popproxy.config.overload import Overload
from popproxy.config.problems import Wrong
from popproxy.config.secrets import Secret
from popproxy.config.store import Store
from popproxy.config.upstream import Upstream
from popproxy.config.values import Duration, LineText, Many, Model, Name, Network, PathText, Word
from popproxy.config.workers import Workers
from popproxy.core.announce import RELAYED
from popproxy.wire.commands import FENCEABLE, VERBS


class When(Model):
    """For which sessions a plugin is in the chain. All keys that are given must hold; within a key one match."""

    user: Many[str] = Field(
        default=(),
        examples=[["*@archive.example.com"]],
        description="Globs (`*`, `?`, `[...]`) for the user name as the client gave it, without case.",
    )
    domain: Many[str] = Field(
        default=(),
        examples=[["example.com"]],
        description="Domains of the user name as the client gave it: what stands behind its last `@`, without case.",
    )
    network: Many[Network] = Field(
        default=(), examples=[["192.0.2.0/24", "2001:db8::/32"]], description="Networks of the client's address."
    )
    listener: Many[Name] = Field(default=(), examples=[["pop3s"]], description="Names of listeners.")
    tls: bool | None = Field(default=None, examples=[True], description="Whether the client's leg has TLS.")


_USE = re.compile(r"[A-Za-z0-9_.-]+(?::[A-Za-z_][A-Za-z0-9_.]*)?")


def plugin_use(value: object) -> str:
    """What ``use`` may hold. Raises Wrong."""
    if not isinstance(value, str) or _USE.fullmatch(value) is None:
        raise Wrong(f"{shown(value)} names no plugin", 'write its name, or "package.module:Class" for your own')
    return value


Use = Annotated[str, PlainValidator(plugin_use), WithJsonSchema({"type": "string", "pattern": f"^{_USE.pattern}$"})]


class PluginTable(Model):
    """A plugin. Write one `[[plugin]]` table for each, in the order in which requests pass them (replies and
    messages pass them in reverse). All other keys are the plugin's own options."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, Any]

    use: Use = Field(
        examples=["headers", "mypackage.mymodule:MyPlugin"],
        description="Which plugin: the name under which it is installed, or `package.module:Class` for your own.",
    )
    name: Word | None = Field(
        default=None,
        examples=["headers_outside"],
        description="Unique name, in logs and metric labels. Without it, that of `use`. Needed when a plugin is used "
        "twice.",
    )
    when: When | None = Field(
        default=None,
        examples=[{"domain": ["example.com"], "tls": True}],
        description="For which sessions the plugin is in the chain. Without it, for all.",
    )
    fail: Literal["open", "closed"] | None = Field(
        default=None,
        examples=["closed"],
        description="What a failure of the plugin means: `open` goes on without it, `closed` refuses with "
        "`-ERR [SYS/TEMP]`. Without it, what the plugin declares.",
    )
    deadline: Duration | None = Field(
        default=None, examples=["5s"], description="Time for one call of an async hook. Without it, `timeouts.hook`."
    )

    @property
    def called(self) -> str:
        """The name that is in force."""
        return self.name or default_name(self.use)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Options may hold secrets: only their names are shown."""
        for name, value in super().__repr_args__():
            yield name, value if name in type(self).model_fields else ...


def default_name(use: str) -> str:
    """The name of a plugin table that has none: ``headers``; ``MyPlugin`` of ``package.module:MyPlugin``."""
    return re.sub(r"\W", "_", use.rpartition(":")[2])


class Metrics(Model):
    """What `/metrics` shows beside the metrics themselves."""

    exemplars: bool = Field(
        default=False,
        examples=[True],
        description="Whether OpenMetrics names the session of the last failed login and of the last command above one "
        "second (`session_id`, as in the log). Prometheus keeps it with `--enable-feature=exemplar-storage`.",
    )


class Log(Model):
    """The log: one line per session and one per event."""

    format: Literal["json", "console", "journald"] = Field(
        default="json",
        description="One JSON object per line, plain text, or systemd's journal with a field of its own for each of "
        "an event's (`journalctl -t popproxy POPPROXY_SESSION=...`).",
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important level that is written."
    )
    file: PathText | None = Field(
        default=None,
        examples=["/var/log/popproxy/popproxy.log"],
        description="Where it is written. Without it, standard error (which systemd keeps in the journal).",
    )
    users: Literal["plain", "hashed", "none"] = Field(
        default="plain",
        description="How user names are written: as they are, as a hash that tells them apart, or not at all. In the "
        "log: `popproxy who`, `top` and `tap` name users to whoever may ask the admin listener.",
    )
    salt: Secret | None = Field(
        default=None,
        examples=[{"file": "/etc/popproxy/salt"}],
        description='With `users = "hashed"`: what the hashes are made with. Who knows it can look for the hash of a '
        "name; without it nobody can try names. Without this key it is random at every start and the same in all "
        "workers: hashes tell users apart until the restart. A secret.",
    )


_VERB = re.compile(r"[!-~]{1,40}")


def _verb(value: object) -> str:
    name = value.upper() if isinstance(value, str) else ""
    if _VERB.fullmatch(name) is None:
        raise Wrong(f"{shown(value)} is no verb", 'write a word of 1 to 40 printable ASCII characters, like "XFOO"')
    if name == "XTND" or name.encode("ascii") in VERBS:
        hint = f'write it in open = ["{name}"]' if name in FENCEABLE else "leave it out"
        raise Wrong(f"{name} is known already", hint)
    return name


def _open(value: object) -> str:
    name = " ".join(value.upper().split()) if isinstance(value, str) else ""
    if name in FENCEABLE:
        return name
    if name.encode("utf-8") in VERBS:
        raise Wrong(f"{name} is never fenced", "leave it out")
    raise Wrong(
        f"{shown(value)} is no fenced verb",
        f"write one of {', '.join(FENCEABLE)}; declare a verb of your own in protocol.verbs",
    )


OWN_CAPABILITIES = frozenset(
    ("PIPELINING", "RESP-CODES", "AUTH-RESP-CODE", "USER", "SASL", "STLS", "IMPLEMENTATION")
) | {name.decode("ascii") for name in RELAYED}
"""Capabilities that popproxy decides on itself."""


def _capability(value: object) -> str:
    name = value.upper() if isinstance(value, str) else ""
    if _VERB.fullmatch(name) is None:
        raise Wrong(f"{shown(value)} is no capability", 'write one word without parameters, like "X-FEATURE"')
    if name in OWN_CAPABILITIES:
        raise Wrong(f"{name} is decided on by popproxy itself", "leave it out")
    return name


_TOKEN = WithJsonSchema({"type": "string", "pattern": f"^{_VERB.pattern}$"})
VerbName = Annotated[str, PlainValidator(_verb), _TOKEN]
CapabilityName = Annotated[str, PlainValidator(_capability), _TOKEN]
Fenced = Annotated[str, PlainValidator(_open), WithJsonSchema({"type": "string", "enum": list(FENCEABLE)})]


class DeclaredVerb(Model):
    """A verb that popproxy does not know, for TRANSACTION."""

    name: VerbName = Field(examples=["XFOO"], description="The verb.")
    framing: Literal["single", "multi", "listing"] = Field(
        examples=["single"],
        description="What follows `+OK`: nothing, a multi-line reply, or a multi-line reply only when the command has "
        "no argument.",
    )


class Protocol(Model):
    """What of POP3 is open beyond the standard, and how strict the proxy is."""

    open: Many[Fenced] = Field(
        default=(),
        examples=[["LAST", "XTND XLST"]],
        description=f"Fenced verbs that are relayed. They are: {', '.join(f'`{name}`' for name in FENCEABLE)}.",
    )
    verbs: Many[DeclaredVerb] = Field(
        default=(),
        examples=[[{"name": "XFOO", "framing": "single"}]],
        description="Verbs unknown to popproxy that are relayed, with the framing of their replies. A wrong framing "
        "stalls or breaks sessions.",
    )
    capabilities: Many[CapabilityName] = Field(
        default=(),
        examples=[["X-FEATURE"]],
        description="Capabilities unknown to popproxy that are announced when the upstream announces them.",
    )
    bare_lf: bool = Field(
        default=False, description="Whether clients may end commands with LF alone. RFC 1939 demands CRLF."
    )
    pipelining: bool = Field(
        default=True, description="Whether PIPELINING is announced and used when the upstream announces it."
    )
    implementation: LineText = Field(
        default="",
        examples=["popproxy"],
        description="Text of the capability IMPLEMENTATION. Empty: not announced.",
    )
    decoy_secret: Secret | None = Field(
        default=None,
        examples=[{"file": "/etc/popproxy/decoy"}],
        description="Makes the salts that SCRAM shows to users who do not exist, so that nobody can tell them from "
        "others. Without it these salts change at every start, and are different on every proxy. A secret.",
    )


class Config(Model):
    """A config file."""

    model_config = ConfigDict(title="popproxy.toml")

    workers: Workers = Field(
        default=1,
        examples=["auto", 4],
        description="How many processes serve: 1 to 64, or `auto` for one on each processor that popproxy may use. "
        "`max_connections`, `max_sessions`, `queue` and `overload.memory` hold for all of them together: they are "
        "divided, rounded up; what `limits` bounds and a store in memory are each one's own. Read at the start only, "
        "see [running.md](running.md).",
    )
    listener: Many[Listener] = Field(min_length=1, description="Where clients connect.")
    tls: Tls = Field(default_factory=Tls, description="TLS on the clients' leg.")
    upstream: dict[Name, Upstream] = Field(min_length=1, description="POP3 servers, by name.")
    default_upstream: Name | None = Field(
        default=None,
        examples=["main"],
        description="The upstream of every login that no plugin routes elsewhere. Needed when there are several.",
    )
    plugin: Many[PluginTable] = Field(default=(), description="Plugins, in order.")
    admin: Admin | None = Field(default=None, description="The listener for metrics, health and administration.")
    metrics: Metrics = Field(default_factory=Metrics, description="Options of the metrics.")
    log: Log = Field(default_factory=Log, description="The log.")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="Bounds in time.")
    limits: Limits = Field(default_factory=Limits, description="Bounds in octets and counts.")
    store: Store = Field(default_factory=Store, description="What all workers know together.")
    overload: Overload = Field(default_factory=Overload, description="When new connections are shed.")
    protocol: Protocol = Field(default_factory=Protocol, description="What of POP3 is open.")
