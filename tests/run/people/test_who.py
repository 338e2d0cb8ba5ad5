"""``who``, ``kick`` and ``upstreams`` over a real worker with real sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from popproxy.run.asked import EX_OK, EX_USAGE, EX_WRONG
from popproxy.run.people.table import measure
from popproxy.run.people.who import render, render_one
from tests.net.running import PASSWORD, Proxy, Setup, eventually
from tests.net.upstream import Peer, Upstream
from tests.run.office import Office, office, offices
from tests.run.people.conftest import Typed, Wide
from tests.wireclient import WireClient

STRANGE = b"eve\x1b]0;owned\x07\xe2\x80\xaeevil"


def stat(peer: Peer) -> None:
    """An upstream that serves STAT until the proxy goes."""
    peer.login()
    while True:
        peer.line()
        peer.send(b"+OK 1 120\r\n")


def entered(proxy: Proxy, name: bytes) -> WireClient:
    client = proxy.client()
    assert client.user_pass(name, PASSWORD).startswith(b"+OK")
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


def users(told: Any) -> list[str]:
    return [row["user"] for row in told["sessions"]]


def test_who_is_there(desk: Office, typed: Typed, wide: Wide) -> None:
    assert typed("who") == (EX_WRONG, "no session\n", "")
    with ExitStack() as stack:
        clients = [stack.enter_context(entered(desk.proxy, name)) for name in (b"alice", b"bob", b"carol")]
        for _ in range(3):
            clients[1].single(b"STAT")
        code, out, err = typed("who")
        assert (code, err) == (EX_OK, "")
        head, *rows = out.splitlines()
        assert head.split()[:3] == ["SESSION", "USER", "CLIENT"]
        assert [row.split()[1] for row in rows] == ["alice", "bob", "carol"]
        wide(80)
        assert all(len(line) <= 80 for line in typed("who")[1].splitlines())
        assert users(typed.json("who --user [ab]*")[1]) == ["alice", "bob"]
        assert users(typed.json("who --sort user --limit 2")[1]) == ["alice", "bob"]
        assert users(typed.json("who --sort octets")[1])[0] == "bob"
        assert users(typed.json("who --limit 1")[1]) == ["alice"]
        assert "1 of 3 sessions; --limit 0 shows all" in typed("who --limit 1")[1]
        assert typed.json("who --ip 192.0.2.0/24")[0] == EX_WRONG
        assert typed.json("who --no-tls --phase transaction --listener main --upstream main")[1]["matched"] == 3
        told = typed.json("who --tls")
        assert (told[0], told[1]["matched"]) == (EX_WRONG, 0)
        code, _, err = typed("who --ip nowhere")
        assert code == EX_WRONG and "write 192.0.2.7 or 192.0.2.0/24" in err


def test_one_of_them(desk: Office, typed: Typed) -> None:
    with desk.proxy.logged_in() as client:
        client.single(b"STAT")
        (row,) = typed.json("who")[1]["sessions"]
        code, told = typed.json("who", row["id"])
        assert (code, told["user"], told["commands"]["STAT"]) == (EX_OK, "alice", {"ok": 1})
        out = typed("who", row["id"])[1]
        assert "command STAT" in out and "1 ok" in out
        assert PASSWORD.decode() not in out
        code, out, err = typed("who", "000000")
        assert (code, out) == (EX_WRONG, "")
        assert "there is no session '000000'" in err
        assert typed("who", row["id"], "--user", "x")[0] == EX_USAGE


def test_all_pages(upstream: Upstream, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several workers, one of them mute."""
    monkeypatch.setattr("popproxy.run.people.who._PAGE", 2)
    with offices([Setup([upstream.url])] * 2, tmp_path) as (desk, proxies), ExitStack() as stack:
        typed.place = f"unix:{desk.path}"
        names = [b"u%d" % number for number in range(7)]
        for number, name in enumerate(names):
            stack.enter_context(entered(proxies[number % 2], name))
        assert users(typed.json("who")[1]) == [name.decode() for name in names]
        assert users(typed.json("who --limit 3")[1]) == ["u0", "u1", "u2"]
        assert users(typed.json("who --sort user --limit 5")[1]) == ["u0", "u1", "u2", "u3", "u4"]
        desk.fleet.mute.add(1)
        code, out, err = typed("who")
        assert (code, out.count("\n")) == (EX_OK, 5)
        assert "worker 1 did not answer in time" in err


