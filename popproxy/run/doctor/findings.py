"""What the doctor finds: values, and their text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from popproxy.run.people.words import printable

Mark = Literal["ok", "note", "warn", "fail"]
Step = Literal["config", "dns", "tcp", "tls", "greeting", "capabilities", "login", "maildrop", "clock"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``word`` names it for programs and stays the same; ``text`` says what was found, ``advice`` what to do about it
    (empty when there is nothing to do). ``fail`` keeps clients from their mail, ``warn`` works and should not stay,
    ``note`` is for who wants to know. ``seconds`` is how long it took, None where nothing was waited for.
    """

    step: Step
    mark: Mark
    word: str
    text: str
    advice: str = ""
    seconds: float | None = None
    server: str = ""
    address: str = ""


class Findings:
    """The findings of one server, in the order in which they were made. ``server`` is its URL."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.address = ""
        """Of what is added now; empty while no address is at hand."""
        self._all: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._all)

    @property
    def failed(self) -> bool:
        """Whether anything is wrong."""
        return any(finding.mark == "fail" for finding in self._all)

    def add(self, finding: Finding) -> None:
        """Keep it."""
        self._all.append(replace(finding, server=self.server, address=self.address))

    def ok(self, step: Step, word: str, text: str, seconds: float | None = None) -> None:
        """As it should be."""
        self.add(Finding(step, "ok", word, text, "", seconds))

    def remark(self, step: Step, word: str, text: str, advice: str = "") -> None:
        """Neither good nor bad."""
        self.add(Finding(step, "note", word, text, advice))

    def warn(self, step: Step, word: str, text: str, advice: str, seconds: float | None = None) -> None:
        """It works, and something should be done."""
        self.add(Finding(step, "warn", word, text, advice, seconds))

    def fail(self, step: Step, word: str, text: str, advice: str, seconds: float | None = None) -> None:
        """It does not work."""
        self.add(Finding(step, "fail", word, text, advice, seconds))


def as_dict(upstream: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """One upstream, for JSON. Keys that have nothing to say are left out of a finding."""
    keys = ("server", "address", "step", "mark", "word", "text", "advice")
    return {
        "upstream": upstream,
        "ok": not any(finding.mark == "fail" for finding in findings),
        "findings": [
            {key: getattr(finding, key) for key in keys if getattr(finding, key)}
            | ({} if finding.seconds is None else {"seconds": round(finding.seconds, 4)})
            for finding in findings
        ],
    }


_WIDTH = 18
"""Columns before the text: mark and step."""


def render(upstream: str, findings: Sequence[Finding], width: int) -> str:
    """One upstream, for people, in ``width`` columns. One that has no name is called by its URL."""
    lines: list[str] = []
    server = ""
    for finding in findings:
        if finding.server != server:
            server = finding.server
            lines += [*([""] if lines else []), f"upstream {upstream}: {server}" if upstream != server else server]
        took = f" ({_took(finding.seconds)})" if finding.seconds is not None else ""
        start = f"{finding.mark:<5}{finding.step:<13}"
        lines += _wrapped(start, finding.text + took, width)
        if finding.advice:
            lines += _wrapped(f"{'':{_WIDTH}}-> ", finding.advice, width)
    failed = sum(finding.mark == "fail" for finding in findings)
    warned = sum(finding.mark == "warn" for finding in findings)
    lines += ["", _verdict(failed, warned), ""]
    return "\n".join(lines)


def _verdict(failed: int, warned: int) -> str:
    if failed:
        return f"something is wrong: {failed} x fail, {warned} x warn"
    return f"it works, with {warned} x warn" if warned else "all is well"


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _wrapped(start: str, text: str, width: int) -> list[str]:
    room = max(width, 40)
    return textwrap.wrap(
        printable(text),
        room,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def shown(octets: bytes, most: int = 100) -> str:
    """What a server said, for a text: one line of printable ASCII in quotation marks, cut short."""
    line = octets.split(b"\n", 1)[0].rstrip(b"\r")
    cut = "..." if len(line) > most else ""
    return '"' + ascii(line[:most].decode("utf-8", "backslashreplace"))[1:-1].replace("\\\\", "\\") + cut + '"'
