"""Real mail clients: each reads a whole maildrop its own way and hands over the letters it delivered.

What each of them does to a letter on its way to the disk (so what a comparison can show) is at its function.
`fetch` deletes what it fetched, by DELE and QUIT, when `keep` is false.
"""

from __future__ import annotations

import poplib
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tests.integration.daemon import Account, run
from tests.integration.packages import program
from tests.letters import DIFFICULT

GETMAIL_ATTEMPTS = 4
"""getmail sets its SIGCHLD handler after it forked: when the child is quicker, it waits for nothing and fails."""

Leg = Literal["tls", "stls", "clear"]
Fetch = Callable[["Mailbox", Path, bool], list[bytes]]


@dataclass(frozen=True)
class Mailbox:
    """Where a client reads: a port of localhost, what kind of leg it is, whose maildrop, whom to trust."""

    port: int
    leg: Leg
    account: Account
    ca_file: Path

    @property
    def password(self) -> str:
        """The password as text, for configuration files and command lines."""
        return self.account.password.decode()


@dataclass(frozen=True)
class Client:
    """One client.

    `package` is Debian's (None: part of Python). `delivered` makes of a letter as sent what it writes to the disk
    unless it changes more; at least `exact` of the difficult letters come out so. `legs` are the kinds of leg it
    can use, `cannot` names letters that it can not read from any server, or is too slow for.
    """

    name: str
    package: str | None
    fetch: Fetch
    delivered: Callable[[bytes], bytes]
    exact: int
    legs: tuple[Leg, ...] = ("tls", "stls", "clear")
    cannot: frozenset[str] = frozenset()


def _curl(mailbox: Mailbox, *arguments: str) -> bytes:
    options = ["-q", "-sS", "--noproxy", "*", "--cacert", str(mailbox.ca_file), "--max-time", "50"]
    if mailbox.leg == "stls":
        options.append("--ssl-reqd")
    return run([program("curl"), *options, "--user", f"{mailbox.account.user}:{mailbox.password}", *arguments])


def curl_url(mailbox: Mailbox, path: str = "") -> str:
    """The URL of a maildrop, or of one letter."""
    return f"{'pop3s' if mailbox.leg == 'tls' else 'pop3'}://localhost:{mailbox.port}/{path}"


def curl(mailbox: Mailbox, *arguments: str) -> bytes:
    """curl with a login by what CAPA offers; what it printed: unstuffed, CRLF kept, no terminator."""
    return _curl(mailbox, *arguments)


def fetch_curl(mailbox: Mailbox, work: Path, keep: bool) -> list[bytes]:
    """LIST, then RETR 1..n on one connection. Keeps every octet: CRLF and all.

    A deletion is `-X "DELE n" -I`, which then sends QUIT; one connection each, so always of letter 1.
    """
    count = len(_curl(mailbox, curl_url(mailbox)).splitlines())
    if count:
        _curl(mailbox, curl_url(mailbox, f"[1-{count}]"), "--output", str(work / "#1"))
    if not keep:
        for _ in range(count):
            _curl(mailbox, "--request", "DELE", "--head", curl_url(mailbox, "1"))
    return [(work / str(number)).read_bytes() for number in range(1, count + 1)]


def fetch_poplib(mailbox: Mailbox, work: Path, keep: bool) -> list[bytes]:
    """Python's own. Its line limit of 2,048 octets is raised, as every program that uses it must.

    It takes LF for a line end and drops one CR before a line; letters are joined by CRLF again here.
    """
    limit = poplib._MAXLINE  # type: ignore[attr-defined]
    poplib._MAXLINE = 8 << 20  # type: ignore[attr-defined]
    context = ssl.create_default_context(cafile=str(mailbox.ca_file))
    try:
        if mailbox.leg == "tls":
            client: poplib.POP3 = poplib.POP3_SSL("localhost", mailbox.port, timeout=20, context=context)
        else:
            client = poplib.POP3("localhost", mailbox.port, timeout=20)
        if mailbox.leg == "stls":
            client.stls(context)
        client.user(mailbox.account.user)
        client.pass_(mailbox.password)
        letters = []
        for number in range(1, client.stat()[0] + 1):
            letters.append(b"".join(line + b"\r\n" for line in client.retr(number)[1]))
            if not keep:
                client.dele(number)
        client.quit()
    finally:
        poplib._MAXLINE = limit  # type: ignore[attr-defined]
    return letters


