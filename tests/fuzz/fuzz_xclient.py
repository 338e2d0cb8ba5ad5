"""Any arguments are refused with an XclientError or parsed into what can be sent on and arrives as it was."""

from __future__ import annotations

from dataclasses import asdict

from popproxy.wire.xclient import LIMIT, Xclient, XclientError, command_lines, offered, parse

SEEDS: list[bytes] = [
    b"ADDR=192.0.2.7 PORT=4711 DESTADDR=2001:db8::1 DESTPORT=995 SESSION=abc TTL=4",
    b"CLIENT-TRANSPORT=TLS DESTNAME=mail.example.com FORWARD=az12AXQxCWo9Mg==",
    b"addr=[::ffff:192.0.2.1] port=1  FOO=2 BAR",
    b"+OK [XCLIENT] Dovecot ready.\r\n",
]


def one_input(data: bytes) -> None:
    """See the head of this file. Raises AssertionError when that does not hold."""
    assert offered(data) == (data[:13] == b"+OK [XCLIENT]" and data[13:14] in (b"", b" ", b"\r", b"\n"))
    try:
        what = parse(data)
    except XclientError as error:
        assert str(error), "a refusal without a reason"
        return
    try:
        lines = command_lines(what)
    except XclientError as error:
        assert error.reason == "overlong", "a value that was taken and cannot be sent on"
        return
    said: dict[str, object] = {}
    for line in lines:
        assert len(line) <= LIMIT and line.startswith(b"XCLIENT ") and line.endswith(b"\r\n")
        assert not {0, 10, 13} & set(line[:-2]), "a line that ends early"
        said |= {name: value for name, value in asdict(parse(line[8:-2])).items() if value not in (None, ())}
    nothing = asdict(Xclient())
    assert nothing | said == asdict(what), "what arrives is not what was sent"


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
