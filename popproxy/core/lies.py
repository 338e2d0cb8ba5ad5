"""What makes a verdict a lie (promise 7): the wrong kind, a value no wire can carry, a code smuggled into a text.

A plugin's verdict is data from a stranger. api/verdicts.py refuses wrong types where a verdict is made; here the
values are looked at before anything is made of them. What does not hold is the plugin's failure, as if it had raised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from popproxy.api.bodies import BodyFilter
from popproxy.api.credentials import Bearer, Credentials, Digest, Password, Verified
from popproxy.api.pace import Pace
from popproxy.api.padding import LEAST_GROWTH
from popproxy.api.plugin import OPTIONAL
from popproxy.api.verdicts import (
    Answer,
    Dates,
    Edit,
    Grow,
    Hangup,
    Hide,
    Hold,
    Keep,
    Refuse,
    Rename,
    Replace,
    Rewrite,
    Route,
    Sizes,
)
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.sasl import Verifier

ALLOWED: dict[str, tuple[type, ...]] = {
    "on_connect": (Refuse,),
    "on_capabilities": (Capabilities,),
    "on_verifier": (Verifier, Rename, Refuse),
    "on_login": (Refuse, Hold, Route),
    "on_login_result": (Answer, Refuse),
    "unneeded": (frozenset,),
    "growth": (int,),
    "pace": (Sequence,),
    "on_maildrop": (Hide, Sizes, Grow, Dates),
    "on_command": (Refuse, Rewrite, Answer, Keep, Dates, Hangup),
    "on_reply": (Answer,),
    "wants_message": (bool,),
    "open_body": (BodyFilter,),
    "on_message": (Edit, Replace, Refuse),
}
"""What each hook may return beside None."""

_UNSAFE = re.compile(rb"[\0\r\n]")
_CAPABILITY = re.compile(rb"[!-\-/-~][!-~]*(?: [!-~]+)*")
_LINE = 510


class Lie(ValueError):
    """A verdict that cannot stand where it was given: the plugin's failure. The text is fit for the log."""


def check(hook: str, verdict: object) -> None:
    """Raises Lie when ``verdict`` cannot be one of ``hook``."""
    if not isinstance(verdict, ALLOWED[hook]):
        allowed = ", ".join(kind.__name__ for kind in ALLOWED[hook])
        raise Lie(f"returned {type(verdict).__name__}; allowed: {allowed} or None")
    if hook == "unneeded":
        _check_names(verdict)
    elif hook == "pace":
        _check_paces(verdict)
    elif isinstance(verdict, Grow) or hook == "growth":
        _check_octets(verdict.octets if isinstance(verdict, Grow) else verdict)
    elif isinstance(verdict, Refuse | Answer | Keep):
        # Promise 8: a client reads [AUTH] at the beginning of a text as a code, whoever wrote it.
        if (isinstance(verdict, Keep) or verdict.code is None) and verdict.text.startswith("["):
            raise Lie(f"{type(verdict).__name__}: a text that begins with [ is read as a code; write code=Code...")
    elif isinstance(verdict, Route):
        if verdict.credentials is not None:
            wrong = unsendable(verdict.credentials)
            if wrong is not None:
                raise Lie(f"Route: {wrong}")
        if verdict.groups is not None and not all(verdict.groups):
            raise Lie("Route: a group without a name")
    elif isinstance(verdict, Rename):
        if not verdict.user:
            raise Lie("Rename: the user name is empty")
    elif isinstance(verdict, Sizes):
        if any(octets < 0 for octets in verdict.octets.values()):
            raise Lie("Sizes: a size below 0")
    elif isinstance(verdict, Capabilities):
        for line in verdict.lines():
            if len(line) > _LINE or _CAPABILITY.fullmatch(line) is None:
                raise Lie(f"{line[:80]!r} is no capability line (RFC 2449 section 3)")


def _check_names(names: object) -> None:
    assert isinstance(names, frozenset)
    wrong = [name for name in names if name not in OPTIONAL]
    if wrong:
        raise Lie(f"unneeded: {wrong[0]!r} is none of {', '.join(sorted(OPTIONAL))}")


def _check_paces(paces: object) -> None:
    assert isinstance(paces, Sequence)
    for pace in paces:
        if not isinstance(pace, Pace):
            raise Lie(f"pace: {type(pace).__name__} in the list; only Pace may be")


def _check_octets(growth: object) -> None:
    if not isinstance(growth, int) or isinstance(growth, bool) or (growth != 0 and growth < LEAST_GROWTH):
        raise Lie(f"a growth of {growth!r}: 0, or at least {LEAST_GROWTH} octets")


def check_growth(made: BodyFilter, announced: int | None) -> None:
    """Raises Lie for a filter whose growth cannot be, or is not what its plugin ``announced`` (None: it never does)."""
    _check_octets(made.growth)
    if announced is not None and made.growth != announced:
        raise Lie(f"a filter with growth={made.growth}, but the plugin announced {announced}: give it that growth")


def unsendable(credentials: Credentials) -> str | None:
    """Why ``credentials`` can be sent nowhere, as a text for the log; None when they can.

    Octets of a name that are no UTF-8 can travel (as surrogates); CR, LF and NUL never do: they would end the line
    and begin another command, or cut a name short for a server that thinks in C strings.
    """
    words: tuple[str, ...] = (credentials.user,)
    octets: tuple[bytes, ...] = ()
    if isinstance(credentials, Password):
        words, octets = (credentials.user, credentials.authzid), (credentials.password,)
    elif isinstance(credentials, Bearer):
        words, octets = (credentials.user, credentials.authzid), (credentials.token,)
    elif isinstance(credentials, Digest):
        octets = credentials.challenge, credentials.response
    elif isinstance(credentials, Verified):
        words = credentials.user, credentials.authzid
    try:
        names = " ".join(words).encode("utf-8", "surrogateescape")
        if _UNSAFE.search(b" ".join((names, *octets))):
            return "CR, LF or NUL in the credentials"
    except (AttributeError, TypeError, UnicodeError):
        return "credentials with a field of the wrong type, or a name that has no octets"
    # A token says itself whose it is.
    if not (words[0] or isinstance(credentials, Bearer)) or b"" in octets:
        return "the user name or the secret is empty"
    return None