def test_a_worker_that_was_mute_for_one_page_is_named(
    upstream: Upstream, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("popproxy.run.people.who._PAGE", 2)
    with offices([Setup([upstream.url])] * 2, tmp_path) as (desk, proxies), ExitStack() as stack:
        typed.place = f"unix:{desk.path}"
        for number in range(8):
            stack.enter_context(entered(proxies[number % 2], b"u%d" % number))
        usual = desk.fleet.ask

        async def mute_once(*asked: Any) -> Any:
            desk.fleet.mute = {1} if "after" not in asked[1] else set()
            return await usual(*asked)

        monkeypatch.setattr(desk.fleet, "ask", mute_once)
        told = typed.json("who --limit 0")[1]
        assert (told["missing"], told["matched"]) == ([1], 8) and "u1" not in users(told)
        assert "worker 1 did not answer in time" in typed("who")[2]


def test_a_name_from_a_stranger(desk: Office, typed: Typed, wide: Wide) -> None:
    with entered(desk.proxy, STRANGE):
        for arguments in ("who", f"who {typed.json('who')[1]['sessions'][0]['id']}"):
            for columns in (0, 80):
                if columns:
                    wide(columns)
                out = typed(arguments)[1]
                assert "eve" in out
                assert all(line.isprintable() for line in out.splitlines())


def test_kick(desk: Office, typed: Typed) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(entered(desk.proxy, name)) for name in (b"alice", b"bob", b"bob", b"carol")]
        rows = typed.json("who")[1]["sessions"]
        code, out, err = typed("kick", rows[0]["id"], "000000", "--reason", "said so")
        assert (code, out) == (EX_OK, "1 session ended; one that waits for a reply ends behind it\n")
        assert "000000: there is no such session" in err
        assert clients[0].read_eof() == b""
        assert typed.json("kick --user bob --now")[1]["kicked"] == 2
        assert typed("kick --user bob") == (EX_WRONG, "no sessions ended\n", "")
        assert typed("kick --ip 127.0.0.0/8 --now") == (EX_OK, "1 session ended\n", "")
        eventually(lambda: typed("who")[0] == EX_WRONG, "no session")
        code, told = typed.json("kick 000000")
        assert (code, told) == (EX_WRONG, {"kicked": 0, "sessions": [], "missing": []})
    reasons = [line["detail"] for line in desk.proxy.lines("session")]
    assert "by an administrator: said so" in reasons


@pytest.mark.parametrize("arguments", ["kick", "kick abc --user joe", "kick --now"])
def test_kick_whom(arguments: str, typed: Typed) -> None:
    code, _, err = typed(arguments)
    assert code == EX_USAGE
    assert "whom?" in err


def test_upstreams(desk: Office, typed: Typed, upstream: Upstream, wide: Wide) -> None:
    server = upstream.url.removeprefix("pop3+clear://")
    with desk.proxy.logged_in():
        out = typed("upstreams")[1].splitlines()
        assert out[0].split()[:4] == ["UPSTREAM", "SERVER", "STATE", "SESSIONS"]
        assert out[1].split()[:2] == ["main", server] and out[1].split()[3] == "1"
        code, told = typed.json("upstreams --json drain main", server)
        assert (code, told["servers"][0]["changed"]) == (EX_OK, True)
        until = "until it is undrained or popproxy is started again"
        assert typed("upstreams drain main")[1] == (
            f"{server} gets no new logins, as before, {until}; 1 sessions go on\n"
        )
        assert "drained" in typed("upstreams")[1]
        wide(60)
        assert all(measure(line) <= 60 for line in typed("upstreams")[1].splitlines())
        assert typed("upstreams undrain main", server)[1] == f"{server} gets logins again\n"
        code, out, _ = typed("upstreams probe main")
        assert (code, out.splitlines()[1].split()[:3]) == (EX_OK, [server, "0", "ok"])
        code, told = typed.json("upstreams probe main", server)
        assert (code, told["ok"]) == (EX_OK, True)
        for wrong in ("upstreams drain none", "upstreams probe main nowhere:1", "upstreams undrain main nowhere:1"):
            code, _, err = typed(wrong)
            assert code == EX_WRONG and "write one of: " in err


def test_where_is_said_before_or_behind(desk: Office, typed: Typed) -> None:
    place, typed.place = typed.place, ""
    assert typed("upstreams", "--admin", place, "probe", "main")[0] == EX_OK
    assert typed("upstreams", "probe", "main", "--admin", place)[0] == EX_OK


def test_a_probe_that_fails(tmp_path: Path, typed: Typed) -> None:
    with office(Setup(["pop3+clear://127.0.0.1:9"]), tmp_path) as desk:
        typed.place = f"unix:{desk.path}"
        code, out, _ = typed("upstreams probe main")
        assert code == EX_WRONG
        assert "refused: 127.0.0.1: connection refused" in out
        assert typed.json("upstreams probe main")[0] == EX_WRONG


def test_what_is_rendered_needs_no_session() -> None:
    assert render({"sessions": [], "matched": 0}, 80) == "no session\n"
    tls = {"version": "TLSv1.3", "resumed": False}
    assert render_one({"id": "a", "groups": ["x", "y"], "tls_details": tls, "user": None}).splitlines() == [
        "id           a",
        "groups       x, y",
        "tls details  version TLSv1.3, resumed no",
        "user         -",
    ]
