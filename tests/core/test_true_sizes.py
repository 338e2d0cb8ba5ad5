"""Any plugins, any message, any pieces, any moment: what was announced is what is sent, or nothing looks whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import BodyFilter, Edit, Fail, Grow, Header, HeaderFilter, Plugin, Refuse, Replace
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.spool import MemorySpool
from popproxy.wire.dots import stuff
from tests.core.rig import BROKEN, Rig, pieces, plugin

GROWTH = st.sampled_from([48, 64, 100, 333, 5000])
PARTS = [
    b"a: b\r\n", b"x-spam: 1\r\n", b" folded\r\n", b"From me\r\n", b"\r\n", b"\n", b".\r\n", b"..x\r\n",
    b"text\r\n", b"\r",
]  # fmt: skip
LINES = st.sampled_from(PARTS)
MESSAGES = st.lists(LINES, max_size=12).map(b"".join).map(lambda m: m if not m or m.endswith(b"\r\n") else m + b"\r\n")


async def waits(*_: object) -> Any: ...


class Odd(BodyFilter):
    """No HeaderFilter, and broken from the start."""

    def __init__(self, growth: int) -> None:
        self.growth = growth

    def feed(self, chunk: bytes) -> bytes:
        raise ValueError("no")

    def finish(self) -> bytes:
        raise ValueError("no")


def adds(octets: int) -> Callable[[Header], None]:
    return lambda header: header.add("X-Added", "y" * octets)


def clears(header: Header) -> None:
    header.remove("*")


def raises(*_: object) -> Any:
    raise ValueError("no")


FILTERS: dict[str, Callable[[int], Any]] = {
    "adds": lambda growth: HeaderFilter(adds(3), growth=growth),
    "adds too much": lambda growth: HeaderFilter(adds(growth), growth=growth),
    "clears": lambda growth: HeaderFilter(clears, growth=growth),
    "raises": lambda growth: HeaderFilter(raises, growth=growth),
    "is small": lambda growth: HeaderFilter(adds(3), growth=growth, limit=20),
    "odd": Odd,
    "none": lambda growth: None,
    "lies": lambda growth: HeaderFilter(adds(3)),
    "is no filter": lambda growth: 5,
}
VERDICTS: dict[str, Any] = {
    "none": None,
    "edit": Edit([("X-E", "1")], ["x-spam"]),
    "edit too much": Edit([("X-E", "y" * 6000)]),
    "edit that cannot be": Edit(remove=["\ud800"]),
    "lie": 5,
    "refuse": Refuse("no"),
}


@st.composite
def plugins(draw: Any) -> tuple[int, Plugin[Any]]:
    growth = draw(GROWTH)
    kind = draw(st.sampled_from(["hook", "hook", "verdict"]))
    hooks: dict[str, Any] = {}
    if kind == "hook":
        hooks["growth"] = lambda *_: growth
    else:
        hooks["on_maildrop"] = lambda *_: Grow(growth)
    made = draw(st.sampled_from(["", *FILTERS]))
    if made:
        hooks["open_body"] = lambda *_: FILTERS[made](growth)
    judged = draw(st.sampled_from(["", "", "wait", "raise", *VERDICTS]))
    if judged in VERDICTS:
        hooks["on_message"] = lambda *_: VERDICTS[judged]
    elif judged:
        hooks["on_message"] = waits if judged == "wait" else raises
    if draw(st.integers(0, 5)) == 0:
        wants = draw(st.sampled_from([True, False, 5]))
        hooks["wants_message"] = lambda *_: wants
    return growth, plugin(draw(st.sampled_from([Fail.OPEN, Fail.OPEN, Fail.CLOSED])), **hooks)


@settings(max_examples=600, deadline=None)
@given(st.lists(plugins(), min_size=1, max_size=3), MESSAGES, st.integers(1, 40), st.data())
def test_promise_9_and_2_whatever_happens(
    chain: list[tuple[int, Plugin[Any]]], message: bytes, size: int, data: st.DataObject
) -> None:
    total = sum(growth for growth, _ in chain)
    full = data.draw(st.booleans())

    class Small(MemorySpool):
        def write(self, octets: bytes) -> None:
            if full and self.octets > 30:
                raise OSError(28, "No space left on device")
            super().write(octets)

    limits = Limits(message_size=data.draw(st.sampled_from([10, 1 << 20])))
    rig = Rig(*(made for _, made in chain), limits=limits, timeouts=Timeouts(keepalive=15), spool=Small).login()
    rig.client(b"LIST 1\r\n")
    if rig.asked() == b"LIST\r\n":
        rig.upstream(b"+OK\r\n1 %d\r\n.\r\n" % len(message)).upstream(b"+OK\r\n1 a\r\n.\r\n")
    else:
        rig.upstream(b"+OK 1 %d\r\n" % len(message))
    assert rig.said() == b"+OK 1 %d\r\n" % (len(message) + total)
    assert not rig.closed
    rig.client(data.draw(st.sampled_from([b"RETR 1\r\n", b"TOP 1 99\r\n"])) + b"NOOP\r\n")
    wire = b"+OK %d octets\r\n" % len(message) + stuff(message) + b"+OK noop\r\n"
    for piece in pieces(wire, size):
        rig.upstream(piece)
    for _ in range(20):
        if rig.closed or not rig.effects or not rig.s._stage.answers.careful.waiting:  # type: ignore[attr-defined]
            break
        for _ in range(data.draw(st.integers(0, 3))):
            rig.wait(15)
        outcome = data.draw(st.sampled_from(["raise", "replace", *VERDICTS]))
        if outcome == "raise":
            rig.raised(TimeoutError())
        else:
            fits = Replace(b"new\r\n", len(message)) if len(message) >= 5 else None
            rig.returned(fits if outcome == "replace" else VERDICTS[outcome])
    said = rig.said()
    if rig.closed:
        assert b"\r\n.\r\n" not in said and b"-ERR" not in said, "promise 2"
        return
    assert said.endswith(b"+OK noop\r\n")
    reply = said[: -len(b"+OK noop\r\n")]
    if reply.startswith(b"-ERR"):
        assert reply in (BROKEN, b"-ERR [SYS/PERM] no\r\n")
        return
    head, _, body = reply.partition(b"\r\n")
    assert head in (b"+OK %d octets" % (len(message) + total), b"+OK %d octets" % len(message))
    assert body.endswith(b".\r\n")
    assert len((b"\r\n" + body[:-3]).replace(b"\r\n.", b"\r\n")) - 2 == len(message) + total, "promise 9"
