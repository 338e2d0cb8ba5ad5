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
    # Dots in front, so that the search leaves the hopping for its windows at another place each time.
    front = b"." * (size * 3) + b"x" * 9000
    assert BodyScanner().scan(body) == expected
    assert BodyScanner().scan(b"+OK\r\n" + body, 5) == (-1 if expected < 0 else expected + 5)
    assert _in_pieces(body, size) == expected
    behind = (front + body).find(TERMINATOR)
    assert BodyScanner().scan(front + body) == (-1 if behind < 0 else behind + 5)


def _in_pieces(body: bytes, size: int) -> int:
    scanner = BodyScanner()
    for place in range(0, len(body), size):
        end = scanner.scan(body[place : place + size])
        if end >= 0:
            return place + end
    return -1


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
