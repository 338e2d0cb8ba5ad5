"""Secrets that are told apart, a server that repeats whatever it hears, and a client that types them everywhere."""

from __future__ import annotations

import base64
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.net.running import forms
from tests.wireclient import WireClient

USER, PASSWORD = b"alice", b"Open-Sesame-The-Right-One"
NAMES = ("a second USER", "a second word of USER")
CAPABILITIES = b"+OK\r\nUSER\r\nUIDL\r\nTOP\r\nPIPELINING\r\nSASL PLAIN LOGIN OAUTHBEARER XOAUTH2\r\n.\r\n"


class Told:
    """Every secret that was told to somebody, and where."""

    def __init__(self) -> None:
        self.where: dict[bytes, str] = {PASSWORD: "the right password"}
        self._start = secrets.token_hex(3)

    def secret(self, where: str) -> str:
        """A new one, for this place."""
        made = f"Psst-{len(self.where):03d}-{self._start}-Word"
        self.where[made.encode()] = where
        return made

    def octets(self, where: str) -> bytes:
        """The same as octets."""
        return self.secret(where).encode()

    def found(self, outputs: Mapping[str, bytes]) -> list[str]:
        """Which secret stands in which output, in the clear, quoted, in hex or in base64. What was typed as a name is
        one, and administrators are told names."""
        return [
            f"{where!r} stands in {name}"
            for name, text in outputs.items()
            for secret, where in self.where.items()
            if not (where in NAMES and name.startswith("GET /v1/"))
            for form in {*forms(secret), secret.hex().encode(), secret.lower(), secret.upper()}
            if form in text
        ]


def coded(data: bytes) -> bytes:
    return base64.b64encode(data)


class Echo:
    """A POP3 server that says again whatever it was told, in the clear and decoded, in its reply to it and in later
    ones. It lets in whoever has the right password."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"pop3+clear://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with suppress(OSError):  # it was closed: that is how it ends
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as file, suppress(OSError):
            file.write(b"+OK echo\r\n")
            file.flush()
            heard = b""
            for line in file:
                heard = line.strip()
                file.write(self._reply(heard))
                file.flush()

    def _reply(self, line: bytes) -> bytes:
        verb, _, rest = line.partition(b" ")
        try:
            plain = base64.b64decode(rest.split(b" ")[-1] or line, validate=True)
        except ValueError:
            plain = b""
        again = line + b" " + bytes(octet if octet >= 0x20 else 0x20 for octet in plain)
        if verb == b"CAPA":
            return CAPABILITIES
        if verb == b"AUTH" and b" " not in rest:
            return b"+ \r\n"
        if verb in (b"USER", b"QUIT", b"STAT", b"NOOP"):
            return b"+OK 1 10 " + (again if verb == b"USER" else b"") + b"\r\n"
        if PASSWORD in line or PASSWORD in plain:
            return b"+OK welcome " + again + b"\r\n"
        return b"-ERR [AUTH] no: " + again + b"\r\n"

    def close(self) -> None:
        """No more connections."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextmanager
def echo() -> Iterator[Echo]:
    """The server."""
    server = Echo()
    server._thread.start()
    try:
        yield server
    finally:
        server.close()


def type_everywhere(told: Told, address: tuple[str, int]) -> None:
    """All ways to say a secret to a listener without TLS that takes passwords: right, wrong, malformed, misplaced."""
    _misplaced(told, address)
    _mechanisms(told, address)
    _pipelined(told, address)
    _behind_the_login(told, address)


def _ask(address: tuple[str, int], *lines: bytes) -> None:
    """Send the lines one by one, each with its reply, as far as the proxy goes along."""
    with WireClient(address) as client, suppress(OSError, EOFError, ConnectionError):
        for line in lines:
            client.send(line + b"\r\n")
            if not client.read_line():
                return


def _misplaced(told: Told, address: tuple[str, int]) -> None:
    word = told.octets
    _ask(address, b"PASS " + word("PASS without USER"), b"PAS " + word("an unknown verb"), word("a line by itself"),
         b"pass\t" + word("PASS and a tab"), b"PASS" + word("PASS and no space"))  # fmt: skip
    _ask(address, b"USER alice", b"USER " + word("a second USER"), b"NOOP " + word("NOOP"), b"QUIT " + word("QUIT"))
    _ask(address, b"USER alice " + word("a second word of USER"), b"PASS  " + word("PASS and two spaces"))
    _ask(address, b"STLS " + word("STLS"), b"CAPA " + word("CAPA"), b"UTF8 " + word("UTF8"), b"RETR " + word("RETR"))
    _ask(address, b"XCLIENT NAME=" + word("XCLIENT"), b"XCLIENT " + word("malformed XCLIENT"), b"RPOP " + word("RPOP"))
    _ask(address, b"XTND XMIT " + word("XTND"), b"XOIP " + word("XOIP"), b"LIST 1 " + word("LIST"))
    _ask(address, b"PASS " + word("an overlong PASS") * 40)
    _ask(address, b"USER alice", b"PASS " + word("a PASS with NUL") + b"\0x")
    _ask(address, b"USER alice", b"PASS " + word("a PASS with CR") + b"\rx")
    _ask(address, b"AUTH PLAIN " + coded(word("an overlong AUTH") * 4000))


