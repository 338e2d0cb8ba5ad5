"""/v1/sessions: what is told of real sessions, page by page over several workers, and how they are ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from popproxy.api import Plugin, PluginConfig, SessionView
from popproxy.api.views import Slot
from popproxy.net.desk import Desk
from popproxy.net.desk import sessions as asking
from popproxy.net.desk.sessions import STEP, Sessions, cursor, cursor_text, harmless
from tests.net.running import PASSWORD, Setup, client_context, eventually, running
from tests.net.test_pump import large
from tests.net.upstream import Peer, Upstream
from tests.run.office import Office, office, offices

KICKS = 4
KEPT = Slot[Any]("kept", None)
COUNT = Slot("count", 0)


class Keeper(Plugin[PluginConfig]):
    """Keeps a secret and a number in each session."""

    def on_connect(self, session: SessionView) -> None:
        KEPT.set(session, "a secret of the plugin")
        COUNT.set(session, 7)


def stat(peer: Peer) -> None:
    """An upstream that serves STAT and DELE until the proxy goes."""
    peer.login()
    while True:
        peer.line()
        peer.send(b"+OK 1 120\r\n")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(stat) as found:
        yield found


def test_one_session_is_told_whole(upstream: Upstream, tmp_path: Path) -> None:
    setup = Setup([upstream.url], tls="implicit", plugins=[Keeper(PluginConfig())])
    with office(setup, tmp_path) as desk:
        with desk.proxy.logged_in(implicit=client_context()) as client:
            for _ in range(3):
                assert client.single(b"STAT").startswith(b"+OK")
            assert client.single(b"DELE 1").startswith(b"+OK")
            assert client.single(b"NONSENSE").startswith(b"-ERR")
            listed = desk.get("/v1/sessions")
            (row,) = listed["sessions"]
            assert (listed["matched"], listed["next"], listed["missing"]) == (1, None, [])
            assert row["user"] == row["login"] == "alice"
            assert (row["worker"], row["listener"], row["upstream"], row["phase"]) == (0, "main", "main", "transaction")
            assert row["client"] == "127.0.0.1" and row["client_port"] == client.socket.getsockname()[1]
            assert row["tls"] == "TLSv1.3" and row["mechanism"] == "USER"
            assert row["awaits"] == "client" and 0 <= row["idle"] <= row["seconds"]
            assert row["server"] == upstream.url.rpartition("/")[2]
            whole = desk.get(f"/v1/sessions/{row['id']}")
            assert {name: whole[name] for name in ("id", "user", "client_port")} == {
                name: row[name] for name in ("id", "user", "client_port")
            }
            assert whole["commands"]["STAT"] == {"ok": 3} and whole["deleted"] == 1
            assert whole["commands"]["_other"] == {"malformed": 1}
            assert whole["tls_details"]["cipher"].startswith("TLS_")
            assert whole["upstream_octets_in"] > 0 and whole["upstream_octets_out"] > 0
            assert whole["slots"] == [{"name": "count", "value": 7}, {"name": "kept", "value": "<str hidden>"}]
            assert "secret" not in str(whole) and PASSWORD.decode() not in str(whole)
        eventually(lambda: desk.get("/v1/sessions")["sessions"] == [], "end of the session")
        status, told = desk.ask("GET", f"/v1/sessions/{row['id']}")
        assert status == 404 and "there is no session" in told["error"]


def test_who_is_awaited(tmp_path: Path) -> None:
    def silent(peer: Peer) -> None:
        peer.login()
        peer.until_gone()

    with Upstream(silent) as upstream, office(Setup([upstream.url]), tmp_path) as desk:
        with desk.proxy.client() as fresh, desk.proxy.logged_in() as client:
            client.send(b"STAT\r\n")
            eventually(lambda: awaited(desk) == [("authorization", "client"), ("transaction", "upstream")], "waiting")
            assert fresh.greeting.startswith(b"+OK")


def awaited(desk: Office) -> list[tuple[str, str]]:
    return sorted((row["phase"], row["awaits"]) for row in desk.get("/v1/sessions")["sessions"])


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("user=ALICE", 2),
        ("user=a*e", 2),
        ("user=bob", 0),
        ("ip=127.0.0.1", 3),
        ("ip=127.0.0.0/8", 3),
        ("ip=192.0.2.0/24", 0),
        ("ip=unix", 0),
        ("listener=main", 3),
        ("listener=other", 0),
        ("upstream=main", 2),
        ("phase=transaction", 2),
        ("phase=authorization&listener=main", 1),
        ("tls=false", 3),
        ("tls", 0),
        ("user=alice&ip=192.0.2.7", 0),
    ],
)
def test_sessions_are_chosen(query: str, count: int, busy: Office) -> None:
    found = busy.get(f"/v1/sessions?{query}")
    assert (found["matched"], len(found["sessions"])) == (count, count)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """Two sessions that are logged in, one that is not."""
    with Upstream(stat) as upstream, office(Setup([upstream.url]), tmp_path_factory.mktemp("busy")) as desk:
        with desk.proxy.client(), desk.proxy.logged_in(), desk.proxy.logged_in():
            yield desk


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("GET", "/v1/sessions?usr=x", None, 400, "there is no parameter 'usr': write one of: user, ip"),
        ("GET", "/v1/sessions?user=a&user=b", None, 400, "user is there twice"),
        ("GET", "/v1/sessions?user=", None, 400, "user: write a string of 1 to"),
        ("GET", "/v1/sessions?ip=joe", None, 400, "is no address and no network"),
        ("GET", "/v1/sessions?phase=up", None, 400, "phase: write one of: greeting, "),
        ("GET", "/v1/sessions?tls=perhaps", None, 400, "tls: write true or false"),
        ("GET", "/v1/sessions?limit=0", None, 400, "limit: write a number from 1 to 1000"),
        ("GET", "/v1/sessions?limit=-1", None, 400, "limit: write a number"),
        ("GET", "/v1/sessions?limit=1001", None, 400, "limit: write a number from 1 to 1000"),
        ("GET", "/v1/sessions?after=x", None, 400, "after: write what the page before said as next"),
        ("GET", "/v1/sessions/nobody", None, 404, "there is no session 'nobody'"),
        ("DELETE", "/v1/sessions/nobody", None, 404, "there is no such session"),
        ("POST", "/v1/sessions/nobody/kick", None, 404, "there is no such session"),
        ("POST", "/v1/kick", None, 400, "whom? write one of: id, user"),
        ("POST", "/v1/kick", b"{", 400, "the body is no JSON"),
        ("POST", "/v1/kick", b"[" * 16000, 400, "the body is no JSON"),
        ("POST", "/v1/kick", [], 400, "the body is no JSON object"),
        ("POST", "/v1/kick", {"usr": "x"}, 400, "there is no field 'usr'"),
        ("POST", "/v1/kick", {"user": 5}, 400, "user: write a string"),
        ("POST", "/v1/kick", {"user": "x", "now": 1}, 400, "now: write true or false"),
        ("POST", "/v1/kick", b" " * 20000, 413, "the body is too large"),
        ("PATCH", "/v1/kick", None, 405, "PATCH is not for this path: use POST"),
        ("GET", "/v1/nothing", None, 404, "there is no such path"),
    ],
)
def test_what_is_wrong_is_told(
    busy: Office, method: str, path: str, body: object, status: int, told: str
) -> None:
    found, said = busy.ask(method, path, body)
    assert (found, list(said)) == (status, ["error"])
    assert told in said["error"]


def test_pages_over_several_workers_show_each_session_once(upstream: Upstream, tmp_path: Path) -> None:
    setups = [Setup([upstream.url]) for _ in range(3)]
    with offices(setups, tmp_path) as (desk, proxies), ExitStack() as clients:
        entered = [clients.enter_context(proxies[number % 3].client()) for number in range(12)]
        everyone = desk.get("/v1/sessions")["sessions"]
        assert len(everyone) == 12
        ports = [client.socket.getsockname()[1] for client in entered]
        assert [row["client_port"] for row in everyone] == ports, "the oldest first"
        assert {row["worker"] for row in everyone} == {0, 1, 2}
        for limit in (1, 2, 5, 11, 12, 13):
            assert [row["id"] for row in pages(desk, limit)] == [row["id"] for row in everyone]
        seen: list[str] = []
        for place, row in enumerate(pages(desk, 3)):
            seen.append(row["id"])
            if place == 4:
                # Whoever comes or goes meanwhile does not shift the pages.
                clients.enter_context(proxies[0].client())
                assert desk.ask("DELETE", f"/v1/sessions/{everyone[0]['id']}")[0] == 200
        assert seen[:12] == [row["id"] for row in everyone] and len(seen) == 13
        desk.fleet.mute.add(1)
        partial = desk.get("/v1/sessions")
        assert partial["missing"] == [1] and {row["worker"] for row in partial["sessions"]} == {0, 2}
        theirs = next(row["id"] for row in everyone if row["worker"] == 1)
        assert desk.ask("GET", f"/v1/sessions/{theirs}")[0] == 504, "nobody knows whether it is there"
        assert desk.ask("DELETE", f"/v1/sessions/{theirs}")[0] == 504
        desk.fleet.mute.update((0, 2))
        assert desk.ask("GET", "/v1/sessions")[0] == 504


def pages(desk: Office, limit: int) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page = desk.get(f"/v1/sessions?limit={limit}{after}")
        assert len(page["sessions"]) <= limit
        yield from page["sessions"]
        if page["next"] is None:
            return
        after = f"&after={page['next']}"


@pytest.mark.parametrize("how", ["DELETE", "POST", "many", "now"])
def test_an_idle_session_is_closed_without_a_word(how: str, upstream: Upstream, tmp_path: Path) -> None:
    with office(Setup([upstream.url]), tmp_path) as desk:
        with desk.proxy.logged_in() as client:
            assert client.single(b"DELE 1").startswith(b"+OK")
            (row,) = desk.get("/v1/sessions")["sessions"]
            method, path, body = {
                "DELETE": ("DELETE", f"/v1/sessions/{row['id']}?reason=too%20long", None),
                "POST": ("POST", f"/v1/sessions/{row['id']}/kick", {"reason": "too long"}),
                "many": ("POST", "/v1/kick", {"user": "alice", "reason": "too long"}),
                "now": ("POST", f"/v1/sessions/{row['id']}/kick?now", {"reason": "too long"}),
            }[how]
            status, told = desk.ask(method, path, body)
            assert (status, told) == (200, {"kicked": 1, "sessions": [row["id"]], "missing": []})
            assert client.read_eof() == b""
        line = desk.proxy.session()
        assert (line["reason"], line["detail"]) == ("kicked", "by an administrator: too long")
        labels = {"listener": "main", "state": "transaction", "reason": "kicked"}
        assert desk.proxy.sample("sessions_total", **labels) == 1
        eventually(lambda: b"DELE" in upstream.peers[0].received, "the deletion")
        assert b"QUIT" not in upstream.peers[0].received, "deletions are not committed"


def test_a_busy_session_ends_behind_its_reply(tmp_path: Path) -> None:
    with Upstream(large(400)) as upstream, office(Setup([upstream.url]), tmp_path) as desk:
        with desk.proxy.logged_in() as client:
            client.send(b"RETR 1\r\n")
            assert client.socket.recv(1)
            (row,) = desk.get("/v1/sessions")["sessions"]
            assert desk.post(f"/v1/sessions/{row['id']}/kick")["kicked"] == 1
            (row,) = desk.get("/v1/sessions")["sessions"]
            assert row["ends"] == "kicked" and row["phase"] == "streaming"
            rest = client.read_eof()
            assert rest.endswith(b"\r\n.\r\n") and len(rest) > 400 * 65536
        assert desk.proxy.session()["reason"] == "kicked"
        assert b"QUIT" not in upstream.peers[0].received


def test_now_does_not_wait_for_the_reply(tmp_path: Path) -> None:
    with Upstream(large(400)) as upstream, office(Setup([upstream.url]), tmp_path) as desk:
        with desk.proxy.logged_in() as client:
            client.send(b"RETR 1\r\n")
            assert client.socket.recv(1)
            assert desk.post("/v1/kick?now", {"ip": "127.0.0.1"})["kicked"] == 1
            line = desk.proxy.session()
            assert (line["reason"], line["detail"]) == ("kicked", "by an administrator")
            assert line["octets_out"] < 400 * 65536


def test_many_are_kicked_and_others_stay(upstream: Upstream, tmp_path: Path) -> None:
    with offices([Setup([upstream.url]), Setup([upstream.url])], tmp_path) as (desk, proxies), ExitStack() as stack:
        gone = [stack.enter_context(proxy.logged_in()) for proxy in proxies for _ in range(2)]
        stays = stack.enter_context(proxies[0].client())
        told = desk.post("/v1/kick", {"user": "alice"})
        assert told["kicked"] == len(set(told["sessions"])) == 4
        for client in gone:
            assert client.read_eof() == b""
        assert stays.single(b"CAPA").startswith(b"+OK")
        assert desk.post("/v1/kick", {"user": "alice"}) == {"kicked": 0, "sessions": [], "missing": []}


def test_a_reason_of_the_administrator_is_one_line(upstream: Upstream, tmp_path: Path) -> None:
    with office(Setup([upstream.url]), tmp_path) as desk:
        with desk.proxy.client():
            desk.post("/v1/kick", {"ip": "127.0.0.1", "reason": "a\nb" + "x" * 300})
            detail = desk.proxy.session()["detail"]
        assert detail == "by an administrator: a?b" + "x" * 197


def test_ten_thousand_sessions_do_not_hold_up_the_loop(upstream: Upstream, tmp_path: Path) -> None:
    """The list is made in steps: between two of them others are served."""
    with running(Setup([upstream.url]), tmp_path) as proxy, proxy.logged_in():
        (pump,) = proxy.worker.pumps()

        async def asked() -> tuple[Any, int]:
            desk, loop, turns = Desk(), proxy._loop, 0
            Sessions(desk, lambda: [pump] * 10_000)

            def turn() -> None:
                nonlocal turns
                turns += 1
                loop.call_soon(turn)

            turn()
            return await desk.answer("sessions", {"limit": 1000}), turns

        answer, turns = proxy.call(asked())
        assert answer["matched"] == 10_000 and len(answer["sessions"]) == 1000 and answer["more"]
        assert turns > 10_000 // STEP


def test_a_kick_of_many_lets_others_be_served_between(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending a session costs much more than a look at it."""
    monkeypatch.setattr(asking, "KICKS", KICKS)
    with running(Setup([upstream.url]), tmp_path) as proxy, ExitStack() as clients:
        for _ in range(3 * KICKS):
            clients.enter_context(proxy.client())

        async def kicked() -> tuple[Any, list[int]]:
            """The answer, and how many sessions were open at each turn of the loop until then."""
            loop, opened, over = proxy._loop, [proxy.worker.sessions], False

            def turn() -> None:
                opened.append(len([pump for pump in proxy.worker.pumps() if not pump.session.reason]))
                if not over:
                    loop.call_soon(turn)

            loop.call_soon(turn)
            answer = await proxy.worker.desk.answer("kick", {"ip": "127.0.0.1"})
            over = True
            return answer, opened

        answer, opened = proxy.call(kicked())
        assert answer["kicked"] == 3 * KICKS and opened[0] == 3 * KICKS
        assert max(before - after for before, after in pairwise([*opened, 0])) <= KICKS


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        (1 << 60, "<int hidden>"),
        (float("nan"), "<float hidden>"),
        ("x", "<str hidden>"),
        (b"x", "<bytes hidden>"),
        ({"password": 1}, "<dict of 1 hidden>"),
        (["x", "y"], "<list of 2 hidden>"),
        (object(), "<object hidden>"),
    ],
)
def test_only_harmless_values_of_plugins_are_shown(value: object, shown: object) -> None:
    assert harmless(value) == shown


def test_a_cursor_is_read_as_it_was_written() -> None:
    assert cursor(cursor_text((12.5, "a1~b"))) == (12.5, "a1~b")
    assert cursor(None) is None
