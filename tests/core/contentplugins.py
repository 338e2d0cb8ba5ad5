"""The plugins of the transcripts in tests/scripts/content, by the name of the script."""

from __future__ import annotations

from pathlib import Path

from popproxy.api import Command, HeaderFilter, Plugin, PluginConfig, Rewrite, SessionView, parse
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


PLUGINS: dict[str, list[type[Plugin[PluginConfig]]]] = {"top_sent_as_retr": [WholeTop], "true_sizes": [Tag]}
