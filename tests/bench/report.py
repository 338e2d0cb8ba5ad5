"""The Markdown report: medians, ratios with their goals, the machine, the versions."""

from __future__ import annotations

import datetime
import os
import platform
import ssl
import sysconfig
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median

from tests.bench import account, peers
from tests.bench.scenarios import IDLE_LOGIN_GOAL, SCENARIOS, Goal, Reading, Scenario

Readings = Mapping[str, Mapping[str, Sequence[Reading | None]]]
OURS = "popproxy"
_PEERS = ("nginx", "dovecot", "haproxy")
_TITLES = {
    "nginx": "nginx",
    "nginx64k": "nginx, 64 KiB buffers",
    "dovecot": "Dovecot",
    "haproxy": "HAProxy",
    "popproxy": "popproxy",
    "direct": "no proxy",
}


def figure(number: float) -> str:
    """Three significant digits, never an exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def values(readings: Readings, scenario: str, peer: str) -> list[float]:
    return [one.value for one in readings.get(scenario, {}).get(peer, ()) if one is not None]


def ratio(readings: Readings, scenario: str, peer: str, base: str = "") -> float | None:
    """Median over the rounds of popproxy / peer within one round; None when no round has both.

    With `base` the peer's readings are those of that scenario.
    """
    ours, theirs = readings.get(scenario, {}), readings.get(base or scenario, {})
    pairs = zip(ours.get(OURS, ()), theirs.get(peer, ()), strict=False)
    shares = [one.value / other.value for one, other in pairs if one and other and other.value > 0]
    return median(shares) if shares else None


def verdict(measured: float, goal: Goal) -> str:
    """The figure with its must and goal, and which of them it meets."""
    must = "" if goal.must == float("inf") else f"must {goal.must:g}, "
    met = "goal met" if measured <= goal.goal else "must met" if measured <= goal.must else "**missed**"
    return f"{figure(measured)} ({must}goal {goal.goal:g}): {met}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows), ""]


def _measured(readings: Readings) -> list[Scenario]:
    return [one for one in SCENARIOS if one.name in readings]


def _columns(readings: Readings, absent: Mapping[str, str]) -> list[str]:
    """The proxies with a column: those that ran, and those that were asked for and are missing."""
    ran = {peer for table in readings.values() for peer in table} | set(absent)
    return [peer for peer in (OURS, *_PEERS) if peer in ran]


def ratios(readings: Readings) -> list[str]:
    """Popproxy against its goals."""
    if not any(OURS in table for table in readings.values()):
        return ["popproxy took no part in this run: no ratios.", ""]
    rows = []
    for one in _measured(readings):
        if one.base:
            share = ratio(readings, one.name, OURS, one.base)
            if share is None:
                own = "not measured"
            else:
                own = f"{share:.2f}" if one.absolute is None else verdict(share, one.absolute)
                own += f", against {one.base}"
            rows.append([one.title, own, "", "", ""])
        elif one.absolute is not None:
            ours = values(readings, one.name, OURS)
            own = verdict(median(ours), one.absolute) if ours else ""
            rows.append([one.title, f"{own} {one.unit}" if own else "not measured", *_ratio_cells(readings, one)])
        else:
            rows.append([one.title, "", *_ratio_cells(readings, one)])
        rows.extend(_extra_rows(readings, one))
    head = ["scenario", "own figure", *(f"/ {_TITLES[peer]}" for peer in _PEERS)]
    return ["## popproxy divided by the peer (lower is better)", "", *_table(head, rows)]


def _ratio_cells(readings: Readings, one: Scenario) -> list[str]:
    cells = []
    for peer in _PEERS:
        measured = ratio(readings, one.name, peer)
        if measured is None:
            cells.append("")
        elif peer in one.goals:
            cells.append(verdict(measured, one.goals[peer]))
        else:
            cells.append(figure(measured))
    return cells


def _extra_rows(readings: Readings, one: Scenario) -> list[list[str]]:
    """nginx with larger buffers, and the logins beside idle sessions."""
    rows = []
    larger = ratio(readings, one.name, "nginx64k")
    if larger is not None and "nginx64k" in one.goals:
        rows.append([f"{one.title}, nginx with 64 KiB buffers", "", verdict(larger, one.goals["nginx64k"]), "", ""])
    if one.name == "idle-cpu":
        logins = {peer: idle_login(readings, peer) for peer in (OURS, *_PEERS)}
        ours = logins[OURS]
        cells = []
        for peer in _PEERS:
            theirs = logins[peer]
            goal = IDLE_LOGIN_GOAL.get(peer)
            share = ours / theirs if theirs else 0.0
            cells.append("" if not theirs else verdict(share, goal) if goal else figure(share))
        rows.append(["login p50 beside the idle sessions", f"{figure(ours)} ms", *cells])
    return rows


def idle_login(readings: Readings, peer: str) -> float:
    """p50 in ms of logins beside the idle sessions; 0 when not measured."""
    known = [one.p50_ms for one in readings.get("idle-cpu", {}).get(peer, ()) if one is not None]
    return median(known) if known else 0.0


def costs(readings: Readings, absent: Mapping[str, str]) -> list[str]:
    """The medians themselves."""
    columns = _columns(readings, absent)
    rows = []
    for one in _measured(readings):
        cells = [_cost(readings, one, peer, absent) for peer in columns]
        rows.append([one.title, one.unit, *cells])
        if "nginx64k" in readings[one.name]:
            larger = [_cost(readings, one, "nginx64k", absent) if peer == "nginx" else "" for peer in columns]
            rows.append([f"{one.title}, nginx with 64 KiB buffers", one.unit, *larger])
        if one.name == "idle-cpu":
            logins = (idle_login(readings, peer) for peer in columns)
            rows.append(["login beside the idle sessions", "p50 ms", *(figure(ms) if ms else "" for ms in logins)])
    head = ["scenario", "unit", *(_TITLES[peer] for peer in columns)]
    return ["## The figures (medians; CPU of the proxy alone)", "", *_table(head, rows)]


def _cost(readings: Readings, one: Scenario, peer: str, absent: Mapping[str, str]) -> str:
    if peer in absent:
        return "not here"
    rounds = readings[one.name].get(peer)
    if rounds is None:
        return "cannot"
    known = [reading for reading in rounds if reading is not None]
    if not known:
        return "failed"
    shown = figure(median(reading.value for reading in known))
    if one.name == "login-tls-resumed" and any(reading.more.get("resumed", 0) < 0.99 for reading in known):
        shown += f" (resumed {median(reading.more.get('resumed', 0.0) for reading in known):.0%})"
    return shown


def walls(readings: Readings, absent: Mapping[str, str]) -> list[str]:
    """Wall time per unit; the load generator has one core, so this is a lower bound on what the proxies can do."""
    columns = [*_columns(readings, absent), "direct"]
    rows = []
    for one in _measured(readings):
        if not one.cpu:
            continue
        bulk = one.unit.endswith("GiB")
        cells = []
        for peer in columns:
            known = [reading.wall for reading in readings[one.name].get(peer, ()) if reading is not None]
            cells.append(figure(median(known) * (1e3 if bulk else 1e6)) if known else "")
        rows.append([one.title, one.unit.replace("CPU ", ""), *cells])
    if not rows:
        return []
    head = ["scenario", "unit", *(_TITLES[peer] for peer in columns)]
    return ["## Wall time per unit (medians; load generator and stub share one core)", "", *_table(head, rows)]


def machine() -> dict[str, str]:
    """What was measured with, and on; no host names."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    optimized = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} x {model}, Linux {platform.release().split('-')[0]}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "Python": f"{platform.python_version()}, {'optimized' if optimized else 'not optimized'} build",
        "OpenSSL of Python": ssl.OPENSSL_VERSION,
        "CPU time from": account.source(),
    }
    for package in ("uvloop", "cryptography", "pydantic", "prometheus-client"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    for name in (OURS, *_PEERS):
        facts[_TITLES[name]] = peers.PEERS[name].version()
    return facts


def markdown(readings: Readings, absent: Mapping[str, str], faults: Sequence[str], quick: bool) -> str:
    """The whole report."""
    number = max((len(rows) for table in readings.values() for rows in table.values()), default=0)
    suites = sorted(
        {
            note
            for table in readings.values()
            for rows in table.values()
            for one in rows
            if one
            for note in one.notes
            if note.startswith("TLSv")
        }
    )
    lines = ["# Benchmark", "", f"{number} interleaved rounds; proxy pinned to one core, load and stub to the other."]
    if quick:
        lines.append("Quick run, a quarter of the size: a first look, not a result.")
    lines.append("HAProxy relays TCP: it parses nothing and logs nobody in.")
    lines.append("nginx's CPU includes its own auth_http answer; it reads commands 128 octets at a time.")
    if suites:
        lines.append(f"TLS: {', '.join(suites)}.")
    lines += ["", *ratios(readings), *costs(readings, absent), *walls(readings, absent)]
    if absent:
        lines += ["## Not here", "", *(f"- {_TITLES[peer]}: {why}" for peer, why in absent.items()), ""]
    if faults:
        lines += ["## Faults of this run", "", *(f"- {fault}" for fault in faults), ""]
    lines += ["## Machine and versions", "", *(f"- {key}: {value}" for key, value in machine().items()), ""]
    return "\n".join(lines)
