"""``top``: once as text and JSON, and the live screen driven by textual's Pilot over a real worker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static, TabbedContent

from popproxy.run.asked import EX_OK, EX_UNAVAILABLE, EX_USAGE
from popproxy.run.client import Client, Place
from popproxy.run.people import look, screen, top
from popproxy.run.people.look import Look
from popproxy.run.people.screen import Live
from popproxy.run.people.table import measure
from tests.net.running import PASSWORD, Proxy, Setup, eventually
from tests.net.upstream import Peer, Upstream
from tests.run.office import Office, office
from tests.run.people.conftest import Typed, Wide
from tests.wireclient import WireClient

STRANGE = b"eve\x1b[31m[b]markup[/b]\xe2\x80\xae" + b"x" * 60


def stat(peer: Peer) -> None:
    """An upstream that knows everybody but mallory."""
    # It says nothing for as long as the screen is looked at.
    peer.socket.settimeout(None)
    peer.greet()
    while True:
        line = peer.line()
        if line == b"CAPA":
            peer.send(b"+OK\r\nUSER\r\n.\r\n")
        elif line == b"USER mallory":
            peer.send(b"-ERR [AUTH] nobody\r\n")
        else:
            peer.send(b"+OK 1 120\r\n")


def entered(proxy: Proxy, name: bytes) -> WireClient:
    client = proxy.client()
    client.user_pass(name, PASSWORD)
    return client


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(stat) as found:
        yield found


@pytest.fixture
def desk(upstream: Upstream, tmp_path: Path, typed: Typed) -> Iterator[Office]:
    with office(Setup([upstream.url]), tmp_path) as made:
        typed.place = f"unix:{made.path}"
        yield made


def test_once(desk: Office, typed: Typed, wide: Wide) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(entered(desk.proxy, name)) for name in (b"alice", b"bob", b"mallory", STRANGE)]
        for _ in range(9):
            clients[1].single(b"STAT")
        eventually(lambda: len(desk.proxy.lines("login_failed")) == 1, "the failure")
        code, out, err = typed("top --once --by failures")
        assert (code, err) == (EX_OK, "")
        assert out.startswith("popproxy 0: ready, 4 sessions, 1 worker, up ")
        assert "users by failures, of the last " in out
        assert any(line.split() == ["mallory", "1", "100%"] for line in out.splitlines())
        assert "login_failed" in out
        wide(80)
        out = typed("top --once")[1]
        assert all(line.isprintable() and measure(line) <= 90 for line in out.splitlines())
        users = out.split("users by octets")[1].splitlines()
        assert users[2].split()[0] == "bob" or users[2].startswith("eve\\x1b[31m")
        code, told = typed.json("top")
        assert (code, sorted(told)) == (EX_OK, ["sessions", "status", "tick", "top"])
        assert told["sessions"]["matched"] == 4 and told["tick"]["sessions"] == 4


def test_workers_that_are_mute(desk: Office, typed: Typed) -> None:
    desk.fleet.desks.append(desk.fleet.desks[0])
    desk.fleet.mute.add(1)
    code, _, err = typed("top --once")
    assert (code, "worker 1 did not answer" in err) == (EX_OK, True)


@pytest.mark.parametrize("arguments", ["top", "top --every ever --once", "top --by votes", "top --limit -1"])
def test_what_cannot_be_meant(arguments: str, typed: Typed) -> None:
    assert typed(arguments)[0] == EX_USAGE


@pytest.mark.parametrize("library", ["textual", "rich"])
def test_without_textual(library: str, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delitem(sys.modules, "popproxy.run.people.screen")
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    typed.place = "unix:/none"
    code, out, err = typed("top")
    assert (code, out) == (EX_UNAVAILABLE, "")
    assert "pip install 'popproxy[tui]'; without it, write --once" in err


def test_nobody_is_there_before_the_screen_is_taken(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    typed.place = "unix:/none"
    code, out, err = typed("top")
    assert (code, out) == (EX_UNAVAILABLE, "")
    assert "no popproxy answers" in err


Scene = Callable[["Stage"], Awaitable[None]]


class Stage:
    """The screen, its pilot, and what is on it."""

    def __init__(self, app: Live, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    def text(self, id: str) -> str:
        return str(self.app.query_one(f"#{id}", Static).render())

    def rows(self, name: str) -> list[list[str]]:
        table: DataTable[Any] = self.app.query_one(f"#{name}-table", DataTable)
        return [[str(cell) for cell in table.get_row_at(place)] for place in range(table.row_count)]

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(400):
            if condition():
                return
            await self.pilot.pause(0.05)
        raise AssertionError(f"{self.text('head')} / {self.text('word')}")


def played(desk: Office, scene: Scene, size: tuple[int, int] = (120, 40), by: str = "octets") -> None:
    async def play() -> None:
        app = Live(Client([Place(desk.path)]), by, 10, 0.1, 200)
        async with app.run_test(size=size) as pilot:
            await scene(Stage(app, pilot))

    asyncio.run(play())


def test_the_screen(desk: Office) -> None:
    """In a small terminal: all of it fits, names do no harm, keys do what they say."""
    with ExitStack() as stack:
        for name in (b"alice", b"bob", b"mallory", STRANGE):
            stack.enter_context(entered(desk.proxy, name))

        async def scene(stage: Stage) -> None:
            app, pilot = stage.app, stage.pilot
            await stage.until(lambda: len(stage.rows("sessions")) == 4)
            assert stage.text("head").startswith("popproxy 0: ready, 4 sessions, 1 worker")
            assert "by octets" in stage.text("word")
            names = " ".join(row[0] for row in stage.rows("users"))
            assert "alice" in names and "eve\\x1b[31m[b]markup[/b]\\u202e" in names
            for key, tab in {"3": "sessions", "4": "upstreams", "5": "denials", "2": "addresses", "1": "users"}.items():
                await pilot.press(key)
                assert app.query_one(TabbedContent).active == tab
                await pilot.pause()
                table = app.query_one(f"#{tab}-table", DataTable)
                assert table.virtual_size.width <= 80 and table.size.height >= 14
                assert app.screen.max_scroll_y == 0 and app.query_one("#head").region.y == 0
            assert stage.rows("upstreams")[0][:2] == ["main", "3"]
            await stage.until(lambda: bool(stage.rows("denials")))
            assert any("mallory" in row for row in stage.rows("denials"))
            await pilot.press("b")
            assert "by messages" in stage.text("word")
            await pilot.press("b")
            assert stage.rows("users") == [["mallory", "1", "100%"]]
            await pilot.press("s")
            await stage.until(lambda: "of the last" in stage.text("word"))
            await pilot.press("space")
            await stage.until(lambda: stage.text("word") == "paused")
            await pilot.press("space")
            await stage.until(lambda: "of the last" in stage.text("word"))
            await pilot.press("q")

        played(desk, scene, (80, 24))


def test_a_session_is_ended_from_the_screen(desk: Office) -> None:
    with ExitStack() as stack:
        for name in (b"alice", b"bob", b"carol"):
            stack.enter_context(entered(desk.proxy, name))

        async def scene(stage: Stage) -> None:
            pilot = stage.pilot
            await stage.until(lambda: len(stage.rows("sessions")) == 3)
            await pilot.press("k")
            assert "choose a session first" in stage.text("word")
            await pilot.press("3", "down", "k", "n")
            await pilot.press("k")
            await pilot.press("y")
            await stage.until(lambda: len(stage.rows("sessions")) == 2)
            assert [row[1] for row in stage.rows("sessions")] == ["alice", "carol"]

        played(desk, scene)
    assert next(line["detail"] for line in desk.proxy.lines("session")) == "by an administrator: popproxy top"


def test_the_cursor_stays_on_its_session(desk: Office) -> None:
    clients = {name: entered(desk.proxy, name) for name in (b"alice", b"bob", b"carol")}

    async def scene(stage: Stage) -> None:
        await stage.until(lambda: len(stage.rows("sessions")) == 3)
        await stage.pilot.press("3", "down", "down")
        clients[b"alice"].close()
        await stage.until(lambda: len(stage.rows("sessions")) == 2)
        table = stage.app.query_one("#sessions-table", DataTable)
        assert stage.rows("sessions")[table.cursor_row][1] == "carol"

    played(desk, scene)
    for client in clients.values():
        client.close()


def test_it_comes_back(desk: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody answers, that is said, and asked again."""
    monkeypatch.setattr(screen, "RETRY", 0.05)
    failing: list[bool] = [False]
    ask = look.look

    def perhaps(*arguments: Any) -> Look:
        if failing[0]:
            Client([Place(desk.path.parent / "none")]).get("/v1/status")
        return ask(*arguments)

    monkeypatch.setattr(screen, "look", perhaps)

    async def scene(stage: Stage) -> None:
        await stage.until(lambda: "ready" in stage.text("head"))
        failing[0] = True
        await stage.until(lambda: "No such file or directory; asking again" in stage.text("word"))
        failing[0] = False
        await stage.until(lambda: "of the last" in stage.text("word"))

    played(desk, scene)


def test_what_is_shown_of_a_down_worker_and_a_full_sketch() -> None:
    rates = dict.fromkeys(("connections", "logins", "login_failures", "messages", "octets_in", "octets_out"), 0.0)
    heavy = {"top": [{"key": "joe", "count": 5, "error": 2}], "total": 10, "bound": 0}
    lists = {of: dict.fromkeys(look.BY, heavy) for of in look.OF}
    seen = Look(
        {"version": "1", "since": 0.0, "workers": [{"up": True}, {"up": False}]},
        {"state": "ready", "sessions": 1, "time": 50.0, "rates": rates, "states": {}, "upstreams": [], "denials": []},
        {"seconds": 9.0, **lists},
        {"sessions": [], "matched": 0},
    )
    text = top.render(seen, "octets", None)
    assert text.startswith("popproxy 1: ready, 1 session, 1 of 2 workers, up 50s\n")
    assert "joe      <5    50%" in text
    assert text.count("  none\n") == 2
