"""The admin listener, asked: one HTTP client for every command that speaks to a running popproxy.

A Unix socket needs no password, its mode says who may use it. TCP wants the token of the config, or with https a client
certificate.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

PATIENCE = 15.0
"""Seconds for an answer: workers have two, a probe of an upstream has more."""
_MOST = 1 << 26
_ODD = "backslashreplace"  # what is typed need not be text


@dataclass(frozen=True, slots=True)
class Place:
    """Where an admin listener may be: a Unix socket, or a TCP port, perhaps with TLS."""

    path: Path | None = None
    host: str = ""
    port: int = 0
    context: ssl.SSLContext | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.context else ''}://{host}:{self.port}"


class Unanswered(Exception):
    """Nobody answered. ``faults`` says for each address that was tried what became of it."""

    def __init__(self, faults: Sequence[tuple[Place, str]]) -> None:
        super().__init__("; ".join(f"{place}: {why}" for place, why in faults))
        self.faults = tuple(faults)


class Refused(Exception):
    """It was answered, but not done. ``status`` is HTTP's; ``told`` is the answer, a JSON object."""

    def __init__(self, place: Place, status: int, told: Mapping[str, Any]) -> None:
        super().__init__(f"{place}: {told.get('error', f'HTTP status {status}')}")
        self.place = place
        self.status = status
        self.told = told


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, seconds: float = PATIENCE) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """To the socket instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(slots=True)
class Client:
    """Asks the first of ``places`` that answers, and from then on that one. A request is a connection: nothing is held
    between two of them."""

    places: Sequence[Place]
    token: str | None = field(default=None, repr=False)
    seconds: float = PATIENCE
    _found: Place | None = None

    def get(self, path: str, **query: object) -> Any:
        """What GET answers. Arguments that are None are left out. Raises Unanswered, Refused."""
        return self.ask("GET", path, query)

    def post(self, path: str, said: Mapping[str, object] | None = None) -> Any:
        """What POST answers to ``said``. Raises Unanswered, Refused."""
        return self.ask("POST", path, {}, said)

    def follow(self, path: str, **query: object) -> Iterator[Any]:
        """The JSON lines of an answer that goes on, as they come. Empty ones show that somebody is still there.
        Raises Unanswered, also when it breaks off, and Refused."""
        whole = f"{path}?{urlencode(query, errors=_ODD)}"
        faults: list[tuple[Place, str]] = []
        for place in self.places:
            connection = self._connection(place)
            try:
                connection.connect()
                connection.request("GET", whole, headers=self._headers(place))
                response = connection.getresponse()
                if response.status >= 300:
                    told = json.loads(response.read(_MOST))
                    raise Refused(place, response.status, told if isinstance(told, dict) else {})
                while line := response.readline():
                    if line.strip():
                        yield json.loads(line)
                return
            except OSError as error:
                # Before ValueError: a certificate that cannot be verified is one, too.
                faults.append((place, _why(error)))
            except (ValueError, http.client.HTTPException) as error:
                raise Unanswered([(place, "it broke off")]) from error
            finally:
                connection.close()
        raise Unanswered(faults)

    def ask(
        self, method: str, path: str, query: Mapping[str, object], said: Mapping[str, object] | None = None
    ) -> Any:
        """One request. Raises Unanswered, Refused."""
        written = urlencode({name: _written(value) for name, value in query.items() if value is not None}, errors=_ODD)
        whole = f"{path}?{written}" if written else path
        body = None if said is None else json.dumps(said, ensure_ascii=False).encode("utf-8", _ODD)
        faults: list[tuple[Place, str]] = []
        for place in [self._found] if self._found is not None else self.places:
            connection = self._connection(place)
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                faults.append((place, _why(error)))
                continue
            try:
                status, told = self._exchange(place, connection, method, whole, body)
            except (OSError, http.client.HTTPException) as error:
                # It may have been done, so nobody else is asked to do it.
                raise Unanswered([(place, _why(error))]) from error
            except ValueError as error:
                raise Unanswered([(place, "whoever listens there is no popproxy that knows this")]) from error
            finally:
                connection.close()
            self._found = place
            if status >= 300:
                raise Refused(place, status, told if isinstance(told, dict) else {})
            return told
        raise Unanswered(faults)

    def ticks(self) -> Iterator[dict[str, Any]]:
        """What /v1/events tells, once a second, for ever. Raises Unanswered, also when it ends; Refused."""
        if self._found is None:
            self.get("/v1/status")
        place = self._found or self.places[0]
        connection = self._connection(place)
        try:
            connection.connect()
            connection.request("GET", "/v1/events", headers={**self._headers(place), "Accept": "text/event-stream"})
            response = connection.getresponse()
            if response.status != 200:
                raise Refused(place, response.status, _object(response.read(_MOST)))
            while line := response.readline(_MOST):
                if line.startswith(b"data: "):
                    yield _object(line.removeprefix(b"data: "))
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered([(place, _why(error))]) from error
        finally:
            connection.close()
        raise Unanswered([(place, "it has ended")])

    def _headers(self, place: Place) -> dict[str, str]:
        """Who asks. On a Unix socket nobody has to say."""
        return {} if self.token is None or place.path is not None else {"Authorization": f"Bearer {self.token}"}

    def _exchange(
        self, place: Place, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, Any]:
        headers = {**self._headers(place), "Accept": "application/json"}
        if method != "GET":
            # Also without a body: a page from elsewhere could not say this with a certificate that its browser shows.
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read(_MOST))

    def _connection(self, place: Place) -> http.client.HTTPConnection:
        if place.path is not None:
            return UnixConnection(place.path, self.seconds)
        if place.context is not None:
            return http.client.HTTPSConnection(place.host, place.port, timeout=self.seconds, context=place.context)
        return http.client.HTTPConnection(place.host, place.port, timeout=self.seconds)


def _object(octets: bytes) -> dict[str, Any]:
    try:
        found = json.loads(octets)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def segment(name: str) -> str:
    """``name`` as one part of a path."""
    return quote(name, safe="", errors=_ODD)
