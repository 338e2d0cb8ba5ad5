"""What a session of the sample server asks of whoever drives it. Plain octets go to the client as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartTls:
    """Start the TLS handshake as server, then call Session.tls_started(). Read no more octets in clear."""


@dataclass(frozen=True, slots=True)
class Close:
    """Send what was put out so far, then close the connection. No output follows."""


@dataclass(frozen=True, slots=True)
class Job:
    """``run`` reads or deletes files and may take long: call it once, in a thread if you like, then go on."""

    run: Callable[[], None]


Output = bytes | StartTls | Close | Job
