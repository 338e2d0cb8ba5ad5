"""A body ends just behind the first CRLF . CRLF, the status line's CRLF counted, however it is cut."""

from __future__ import annotations

from popproxy.wire.framer import TERMINATOR, BodyScanner

SEEDS = [
    b"\x00.\r\n",
    b"\x03a\r\n.\r\n+OK\r\n",
    b"\x01..\r\n.\r\n.\r\n",
    b"\x02a\n.\n.\r\n\r\n.\r\n",
    b"\x05\r\n.\r\n.\r\n",
]


def one_input(data: bytes) -> None:
    """The first octet is the size of the pieces."""
    size = data[0] % 16 + 1 if data else 1
    body = data[1:]
    found = (b"\r\n" + body).find(TERMINATOR)
    expected = -1 if found < 0 else found + 3
    for crowded in (False, True):
        assert BodyScanner().scan(body, crowded=crowded) == expected
        assert BodyScanner().scan(b"+OK\r\n" + body, 5, crowded) == (-1 if expected < 0 else expected + 5)
        assert _in_pieces(body, size, crowded) == expected


def _in_pieces(body: bytes, size: int, crowded: bool) -> int:
    scanner = BodyScanner()
    for place in range(0, len(body), size):
        end = scanner.scan(body[place : place + size], crowded=crowded)
        if end >= 0:
            return place + end
    return -1


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
