"""The upstream of the benchmark: a POP3 server that costs next to nothing, for loads only.

It accepts every user and password, serves the maildrop the user's name describes (mail.py) and answers from
prepared bytes. It is no test double: it checks no phases and forgets every DELE.

Run as ``python -m tests.bench.stub [--cert F --key F]``: prints one JSON line with its ports when it listens, and
ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import json
import os
import ssl
import sys
from pathlib import Path
from typing import cast

from tests.bench import mail

OK = b"+OK\r\n"
GREETING = b"+OK bench ready\r\n"
CAPA = (
    b"+OK capabilities\r\nUSER\r\nUIDL\r\nSASL PLAIN\r\nPIPELINING\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\n"
    b"IMPLEMENTATION bench\r\n.\r\n"
)
BAD = b"-ERR not understood\r\n"
NO_MESSAGE = b"-ERR no such message\r\n"
MAX_LINE = 4096
_NOOPS = b"NOOP\r\n" * 8192


class Stub(asyncio.Protocol):
    """One connection. Commands are answered in order, one write per chunk read."""

    def __init__(self) -> None:
        self._rest = b""
        self._user = "m0x0"
        self._drop = mail.Maildrop(0, 0)
        self._awaits_sasl = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        if not self._rest and len(data) % 6 == 0 and _NOOPS.startswith(data):
            self._transport.write(OK * (len(data) // 6))
            return
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        replies: list[bytes] = []
        ended = len(self._rest) > MAX_LINE
        for line in lines:
            line = line.rstrip(b"\r")
            if self._awaits_sasl:
                self._awaits_sasl = False
                replies.append(self._plain(line))
                continue
            verb, _, argument = line.partition(b" ")
            verb = verb.upper()
            replies.append(self._reply(verb, argument))
            if verb == b"QUIT":
                ended = True
                break
        self._transport.write(b"".join(replies))
        if ended:
            self._transport.close()

    def eof_received(self) -> bool:
        return False

    def _reply(self, verb: bytes, argument: bytes) -> bytes:
        if verb == b"RETR":
            number = self._number(argument)
            if not number:
                return NO_MESSAGE
            return b"+OK %d octets\r\n" % self._drop.size + mail.wire(number, self._drop.size)
        if verb == b"DELE":
            return b"+OK marked\r\n" if self._number(argument) else NO_MESSAGE
        if verb in (b"NOOP", b"RSET", b"QUIT"):
            return OK
        if verb == b"USER":
            self._user = argument.decode("latin-1")
            return OK
        if verb == b"PASS":
            return self._open(self._user)
        return self._rare(verb, argument)

    def _rare(self, verb: bytes, argument: bytes) -> bytes:
        drop = self._drop
        if verb == b"CAPA":
            return CAPA
        if verb == b"STAT":
            return b"+OK %d %d\r\n" % (drop.count, drop.total)
        if verb in (b"LIST", b"UIDL") and not argument:
            return mail.listing(drop) if verb == b"LIST" else mail.unique_ids(drop)
        if verb in (b"LIST", b"UIDL"):
            number = self._number(argument)
            if not number:
                return NO_MESSAGE
            fact = b"%d" % drop.size if verb == b"LIST" else mail.uid(number, drop.size)
            return b"+OK %d %s\r\n" % (number, fact)
        if verb == b"AUTH":
            mechanism, _, initial = argument.partition(b" ")
            if mechanism.upper() != b"PLAIN":
                return b"-ERR [AUTH] mechanism not known\r\n"
            if initial:
                return self._plain(initial)
            self._awaits_sasl = True
            return b"+ \r\n"
        return BAD

    def _plain(self, response: bytes) -> bytes:
        """RFC 4616: authzid NUL authcid NUL passwd."""
        try:
            fields = base64.b64decode(response, validate=True).split(b"\0")
        except binascii.Error:
            return b"-ERR [AUTH] bad base64\r\n"
        return self._open(fields[1].decode("latin-1")) if len(fields) == 3 else BAD

    def _open(self, user: str) -> bytes:
        try:
            self._drop = mail.Maildrop.named(user)
        except ValueError:
            return b"-ERR [AUTH] no such maildrop\r\n"
        mail.prepare(self._drop)
        return b"+OK maildrop ready\r\n"

    def _number(self, argument: bytes) -> int:
        """The message number, 0 when there is no such message."""
        if not argument.isdigit() or len(argument) > 9:
            return 0
        number = int(argument)
        return number if number <= self._drop.count else 0


class Scanner(asyncio.Protocol):
    """An rspamd that finds nothing: it takes a message and says so, as fast as it can."""

    VERDICT = b'{"is_skipped":false,"score":1.5,"required_score":15.0,"action":"no action","symbols":{"BENCH":{}}}'
    REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(VERDICT), VERDICT)

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            self._head = b""
            self._left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self._left -= len(data)
        if not self._left:
            self._transport.write(self.REPLY)


async def serve(tls: ssl.SSLContext | None) -> None:
    """Listen on loopback until standard input ends."""
    loop = asyncio.get_running_loop()
    servers = {"plain": await loop.create_server(Stub, "127.0.0.1", 0, backlog=4096)}
    if tls is not None:
        servers["tls"] = await loop.create_server(Stub, "127.0.0.1", 0, ssl=tls, backlog=4096)
    servers["scanner"] = await loop.create_server(Scanner, "127.0.0.1", 0, backlog=4096)
    ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    print(json.dumps(ports), flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), _watch, ended)
    await ended.wait()
    loop.remove_reader(sys.stdin.fileno())
    for server in servers.values():
        server.close()


def _watch(ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        ended.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    options = parser.parse_args()
    tls: ssl.SSLContext | None = None
    if options.cert is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.cert, options.key)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(tls))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(tls))


if __name__ == "__main__":
    main()
