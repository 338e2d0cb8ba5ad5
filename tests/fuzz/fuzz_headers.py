"""Whatever a message is and however it is cut, an edit changes only what it names and nothing it says makes a field."""

from __future__ import annotations

from popproxy.api import Header, HeaderFilter
from popproxy.api.header import header_end

SEEDS = [
    b"\x03Subject: x\r\nX-Spam: 1\r\n folded\r\n\r\nbody\r\n",
    b"\x00\r\nbody",
    b"\x01A: b\n\nX-Spam: body\n",
    b"\x02From joe\r\n evil\r\nx-spam : \xff\0\r\r\n\r\n",
    b"\x07 white space first\r\ngarbage\r\n:\r\n",
    "\x05Subject: Grüße =?utf-8?q?x?=\r\n\r\n".encode(),
]


def one_input(data: bytes) -> None:
    """The first octet is the size of the pieces; the message is its own source of values."""
    size = data[0] % 16 + 1 if data else 1
    message = data[1:]
    _value(message.decode("utf-8", "surrogateescape"))
    _filtered(message, size)
    end = header_end(message)
    block = message if end < 0 else message[:end]
    header = Header(block)
    assert bytes(header) == block
    for name in header.names():
        header.rewrite(name[:76], lambda value: value)
    assert bytes(header) == block
    removed = header.remove("X-Spam*")
    again = Header(bytes(header))
    assert again.names() == header.names()
    assert len(again.names()) + removed == len(Header(block).names())


def _value(value: str) -> None:
    header = Header()
    try:
        header.add("X-Made", value)
    except ValueError:
        assert set(value) & {"\r", "\n", "\0"}
        return
    raw = bytes(header)
    assert raw.isascii()
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert Header(raw + b"\r\n").names() == ["x-made"]


def _filtered(message: bytes, size: int) -> None:
    whole, cut = HeaderFilter(_edit, limit=64), HeaderFilter(_edit, limit=64)
    expected = whole.feed(message) + whole.finish()
    pieces = [message[place : place + size] for place in range(0, len(message), size)]
    assert b"".join(map(cut.feed, pieces)) + cut.finish() == expected
    assert cut.overflowed is whole.overflowed
    if cut.overflowed:
        assert expected == message
        return
    end = header_end(message)
    if end >= 0:
        assert expected.endswith(message[end:])
    assert b"X-Made: 1\r\n" in expected


def _edit(header: Header) -> None:
    header.remove("X-Spam")
    header.add("X-Made", "1")


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
