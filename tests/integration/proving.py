"""A plugin for the real proxy: it proves clients by every mechanism there is, and has what the upstream wants."""

from __future__ import annotations

import hashlib
import hmac

from pydantic import SecretStr

from popproxy.api import (
    Bearer,
    Code,
    Credentials,
    Digest,
    Password,
    Plugin,
    PluginConfig,
    Refuse,
    Route,
    SessionView,
    Verified,
    Verifier,
)


class ProvingConfig(PluginConfig):
    """One user. Without ``upstream_token`` the upstream is told the password."""

    user: str
    password: SecretStr
    token: SecretStr
    upstream_token: bool = False


class Proving(Plugin[ProvingConfig]):
    """See the head of this file."""

    mechanisms = frozenset({"USER", "SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2", "CRAM-MD5", "APOP"})

    def __init__(self, config: ProvingConfig) -> None:
        super().__init__(config)
        self._password = config.password.get_secret_value().encode()
        self._token = config.token.get_secret_value().encode()

    async def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Verifier | None:
        if user != self.config.user:
            return None
        return Verifier.derive(mechanism, self._password.decode(), b"sixteen octets  ", 4096)

    def on_login(self, session: SessionView, credentials: Credentials) -> Route | Refuse:
        match credentials:
            case Password(password=secret):
                good = secret == self._password
            case Bearer(token=secret):
                good = secret == self._token
            case Digest(mechanism="APOP", challenge=challenge, response=response):
                good = hashlib.md5(challenge + self._password).hexdigest().encode() == response
            case Digest(challenge=challenge, response=response):
                good = hmac.new(self._password, challenge, "md5").hexdigest().encode() == response
            case _:
                good = isinstance(credentials, Verified)
        if not good or credentials.user != self.config.user:
            return Refuse("Authentication failed", Code.AUTH, "wrong")
        if self.config.upstream_token:
            return Route(None, Bearer(credentials.user, self._token))
        return Route(None, Password(credentials.user, self._password))
