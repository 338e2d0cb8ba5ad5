"""What popproxy runs: the config compiled to frozen values. One Plan is one generation.

``net`` makes sockets and TLS contexts of it, ``core`` gets a SessionPlan per listener. Nothing here is read again
from the file, and no repr shows a secret.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, SecretBytes, SecretStr

from popproxy.config.admin import Admin
from popproxy.config.listener import Certificate, Listener
from popproxy.config.models import Config, Protocol
from popproxy.config.overload import MOST, Share
from popproxy.config.shown import shown
from popproxy.config.store import Store
from popproxy.config.upstream import Upstream
from popproxy.config.urls import Bind, Server
from popproxy.config.workers import count
from popproxy.core.chain import Chain, Subscriber
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.plan import LegTls, SessionPlan, UpstreamPolicy
from popproxy.state.redis.plan import RedisPlan, Tls
from popproxy.wire.commands import Framing, declared

__all__ = [
    "AdminPlan",
    "Bind",
    "CertificatePlan",
    "HealthPlan",
    "ListenerPlan",
    "LogPlan",
    "OverloadPlan",
    "Plan",
    "Server",
    "StorePlan",
    "TlsPlan",
    "UpstreamPlan",
    "compile_plan",
    "state_directory",
]


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """A certificate chain and its key (None: in the same file), PEM. ``password`` of an encrypted key."""

    cert: Path
    key: Path | None = None
    password: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class TlsPlan:
    """TLS on the clients' leg. ``ciphers`` None is Mozilla's intermediate list for TLS 1.2.

    Without ``certificates`` a self-signed one is made and kept in ``self_signed_directory``. ``client_ca_file`` is
    there when clients are asked for certificates.
    """

    certificates: tuple[CertificatePlan, ...]
    minimum: Literal["TLSv1.2", "TLSv1.3"]
    ciphers: str | None
    self_signed_directory: Path
    verify_client: Literal["off", "optional", "required"] = "off"
    client_ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """A listener. ``proxy_protocol`` holds the trusted networks; when it is not empty, connections are accepted
    from these only and must begin with a PROXY header. ``limit`` is the number of connections open at once."""

    name: str
    bind: tuple[Bind, ...]
    tls: LegTls
    session: SessionPlan
    tls_context: TlsPlan
    proxy_protocol: tuple[IPv4Network | IPv6Network, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class HealthPlan:
    """When a server is out of rotation: ``fall`` and ``rise`` are counts, the others seconds; ``probe`` 0 is never."""

    fall: int = 3
    rise: int = 1
    backoff: float = 1.0
    longest: float = 30.0
    probe: float = 0.0


@dataclass(frozen=True, slots=True)
class UpstreamPlan:
    """An upstream. Each of ``servers`` says its own TLS; ``policy.tls`` is ``implicit`` or ``off`` when all do,
    else ``starttls``: required on every connection on which TLS is not on already.

    ``ca_file`` None is the system's store; ``server_name`` None is each server's host. ``max_sessions`` 0 is no
    bound; ``queue`` logins wait for a place, each ``queue_timeout`` seconds.
    """

    name: str
    servers: tuple[Server, ...]
    policy: UpstreamPolicy
    ca_file: Path | None
    verify: bool
    server_name: str | None
    client_certificate: CertificatePlan | None
    balance: Literal["first", "round_robin", "least_sessions", "sticky"] = "first"
    max_sessions: int = 0
    queue: int = 0
    queue_timeout: float = 5.0
    send_proxy: Literal["v1", "v2"] | None = None
    health: HealthPlan = HealthPlan()


@dataclass(frozen=True, slots=True)
class OverloadPlan:
    """From where on new connections are shed; None is never. ``lag`` in seconds, ``memory`` in octets or as a share of
    what there is, ``sockets`` as a share of the most descriptors."""

    lag: float | None = 2.0
    memory: int | Share | None = MOST
    sockets: Share | None = MOST


@dataclass(frozen=True, slots=True)
class StorePlan:
    """Where the store is. ``path`` is there for sqlite, ``redis`` for redis. ``lease`` in seconds."""

    use: Literal["memory", "sqlite", "redis"] = "memory"
    path: Path | None = None
    redis: RedisPlan | None = None
    lease: float = 30.0


@dataclass(frozen=True, slots=True)
class AdminPlan:
    """Where the admin listener is. ``spare`` is a Unix socket beside ``binds`` that have none; that it cannot be opened
    is no failure. The rest is about ``binds`` that are ports: what opens /v1 there (a ``token``, client certificates of
    ``client_ca_file``), their TLS, and further names by which they may be asked."""

    binds: tuple[Bind, ...]
    spare: Bind | None = None
    token: SecretStr | None = None
    certificate: CertificatePlan | None = None
    client_ca_file: Path | None = None
    hosts: tuple[str, ...] = ()

    @property
    def socket(self) -> Path | None:
        """The Unix socket by which the command line asks."""
        every = self.binds if self.spare is None else (*self.binds, self.spare)
        return next((Path(bind.path) for bind in every if bind.family == "unix"), None)


@dataclass(frozen=True, slots=True)
class LogPlan:
    """How the log is written; ``file`` None is standard error, ``salt`` None a new one at every start."""

    format: Literal["json", "console", "journald"]
    level: Literal["debug", "info", "warning", "error"]
    file: Path | None
    users: Literal["plain", "hashed", "none"]
    salt: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything popproxy runs by. ``plugins`` are in the order of their tables; ``hash`` tells configs apart and
    covers no secret; ``source`` is the file, or None when the config came from the command line."""

    listeners: tuple[ListenerPlan, ...]
    upstreams: Mapping[str, UpstreamPlan]
    default_upstream: str
    tls: TlsPlan
    admin: AdminPlan | None
    log: LogPlan
    plugins: tuple[Subscriber, ...]
    timeouts: Timeouts
    limits: Limits
    hash: str
    source: Path | None = None
    overload: OverloadPlan = OverloadPlan()
    exemplars: bool = False
    store: StorePlan = StorePlan()
    workers: int = 1
    """Processes that serve. Bounds above are for all of them together until config.workers.divided()."""
    shown: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The config as it may be shown: see config.shown."""


def compile_plan(config: Config, plugins: Sequence[Subscriber] = (), source: Path | None = None) -> Plan:
    """The plan of a config that passed all checks. All listeners share one chain of ``plugins``."""
    tls = TlsPlan(
        tuple(_certificate(certificate) for certificate in config.tls.certificates),
        config.tls.minimum,
        config.tls.ciphers,
        config.tls.self_signed_directory or state_directory(),
    )
    upstreams = {name: _upstream(name, upstream) for name, upstream in config.upstream.items()}
    default = config.default_upstream or next(iter(upstreams))
    timeouts, limits = Timeouts(**config.timeouts.model_dump()), Limits(**config.limits.model_dump())
    shared = SessionPlan(
        wall=time.time,
        listener="",
        upstreams={name: upstream.policy for name, upstream in upstreams.items()},
        default_upstream=default,
        chain=Chain(plugins),
        limits=limits,
        timeouts=timeouts,
        **_protocol(config.protocol),
    )
    taken = {(bind.host, bind.port) for listener in config.listener for bind in listener.bind}
    return Plan(
        listeners=tuple(_listener(listener, shared, tls, taken) for listener in config.listener),
        upstreams=upstreams,
        default_upstream=default,
        tls=tls,
        admin=_admin(config.admin),
        log=LogPlan(config.log.format, config.log.level, config.log.file, config.log.users, config.log.salt),
        plugins=tuple(plugins),
        timeouts=timeouts,
        limits=limits,
        hash=_hash(config, plugins),
        shown=shown(config, plugins),
        source=source,
        exemplars=config.metrics.exemplars,
        overload=OverloadPlan(config.overload.lag, config.overload.memory, config.overload.sockets),
        store=_store(config.store),
        workers=count(config.workers),
    )


def state_directory() -> Path:
    """Where popproxy keeps what it makes: $STATE_DIRECTORY, /var/lib/popproxy, or a folder of the user's."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    system = Path("/var/lib/popproxy")
    nearest = system if system.exists() else system.parent
    if os.access(nearest, os.W_OK | os.X_OK):
        return system
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "popproxy"


