"""The spellings of addresses: server URLs, listen URLs, bind addresses.

``pop3s`` (curl) and ``pops`` (mutt) mean implicit TLS; ``pop3`` and ``pop`` mean STLS, required; what travels in
clear must be written out as ``pop3+clear``. Parsers raise Wrong, whose text never repeats user information.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Literal

from pydantic import PlainValidator, WithJsonSchema

from popproxy.api.options import Wrong, shown
from popproxy.core.plan import LegTls

SCHEMES: dict[str, tuple[LegTls, int]] = {
    "pop3s": ("implicit", 995),
    "pops": ("implicit", 995),
    "pop3": ("starttls", 110),
    "pop": ("starttls", 110),
    "pop3+clear": ("off", 110),
}
"""Scheme to what it asks of TLS, and its port."""

_CHOICE = "pop3s://{0} (TLS), pop3://{0} (STLS required) or pop3+clear://{0} (no TLS)"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_UNTIL_PATH = re.compile(r"[/?#]")
_PORT = re.compile(r"\d{1,5}")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NUMERIC = re.compile(r"[\d.]+")


@dataclass(frozen=True, slots=True)
class Server:
    """One server of an upstream. ``host`` is a name or an address without brackets; ``url`` is normalized.

    ``weight`` is its share in balancing, ``max_sessions`` how many it gets at once, 0 for no bound.
    """

    host: str
    port: int
    tls: LegTls
    url: str
    weight: int = 1
    max_sessions: int = 0

    def __str__(self) -> str:
        """As it is written in the config; weight and bound are keys of their own."""
        return self.url


@dataclass(frozen=True, slots=True)
class Bind:
    """Where a listener listens. ``inet``: ``host`` is an IP address, port 0 takes any free one.

    ``unix``: ``path`` is absolute, ``mode`` its permissions. ``v6only`` asks for IPV6_V6ONLY: false for ``::``,
    which then takes IPv4 as well, unless the same port is bound on 0.0.0.0 too.
    """

    family: Literal["inet", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""
    mode: int = 0o660
    v6only: bool = True

    def __str__(self) -> str:
        if self.family == "unix":
            return f"unix:{self.path}"
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """``host`` as it stands in an address with a port."""
    return f"[{host}]" if ":" in host else host


def parse_server(value: object) -> Server:
    """The server of an upstream URL. Raises Wrong."""
    scheme, authority = _split(value, "pop3s://mail.example.com")
    tls, standard = SCHEMES[scheme]
    host, port = _authority(authority, standard, scheme)
    if port == 0:
        raise Wrong("port 0 names no server", f"write {scheme}://{bracketed(host)}")
    host = _host(host)
    return Server(host, port, tls, server_url(host, port, tls))


def parse_listen(value: object) -> tuple[LegTls, Bind]:
    """What ``--listen`` asks for: ``pop3s://127.0.0.1:9995``. Raises Wrong."""
    scheme, authority = _split(value, "pop3s://127.0.0.1:9995")
    tls, standard = SCHEMES[scheme]
    host, port = _authority(authority, standard, scheme)
    return tls, Bind("inet", _address(host, f"{scheme}://", port), port, v6only=False)


def parse_bind(value: object) -> Bind:
    """``[::]:995``, ``127.0.0.1:110`` or ``unix:/run/popproxy/pop3.sock``. Raises Wrong."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is no address", 'write "[::]:995", "127.0.0.1:110" or "unix:/path"')
    if value.startswith("unix:"):
        return _unix(value.removeprefix("unix:"))
    if "://" in value or "@" in value:
        raise Wrong("a URL cannot be bound", 'write only the address, like "[::]:995", and the TLS in tls = "..."')
    if value.startswith("/"):
        raise Wrong(f"{shown(value)} is a path", f'write "unix:{value}"')
    if value.isdigit():
        raise Wrong(f"{shown(value)} names no address", f'write "[::]:{value}" for all addresses')
    host, port = _authority(value, None, "")
    return Bind("inet", _address(host, "", port), port, v6only=False)


BindAddress = Annotated[Bind, PlainValidator(lambda value: parse_bind(value)), WithJsonSchema({"type": "string"})]
ServerUrl = Annotated[
    Server,
    PlainValidator(lambda value: parse_server(value)),
    WithJsonSchema({"type": "string", "pattern": r"^(?:pop3s|pops|pop3|pop|pop3\+clear)://[^/?#@]+/?$"}),
]


def server_url(host: str, port: int, tls: LegTls) -> str:
    """The normalized URL of a server."""
    scheme = {"implicit": "pop3s", "starttls": "pop3", "off": "pop3+clear"}[tls]
    return f"{scheme}://{bracketed(host)}:{port}"


def _split(value: object, example: str) -> tuple[str, str]:
    """Scheme in lower case and authority of a URL that has nothing else."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is no URL", f'write a string like "{example}"')
    found = _URL.fullmatch(value)
    if found is None:
        host = "mail.example.com" if "@" in value or not value.isprintable() else value.partition("/")[0]
        raise Wrong("the URL has no scheme", "write " + _CHOICE.format(host or "mail.example.com"))
    scheme, whole = found[1].lower(), found[2]
    bare = _UNTIL_PATH.split(whole.rpartition("@")[2], maxsplit=1)[0]
    if scheme not in SCHEMES:
        raise Wrong(f"unknown scheme {scheme}://", "write " + _CHOICE.format(bare or "mail.example.com"))
    if "@" in whole:
        raise Wrong(
            "user information in the URL: clients log in with their own name and password",
            f"write {scheme}://{bare}",
        )
    authority = _UNTIL_PATH.split(whole, maxsplit=1)[0]
    rest = whole[len(authority) :]
    if rest not in ("", "/"):
        part = {"/": "path", "?": "query", "#": "fragment"}[rest[0]]
        raise Wrong(f"a {part} in the URL has no meaning here", f"write {scheme}://{authority}")
    return scheme, authority


