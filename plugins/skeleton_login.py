"""A plugin about logins to copy. It works: ``use = "skeleton_login:Keys"`` with this folder on PYTHONPATH.

It makes SCRAM possible: README.md explains it under "Making mechanisms possible". Run it to test it:
``python plugins/skeleton_login.py``.
"""

from __future__ import annotations

from pydantic import Field, SecretStr

from popproxy.api import (
    Credentials,
    Explained,
    Fail,
    Password,
    Plugin,
    PluginConfig,
    Route,
    Services,
    SessionView,
    Verified,
    Verifier,
)


class KeysConfig(PluginConfig):
    """Options. In earnest verifiers come from a file or a look-up, and no password is kept."""

    user: str = Field(default="joe", description="who may log in by SCRAM")
    password: SecretStr = Field(default=SecretStr("sesame"), description="the password")


class Keys(Plugin[KeysConfig]):
    """Proves a user by SCRAM; the upstream is told the password."""

    fail = Fail.CLOSED
    mechanisms = frozenset({"SCRAM-SHA-256"})

    def start(self, services: Services) -> None:
        self._threads = services.threads

    async def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Verifier | None:
        # None for who is not known here: such a client reads a made-up salt and fails as with a wrong password.
        if user != self.config.user:
            return None
        password = self.config.password.get_secret_value()
        return await self._threads.run(Verifier.derive, mechanism, password, b"always the same", 4096)

    def on_login(self, session: SessionView, credentials: Credentials) -> Route | None:
        # No upstream can be told that the proxy knows who it is: it gets what it can judge.
        if not isinstance(credentials, Verified):
            return None
        password = self.config.password.get_secret_value().encode()
        return Route(None, Password(credentials.user, password, credentials.authzid))

    def explain(self, session: SessionView, user: str) -> Explained | None:
        return Explained(("may log in by SCRAM-SHA-256",)) if user == self.config.user else None


SCRIPT = r"""
S: +OK POP3 ready
C: AUTH
@ connect
U< +OK upstream
U> CAPA
U< -ERR no CAPA
S: +OK
S: SCRAM-SHA-256
S: PLAIN
S: LOGIN
S: .
# the nonces of a play are nonce1, nonce2 and so on, so an exchange can be written down
C: AUTH SCRAM-SHA-256 biwsbj1qb2Uscj1jbGllbnQ=
S: + cj1jbGllbnRub25jZTEscz1ZV3gzWVhseklIUm9aU0J6WVcxbCxpPTQwOTY=
C: Yz1iaXdzLHI9Y2xpZW50bm9uY2UxLHA9KzBHY2pmdGRwT1VIdHVXblB4TW1paGVYUytlYktudFhpengvWUlIem0wZz0=
S: + dj1rUVUrbkc0MjZkR0h6aUh1dmxUNm1sS3orbEpDS2ZxcnFyZHNzYWwwU3VFPQ==
C:
U> USER joe
U< +OK
U> PASS sesame
U< +OK logged in
S: +OK logged in
"""

if __name__ == "__main__":
    from popproxy.api.testing import play

    play(Keys(KeysConfig()), SCRIPT)