def fetch_fetchmail(mailbox: Mailbox, work: Path, keep: bool) -> list[bytes]:
    """Hands each letter to a program, with LF for CRLF. `invisible` and `no rewrite` keep its own header lines out."""
    deliver = work / "deliver"
    store = f'letter=$(mktemp {work}/XXXXXXXX) && cat > "$letter" && echo "$letter" >> {work}/order'
    deliver.write_text(f"#!/bin/sh\n{store}\n")
    deliver.chmod(0o700)
    tls = {
        "tls": f'ssl sslproto "TLS1.2+" sslcertck sslcertfile "{mailbox.ca_file}"',
        "stls": f'sslproto "TLS1.2+" sslcertck sslcertfile "{mailbox.ca_file}"',
        "clear": 'sslproto ""',
    }[mailbox.leg]
    control = work / "fetchmailrc"
    control.write_text(
        f"set invisible\nset no bouncemail\n"
        f"poll localhost service {mailbox.port} protocol pop3 timeout 30\n"
        f'  user "{mailbox.account.user}" password "{mailbox.password}" fetchall {"" if keep else "no "}keep\n'
        f'  no rewrite mda "{deliver}" {tls}\n'
    )
    control.chmod(0o600)
    run(
        [program("fetchmail"), "--nosyslog", "-f", str(control), "--pidfile", str(work / "pid"), "-v"],
        environment={"FETCHMAILHOME": str(work), "HOME": str(work), "LC_ALL": "C"},
    )
    order = work / "order"
    return [Path(line).read_bytes() for line in order.read_text().split()] if order.exists() else []


def fetch_mpop(mailbox: Mailbox, work: Path, keep: bool, auth: str = "") -> list[bytes]:
    """Delivers to a Maildir, with LF for CRLF, in no certain order. Pipelines when CAPA says it may.

    `auth` is how it logs in (default: what CAPA offers; USER and PASS on a clear leg).
    """
    method = auth or ("user" if mailbox.leg == "clear" else "")
    maildir = work / "maildir"
    for name in ("cur", "new", "tmp"):
        (maildir / name).mkdir(parents=True)
    control = work / "mpoprc"
    control.write_text(
        f"account default\nhost localhost\nport {mailbox.port}\nuser {mailbox.account.user}\n"
        f'password "{mailbox.password}"\n'
        f"tls {'off' if mailbox.leg == 'clear' else 'on'}\ntls_starttls {'on' if mailbox.leg == 'stls' else 'off'}\n"
        f"tls_trust_file {mailbox.ca_file}\ntimeout 30\n"
        f"keep {'on' if keep else 'off'}\nonly_new off\nuidls_file {work}/uidls\nreceived_header off\n"
        f"delivery maildir {maildir}\n"
        + (f"auth {method}\n" if method else "")
    )
    control.chmod(0o600)
    run([program("mpop"), f"--file={control}", "--quiet"], environment={"HOME": str(work)})
    return sorted(path.read_bytes() for path in (maildir / "new").iterdir())


def fetch_getmail(mailbox: Mailbox, work: Path, keep: bool) -> list[bytes]:
    """Hands each letter to a program, in no certain order: with LF for CRLF and a Return-Path.

    Built on poplib, it loses what poplib loses; header and body are parsed and printed anew.
    """
    for attempt in range(GETMAIL_ATTEMPTS):
        base = work / str(attempt)
        letters = base / "letters"
        letters.mkdir(parents=True)
        deliver = base / "deliver"
        deliver.write_text(f"#!/bin/sh\nsleep 0.02\nexec cat > $(mktemp {letters}/XXXXXXXX)\n")
        deliver.chmod(0o755)
        kind = "SimplePOP3SSLRetriever" if mailbox.leg == "tls" else "SimplePOP3Retriever"
        trust = f"ca_certs = {mailbox.ca_file}\n" if mailbox.leg == "tls" else ""
        (base / "getmailrc").write_text(
            f"[retriever]\ntype = {kind}\nserver = localhost\nport = {mailbox.port}\ntimeout = 3\n{trust}"
            f"username = {mailbox.account.user}\npassword = {mailbox.password}\n"
            f"[destination]\ntype = MDA_external\npath = {deliver}\nunixfrom = false\nallow_root_commands = true\n"
            f"[options]\nverbose = 0\nread_all = true\ndelete = {str(not keep).lower()}\n"
            "delivered_to = false\nreceived = false\n"
        )
        try:
            run([program("getmail"), "--getmaildir", str(base)], environment={"HOME": str(base)})
        except AssertionError as error:
            own_fault = any(word in str(error) for word in ("waiting child pid", "childpid"))
            if not own_fault or attempt == GETMAIL_ATTEMPTS - 1:
                raise
            continue
        break
    return sorted(path.read_bytes() for path in letters.iterdir())


