"""Plugins that change messages in every way there is; test_sizes.py configures them into the real proxy."""

from __future__ import annotations

import asyncio

from popproxy.api import (
    BodyFilter,
    Command,
    Edit,
    Grow,
    Header,
    HeaderFilter,
    MaildropView,
    MessageView,
    Plugin,
    PluginConfig,
    Replace,
    Rewrite,
    SessionView,
    parse,
)

GROWTH = 200
NOTICE = b"Subject: gone\r\n\r\n.\r\n"


def tag(header: Header) -> None:
    """Something added, something removed."""
    header.add("X-Tag", "a word")
    header.remove("X-*")
    header.rewrite("Subject", lambda subject: subject if len(subject) > 80 else f"[EXT] {subject}")


class Grows(Plugin[PluginConfig]):
    """Announces, and leaves the rest to the session."""

    def growth(self, session: SessionView) -> int:
        return GROWTH


class Filters(Grows):
    """Edits while the message streams."""

    def open_body(self, session: SessionView, command: Command) -> HeaderFilter:
        return HeaderFilter(tag, growth=GROWTH)


class Edits(Grows):
    """Edits when it has seen the whole message, for TOP as well."""

    def on_command(self, session: SessionView, command: Command) -> Rewrite | None:
        return Rewrite(parse(b"RETR %d" % (command.message or 0))) if command.name == "TOP" else None

    async def on_message(self, session: SessionView, command: Command, message: MessageView) -> Edit:
        await asyncio.sleep(0)
        return Edit([("X-Tag", str(sum(map(len, message.chunks()))))], ["Subject"])


class Replaces(Grows):
    """Sends a notice where it fits."""

    def on_message(self, session: SessionView, command: Command, message: MessageView) -> Replace | None:
        return Replace(NOTICE, octets=message.octets) if message.octets > len(NOTICE) else None


class Fails(Grows):
    """Raises where it can."""

    def open_body(self, session: SessionView, command: Command) -> BodyFilter:
        raise ValueError("open_body")

    async def on_message(self, session: SessionView, command: Command, message: MessageView) -> Edit:
        raise ValueError("on_message")


class Overdoes(Grows):
    """Adds more than it announced."""

    def open_body(self, session: SessionView, command: Command) -> HeaderFilter:
        return HeaderFilter(lambda header: header.add("X-Long", "x" * 300), growth=GROWTH)


class Lists(Plugin[PluginConfig]):
    """Looks at the listing first."""

    def on_maildrop(self, session: SessionView, maildrop: MaildropView) -> Grow:
        return Grow(GROWTH)

    def open_body(self, session: SessionView, command: Command) -> HeaderFilter:
        return HeaderFilter(tag, growth=GROWTH)
