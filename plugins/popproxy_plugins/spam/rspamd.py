"""rspamd: a message goes to POST /checkv2, a JSON object comes back (rspamd's protocol, "Rspamd HTTP request")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from popproxy.api import Header, Http, HttpFailed, MessageView, SessionView
from popproxy_plugins.spam.verdict import ScanFailed, Scored, Unscanned, symbols_of

REPLY = 1 << 20
"""Octets of the largest reply that is read."""

_SPAM = frozenset({"add header", "rewrite subject", "reject", "quarantine", "discard"})
_ADDRESS = re.compile(r"<([^<>\s]{0,320})>|([^<>\s,;]{1,320})")
_SAFE = "".join(chr(octet) for octet in range(0x20, 0x7F) if octet != 0x25)
_WHY = {"timeout": Unscanned.LATE, "garbage": Unscanned.WRONG, "too_large": Unscanned.WRONG}


class Rspamd:
    """A client of rspamd. ``told`` are the keys of metadata()."""

    def __init__(self, http: Http, told: Sequence[str], password: str | None, ca_file: Path | None) -> None:
        self._http = http
        self._told = told
        self._password = password
        self._ca_file = ca_file

    async def scan(self, server: str, seconds: float, session: SessionView, message: MessageView) -> Scored:
        """Ask ``server`` what it thinks of ``message``. Raises ScanFailed."""
        unix = server.removeprefix("unix:") if server.startswith("unix:") else None
        base = "http://localhost" if unix is not None else server.rstrip("/")
        headers = metadata(self._told, session, Header(message.header))
        if self._password is not None:
            headers["Password"] = self._password
        headers["Content-Length"] = str(message.octets)
        try:
            reply = await self._http.request(
                "POST",
                f"{base}/checkv2",
                headers=headers,
                body=_Chunks(message),
                timeout=seconds,
                max_octets=REPLY,
                ca_file=self._ca_file,
                unix=unix,
                repeatable=True,
            )
        except HttpFailed as error:
            raise ScanFailed(_WHY.get(error.kind, Unscanned.AWAY), f"{error.kind}: {error}") from error
        return verdict_of(reply.status, reply.body)


class _Chunks:
    """The message, from its beginning each time it is asked."""

    def __init__(self, message: MessageView) -> None:
        self._message = message

    def __iter__(self) -> Iterator[bytes]:
        return self._message.chunks()


def metadata(told: Sequence[str], session: SessionView, header: Header) -> dict[str, str]:
    """What rspamd is told of the delivery, as HTTP header fields.

    ``from`` is the envelope's sender, if the upstream kept it in Return-Path; ``rcpt`` and ``deliver_to`` the user;
    ``user`` the same, but rspamd takes that for the authenticated sender; ``ip`` the client that fetches the mail.
    What is not known is left out, and so is what holds CR, LF or NUL. Octets beyond ASCII are percent-encoded UTF-8.
    """
    login = session.login or session.user or ""
    senders = header.get_all("Return-Path")
    address = _ADDRESS.match(senders[0]) if senders else None
    found = {
        "from": ("From", (address[1] if address[1] is not None else address[2]) if address else ""),
        "rcpt": ("Rcpt", login if "@" in login else ""),
        "deliver_to": ("Deliver-To", login),
        "user": ("User", login),
        "ip": ("IP", "" if session.client == "unix" else session.client),
    }
    fields: dict[str, str] = {}
    for key in told:
        name, value = found[key]
        if value and not any(sign in value for sign in "\r\n\0"):
            fields[name] = quote(value, safe=_SAFE, errors="replace")
    return fields


def verdict_of(status: int, body: bytes) -> Scored:
    """The verdict in a reply. Raises ScanFailed for everything that is none."""
    if status != 200:
        why = Unscanned.AWAY if status >= 500 or status == 429 else Unscanned.WRONG
        raise ScanFailed(why, f"HTTP status {status}")
    try:
        reply = _Reply.model_validate_json(body)
        spam = reply.action in _SPAM
        return Scored(reply.score, spam, reply.required_score, symbols_of(list(reply.symbols or ())))
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False, include_context=False, include_input=False)
        where = ".".join(str(part) for part in first["loc"]) or "the reply"
        raise ScanFailed(Unscanned.WRONG, f"{where}: {first['type']}") from None
    except ValueError as error:
        raise ScanFailed(Unscanned.WRONG, "a score out of range") from error


class _Reply(BaseModel):
    """What is read of the JSON object in a reply."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    score: float
    required_score: float | None = None
    action: str
    symbols: dict[str, object] | None = None
