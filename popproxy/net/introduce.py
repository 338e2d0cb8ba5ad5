"""The PROXY header that a connection upstream begins with: whose it is, for servers that believe us."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Literal

from popproxy.api.views import SessionView
from popproxy.core.introduction import remaining
from popproxy.wire.proxyline import ProxyError, ProxyTls, Tlv, encode_v1, encode_v2, tls_vector, ttl_vector

Version = Literal["v1", "v2"]


def own_header(version: Version) -> bytes:
    """The header of a connection of our own, like a probe's: ``UNKNOWN``, ``LOCAL``."""
    return encode_v1(None, None) if version == "v1" else encode_v2(None, None)


def proxy_header(version: Version, view: SessionView, ttl: int | None) -> bytes:
    """The header for the client of ``view``, whose own TTL is ``ttl``. One without an IP address is not told of."""
    source, destination = (view.client, view.client_port), (view.local, view.local_port)
    try:
        if not (_is_address(view.client) and _is_address(view.local)):
            return own_header(version)
        if version == "v1":
            return encode_v1(source, destination)
        return encode_v2(source, destination, _vectors(view, ttl))
    except ProxyError:
        # A plugin may have made of the view what no header can say.
        return own_header(version)


def _vectors(view: SessionView, ttl: int | None) -> list[tuple[int, bytes]]:
    found = [(int(Tlv.UNIQUE_ID), view.id.encode()[:128]), ttl_vector(remaining(ttl))]
    tls = view.tls
    if tls is not None:
        if tls.server_name:
            found.append((int(Tlv.AUTHORITY), tls.server_name.encode()))
        certificate = tls.client_certificate is not None
        told = ProxyTls(True, certificate, verify=0 if certificate else 1, version=tls.version or None)
        found.append(tls_vector(told))
    return found


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
