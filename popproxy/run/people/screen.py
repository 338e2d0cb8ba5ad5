"""The live screen of ``popproxy top``. textual is imported here, and nowhere else.

A thread asks, once a tick; what it has seen is shown by the screen's own loop. Names of strangers are shown without any
markup, escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic, sleep
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static, TabbedContent, TabPane
from textual.worker import Worker, get_current_worker

from popproxy.run.client import Client, Refused, Unanswered, segment
from popproxy.run.people.look import (
    BY,
    DENIALS,
    HEAVIEST,
    UPSTREAMS,
    Look,
    Rows,
    denials,
    heading,
    heaviest,
    look,
    silent,
    title,
    upstreams,
)
from popproxy.run.people.table import Column, cut, fitted
from popproxy.run.people.who import COLUMNS as SESSIONS
from popproxy.run.people.who import cells
from popproxy.run.people.words import printable

RETRY = 2.0
"""Seconds until somebody who does not answer is asked again."""
_NAP = 0.1
_STAYS = 4.0
_FRAME = 4
"""Columns of a table that hold no text: a cell's space on both sides of the whole, and the scroll bar."""

_TABS: tuple[tuple[str, Sequence[Column]], ...] = (
    ("users", HEAVIEST),
    ("addresses", HEAVIEST),
    ("sessions", SESSIONS),
    ("upstreams", UPSTREAMS),
    ("denials", DENIALS),
)


