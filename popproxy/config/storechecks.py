"""What no single key of ``[store]`` shows: keys that fit another kind, a library that is missing, files, and TLS."""

from __future__ import annotations

import ssl
from importlib.util import find_spec
from ipaddress import ip_address

from popproxy.config.listener import Certificate
from popproxy.config.locate import Path as KeyPath
from popproxy.config.report import Report
from popproxy.config.store import KEYS, Store

_TLS = ("ca_file", "client_certificate", "verify_name")


def store(table: Store, report: Report) -> None:
    """Each key has an effect, and the store can be opened."""
    for key in table.model_fields_set - KEYS[table.use] - {"use"}:
        kinds = [kind for kind in ("sqlite", "redis") if key in KEYS[kind]]
        report.problem(
            ("store", key),
            f'has no effect with use = "{table.use}"',
            f"leave it out, or write use = {' or '.join(f'{kind!r}' for kind in kinds)}".replace("'", '"'),
        )
    if table.use == "sqlite":
        _sqlite(table, report)
    elif table.use == "redis":
        _redis(table, report)


def _sqlite(table: Store, report: Report) -> None:
    path: KeyPath = ("store", "path")
    if table.path is None:
        return
    if table.path.is_dir():
        report.problem(path, f"{table.path} is a directory", "write the path of a file; it is made when it is missing")
    elif not table.path.parent.is_dir():
        report.problem(path, f"there is no directory {table.path.parent}", "make it, or write another path")


def _redis(table: Store, report: Report) -> None:
    if find_spec("redis") is None:
        report.problem(
            ("store", "use"), "the store in Redis needs the package redis, which is not installed",
            'pip install "popproxy[redis]"',
        )  # fmt: skip
    if table.timeout >= table.lease:
        report.problem(("store", "lease"), "is no longer than timeout", "write a longer one, as 30s")
    if table.url is None:
        if "url" not in table.model_fields_set:
            report.problem(("store",), "does not say where Redis is", 'write url = "redis://127.0.0.1:6379/0"')
        return
    for key in ("sentinel_username", "sentinel_password"):
        if table.url.kind != "sentinel" and key in table.model_fields_set:
            report.problem(
                ("store", key), "has no effect without Sentinels", "leave it out, or write redis+sentinel://"
            )
    for key in _TLS if not table.url.tls else ():
        if key in table.model_fields_set:
            report.problem(("store", key), "has no effect without TLS", "leave it out, or write rediss://")
    if table.ca_file is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=table.ca_file)
        except (ssl.SSLError, OSError):
            report.problem(
                ("store", "ca_file"),
                f"{table.ca_file} holds no PEM certificate",
                "write a file with -----BEGIN CERTIFICATE-----",
            )
    if table.client_certificate is not None:
        _client_certificate(table.client_certificate, report)
    if table.url.kind != "unix" and not table.url.tls and not all(_near(host) for host, _ in table.url.nodes):
        report.warn(
            ("store", "url"),
            "the password and the names and addresses of users travel in clear to this store",
            "write rediss:// if it has TLS",
        )


def _client_certificate(given: Certificate, report: Report) -> None:
    path: KeyPath = ("store", "client_certificate")
    if given.password is not None:
        report.problem((*path, "password"), "an encrypted key cannot be used here", "write a key without a password")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(given.cert, given.key or given.cert, lambda: "")
    except (ssl.SSLError, OSError, ValueError):
        report.problem(path, "cannot be used", "write a PEM certificate and its key, not encrypted")


def _near(host: str) -> bool:
    """Whether ``host`` is this one."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
