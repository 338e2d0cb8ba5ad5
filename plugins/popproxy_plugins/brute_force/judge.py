"""What is known about a login before it is tried, and what is done with it. Pure: numbers in, a judgement out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from popproxy_plugins.brute_force.bans import By
from popproxy_plugins.brute_force.config import BruteForceConfig

Result = Literal["passed", "known", "held", "address", "network", "user", "guessed", "manual", "at_once"]
"""``passed``, ``held``: tried. The others refuse: the ban of the ``address`` or ``network``, an attack on the
``user``, too many wrong passwords where the user is known (``guessed``), a ban made by hand, too many ``at_once``.
``known`` was tried although a stranger would have been held or refused."""


@dataclass(frozen=True, slots=True)
class Facts:
    """``known``: the user has logged in from this address, ``near``: from this network. ``own``: different wrong
    passwords of a known user from there. ``pairs`` and ``network_pairs``: different failures of the address and of the
    network; ``passwords``: different wrong ones for the user, from strangers' addresses."""

    known: bool = False
    near: bool = False
    own: int = 0
    pairs: int = 0
    network_pairs: int = 0
    passwords: int = 0
    ban: By | None = None
    network_ban: By | None = None
    at_once: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """``refused`` says why, for the log; empty: the login is tried ``delay`` seconds later."""

    result: Result
    delay: float = 0.0
    refused: str = ""


def judge(config: BruteForceConfig, facts: Facts) -> Judgement:
    """What becomes of the login. Failures of others never refuse or hold somebody who is known."""
    if "manual" in (facts.ban, facts.network_ban):
        return Judgement("manual", refused="banned by hand")
    if facts.known:
        return _judge_known(config, facts)
    stranger = _judge_stranger(config, facts)
    if not stranger.refused and facts.at_once >= config.at_once:
        return Judgement("at_once", refused=f"{facts.at_once} logins of this address wait for their outcome")
    return stranger


def _judge_known(config: BruteForceConfig, facts: Facts) -> Judgement:
    known = config.known
    if known.passwords and facts.own >= known.passwords:
        return Judgement("guessed", refused=f"{facts.own} wrong passwords from where the user is known")
    if facts.at_once >= config.at_once:
        return Judgement("at_once", refused=f"{facts.at_once} logins of this user wait for their outcome")
    delay = step(config.delays, facts.own, known.delay)
    if delay:
        return Judgement("held", delay)
    stranger = _judge_stranger(config, facts)
    return Judgement("passed" if stranger.result == "passed" else "known")


def _judge_stranger(config: BruteForceConfig, facts: Facts) -> Judgement:
    user, near = config.user, facts.near and config.known.near
    if facts.ban:
        return Judgement("address", refused="the address is banned")
    if facts.network_ban and not near:
        return Judgement("network", refused="the network is banned")
    if not near and user.passwords and facts.passwords >= user.passwords and facts.pairs >= user.strikes:
        told = f"{facts.passwords} wrong passwords for this user, {facts.pairs} failures of this address"
        return Judgement("user", refused=told)
    if not near and user.everybody and facts.passwords >= user.everybody:
        return Judgement("user", refused=f"{facts.passwords} wrong passwords for this user")
    delay = step(config.delays, facts.pairs, config.address.delay)
    if not near:
        delay = max(delay, step(config.delays, facts.network_pairs, config.network.delay))
        delay = max(delay, step(config.delays, facts.passwords, user.delay))
    return Judgement("held", delay) if delay else Judgement("passed")


def step(delays: tuple[float, ...], count: int, start: int) -> float:
    """How long the next login is held after ``count`` failures, of which those from ``start`` on cost time."""
    if not start or count < start:
        return 0.0
    return delays[min(count - start, len(delays) - 1)]
