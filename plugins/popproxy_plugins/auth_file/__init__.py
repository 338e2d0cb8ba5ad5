"""auth_file: a users file in Dovecot's passwd-file shape says who may log in, with which password, and where to.

Hashes are checked in the worker's threads. Whoever is not in the file costs as much time, and reads the same words, as
somebody with a wrong password.
"""

from __future__ import annotations

import asyncio
import hmac
from contextlib import nullcontext
from dataclasses import replace
from hashlib import md5, sha256
from secrets import token_bytes
from typing import Literal

from pydantic import Field, field_validator

from popproxy.api import (
    Bearer,
    Code,
    ConfigNames,
    Counter,
    Credentials,
    Digest,
    Explained,
    External,
    Fail,
    LineError,
    Password,
    Plugin,
    PluginConfig,
    Problem,
    ReadableFile,
    Refuse,
    Rename,
    Route,
    ServerAddress,
    Services,
    SessionView,
    Unavailable,
    Verified,
    Verifier,
    WatchedFile,
)
from popproxy_plugins.auth_file.schemes import EXTRA, KNOWN, missing
from popproxy_plugins.auth_file.users import User, Users, read

Mechanism = Literal["SCRAM-SHA-256", "SCRAM-SHA-1", "APOP", "CRAM-MD5"]

_RESULTS = ("proven", "known", "wrong", "unknown", "denied")
_FAILED = "Authentication failed"


class AuthFileConfig(PluginConfig):
    """The file, and who judges passwords."""

    path: ReadableFile = Field(
        description="the users file: `user:password:uid:gid:gecos:home:shell:extra fields`",
        examples=["/etc/popproxy/users"],
    )
    check: Literal["here", "upstream"] = Field(
        default="here",
        description="who judges passwords: `here` against the file, or the `upstream` and the file only says where to",
    )
    unknown: Literal["refuse", "pass"] | None = Field(
        default=None,
        description="users who are not in the file: refused, or passed on as they are; without it `refuse` with "
        '`check = "here"`, `pass` with `check = "upstream"`',
    )
    scheme: str = Field(default="CRYPT", description="scheme of passwords that have none in braces")
    ignore_case: bool = Field(default=True, description="names compare without case")
    mechanisms: tuple[Mechanism, ...] = Field(
        default=("SCRAM-SHA-256", "SCRAM-SHA-1"),
        description='mechanisms to offer, where the file holds what they need and `check = "here"`',
    )
    passwords_behind: bool = Field(
        default=False,
        description="whether a plugin behind this one brings the password for the upstream (`auth_rewrite` with "
        "`master`): then users whose password is not known may log in by SCRAM, too",
    )

    @field_validator("scheme")
    @classmethod
    def _is_known(cls, scheme: str) -> str:
        if scheme.upper() not in KNOWN:
            raise ValueError(f"{scheme!r} is no scheme; write one of {', '.join(KNOWN)}")
        return scheme.upper()


