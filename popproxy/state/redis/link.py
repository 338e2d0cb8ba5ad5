"""The way to the server that takes what we write: which one it is, one connection to it, and what went wrong.

Behind Sentinels it is their master. In a cluster it is the node that has our slot: all keys carry one hash tag. No call
here is tried again by itself, because nobody knows what came of it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.crc import key_slot

from popproxy.api.store import StoreFailed
from popproxy.state.redis.plan import RedisPlan, Tls

Command = tuple[str | bytes | int, ...]

_READ_AT_ONCE = 50
"""Replies after which a server has shown that it is not silent."""
_SECOND_LOOK = 0.05
"""Seconds behind a time-out in which is read what may have come already."""

_KINDS: tuple[tuple[type[Exception], str, str], ...] = (
    (exceptions.BusyLoadingError, "loading", "is loading its data"),
    (exceptions.AuthenticationError, "auth", "does not accept the user or the password"),
    (exceptions.AuthorizationError, "auth", "does not accept the user"),
    (exceptions.NoPermissionError, "auth", "does not let this user do what is needed (ACL)"),
    (exceptions.ReadOnlyError, "read_only", "is a replica and takes no writes"),
    (exceptions.OutOfMemoryError, "full", "has no memory left (maxmemory)"),
    (exceptions.ClusterDownError, "busy", "belongs to a cluster that is down"),
    (exceptions.TryAgainError, "busy", "is moving our keys to another node"),
    (exceptions.AskError, "busy", "is moving our keys to another node"),
    (exceptions.MovedError, "busy", "says that our keys are elsewhere"),
    (exceptions.TimeoutError, "timeout", "does not answer in time"),
    (TimeoutError, "timeout", "does not answer in time"),
    (exceptions.InvalidResponse, "protocol", "does not speak as Redis does"),
    (ssl.SSLError, "protocol", "does not agree on TLS, or its certificate is not trusted"),
    (ConnectionRefusedError, "refused", "refuses connections"),
    (OSError, "unreachable", "is not reachable, or closed the connection"),
    (exceptions.ConnectionError, "unreachable", "is not reachable, or closed the connection"),
)
_WORDS = {
    "BUSY": ("busy", "is busy with a script"),
    "MASTERDOWN": ("busy", "is a replica without a master"),
    "NOREPLICAS": ("busy", "has too few replicas to write"),
    "MISCONF": ("full", "cannot save to its disk and takes no writes"),
}


class Link:
    """See the head of this file. ``epoch`` counts the connections that were made."""

    def __init__(self, plan: RedisPlan) -> None:
        self._plan = plan
        self._context = _context(plan.tls or Tls()) if plan.place.tls else None
        self._nodes = plan.place.nodes
        self._goal: tuple[str, int] | None = None
        self._connection: AbstractConnection | None = None
        self._where = plan.place.path or ",".join(f"{host}:{port}" for host, port in plan.place.nodes)
        self.epoch = 0

    async def ready(self) -> None:
        """Have a connection; a new one has the next epoch. Raises StoreFailed."""
        if self._connection is not None and self._connection.is_connected and not _ended(self._connection):
            return
        await self.drop()
        goal, self._goal = self._goal, None
        connection = await self._reach(goal)
        self.epoch += 1
        self._connection = connection

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send all ``commands`` at once; their replies. NoScriptError and MovedError stand for what was not done.
        Raises StoreFailed for anything else that is no reply, RuntimeError for what is our fault."""
        connection = self._connection
        if connection is None:
            raise StoreFailed(f"redis {self._where}: not connected", "unreachable")
        try:
            replies = await self._exchange(connection, commands)
        except BaseException as error:
            # Also when cancelled: replies that nobody reads would be taken for those of the next commands.
            await self._close(connection)
            if isinstance(error, exceptions.RedisError | OSError):
                raise self._fault(error, "protocol") from None
            raise
        for reply in replies:
            if isinstance(reply, exceptions.ResponseError) and not isinstance(
                reply, exceptions.NoScriptError | exceptions.MovedError
            ):
                if isinstance(reply, exceptions.ReadOnlyError):
                    # Another one may be the master by now.
                    await self.drop()
                fault = self._fault(reply, "fault")
                raise (RuntimeError(str(fault)) if fault.kind == "fault" else fault) from None
        return replies

    async def follow(self, moved: exceptions.MovedError) -> None:
        """Go where ``moved`` points at the next time."""
        await self.drop()
        self._goal = (moved.host or self._nodes[0][0], int(moved.port))

    async def drop(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._close(connection)

    async def _reach(self, goal: tuple[str, int] | None) -> AbstractConnection:
        kind = self._plan.place.kind
        if goal is not None:
            return await self._connected(self._toward(goal))
        if kind == "sentinel":
            return await self._reach_master()
        if kind == "cluster":
            return await self._connected(self._toward(await self._find_node()))
        return await self._connected(self._toward(self._nodes[0] if self._nodes else None))

    async def _reach_master(self) -> AbstractConnection:
        """Sentinels may be of different mind for a while: the one counts whose master says that it is one."""
        unknown = StoreFailed(f"redis {self._where}: no Sentinel knows {self._plan.place.service}", "unreachable")
        failed = unknown
        for node in self._plan.place.nodes:
            try:
                found = await self._once(node, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._plan.place.service), True)
                if not found:
                    failed = unknown
                    continue
                connection = await self._connected(self._toward((found[0].decode(), int(found[1]))))
            except StoreFailed as error:
                failed = error
                continue
            try:
                role = (await self._exchange(connection, (("ROLE",),)))[0]
            except (exceptions.RedisError, OSError) as error:
                failed = self._fault(error, "protocol")
            else:
                if isinstance(role, list) and role[0] == b"master":
                    return connection
                failed = StoreFailed(f"redis {self._where}: the master is no master (any more)", "read_only")
            await self._close(connection)
        raise failed

    async def _find_node(self) -> tuple[str, int]:
        """The master of our slot, as the first node knows that answers; the nodes it names can be asked next time."""
        slot = key_slot(f"{{{self._plan.prefix}}}".encode())
        failed = StoreFailed(f"redis {self._where}: the cluster has no node for our keys", "busy")
        for node in dict.fromkeys((*self._nodes, *self._plan.place.nodes)):
            try:
                slots = await self._once(node, ("CLUSTER", "SLOTS"), False)
            except StoreFailed as error:
                failed = error
                continue
            named = [(_text(entry[0]) or node[0], int(entry[1])) for part in slots for entry in part[2:]]
            self._nodes = tuple(dict.fromkeys(named)) or self._nodes
            for part in slots:
                if part[0] <= slot <= part[1]:
                    return _text(part[2][0]) or node[0], int(part[2][1])
        raise failed

    async def _once(self, node: tuple[str, int], command: Command, sentinel: bool) -> Any:
        """The reply to one command, from ``node``. Raises StoreFailed."""
        connection = await self._connected(self._toward(node, sentinel))
        try:
            reply = (await self._exchange(connection, (command,)))[0]
        except (exceptions.RedisError, OSError) as error:
            raise self._fault(error, "protocol") from None
        finally:
            await self._close(connection)
        if isinstance(reply, exceptions.ResponseError):
            raise self._fault(reply, "protocol") from None
        return reply

    def _toward(self, node: tuple[str, int] | None, sentinel: bool = False) -> AbstractConnection:
        plan, place = self._plan, self._plan.place
        options: dict[str, Any] = {
            "socket_timeout": None,  # ours is over a whole exchange
            "socket_connect_timeout": plan.timeout,
            "username": plan.sentinel_username if sentinel else plan.username or place.username,
            "password": plan.sentinel_password if sentinel else plan.password or place.password,
            "db": 0 if sentinel else place.database,
            "protocol": 2,
            "driver_info": None,
        }
        if node is None:
            return UnixDomainSocketConnection(path=place.path, **options)
        if self._context is None:
            return Connection(host=node[0], port=node[1], **options)
        connection = SSLConnection(host=node[0], port=node[1], **options)
        connection.ssl_context.context = self._context
        return connection

    async def _connected(self, connection: AbstractConnection) -> AbstractConnection:
        try:
            async with asyncio.timeout(self._plan.timeout):
                await connection.connect_check_health(check_health=False)
        except BaseException as error:
            await self._close(connection)
            if isinstance(error, exceptions.RedisError | OSError):
                raise self._fault(error, "protocol") from None
            raise
        return connection

    async def _exchange(self, connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = []
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            # What came while our own loop was late is read before anybody is called silent.

            def silent() -> None:
                limit.reschedule(loop.time() + _SECOND_LOOK)

            timer = loop.call_later(self._plan.timeout, silent)
            try:
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                for number in range(len(commands)):
                    if number and number % _READ_AT_ONCE == 0:
                        timer.cancel()
                        limit.reschedule(None)
                        timer = loop.call_later(self._plan.timeout, silent)
                    try:
                        replies.append(await connection.read_response())
                    except exceptions.ResponseError as error:
                        replies.append(error)
            finally:
                timer.cancel()
        return replies

    async def _close(self, connection: AbstractConnection) -> None:
        if connection is self._connection:
            self._connection = None
        await connection.disconnect(nowait=True)

    def _fault(self, error: Exception, otherwise: str) -> StoreFailed:
        """What ``error`` means, in words of ours: those of a server may hold what it was sent. ``otherwise`` is
        the kind of a refusal that we do not know."""
        found: BaseException = error
        for cause in (error.__cause__, error.__context__):
            # redis-py wraps what the socket said.
            if isinstance(cause, OSError) and not isinstance(error, exceptions.ResponseError):
                found = cause
        if "max number of clients" in str(error):
            return StoreFailed(f"redis {self._where}: it has too many clients", "refused")
        for cls, kind, words in _KINDS:
            if isinstance(found, cls):
                return StoreFailed(f"redis {self._where}: it {words}", kind)
        word = str(error).split(" ")[0]
        if word in _WORDS:
            return StoreFailed(f"redis {self._where}: it {_WORDS[word][1]}", _WORDS[word][0])
        word = word if word.isascii() and word.isupper() and len(word) < 20 else "an error"
        return StoreFailed(f"redis {self._where}: it answers with {word}", otherwise)


def _ended(connection: AbstractConnection) -> bool:
    """Whether the server has closed it: then nothing needs to be lost on it."""
    reader = connection._reader
    return reader is None or reader.at_eof() or reader.exception() is not None


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.check_hostname = tls.check_hostname
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context
