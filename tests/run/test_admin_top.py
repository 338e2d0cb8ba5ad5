"""/v1/top, /v1/recent and /v1/events over real sessions."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from popproxy.net.desk import Desk
from popproxy.net.desk.overheard import Overheard
from popproxy.net.desk.recent import KEPT, Recent
from popproxy.net.desk.top import WINDOW, Tops, subscriber
from popproxy.run.admin.events import EventRoutes, Rates, upstreams
from popproxy.run.client import UnixConnection
from popproxy.run.fleet import Answer
from tests.net.running import PASSWORD, Proxy, Setup, eventually, sample
from tests.run.office import Office, office, offices

LETTERS = [("first", b"Subject: one\n\n" + b"x" * 5000 + b"\n")]


class Silent:
    """A log that keeps nothing."""

    def event(self, level: str, name: str, /, **fields: object) -> None:
        pass

    def plugin(self, name: str) -> Any:
        raise AssertionError


def heavy(told: Mapping[str, Any], of: str, by: str) -> dict[str, int]:
    return {one["key"]: one["count"] for one in told[of][by]["top"]}


def test_users_and_addresses_of_all_workers(tmp_path: Path) -> None:
    with sample(tmp_path, LETTERS) as server:
        setup = Setup([f"pop3+clear://127.0.0.1:{server.port}"])
        with offices([setup, setup], tmp_path) as (desk, proxies):
            for proxy in proxies:
                with proxy.logged_in() as client:
                    assert len(client.multi(b"RETR 1")) > 5000
                    assert client.single(b"QUIT").startswith(b"+OK")
                proxy.session()
            with proxies[0].logged_in() as client, proxies[1].client() as guesser:
                assert len(client.multi(b"RETR 1")) > 5000
                assert guesser.user_pass(b"bob", b"wrong").startswith(b"-ERR")
                told = desk.get("/v1/top")
                assert told["since"] == "start" and told["missing"] == [] and told["seconds"] > 0
                assert heavy(told, "users", "messages") == {"alice": 3}
                assert heavy(told, "addresses", "messages") == {"127.0.0.1": 3}
                assert heavy(told, "users", "octets")["alice"] > 15000
                assert heavy(told, "users", "failures") == {"bob": 1}
                assert heavy(told, "addresses", "failures") == {"127.0.0.1": 1}
                assert told["users"]["messages"]["total"] == 3 and told["users"]["messages"]["bound"] == 0
                recent = desk.get("/v1/top?since=recent&limit=1")
                assert heavy(recent, "users", "messages") == {"alice": 3}
                assert len(recent["users"]["octets"]["top"]) == 1 and recent["users"]["octets"]["bound"] > 0
                events = desk.get("/v1/recent")["events"]
                assert [(one["worker"], one["event"], one["user"]) for one in events] == [(1, "login_failed", "bob")]
                assert events[0]["code"] == "AUTH" and events[0]["client"] == "127.0.0.1"
                assert "wrong" not in str(desk.get("/v1/recent"))
            for path in ("/v1/top?limit=0", "/v1/top?limit=101", "/v1/top?since=ever", "/v1/recent?limit=101"):
                assert desk.ask("GET", path)[0] == 400


def played(*events: tuple[float, str, dict[str, Any]]) -> tuple[Desk, list[float]]:
    """A worker's desk to which all this was told, each at its second."""
    now = [0.0]
    desk, log = Desk(), Overheard(Silent())
    Tops(desk, log, lambda: [], lambda: now[0])
    Recent(desk, log, lambda: now[0])
    for at, name, fields in events:
        now[0] = at
        log.event("info", name, **fields)
    return desk, now


def ended(user: str, retrieved: int) -> tuple[str, dict[str, Any]]:
    fields = {"user": user, "client": "192.0.2.7", "octets_in": 1, "octets_out": 2, "retrieved": retrieved}
    return "session", {**fields, "reason": "quit"}


def window(desk: Desk) -> dict[str, int]:
    answer = run(desk, "top", {"since": "recent"})
    counts: dict[str, int] = {}
    for sketch in answer["sketches"]["users.messages"]:
        for key, (count, _) in sketch["keys"].items():
            counts[key] = counts.get(key, 0) + count
    return counts


def run(desk: Desk, question: str, arguments: dict[str, Any]) -> Any:
    import asyncio

    return asyncio.run(desk.answer(question, arguments))


def test_windows_forget_what_is_old_and_nothing_that_is_young() -> None:
    desk, now = played((1.0, *ended("old", 1)), (WINDOW + 1, *ended("younger", 2)), (WINDOW * 1.5, *ended("young", 3)))
    assert window(desk) == {"old": 1, "younger": 2, "young": 3}
    assert run(desk, "top", {"since": "recent"})["seconds"] == WINDOW * 1.5
    now[0] = WINDOW * 2 + 2
    assert window(desk) == {"younger": 2, "young": 3}
    now[0] = WINDOW * 9
    assert window(desk) == {}
    assert run(desk, "top", {})["sketches"]["users.messages"][0]["total"] == 6, "since the start all of them count"


