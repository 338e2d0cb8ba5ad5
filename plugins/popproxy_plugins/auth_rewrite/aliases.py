"""Alias maps: a name in each line, and what it becomes.

```
# comments and empty lines do not count
joe.old@example.com     joe@example.com
@old.example.com        @example.com
@gone.example.com       postmaster@example.com
```

Names compare without case. ``@domain`` stands for all its names that have no line of their own; a target that begins
with ``@`` keeps what stood before. One look-up is made, so a target is not looked up again.
"""

from __future__ import annotations

from popproxy.api import LineError

_BOM = b"\xef\xbb\xbf"


class Aliases:
    """A map as it stood in its file at one time."""

    __slots__ = ("_targets",)

    def __init__(self, targets: dict[str, str]) -> None:
        self._targets = targets

    def find(self, name: str) -> str | None:
        """What ``name`` becomes; None when the map does not know it."""
        local, at, domain = name.rpartition("@")
        target = self._targets.get(name.casefold())
        if target is None and at:
            target = self._targets.get("@" + domain.casefold())
        if target is not None and target.startswith("@"):
            return (local if at else name) + target
        return target


def parse(octets: bytes) -> Aliases:
    """The map in the content of a file. Raises LineError for the first line that is wrong."""
    targets: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(octets.removeprefix(_BOM).split(b"\n"), 1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise LineError(number, "is not UTF-8: save the file as UTF-8") from None
        if not text or text.startswith("#"):
            continue
        words = text.split()
        if len(words) != 2:
            count = f"{len(words)} word{'s' if len(words) > 1 else ''}"
            raise LineError(number, f"has {count}: write a name and what it becomes, with a space between them")
        if "@" in words or any("\0" in word for word in words):
            raise LineError(number, "holds NUL or an @ alone: write names, or @example.com for all of a domain")
        key = words[0].casefold()
        if key in targets:
            raise LineError(number, f"{words[0]!r} is in line {lines[key]} already: leave one out")
        targets[key], lines[key] = words[1], number
    return Aliases(targets)
