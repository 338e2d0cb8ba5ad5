"""What sqlite keeps: the tables, and doing.Table on them. All of it within one transaction of the caller.

Owners are workers: a place counts as long as its owner's heart beats. No count is ever below one in ``places``; what is
not held has no row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from popproxy.api.store import Fixed, Mark, Sliding, Stored, TokenBucket, Window
from popproxy.state.windows import Level, ends

VERSION = 1
"""Of the schema, in the file's user_version."""
APPLICATION = 0x706F7033
"""``pop3``, in the file's application_id: a database of another program is left alone."""
SCHEMA = (
    "CREATE TABLE texts (key BLOB PRIMARY KEY, value BLOB NOT NULL, ends REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX texts_ends ON texts (ends)",
    "CREATE TABLE marks (key BLOB, member BLOB, ends REAL NOT NULL, PRIMARY KEY (key, member)) WITHOUT ROWID",
    "CREATE INDEX marks_ends ON marks (ends)",
    "CREATE TABLE levels (key BLOB PRIMARY KEY, kind INTEGER NOT NULL, seconds REAL NOT NULL,"
    " count REAL NOT NULL, before REAL NOT NULL, at REAL NOT NULL, ends REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX levels_ends ON levels (ends)",
    "CREATE TABLE owners (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, life REAL NOT NULL, ends REAL NOT NULL)",
    "CREATE TABLE places (key BLOB, owner INTEGER, count INTEGER NOT NULL CHECK (count > 0),"
    " PRIMARY KEY (key, owner)) WITHOUT ROWID",
    "CREATE INDEX places_owner ON places (owner)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
_KINDS: dict[type[Window], int] = {Fixed: 1, Sliding: 2, TokenBucket: 3}
_DEAD = 500
"""Places of a dead owner that are swept with one batch."""


class Rows:
    """doing.Table for one owner, by name; and the owner itself."""

    def __init__(self, base: sqlite3.Connection, owner: str, life: float) -> None:
        self._base = base
        self._name = owner
        self._life = life
        self._owner = 0

    def beat(self, now: float, write: bool = False) -> bool:
        """Let the owner live on; False when it is unknown or dead. ``write`` in any case."""
        row = self._base.execute("SELECT id, ends FROM owners WHERE name = ?", (self._name,)).fetchone()
        if row is None or row[1] <= now:
            return False
        self._owner = row[0]
        # Not with every batch: one that only reads writes nothing.
        if write or row[1] - now < 0.9 * self._life:
            self._base.execute("UPDATE owners SET ends = ? WHERE id = ?", (now + self._life, self._owner))
        return True

    def begin(self, everything: Mapping[str, int], now: float) -> None:
        """Make the owner known, or alive again, with all that it holds."""
        self.leave()
        made = self._base.execute(
            "INSERT INTO owners (name, life, ends) VALUES (?, ?, ?)", (self._name, self._life, now + self._life)
        )
        self._owner = made.lastrowid or 0
        self.settle(everything)

    def settle(self, told: Mapping[str, int]) -> None:
        """Hold so many places at each key."""
        for key, count in told.items():
            if count:
                self._base.execute("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", (octets(key), self._owner, count))
            else:
                self._base.execute("DELETE FROM places WHERE key = ? AND owner = ?", (octets(key), self._owner))

    def leave(self) -> None:
        """Hold nothing, and be unknown."""
        self._base.execute("DELETE FROM places WHERE owner IN (SELECT id FROM owners WHERE name = ?)", (self._name,))
        self._base.execute("DELETE FROM owners WHERE name = ?", (self._name,))

    def sweep(self, now: float, most: int) -> None:
        """Delete what has ended, ``most`` of each kind, and a piece of what dead owners held."""
        base = self._base
        for table, key in (("texts", "key"), ("levels", "key"), ("marks", "key, member")):
            base.execute(
                f"DELETE FROM {table} WHERE ({key}) IN"
                f" (SELECT {key} FROM {table} WHERE ends <= ? ORDER BY ends LIMIT ?)",
                (now, most),
            )
        # A clock that went back lets nobody live on for longer than a life.
        base.execute("UPDATE owners SET ends = ? + life WHERE ends > ? + life", (now, now))
        dead = base.execute("SELECT id FROM owners WHERE ends <= ? LIMIT 1", (now,)).fetchone()
        if dead is not None:
            swept = base.execute(
                "DELETE FROM places WHERE (key, owner) IN (SELECT key, owner FROM places WHERE owner = ? LIMIT ?)",
                (dead[0], _DEAD),
            )
            if swept.rowcount < _DEAD:
                base.execute("DELETE FROM owners WHERE id = ?", dead)

    def level(self, key: str, window: Window, now: float) -> Level | None:
        """See Table."""
        row = self._base.execute(
            "SELECT count, before, at FROM levels WHERE key = ? AND kind = ? AND seconds = ? AND ends > ?",
            (octets(key), _KINDS[type(window)], window.seconds, now),
        ).fetchone()
        return None if row is None else Level(*row)

    def keep(self, key: str, window: Window, level: Level) -> None:
        """See Table."""
        kind, end = _KINDS[type(window)], ends(window, level)
        self._base.execute(
            "INSERT OR REPLACE INTO levels VALUES (?, ?, ?, ?, ?, ?, ?)",
            (octets(key), kind, window.seconds, level.count, level.before, level.at, end),
        )

    def places(self, key: str, now: float) -> int:
        """See Table."""
        row = self._base.execute(
            "SELECT ifnull(sum(count), 0) FROM places JOIN owners ON owner = id WHERE key = ? AND ends > ?",
            (octets(key), now),
        ).fetchone()
        return int(row[0])

    def take(self, key: str) -> None:
        """See Table."""
        self._base.execute(
            "INSERT INTO places VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            (octets(key), self._owner),
        )

    def value(self, key: str, now: float) -> bytes | None:
        """See Table."""
        row = self._base.execute("SELECT value FROM texts WHERE key = ? AND ends > ?", (octets(key), now)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes, end: float) -> None:
        """See Table."""
        self._base.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", (octets(key), value, end))

    def drop(self, key: str, now: float) -> bool:
        """See Table."""
        at = (octets(key), now)
        found = 0
        for table in ("texts", "marks"):
            found += self._base.execute(f"DELETE FROM {table} WHERE key = ? AND ends > ?", at).rowcount
        return found > 0

    def mark(self, key: str, mark: Mark, now: float) -> int:
        """See Table."""
        base, at = self._base, octets(key)
        if mark.member is not None:
            base.execute("DELETE FROM marks WHERE key = ? AND ends <= ?", (at, now))
            base.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", (at, mark.member, now + mark.seconds))
        count = int(base.execute("SELECT count(*) FROM marks WHERE key = ? AND ends > ?", (at, now)).fetchone()[0])
        if mark.member is None or count <= mark.most:
            return count
        base.execute(
            "DELETE FROM marks WHERE key = ?1 AND member IN"
            " (SELECT member FROM marks WHERE key = ?1 ORDER BY ends, member LIMIT ?2)",
            (at, count - mark.most),
        )
        return mark.most


def scan(base: sqlite3.Connection, space: str, prefix: str, most: int, now: float) -> list[Stored]:
    """See Backend."""
    begin = octets(space + prefix)
    # The first key behind all that begin so: UTF-8 has no octet 255.
    end = begin[:-1] + bytes([begin[-1] + 1])
    rows = base.execute(
        "SELECT key, value, ends FROM texts WHERE key >= ? AND key < ? AND ends > ? ORDER BY key LIMIT ?",
        (begin, end, now, most),
    )
    skip = len(space)
    return [Stored(bytes(row[0]).decode("utf-8", "surrogatepass")[skip:], bytes(row[1]), row[2] - now) for row in rows]


def octets(key: str) -> bytes:
    """``key`` as it is stored; also one that is no proper text."""
    return key.encode("utf-8", "surrogatepass")
