"""The event log: one line per event, as JSON or for people, written by a thread of its own.

Law: the caller never waits for the disk or the pipe. A line is made at once (so that later changes of its values do
not show), put into a bounded buffer, and written with its neighbours at most every 50 ms; what does not fit is
counted in ``dropped``. Nothing secret is written: only values of harmless types are shown, bytes never.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Literal

from popproxy.config.plan import LogPlan
from popproxy.run.events import USERS
from popproxy.run.journal import JOURNAL, Journal, entry
from popproxy.run.logline import Encode, as_json, console
from popproxy.run.outlet import Outlet, Stream

Level = Literal["debug", "info", "warning", "error"]
LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}

BATCH = 0.05
"""Seconds between two wake-ups of the writer."""
BUFFER = 4 << 20
"""Octets that may wait for the writer; as many again may be in its hands."""

_RESERVED = frozenset({"time", "level", "event"})
_TEXTS = ("detail", "reason")
"""Fields that may hold words of others, who name the user in them."""
_WORKER = _RESERVED | {"worker"}


class EventLog:
    """The log of this process. ``event`` may be called from any thread.

    ``target`` is a file (appended to, mode 0640), an open descriptor (1 or 2), or, for the form ``journald``, the
    path of the journal's socket. ``users``: how the fields ``user`` and ``login`` are shown; a hash is the first 12
    hex digits of SHA-256 over ``salt`` and the name (the same salt in every process makes them comparable).
    ``worker`` is the slot of this process where several write the same log, and stands on each of its lines.
    Raises OSError when the file cannot be opened, or no journal listens.
    """

    def __init__(
        self,
        target: Path | int = 1,
        *,
        form: Literal["json", "console", "journald"] = "json",
        level: Level = "info",
        users: Literal["plain", "hashed", "none"] = "plain",
        salt: bytes = b"",
        colour: bool | None = None,
        buffer: int = BUFFER,
        worker: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.dropped = 0
        """Lines lost so far."""
        self._outlet, self._encode = _outlet(target, form, colour)
        self._threshold = LEVELS[level]
        self._worker: dict[str, object] = {} if worker is None else {"worker": worker}
        self._reserved = _RESERVED if worker is None else _WORKER
        self._users = users
        self._salt = salt
        self._limit = buffer
        self._now = now
        self._second = (-1, "")
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._size = 0
        self._woken = self._closed = self._reopen = False
        self._told = 0
        self._fault = ""
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="popproxy-log", daemon=True)
        self._thread.start()

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line. ``name`` and ``fields`` are those of events.EVENTS. Never raises, never waits."""
        if LEVELS[level] < self._threshold:
            return
        if self._users != "plain":
            fields = self._veil(fields)
        if not self._reserved.isdisjoint(fields):
            fields = {f"{key}_" if key in self._reserved else key: value for key, value in fields.items()}
        if self._worker:
            fields = {**self._worker, **fields}
        self._put(self._encode(self._stamp(), level, name, fields), self._limit)

    def _put(self, line: bytes, limit: float) -> None:
        with self._lock:
            if self._closed or self._size + len(line) > limit:
                self.dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)
            if self._woken:
                return
            self._woken = True
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Octets that the writer has not taken yet."""
        return self._size

    def plugin(self, name: str) -> PluginLog:
        """``services.log`` of the plugin called ``name``."""
        return PluginLog(self, name)

    def reopen(self) -> None:
        """Open the file anew (after a rename), or find the journal again; nothing for a descriptor. What was logged
        before goes to the old file. Never waits: the writer does it."""
        with self._lock:
            self._reopen = self._woken = True
        self._wake.set()

    def close(self, deadline: float = 2.0) -> None:
        """Write what is waiting, within ``deadline`` seconds; what is left then is lost. Later lines are lost, too."""
        with self._lock:
            self._closed = True
        self._stop.set()
        self._wake.set()
        self._thread.join(deadline)
        if self._thread.is_alive():
            with self._lock:
                self.dropped += len(self._lines)
                self._lines = []
        else:
            self._outlet.close()

    def _stamp(self) -> str:
        at = self._now()
        whole = int(at)
        second, text = self._second
        if whole != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._second = (whole, text)
        return f"{text}.{int((at - whole) * 1000):03d}Z"

    def _veil(self, fields: Mapping[str, object]) -> dict[str, object]:
        names = [name for key in USERS if isinstance(name := fields.get(key), str)]
        if self._users == "none":
            veiled = {key: value for key, value in fields.items() if key not in USERS}
        else:
            veiled = {key: self._hash(value) if key in USERS else value for key, value in fields.items()}
        if names:
            for key in _TEXTS:
                text = fields.get(key)
                if isinstance(text, str) and " " in text:
                    veiled[key] = _nameless(text, names)
        return veiled

    def _hash(self, value: object) -> object:
        if not isinstance(value, str):
            return value
        return hashlib.sha256(self._salt + value.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._stop.wait(BATCH)
            self._wake.clear()
            # Asked before the lines are taken: a line that came between the two would be lost at the end.
            stopping = self._stop.is_set()
            with self._lock:
                lines, self._lines = self._lines, []
                self._size = 0
                reopen, self._reopen, self._woken = self._reopen, False, False
            # First what was logged before: it belongs where the one who moved the file away will look for it.
            if lines:
                self._write(lines)
            if reopen:
                self._open_again()
            if stopping and not lines:
                return
            if self._stop.is_set():
                self._wake.set()

    def _open_again(self) -> None:
        try:
            self._outlet.reopen()
        except OSError as error:
            self._say("error", "log_failed", {"detail": str(error)})

    def _write(self, lines: list[bytes]) -> None:
        """Write ``lines``; when that fails count those that are lost."""
        lost, why = self._outlet.write(lines)
        if lost:
            self._fault = why
            with self._lock:
                self.dropped += lost
            return
        if self.dropped > self._told and not self._closed:
            missing, self._told = self.dropped - self._told, self.dropped
            self._say("warning", "log_dropped", {"count": missing, "detail": self._fault or "the buffer was full"})
            self._fault = ""

    def _say(self, level: Level, name: str, fields: Mapping[str, object]) -> None:
        """A line of the log about itself: room or not, and whatever the level."""
        self._put(self._encode(self._stamp(), level, name, {**self._worker, **fields}), inf)


class PluginLog:
    """api.Log of one plugin: every line has the plugin's name in it."""

    __slots__ = ("_log", "_name")

    def __init__(self, log: EventLog, name: str) -> None:
        self._log = log
        self._name = name

    def info(self, event: str, **fields: object) -> None:
        """Something an administrator may want to know."""
        self._line("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something an administrator should look at."""
        self._line("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Something that is broken."""
        self._line("error", event, fields)

    def _line(self, level: Level, event: str, fields: dict[str, object]) -> None:
        self._log.event(level, f"{self._name}.{event}", **{**fields, "plugin": self._name})


class LibraryHandler(logging.Handler):
    """Brings what libraries log with ``logging`` into the event log. Exceptions are told by type and place only."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """One ``library`` line."""
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        fault = record.exc_info[1] if record.exc_info else None
        about = describe(fault) if fault is not None else {}
        self._log.event(level, "library", logger=record.name, detail=record.getMessage(), **about)


def _nameless(text: str, names: Sequence[str]) -> str:
    """``text`` with ``<user>`` for each of ``names``, with and without its domain, where it stands as a word."""
    folded = text.casefold()
    parts = {part for name in names for part in (name, name.partition("@")[0]) if part and part.casefold() in folded}
    if not parts:
        return text
    words = "|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{words})(?!\w)", "<user>", text, flags=re.IGNORECASE)


def describe(error: BaseException) -> dict[str, object]:
    """The fields ``error`` and ``where`` of an exception: its type and its innermost frames, never its text."""
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return {"error": type(error).__name__, "where": " < ".join(frames[:-6:-1])}


def _outlet(target: Path | int, form: str, colour: bool | None) -> tuple[Outlet, Encode]:
    """Where lines go, and how they are made for it."""
    if form == "journald":
        return Journal(target if isinstance(target, Path) else JOURNAL), entry
    stream = Stream(target)
    if form == "json":
        return stream, partial(as_json, most=stream.longest)
    if colour is None:
        colour = os.isatty(stream.fd) and not os.environ.get("NO_COLOR")
    return stream, console(colour, stream.longest)


def salt_of(plan: LogPlan) -> bytes:
    """The salt for hashed user names: the config's, else a new random one. The process that starts the others makes
    it once and gives it to all of them, so that a user has one hash in the whole log."""
    return secrets.token_bytes(16) if plan.salt is None else plan.salt.get_secret_value().encode()


def open_log(plan: LogPlan, salt: bytes, worker: int | None = None, journal: Path = JOURNAL) -> EventLog:
    """The log that ``plan`` asks for; ``worker`` is the slot of this process where there are several.

    Without a journal to write to, standard error gets JSON lines, and an error that says so. Raises OSError when the
    file cannot be opened."""

    def made(target: Path | int, form: Literal["json", "console", "journald"]) -> EventLog:
        return EventLog(target, form=form, level=plan.level, users=plan.users, salt=salt, worker=worker)

    if plan.format != "journald":
        return made(plan.file if plan.file is not None else 2, plan.format)
    try:
        return made(journal, "journald")
    except OSError as error:
        detail = (
            f"no journal at {journal}: {error.strerror or error}; standard error gets JSON lines instead; "
            'write [log] format = "json" where systemd-journald does not run'
        )
    print(f"popproxy: {detail}", file=sys.stderr, flush=True)
    log = made(2, "json")
    log.event("error", "log_failed", detail=detail)
    return log