def _authority(text: str, standard: int | None, scheme: str) -> tuple[str, int]:
    """Host without brackets, and port; ``standard`` when none is written, None demands one."""
    start = f"{scheme}://" if scheme else ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise Wrong(f"{shown(text)} is no address", f"write {start}[2001:db8::1]:{standard or 995}")
        colon, port = rest[:1], rest[1:]
        try:
            IPv6Address(host)
        except ValueError:
            raise Wrong(f"[{host}] is no IPv6 address", f"write {start}[2001:db8::1]:{standard or 995}") from None
    else:
        if text.count(":") > 1:
            raise Wrong("an IPv6 address needs brackets", f"write {_repaired(text, start, standard)}")
        host, colon, port = text.partition(":")
    if not host:
        raise Wrong("the host is missing", f"write {start}{_any(start)}:{port or standard or 995}")
    if not colon:
        if standard is None:
            raise Wrong(f"{shown(text)} has no port", f'write "{text}:995" or another port')
        return host, standard
    if _PORT.fullmatch(port) is None or int(port) > 65535:
        raise Wrong(f"{shown(port)} is no port", f"write {start}{bracketed(host)}:{standard or 995}")
    return host, int(port)


def _any(start: str) -> str:
    return "mail.example.com" if start else "[::]"


def _repaired(text: str, start: str, standard: int | None) -> str:
    """``text`` with the brackets its IPv6 address lacks."""
    host, _, port = text.rpartition(":")
    # "2001:db8::1:995" is an address, too; who writes it means a port.
    forms = [(text, f":{standard or 995}"), (host, f":{port}")]
    for address, rest in forms if standard and port not in ("110", "995") else reversed(forms):
        try:
            return f"{start}[{IPv6Address(address)}]{rest}"
        except ValueError:
            continue
    return f"{start}[2001:db8::1]:{standard or 995}"


def _host(host: str) -> str:
    """A host name or address, checked."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if not host.isascii():
        raise Wrong(f"{shown(host)} is not ASCII", f"write its DNS form{_dns_form(host)}")
    labels = host.removesuffix(".").split(".")
    if _NUMERIC.fullmatch(host) or len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Wrong(f"{shown(host)} is no host name and no IP address", "write it like mail.example.com")
    return host.lower()


def _dns_form(host: str) -> str:
    try:
        return ", " + host.encode("idna").decode("ascii")
    except UnicodeError:
        return " (xn--...)"


def _address(host: str, start: str, port: int) -> str:
    """An IP address to bind."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        if host in ("*", ""):
            raise Wrong(f"{shown(host)} is no IP address", f"write {start}[::]:{port} for all addresses") from None
        if host == "localhost":
            raise Wrong("a name cannot be bound", f"write {start}127.0.0.1:{port} or {start}[::1]:{port}") from None
        raise Wrong(
            f"{shown(host)} is no IP address of this host", f"write {start}127.0.0.1:{port} or {start}[::]:{port}"
        ) from None
    return str(address)


def _unix(path: str) -> Bind:
    """A Unix socket. Its path has at most 107 octets (sockaddr_un)."""
    if not path.startswith("/") or "\0" in path:
        raise Wrong(f"{shown(path)} is no absolute path", 'write "unix:/run/popproxy/pop3.sock"')
    if len(path.encode("utf-8", "surrogateescape")) > 107:
        raise Wrong("the path of a Unix socket has at most 107 octets", "write a shorter path")
    return Bind("unix", path=path, v6only=False)
