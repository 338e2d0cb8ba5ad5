"""What no single value shows: names used and never defined, things that exclude one another, files that do not fit.

Each check reports and goes on. A warning is for what works and weakens the service; the rest must be corrected.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from popproxy.api.names import ConfigNames
from popproxy.api.plugin import Fail, Plugin
from popproxy.config import budgets
from popproxy.config.listener import Certificate, Listener, Tls
from popproxy.config.locate import Path as KeyPath
from popproxy.config.models import Admin, Log, PluginTable, Protocol
from popproxy.config.report import Report
from popproxy.config.store import Store
from popproxy.config.translate import nearest
from popproxy.config.upstream import Upstream
from popproxy.config.urls import Bind, Server, bracketed


def names(kind: str, given: Sequence[tuple[KeyPath, str]], report: Report) -> None:
    """Names are unique. ``given``: where each is written, and the name that is in force there."""
    seen: set[str] = set()
    for path, name in given:
        if name in seen:
            hint = "give one another name" if path[-1] == "name" else 'write name = "..." with a name of its own'
            report.problem(path, f"there are two {kind}s named {name!r}", hint)
        seen.add(name)


def listeners(tables: Mapping[int, Listener], admin: Admin | None, report: Report) -> None:
    """Addresses are unique, and somebody can log in."""
    taken: dict[str, str] = {}
    if admin is not None:
        taken.update(dict.fromkeys(map(str, admin.bind), "[admin]"))
    for index, table in tables.items():
        path = ("listener", index)
        for place, bind in enumerate(table.bind):
            _unique(bind, table.name, taken, (*path, "bind", place), report)
        vouched = table.proxy_protocol is not None
        if table.tls == "off" and table.auth_before_tls == "refuse" and not vouched:
            report.problem(
                (*path, "tls"),
                "nobody can log in: there is no TLS, and logins without TLS are refused",
                'write tls = "starttls" or "implicit"; or auth_before_tls = "allow" to let passwords travel in clear',
            )
        _client_certificates(path, table, report)
        if table.auth_before_tls == "allow" and table.tls != "implicit" and not _private(table):
            report.warn(
                (*path, "auth_before_tls"), "passwords may travel in clear", 'write "refuse" unless that is intended'
            )


def _client_certificates(path: KeyPath, table: Listener, report: Report) -> None:
    if table.verify_client != "off" and table.tls == "off":
        report.problem((*path, "verify_client"), "has no effect without TLS", 'leave it out, or write tls = "starttls"')
    elif table.verify_client != "off" and table.client_ca_file is None:
        report.problem(
            (*path, "verify_client"),
            "needs the authorities whose certificates are good",
            'write client_ca_file = "..."',
        )
    elif table.verify_client == "off" and table.client_ca_file is not None:
        report.problem(
            (*path, "client_ca_file"), "has no effect", 'write verify_client = "optional" or "required" beside it'
        )
    elif table.client_ca_file is not None:
        ca_file_fits((*path, "client_ca_file"), table.client_ca_file, report)


def _private(table: Listener) -> bool:
    """Whether all its addresses are of this host."""
    return all(bind.family == "unix" or ip_address(bind.host).is_loopback for bind in table.bind)


def _unique(bind: Bind, name: str, taken: dict[str, str], path: KeyPath, report: Report) -> None:
    if bind.family == "inet" and bind.port == 0:
        return
    if str(bind) in taken:
        report.problem(path, f"{bind} is taken by {taken[str(bind)]}", "write another address or port")
    taken.setdefault(str(bind), f"listener {name!r}")


def upstreams(tables: Mapping[str, Upstream], fronts: Mapping[int, Listener], report: Report) -> None:
    """Servers of one upstream agree about TLS, and what is set for TLS has TLS to act on."""
    binds = [bind for listener in fronts.values() for bind in listener.bind if bind.family == "inet"]
    for name, table in tables.items():
        path = ("upstream", name)
        seen: set[str] = set()
        for place, server in enumerate(table.group):
            if server.url in seen:
                report.problem((*path, "servers", place), f"{server.url} is written twice", "leave one out")
            seen.add(server.url)
            if any(_same(server, bind) for bind in binds):
                report.problem(
                    (*path, "servers", place),
                    f"{server.url} is a listener of this proxy, which would connect to itself",
                    "write the mail server's own address and port",
                )
        _upstream_tls(path, table, report)
        _balance(path, table, report)
        if table.client_certificate is not None:
            certificate_fits((*path, "client_certificate"), table.client_certificate, report)
        if table.ca_file is not None:
            ca_file_fits((*path, "ca_file"), table.ca_file, report)


def _same(server: Server, bind: Bind) -> bool:
    """Whether ``server`` is for certain what ``bind`` listens on."""
    if server.port != bind.port:
        return False
    try:
        address = ip_address("127.0.0.1" if server.host == "localhost" else server.host)
    except ValueError:
        return False
    bound = ip_address(bind.host)
    if bound.is_unspecified:
        return address.is_loopback and (address.version == bound.version or address.version == 4)
    return address == bound


def _upstream_tls(path: KeyPath, table: Upstream, report: Report) -> None:
    servers = table.group
    clear = [server for server in servers if server.tls == "off"]
    if clear and len(clear) < len(servers):
        report.problem(
            (*path, "servers"),
            "mixes servers with and without TLS, so that chance decides whether passwords travel in clear",
            f"write pop3://{bracketed(clear[0].host)} for STLS, or make two upstreams",
        )
    if clear and not _near(clear):
        report.warn(
            (*path, "servers"), "passwords travel in clear to this upstream", "write pop3s:// or pop3:// if it has TLS"
        )
    for key in ("ca_file", "server_name", "client_certificate"):
        if len(clear) == len(servers) and getattr(table, key) is not None:
            report.problem((*path, key), "has no effect without TLS", "leave it out, or write pop3s:// or pop3:// URLs")
    if not table.verify:
        if table.ca_file is not None:
            report.problem((*path, "ca_file"), "has no effect with verify = false", "leave one of the two out")
        if len(clear) < len(servers):
            report.warn(
                (*path, "verify"),
                "the server's certificate is not verified: whoever is in between can read passwords",
                'write ca_file = "..." with the certificate that signed it',
            )


def _balance(path: KeyPath, table: Upstream, report: Report) -> None:
    """What is set and decides nothing."""
    if len(table.servers) == 1 and table.balance != "first":
        report.warn((*path, "balance"), "decides nothing: there is one server", "add servers, or leave it out")
    for place, server in enumerate(table.servers):
        if server.weight != 1 and table.balance == "first":
            report.warn(
                (*path, "servers", place, "weight"),
                'decides nothing with balance = "first"',
                'write balance = "round_robin", "least_sessions" or "sticky"',
            )
    for key, value in table.forward.items():
        if not key or "=" in key or "\0" in key + value:
            report.problem((*path, "forward", key), "cannot be forwarded", "write a key without =, and no NUL")
    if table.forward and table.xclient == "off":
        report.warn((*path, "forward"), "is told to nobody without xclient", "write xclient = true")
    if table.health.longest < table.health.backoff:
        report.problem((*path, "health", "longest"), "is shorter than backoff", "write at least as long")


def _near(servers: Sequence[Server]) -> bool:
    """Whether all are on this host."""
    return all(server.host in ("localhost", "::1") or server.host.startswith("127.") for server in servers)


def plugins(
    tables: Mapping[int, PluginTable], made: Mapping[int, Plugin[Any]], names: Sequence[str], report: Report
) -> None:
    """``when`` names listeners that exist (``names``); a fail mode is not loosened by accident."""
    for index, table in tables.items():
        path = ("plugin", index)
        for place, name in enumerate(table.when.listener if table.when is not None else ()):
            if name not in names:
                report.problem(
                    (*path, "when", "listener", place), f"there is no listener {name!r}", nearest(name, names)
                )
        plugin = made.get(index)
        if plugin is not None and plugin.fail is Fail.CLOSED and table.fail == "open":
            report.warn(
                (*path, "fail"),
                f"the plugin asks for fail = {plugin.fail.value!r}: when it fails, sessions now go on without it",
                'write "closed" unless that is intended',
            )


def plugin_names(made: Mapping[int, Plugin[Any]], given: ConfigNames, report: Report) -> None:
    """What each plugin has to say about the names it uses."""
    for index, plugin in made.items():
        try:
            for problem in plugin.check(given):
                report.problem(("plugin", index, *problem.key), problem.message, problem.hint)
        except Exception as error:
            report.problem(
                ("plugin", index),
                f"the plugin's own check failed: {type(error).__name__}: {error}",
                "correct the plugin",
            )


def tls(table: Tls, fronts: Mapping[int, Listener], report: Report) -> None:
    """Certificates fit their keys, ciphers exist."""
    path: KeyPath = ("tls",)
    for place, certificate in enumerate(table.certificates):
        certificate_fits((*path, "certificates", place), certificate, report)
    if table.ciphers is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(table.ciphers)
        except ssl.SSLError:
            report.problem(
                (*path, "ciphers"), "selects no cipher", "try it with openssl ciphers -v, or leave it out"
            )
    if not table.certificates and any(listener.tls != "off" for listener in fronts.values()):
        report.warn(
            (*path, "certificates") if "tls" in report.data else path,
            "there is no certificate: a self-signed one is made, which mail clients will not trust",
            'write certificates = [{ cert = "...", key = "..." }] in [tls]',
        )


def certificate_fits(path: KeyPath, certificate: Certificate, report: Report) -> None:
    """A certificate can be used, with its key."""
    password = certificate.password.get_secret_value() if certificate.password is not None else ""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate.cert, certificate.key or certificate.cert, lambda: password)
    except ssl.SSLError as error:
        message, hint = _misfit(error, certificate)
        report.problem(path, message, hint)
        return
    except (OSError, ValueError) as error:
        report.problem(path, f"cannot be used: {error}", "write a PEM certificate and its key")
        return
    _expiry(path, certificate.cert, report)


def _misfit(error: ssl.SSLError, certificate: Certificate) -> tuple[str, str]:
    """OpenSSL names only the mismatch; the rest shows in the files."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's", "write the key the certificate was issued for"
    key = certificate.key or certificate.cert
    for file, label in ((certificate.cert, b"CERTIFICATE"), (key, b"PRIVATE KEY")):
        if label + b"-----" not in file.read_bytes():
            name = label.decode("ascii")
            return f"{file} holds no PEM {name.lower()}", f"write a file with -----BEGIN {name}-----"
    if b"ENCRYPTED" in key.read_bytes():
        fault = "has no password" if certificate.password is None else "has another password"
        return f"the key is encrypted and {fault}", 'write password = { file = "..." }'
    return f"cannot be used: {error.reason or error}", "write a PEM certificate and its key"


