"""auth_http: asks an HTTP server who may log in, with which name and password, and at which server.

The contract is that of nginx's ngx_mail_auth_http_module, so a back end that was written for it works unchanged;
docs/plugins/auth_http.md says what differs. Headers are made in request.py and read in reply.py; here is who is asked
and what becomes of the answer.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from hashlib import sha256
from hmac import digest
from secrets import token_bytes
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from popproxy.api import (
    Code,
    ConfigNames,
    Counter,
    Credentials,
    Explained,
    Fail,
    HttpFailed,
    HttpReply,
    LoginResult,
    Lookup,
    LookupFailed,
    Password,
    Plugin,
    PluginConfig,
    Problem,
    ReadableFile,
    Refuse,
    Route,
    ServerAddress,
    Services,
    SessionView,
    Slot,
    Unavailable,
)
from popproxy_plugins.auth_http.reply import Again, Answer, BadReply, Granted, Refused, read
from popproxy_plugins.auth_http.request import Headers, headers

AWAY = "Mail server not available, try again later"

_UNIX = re.compile(r"unix:(/[^:?#]*)(?::(/.*))?")
_RESULTS = ("granted", "refused", "wait", "bad", "down")


@dataclass(slots=True)
class Server:
    """One of the back end's servers. It is asked last until ``away``, in seconds of the clock."""

    name: str
    url: str
    unix: str | None = None
    away: float = 0.0


def server(text: str) -> Server:
    """The server that ``text`` names. Raises ValueError."""
    match = _UNIX.fullmatch(text)
    if match is not None:
        return Server(f"unix:{match[1]}", f"http://localhost{match[2] or '/'}", match[1])
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise ValueError('a password in a URL is no secret: write it as secret = { file = "..." }')
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.fragment and parts.port != 0
    except ValueError:
        parts, good = urlsplit(""), False
    if not good or any(sign <= " " for sign in text):
        raise ValueError(f"{text!r}: write http://host:port/path, https://host/path or unix:/socket:/path")
    return Server(parts.netloc, text)


class AuthHttpConfig(PluginConfig):
    """Whom to ask, and how."""

    servers: tuple[str, ...] = Field(
        min_length=1,
        description="URLs of the back end, asked in this order: `http://host:port/path`, `https://...`, "
        "`unix:/socket:/path`",
        examples=[["http://127.0.0.1:9000/auth"]],
    )
    ca_file: ReadableFile | None = Field(
        default=None, description="CA certificates for `https`; without it the system's"
    )
    timeout: float = Field(default=4.0, gt=0, le=600, description="seconds for one request to one server")
    retry_after: float = Field(default=10.0, ge=0, description="seconds for which a server that failed is asked last")
    headers: dict[str, str] = Field(default={}, description="further headers of each request, as auth_http_header")
    secret: SecretStr | None = Field(default=None, description="value of `secret_header`")
    secret_header: str = Field(default="X-Auth-Key", description="header that shows the back end who asks")
    pass_client_cert: bool = Field(default=False, description="send the client's certificate as Auth-SSL-Cert")
    client_host: bool = Field(
        default=False, description="look up the client's host name and send it as Client-Host"
    )
    mechanisms: tuple[Literal["APOP", "CRAM-MD5"], ...] = Field(
        default=(), description="mechanisms with a challenge that the back end can judge: `APOP`, `CRAM-MD5`"
    )
    upstream: str | None = Field(
        default=None, description="the upstream whose policy counts at the server that is named; the default one"
    )
    tls: Literal["off", "starttls", "implicit"] | None = Field(
        default=None, description="TLS at the server that is named; without it as at the upstream's own"
    )
    cache_ttl: float = Field(
        default=0.0, ge=0, description="seconds for which the same login is granted without asking again; 0: never"
    )
    cache_size: int = Field(default=10_000, ge=1, description="logins kept at most")

    @field_validator("servers")
    @classmethod
    def _are_servers(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for text in servers:
            server(text)
        return servers

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, given: dict[str, str]) -> dict[str, str]:
        for name, value in given.items():
            _check_name(name)
            if not value.isprintable():
                raise ValueError(f"the value of {name} holds a character that cannot be sent")
        return given

    @field_validator("secret_header")
    @classmethod
    def _is_name(cls, name: str) -> str:
        _check_name(name)
        return name

    @model_validator(mode="after")
    def _is_sendable(self) -> AuthHttpConfig:
        if self.secret is not None and not self.secret.get_secret_value().isprintable():
            raise ValueError("secret holds a character that cannot be sent")
        return self


