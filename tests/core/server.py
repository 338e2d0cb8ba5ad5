"""A small honest POP3 server without a socket: octets in, octets out; what it does depends on nothing else."""

from __future__ import annotations

from popproxy.wire.dots import stuff

MESSAGES = [
    b"Subject: one\r\n\r\nfirst\r\n",
    b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n\n.\r\n",
    b"Subject: long\r\n\r\n" + b"y" * 300 + b"\r\n",
    b".\r\n",
]


class Server:
    """RFC 1939 for one maildrop. ``feed`` takes octets and gives the replies to all whole lines in them."""

    def __init__(self, pipelining: bool = True, password: bytes = b"sesame") -> None:
        self.pipelining = pipelining
        self.password = password
        self.greeting = b"+OK model ready\r\n"
        self.lines: list[bytes] = []
        self.user = b""
        self.inside = False
        self.committed = False
        self.closed = False
        self.deleted: set[int] = set()
        self._buffer = b""

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        out = b""
        while b"\r\n" in self._buffer and not self.closed:
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            self.lines.append(line)
            out += self.answer(line)
        return out

    def answer(self, line: bytes) -> bytes:
        name, _, argument = line.partition(b" ")
        name = name.upper()
        if name == b"CAPA":
            return b"+OK\r\nTOP\r\nUIDL\r\n" + b"PIPELINING\r\n" * self.pipelining + b".\r\n"
        if name == b"QUIT":
            self.closed = True
            self.committed = self.inside
            return b"+OK bye\r\n"
        if not self.inside:
            return self.authorization(name, argument)
        number = int(argument.split()[0]) if argument else 0
        if argument and (not 0 < number <= len(MESSAGES) or number in self.deleted):
            return b"-ERR No such message\r\n"
        return self.transaction(name, argument, number)

    def authorization(self, name: bytes, argument: bytes) -> bytes:
        if name == b"USER":
            self.user = argument
            return b"+OK\r\n"
        if name == b"PASS" and self.user and argument == self.password:
            self.inside = True
            return b"+OK welcome\r\n"
        return b"-ERR [AUTH] no\r\n"

    def transaction(self, name: bytes, argument: bytes, number: int) -> bytes:
        left = [place for place in range(1, len(MESSAGES) + 1) if place not in self.deleted]
        sizes = {place: len(MESSAGES[place - 1]) for place in left}
        message = MESSAGES[number - 1]
        if name == b"STAT":
            return b"+OK %d %d\r\n" % (len(left), sum(sizes.values()))
        if name == b"LIST":
            rows = b"".join(b"%d %d\r\n" % pair for pair in sizes.items())
            return b"+OK %d %d\r\n" % (number, sizes[number]) if number else b"+OK\r\n" + rows + b".\r\n"
        if name == b"UIDL":
            rows = b"".join(b"%d uid%d\r\n" % (place, place) for place in left)
            return b"+OK %d uid%d\r\n" % (number, number) if number else b"+OK\r\n" + rows + b".\r\n"
        if name == b"RETR":
            return b"+OK %d octets\r\n" % sizes[number] + stuff(message)
        if name == b"TOP":
            return b"+OK\r\n" + stuff(message.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        if name == b"DELE":
            self.deleted.add(number)
            return b"+OK marked\r\n"
        if name == b"RSET":
            self.deleted.clear()
        return b"+OK\r\n" if name in (b"NOOP", b"RSET") else b"-ERR unknown\r\n"
