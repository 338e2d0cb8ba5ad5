"""The back end that a plugin asks about users: an HTTP server, a directory, a database."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from popproxy.api.services import HttpFailed, StreamFailed

_KINDS = {"garbage": "protocol", "too_large": "protocol"}


class Backend(Protocol):
    """Counts look-ups of users as ``popproxy_auth_backend_*`` and ``popproxy_auth_cache_requests_total``, by the
    plugin's name. ``services.metrics.backend()`` makes one."""

    def asked(self) -> AbstractContextManager[None]:
        """A block that asks the back end once: its time is counted, also when it fails.

        An exception is a look-up without an answer, counted by its type (reason_of) and passed on. Who is cancelled,
        because the client went away, counts not at all.
        """
        ...

    def cached(self, result: str) -> None:
        """What a cache knew: ``hit``, ``negative`` (that there is no such user) or ``miss``. A Lookup that is made
        with ``backend=`` calls this itself."""
        ...


def reason_of(error: BaseException) -> str:
    """Why a look-up gave no answer, of BACKEND_ERRORS. A ValueError is an answer that made no sense."""
    if isinstance(error, HttpFailed | StreamFailed):
        return _KINDS.get(error.kind, error.kind)
    return next((_REASONS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _REASONS), "_other")


_REASONS = {
    "Busy": "busy",
    "TimeoutError": "timeout",
    "SSLError": "tls",
    "gaierror": "dns",
    "ConnectionRefusedError": "refused",
    "FileNotFoundError": "refused",
    "ConnectionError": "lost",
    "OSError": "unreachable",
    "ValueError": "protocol",
}
"""By name, the most special one first in an exception's own order: this floor knows no sockets."""
