"""What the back end answers: headers only, as nginx reads them. What does not hold is a BadReply, which names it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from popproxy.api import Code, HttpReply, group_names, server_host

TEXT = 400
"""Characters of an error text; a reply line has 512 octets (RFC 2449 section 4)."""

_CONTROL = re.compile(r"[\0-\x1f\x7f]")
_CODED = re.compile(r"\[([A-Z0-9/-]+)\] ?(.*)", re.DOTALL)
_CODES = {code.value.decode("ascii"): code for code in Code}


class BadReply(ValueError):
    """A reply that cannot be used; the text names the header, and holds no value but of a server's address or a
    group."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The login goes on at this server. ``user`` and ``password`` None are the client's. ``groups`` None: nothing was
    said of them."""

    host: str
    port: int
    user: str | None = None
    password: bytes | None = field(default=None, repr=False)
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The login is refused. ``wait`` in seconds; 0: at once, and the connection is closed behind it."""

    text: str
    code: Code
    wait: int


@dataclass(frozen=True, slots=True)
class Again:
    """Ask once more, ``wait`` seconds later."""

    wait: int


Answer = Granted | Refused | Again


def read(reply: HttpReply) -> Answer:
    """The meaning of a reply. Raises BadReply."""
    status = _value(reply, "Auth-Status")
    if status is None:
        raise BadReply("no Auth-Status")
    digits = _value(reply, "Auth-Wait") or ""
    # nginx passes over an Auth-Wait that is no number.
    wait = int(digits) if re.fullmatch(r"\d{1,9}", digits, re.ASCII) else 0
    if status == "WAIT":
        return Again(wait)
    if status != "OK":
        code, text = _refusal(status, _value(reply, "Auth-Error-Code") or "")
        return Refused(text, code, wait)
    password = _value(reply, "Auth-Pass")
    return Granted(
        _host(_value(reply, "Auth-Server")),
        _port(_value(reply, "Auth-Port")),
        _value(reply, "Auth-User"),
        None if password is None else password.encode("utf-8", "surrogateescape"),
        _groups(_value(reply, "Auth-Groups")),
    )


def _value(reply: HttpReply, name: str) -> str | None:
    found = [value for known, value in reply.headers if known.lower() == name.lower()]
    if not found:
        return None
    if len(found) > 1:
        raise BadReply(f"{name} comes {len(found)} times")
    if _CONTROL.search(found[0]):
        raise BadReply(f"{name} holds control characters")
    if not found[0] and name in ("Auth-User", "Auth-Pass"):
        raise BadReply(f"{name} is empty")
    return found[0]


def _host(value: str | None) -> str:
    if not value:
        raise BadReply("no Auth-Server")
    try:
        return server_host(value)
    except ValueError as error:
        raise BadReply(f"Auth-Server: {error}") from None


def _groups(value: str | None) -> tuple[str, ...] | None:
    try:
        return None if value is None else group_names(value)
    except ValueError as error:
        raise BadReply(f"Auth-Groups: {error}") from None


def _port(value: str | None) -> int:
    if not value:
        raise BadReply("no Auth-Port")
    if re.fullmatch(r"\d{1,5}", value, re.ASCII) is None or not 1 <= int(value) <= 65535:
        raise BadReply(f"Auth-Port is {value[:80]!r}, no port")
    return int(value)


def _refusal(status: str, error_code: str) -> tuple[Code, str]:
    """The code that fits, and the text without it.

    A back end for POP3 may write a response code into its text: nginx hands it on as it is. Auth-Error-Code is a
    reply code of SMTP: 4yz is trouble that passes, 535 (nginx's default) bad credentials, other 5yz policy.
    """
    match = _CODED.fullmatch(status)
    if match is not None and match[1] in _CODES:
        return _CODES[match[1]], match[2][:TEXT]
    if error_code.startswith("4"):
        code = Code.SYS_TEMP
    elif error_code.startswith("5") and not error_code.startswith("535"):
        code = Code.SYS_PERM
    else:
        code = Code.AUTH
    return code, status[:TEXT]
