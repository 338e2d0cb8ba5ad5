"""The options of the plugin."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from popproxy.api import Header, PluginConfig, ReadableFile
from popproxy_plugins.spam.actions import Action
from popproxy_plugins.spam.verdict import SCORE_LIMIT
from popproxy_plugins.spam.written import NAMES

DEFAULT_SERVERS = {"rspamd": ("http://127.0.0.1:11333",), "spamd": ("127.0.0.1:783",)}
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:/\[\]\s@]+):(\d{1,5})\Z")
_OF_HEADERS = ("read", "trust", "flag_score")
_OF_SCANNERS = ("servers", "send", "max_size", "scans", "queue", "cache", "cache_seconds", "top")
_OF_RSPAMD = ("password", "ca_file")


class Fields(PluginConfig):
    """Names of the fields that are written. Fields of these names that came with the message are taken away."""

    flag: str = Field(default="X-Spam-Flag", description="`YES` or `NO`; empty: not written")
    score: str = Field(default="X-Spam-Score", description="the score; empty: not written")
    status: str = Field(
        default="X-Spam-Status",
        description="`Yes` or `No` with score, threshold and tests, or why the message was not scanned; empty: not "
        "written",
    )

    @field_validator("flag", "score", "status")
    @classmethod
    def _is_name(cls, name: str) -> str:
        return name and check_name(name)


class SpamConfig(PluginConfig):
    """Where verdicts come from, and what is done with them."""

    source: Literal["headers", "rspamd", "spamd"] = Field(
        default="headers",
        description="who judges: `headers` (the upstream did, and wrote it into the header), `rspamd`, or `spamd` "
        "(SpamAssassin)",
    )
    actions: tuple[Action, ...] = Field(
        default=(Action(at="spam"),), description="what is done from which score on, by rising score"
    )
    fields: Fields = Field(default=Fields(), description="names of the fields that are written")
    symbols: int = Field(default=200, ge=0, le=800, description="octets of the names of tests in the status field")

    read: tuple[str, ...] = Field(
        default=NAMES, description="`headers`: names of the fields that hold the upstream's verdict"
    )
    trust: int = Field(
        default=1, ge=1, le=100, description="`headers`: how many of the topmost fields of each name are believed"
    )
    flag_score: float = Field(
        default=5.0, description="`headers`: the score of a message that is called spam without a number"
    )

    servers: tuple[str, ...] = Field(
        default=(),
        description="the scanners, the first one that works is used: `http://host:port`, `https://host:port` or "
        "`unix:/path` for rspamd (default `http://127.0.0.1:11333`), `host:port` or `unix:/path` for spamd (default "
        "`127.0.0.1:783`)",
    )
    password: SecretStr | None = Field(default=None, description="rspamd's password")
    ca_file: ReadableFile | None = Field(
        default=None, description="CA certificates for `https`; the system's when it is not given"
    )
    send: tuple[Literal["from", "rcpt", "deliver_to", "user", "ip"], ...] | None = Field(
        default=None,
        description="what a scanner is told beside the message; rspamd: `from`, `rcpt`, `deliver_to`, `user`, `ip`, "
        'default `["from", "rcpt", "deliver_to"]`; spamd: `user`, default nothing',
    )
    max_size: int = Field(
        default=4 << 20, ge=1024, description="octets of the largest message that is scanned"
    )
    scans: int = Field(default=8, ge=1, le=1000, description="scans at the same time, per worker")
    queue: int = Field(default=64, ge=0, le=100_000, description="messages that may wait for a scan, per worker")
    cache: int = Field(default=20_000, ge=0, description="verdicts that are kept, per worker; 0: none")
    cache_seconds: float = Field(default=86_400.0, ge=1.0, description="how long a verdict is kept")
    top: Literal["scan", "unscanned"] = Field(
        default="scan",
        description="TOP of a message whose verdict is not known: `scan` retrieves and scans the whole message, "
        "`unscanned` shows it without a verdict",
    )

    @field_validator("read")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError('no name: write at least one, like "X-Spam-Flag"')
        return tuple(check_name(name) for name in names)

    @field_validator("flag_score")
    @classmethod
    def _is_score(cls, score: float) -> float:
        if not abs(score) <= SCORE_LIMIT:
            raise ValueError(f"{score} is no score: write a number like 5.0")
        return score

    @field_validator("actions")
    @classmethod
    def _rise(cls, actions: tuple[Action, ...]) -> tuple[Action, ...]:
        if not actions:
            raise ValueError("no action: write at least one, like { at = 5.0 }")
        scores = [action.at for action in actions if action.at != "spam"]
        if scores != sorted(scores):
            raise ValueError("write the actions by rising score: the last one that is reached is the one that counts")
        return actions

    @model_validator(mode="after")
    def _fits_the_source(self) -> SpamConfig:
        foreign = {"headers": _OF_SCANNERS + _OF_RSPAMD, "rspamd": _OF_HEADERS, "spamd": _OF_HEADERS + _OF_RSPAMD}
        given = [key for key in foreign[self.source] if key in self.model_fields_set]
        if given:
            raise ValueError(f'source = "{self.source}" has no use for {", ".join(given)}: leave it out')
        for server in self.servers:
            check_server(self.source, server)
        if "servers" in self.model_fields_set and not self.servers:
            raise ValueError("servers = [] leaves nobody to ask: name one, or leave servers out")
        if self.source == "spamd" and set(self.send or ()) - {"user"}:
            raise ValueError('spamd is told the user or nothing: write send = ["user"] or leave send out')
        return self

    @property
    def asked(self) -> tuple[str, ...]:
        """The servers, those of the source when none are named."""
        return self.servers or DEFAULT_SERVERS.get(self.source, ())

    @property
    def told(self) -> tuple[str, ...]:
        """What a scanner is told."""
        return ("from", "rcpt", "deliver_to") if self.send is None and self.source == "rspamd" else self.send or ()

    @property
    def ends(self) -> bool:
        """Whether any action refuses or replaces a message."""
        return any(action.replace or action.refuse for action in self.actions)


def check_name(name: str) -> str:
    """``name``, or ValueError when it is not the name of one header field."""
    Header.check(name)
    if any(sign in name for sign in "*?["):
        raise ValueError(f"{name!r} is a glob; write one name, like X-Spam-Flag")
    return name


def check_server(source: str, server: str) -> None:
    """ValueError for what is no address of a scanner."""
    if server.startswith("unix:/"):
        return
    if source == "spamd":
        match = _HOST.match(server)
        if match is None or not 0 < int(match[1]) < 65536:
            raise ValueError(f"{server!r} is no address of spamd: write host:port, [v6]:port or unix:/path")
        return
    if not _is_base(server):
        raise ValueError(f"{server!r} is no address of rspamd: write http://host:port, https://host:port or unix:/path")


def _is_base(url: str) -> bool:
    """Whether ``url`` is scheme, host and port, and nothing else."""
    try:
        parts = urlsplit(url)
        host = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return host and not (parts.username or parts.query or parts.fragment) and parts.path in ("", "/")
