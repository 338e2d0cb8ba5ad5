"""What a session is born with: compiled by config, never changed, shared by all sessions of a generation."""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from popproxy.core.chain import Chain
from popproxy.core.conditions import Network
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.target import Target
from popproxy.wire.commands import Verb
from popproxy.wire.replies import ok

LegTls = Literal["off", "starttls", "implicit"]
Mechanism = Literal["auto", "user", "plain", "login", "scram-sha-256", "oauthbearer", "xoauth2"]


@dataclass(frozen=True, slots=True)
class UpstreamPolicy:
    """How the proxy speaks to one upstream. ``tls`` is what the server's URL asks for.

    ``mechanism``: ``auto`` takes what the upstream announces and the credentials can do (core/mechanisms.py), USER
    and PASS first. ``initial_response``:
    ``auto`` sends AUTH in one line when the upstream announces SASL and the line fits (RFC 5034), ``never``
    always in two steps, ``always`` in one line whatever its length. ``servers`` is how many it has; with ``sticky``
    a login's key decides which of them serves it. ``xclient``: whether a server that announces [XCLIENT] is told the
    client's address, or must be; ``forward`` are (key, value) told with it. ``tells``: a server may learn the client's
    address, by this or another way, and treat it accordingly.
    """

    name: str
    tls: LegTls = "starttls"
    mechanism: Mechanism = "auto"
    initial_response: Literal["auto", "never", "always"] = "auto"
    servers: int = 1
    sticky: bool = False
    xclient: Literal["off", "offered", "required"] = "off"
    forward: tuple[tuple[str, str], ...] = ()
    tells: bool = False


def _nonce() -> bytes:
    return urlsafe_b64encode(secrets.token_bytes(24))


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Everything a session decides by.

    ``verbs`` are the operator's declared verbs by upper-case name, ``opened`` the names of fenced verbs that are
    relayed. ``greeting`` is the text behind ``+OK``. ``implementation`` is announced in CAPA when not empty.
    ``xclient`` are the networks from which XCLIENT is believed.
    """

    listener: str
    upstreams: Mapping[str, UpstreamPolicy]
    default_upstream: str
    tls: LegTls = "off"
    auth_before_tls: bool = False
    greeting: str = "POP3 ready"
    implementation: str = ""
    bare_lf: bool = False
    pipelining: bool = True
    verbs: Mapping[bytes, Verb] = field(default_factory=dict)
    opened: frozenset[bytes] = frozenset()
    capabilities: frozenset[bytes] = frozenset()
    """Unknown capabilities of the upstream that are passed on."""
    chain: Chain = field(default_factory=Chain)
    xclient: tuple[Network, ...] = ()
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    decoy: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Of this the salts are made that SCRAM shows to users who do not exist; the same for ever, at best."""
    wall: Callable[[], float] = lambda: inf
    """Seconds since the epoch: no message arrived later. Without a clock none is too late."""
    nonce: Callable[[], bytes] = _nonce
    """Letters, digits, ``-`` and ``_`` that nobody can guess and that never come again: for challenges."""
    hello: bytes = field(init=False, repr=False)
    """The whole greeting of a client who is told nothing else in it."""
    target: Target = field(init=False, repr=False)
    """Where a login goes that no plugin routes."""
    ways: tuple[tuple[str, str], ...] = field(init=False, repr=False)
    """The upstreams to which a login may lead, each with its mechanism: the default one, or any when a plugin looks at
    logins, for it may route them."""

    def __post_init__(self) -> None:
        names = self.upstreams if self.chain.hooks["on_login"] else (self.default_upstream,)
        ways = tuple((name, self.upstreams[name].mechanism) for name in names if name in self.upstreams)
        object.__setattr__(self, "hello", ok(self.greeting))
        object.__setattr__(self, "target", Target(self.default_upstream))
        object.__setattr__(self, "ways", ways)
