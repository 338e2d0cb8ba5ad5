"""What the plugin would do, in words: for ``popproxy explain``."""

from __future__ import annotations

from popproxy_plugins.spam.actions import Action
from popproxy_plugins.spam.config import SpamConfig


def steps_of(config: SpamConfig, growth: int) -> tuple[str, ...]:
    """Where verdicts come from, what happens at which score, and what that costs."""
    return (_source(config), *(_action(action) for action in config.actions), f"every message grows by {growth} octets")


def _source(config: SpamConfig) -> str:
    if config.source == "headers":
        fields = ", ".join(config.read)
        return f"verdicts: the worst of what the upstream wrote into {fields}; the first {config.trust} of each name"
    told = f", told {' and '.join(config.told)}" if config.told else ""
    top = "TOP is scanned" if config.top == "scan" else "TOP is not scanned"
    return f"verdicts: {config.source} at {', '.join(config.asked)}{told}; up to {config.max_size} octets; {top}"


def _action(action: Action) -> str:
    done = ["flagged as spam"] if action.add_headers else []
    if action.tag:
        done.append(f"tagged {action.tag.strip()!r}")
    if action.replace:
        done.append("replaced by a notice")
    if action.refuse:
        done.append(f"refused with [{action.code}]")
    when = "called spam by the scanner" if action.at == "spam" else f"from score {action.at:g} on"
    return f"{when}: {', '.join(done)}"