def test_memory_is_bounded_whatever_clients_send() -> None:
    events = [
        (float(number), "login_failed", {"user": f"user{number}" * 100, "client": f"2001:db8:0:{number:x}::1"})
        for number in range(500)
    ]
    desk, _ = played(*events)
    for sketches in run(desk, "top", {})["sketches"].values():
        assert all(len(sketch["keys"]) <= 100 for sketch in sketches)
        assert all(len(key) <= 320 for sketch in sketches for key in sketch["keys"])
    kept = run(desk, "recent", {})
    assert len(kept) == KEPT and kept[0]["time"] == 499.0 and len(kept[0]["user"]) <= 320


def test_only_sessions_that_a_policy_ended_are_told() -> None:
    denied = {**ended("ann", 0)[1], "reason": "policy", "detail": "refused on_connect"}
    desk, _ = played((1.0, *ended("bob", 0)), (2.0, "session", denied))
    assert [(one["event"], one["user"], one["detail"]) for one in run(desk, "recent", {})] == [
        ("session", "ann", "refused on_connect")
    ]


@pytest.mark.parametrize(
    ("client", "who"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("unix", "unix"),
    ],
)
def test_a_subscriber_is_an_address_or_a_network(client: str, who: str) -> None:
    assert subscriber(client) == who


# The stream


class Stream:
    """A client of /v1/events."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.socket.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        self.file = self.socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = dict(self._header())

    def _header(self) -> Iterator[tuple[str, str]]:
        while line := self.file.readline().strip().decode():
            name, _, value = line.partition(": ")
            yield name.lower(), value

    def events(self) -> Generator[dict[str, Any], None, None]:
        """The data of each event."""
        while line := self.file.readline():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def test_events_tell_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventRoutes.__init__, "__defaults__", (0.05, 2))
    with sample(tmp_path, LETTERS) as server:
        setup = Setup([f"pop3+clear://127.0.0.1:{server.port}"])
        with office(setup, tmp_path) as desk:
            stream = Stream(desk.path)
            assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            ticks = stream.events()
            first = next(ticks)
            assert first["sessions"] == 0 and first["state"] == "ready" and set(first["rates"].values()) == {0.0}
            with desk.proxy.logged_in() as client:
                client.multi(b"RETR 1")
                assert until(ticks, lambda tick: tick["rates"]["messages"] > 0)["rates"]["commands"] > 0
                tick = until(ticks, lambda tick: tick["sessions"] == 1)
                assert tick["states"]["transaction"] == 1
                assert tick["upstreams"] == [{"name": "main", "sessions": 1, "waiting": 0, "servers": {"up": 1}}]
                with desk.proxy.client() as guesser:
                    guesser.user_pass(b"bob", PASSWORD)
                    assert until(ticks, lambda tick: tick["denials"])["denials"][0]["user"] == "bob"
            second = Stream(desk.path)
            assert next(second.events())["missing"] == []
            assert desk.ask("GET", "/v1/events")[0] == 503, "so many look at once, and no more"
            head = UnixConnection(desk.path)
            head.request("HEAD", "/v1/events")
            assert head.getresponse().status == 405, "it would never end"
            head.close()
            ticks.close()
            for one in (stream, second):
                one.close()
            asks(desk)


def until(ticks: Iterator[dict[str, Any]], good: Any) -> dict[str, Any]:
    for _, tick in zip(range(400), ticks, strict=False):
        if good(tick):
            return tick
    raise AssertionError("never")


def asks(desk: Office) -> None:
    """When nobody looks any more, no worker is asked."""
    count = 0
    worker: Proxy = desk.proxy
    answered = worker.worker.desk._answerers["pulse"]

    async def counted(arguments: Mapping[str, Any]) -> Any:
        nonlocal count
        count += 1
        return await answered(arguments)

    worker.worker.desk._answerers["pulse"] = counted
    routes = next(family for family in desk.api._families if isinstance(family, EventRoutes))
    eventually(lambda: routes._clients == 0 and not len(routes._tasks or ()), "end of the ticks")
    before = count
    again = Stream(desk.path)
    next(again.events())
    assert count > before
    again.close()


def pulse(at: float, commands: int) -> Answer:
    totals = dict.fromkeys(
        ("connections", "rejected", "logins", "login_failures", "messages", "octets_in", "octets_out"), 0
    )
    return Answer(0, {"at": at, "totals": {**totals, "commands": commands}})


def test_rates_of_a_worker_that_began_anew() -> None:
    rates = Rates()
    assert rates.of([pulse(1.0, 100)])["commands"] == 0
    assert rates.of([pulse(3.0, 120)])["commands"] == 10
    assert rates.of([pulse(4.0, 5)])["commands"] == 5, "never below 0"
    assert rates.of([])["commands"] == 0


def seen_by(slot: int, sessions: int, **servers: str) -> Answer:
    return Answer(
        slot, {"upstreams": [{"name": "main", "sessions": sessions, "waiting": 0, "servers": servers}]}, 200
    )


def test_a_server_is_one_server_to_several_workers() -> None:
    told = upstreams([seen_by(0, 1, a="up", b="up", c="down"), seen_by(1, 2, a="up", b="down", c="down")])
    assert told == [{"name": "main", "sessions": 3, "waiting": 0, "servers": {"up": 1, "mixed": 1, "down": 1}}]