def _check_name(name: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9_-]+", name) is None:
        raise ValueError(f"{name!r} is no header name: write letters, digits and -")
    if name.lower().startswith(("auth-", "client-", "proxy-protocol-")) or name.lower() in ("host", "connection"):
        raise ValueError(f"{name!r} is a header of the contract itself: choose another one")


_KEY: Slot[bytes] = Slot("auth_http_key", b"")


class AuthHttp(Plugin[AuthHttpConfig]):
    """Asks an HTTP server who may log in and where: nginx's mail auth_http contract."""

    fail = Fail.CLOSED
    _replies: Lookup[bytes, Granted] | None = None
    _hosts: Lookup[str, str] | None = None
    _count: dict[str, Counter]

    def __init__(self, config: AuthHttpConfig) -> None:
        super().__init__(config)
        self.mechanisms = frozenset(config.mechanisms)
        self._servers = [server(text) for text in config.servers]
        self._fixed = list(config.headers.items())
        if config.secret is not None:
            self._fixed.append((config.secret_header, config.secret.get_secret_value()))
        self._questions: dict[bytes, tuple[Headers, list[None]]] = {}
        self._hmac_key = token_bytes(32)
        if not config.cache_ttl:
            self.skips = frozenset({"on_login_result"})

    def check(self, names: ConfigNames) -> list[Problem]:
        found = [] if self.config.upstream is None else names.upstream(("upstream",), self.config.upstream)
        if self.config.ca_file is not None:
            try:
                ssl.create_default_context(cafile=self.config.ca_file)
            except OSError:
                message = f"{self.config.ca_file} holds no PEM certificate"
                found.append(Problem(("ca_file",), message, "write a file with -----BEGIN CERTIFICATE-----"))
        return found

    def explain(self, session: SessionView, user: str) -> Explained:
        asked = ", then ".join(server.name for server in self._servers)
        return Explained((f"asks {asked} who may log in, and at which server",), upstream=self.config.upstream)

    def start(self, services: Services) -> None:
        self._services = services
        self._count = services.metrics.counter("answers", "Answers of the HTTP back end", "result", _RESULTS)
        self._backend = services.metrics.backend()
        config = self.config
        if config.cache_ttl:
            self._replies = services.lookup(
                "replies",
                self._fetch,
                timeout=600.0,
                ttl=config.cache_ttl,
                negative_ttl=0.0,
                size=config.cache_size,
                backend=self._backend,
            )
        if config.client_host:
            self._hosts = services.lookup("hosts", self._host_name, timeout=config.timeout, ttl=300.0)

    async def on_login(self, session: SessionView, credentials: Credentials) -> Route | Refuse:
        config = self.config
        if isinstance(credentials, Password) and credentials.authzid not in ("", credentials.user):
            # The back end cannot be told of it, and the password it may give is not the client's.
            return Refuse("Log in as yourself", reason="auth_http has no place for an authorization identity")
        host = None if self._hosts is None else await self._client_host(self._hosts, session.client)
        asked = headers(session, credentials, host, config.pass_client_cert)
        if asked is None:
            return Refuse("Log in with a password", reason=f"auth_http cannot ask about {type(credentials).__name__}")
        try:
            answer = await self._answer(session, asked)
        except (Unavailable, BadReply) as error:
            return Refuse(AWAY, Code.SYS_TEMP, f"auth_http: {error}")
        if isinstance(answer, Refused):
            return Refuse(answer.text, answer.code, "refused by the back end", answer.wait, not answer.wait)
        password = credentials.password if isinstance(credentials, Password) else None
        if answer.password is not None:
            password = answer.password
        if password is None:
            self._count["bad"].inc()
            self._services.log.error("bad_reply", session=session.id, detail="no Auth-Pass, and the client gave none")
            return Refuse(AWAY, Code.SYS_TEMP, "auth_http: no Auth-Pass")
        user = credentials.user if answer.user is None else answer.user
        server = ServerAddress(answer.host, answer.port, config.tls)
        return Route(config.upstream, Password(user, password), server, groups=answer.groups)

    def on_login_result(self, session: SessionView, result: LoginResult) -> None:
        key = _KEY.get(session)
        if key and self._replies is not None and not result.ok:
            # Another password since, or another server.
            self._replies.forget(key)

    async def _answer(self, session: SessionView, asked: Headers) -> Granted | Refused:
        if self._replies is None or any(name == "Auth-Salt" for name, _ in asked):
            return await self._decide(asked)
        key = self._key(asked)
        _KEY.set(session, key)
        # Not as part of the key: the cache would keep the password for as long as the answer.
        _, waiting = self._questions.setdefault(key, (asked, []))
        waiting.append(None)
        try:
            found = await self._replies.get(key)
        except _NotGranted as refusal:
            return refusal.answer
        finally:
            waiting.pop()
            if not waiting:
                self._questions.pop(key, None)
        if found is None:
            raise LookupFailed("no answer")
        return found

    async def _fetch(self, key: bytes) -> Granted:
        answer = await self._decide(self._questions[key][0])
        if isinstance(answer, Refused):
            # Not kept: attempts are the back end's to count.
            raise _NotGranted(answer)
        return answer

    def _key(self, asked: Headers) -> bytes:
        told = [pair for pair in asked if pair[0] not in ("Auth-Login-Attempt", "Proxy-Protocol-Port")]
        return digest(self._hmac_key, repr(told).encode(), sha256)

    async def _decide(self, asked: Headers) -> Granted | Refused:
        """The back end's last word: WAIT is waited for, within the deadline of the hook."""
        while True:
            answer = await self._ask(asked)
            if not isinstance(answer, Again):
                return answer
            await asyncio.sleep(answer.wait or 1)

    async def _ask(self, asked: Headers) -> Answer:
        """One answer, from the first server that has one. Raises Unavailable, BadReply."""
        services, config = self._services, self.config
        now = services.clock.monotonic()
        faults: list[str] = []
        for server in sorted(self._servers, key=lambda server: server.away > now):
            try:
                with self._backend.asked():
                    return await self._reply(server, asked)
            except Unavailable as error:
                if server.away <= now:
                    services.log.warning("server_failed", server=server.name, detail=str(error))
                server.away = services.clock.monotonic() + config.retry_after
                faults.append(str(error))
        self._count["down"].inc()
        raise Unavailable("; ".join(faults))

    async def _reply(self, server: Server, asked: Headers) -> Answer:
        """What this server answers. Raises Unavailable, BadReply."""
        config = self.config
        reply = await self._services.http.request(
            "GET",
            server.url,
            headers=[*asked, *self._fixed],
            timeout=config.timeout,
            max_octets=0,
            ca_file=config.ca_file,
            unix=server.unix,
        )
        if reply.status >= 500:
            raise HttpFailed("garbage", f"{server.name}: it answers with status {reply.status}")
        server.away = 0.0
        return self._read(server, reply)

    def _read(self, server: Server, reply: HttpReply) -> Answer:
        try:
            answer = read(reply)
        except BadReply as error:
            self._count["bad"].inc()
            self._services.log.error("bad_reply", server=server.name, status=reply.status, detail=str(error))
            raise
        names: dict[type[Answer], str] = {Granted: "granted", Refused: "refused", Again: "wait"}
        self._count[names[type(answer)]].inc()
        return answer

    async def _client_host(self, hosts: Lookup[str, str], client: str) -> str:
        """In nginx's words for SMTP: the name, or that there is none, or none now."""
        try:
            return await hosts.get(client) or "[UNAVAILABLE]"
        except LookupFailed:
            return "[TEMPUNAVAIL]"

    async def _host_name(self, client: str) -> str | None:
        """The client's name, if the name leads back to the client."""
        if client == "unix":
            return None
        resolver = self._services.resolver
        name = await resolver.name(client)
        if name is None or re.fullmatch(r"[A-Za-z0-9._-]+", name) is None:
            return None
        return name if client in await resolver.addresses(name) else None


class _NotGranted(Exception):
    """Carries a refusal past the cache."""

    def __init__(self, answer: Refused) -> None:
        super().__init__()
        self.answer = answer
