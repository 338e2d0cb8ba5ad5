"""What the back end is asked: the headers of nginx's ngx_mail_auth_http_module, in nginx's order and encoding."""

from __future__ import annotations

import re

from popproxy.api import Credentials, Digest, External, Password, SessionView

Headers = list[tuple[str, str]]

_METHODS = {"APOP": "apop", "CRAM-MD5": "cram-md5"}
# nginx escapes octets up to the space, and the percent sign (NGX_ESCAPE_MAIL_AUTH). Octets that are no UTF-8 go out
# raw there; here they are escaped, too: whoever decodes the others decodes these.
_ESCAPED = re.compile(r"[\0- %\udc80-\udcff]")


def escaped(octets: bytes) -> str:
    """``octets`` as nginx writes them into Auth-User, Auth-Pass and Auth-SSL-Cert."""
    text = octets.decode("utf-8", "surrogateescape")
    return _ESCAPED.sub(lambda match: f"%{match[0].encode('utf-8', 'surrogateescape')[0]:02X}", text)


def headers(
    session: SessionView, credentials: Credentials, host: str | None, pass_certificate: bool
) -> Headers | None:
    """The request for this login; None for credentials that the contract has no words for.

    ``host`` is the client's host name, None leaves it out. ``pass_certificate`` adds the client's certificate.
    """
    method, secret, salt = "plain", b"", ""
    match credentials:
        case Password(password=secret):
            pass
        case Digest(mechanism=mechanism, challenge=challenge, response=secret):
            method, salt = _METHODS[mechanism], challenge.decode("ascii")
        case External():
            method = "external"
        case _:
            return None
    made = [
        ("Auth-Method", method),
        ("Auth-User", escaped(credentials.user.encode("utf-8", "surrogateescape"))),
        ("Auth-Pass", escaped(secret)),
    ]
    if salt:
        made.append(("Auth-Salt", salt))
    made += [
        ("Auth-Protocol", "pop3"),
        ("Auth-Login-Attempt", str(session.attempt)),
        ("Client-IP", "unix:" if session.client == "unix" else session.client),
    ]
    if host is not None:
        made.append(("Client-Host", host))
    if session.proxied:
        made += [
            ("Proxy-Protocol-Addr", session.client),
            ("Proxy-Protocol-Port", str(session.client_port)),
            ("Proxy-Protocol-Server-Addr", session.local),
            ("Proxy-Protocol-Server-Port", str(session.local_port)),
        ]
    return made + _tls(session, pass_certificate)


def _tls(session: SessionView, pass_certificate: bool) -> Headers:
    tls = session.tls
    if tls is None:
        return []
    made = [
        ("Auth-SSL-Protocol", tls.version),
        ("Auth-SSL-Cipher", tls.cipher),
        ("Auth-SSL-Verify", tls.verify),
        ("Auth-SSL-Subject", tls.subject),
        ("Auth-SSL-Issuer", tls.issuer),
        ("Auth-SSL-Serial", tls.serial),
        ("Auth-SSL-Fingerprint", tls.fingerprint),
        ("Auth-SSL-Cert", escaped(tls.pem.encode()) if pass_certificate else ""),
    ]
    return [("Auth-SSL", "on"), *((name, value) for name, value in made if value)]
