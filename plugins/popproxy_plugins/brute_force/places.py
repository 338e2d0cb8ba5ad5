"""Which keys of the store a login is about, and the hashes that stand in them for names and passwords.

A place is an IPv4 address or an IPv6 network of 64 bits, because whoever has one address of such a network has all of
them; the network around it has 24 or 48 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address
from secrets import token_bytes

from popproxy.api import Bearer, Credentials, Digest, External, Get, Mark, Password, Put, Verified
from popproxy_plugins.brute_force.bans import keys
from popproxy_plugins.brute_force.config import BruteForceConfig, Level
from popproxy_plugins.clients import Address, Network, name_key, network_of

KEY = "key"
"""Where the key of the hashes is, when the operator gives none."""
REFRESH = 86400.0
"""Seconds after which a success at a place is noted again."""
BLIND = 600.0
"""Seconds for which a failure without a password counts at most."""
ROOM = 32
"""So many more than the largest threshold are kept of each kind of failure."""
_SHORT = 2
"""Octets of a hash that stands for a password: enough to tell some hundred apart, too few to try passwords against."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where somebody comes from."""

    address: Address
    place: Network
    around: Network

    @staticmethod
    def of(address: Address) -> Origin:
        """The place and the network of ``address``."""
        v4 = isinstance(address, IPv4Address)
        return Origin(address, network_of(address, 32 if v4 else 64), network_of(address, 24 if v4 else 48))


@dataclass(frozen=True, slots=True)
class Tried:
    """What a failure will be noted as. ``password`` None: none was seen (SCRAM, APOP, CRAM-MD5)."""

    user: str
    """The key that stands for the name; empty for no name."""
    name: bytes
    password: bytes | None
    pair: bytes | None


class Hashes:
    """Keyed, so that who reads the store without the key learns nothing of names."""

    def __init__(self, key: bytes) -> None:
        self.key = key[:64]

    def tried(self, user: str, credentials: Credentials | None) -> Tried:
        """What ``credentials`` (None: never seen) of ``user`` are noted as."""
        name = name_key(user, self.key)
        secret = _secret(credentials)
        short = None if secret is None else self._short(b"password", secret)
        pair = None if secret is None else self._short(b"pair", name.encode() + secret)
        return Tried(name if user else "", self._short(b"name", name.encode()), short, pair)

    def _short(self, kind: bytes, data: bytes) -> bytes:
        return blake2b(data, digest_size=_SHORT, key=self.key, person=kind).digest()


def _secret(credentials: Credentials | None) -> bytes | None:
    match credentials:
        case Password(password=password):
            return password
        case Bearer(token=token):
            return token
        case None | Digest() | Verified() | External():
            return None


class Looked:
    """The steps of on_login, for one run."""

    def __init__(self, config: BruteForceConfig, origin: Origin, user: str) -> None:
        self.key = Get(KEY) if config.secret is None else None
        self.bans = [Get(key) for key in keys(origin.address)]
        self.pairs = Mark(f"pairs {origin.place}", None, config.window, most(config.address))
        self.around = Mark(f"pairs {origin.around}", None, config.window, most(config.network))
        self.known: Get | None = None
        self.near: Get | None = None
        self.own: Mark | None = None
        self.passwords: Mark | None = None
        if user:
            self.known = Get(_known(user, origin.place))
            self.near = Get(_known(user, origin.around))
            self.own = Mark(_own(user, origin.place), None, config.window, _most_own(config))
            self.passwords = Mark(f"user {user}", None, config.window, _most_user(config))

    def steps(self) -> list[Get | Mark]:
        """All of them."""
        others = (self.key, self.known, self.near, self.own, self.passwords)
        return [*self.bans, self.pairs, self.around, *(step for step in others if step is not None)]


class Noted:
    """The steps for a stranger's failure: different pairs, names and passwords of the place and of the network, and how
    often each was banned before."""

    def __init__(self, config: BruteForceConfig, origin: Origin, tried: Tried) -> None:
        window = config.window
        # A try without a password is one of its own, for a shorter time.
        life = window if tried.pair is not None else min(window, BLIND)
        pair, password = tried.pair or token_bytes(_SHORT), tried.password or token_bytes(_SHORT)
        self.levels: list[tuple[Network, Level, dict[str, Mark], Mark]] = []
        for network, level in ((origin.place, config.address), (origin.around, config.network)):
            room = most(level)
            marks = {
                "pairs": Mark(f"pairs {network}", pair, life, room),
                "names": Mark(f"names {network}", tried.name, window, room),
                "passwords": Mark(f"passwords {network}", password, life, room),
            }
            self.levels.append((network, level, marks, Mark(f"bans {network}", None, config.ban.memory, 16)))
        self.user: Mark | None = None
        if tried.user:
            self.user = Mark(f"user {tried.user}", password, life, _most_user(config))

    def steps(self) -> list[Mark]:
        """All of them."""
        found = [mark for _, _, marks, before in self.levels for mark in (*marks.values(), before)]
        return found if self.user is None else [*found, self.user]


def own_failure(config: BruteForceConfig, origin: Origin, tried: Tried) -> Mark:
    """The step for a failure of a user where this user is known."""
    life = config.window if tried.password is not None else min(config.window, BLIND)
    member = tried.password or token_bytes(_SHORT)
    return Mark(_own(tried.user, origin.place), member, life, _most_own(config))


def success(config: BruteForceConfig, origin: Origin, user: str, now: float) -> list[Put]:
    """The steps that make ``user`` known at the place and near in the network."""
    value = b"%d" % now
    keep = max(config.known.keep, 2 * REFRESH)
    return [Put(_known(user, origin.place), value, keep), Put(_known(user, origin.around), value, keep)]


def is_fresh(value: bytes | None, now: float) -> bool:
    """Whether a success that was noted so needs no further note now."""
    return value is not None and value.isdigit() and now - int(value) < REFRESH


def most(level: Level) -> int:
    """How many failures of a kind are kept for an address or network."""
    return max(level.delay, level.pairs, level.names, level.passwords) * 2 + ROOM


def _most_own(config: BruteForceConfig) -> int:
    return max(config.known.delay, config.known.passwords) * 2 + ROOM


def _most_user(config: BruteForceConfig) -> int:
    return max(config.user.delay, config.user.passwords, config.user.everybody) * 2 + ROOM


def _known(user: str, network: Network) -> str:
    return f"known {user} {network}"


def _own(user: str, place: Network) -> str:
    return f"own {user} {place}"
