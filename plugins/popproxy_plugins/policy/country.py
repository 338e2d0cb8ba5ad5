"""Countries of addresses, from a MaxMind database (the extra ``geo``). The module is needed only where one is named."""

from __future__ import annotations

import io
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol, cast

from popproxy.api import Problem, Services, WatchedFile
from popproxy_plugins.policy.kinds import UNKNOWN
from popproxy_plugins.policy.match import Address, Locate, nowhere

_MISSING = 'a database of countries needs the module maxminddb: pip install "popproxy[geo]", or write no countries'
_INSTEAD = "write the path of one like GeoLite2-Country.mmdb"


_SOME = ip_address("192.0.2.1")


class _File(io.BytesIO):
    """Octets that the reader takes for an open file."""

    name = "database"


class _Database(Protocol):
    """What is used of a reader of the module."""

    def get(self, ip_address: Address) -> object:
        """The record of an address."""
        ...


class Countries:
    """A database as its file was at one time."""

    __slots__ = ("_database", "_versions")

    def __init__(self, database: _Database, versions: tuple[int, ...]) -> None:
        """``versions`` of IP whose addresses can be looked up."""
        self._database = database
        self._versions = versions

    def of(self, address: Address) -> str:
        """Where ``address`` is, else where it is registered: two letters; ``unknown`` when the database does not say.

        Raises InvalidDatabaseError for a record that is damaged.
        """
        if address.version not in self._versions:
            return UNKNOWN
        record = self._database.get(address)
        code = _inside(_inside(record, "country"), "iso_code")
        if code is None:
            code = _inside(_inside(record, "registered_country"), "iso_code")
        return code.upper() if isinstance(code, str) else UNKNOWN


def _inside(record: object, key: str) -> object:
    """What ``record`` holds under ``key``; None when it is no table, or has no such key."""
    return cast("dict[str, object]", record).get(key) if isinstance(record, dict) else None


def parse(data: bytes) -> Countries:
    """The database in the content of a file. Raises ValueError for what is none, and without the module."""
    try:
        from maxminddb import MODE_FD, InvalidDatabaseError
        from maxminddb.reader import Reader
    except ModuleNotFoundError as error:
        raise ValueError(_MISSING) from error
    try:
        reader = Reader(_File(data), MODE_FD)
        about = reader.metadata()
        found = Countries(reader, (4,) if about.ip_version == 4 else (4, 6))
        found.of(_SOME)
    except (InvalidDatabaseError, TypeError, ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"is no MaxMind database: {_INSTEAD}") from error
    if not any(word in about.database_type for word in ("Country", "City", "Enterprise")):
        raise ValueError(f"is a database of {about.database_type}, not of countries: {_INSTEAD}")
    return found


def read(path: Path | None) -> Locate:
    """The countries of the file as it is now; every address is ``unknown`` without one. Raises ValueError, OSError."""
    return nowhere if path is None else parse(path.read_bytes()).of


def problems(path: Path | None) -> Iterator[Problem]:
    """What is wrong with the file, for ``Plugin.check``."""
    try:
        read(path)
    except ValueError as error:
        text = str(error)
        yield Problem(("countries",), f"{path} {text}" if text.startswith("is ") else text)
    except OSError as error:
        yield Problem(("countries",), f"cannot read {path}: {error.strerror or error}")


async def watched(services: Services, path: Path | None) -> Locate:
    """The countries of the file as it is whenever one asks; it is read again when it changes."""
    if path is None:
        return nowhere
    file: WatchedFile[Countries] = await services.file(path, parse)
    return lambda address: file.value.of(address)
