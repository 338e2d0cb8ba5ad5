"""The lines of a LineBuffer, and what is left in it, are the octets that went in, however they were cut."""

from __future__ import annotations

from popproxy.wire.lines import LineBuffer

SEEDS = [b"\x02NOOP\r\nSTAT\r\n", b"\x00QUIT", b"\x01\r\n\n\r\r\n", b"\x40" + b"A" * 300 + b"\r\n"]


def one_input(data: bytes) -> None:
    """The first octet is the size of the pieces."""
    size = data[0] + 1 if data else 1
    body = data[1:]
    buffer = LineBuffer(64)
    lines: list[bytes] = []
    for place in range(0, len(body), size):
        buffer.feed(body[place : place + size])
        while (line := buffer.next()) is not None:
            lines.append(line)
        assert buffer.overlong == (len(buffer) > 64)
    assert all(line.find(b"\n") == len(line) - 1 for line in lines)
    rest = buffer.take()
    assert b"\n" not in rest
    assert len(buffer) == 0
    assert b"".join(lines) + rest == body


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