def _expiry(path: KeyPath, cert: Path, report: Report) -> None:
    from cryptography import x509

    ends = x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
    if ends <= datetime.now(UTC):
        report.warn(path, f"the certificate expired on {ends:%Y-%m-%d}", "renew it")


def ca_file_fits(path: KeyPath, file: Path, report: Report) -> None:
    """A file holds certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (ssl.SSLError, OSError):
        report.problem(path, f"{file} holds no PEM certificate", "write a file with -----BEGIN CERTIFICATE-----")


def log(table: Log, report: Report) -> None:
    """The log file can be written, and what is set decides something."""
    if table.salt is not None and table.users != "hashed":
        report.warn(("log", "salt"), f'decides nothing with users = "{table.users}"', 'write users = "hashed"')
    if table.file is None:
        return
    path: KeyPath = ("log", "file")
    if table.format == "journald":
        report.problem(path, "the journal is no file", 'leave it out, or write format = "json"')
    elif table.file.is_dir():
        report.problem(path, f"{table.file} is a directory", "write the path of a file")
    elif not table.file.parent.is_dir():
        report.problem(path, f"there is no directory {table.file.parent}", "make it, or write another path")
    elif not os.access(table.file if table.file.exists() else table.file.parent, os.W_OK):
        report.problem(path, f"{table.file} cannot be written", "let the user running popproxy write it")


def timeouts(table: budgets.Timeouts, report: Report) -> None:
    """RFC 1939 section 3: an autologout timer must be ten minutes at least."""
    if table.idle < 600:
        report.warn(("timeouts", "idle"), "is shorter than RFC 1939 allows", 'write "10m" or more')


def protocol(table: Protocol, report: Report) -> None:
    """Each verb is declared once."""
    seen: set[str] = set()
    for place, verb in enumerate(table.verbs):
        if verb.name in seen:
            report.problem(("protocol", "verbs", place, "name"), f"{verb.name} is declared twice", "leave one out")
        seen.add(verb.name)


def workers(number: int, made: Mapping[int, Plugin[Any]], store: object, report: Report) -> None:
    """What all workers have to know together is shared."""
    if number == 1 or (isinstance(store, Store) and store.use != "memory"):
        return
    for index, plugin in made.items():
        if plugin.remembers:
            report.warn(
                ("plugin", index),
                f"with a store in memory each of the {number} workers counts for itself: its limits are {number} times "
                "as high",
                'write use = "sqlite" in [store], or workers = 1',
            )


def shares(
    number: int, fronts: Mapping[int, Listener], tables: Mapping[str, Upstream], report: Report
) -> None:
    """A bound is large enough to be divided among the workers."""

    def look(path: KeyPath, bound: int | None) -> None:
        if bound and bound < number:
            report.warn(
                path,
                f"each of the {number} workers takes one at least, which is more in all than {bound}",
                f"write {number} or more, or fewer workers",
            )

    for index, listener in fronts.items():
        look(("listener", index, "max_connections"), listener.max_connections)
    for name, upstream in tables.items():
        look(("upstream", name, "max_sessions"), upstream.max_sessions)
        for place, server in enumerate(upstream.group):
            look(("upstream", name, "servers", place), server.max_sessions)