def _mechanisms(told: Told, address: tuple[str, int]) -> None:
    word = told.octets
    for what in ("a wrong password", "another wrong password"):
        _ask(address, b"USER alice", b"PASS " + word(what))
    _ask(address, b"AUTH PLAIN " + coded(b"\0alice\0" + word("AUTH PLAIN")))
    _ask(address, b"AUTH PLAIN", coded(b"\0alice\0" + word("AUTH PLAIN in two steps")))
    _ask(address, b"AUTH PLAIN", coded(word("AUTH PLAIN without NUL")))
    _ask(address, b"AUTH PLAIN", word("AUTH PLAIN without base64"))
    _ask(address, b"AUTH PLAIN", b"PASS " + word("PASS within AUTH"), b"USER " + word("USER behind a failed AUTH")[:4])
    _ask(address, b"AUTH PLAIN " + coded(b"\0alice\0" + word("AUTH PLAIN and an octet")) + b"!")
    _ask(address, b"AUTH PLAIN =" + word("AUTH PLAIN with ="), b"AUTH " + word("a mechanism"))
    _ask(address, b"AUTH NOSUCH " + coded(word("an unknown mechanism")))
    _ask(address, b"AUTH LOGIN", coded(b"alice"), coded(word("AUTH LOGIN")))
    _ask(address, b"AUTH LOGIN", coded(b"alice"), word("AUTH LOGIN without base64"))
    _ask(address, b"AUTH CRAM-MD5", coded(b"alice " + word("CRAM-MD5")))
    _ask(address, b"AUTH SCRAM-SHA-256 " + coded(b"n,,n=alice,r=" + word("SCRAM")), coded(b"c=biws,p=" + word("proof")))
    _ask(address, b"AUTH SCRAM-SHA-1", coded(b"n,,n=alice,r=" + word("SCRAM-SHA-1")))
    bearer = b"n,a=alice,\x01auth=Bearer " + word("OAUTHBEARER") + b"\x01\x01"
    _ask(address, b"AUTH OAUTHBEARER " + coded(bearer), b"AQ==")
    _ask(address, b"AUTH OAUTHBEARER " + coded(b"n,a=alice,auth=Bearer " + word("malformed OAUTHBEARER")))
    _ask(address, b"AUTH XOAUTH2 " + coded(b"user=alice\x01auth=Bearer " + word("XOAUTH2") + b"\x01\x01"), b"")
    _ask(address, b"APOP alice " + word("APOP"), b"APOP " + word("APOP without a name"))
    _ask(address, b"APOP alice " + word("hex").hex().encode()[:32])


def _pipelined(told: Told, address: tuple[str, int]) -> None:
    word = told.octets
    with WireClient(address) as client, suppress(OSError, EOFError, ConnectionError):
        lines = [b"USER alice", b"PASS " + word("a pipelined PASS"), b"PASS " + word("a second one"), b"QUIT", b""]
        client.send(b"\r\n".join(lines))
        while client.read_line():
            continue
    with WireClient(address) as client:
        # Gone in the middle of a line.
        client.send(b"USER alice\r\nPASS " + word("half a line"))


def _behind_the_login(told: Told, address: tuple[str, int]) -> None:
    word = told.octets
    with WireClient(address) as client, suppress(OSError, EOFError, ConnectionError):
        client.user_pass(USER, PASSWORD)
        for line in (
            b"STAT", b"PASS " + word("PASS behind the login"), b"AUTH PLAIN " + coded(word("AUTH behind the login")),
            b"USER " + word("USER behind the login"), b"XPASS " + word("an unknown verb behind the login"),
            b"RETR " + word("RETR behind the login"), b"NOOP " + word("NOOP behind the login"), b"QUIT",
        ):  # fmt: skip
            client.send(line + b"\r\n")
            client.read_line()


def before_stls(told: Told, address: tuple[str, int]) -> None:
    """Passwords in the clear where STLS comes first; and octets behind STLS."""
    word = told.octets
    _ask(address, b"USER alice", b"PASS " + word("PASS before STLS"))
    _ask(address, b"AUTH PLAIN " + coded(b"\0alice\0" + word("AUTH before STLS")))
    _ask(address, b"AUTH " + word("AUTH without a mechanism before STLS"), b"APOP alice " + word("APOP before STLS"))
    with WireClient(address) as client, suppress(OSError, EOFError, ConnectionError):
        client.send(b"STLS\r\nUSER alice\r\nPASS " + word("PASS injected behind STLS") + b"\r\n")
        while client.read_line():
            continue