SOCKET = Path("/run/popproxy/admin.sock")
"""Where the admin listener's Unix socket is when nothing else is said."""


def runtime_socket() -> Path | None:
    """``admin.sock`` in $RUNTIME_DIRECTORY, else in /run/popproxy; None when that is no directory of ours."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    path = Path(given) / SOCKET.name if given else SOCKET
    return path if path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK) else None


def admin_plan(binds: Sequence[Bind], mode: int = 0o660) -> AdminPlan | None:
    """The admin listener on ``binds``, and on the Unix socket of the runtime directory when they have none."""
    spare = None if any(bind.family == "unix" for bind in binds) else runtime_socket()
    if spare is None and not binds:
        return None
    return AdminPlan(
        tuple(replace(bind, mode=mode) for bind in binds),
        None if spare is None else Bind("unix", path=str(spare), mode=mode, v6only=False),
    )


def _admin(admin: Admin | None) -> AdminPlan | None:
    if admin is None:
        return admin_plan(())
    made = admin_plan(admin.bind, admin.unix_mode) if admin.bind else None
    if made is None:
        return None
    return replace(
        made,
        token=admin.token,
        certificate=None if admin.cert is None else CertificatePlan(admin.cert, admin.key),
        client_ca_file=admin.client_ca_file,
        hosts=admin.hosts,
    )


def _certificate(certificate: Certificate) -> CertificatePlan:
    return CertificatePlan(certificate.cert, certificate.key, certificate.password)


def _store(store: Store) -> StorePlan:
    path = (store.path or state_directory() / "store.sqlite") if store.use == "sqlite" else None
    return StorePlan(store.use, path, _redis(store) if store.use == "redis" else None, store.lease)


def _redis(store: Store) -> RedisPlan:
    if store.url is None:
        raise ValueError("a store in Redis needs its url; checks.store says so")
    shown = store.client_certificate
    tls = Tls(
        str(store.ca_file) if store.ca_file else None,
        str(shown.cert) if shown else None,
        str(shown.key or shown.cert) if shown else None,
        store.verify_name,
    )
    return RedisPlan(
        place=store.url,
        tls=tls if store.url.tls else None,
        username=store.username,
        password=_revealed(store.password),
        sentinel_username=store.sentinel_username,
        sentinel_password=_revealed(store.sentinel_password),
        prefix=store.prefix,
        timeout=store.timeout,
        lease=store.lease,
    )


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _upstream(name: str, upstream: Upstream) -> UpstreamPlan:
    servers, health = upstream.group, upstream.health
    kinds = {server.tls for server in servers}
    return UpstreamPlan(
        name=name,
        servers=servers,
        policy=UpstreamPolicy(
            name,
            kinds.pop() if len(kinds) == 1 else "starttls",
            upstream.mechanism,
            upstream.initial_response,
            servers=len(servers),
            sticky=upstream.balance == "sticky" and len(servers) > 1,
            xclient=upstream.xclient,
            forward=tuple(upstream.forward.items()),
            tells=upstream.send_proxy is not None or upstream.xclient != "off",
        ),
        ca_file=upstream.ca_file,
        verify=upstream.verify,
        server_name=upstream.server_name,
        client_certificate=_certificate(upstream.client_certificate) if upstream.client_certificate else None,
        balance=upstream.balance,
        max_sessions=upstream.max_sessions or 0,
        queue=upstream.queue,
        queue_timeout=upstream.queue_timeout,
        send_proxy=upstream.send_proxy,
        health=HealthPlan(health.fall, health.rise, health.backoff, health.longest, health.probe or 0.0),
    )


def _protocol(protocol: Protocol) -> dict[str, Any]:
    verbs = [declared(verb.name.encode("ascii"), Framing(verb.framing)) for verb in protocol.verbs]
    return {
        "verbs": {verb.name: verb for verb in verbs},
        "opened": frozenset(name.encode("ascii") for name in protocol.open),
        "capabilities": frozenset(name.encode("ascii") for name in protocol.capabilities),
        "bare_lf": protocol.bare_lf,
        "pipelining": protocol.pipelining,
        "implementation": protocol.implementation,
        **({"decoy": protocol.decoy_secret.get_secret_value().encode()} if protocol.decoy_secret else {}),
    }


def _listener(listener: Listener, shared: SessionPlan, tls: TlsPlan, taken: set[tuple[str, int]]) -> ListenerPlan:
    return ListenerPlan(
        name=listener.name,
        bind=tuple(
            replace(
                bind,
                mode=listener.unix_mode,
                v6only=":" in bind.host and (bind.host != "::" or ("0.0.0.0", bind.port) in taken),
            )
            for bind in listener.bind
        ),
        tls=listener.tls,
        session=replace(
            shared,
            listener=listener.name,
            tls=listener.tls,
            auth_before_tls=listener.auth_before_tls == "allow",
            greeting=listener.greeting,
            xclient=listener.xclient.trusted if listener.xclient else (),
        ),
        tls_context=replace(tls, verify_client=listener.verify_client, client_ca_file=listener.client_ca_file),
        proxy_protocol=listener.proxy_protocol.trusted if listener.proxy_protocol else (),
        limit=listener.max_connections,
    )


def _hash(config: Config, plugins: Sequence[Subscriber]) -> str:
    """12 hexadecimal digits of SHA-256 over the normalized config. Secrets count as present, not by value."""
    plain = {
        "config": _plain(config.model_copy(update={"plugin": ()})),
        "plugins": [
            [s.name, type(s.plugin).__qualname__, s.fail.value, s.deadline, repr(s.when), _plain(s.plugin.config)]
            for s in plugins
        ],
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: object) -> object:
    """``value`` for JSON, the same in every process."""
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, SecretStr | SecretBytes):
        return "<secret>"
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item) for item in value]
    if isinstance(value, frozenset | set):
        return sorted(json.dumps(_plain(item), sort_keys=True) for item in value)
    return repr(value.value) if isinstance(value, Enum) else repr(value)
