"""Plugins that a transcript may name: ``:plugins keys`` above its steps. They make mechanisms possible."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Any

from popproxy.api import (
    Bearer,
    Code,
    Credentials,
    Digest,
    Hold,
    LoginResult,
    Password,
    Plugin,
    PluginConfig,
    Refuse,
    Rename,
    Route,
    SessionView,
    Verified,
    Verifier,
)
from popproxy.api.transcript import Transcript

SESAME = {"joe": "sesame", "jürgen": "pässword"}
"""Users and their passwords."""


class Keys(Plugin[PluginConfig]):
    """Holds verifiers, and logs proven users in with the password of a master user."""

    mechanisms = frozenset({"SCRAM-SHA-256", "SCRAM-SHA-1"})

    def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Verifier | Rename | Refuse | None:
        if user == "alias":
            return Rename("joe")
        if user == "locked":
            return Refuse("Not today", Code.SYS_PERM)
        password = SESAME.get(user)
        return None if password is None else Verifier.derive(mechanism, password, b"salt", 4096)

    def on_login(self, session: SessionView, credentials: Credentials) -> Route | None:
        if isinstance(credentials, Verified):
            return Route(None, Password(f"{credentials.user}*master", b"key", credentials.authzid))
        return None


class SlowKeys(Keys):
    """The same, as if it had to ask somebody."""

    async def on_verifier(  # type: ignore[override]
        self, session: SessionView, user: str, mechanism: str
    ) -> Verifier | Rename | Refuse | None:
        return Keys.on_verifier(self, session, user, mechanism)


class OnlyKeys(Keys):
    """Holds verifiers, and forgets that no upstream can be told of a proven user."""

    def on_login(self, session: SessionView, credentials: Credentials) -> None:
        return None


class Judge(Plugin[PluginConfig]):
    """Knows the passwords, so it can judge answers to challenges."""

    mechanisms = frozenset({"APOP", "CRAM-MD5"})

    def on_login(self, session: SessionView, credentials: Credentials) -> Route | Refuse | None:
        if not isinstance(credentials, Digest):
            return None
        password = SESAME.get(credentials.user, "").encode()
        if credentials.mechanism == "APOP":
            right = hashlib.md5(credentials.challenge + password).hexdigest()
        else:
            right = hmac.new(password, credentials.challenge, "md5").hexdigest()
        if password and hmac.compare_digest(right.encode(), credentials.response):
            return Route(None, Password(credentials.user, password))
        return Refuse("Authentication failed", Code.AUTH, "the digest is wrong")


class Names(Plugin[PluginConfig]):
    """Makes challenges possible and does nothing about their answers."""

    mechanisms = frozenset({"APOP", "CRAM-MD5"})


class Tokens(Plugin[PluginConfig]):
    """Knows which tokens are good, for an upstream that wants passwords."""

    mechanisms = frozenset({"OAUTHBEARER", "XOAUTH2"})

    def on_login(self, session: SessionView, credentials: Credentials) -> Route | Refuse | None:
        if not isinstance(credentials, Bearer):
            return None
        if credentials.token == b"down":
            return Refuse("Try again later", Code.SYS_TEMP, "the issuer does not answer")
        if credentials.token != b"good":
            return Refuse("Authentication failed", Code.AUTH, "the token is not good")
        return Route(None, Password(credentials.user or "owner", b"sesame"))


class Bridge(Plugin[PluginConfig]):
    """Gets a token for a password, for an upstream that wants tokens."""

    mechanisms = frozenset({"USER"})

    def on_login(self, session: SessionView, credentials: Credentials) -> Route | None:
        if isinstance(credentials, Password):
            return Route(None, Bearer(credentials.user, b"for-" + credentials.password, credentials.authzid))
        return None


class Doorkeeper(Plugin[PluginConfig]):
    """Lets some wait, and looks at others again when the upstream has let them in."""

    def on_login(self, session: SessionView, credentials: Credentials) -> Hold | Refuse | None:
        if credentials.user.startswith("held"):
            return Hold(3, "came too often")
        if credentials.user == "limited":
            return Refuse("Too many logins", Code.SYS_TEMP, "3 in a minute", limited=True)
        return None

    def on_login_result(self, session: SessionView, result: LoginResult) -> Refuse | None:
        if session.user == "barred":
            return Refuse("Too many sessions", Code.IN_USE, "2 sessions", limited=True) if result.ok else None
        if session.user == "slow" and not result.ok:
            return Refuse("Wrong, and slowly", delay=2)
        if session.user == "last" and not result.ok:
            return Refuse("Wrong, for the last time", close=True)
        return None


class SlowDoorkeeper(Doorkeeper):
    """The same, as if it had to ask somebody."""

    async def on_login(  # type: ignore[override]
        self, session: SessionView, credentials: Credentials
    ) -> Hold | Refuse | None:
        return Doorkeeper.on_login(self, session, credentials)

    async def on_login_result(  # type: ignore[override]
        self, session: SessionView, result: LoginResult
    ) -> Refuse | None:
        return Doorkeeper.on_login_result(self, session, result)


PLUGINS: dict[str, type[Plugin[Any]]] = {
    "keys": Keys,
    "slow_keys": SlowKeys,
    "only_keys": OnlyKeys,
    "judge": Judge,
    "names": Names,
    "tokens": Tokens,
    "bridge": Bridge,
    "doorkeeper": Doorkeeper,
    "slow_doorkeeper": SlowDoorkeeper,
}


def cast(transcript: Transcript) -> tuple[list[Plugin[Any]], Transcript]:
    """The plugins it names, and the transcript without that option."""
    options = dict(transcript.options)
    made = [PLUGINS[name](PluginConfig()) for name in options.pop("plugins", "").split()]
    return made, replace(transcript, options=options)
