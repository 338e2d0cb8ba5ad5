"""popproxy that does not see: what metrics and logs cost is the difference between this program and the real one.

`python -m tests.bench.blind metrics,log serve ...`. Without `metrics` the meters' methods do nothing; what is left of
them are the few list increments that the session does itself. Without `log` no line is made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from popproxy.metrics import meters
from popproxy.run import cli, logs

BLIND = ("metrics", "log", "metrics,log")
"""What may be left out."""


def _nothing(*_: object, **__: object) -> None:
    """In place of a method that counts or writes."""


def blind(parts: str) -> None:
    """Leave out ``parts``, one of BLIND, in this process."""
    if parts not in BLIND:
        raise ValueError(f"{parts!r}: write one of {' '.join(BLIND)}")
    silenced: list[tuple[type[Any], str]] = []
    if "metrics" in parts:
        for meter in (meters.ListenerMeter, meters.UpstreamMeter):
            silenced += [(meter, name) for name in vars(meter) if name.islower() and not name.startswith("_")]
    if "log" in parts:
        silenced.append((logs.EventLog, "event"))
    for owner, name in silenced:
        if callable(vars(owner)[name]):
            setattr(owner, name, _nothing)


def main(argv: Sequence[str]) -> int:
    """Run popproxy's command line, blind to the first argument."""
    blind(argv[0])
    return cli.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
