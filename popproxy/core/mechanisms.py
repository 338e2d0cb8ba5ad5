"""Which mechanisms an upstream is spoken to by, and which of them can carry which credentials.

One rule for two questions: what is used for a login, and what is announced to clients because it could succeed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from popproxy.api.credentials import Bearer, Credentials, Password
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.sasl import CLIENT_MECHANISMS, ClientMechanism, Identity, SaslError, Secret

USER = "USER"
"""USER and PASS, which is no SASL."""
PASSWORDS: tuple[str, ...] = (USER, "PLAIN", "LOGIN", "SCRAM-SHA-256")
"""By which a password logs in, in the order in which ``auto`` takes them.

SCRAM is the last: servers announce it whether or not they hold the keys of this very user, and what they answer
when they do not looks like a wrong password.
"""
TOKENS: tuple[str, ...] = ("OAUTHBEARER", "XOAUTH2")
"""By which a token logs in, in order."""


def spoken(policy: UpstreamPolicy, known: Capabilities | None) -> tuple[str, ...]:
    """The mechanisms that may be used upstream, the preferred first.

    The configured one and no other; with ``auto`` those that the upstream announces. USER and PASS also when it
    announces nothing that the proxy speaks: not every server has CAPA, and not every CAPA has USER.
    """
    if policy.mechanism != "auto":
        return (policy.mechanism.upper(),)
    if known is None:
        return (USER,)
    return _announced(known)


@lru_cache(64)
def _announced(known: Capabilities) -> tuple[str, ...]:
    """See spoken(). Remembered: each login asks, and servers seldom change."""
    offered = {name.upper().decode("ascii", "replace") for name in known.parameters(b"SASL")}
    if b"USER" in known:
        offered.add(USER)
    return tuple(name for name in PASSWORDS + TOKENS if name in offered) or (USER,)


def choose(
    policy: UpstreamPolicy, credentials: Credentials, known: Capabilities | None, nonce: Callable[[], bytes]
) -> ClientMechanism | None | str:
    """What logs in: the client's side of a mechanism, None for USER and PASS, or a text for the log why nothing can."""
    names = spoken(policy, known)
    why = ""
    for name in names:
        if isinstance(credentials, Password):
            suits, secret, kind = name in PASSWORDS, credentials.password, Secret.PASSWORD
        elif isinstance(credentials, Bearer):
            suits, secret, kind = name in TOKENS, credentials.token, Secret.TOKEN
        else:
            break
        if not suits or (name == USER and credentials.authzid):
            continue
        if name == USER:
            return None
        try:
            identity = Identity(credentials.user, credentials.authzid, secret, kind)
            return CLIENT_MECHANISMS[name.encode()](identity, nonce())
        except SaslError as error:
            why = f"; {name}: {error}"
    return f"{policy.name} is spoken to by {', '.join(names)}, which cannot carry {_kind(credentials)}{why}"


def _kind(credentials: Credentials) -> str:
    if isinstance(credentials, Password | Bearer):
        kind = "a password" if isinstance(credentials, Password) else "a token"
        return f"{kind} with an authorization identity" if credentials.authzid else kind
    return f"{type(credentials).__name__}: a plugin must turn it into a password or a token"
