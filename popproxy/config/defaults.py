"""The config of ``serve --upstream URL``: what an operator gets who has written no file.

Implicit TLS on port 995 and STLS on 110, or on 1995 and 1110 where ports under 1024 are not permitted; metrics on
127.0.0.1:9110. ``listen`` URLs replace the two listeners.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from popproxy.config.load import Loaded, load_data
from popproxy.config.plan import admin_plan
from popproxy.config.problems import ConfigError, ConfigProblem, Wrong
from popproxy.config.urls import Bind, parse_bind, parse_listen, parse_server
from popproxy.config.workers import Asked

COMMAND_LINE = "command line"
ADMIN = "127.0.0.1:9110"
_NAMES = {"implicit": "pop3s", "starttls": "pop3", "off": "pop3-clear"}


def default_config(
    upstream_url: str, listen: Sequence[str] = (), admin: str | None = None, workers: Asked | None = None
) -> tuple[Loaded, tuple[str, ...]]:
    """The config for one upstream, and notes for the operator on what was chosen.

    ``admin`` is the address of the admin listener, ``off`` for none. Raises ConfigError with all that is wrong.
    """
    problems: list[ConfigProblem] = []
    notes: list[str] = []
    try:
        parse_server(upstream_url)
    except Wrong as wrong:
        problems.append(_problem("--upstream", wrong))
    listeners = _asked(listen, problems) if listen else _usual(notes)
    data: dict[str, Any] = {
        "listener": listeners,
        "upstream": {"main": {"servers": [upstream_url]}},
        "log": {"format": "console"},
    }
    address = _admin_bind(admin or ADMIN, problems)
    if address is not None:
        data["admin"] = {"bind": str(address)}
    else:
        data["admin"] = {"bind": []}
    if problems:
        raise ConfigError(problems)
    return load_data(data, COMMAND_LINE, "", Path.cwd(), None, workers), tuple(notes)


def with_admin(loaded: Loaded, address: str) -> Loaded:
    """``loaded`` with its admin listener at ``address`` (``off``: none). Raises ConfigError."""
    problems: list[ConfigProblem] = []
    bind = _admin_bind(address, problems)
    if problems:
        raise ConfigError(problems)
    made, before = None if bind is None else admin_plan([bind]), loaded.plan.admin
    if made is not None and before is not None:
        # What opens /v1 is the file's.
        made = replace(before, binds=made.binds, spare=made.spare)
    return replace(loaded, plan=replace(loaded.plan, admin=made))


def _admin_bind(address: str, problems: list[ConfigProblem]) -> Bind | None:
    """What ``--admin`` asks for; None for ``off``, and when it is wrong, which goes to ``problems``."""
    if address == "off":
        return None
    try:
        return parse_bind(address)
    except Wrong as wrong:
        problems.append(_problem("--admin", wrong))
        return None


def _problem(flag: str, wrong: Wrong) -> ConfigProblem:
    return ConfigProblem(COMMAND_LINE, 0, flag, wrong.message, wrong.hint)


def _asked(urls: Sequence[str], problems: list[ConfigProblem]) -> list[dict[str, Any]]:
    """One listener for each ``--listen``; what travels in clear was written out in its scheme."""
    listeners: list[dict[str, Any]] = []
    used: dict[str, int] = {}
    for url in urls:
        try:
            tls, bind = parse_listen(url)
        except Wrong as wrong:
            problems.append(_problem("--listen", wrong))
            continue
        name = _NAMES[tls]
        used[name] = used.get(name, 0) + 1
        number = f"-{used[name]}" if used[name] > 1 else ""
        logins = "allow" if tls == "off" else "refuse"
        listeners.append({"name": name + number, "bind": [str(bind)], "tls": tls, "auth_before_tls": logins})
    return listeners


def _usual(notes: list[str]) -> list[dict[str, Any]]:
    host = "[::]" if _has_ipv6() else "0.0.0.0"
    secure, clear = 995, 110
    if not (_may_bind(secure) and _may_bind(clear)):
        secure, clear = 1995, 1110
        notes.append(
            "ports under 1024 are not permitted here: listening on 1995 (TLS) and 1110 (STLS) instead of 995 and 110; "
            "for those, grant CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), or write --listen"
        )
    return [
        {"name": "pop3s", "bind": [f"{host}:{secure}"], "tls": "implicit"},
        {"name": "pop3", "bind": [f"{host}:{clear}"], "tls": "starttls"},
    ]


def _may_bind(port: int) -> bool:
    """Whether this user may bind ``port``. One that is in use is permitted: that is told when it is bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno != errno.EACCES
    return True


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
