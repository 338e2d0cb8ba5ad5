"""Groups as look-ups name them."""

from __future__ import annotations

import re

GROUPS = 64
"""Groups of one user at most."""

_GROUP = re.compile(r"[^\s,\0-\x1f\x7f]{1,64}")


def group_names(text: str) -> tuple[str, ...]:
    """The groups in ``text``: words with commas between them, spaces around a comma do not count. Raises ValueError.

    At most 64 of them with at most 64 characters each; an empty text has none. For ``Route.groups``.
    """
    if not text.strip():
        return ()
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if _GROUP.fullmatch(name) is None or not name.isprintable():
            raise ValueError(f"{name[:80]!r} is no group: write words of at most 64 characters, commas between them")
    if len(names) > GROUPS:
        raise ValueError(f"{len(names)} groups: there may be {GROUPS}")
    return tuple(dict.fromkeys(names))
