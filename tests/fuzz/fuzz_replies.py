"""Any line is a status, whose parts are octets of that line, or None; any text makes one reply line that reads back."""

from __future__ import annotations

from popproxy.wire.errors import Code, Refusal
from popproxy.wire.replies import ALL_OK, err, ok, parse_status, says_ok

SEEDS = [
    b"+OK",
    b"-ERR",
    b"+OK 2 320",
    b"-ERR [SYS/TEMP] later",
    b"-ERR [REFERRAL/joe@example.com:110] moved",
    b"+ Z29vZA==",
    b"+OK\r\n+OK 1\r\n-ERR\r\n",
    b"* BYE\xff\0",
]


def one_input(data: bytes) -> None:
    """As a line that came, as a run of lines that came, and as a text of ours."""
    _read(data)
    _run(data)
    text = data.decode("utf-8", "surrogateescape")
    _made(err(data, Code.SYS_TEMP.value), False)
    _made(err(text), False)
    _made(ok(text), True)
    _made(Refusal(text, Code.AUTH).line(), False)


def _read(line: bytes) -> None:
    status = parse_status(line)
    assert says_ok(line + b"\r\n") is (None if status is None else status.ok)
    if status is None:
        return
    assert line[: 3 if status.ok else 4] == (b"+OK" if status.ok else b"-ERR")
    assert line.endswith(status.text)
    assert b"\r" not in line
    assert b"\n" not in line
    if status.code is not None:
        assert b"[" + status.code + b"]" in line.upper()


def _run(data: bytes) -> None:
    match = ALL_OK.match(data)
    if match is None:
        return
    assert match.group().endswith(b"\r\n")
    for line in match.group()[:-2].split(b"\r\n"):
        status = parse_status(line)
        assert status is not None
        assert status.ok


def _made(line: bytes, good: bool) -> None:
    assert line.endswith(b"\r\n")
    assert len(line) <= 512
    status = parse_status(line[:-2])
    assert status is not None
    assert status.ok is good


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
