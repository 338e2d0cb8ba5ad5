"""What one session does, told to a plugin as it happens: see Plugin.observe."""

from __future__ import annotations

from popproxy.api.views import SessionSummary


class Observer:
    """Hears of one session what the metrics hear, at the same moment. Override what is wanted.

    Every method is a plain ``def`` and is called while the session waits for it: note the fact and return, microseconds
    later. It decides nothing, and commands pass as fast as without it (several that were answered together come as
    one call). What it raises is logged as ``plugin_error`` and ends its hearing of this session. Seconds are of a clock
    that never goes back; what took them ends now.
    """

    __slots__ = ()

    def login(self, mechanism: str, result: str, seconds: float) -> None:
        """A login attempt ended, ``seconds`` after its credentials were complete. ``mechanism`` and ``result`` as in
        ``popproxy_auth_attempts_total``."""

    def commands(self, verb: str, outcome: str, seconds: float, count: int) -> None:
        """``count`` commands of the TRANSACTION state got the first octet of their reply ``seconds`` after they came.
        ``outcome`` as in ``popproxy_commands_total``."""

    def transfer(self, verb: str, seconds: float, octets: int) -> None:
        """A multi-line reply, whose commands() has been called, took ``seconds`` from its first to its last octet."""

    def hook(self, plugin: str, hook: str, verdict: str, seconds: float) -> None:
        """A hook of any plugin returned: ``pass``, ``modify`` or ``deny``."""

    def hook_failed(self, plugin: str, hook: str, action: str) -> None:
        """A hook raised, hung or lied: ``fail_open`` or ``fail_closed``."""

    def violation(self, side: str, kind: str) -> None:
        """``client`` or ``upstream`` broke the protocol; ``kind`` as in ``popproxy_protocol_violations_total``."""

    def ended(self, summary: SessionSummary) -> None:
        """The session is over, all on_close hooks have run. Nothing follows."""
