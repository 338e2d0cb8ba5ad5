"""Stuffed, framed and un-stuffed again a message is itself, ended with CRLF if it was not, however it was cut."""

from __future__ import annotations

from popproxy.wire.dots import Stuffer, Unstuffer, stuff, unstuff
from popproxy.wire.framer import BodyScanner

SEEDS = [b"\x00", b"\x01.\r\n..\r\n", b"\x02a\r\n.b\r\n", b"\x03a\n.b\r.\n", b"\x00\r\n.\r\n.\r\n"]


def one_input(data: bytes) -> None:
    """The first octet is the size of the pieces."""
    size = data[0] % 16 + 1 if data else 1
    message = data[1:]
    wire = stuff(message)
    whole = message if not message or message.endswith(b"\r\n") else message + b"\r\n"
    assert unstuff(wire[:-3]) == whole
    assert BodyScanner().scan(wire + b"+OK\r\n.\r\n") == len(wire)
    stuffer = Stuffer()
    assert b"".join(map(stuffer.feed, _pieces(message, size))) + stuffer.finish() == wire
    for body in (wire[:-3], message):
        unstuffer = Unstuffer()
        assert b"".join(map(unstuffer.feed, _pieces(body, size))) == unstuff(body)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[place : place + size] for place in range(0, len(data), size)]


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
