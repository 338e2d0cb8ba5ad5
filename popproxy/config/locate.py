"""On which line of a TOML text a key stands. tomllib keeps no positions, so the text is scanned a second time.

The text has been parsed by tomllib before, so the scanner may trust its syntax (TOML 1.0).
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]
"""Keys and, for elements of arrays, indexes from 0."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")


class Locator:
    """Line numbers of one TOML text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._lines: dict[Path, int] = {(): 1}
        self._tables: dict[Path, int] = {}
        self._scan()

    def line(self, path: Path) -> int:
        """The line of ``path``, or of the nearest key around it."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _scan(self) -> None:
        prefix: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text[self._at] == "[":
                prefix = self._header()
            else:
                self._pair(prefix)

    def _header(self) -> Path:
        """``[a.b]`` or ``[[a.b]]``; a part that names an array of tables means its last element."""
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        keys = self._keys()
        self._at += 2 if array else 1
        path: Path = ()
        for key in keys[:-1]:
            path = (*path, key)
            self._mark(path)
            if path in self._tables:
                path = (*path, self._tables[path])
        path = (*path, keys[-1])
        if array:
            self._mark(path)
            self._tables[path] = self._tables.get(path, -1) + 1
            path = (*path, self._tables[path])
        self._mark(path)
        return path

    def _pair(self, prefix: Path) -> None:
        start = self._at
        keys = self._keys()
        for depth in range(len(keys)):
            self._mark((*prefix, *keys[: depth + 1]), start)
        self._skip(_SPACE)
        self._at += 1
        self._skip(_SPACE)
        self._value((*prefix, *keys))

    def _keys(self) -> list[str]:
        """A dotted key; stands behind it, spaces skipped."""
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            string = _STRING.match(self._text, self._at)
            if string is not None:
                self._at = string.end()
                keys.append(str(tomllib.loads("key = " + string.group())["key"]))
            else:
                start = self._at
                keys.append(self._text[start : self._skip(_BARE_KEY)])
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, path: Path) -> None:
        opening = self._text[self._at : self._at + 1]
        if opening in ("[", "{"):
            self._group(path, "]" if opening == "[" else "}")
        else:
            found = _STRING.match(self._text, self._at)
            self._at = found.end() if found else self._skip(_SCALAR)

    def _group(self, path: Path, closing: str) -> None:
        """An array or an inline table."""
        self._at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            mark = self._text[self._at : self._at + 1]
            if mark in (closing, ""):
                self._at += 1
                return
            if mark == ",":
                self._at += 1
            elif closing == "}":
                self._pair(path)
            else:
                self._mark((*path, index))
                self._value((*path, index))
                index += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        """Step over ``pattern`` if it is here; the new position."""
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return self._at

    def _mark(self, path: Path, at: int | None = None) -> None:
        at = self._at if at is None else at
        self._line += self._text.count("\n", self._counted, at)
        self._counted = at
        self._lines.setdefault(path, self._line)
