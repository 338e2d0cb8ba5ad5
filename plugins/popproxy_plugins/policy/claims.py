"""What a login takes from the store: places for its session, a login of the period, a look at the day's octets.

Keys are by what is counted, not by rule: two rules with the same limit share one count, and a session counts for its
user whatever rule let it in. Audited rules count on keys of their own, so that nobody is refused because of a trial.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from popproxy.api import Code, Lease, Sliding, Spend, TokenBucket
from popproxy_plugins.clients import folded
from popproxy_plugins.policy.decide import Decided, Decision, Settings
from popproxy_plugins.policy.kinds import Logins
from popproxy_plugins.policy.match import Address

DAY = 86400.0
Mode = Literal["hard", "soft"]

POINTS = (
    "sessions_per_user",
    "sessions_per_user_and_address",
    "sessions_per_address",
    "sessions_per_domain",
    "login_delay",
    "logins",
    "octets_per_day",
)
"""In the order in which a login that finds no room is told why."""

REFUSALS: dict[str, tuple[str, Code]] = {
    "sessions_per_user": ("Too many sessions at once", Code.IN_USE),
    "sessions_per_user_and_address": ("Too many sessions at once", Code.IN_USE),
    "sessions_per_address": ("Too many sessions at once", Code.IN_USE),
    "sessions_per_domain": ("Too many sessions at once", Code.IN_USE),
    "login_delay": ("Minimum time between logins not over yet", Code.LOGIN_DELAY),
    "logins": ("Too many logins, try again later", Code.LOGIN_DELAY),
    "octets_per_day": ("Too much was retrieved, try again later", Code.SYS_TEMP),
}
"""Public text and code of each."""

_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Who:
    """For whom it is counted: names are fit for keys. ``domain`` and ``address`` empty: there is none."""

    user: str
    domain: str
    address: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A step of the store, and the setting it is for."""

    point: str
    decided: Decided[Any]
    step: Lease | Spend

    @property
    def audit(self) -> bool:
        """Whether it only tells."""
        return self.step.mode == "soft"


def who(user: str, address: Address | None) -> Who:
    """Keys of a user (as plugins have the name: with surrogates for octets that are no UTF-8) and an address."""
    name = folded(user).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    _, at, domain = name.rpartition("@")
    return Who(_short(name), _short(domain) if at else "", "" if address is None else str(address))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else "#" + blake2b(name.encode(), digest_size=24).hexdigest()


def claims(decision: Decision, whom: Who) -> list[Claim]:
    """What a login with ``decision`` claims, enforced and audited."""
    found = list(_claims(decision.enforced, whom, "", "hard"))
    found += _claims(decision.audited, whom, "audit:", "soft")
    return found


def _claims(settings: Settings, whom: Who, begin: str, mode: Mode) -> Iterator[Claim]:
    for point in POINTS:
        decided: Decided[Any] | None = getattr(settings, point)
        if decided is not None:
            step = _step(point, decided.value, whom, begin, mode)
            if step is not None:
                yield Claim(point, decided, step)


def _step(point: str, value: Any, whom: Who, begin: str, mode: Mode) -> Lease | Spend | None:
    """None where there is nothing to count by: no domain in the name, no address of the client."""
    if point == "sessions_per_user":
        return Lease(f"{begin}user:{whom.user}", value, mode)
    if point == "sessions_per_user_and_address":
        return Lease(f"{begin}both:{whom.address}|{whom.user}", value, mode) if whom.address else None
    if point == "sessions_per_address":
        return Lease(f"{begin}address:{whom.address}", value, mode) if whom.address else None
    if point == "sessions_per_domain":
        return Lease(f"{begin}domain:{whom.domain}", value, mode) if whom.domain else None
    if point == "login_delay":
        return Spend(f"{begin}delay:{value!r}:{whom.user}", TokenBucket(1, value), 1, mode)
    if point == "logins":
        assert isinstance(value, Logins)
        window = Sliding(value.count, value.seconds)
        return Spend(f"{begin}logins:{value.seconds!r}:{whom.user}", window, 1, mode)
    # One octet, so that a day that is used up to the last one refuses.
    return Spend(day_key(begin, whom.user), Sliding(value, DAY), 1, mode)


def day_key(begin: str, user: str) -> str:
    """Where the octets of a user's day are counted, whatever the limit: another rule, hour or config may set another
    one."""
    return f"{begin}octets:{user}"
