"""Any lines make a capability set that reads back from its own lines and whose reply is framed exactly once."""

from __future__ import annotations

from popproxy.wire.capabilities import Capabilities
from popproxy.wire.framer import BodyScanner

SEEDS = [
    b"TOP\r\nUSER\r\nSASL PLAIN LOGIN\r\n",
    b"LOGIN-DELAY 900 USER\r\nEXPIRE NEVER\r\nIMPLEMENTATION x y\r\n",
    b".\r\n..\r\n\r\n \r\n\xff\0\r\n",
    b"sasl a\r\nSASL b\r\n",
]


def one_input(data: bytes) -> None:
    """The lines of a CAPA reply."""
    lines = data.split(b"\r\n")
    found = Capabilities.parse(lines)
    assert len(found) <= len(lines)
    assert all(name == name.upper() for name in found)
    assert Capabilities.parse(found.lines()) == found
    assert list(Capabilities.parse(found.lines())) == list(found)
    assert hash(Capabilities.parse(reversed(found.lines()))) == hash(found)
    assert Capabilities.parse(reversed(found.lines())) == found
    reply = found.reply()
    status = reply.index(b"\r\n") + 2
    assert BodyScanner().scan(reply, status) == len(reply)
    assert found.only(found) == found
    assert len(found.without(*found)) == 0
    assert repr(found).startswith("Capabilities([")


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
