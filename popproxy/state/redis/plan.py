"""Where a Redis or Valkey is and how to speak to it, in plain values, and the URLs that say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

Kind = Literal["single", "unix", "sentinel", "cluster"]

FORMS = (
    "redis://host:port/database, rediss://host:port/database, unix:///path, "
    "redis+sentinel://host:port,host2:port/service/database, rediss+sentinel://..., "
    "redis+cluster://host:port,host2:port, rediss+cluster://..."
)
"""How a URL may look; ``user:password@`` may stand before the hosts."""

_PORT, _SENTINEL_PORT = 6379, 26379


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust the servers, and who we are. Without ``ca_file`` the system's authorities count. ``check_hostname``
    compares names and addresses: Sentinels and clusters tell addresses, which the certificates must hold then."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    check_hostname: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says. ``tls``: speak TLS. ``service`` is the Sentinels' name for their master."""

    kind: Kind
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    service: str = ""
    database: int = 0


@dataclass(frozen=True, slots=True)
class RedisPlan:
    """All that a RedisStore has to know. Times in seconds.

    ``place`` may hold user and password; those here go before them. Sentinels are spoken to with their own. ``prefix``
    stands before every key: stores with different ones do not see each other. ``timeout`` is for a connection to be
    made, and for a server's silence. ``lease``: a worker that was not heard of for so long holds nothing any more.
    """

    place: Place
    tls: Tls | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    prefix: str = "popproxy"
    timeout: float = 0.5
    lease: float = 30.0

    def __post_init__(self) -> None:
        if not self.prefix or set(self.prefix) & set("{}"):
            raise ValueError(f"prefix = {self.prefix!r}: write one or more characters, no braces")
        if not 0 < self.timeout < self.lease:
            raise ValueError(f"timeout = {self.timeout}, lease = {self.lease}: a lease lasts longer than a time-out")


def read_url(url: str) -> Place:
    """The Place that ``url`` names. Raises ValueError, which says what is wrong and never tells a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"no URL; write one of: {FORMS}") from None
    if parts.query or parts.fragment:
        raise ValueError("a URL with ? or #: options have keys of their own here; write % codes in user and password")
    username, password, hosts = _authority(parts)
    if parts.scheme == "unix":
        if hosts or not parts.path.strip("/"):
            raise ValueError("unix: write unix:///path/of/the/socket")
        return Place("unix", path=unquote(parts.path), username=username, password=password)
    family, _, kind = parts.scheme.partition("+")
    if family not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster") or parts.scheme.endswith("+"):
        raise ValueError(f"scheme {parts.scheme!r} is unknown; write one of: {FORMS}")
    nodes = _nodes(hosts, _SENTINEL_PORT if kind == "sentinel" else _PORT)
    path = [unquote(piece) for piece in parts.path.strip("/").split("/") if piece]
    service = ""
    if kind == "sentinel":
        if not path:
            raise ValueError("no service; write redis+sentinel://host:port/service, as in 'sentinel monitor service'")
        service = path.pop(0)
    elif not kind and len(nodes) > 1:
        raise ValueError("several hosts; write redis+sentinel:// or redis+cluster://, or one host")
    if len(path) > 1 or (path and not (path[0].isascii() and path[0].isdigit())):
        raise ValueError("the database is no number; write redis://host:port/0")
    database = int(path[0]) if path else 0
    if kind == "cluster" and database:
        raise ValueError("a cluster has database 0 only; leave it away")
    place: Kind = "sentinel" if kind == "sentinel" else "cluster" if kind == "cluster" else "single"
    return Place(place, nodes, "", family == "rediss", username, password, service, database)


def _authority(parts: SplitResult) -> tuple[str | None, str | None, str]:
    who, at, hosts = parts.netloc.rpartition("@")
    if not at:
        return None, None, hosts
    username, _, password = who.partition(":")
    return unquote(username) or None, unquote(password) or None, hosts


def _nodes(hosts: str, port: int) -> tuple[tuple[str, int], ...]:
    if not hosts:
        raise ValueError("no host; write redis://host:port")
    return tuple(_node(text, port) for text in hosts.split(","))


def _node(text: str, port: int) -> tuple[str, int]:
    host, colon, digits = text, "", ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, digits = rest[:1], rest[1:]
        if not bracket or (rest and colon != ":"):
            raise ValueError("an IPv6 address is not closed; write [2001:db8::1]:6379")
    elif ":" in text:
        host, colon, digits = text.partition(":")
    if not host:
        raise ValueError("no host; write redis://host:port")
    if not colon:
        return host, port
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536):
        raise ValueError(f"the port of {host} is no number from 1 to 65535")
    return host, int(digits)
