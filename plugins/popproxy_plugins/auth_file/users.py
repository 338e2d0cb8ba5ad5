"""A users file in the shape of Dovecot's passwd-file: ``user:password:uid:gid:gecos:home:shell:extra fields``.

Only the name, the password and the extra fields are looked at; fields that mean nothing here (``userdb_...`` and all
that is not in FIELDS) are passed over. Pure but for the hash libraries; errors name the line.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

from popproxy.api import LineError, group_names, server_host
from popproxy_plugins.auth_file.schemes import Secret, parse

Network = IPv4Network | IPv6Network
Tls = Literal["off", "starttls", "implicit"]

FIELDS = (
    "allow_nets", "destuser", "disabled", "groups", "host", "nologin", "pass", "port", "ssl", "starttls", "tls",
    "upstream",
)  # fmt: skip
"""Extra fields that count. ``proxy`` and the like may be there: a ``host`` says it all."""

_LOCKED = re.compile(r"(?:\{CRYPT\})?(?:x|[*!].*)", re.IGNORECASE)
"""What stands for no password in passwd and shadow: crypt(3) makes nothing like it."""
_NO = ("n", "no", "f", "false", "0")


@dataclass(frozen=True, slots=True)
class User:
    """One line. What is None is as without the file; ``networks`` None: from everywhere."""

    name: str
    line: int
    secret: Secret | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    tls: Tls | None = None
    upstream: str | None = None
    destuser: str | None = None
    password: bytes | None = field(default=None, repr=False)
    networks: tuple[Network, ...] | None = None
    local: bool = True
    disabled: bool = False
    groups: tuple[str, ...] | None = None

    @property
    def sendable(self) -> bytes | None:
        """A password for the upstream that is known without the client."""
        if self.password is not None or self.secret is None:
            return self.password
        return self.secret.plain

    def welcome(self, client: str) -> bool:
        """Whether ``client``, an address or ``unix``, is in its networks."""
        if self.networks is None:
            return True
        if client == "unix":
            return self.local
        address = ip_address(client)
        return any(address in network for network in self.networks)


class Users:
    """All lines by name."""

    def __init__(self, users: Mapping[str, User], key: bytes, ignore_case: bool) -> None:
        self._users = users
        self._key = key
        self._ignore_case = ignore_case
        self._secrets = [user.secret for user in users.values() if user.secret is not None]
        self.plain = any(secret.plain is not None for secret in self._secrets)

    def __len__(self) -> int:
        return len(self._users)

    def spelled(self, name: str) -> str:
        """``name`` as names are compared."""
        return name.lower() if self._ignore_case else name

    def get(self, name: str) -> User | None:
        """The user of this name."""
        return self._users.get(self.spelled(name))

    def stand_in(self, name: str) -> Secret | None:
        """Somebody's secret, always the same one for ``name``: checking a password costs an unknown user as much time
        as it costs one of these. None when nobody has a secret."""
        if not self._secrets:
            return None
        number = digest(self._key, name.encode("utf-8", "surrogateescape"), sha256)
        return self._secrets[int.from_bytes(number) % len(self._secrets)]

    def mechanisms(self, passwords_behind: bool = False) -> frozenset[str]:
        """The mechanisms by which at least one user can log in, upstream included. ``passwords_behind``: the passwords
        that the file does not know are brought by another plugin."""
        users = [user for user in self._users.values() if passwords_behind or user.sendable is not None]
        able = [user.secret for user in users if user.secret is not None]
        found = {secret.scheme for secret in able if secret.verifier is not None}
        if any(secret.plain is not None for secret in able):
            found |= {"SCRAM-SHA-256", "SCRAM-SHA-1", "APOP", "CRAM-MD5"}
        return frozenset(found)


def read(
    data: bytes,
    *,
    scheme: str = "CRYPT",
    judged_here: bool = True,
    ignore_case: bool = True,
    upstreams: Container[str] | None = None,
    key: bytes = b"",
) -> Users:
    """The users of a file. Raises LineError, and ImportError when the library of a scheme is missing.

    ``scheme`` is that of passwords without braces; ``judged_here`` whether passwords are checked here; ``upstreams``
    are the names that ``upstream=`` may have (None: any); ``key`` chooses stand-ins.
    """
    users: dict[str, User] = {}
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            user = _user(line, number, scheme, judged_here)
            if user.upstream is not None and upstreams is not None and user.upstream not in upstreams:
                raise ValueError(f"there is no upstream {user.upstream!r} in the config")
        except ValueError as error:
            raise LineError(number, str(error)) from None
        name = user.name.lower() if ignore_case else user.name
        if name in users:
            raise LineError(number, f"{user.name!r} is on line {users[name].line} already: remove one of them")
        users[name] = user
    return Users(users, key, ignore_case)


def _user(line: str, number: int, scheme: str, judged_here: bool) -> User:
    if any(sign < " " and sign != "\t" for sign in line):
        raise ValueError("a control character: write a password with one as {PLAIN.b64}")
    name, *rest = line.split(":", 7)
    if not rest:
        raise ValueError("no colon: write user:password, or user: for one without a password")
    if not name or name != name.strip():
        raise ValueError("the user name is empty, or has a space at its end")
    none = not rest[0] or (scheme == "CRYPT" and _LOCKED.fullmatch(rest[0]) is not None)
    secret = None if none else parse(rest[0], scheme)
    given = _fields(rest[6]) if len(rest) == 7 else {}
    if not judged_here and "pass" in given:
        raise ValueError('pass= needs check = "here": else nobody would judge the client\'s password')
    host = _host(given["host"]) if given.get("host") else None
    if host is None and not {"port", "tls", "ssl", "starttls"}.isdisjoint(given):
        raise ValueError("port=, tls=, ssl= and starttls= need host=")
    nets = given.get("allow_nets")
    networks = None if nets is None else tuple(_network(part) for part in nets.split(",") if part and part != "local")
    destuser = given.get("destuser")
    password = given.get("pass")
    return User(
        name,
        number,
        secret,
        host,
        _port(given["port"]) if "port" in given else None,
        _tls(given),
        given.get("upstream") or None,
        None if destuser is None else _expanded(destuser, name),
        None if password is None else password.encode("utf-8", "surrogateescape"),
        networks,
        nets is None or "local" in nets.split(","),
        _flag(given, "disabled") or _flag(given, "nologin"),
        _groups(given["groups"]) if "groups" in given else None,
    )


def _fields(text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if name in FIELDS:
            if name in given:
                raise ValueError(f"{name}= is there twice")
            if name not in ("disabled", "nologin", "ssl", "starttls") and not value:
                raise ValueError(f"{name}= is empty" if equals else f"{name} needs a value: {name}=...")
            given[name] = value
    return given


def _flag(given: Mapping[str, str], name: str) -> bool:
    return name in given and given[name].lower() not in _NO


def _tls(given: Mapping[str, str]) -> Tls | None:
    """``tls=`` of ours; ``ssl=`` and ``starttls=`` of Dovecot, whose ``any-cert`` is TLS as well: whether certificates
    are verified is for the upstream's table to say."""
    tls = given.get("tls")
    if tls is not None and tls not in ("off", "starttls", "implicit"):
        raise ValueError(f"tls={tls[:40]}: write off, starttls or implicit")
    if tls is not None:
        return "off" if tls == "off" else "starttls" if tls == "starttls" else "implicit"
    if _flag(given, "ssl"):
        return "implicit"
    return "starttls" if _flag(given, "starttls") else None


def _host(host: str) -> str:
    try:
        return server_host(host)
    except ValueError as error:
        raise ValueError(f"host=: {error}") from None


def _groups(text: str) -> tuple[str, ...]:
    try:
        return group_names(text)
    except ValueError as error:
        raise ValueError(f"groups=: {error}") from None


def _port(port: str) -> int:
    if re.fullmatch(r"\d{1,5}", port, re.ASCII) is None or not 1 <= int(port) <= 65535:
        raise ValueError(f"port={port[:40]}: write a number from 1 to 65535")
    return int(port)


def _network(text: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"allow_nets: {text[:80]!r} is no network; write 192.0.2.0/24,2001:db8::1") from None


def _expanded(text: str, user: str) -> str:
    """``%u``, ``%n``, ``%d`` and ``%%`` as Dovecot has them."""
    local, _, domain = user.partition("@")
    values = {"u": user, "n": local, "d": domain, "%": "%"}

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"destuser= has %{match[1]}; there are %u, %n, %d and %%")
        return values[match[1]]

    expanded = re.sub(r"%(.?)", value, text)
    if not expanded:
        raise ValueError(f"destuser={text[:80]} is empty for this user")
    return expanded
