"""What only shows between the keys of ``[admin]``."""

from __future__ import annotations

from ipaddress import ip_address

from popproxy.config import checks
from popproxy.config.admin import TOKEN, Admin
from popproxy.config.listener import Certificate
from popproxy.config.locate import Path as KeyPath
from popproxy.config.report import Report


def admin(table: Admin, report: Report) -> None:
    """Its certificate fits its key; the token cannot be guessed, and does not travel in clear unless that is seen."""
    path: KeyPath = ("admin",)
    ports = [bind for bind in table.bind if bind.family == "inet"]
    for key in ("token", "cert", "client_ca_file", "hosts"):
        if getattr(table, key) and not ports:
            report.problem(
                (*path, key), "has no effect without a port", 'leave it out, or write bind = "127.0.0.1:9110"'
            )
    if table.token is not None and len(table.token.get_secret_value()) < TOKEN:
        report.problem(
            (*path, "token"),
            f"has fewer than {TOKEN} characters and could be guessed",
            "write what `openssl rand -hex 32` prints",
        )
    if table.cert is None:
        for key in ("key", "client_ca_file"):
            if getattr(table, key) is not None:
                report.problem((*path, key), "has no effect without a certificate", 'write cert = "..." beside it')
        public = [bind for bind in ports if not ip_address(bind.host).is_loopback]
        if table.token is not None and public:
            report.warn(
                (*path, "token"),
                f"the token travels in clear to {public[0]}",
                'write cert = "..." and key = "..." beside it, or an address of this host',
            )
        return
    checks.certificate_fits((*path, "cert"), Certificate(cert=table.cert, key=table.key), report)
    if table.client_ca_file is not None:
        checks.ca_file_fits((*path, "client_ca_file"), table.client_ca_file, report)
