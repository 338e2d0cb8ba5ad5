"""Which hooks behind the login a session needs, by what is decided for it: all others cost it nothing."""

from __future__ import annotations

from popproxy_plugins.policy.decide import Decision, Settings

COMMAND = (
    "commands",
    "dele",
    "leave_on_server",
    "max_messages",
    "max_octets",
    "octets_per_day",
    "max_message_octets",
    "commands_per_minute",
)
"""Settings that look at commands."""
SIZED = ("max_octets", "octets_per_day", "max_message_octets")
"""Settings that must know how large a message is before it is retrieved."""
HIDING = ("hide_older", "hide_larger")
PACED = ("rate", "user_rate")
HOOKS = frozenset({"on_maildrop", "on_command", "on_reply", "pace"})
"""All that this plugin has behind the login, beside on_close."""


def needed(decision: Decision) -> frozenset[str]:
    """The hooks of HOOKS that ``decision`` needs.

    What is audited never needs the maildrop: to number it anew would change what clients read."""
    real, tried = decision.enforced, decision.audited
    hooks: set[str] = set()
    if _commands(real) or _commands(tried) or _any(tried, HIDING):
        hooks.add("on_command")
    if _any(real, HIDING) or _any(real, SIZED) or keeps(real):
        hooks.add("on_maildrop")
    if tried.max_message_octets is not None:
        hooks.add("on_reply")
    if _any(real, PACED):
        hooks.add("pace")
    return frozenset(hooks)


def keeps(settings: Settings) -> bool:
    """Whether a DELE may be accepted and dropped, or depends on when a message arrived."""
    dele = settings.dele
    return settings.leave_on_server is not None or (dele is not None and dele.value == "keep")


def _commands(settings: Settings) -> bool:
    dele = settings.dele
    return _any(settings, (*COMMAND[:1], *COMMAND[2:])) or (dele is not None and dele.value != "allow")


def _any(settings: Settings, points: tuple[str, ...]) -> bool:
    return any(getattr(settings, point) is not None for point in points)
