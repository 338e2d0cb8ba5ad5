"""The meter of the marks from which on new connections are shed."""

from __future__ import annotations

from popproxy.metrics.cells import Families, Index
from popproxy.metrics.names import METRICS

_ROW = Index(METRICS["overload_mark"])


class OverloadMeter:
    """Rows by resource: seconds of lag, octets of memory, descriptors."""

    __slots__ = ("_marks", "_shedding", "_values")

    def __init__(self, families: Families) -> None:
        self._marks = families.gauges["overload_mark"].bind()
        self._values = families.gauges["overload_value"].bind()
        self._shedding = families.gauges["overload_shedding"].bind()

    def mark(self, resource: str, mark: float) -> None:
        """From where on new connections are shed (``resource`` of names.RESOURCES)."""
        self._marks[_ROW[resource,]] = mark

    def value(self, resource: str, value: float) -> None:
        """What was measured."""
        self._values[_ROW[resource,]] = value

    def shedding(self, resource: str, on: bool) -> None:
        """Whether the mark is passed."""
        self._shedding[_ROW[resource,]] = int(on)
