"""/v1/upstreams: how servers are told, drained and probed, over one worker and several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from popproxy.net.desk import BadQuestion
from popproxy.run.fleet import Answer
from tests.net.running import PASSWORD, USER, Setup, eventually
from tests.net.upstream import Peer, Upstream
from tests.run.office import Office, office, offices, server_path


def serves(peer: Peer) -> None:
    """An honest server, for STAT."""
    peer.login()
    while True:
        peer.line()
        peer.send(b"+OK 1 120\r\n")


@pytest.fixture
def two() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream(serves) as first, Upstream(serves) as second:
        yield first, second


def name(upstream: Upstream) -> str:
    return upstream.url.rpartition("/")[2]


def used(desk: Office) -> list[str]:
    return [row["server"] for row in desk.get("/v1/sessions")["sessions"]]


def test_a_drained_server_gets_no_new_logins_and_keeps_its_sessions(
    two: tuple[Upstream, Upstream], tmp_path: Path
) -> None:
    first, second = map(name, two)
    setup = Setup([one.url for one in two], upstream="max_sessions = 5")
    with office(setup, tmp_path) as desk:
        with desk.proxy.logged_in() as old:
            told = desk.post(server_path("main", first, "drain"))
            assert told == {
                "upstream": "main", "server": first, "drained": True, "changed": True, "sessions": 1, "missing": [],
            }  # fmt: skip
            assert desk.post(server_path("main", first, "drain"))["changed"] is False
            with desk.proxy.logged_in():
                assert used(desk) == [first, second]
                assert old.single(b"STAT").startswith(b"+OK")
                (upstream,) = desk.get("/v1/upstreams")["upstreams"]
                assert (upstream["name"], upstream["sessions"], upstream["max_sessions"]) == ("main", 2, 5)
                assert [server["drained"] for server in upstream["servers"]] == [True, False]
                assert [server["sessions"] for server in upstream["servers"]] == [1, 1]
                assert [server["state"] for server in upstream["servers"]] == ["up", "up"]
                assert upstream["servers"][0]["workers"][0]["worker"] == 0
            desk.post(server_path("main", second, "drain"))
            with desk.proxy.client() as refused:
                assert refused.user_pass(USER, PASSWORD).startswith(b"-ERR [SYS/TEMP]")
            assert "drained by an administrator" in desk.proxy.wait("upstream_failed")["detail"]
            assert desk.post(server_path("main", first, "undrain"))["changed"] is True
            with desk.proxy.logged_in():
                assert used(desk)[-1] == first
        assert list(desk.api.standing()) == [
            ("upstream.drain", {"upstream": "main", "server": second, "on": True}),
        ]


def test_who_waits_is_served_when_a_server_is_undrained_and_refused_when_all_are_drained(tmp_path: Path) -> None:
    with Upstream(serves) as server, Upstream(serves) as other:
        setup = Setup([server.url, other.url], upstream='max_sessions = 1\nqueue = 2\nqueue_timeout = "20s"')
        with office(setup, tmp_path) as desk:
            with desk.proxy.logged_in(), desk.proxy.client() as waits:
                waits.send(b"USER alice\r\nPASS " + PASSWORD + b"\r\n")
                eventually(lambda: desk.get("/v1/upstreams/main")["waiting"] == 1, "waiting login")
                desk.post(server_path("main", name(server), "drain"))
                assert desk.get("/v1/upstreams/main")["waiting"] == 1
                desk.post(server_path("main", name(other), "drain"))
                assert waits.read_line().startswith(b"+OK")
                assert waits.read_line().startswith(b"-ERR [SYS/TEMP]")


def test_a_probe_says_what_is_wrong_and_brings_a_server_back(tmp_path: Path) -> None:
    def refuses(peer: Peer) -> None:
        peer.send(b"-ERR out of order\r\n")

    with Upstream(refuses, refuses, serves) as server:
        setup = Setup([server.url], upstream='health = { fall = 1, backoff = "10m", longest = "10m" }')
        with office(setup, tmp_path) as desk:
            told = desk.post(server_path("main", name(server), "probe"))
            (probe,) = told["probes"]
            assert (told["ok"], probe["worker"], probe["ok"], probe["kind"]) == (False, 0, False, "greeting")
            assert "out of order" in probe["detail"] and probe["seconds"] >= 0 and probe["state"] == "down"
            (shown,) = desk.get("/v1/upstreams/main")["servers"]
            assert shown["state"] == "down" and shown["last_failure"]["kind"] == "greeting"
            assert 500 < shown["workers"][0]["next_trial"] <= 600
            desk.proxy.wait("upstream_down")
            assert desk.post("/v1/upstreams/main/probe")["ok"] is False
            told = desk.post(server_path("main", name(server), "probe"))
            assert told["ok"] is True and told["probes"][0]["state"] == "up"
            desk.proxy.wait("upstream_up")
            assert desk.proxy.sample("upstream_health_checks_total", upstream="main", server=name(server), result="ok")


def test_several_workers_are_one(
    two: tuple[Upstream, Upstream], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = map(name, two)
    setup = Setup([one.url for one in two], upstream='health = { fall = 1, backoff = "10m", longest = "10m" }')
    with offices([setup, setup], tmp_path) as (desk, proxies):
        with proxies[0].logged_in(), proxies[1].logged_in(), proxies[1].logged_in():
            (upstream,) = desk.get("/v1/upstreams")["upstreams"]
            assert upstream["sessions"] == upstream["servers"][0]["sessions"] == 3
            assert [one["sessions"] for one in upstream["servers"][0]["workers"]] == [1, 2]
            assert desk.post(server_path("main", first, "drain"))["sessions"] == 3
            for proxy in proxies:
                assert proxy.worker.generations[0].dialers["main"].group.drained == {first}
            desk.fleet.mute.add(1)
            assert desk.post(server_path("main", first, "undrain"))["missing"] == [1]
            desk.fleet.mute.clear()
            (upstream,) = desk.get("/v1/upstreams")["upstreams"]
            assert upstream["servers"][0]["drained"] is False, "only one worker still keeps logins away"
            # A worker that starts anew is told what stands, also while the others are being told.
            assert list(desk.api.standing()) == []
            stood: list[int] = []
            ask = desk.fleet.ask

            async def watched(*asked: Any, **more: Any) -> list[Answer]:
                stood.append(len(list(desk.api.standing())))
                return await ask(*asked, **more)

            monkeypatch.setattr(desk.fleet, "ask", watched)
            assert desk.ask("POST", server_path("main", "nowhere:1", "drain"))[0] == 404
            desk.post(server_path("main", first, "drain"))
            desk.post(server_path("main", first, "undrain"))
            assert (stood, list(desk.api.standing())) == ([1, 1, 0], [])
        member = proxies[1].worker.generations[0].dialers["main"].group.members[1]
        member.breaker.failed(0, 0.0)
        (upstream,) = desk.get("/v1/upstreams")["upstreams"]
        assert [one["state"] for one in upstream["servers"]] == ["up", "mixed"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("GET", "/v1/upstreams/other", None, 404, "there is no upstream 'other'; write one of: main"),
        ("GET", "/v1/upstreams?x=1", None, 400, "there is no parameter 'x': this path takes none"),
        ("POST", "/v1/upstreams/other/probe", None, 404, "there is no upstream 'other'"),
        ("POST", "/v1/upstreams/main/servers/mail:1/drain", None, 404, "main has no server 'mail:1'; write one"),
        ("POST", "/v1/upstreams/main/servers/mail:1/probe", None, 404, "main has no server"),
        ("POST", "/v1/upstreams/main/servers/mail:1/undrain", {"x": 1}, 400, "there is no field 'x'"),
        ("GET", "/v1/upstreams/main/servers/mail:1/drain", None, 405, "use POST"),
    ],
)
def test_what_is_wrong_is_told(method: str, path: str, body: object, status: int, told: str, quiet: Office) -> None:
    found, said = quiet.ask(method, path, body)
    assert found == status
    assert told in said["error"]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    with office(Setup(["pop3+clear://127.0.0.1:9"]), tmp_path_factory.mktemp("quiet")) as desk:
        yield desk


def test_a_question_without_its_arguments_is_no_question(quiet: Office) -> None:
    for question, arguments, told in (
        ("upstream.drain", {"upstream": "main", "server": "127.0.0.1:9"}, "on is missing"),
        ("upstream.drain", {"upstream": "main"}, "server is missing"),
        ("upstream.probe", {}, "upstream is missing"),
    ):
        with pytest.raises(BadQuestion, match=told):
            quiet.proxy.call(quiet.proxy.worker.desk.answer(question, arguments))
