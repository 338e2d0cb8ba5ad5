"""``popproxy doctor``: what its options ask for, and its exit code."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from popproxy.run.asked import EX_CONFIG, EX_OK, EX_WRONG, UsageError, config_path, say

if TYPE_CHECKING:
    from popproxy.api.credentials import Credentials
    from popproxy.config.plan import Plan, UpstreamPlan


def doctor(arguments: argparse.Namespace) -> int:
    """Examine upstreams; EX_WRONG when something is wrong with one."""
    found = _plan(arguments)
    if found is None:
        return EX_CONFIG
    plan = _hurried(found, arguments.timeout)
    upstreams = _chosen(plan, arguments)
    from popproxy.net.tls import TlsConfigError
    from popproxy.run.doctor.examine import examine
    from popproxy.run.doctor.findings import as_dict, render

    secret = _secret(arguments.user)
    told = []
    wrong = False
    width = max(60, min(shutil.get_terminal_size().columns, 120))
    for upstream in upstreams:
        try:
            findings = examine(plan, upstream, _credentials(upstream, arguments.user, secret))
        except TlsConfigError as error:
            say(f"upstream {upstream.name}: {error}")
            return EX_CONFIG
        wrong = wrong or any(finding.mark == "fail" for finding in findings)
        name = upstream.name if plan.source else upstream.servers[0].url
        if arguments.json:
            told.append(as_dict(name, findings))
        else:
            sys.stdout.write(render(name, findings, width))
            sys.stdout.flush()
    if arguments.json:
        import json

        print(json.dumps({"ok": not wrong, "upstreams": told}, indent=2))
    return EX_WRONG if wrong else EX_OK


def _plan(arguments: argparse.Namespace) -> Plan | None:
    """The plan that has the upstream: of the config, or made of a URL; None, and why, when it is bad."""
    url = arguments.upstream if "://" in (arguments.upstream or "") else None
    path = config_path(arguments.config) if url is None else None
    if url is not None and arguments.config is not None:
        raise UsageError("--upstream is a URL, which needs no --config: write the name of an upstream of the config")
    if url is None and arguments.ca_file is not None:
        raise UsageError("--ca-file is for a URL: an upstream of the config has its own ca_file")
    from popproxy.config.defaults import default_config
    from popproxy.config.load import load
    from popproxy.config.problems import ConfigError

    try:
        if path is not None:
            return load(path).plan
        # What the listeners would be does not matter: nothing listens.
        plan = default_config(url or "", ["pop3+clear://127.0.0.1:1110"])[0].plan
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        return None
    given: Path | None = arguments.ca_file
    upstreams = {name: replace(one, ca_file=given) for name, one in plan.upstreams.items()}
    return replace(plan, upstreams=upstreams, listeners=())


def _hurried(plan: Plan, text: str | None) -> Plan:
    """``plan`` with no time-out longer than ``text`` says."""
    if text is None:
        return plan
    from popproxy.api.options import Wrong, duration

    try:
        most = duration(text)
    except Wrong as wrong:
        raise UsageError(f"--timeout: {wrong}; {wrong.hint}") from None
    names = ("connect", "upstream_handshake", "greeting", "login", "command")
    times = replace(plan.timeouts, **{name: min(most, getattr(plan.timeouts, name)) for name in names})
    return replace(plan, timeouts=times)


def _chosen(plan: Plan, arguments: argparse.Namespace) -> Sequence[UpstreamPlan]:
    name, names = arguments.upstream, list(plan.upstreams)
    if name is None:
        if arguments.user is not None and len(names) > 1:
            raise UsageError(f"--user: of which upstream? Write --upstream and one of: {', '.join(names)}")
        return list(plan.upstreams.values())
    if "://" in name:
        return list(plan.upstreams.values())
    if name not in plan.upstreams:
        raise UsageError(
            f"--upstream: {name!r} is no upstream of the config; write one of: {', '.join(names)}, or a URL like "
            "pop3s://mail.example.com"
        )
    return [plan.upstreams[name]]


def _secret(user: str | None) -> bytes:
    """The password, for a user."""
    if user is None:
        return b""
    from popproxy.run.secret import NoSecret, ask

    try:
        return ask(sys.stdin, twice=False)
    except NoSecret as error:
        raise UsageError(str(error)) from None


def _credentials(upstream: UpstreamPlan, user: str | None, secret: bytes) -> Credentials | None:
    if user is None:
        return None
    from popproxy.run.doctor.login import credentials

    return credentials(upstream.policy.mechanism, user, secret)
