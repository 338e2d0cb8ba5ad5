"""A plugin that fails for the user `faulty` names: what metrics and alerts show of it is what it is for."""

from __future__ import annotations

from pydantic import Field

from popproxy.api import Command, Fail, Plugin, PluginConfig, SessionView


class FaultyConfig(PluginConfig):
    """Whose commands it fails at."""

    faulty: str = Field(description="the user")


class Faulty(Plugin[FaultyConfig]):
    """Raises at every NOOP of one user; the session goes on without it."""

    fail = Fail.OPEN

    def on_command(self, session: SessionView, command: Command) -> None:
        if command.name == "NOOP" and session.user == self.config.faulty:
            raise ValueError("it was told to")
