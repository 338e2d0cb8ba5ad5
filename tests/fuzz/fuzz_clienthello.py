"""An outcome of read_hello never changes when more octets come, and NeedMore always asks for more, within the limit.

The first octet says where the stream is cut for the second reading.
"""

from __future__ import annotations

from popproxy.wire.clienthello import LIMIT, Hello, HelloError, NeedMore, read_hello


def _vector(width: int, value: bytes) -> bytes:
    return len(value).to_bytes(width) + value


_ALPN = b"\x00\x10" + _vector(2, _vector(2, b"\x04pop3\x02h2"))
_SNI = b"\x00\x00" + _vector(2, _vector(2, b"\x00" + _vector(2, b"mail.example")))
_FIXED = b"\x03\x03" + bytes(32) + b"\x00" + _vector(2, b"\x13\x01") + _vector(1, b"\x00")
_MESSAGE = b"\x01" + _vector(3, _FIXED + _vector(2, _ALPN + _SNI))
SEEDS: list[bytes] = [
    b"\x20\x16\x03\x01" + _vector(2, _MESSAGE),
    b"\x08" + b"".join(b"\x16\x03\x03" + _vector(2, _MESSAGE[at : at + 40]) for at in range(0, len(_MESSAGE), 40)),
    b"\x01\x16\x03\x01" + _vector(2, b"\x01" + _vector(3, _FIXED)) + b"early",
    b"\x02USER tim\r\n",
    b"\x01\x15\x03\x03\x00\x02\x02\x28",
]


def _outcome(data: bytes) -> Hello | NeedMore | str:
    try:
        return read_hello(data)
    except HelloError as error:
        return error.reason


def one_input(data: bytes) -> None:
    """See the head of this file. Raises AssertionError when that does not hold."""
    cut, stream = (data[0] if data else 0), data[1:]
    cut %= len(stream) + 1
    early, late = _outcome(stream[:cut]), _outcome(stream)
    for length, result in ((cut, early), (len(stream), late)):
        if isinstance(result, NeedMore):
            assert length < result.total <= LIMIT, "no way to go on"
    if isinstance(early, NeedMore):
        if isinstance(late, Hello):
            assert early.total <= len(stream), "more was asked for than a hello needs"
    else:
        assert late == early, "the outcome changed"
    if isinstance(late, Hello):
        assert late.alpn is None or (late.alpn and all(late.alpn))
        assert late.server_name is None or (late.server_name.isascii() and late.server_name.isprintable())


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
