"""Ports for programs that want to be told one: none that the kernel may give to somebody else meanwhile."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Iterator

# Below what Linux gives to connections and to port 0 (ip_local_port_range, 32768 and up): between this look and the
# program's bind() nobody gets it by chance.
_RANGE = range(10000, 32768)
_TAKEN: list[socket.socket] = []


def free_ports(count: int, *hosts: str) -> list[int]:
    """Ports nobody listens on now, free on every one of `hosts` (default 127.0.0.1). No other test process on this
    machine is given them while this one lives. OSError where the machine has no such address."""
    found = [port for port, _ in zip(_free_on(hosts or ("127.0.0.1",)), range(count), strict=False)]
    assert len(found) == count, f"no {count} free ports on {hosts}"
    return found


def _free_on(hosts: tuple[str, ...]) -> Iterator[int]:
    for port in random.SystemRandom().sample(_RANGE, len(_RANGE)):
        if all(_free(host, port) for host in hosts) and _reserved(port):
            yield port


def _free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def _reserved(port: int) -> bool:
    # A name of the kernel's, which ends with this process, however it ends.
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with contextlib.suppress(OSError):
        mark.bind(f"\0popproxy-tests-port-{port}")
        _TAKEN.append(mark)
        return True
    mark.close()
    return False
