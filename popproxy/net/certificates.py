"""The TLS of one plan: the contexts of its listeners and upstreams, and that they follow their files.

Files are read in threads: keys and authorities take milliseconds each. A context is changed for handshakes to come;
whoever has shaken hands keeps what he has.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from popproxy.config.plan import CertificatePlan, TlsPlan
from popproxy.net.dialer import Dialer
from popproxy.net.front import EventLog, Front
from popproxy.net.renewal import Renewable
from popproxy.net.selfsigned import FILE_NAME, ensure_self_signed
from popproxy.net.tls import CertificateFiles, certificate_expiry, certificate_warnings, server_context

T = TypeVar("T")

_SELF_SIGNED_ADVICE = (
    "clients will warn about it: set [tls] certificates = [{ cert = \"...\", key = \"...\" }] to one they trust"
)


@dataclass(frozen=True, slots=True)
class Served:
    """TLS of listeners: the context, when each certificate ends (by file name, in seconds since the epoch), and what
    is not as it should be. ``made`` is the fingerprint of the one that was made here for want of a configured one."""

    context: ssl.SSLContext
    expiries: Mapping[str, float]
    warnings: tuple[str, ...]
    made: str = ""


class Certificates:
    """See the head of this file. Every method belongs to the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: EventLog) -> None:
        self._loop = loop
        self._log = log
        self._served: dict[TlsPlan, tuple[Served, Renewable[Served]]] = {}
        self._trusted: dict[Dialer, Renewable[ssl.SSLContext]] = {}

    async def load(self, tls: TlsPlan) -> None:
        """Make the context of listeners with this TLS, once. Raises TlsConfigError or OSError."""
        if tls not in self._served:
            files = Renewable(_paths(tls), partial(_serve, tls))
            served = await self._thread(files.load)
            self._served[tls] = served, files
            self._tell(tls, served)

    async def trust(self, dialer: Dialer) -> None:
        """Make the context of an upstream, when its servers have TLS. Raises TlsConfigError or OSError."""
        own = dialer.plan.client_certificate
        paths = [path for path in (dialer.plan.ca_file, *_pair(own)) if path is not None]
        files = self._trusted[dialer] = Renewable(paths, dialer.make_context)
        if any(server.tls != "off" for server in dialer.plan.servers):
            dialer.context = await self._thread(files.load)

    def context(self, tls: TlsPlan) -> ssl.SSLContext:
        """What was loaded."""
        return self._served[tls][0].context

    def names(self, front: Front) -> Iterable[str]:
        """What the certificates of a listener are called."""
        return () if front.listener.tls == "off" else self._served[front.listener.tls_context][0].expiries

    def show(self, front: Front) -> None:
        """Tell the metrics when the certificates of a listener end."""
        if front.listener.tls != "off":
            for name, expiry in self._served[front.listener.tls_context][0].expiries.items():
                front.meter.certificate(name, expiry)

    async def renew(self, fronts: Sequence[Front]) -> list[Front]:
        """Load again what has changed; the fronts that have another context now."""
        renewed: list[Front] = []
        for tls, (_, files) in list(self._served.items()):
            found = await self._look(files)
            if found is not None:
                served, changed = found
                self._served[tls] = served, files
                those = [front for front in fronts if front.listener.tls != "off" and front.listener.tls_context == tls]
                for front in those:
                    front.context = served.context
                renewed += those
                ends = (f"{name} is valid until {_day(expiry)}" for name, expiry in served.expiries.items())
                self._renewed(changed, ", ".join(ends))
                self._tell(tls, served)
        return renewed

    async def renew_upstream(self, dialer: Dialer) -> None:
        """Load again what has changed for an upstream that is spoken to with TLS."""
        files = self._trusted[dialer]
        if dialer.context is None or not files.paths:
            return
        found = await self._look(files)
        if found is not None:
            dialer.context, changed = found
            self._renewed(changed, f"for upstream {dialer.plan.name}")

    async def _look(self, files: Renewable[T]) -> tuple[T, tuple[Path, ...]] | None:
        found = await self._thread(files.look)
        if isinstance(found, str):
            self._log.event("warning", "certificate", detail=f"{found}; the one before stays in use")
            return None
        return found

    def _renewed(self, changed: Iterable[Path], detail: str) -> None:
        self._log.event("info", "certificate_renewed", certificate=", ".join(map(str, changed)), detail=detail)

    def _tell(self, tls: TlsPlan, served: Served) -> None:
        if served.made:
            self._log.event(
                "warning",
                "self_signed",
                certificate=str(tls.self_signed_directory / FILE_NAME),
                fingerprint=served.made,
                advice=_SELF_SIGNED_ADVICE,
            )
        for warning in served.warnings:
            self._log.event("warning", "certificate", detail=warning)

    async def _thread(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(None, work)


def _paths(tls: TlsPlan) -> list[Path]:
    """Every file that the context is made of."""
    if tls.certificates:
        named = [path for certificate in tls.certificates for path in _pair(certificate)]
    else:
        named = [tls.self_signed_directory / FILE_NAME]
    return [path for path in (*named, tls.client_ca_file) if path is not None]


def _pair(certificate: CertificatePlan | None) -> tuple[Path | None, ...]:
    return () if certificate is None else (certificate.cert, certificate.key)


def _serve(tls: TlsPlan) -> Served:
    """The TLS of listeners, from its files. Raises TlsConfigError or OSError."""
    files, made = [_files(certificate) for certificate in tls.certificates], ""
    if not files:
        files = [ensure_self_signed(tls.self_signed_directory, [socket.gethostname()]).files]
        begin = files[0].cert.read_text("ascii")
        der = ssl.PEM_cert_to_DER_cert(begin[begin.index(ssl.PEM_HEADER) :])
        made = sha256(der).hexdigest()
    warnings = tuple(certificate_warnings(files))
    context = server_context(
        files,
        minimum=tls.minimum,
        ciphers=tls.ciphers,
        verify_client=tls.verify_client,
        client_ca_file=tls.client_ca_file,
    )
    return Served(context, {file.cert.name: certificate_expiry(file.cert) for file in files}, warnings, made)


def _files(certificate: CertificatePlan) -> CertificateFiles:
    secret = certificate.password.get_secret_value().encode() if certificate.password is not None else None
    return CertificateFiles(certificate.cert, certificate.key, secret)


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