def fetch_s_client(mailbox: Mailbox, work: Path, keep: bool) -> list[bytes]:
    """`openssl s_client -quiet` with a person typing: one line, one reply. Keeps every octet."""
    with s_client(mailbox) as (_, ask):
        count = int(ask("STAT").split()[1])
        letters = []
        for number in range(1, count + 1):
            body = ask(f"RETR {number}", multi=True).partition(b"\r\n")[2].removesuffix(b".\r\n")
            letters.append((b"\r\n" + body).replace(b"\r\n..", b"\r\n.")[2:])
            if not keep:
                ask(f"DELE {number}")
        ask("QUIT")
    return letters


class Ask(Protocol):
    """Type a line; the reply, AssertionError when it is not `+OK`."""

    def __call__(self, line: str, multi: bool = False) -> bytes:
        """`multi`: the reply goes on to a line of one dot."""


@contextmanager
def s_client(mailbox: Mailbox) -> Iterator[tuple[subprocess.Popen[bytes], Ask]]:
    """`openssl s_client -quiet`, its certificate check passed, the greeting read, logged in."""
    command = [program("openssl"), "s_client", "-quiet", "-verify_return_error", "-CAfile", str(mailbox.ca_file)]
    command += ["-verify_hostname", "localhost", "-connect", f"localhost:{mailbox.port}"]
    command += ["-starttls", "pop3"] if mailbox.leg == "stls" else []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        typed, shown = process.stdin, process.stdout
        assert typed is not None
        assert shown is not None

        def ask(line: str, multi: bool = False) -> bytes:
            typed.write(line.encode() + b"\r\n")
            typed.flush()
            lines = [shown.readline()]
            assert lines[0].startswith(b"+OK"), f"{line}: {lines[0]!r}"
            while multi and lines[-1] != b".\r\n":
                lines.append(shown.readline())
                assert lines[-1], f"{line}: closed after {len(lines)} lines"
            return b"".join(lines)

        try:
            if mailbox.leg == "tls":
                assert shown.readline().startswith(b"+OK")
            ask(f"USER {mailbox.account.user}")
            ask(f"PASS {mailbox.password}")
            yield process, ask
        finally:
            process.terminate()


LONG_LINES = frozenset(
    {"line_of_70000", "long_line_of_dots", "long_header_line", "one_line_of_two_megabytes", "random_octets"}
)
"""fetchmail breaks them where a read from the socket happens to end: two runs differ."""


def _same(letter: bytes) -> bytes:
    return letter


def _with_lf(letter: bytes) -> bytes:
    return letter.replace(b"\r\n", b"\n")


CLIENTS = (
    Client("curl", "curl", fetch_curl, _same, 130),
    Client("poplib", None, fetch_poplib, _same, 130),
    Client("fetchmail", "fetchmail", fetch_fetchmail, _with_lf, 98, cannot=LONG_LINES),
    Client("mpop", "mpop", fetch_mpop, _with_lf, 123),
    Client(
        "getmail",
        "getmail6",
        fetch_getmail,
        lambda letter: b"Return-Path: <unknown>\n" + _with_lf(letter),
        60,
        legs=("tls", "clear"),
        cannot=frozenset(name for name, letter in DIFFICULT if len(letter) > 100_000 or name.startswith("body_of_")),
    ),
    Client("s_client", "openssl", fetch_s_client, _same, 130, legs=("tls", "stls")),
)
