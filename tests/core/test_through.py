"""A filter that is done lets the rest of a message pass raw: no octet may show where the hand-over was."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from popproxy.api import BodyFilter, Command, Header, HeaderFilter, Plugin, PluginConfig, SessionView
from popproxy.wire.dots import stuff
from tests.core.rig import Rig

LINES = st.sampled_from([b"", b".", b"..", b"...", b".x", b"x", b"x.", b"\r", b"\n.", b"a: b", b"y" * 9000])


class Tag(Plugin[PluginConfig]):
    """Adds a field on top."""

    def open_body(self, session: SessionView, command: Command) -> BodyFilter | None:
        return HeaderFilter(lambda header: header.add("X-Tag", "1"))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(marks)]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(LINES, max_size=12),
    st.lists(LINES, max_size=12),
    st.lists(st.integers(0, 1 << 20), max_size=8),
)
@example([b"a: b"], [b".", b"..", b"x"], [12, 13, 14, 15, 16])
def test_a_message_passes_as_if_every_octet_had_been_filtered(
    head: list[bytes], body: list[bytes], places: list[int]
) -> None:
    message = b"\r\n".join([*head, b"", *body]) + b"\r\n"
    header = Header(message)
    header.add("X-Tag", "1")
    rig = Rig(Tag(PluginConfig())).start()
    rig.login()
    rig.client_out = b""
    rig.client(b"RETR 1\r\nNOOP\r\n")
    for piece in cut(b"+OK here\r\n" + stuff(message) + b"+OK noop\r\n", places):
        rig.upstream(piece)
    assert rig.client_out == b"+OK here\r\n" + stuff(bytes(header)) + b"+OK noop\r\n"


def test_what_follows_the_header_is_the_same_object() -> None:
    rig = Rig(Tag(PluginConfig())).start()
    rig.login()
    rig.client(b"RETR 1\r\n")
    rig.upstream(b"+OK\r\na: b\r\n\r\nbody\r\n")
    chunk = b"z" * 70000
    rig.s.upstream_data(chunk)
    assert rig.s.to_client[0] is chunk
