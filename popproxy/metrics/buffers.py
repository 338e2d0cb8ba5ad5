"""What is held for peers that take it slowly: the write buffers above their mark, looked at when somebody scrapes.

A buffer is here from the moment its transport asks for a pause until it is taken or the transport is gone; what less
than the mark waits in the others is not counted, so that no octet on its way costs anything.
"""

from __future__ import annotations

from typing import Protocol

from popproxy.metrics.cells import Families


class Buffer(Protocol):
    """A transport."""

    def get_write_buffer_size(self) -> int:
        """Octets that are not sent yet."""
        ...


class Buffers:
    """Full buffers by whom they are for. The sets belong to the event loop's thread, measure() to any."""

    def __init__(self, families: Families) -> None:
        self.client: set[Buffer] = set()
        self.upstream: set[Buffer] = set()
        self._row = families.gauges["buffered_bytes"].bind()

    def measure(self) -> None:
        """Add them up. A set is copied under the interpreter's lock before it is gone through."""
        for place, held in enumerate((self.client, self.upstream)):
            self._row[place] = sum(buffer.get_write_buffer_size() for buffer in list(held))
