"""The values of api.services, the cache behind look-ups, and the fakes that stand for the services in a play."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popproxy.api import (
    Command,
    Credentials,
    FileFailed,
    HttpFailed,
    HttpReply,
    LineError,
    Lookup,
    LookupFailed,
    Plugin,
    PluginConfig,
    Refuse,
    Services,
    SessionView,
    StreamFailed,
    Unavailable,
    WatchedFile,
)
from popproxy.api.cache import Cache
from popproxy.api.fakes import FakeClock, FakeServices, HttpRequest, World
from popproxy.api.testing import PlayError, play


def test_trouble_is_one_family() -> None:
    for error in (HttpFailed("lost", "x"), StreamFailed("lost", "x"), LookupFailed("x")):
        assert isinstance(error, Unavailable)
        assert str(error) == "x"
    assert not issubclass(FileFailed, Unavailable)


def test_a_reply_hides_its_body_and_finds_its_headers() -> None:
    reply = HttpReply(200, (("A", "1"), ("a", "2")), b"secret")
    assert "secret" not in repr(reply)
    assert (reply.header("a"), reply.header("b")) == ("1", None)


STEPS = st.sampled_from(["get", "put", "none", "forget", "wait", "clear"])


@given(st.lists(st.tuples(st.sampled_from("abcde"), STEPS)))
def test_the_cache_is_bounded_and_never_shows_what_is_too_old(steps: list[tuple[str, str]]) -> None:
    now = 0.0
    cache: Cache[str, float] = Cache(lambda: now, ttl=3, negative_ttl=2, size=3)
    model: dict[str, tuple[float, float | None]] = {}
    for key, step in steps:
        match step:
            case "put" | "none":
                value = now if step == "put" else None
                cache.put(key, value)
                model[key] = (now + (3 if step == "put" else 2), value)
            case "get":
                got = cache.get(key)
                if got is not None:
                    ends, value = model[key]
                    assert (got[0], ends > now) == (value, True)
            case "forget":
                cache.forget(key)
                model.pop(key, None)
            case "clear":
                cache.clear()
                model.clear()
            case _:
                now += 1
        assert len(cache) <= 3
        if step in ("put", "none"):
            assert cache.get(key) == (model[key][1],)


def services(**world: Any) -> FakeServices:
    return FakeServices(FakeClock(), World(**world))


def run(coroutine: Any) -> Any:
    """A coroutine that waits for nothing, driven by hand as play() does it."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


class Asks(Plugin[PluginConfig]):
    """Uses every service in a play."""

    lookup: Lookup[str, str]
    words: WatchedFile[str]
    path: Path

    async def start(self, services: Services) -> None:
        self.services = services
        self.lookup = services.lookup("users", self.fetch)
        self.words = await services.file(self.path, bytes.decode)

    async def fetch(self, user: str) -> str | None:
        reply = await self.services.http.request("GET", f"http://users/{user}", headers={"A": "b"})
        return reply.header("host")

    async def on_login(self, session: SessionView, credentials: Credentials) -> Refuse | None:
        return None if await self.lookup.get(credentials.user) else Refuse("No")

    async def on_command(self, session: SessionView, command: Command) -> Refuse | None:
        async with await self.services.stream("scan:783", timeout=1) as stream:
            await stream.write(b"NOOP")
            await stream.write_eof()
            word = await stream.read(2) + await stream.read()
            assert await stream.read() == b""
        return Refuse(await self.services.threads.run(str.upper, word.decode() + self.words.value))


SCRIPT = """
C: NOOP
S: -ERR [SYS/PERM] TEN4WORD
"""


def test_a_play_with_every_service(tmp_path: Path) -> None:
    asked: list[HttpRequest] = []

    def answer(request: HttpRequest) -> HttpReply:
        asked.append(request)
        return HttpReply(200, (("Host", "a"),))

    path = tmp_path / "words"
    path.write_text("word")
    kind = type("Mine", (Asks,), {"path": path})
    played = play(kind, SCRIPT, logged_in=True, http=answer, streams={"scan:783": lambda heard: b"ten%d" % len(heard)})
    (request,) = asked
    assert (request.method, request.url, request.header("a")) == ("GET", "http://users/joe", "b")
    assert played.counters["users_lookups", "found"] == 1


def test_what_the_test_forgot_is_said(tmp_path: Path) -> None:
    kind = type("Mine", (Asks,), {"path": tmp_path})
    with pytest.raises(FileFailed, match="Is a directory"):
        play(kind, "C: NOOP", logged_in=True)
    path = tmp_path / "words"
    path.write_text("word")
    kind = type("Mine", (Asks,), {"path": path})
    with pytest.raises(PlayError, match="give play"):
        play(kind, SCRIPT, logged_in=True)
    with pytest.raises(PlayError, match=r"nobody is at scan:783: give play\(\.\.\., streams="):
        play(kind, SCRIPT, logged_in=True, http=lambda _: HttpReply(200, (("Host", "a"),)))


def test_a_fake_look_up_keeps_and_forgets_and_fails() -> None:
    answers: dict[str, str | None | Exception] = {"joe": "main", "eve": None, "bob": OSError("down")}
    asked: list[str] = []

    async def fetch(key: str) -> str | None:
        asked.append(key)
        answer = answers[key]
        if isinstance(answer, Exception):
            raise answer
        return answer

    given = services()
    lookup = given.lookup("users", fetch, ttl=60, negative_ttl=10)
    for _ in range(2):
        assert (run(lookup.get("joe")), run(lookup.get("eve"))) == ("main", None)
        with pytest.raises(LookupFailed, match="users: down"):
            run(lookup.get("bob"))
    assert asked == ["joe", "eve", "bob", "bob"]
    given.clock.wait(11)
    run(lookup.get("joe"))
    run(lookup.get("eve"))
    lookup.forget("joe")
    run(lookup.get("joe"))
    lookup.clear()
    run(lookup.get("eve"))
    assert asked[4:] == ["eve", "joe", "eve"]


def test_a_fake_file_follows_the_one_on_disk(tmp_path: Path) -> None:
    def parse(data: bytes) -> bytes:
        if b"!" in data:
            raise LineError(3, "no")
        return data

    path = tmp_path / "words"
    path.write_text("a")
    given = services()
    file = run(given.file(path, parse))
    assert (file.value, file.version) == (b"a", 1)
    path.write_text("!")
    assert (file.value, file.version) == (b"a", 1)
    path.write_text("b")
    assert (file.value, file.version) == (b"b", 2)
    assert [(line.event, line.fields["detail"]) for line in given.log.lines] == [("file_broken", f"{path}:3: no")]


def test_a_fake_request_keeps_its_body_whatever_it_was() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    given = services(http=lambda request: HttpReply(200, (), request.body))
    for body, octets in ((None, b""), (b"ab", b"ab"), ([b"a", b"b"], b"ab"), (parts(), b"ab")):
        reply = run(given.http.request("POST", "http://a", body=body))
        assert isinstance(reply, HttpReply)
        assert reply.body == octets
