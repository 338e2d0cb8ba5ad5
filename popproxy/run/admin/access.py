"""Who may use /v1 on a TCP port: whoever knows the token, or shows a client certificate.

Law: a right token always gets in, a wrong one is answered late, and the comparison takes as long for each. Nothing
that a browser does on behalf of a page from elsewhere gets in: names that are not ours are refused (DNS rebinding), so
are changes that a form could ask for (CSRF), and no header lets another origin read an answer. The latter holds for
Unix sockets as well: ``ssh -L`` brings one to a port beside somebody's browser.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import ssl
from collections.abc import Callable
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from popproxy.config.plan import AdminPlan, CertificatePlan
from popproxy.core.effects import Level
from popproxy.net.tls import TlsConfigError

LATE = 1.0
"""Seconds until a wrong token is answered: with as many connections as there may be, some sixty guesses a second."""
QUIET = 1.0
"""Seconds between two lines in the log about the refused."""
_SAFE = frozenset({"GET", "HEAD"})


class EventLog(Protocol):
    """Where log lines go; run/logs.py has one."""

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line."""
        ...


class Access:
    """Guards the TCP ports of one admin listener. ``late``: see LATE. ``count`` is told of each that was refused, by
    why."""

    def __init__(
        self, plan: AdminPlan, log: EventLog, late: float = LATE, *, count: Callable[[str], None] = lambda reason: None
    ) -> None:
        self._token = None if plan.token is None else _digest(plan.token.get_secret_value().encode())
        self._certificates = plan.client_ca_file is not None
        self._hosts = frozenset({"localhost", socket.gethostname().lower(), *plan.hosts})
        self._log = log
        self._late = late
        self._count = count
        self._refused = 0
        self._quiet_until = 0.0

    @property
    def possible(self) -> bool:
        """Whether anybody may use /v1 on a port."""
        return self._token is not None or self._certificates

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """In front of every handler of a port."""
        if request.path.startswith("/v1"):
            await self._check(request)
        return await handler(request)

    @web.middleware
    async def pages(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """In front of every handler of a Unix socket: its mode says who may ask, but no page may. Names without a dot
        are those that people make up for ``curl --unix-socket``; nobody's page has one."""
        if request.path.startswith("/v1"):
            host = request.headers.get("Host", "")
            self._from_here(request, host, not host or "." not in _name(host, ".") or self._named(host))
        return await handler(request)

    def _from_here(self, request: web.Request, host: str, named: bool) -> None:
        """Raises what is answered to pages that have their name lead here, and to those from elsewhere."""
        if not named:
            self._tell(request, "host")
            raise web.HTTPForbidden(text="this name is not ours: add it to [admin] hosts, or use the address")
        origin = request.headers.get("Origin")
        if origin is not None and _place(origin) != host:
            self._tell(request, "origin")
            raise web.HTTPForbidden(text="not for pages from elsewhere")

    async def _check(self, request: web.Request) -> None:
        self._from_here(request, request.host, self._named(request.host))
        if self._right(request):
            return
        if self._certificates and _certificate(request):
            # A browser shows it to whoever makes it ask; a bearer token it would not send along.
            if request.method in _SAFE or _deliberate(request):
                return
            self._tell(request, "content_type")
            raise web.HTTPUnsupportedMediaType(
                text="write Content-Type: application/json, or any X-Requested-With, so that no form can ask for this"
            )
        self._tell(request, "token" if "Authorization" in request.headers else "nothing")
        if "Authorization" in request.headers:
            await asyncio.sleep(self._late)
        raise web.HTTPUnauthorized(
            text="write Authorization: Bearer and the token of [admin] token", headers={"WWW-Authenticate": "Bearer"}
        )

    def _right(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        told = _digest(given.strip().encode("utf-8", "surrogateescape"))
        right = hmac.compare_digest(told, self._token) if self._token is not None else False
        return right and scheme.lower() == "bearer"

    def _named(self, host: str) -> bool:
        """Whether a Host header names us, and not somebody who has his name lead here."""
        name = _name(host)
        if name in self._hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _tell(self, request: web.Request, reason: str) -> None:
        """At most a line a second; ``count`` is how many were refused since the start."""
        self._refused += 1
        self._count(reason)
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            client = request.remote or ""
            self._log.event("warning", "admin_denied", client=client, reason=reason, count=self._refused)


def _name(host: str, bad: str = "") -> str:
    """The name in a Host header; ``bad`` for what is none."""
    try:
        return urlsplit(f"//{host}").hostname or bad
    except ValueError:
        return bad


def _place(origin: str) -> str | None:
    """Host and port of an Origin header; None for what is no URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _digest(octets: bytes) -> bytes:
    return sha256(octets).digest()


def _certificate(request: web.Request) -> bool:
    """Whether TLS has verified a certificate of the client: one that is not good ends the handshake."""
    transport = request.transport
    return transport is not None and bool(transport.get_extra_info("peercert"))


def _deliberate(request: web.Request) -> bool:
    """Whether a page from elsewhere could not have made a browser send this without asking us first."""
    return request.content_type == "application/json" or "X-Requested-With" in request.headers


class Tls:
    """TLS of the ports. Files that were renewed are read again."""

    def __init__(self, plan: AdminPlan, certificate: CertificatePlan, log: EventLog) -> None:
        self._certificate = certificate
        self._log = log
        self._seen = self._stamps()
        self.context = _context(certificate)
        if plan.client_ca_file is not None:
            try:
                self.context.load_verify_locations(plan.client_ca_file)
            except (OSError, ssl.SSLError) as error:
                raise TlsConfigError(plan.client_ca_file, f"cannot be used: {error}") from error
            self.context.verify_mode = ssl.CERT_OPTIONAL

    def renew(self) -> None:
        """Look whether the files have changed. New connections get what they hold now, if it can be used."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            # Tried elsewhere first: a context keeps half of what it could not load.
            _context(self._certificate)
            _load(self.context, self._certificate)
        except TlsConfigError as error:
            self._log.event("warning", "certificate", certificate=str(self._certificate.cert), detail=str(error))

    def _stamps(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in (self._certificate.cert, self._certificate.key) if path is not None)


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _context(certificate: CertificatePlan) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, certificate)
    return context


def _load(context: ssl.SSLContext, certificate: CertificatePlan) -> None:
    password = certificate.password.get_secret_value() if certificate.password is not None else ""
    try:
        context.load_cert_chain(certificate.cert, certificate.key, lambda: password)
    except (OSError, ValueError) as error:
        raise TlsConfigError(certificate.cert, f"cannot be used: {error}") from error
