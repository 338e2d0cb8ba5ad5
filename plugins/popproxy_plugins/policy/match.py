"""For which logins a rule is: conditions compiled once per worker, asked about what is known of one session.

Three answers: yes, no, and None for what cannot be said yet: who the user is, what groups the look-up names, which
mechanism and TLS the client will choose. A rule with a None is no rule for this session yet, and what it sets is open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from fnmatch import translate
from ipaddress import IPv4Address, IPv6Address, ip_address

from popproxy.api import Network, SessionView
from popproxy_plugins.clients import folded
from popproxy_plugins.policy.config import Condition
from popproxy_plugins.policy.hours import Hours, hours
from popproxy_plugins.policy.kinds import TLS_VERSIONS, UNKNOWN

Address = IPv4Address | IPv6Address
Locate = Callable[[Address], str]
"""The country of an address: two letters, or ``unknown``."""

_WILD = re.compile(r"[*?\[]")


def nowhere(address: Address) -> str:
    """``unknown``: the country of every address where there is no database."""
    return UNKNOWN


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a session when it is decided about.

    ``user`` None: nobody knows yet; ``groups`` are those of the look-up. ``client`` None: it has no IP address (a Unix
    socket). ``tls`` is a version, ``""`` for a leg in the clear, ``?`` for TLS of an unknown version, None when the
    client may still begin TLS; ``mechanism`` None before the login. ``now`` in seconds since the epoch.
    """

    user: str | None = None
    groups: frozenset[str] = frozenset()
    client: Address | None = None
    listener: str = ""
    tls: str | None = None
    mechanism: str | None = None
    now: float = 0.0
    locate: Locate = nowhere


def facts_of(
    session: SessionView, user: str | None, groups: frozenset[str], now: float, locate: Locate = nowhere
) -> Facts:
    """The facts of ``session``. ``user`` None before the login: TLS, if there is none yet, may still begin."""
    tls = None if user is None else ""
    if session.tls is not None:
        tls = session.tls.version or "?"
    mechanism = None if user is None else session.mechanism or ""
    return Facts(user, groups, address(session.client), session.listener, tls, mechanism, now, locate)


