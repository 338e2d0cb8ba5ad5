"""What the rules did: counted by rule, and told to the administrator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from popproxy.api import Code, Counter, Services, SessionView
from popproxy_plugins.policy.decide import Head

Action = Literal["allow", "deny", "hide", "rewrite", "audit"]
ACTIONS: tuple[Action, ...] = ("allow", "deny", "hide", "rewrite", "audit")
"""``rewrite`` is a DELE that was accepted and dropped. What an audited rule would have done is ``audit``."""

CODES = {code.value.decode("ascii"): code for code in Code}
"""Codes as the config writes them."""

Noted = set[tuple[str, str]]
"""Rules and points that a session was told of already: who tries a thousand times makes one line."""


@dataclass(frozen=True, slots=True)
class Act:
    """What a rule does, or would do: ``point`` is the setting, ``text`` and ``code`` are what the client reads."""

    rule: Head
    point: str
    action: Action = "deny"
    text: str = ""
    code: Code | None = None

    @property
    def reason(self) -> str:
        """For the log."""
        return f"policy rule {self.rule.name}: {self.point}"


class Ledger:
    """Counters and log lines of one plugin."""

    __slots__ = ("_counts", "_log")

    def __init__(self, services: Services, rules: Sequence[str]) -> None:
        self._counts: Mapping[str, Mapping[str, Counter]] = services.metrics.decisions(rules, ACTIONS)
        self._log = services.log

    def allowed(self, rule: Head) -> None:
        """``rule`` let somebody in."""
        self._counts[rule.name]["allow"].inc()

    def refused(self, act: Act) -> None:
        """A login was refused: its line is the proxy's own, with ``act.reason``."""
        self._counts[act.rule.name]["deny"].inc()

    def did(self, session: SessionView, noted: Noted, act: Act) -> None:
        """Something was done to a session that is logged in."""
        self._counts[act.rule.name][act.action].inc()
        self._tell("denied" if act.action == "deny" else "applied", session, noted, act)

    def would(self, session: SessionView, noted: Noted, act: Act) -> None:
        """An audited rule would have done it: counted and told once for each session, rule and point."""
        if self._tell("audit", session, noted, act):
            self._counts[act.rule.name]["audit"].inc()

    def _tell(self, event: str, session: SessionView, noted: Noted, act: Act) -> bool:
        if (act.rule.name, act.point) in noted:
            return False
        noted.add((act.rule.name, act.point))
        self._log.info(
            event,
            session=session.id,
            client=session.client,
            user=session.user,
            rule=act.rule.name,
            point=act.point,
            action=act.action,
            code=None if act.code is None else act.code.value.decode("ascii"),
        )
        return True

    def store_down(self, error: Exception) -> None:
        """The store cannot be asked, for the first time since it could."""
        self._log.warning("store_down", detail=str(error))

    def store_back(self) -> None:
        """The store answers again."""
        self._log.info("store_back")
