"""Where this process listens, so that it never connects to itself."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address


class OwnAddresses:
    """Addresses of listeners, added when they are bound."""

    def __init__(self) -> None:
        self._ports: dict[int, set[str]] = {}

    def add(self, host: str, port: int) -> None:
        """A listener is bound to this IP address."""
        self._ports.setdefault(port, set()).add(str(ip_address(host)))

    def holds(self, address: str, port: int) -> bool:
        """Whether a connection to this IP address and port would come back to us."""
        hosts = self._ports.get(port)
        if hosts is None:
            return False
        ip = ip_address(address)
        if isinstance(ip, IPv6Address):
            ip = ip.ipv4_mapped or ip
        if ip.is_unspecified:
            # As a destination it is this host.
            ip = ip_address("127.0.0.1" if ip.version == 4 else "::1")
        address = str(ip)
        if address in hosts:
            return True
        wild = "::" in hosts or ("0.0.0.0" in hosts and ":" not in address)
        return wild and _local(address)


def _local(address: str) -> bool:
    """Whether this machine has ``address``: then it is also where a packet to it would come from."""
    if ip_address(address).is_loopback:
        return True
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting UDP sends nothing; it only chooses the source.
            probe.connect((address, 9))
            return str(ip_address(probe.getsockname()[0])) == str(ip_address(address))
        except OSError:
            return False
