"""``popproxy bans``: shows and edits the bans of the plugin ``brute_force``, of all workers that share its store.

A store that others can open is opened as the config says. That of one worker is in its memory: the worker is asked by
the admin listener, if that is a Unix socket.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from time import gmtime, strftime, time
from typing import Any, Protocol, TypeVar

from popproxy_plugins.brute_force import BruteForce
from popproxy_plugins.brute_force.bans import REASON, BadBan, add, listed, parse_network, remove
from popproxy_plugins.clients import Network

from popproxy.api.options import Wrong, duration
from popproxy.api.store import Store, StoreFailed
from popproxy.config.plan import Plan, StorePlan
from popproxy.net.store import make
from popproxy.run.client import Client, Place, Refused, Unanswered
from popproxy.state.batch import Unwatched
from popproxy.state.space import Space

T = TypeVar("T")

PATH = "/v1/bans"


class BansError(Exception):
    """It cannot be done; the text says why and what to do. ``usage``: the command line is wrong."""

    def __init__(self, text: str, usage: bool = False) -> None:
        super().__init__(text)
        self.usage = usage


class BansDesk(Protocol):
    """Where bans are edited. Raises BansError."""

    def bans(self) -> list[dict[str, Any]]:
        """All of them, as Ban.as_dict() has them."""
        ...

    def add(self, network: Network, seconds: float, reason: str) -> None:
        """Ban by hand."""
        ...

    def remove(self, network: Network) -> bool:
        """Lift a ban; whether there was one."""
        ...


def reason(text: str) -> str:
    """The reason of the command line as it is kept: one line, not too long."""
    return _printable(text)[:REASON]


def around(bans: list[dict[str, Any]], network: Network) -> list[str]:
    """The networks of ``bans`` that hold for ``network`` although it is not banned itself."""
    banned = [parse_network(ban["network"]) for ban in bans]
    return [str(other) for other in banned if other != network and _inside(network, other)]


def _inside(network: Network, other: Network) -> bool:
    return network.version == other.version and network.network_address in other and network.prefixlen > other.prefixlen


def network(text: str) -> Network:
    """The address or network of the command line. Raises BansError."""
    try:
        return parse_network(text)
    except BadBan as error:
        raise BansError(str(error), usage=True) from None


def seconds(text: str) -> float:
    """How long, of the command line. Raises BansError."""
    try:
        return duration(text)
    except Wrong as wrong:
        raise BansError(f"--for: {wrong}; {wrong.hint}", usage=True) from None


def desk(plan: Plan, plugin: str | None) -> BansDesk:
    """Where the bans of ``plugin`` (None: the only one) are edited. Raises BansError."""
    name = _plugin(plan, plugin)
    if plan.store.use != "memory":
        return StoreDesk(plan.store, name)
    socket = plan.admin.socket if plan.admin is not None else None
    if socket is None:
        raise BansError(
            "the store is in the memory of the worker, which can be asked by a Unix socket only: write [admin] bind = "
            '"unix:/run/popproxy/admin.sock", or share the store, [store] use = "sqlite"'
        )
    return SocketDesk(socket, name)


def banning(plan: Plan) -> list[str]:
    """The names of the plugins that ban."""
    return [subscriber.name for subscriber in plan.plugins if isinstance(subscriber.plugin, BruteForce)]


def _plugin(plan: Plan, asked: str | None) -> str:
    names = banning(plan)
    if not names:
        raise BansError('the config has no plugin that bans: write [[plugin]] use = "brute_force"')
    if asked is None and len(names) > 1:
        raise BansError(f"which plugin? write --plugin and one of: {', '.join(names)}", usage=True)
    if asked is not None and asked not in names:
        raise BansError(f"--plugin: {asked!r} does not ban; write one of: {', '.join(names)}", usage=True)
    return asked or names[0]


class StoreDesk:
    """A store that is opened here, beside the workers that have it open."""

    def __init__(self, plan: StorePlan, plugin: str) -> None:
        self._plan = plan
        self._plugin = plugin

    def bans(self) -> list[dict[str, Any]]:
        """See BansDesk."""
        return [ban.as_dict() for ban in self._do(listed)]

    def add(self, network: Network, seconds: float, reason: str) -> None:
        """See BansDesk."""
        self._do(lambda store: add(store, network, seconds, reason, time()))

    def remove(self, network: Network) -> bool:
        """See BansDesk."""
        return self._do(lambda store: remove(store, network))

    def _do(self, work: Callable[[Store], Awaitable[T]]) -> T:
        self._check_file()
        try:
            return asyncio.run(self._opened(work))
        except (StoreFailed, OSError) as error:
            raise BansError(f"the store: {error}") from error

    async def _opened(self, work: Callable[[Store], Awaitable[T]]) -> T:
        backend = make(self._plan, Unwatched())
        try:
            await backend.open()
            return await work(Space(backend, self._plugin))
        finally:
            await backend.close()

    def _check_file(self) -> None:
        """A file that is made here, or beside which another user's is made here, would shut the workers out."""
        path = self._plan.path
        if path is None:
            return
        try:
            owner = path.stat().st_uid
        except OSError as error:
            raise BansError(f"{path}: {error.strerror}; popproxy makes it when it starts") from error
        if owner != os.geteuid():
            raise BansError(f"{path} belongs to another user, uid {owner}: run this as that user, sudo -u '#{owner}'")


class SocketDesk:
    """The worker that has the bans in its memory."""

    def __init__(self, path: Path, plugin: str) -> None:
        self._path = path
        self._plugin = plugin

    def bans(self) -> list[dict[str, Any]]:
        """See BansDesk."""
        bans: list[dict[str, Any]] = self._ask("GET", {})["bans"]
        return bans

    def add(self, network: Network, seconds: float, reason: str) -> None:
        """See BansDesk."""
        said = {"network": str(network), "seconds": seconds, "reason": reason, "plugin": self._plugin}
        self._ask("PUT", {}, said)

    def remove(self, network: Network) -> bool:
        """See BansDesk."""
        return bool(self._ask("DELETE", {"network": str(network)})["removed"])

    def _ask(self, method: str, query: dict[str, str], said: Mapping[str, object] | None = None) -> dict[str, Any]:
        client = Client([Place(self._path)])
        try:
            told = client.ask(method, PATH, {**query, "plugin": self._plugin}, said)
        except Unanswered as error:
            raise BansError(f"{error}; is popproxy running, and may you use its socket?") from error
        except Refused as error:
            raise BansError(str(error)) from error
        if not isinstance(told, dict):
            raise BansError(f"unix:{self._path}: whoever listens there is no popproxy that knows bans")
        return told


def render(bans: list[dict[str, Any]]) -> str:
    """The list as text: a line for each ban."""
    if not bans:
        return "nobody is banned\n"
    rows = [("NETWORK", "BY", "SINCE", "LEFT", "REASON")]
    for ban in bans:
        since = strftime("%Y-%m-%d %H:%M", gmtime(ban["since"])) if ban["since"] else "?"
        rows.append((ban["network"], ban["by"], since, _left(ban["seconds"]), _printable(ban["reason"])))
    widths = [max(len(row[place]) for row in rows) for place in range(4)]
    cells = [[*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]] for row in rows]
    return "".join("  ".join(line).rstrip() + "\n" for line in cells)


def _left(seconds: float) -> str:
    whole = round(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)
