"""What the system says of this process: memory, descriptors, and how much of each it may have. None: it does not say.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def resident() -> int | None:
    """Octets of memory that are resident."""
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - once a second, in the loop
            return int(statm.read().split()[1]) * _PAGE
    except OSError:
        return None


def descriptors() -> int | None:
    """Descriptors that are open."""
    try:
        # Linux 6.2 and later tell the number as the size of the directory.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH116, PTH208
    except OSError:
        return None


def descriptor_limit() -> int | None:
    """The most there can be."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def memory_limit(proc: Path = _PROC, groups: Path = _GROUPS) -> int | None:
    """Octets that the control group may have, or its parents; the machine's memory where they say nothing less."""
    found = [*_group_limits(proc, groups), *_machine(proc)]
    return min(found) if found else None


def _machine(proc: Path) -> Iterator[int]:
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemTotal:"):
            yield int(line.split()[1]) * 1024


def _group_limits(proc: Path, groups: Path) -> Iterator[int]:
    """Version 2: memory.max of the group and its parents. Version 1: memory.limit_in_bytes below memory/."""
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, file = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's and lead nowhere: its root is the group then.
        group = PurePosixPath(path.lstrip("/"))
        for place in (group, *group.parents):
            for limit in _lines(root / place / file):
                if limit.isdigit():
                    yield int(limit)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
