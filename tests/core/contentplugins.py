"""The plugins of the transcripts in tests/scripts/content, by the name of the script."""

from __future__ import annotations

from pathlib import Path

from popproxy.api import (
    Command,
    Dates,
    HeaderFilter,
    Hide,
    Keep,
    MaildropView,
    Plugin,
    PluginConfig,
    Rewrite,
    SessionView,
    parse,
)
from popproxy.api.transcript import load_transcript

FOLDER = Path(__file__).parents[1] / "scripts" / "content"
SCRIPTS = [load_transcript(path) for path in sorted(FOLDER.glob("*.pop3"))]


class WholeTop(Plugin[PluginConfig]):
    """Sends RETR for TOP."""

    def on_command(self, session: SessionView, command: Command) -> Rewrite | None:
        return Rewrite(parse(b"RETR %d" % (command.message or 0))) if command.name == "TOP" else None


class Tag(Plugin[PluginConfig]):
    """Adds 14 octets, and says 62."""

    def growth(self, session: SessionView) -> int:
        return 62

    def open_body(self, session: SessionView, command: Command) -> HeaderFilter:
        return HeaderFilter(lambda header: header.add("X-Tag", "12345"), growth=62)


NEW_YEAR = 1_767_225_600.0
"""The beginning of 2026."""


class KeepsNew(Plugin[PluginConfig]):
    """Nothing is deleted that arrived in 2026 or later, or nobody knows when."""

    def on_maildrop(self, session: SessionView, maildrop: MaildropView) -> None:
        return None

    def on_command(self, session: SessionView, command: Command) -> Keep | Dates | None:
        number = command.message
        if command.name != "DELE" or number is None:
            return None
        entry = session.maildrop.get(number)
        if entry is None and session.maildrop:
            return None
        if entry is None or not entry.dated:
            return Dates(frozenset({number}))
        return None if entry.arrived is not None and entry.arrived < NEW_YEAR else Keep()


class HidesOld(Plugin[PluginConfig]):
    """What arrived before 2026 is not shown."""

    def on_maildrop(self, session: SessionView, maildrop: MaildropView) -> Dates | Hide:
        undated = frozenset(number for number, entry in maildrop.entries.items() if not entry.dated)
        if undated:
            return Dates(undated)
        entries = maildrop.entries.items()
        return Hide(frozenset(n for n, entry in entries if entry.arrived is not None and entry.arrived < NEW_YEAR))


class OnlyAnn(KeepsNew):
    """The same, for ann."""

    def unneeded(self, session: SessionView) -> frozenset[str]:
        return frozenset() if session.user == "ann" else frozenset({"on_maildrop", "on_command"})


PLUGINS: dict[str, list[type[Plugin[PluginConfig]]]] = {
    "dates_of_the_whole_maildrop": [HidesOld],
    "hooks_that_are_not_needed": [OnlyAnn],
    "kept_until_they_are_old": [KeepsNew],
    "top_sent_as_retr": [WholeTop],
    "true_sizes": [Tag],
}
