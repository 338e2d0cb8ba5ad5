"""What a plugin with limits asks the store at each login: a user's and an address's rate, and a place of the user."""

from __future__ import annotations

from popproxy.api import (
    Credentials,
    Lease,
    LoginVerdict,
    Outcome,
    Plugin,
    PluginConfig,
    Refuse,
    Services,
    SessionSummary,
    SessionView,
    Sliding,
    Spend,
    Store,
)


class CountingConfig(PluginConfig):
    """No options."""


class Counting(Plugin[CountingConfig]):
    """One run of three steps for each login; its limits are never reached."""

    _store: Store

    def start(self, services: Services) -> None:
        """See Plugin."""
        self._store = services.store

    async def on_login(self, session: SessionView, credentials: Credentials) -> LoginVerdict:
        """See Plugin."""
        outcome = await self._store.run(
            Spend(f"user:{session.user}", Sliding(1_000_000, 3600.0)),
            Spend(f"address:{session.client}", Sliding(1_000_000, 3600.0)),
            Lease(f"place:{session.user}", 1_000_000),
        )
        session.slots[self] = outcome
        return None if outcome.granted else Refuse("Too many logins")

    def on_close(self, session: SessionView, summary: SessionSummary) -> None:
        """See Plugin."""
        outcome = session.slots.pop(self, None)
        if isinstance(outcome, Outcome):
            self._store.release(outcome)
