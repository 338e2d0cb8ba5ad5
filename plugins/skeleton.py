"""A plugin to copy. It works: ``use = "skeleton:Ration"`` with this folder on PYTHONPATH; README.md explains each part.

Run it to test it: ``python plugins/skeleton.py``.
"""

from __future__ import annotations

from pydantic import Field

from popproxy.api import (
    Code,
    Command,
    Explained,
    Fail,
    Plugin,
    PluginConfig,
    Refuse,
    Services,
    SessionSummary,
    SessionView,
    Slot,
)

TAKEN = Slot("taken", 0)
"""Messages this session has asked for."""


class RationConfig(PluginConfig):
    """Options. Every key of the plugin table but use, name, when, fail and deadline comes here."""

    messages: int = Field(default=100, ge=1, description="RETR commands a session may send")


class Ration(Plugin[RationConfig]):
    """Lets a session retrieve a limited number of messages; the rest waits for the next login."""

    fail = Fail.OPEN

    def start(self, services: Services) -> None:
        self._log = services.log
        self._refused = services.metrics.counter("refused", "RETR commands beyond the ration")[""]

    def on_command(self, session: SessionView, command: Command) -> Refuse | None:
        if command.name != "RETR":
            return None
        taken = TAKEN.get(session)
        if taken < self.config.messages:
            TAKEN.set(session, taken + 1)
            return None
        self._refused.inc()
        return Refuse("Enough for now, log in again", Code.SYS_TEMP, reason=f"ration of {taken} used up")

    def explain(self, session: SessionView, user: str) -> Explained:
        return Explained((f"may retrieve {self.config.messages} messages",))

    def on_close(self, session: SessionView, summary: SessionSummary) -> None:
        if TAKEN.get(session) >= self.config.messages:
            self._log.info("ration_used", session=session.id, user=session.login)


SCRIPT = r"""
S~ \+OK.*
C: USER joe
S~ \+OK.*
C: PASS sesame
@ connect
U< +OK upstream
U> CAPA
U< -ERR no CAPA
U> USER joe
U< +OK
U> PASS sesame
U< +OK logged in
S~ \+OK.*

C: RETR 1
U> RETR 1
U< +OK
U< first
U< .
S: +OK
S: first
S: .
# the ration is used up: nothing goes upstream
C: RETR 2
S: -ERR [SYS/TEMP] Enough for now, log in again
C: NOOP
U> NOOP
U< +OK
S: +OK
"""

if __name__ == "__main__":
    from popproxy.api.testing import play

    play(Ration(RationConfig(messages=1)), SCRIPT)