def address(text: str) -> Address | None:
    """The IP address in ``text``, an IPv4 address written as IPv6 as what it is; None for ``unix`` and the like."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


class Names:
    """Globs of user names; those without wildcards and those of a whole domain cost one look-up together."""

    __slots__ = ("_globs", "domains", "exact")

    def __init__(self, globs: Iterable[str]) -> None:
        names = [folded(glob) for glob in globs]
        self.exact = frozenset(name for name in names if _WILD.search(name) is None)
        self.domains = frozenset(name[2:] for name in names if _is_domain(name))
        rest = (name for name in names if name not in self.exact and not _is_domain(name))
        self._globs = tuple(re.compile(translate(name)) for name in rest)

    @property
    def indexable(self) -> bool:
        """Whether ``exact`` and ``domains`` are all there is."""
        return not self._globs

    def match(self, name: str, domain: str | None) -> bool:
        """Whether ``name`` (folded, ``domain`` behind its last ``@``) is among them."""
        if name in self.exact or domain in self.domains:
            return True
        return any(glob.match(name) is not None for glob in self._globs)


def _is_domain(glob: str) -> bool:
    """Whether ``glob`` is for all names of one domain."""
    return glob[:2] == "*@" and _WILD.search(glob, 1) is None


class Look:
    """The facts of one decision, with what is computed from them at most once, and only when a rule asks."""

    __slots__ = ("_country", "_groups", "_static", "domain", "facts", "name")

    def __init__(self, facts: Facts, static: Mapping[str, Names]) -> None:
        self.facts = facts
        self.name = folded(facts.user) if facts.user is not None else None
        at = self.name.rfind("@") if self.name is not None else -1
        self.domain = self.name[at + 1 :] if self.name is not None and at >= 0 else None
        self._static = static
        self._groups: frozenset[str] | None = None
        self._country: str | None = None

    @property
    def groups(self) -> frozenset[str]:
        """Groups of the look-up and of the config. Only asked when the user is known."""
        if self._groups is None:
            name, domain = self.name or "", self.domain
            named = (group for group, names in self._static.items() if names.match(name, domain))
            self._groups = self.facts.groups.union(named)
        return self._groups

    @property
    def country(self) -> str:
        """Where the client is, or ``unknown``."""
        if self._country is None:
            client = self.facts.client
            self._country = UNKNOWN if client is None else self.facts.locate(client)
        return self._country


Test = Callable[[Look], bool | None]


class Tests:
    """The keys of one ``when`` or ``unless``, cheap ones first."""

    __slots__ = ("by_name", "domains", "groups", "keys", "names")

    def __init__(self, condition: Condition, zone: tzinfo | None) -> None:
        self.names = Names(condition.user) if condition.user is not None else None
        self.domains = frozenset(map(folded, condition.domain)) if condition.domain is not None else None
        self.groups = frozenset(condition.group) if condition.group is not None else None
        keys = dict(self._compiled(condition, hours(condition.hours, zone or UTC) if condition.hours else None))
        self.keys: tuple[tuple[str, Test], ...] = tuple((key, keys[key]) for key in _CHEAPEST if key in keys)
        self.by_name = any(key in ("user", "domain", "group") for key in keys)

    def _compiled(self, condition: Condition, windows: Hours | None) -> Iterable[tuple[str, Test]]:
        names, domains, groups = self.names, self.domains, self.groups
        if names is not None:
            yield "user", lambda look: None if look.name is None else names.match(look.name, look.domain)
        if domains is not None:
            yield "domain", lambda look: None if look.name is None else look.domain in domains
        if groups is not None:
            yield "group", lambda look: None if look.name is None else not groups.isdisjoint(look.groups)
        if condition.network is not None:
            networks = condition.network
            yield "network", lambda look: inside(look.facts.client, networks)
        if condition.country is not None:
            countries = frozenset(condition.country)
            yield "country", lambda look: look.country in countries
        if condition.listener is not None:
            listeners = frozenset(condition.listener)
            yield "listener", lambda look: look.facts.listener in listeners
        if condition.tls is not None:
            tls = condition.tls
            yield "tls", lambda look: None if look.facts.tls is None else secure(look.facts.tls, tls)
        if condition.mechanism is not None:
            mechanisms = frozenset(condition.mechanism)
            yield "mechanism", lambda look: None if look.facts.mechanism is None else look.facts.mechanism in mechanisms
        if windows is not None:
            yield "hours", lambda look: windows.holds(look.facts.now)

    def all_hold(self, look: Look) -> bool | None:
        """Of ``when``: every key holds. None when that is open."""
        known: bool | None = True
        for _, test in self.keys:
            found = test(look)
            if found is False:
                return False
            if found is None:
                known = None
        return known

    def none_holds(self, look: Look) -> bool | None:
        """Of ``unless``: no key holds. None when that is open."""
        known: bool | None = True
        for _, test in self.keys:
            found = test(look)
            if found:
                return False
            if found is None:
                known = None
        return known


_CHEAPEST = ("listener", "tls", "mechanism", "domain", "user", "group", "hours", "network", "country")


def inside(client: Address | None, networks: Iterable[Network]) -> bool:
    """Whether ``client`` is in one of ``networks``; without an address it is in none."""
    return client is not None and any(client in network for network in networks)


def secure(version: str, wanted: bool | str) -> bool:
    """Whether a leg with TLS ``version`` (``""``: in the clear) is as ``wanted``: with or without, or at least that."""
    if isinstance(wanted, bool):
        return bool(version) is wanted
    return version in TLS_VERSIONS and TLS_VERSIONS.index(version) >= TLS_VERSIONS.index(wanted)