class Ask(ModalScreen[bool]):
    """A question that is answered by y or by anything else."""

    CSS = "Ask { align: center middle; } #box { width: auto; height: auto; border: round; padding: 1 2; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """One box."""
        with Vertical(id="box"):
            yield Static(Text(f"{self._question}  y/n"))

    def action_answer(self, yes: bool) -> None:
        """It is answered."""
        self.dismiss(yes)


class Live(App[None]):
    """``every`` are the seconds between two looks, ``limit`` the rows of the lists, ``sessions`` those of sessions."""

    TITLE = "popproxy top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: 3; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    #word { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    TabbedContent, ContentSwitcher, TabPane { height: 1fr; padding: 0; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("b", "by", "by what"),
        Binding("s", "since", "since when"),
        Binding("space", "pause", "pause"),
        Binding("k", "kick", "kick"),
        *(Binding(str(place + 1), f"tab('{name}')", name, show=False) for place, (name, _) in enumerate(_TABS)),
    ]

    def __init__(self, client: Client, by: str, limit: int, every: float, sessions: int) -> None:
        super().__init__()
        self._client = client
        self._by = by
        self._since = "recent"
        self._limit = limit
        self._every = every
        self._sessions = sessions
        self._paused = False
        self._seen: Look | None = None
        self._ids: list[str] = []
        self._held = 0.0

    def compose(self) -> ComposeResult:
        """Three lines, a table for each tab, a word, the keys."""
        yield Static(id="head")
        with TabbedContent():
            for place, (name, _) in enumerate(_TABS):
                with TabPane(f"{place + 1} {name}", id=name):
                    yield DataTable(id=f"{name}-table", cursor_type="row")
        yield Static(id="word")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to ask."""
        self._say("asking ...")
        self._watch()

    @work(thread=True, exclusive=True)
    def _watch(self) -> None:
        """The thread: a look every so often, until the screen is left."""
        worker = get_current_worker()
        due = 0.0
        while not worker.is_cancelled:
            try:
                for tick in self._client.ticks():
                    if worker.is_cancelled:
                        return
                    if monotonic() < due or self._paused:
                        continue
                    due = monotonic() + self._every
                    seen = look(self._client, tick, self._limit, self._since, self._sessions)
                    self._tell(worker.is_cancelled or self._paused, partial(self.show, seen))
            except (Unanswered, Refused) as error:
                told = f"{printable(str(error))}; asking again"
                self._tell(worker.is_cancelled, partial(self._say, told))
                self._rest(worker)

    def _rest(self, worker: Worker[None]) -> None:
        """Before somebody is asked again who did not answer."""
        end = monotonic() + RETRY
        while monotonic() < end and not worker.is_cancelled:
            sleep(_NAP)

    def _tell(self, gone: bool, what: Callable[[], None]) -> None:
        if not gone and self.is_running:
            self.call_from_thread(what)

    def show(self, seen: Look) -> None:
        """Show a look."""
        self._seen = seen
        self.query_one("#head", Static).update(Text("\n".join(heading(seen)), no_wrap=True, overflow="ellipsis"))
        rows: dict[str, Rows] = {
            "users": heaviest(seen, "users", self._by),
            "addresses": heaviest(seen, "addresses", self._by),
            "sessions": list(map(cells, seen.sessions["sessions"])),
            "upstreams": upstreams(seen),
            "denials": denials(seen),
        }
        self._ids = [row["id"] for row in seen.sessions["sessions"]]
        for name, head in _TABS:
            self._fill(name, head, rows[name])
        more = seen.sessions["matched"] - len(self._ids)
        words = [title("users and addresses", self._by, seen.top)]
        words += [f"{more} more sessions"] if more > 0 else []
        words += [f"no answer of workers {', '.join(map(str, quiet))}"] if (quiet := silent(seen)) else []
        if monotonic() >= self._held:
            self._say("; ".join(words))

    def _fill(self, name: str, head: Sequence[Column], rows: Rows) -> None:
        """New rows in as many columns as there is room for; the cursor stays on what it was on, while that is there."""
        table: DataTable[Text] = self.query_one(f"#{name}-table", DataTable)
        at, top, before = table.cursor_row, table.scroll_y, _keys(table)
        chosen = before[at] if at < len(before) else None
        texts = [[printable(text) for text in row] for row in rows]
        sizes, kept = fitted(head, texts, max(1, self.size.width - _FRAME))
        table.clear(columns=True)
        for i in kept:
            table.add_column(head[i].title, width=sizes[i], key=head[i].title)
        for row in texts:
            table.add_row(*(_cell(row[i], head[i], sizes[i]) for i in kept), key=_key(row, table))
        after = _keys(table)
        if after:
            table.move_cursor(row=after.index(chosen) if chosen in after else min(at, len(after) - 1))
            table.scroll_to(y=top, animate=False)

    def _say(self, text: str, stays: bool = False) -> None:
        """A word in the last line. One that ``stays`` is left for a while by the looks that follow."""
        self._held = monotonic() + _STAYS if stays else 0.0
        self.query_one("#word", Static).update(Text(text, no_wrap=True, overflow="ellipsis"))

    # Keys

    def action_by(self) -> None:
        """The next of octets, messages and failures."""
        self._by = BY[(BY.index(self._by) + 1) % len(BY)]
        if self._seen is not None:
            self.show(self._seen)

    def action_since(self) -> None:
        """The last minutes, or since the start."""
        self._since = "start" if self._since == "recent" else "recent"
        self._say("asking ...")

    def action_pause(self) -> None:
        """Stand still, or go on."""
        self._paused = not self._paused
        self._say("paused" if self._paused else "asking ...")

    def action_tab(self, name: str) -> None:
        """Another table."""
        self.query_one(TabbedContent).active = name
        self.query_one(f"#{name}-table", DataTable).focus()

    def action_kick(self) -> None:
        """End the session under the cursor, if that is what is meant."""
        if self.query_one(TabbedContent).active != "sessions" or not self._ids:
            self._say("choose a session first: 3, then up and down", stays=True)
            return
        table = self.query_one("#sessions-table", DataTable)
        keys = _keys(table)
        chosen = keys[min(table.cursor_row, len(keys) - 1)]
        user = str(table.get_cell(chosen, "USER"))

        def answered(yes: bool | None) -> None:
            if yes:
                self._kick(chosen)

        self.push_screen(Ask(f"End session {chosen} of {user}?"), answered)

    @work(thread=True)
    def _kick(self, session: str) -> None:
        try:
            self._client.post(f"/v1/sessions/{segment(session)}/kick", {"reason": "popproxy top"})
            told = f"session {session} ended"
        except (Unanswered, Refused) as error:
            told = printable(str(error))
        self._tell(False, partial(self._say, told, stays=True))


def _keys(table: DataTable[Text]) -> list[str]:
    """What the rows are about, from the top."""
    return [str(row.key.value) for row in table.ordered_rows]


def _cell(text: str, column: Column, size: int) -> Text:
    return Text(cut(text, size), justify="right" if column.right else "left", no_wrap=True)


def _key(row: Sequence[str], table: DataTable[Text]) -> str:
    """A row by what it is about; of two about the same, each by its place."""
    name = row[0]
    return name if name not in table.rows else f"{name} {table.row_count}"
