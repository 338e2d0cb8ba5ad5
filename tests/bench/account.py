"""CPU time and memory of a proxy, as the kernel accounts for them, over all its processes.

CPU of a process is the larger of two lower bounds: the sum of its threads' schedstat (nanoseconds, but threads that
have ended are missing) and utime+stime of its stat (the whole process, cut to clock ticks, 10 ms). Children that were
waited for add their cutime+cstime, in ticks. Where the kernel has no schedstat the ticks alone are used; `source`
says which.
"""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def source() -> str:
    """Where CPU seconds come from on this machine."""
    if _schedstat(os.getpid()) > 0:
        return "/proc/PID/task/*/schedstat (ns), with /proc/PID/stat for ended threads and reaped children"
    return f"/proc/PID/stat ({_TICK * 1000:g} ms ticks)"


def family(pid: int) -> list[int]:
    """`pid` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if fields:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU seconds so far of `pid`, its living descendants, and all descendants that were waited for."""
    return sum(_process_seconds(member) for member in family(pid))


def pss_kib(pid: int) -> int:
    """Proportional set size of `pid` and its living descendants, KiB (smaps_rollup)."""
    return sum(_process_pss(member) for member in family(pid))


def _process_seconds(pid: int) -> float:
    fields = _stat(pid)
    if not fields:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) * _TICK
    reaped = (int(fields[13]) + int(fields[14])) * _TICK
    return max(own, _schedstat(pid)) + reaped


def _stat(pid: int) -> list[str]:
    """The fields after the command's name: state, ppid, ... (proc(5) field 3 on); empty when the process is gone."""
    text = _text(_PROC / str(pid) / "stat")
    return text[text.rindex(")") + 2 :].split() if text else []


def _schedstat(pid: int) -> float:
    """Seconds on a CPU of the process's living threads; 0 where the kernel does not say."""
    total = 0
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    for thread in threads:
        words = _text(thread / "schedstat").split()
        total += int(words[0]) if words else 0
    return total / 1e9


def _process_pss(pid: int) -> int:
    for line in _text(_PROC / str(pid) / "smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _text(path: Path) -> str:
    """A /proc file, empty when its process ended meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