class AuthFile(Plugin[AuthFileConfig]):
    """A users file says who may log in, with which password, and at which server."""

    fail = Fail.CLOSED
    _file: WatchedFile[Users]
    _count: dict[str, Counter]

    def __init__(self, config: AuthFileConfig) -> None:
        super().__init__(config)
        self._here = config.check == "here"
        self._unknown = config.unknown or ("refuse" if self._here else "pass")
        self._upstreams: tuple[str, ...] | None = None
        self._key = token_bytes(32)
        self._one_by_one = asyncio.Lock()
        if not self._here:
            self.skips = frozenset({"on_verifier"})

    def _read(self, data: bytes) -> Users:
        config = self.config
        return read(
            data,
            scheme=config.scheme,
            judged_here=self._here,
            ignore_case=config.ignore_case,
            upstreams=self._upstreams,
            key=self._key,
        )

    def check(self, names: ConfigNames) -> list[Problem]:
        """The libraries are there, and so is every line of the file good."""
        self._upstreams = names.upstreams
        library = missing()
        if library is not None:
            return [Problem(("path",), f"auth_file needs the library {library}, which is not installed", EXTRA)]
        try:
            self._read(self.config.path.read_bytes())
        except LineError as error:
            return [Problem(("path",), f"{self.config.path}:{error.line}: {error}", "correct this line of the file")]
        except OSError as error:
            return [Problem(("path",), f"{self.config.path}: {error.strerror or error}", "make it readable")]
        return []

    def explain(self, session: SessionView, user: str) -> Explained:
        path = self.config.path
        try:
            found = self._read(path.read_bytes()).get(user)
        except (OSError, LineError) as error:
            return Explained((f"{path} cannot be used: {error}",), refused=True)
        if found is None:
            what = "refused" if self._unknown == "refuse" else "passed on as it is"
            return Explained((f"not in {path}: {what}",), refused=self._unknown == "refuse")
        judge = "popproxy" if self._here else "the upstream"
        steps = [f"line {found.line} of {path}; the password is judged by {judge}"]
        refused = found.disabled or not found.welcome(session.client or "unix")
        if refused:
            steps.append("disabled" if found.disabled else f"not from {session.client}")
        if found.host is not None:
            steps.append(f"goes to {found.host}" + (f" port {found.port}" if found.port else ""))
        if found.groups is not None:
            steps.append(f"groups {', '.join(found.groups)}")
        return Explained(tuple(steps), found.destuser, found.upstream, refused, groups=found.groups)

    async def start(self, services: Services) -> None:
        self._services = services
        self._count = services.metrics.counter("logins", "Logins by what the file says", "result", _RESULTS)
        self._backend = services.metrics.backend()
        self._file = await services.file(self.config.path, self._read, self._changed)

    def _changed(self, users: Users) -> None:
        offered = frozenset(self.config.mechanisms) if self._here else frozenset[str]()
        self.mechanisms = offered & users.mechanisms(self.config.passwords_behind)

    async def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Verifier | Rename | None:
        users = self._file.value
        found = users.get(user)
        name = users.spelled(user)
        secret = None if found is None else found.secret
        derived = None
        if users.plain:
            # For everybody, so that time does not tell whose password is kept in the clear, or at all.
            plain = secret.plain if secret is not None and secret.plain is not None else b"nobody"
            salt = hmac.digest(self._key, f"{mechanism} {name}".encode("utf-8", "surrogateescape"), sha256)[:16]
            derived = await self._services.threads.run(_derived, mechanism, plain, salt)
        verifier = None
        if secret is not None and secret.plain is not None:
            verifier = derived
        elif secret is not None and secret.scheme == mechanism:
            verifier = secret.verifier
        if verifier is not None or name == user:
            return verifier
        # Whoever tries several spellings sees one salt, as for a user who is there.
        return Rename(name)

    async def on_login(self, session: SessionView, credentials: Credentials) -> Route | Refuse | None:
        users = self._file.value
        found = users.get(credentials.user)
        try:
            proven = await self._proven(users, found, credentials)
        except Unavailable as error:
            return Refuse("Try again later", Code.SYS_TEMP, f"auth_file: {error}")
        if found is None:
            self._count["unknown"].inc()
            return None if self._unknown == "pass" else Refuse(_FAILED, Code.AUTH, "not in the users file")
        # A token is its issuer's to judge.
        if self._here and not proven and not isinstance(credentials, Bearer):
            self._count["wrong"].inc()
            return Refuse(_FAILED, Code.AUTH, "the password is wrong, or the file has none")
        denied = self._denied(found, session, credentials)
        if denied:
            self._count["denied"].inc()
            # Only who has proven to be this user may learn that the user exists.
            if proven:
                return Refuse("Login is not possible", Code.SYS_PERM, denied)
            return Refuse(_FAILED, Code.AUTH, denied)
        self._count["proven" if proven else "known"].inc()
        return self._route(found, credentials, proven)

    async def _proven(self, users: Users, found: User | None, credentials: Credentials) -> bool:
        """Whether the proxy itself knows now that this is ``found``."""
        if isinstance(credentials, Verified | External):
            return found is not None
        if not self._here or isinstance(credentials, Bearer):
            return False
        secret = None if found is None else found.secret
        if isinstance(credentials, Digest):
            return secret is not None and secret.plain is not None and _answered(credentials, secret.plain)
        real = secret is not None
        secret = secret or users.stand_in(credentials.user)
        if secret is None:
            return False
        # argon2, bcrypt and PBKDF2 let other threads run; SHA-crypt does not, so one of them at a time.
        async with self._one_by_one if secret.slow_python else nullcontext():
            with self._backend.asked():
                proven = await self._services.threads.run(secret.proven, _password(credentials))
        return proven and real

    def _denied(self, found: User, session: SessionView, credentials: Credentials) -> str:
        """Why this user may not log in now; empty when nothing is against it."""
        if found.disabled:
            return "the user is disabled"
        if not found.welcome(session.client):
            return "the client's address is not in allow_nets"
        acts_as = "" if isinstance(credentials, External | Digest | Bearer) else credentials.authzid
        if acts_as not in ("", credentials.user) and (found.password is not None or isinstance(credentials, Verified)):
            # The upstream would judge it by a password that is not the client's.
            return "an authorization identity beside a password of the file"
        return ""

    def _route(self, found: User, credentials: Credentials, proven: bool) -> Route | None:
        name = found.destuser if found.destuser is not None else credentials.user
        new: Credentials | None = None
        if isinstance(credentials, Password):
            password = credentials.password if found.password is None else found.password
            new = Password(name, password, "" if credentials.authzid == credentials.user else credentials.authzid)
            if new == credentials:
                new = None
        elif proven and found.sendable is not None:
            new = Password(name, found.sendable)
        elif name != credentials.user:
            # The upstream judges it, or a plugin behind this one brings the password.
            new = replace(credentials, user=name)
            if isinstance(new, Verified):
                # _denied() has let nobody through who would act as another one.
                new = Verified(name)
        server = None if found.host is None else ServerAddress(found.host, found.port, found.tls)
        route = Route(found.upstream, new, server, groups=found.groups)
        return None if route == Route() else route


def _password(credentials: Credentials) -> bytes:
    return credentials.password if isinstance(credentials, Password) else b""


def _answered(digest: Digest, password: bytes) -> bool:
    if digest.mechanism == "APOP":
        made = md5(digest.challenge + password, usedforsecurity=False).hexdigest()
    else:
        made = hmac.new(password, digest.challenge, "md5").hexdigest()
    return hmac.compare_digest(made.encode(), digest.response)


def _derived(mechanism: str, password: bytes, salt: bytes) -> Verifier | None:
    try:
        return Verifier.derive(mechanism, password.decode("utf-8"), salt)
    except ValueError:
        # A password that SCRAM cannot have (RFC 4013).
        return None
