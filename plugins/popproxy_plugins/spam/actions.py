"""What is done at which score. The operator's actions are a list by rising threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Literal

from pydantic import Field, field_validator, model_validator

from popproxy.api import Code, Header, PluginConfig
from popproxy_plugins.spam.subject import decoded
from popproxy_plugins.spam.verdict import SCORE_LIMIT, Scored

NOTICE = """\
A message for you was found to be spam and is not shown.

From:    {from}
Subject: {subject}
Date:    {date}
Score:   {score}

Delete this notice to delete the message.
"""
PLACES = ("from", "subject", "date", "score", "octets")
"""The placeholders of a notice."""
REFUSED = "Message refused as spam"
_LINE = 700
_TEXT = 8192


class Action(PluginConfig):
    """One threshold, and what happens to a message that reaches it."""

    at: float | Literal["spam"] = Field(
        description='the score from which it applies, or `"spam"`: when the scanner itself calls the message spam'
    )
    add_headers: bool = Field(default=True, description="whether such a message is flagged: `YES` and `Yes`")
    tag: str = Field(default="", description="text put in front of the Subject, unless it is there already")
    replace: bool | str = Field(
        default=False,
        description="a notice instead of the message: `true`, or its text with {from}, {subject}, {date}, {score} and "
        "{octets}; the message stays in the maildrop until the notice is deleted",
    )
    refuse: bool | str = Field(
        default=False, description="`-ERR` instead of the message: `true`, or the text; it stays in the maildrop"
    )
    code: Literal["SYS/PERM", "SYS/TEMP"] = Field(default="SYS/PERM", description="response code of `refuse`")

    @field_validator("at")
    @classmethod
    def _is_score(cls, at: float | Literal["spam"]) -> float | Literal["spam"]:
        if at != "spam" and not abs(at) <= SCORE_LIMIT:
            raise ValueError(f"{at} is no score: write a number like 5.0")
        return at

    @field_validator("tag")
    @classmethod
    def _is_tag(cls, tag: str) -> str:
        Header.check("Subject", tag)
        if tag and not tag.strip():
            raise ValueError('a tag of white space is not seen: write one like "[SPAM] "')
        if decoded(tag) != tag:
            raise ValueError("write the tag as it is to be read: it is encoded when it travels")
        if len(tag) > 76:
            raise ValueError("a tag has at most 76 characters")
        return tag

    @field_validator("replace")
    @classmethod
    def _is_notice(cls, replace: bool | str) -> bool | str:
        if isinstance(replace, str):
            check_notice(replace)
        return replace

    @field_validator("refuse")
    @classmethod
    def _is_reply(cls, refuse: bool | str) -> bool | str:
        if isinstance(refuse, str):
            if not refuse.strip() or len(refuse) > 400 or not refuse.isprintable() or not refuse.isascii():
                raise ValueError("write one line of at most 400 ASCII characters")
            if refuse.startswith("["):
                raise ValueError("a text that begins with [ is read as a response code: use code")
        return refuse

    @model_validator(mode="after")
    def _is_one_end(self) -> Action:
        if self.replace and self.refuse:
            raise ValueError("a message is replaced or refused: leave out one of them")
        if not (self.add_headers or self.tag or self.replace or self.refuse):
            raise ValueError('nothing is done here: write add_headers = true, or tag = "[SPAM] "')
        return self

    @property
    def notice(self) -> str | None:
        """The text of the notice; None when the message is not replaced."""
        return (NOTICE if self.replace is True else self.replace) if self.replace else None


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one message. ``required`` is the score from which messages are flagged, where there is one."""

    flagged: bool
    required: float | None
    tag: str = ""
    notice: str | None = None
    refusal: str | None = None
    code: Code = Code.SYS_PERM

    @property
    def whole(self) -> bool:
        """Whether something else takes the place of the message."""
        return self.notice is not None or self.refusal is not None


def decide(actions: Sequence[Action], scored: Scored) -> Decision:
    """All actions whose threshold is reached apply; of the same kind the last one does."""
    reached = [action for action in actions if _reaches(action, scored)]
    flags = [action.at for action in actions if action.add_headers and action.at != "spam"]
    last = next((action for action in reversed(reached) if action.replace or action.refuse), None)
    refusal = last.refuse if last is not None else False
    return Decision(
        flagged=any(action.add_headers for action in reached),
        required=min(flags, default=scored.required),
        tag=next((action.tag for action in reversed(reached) if action.tag), ""),
        notice=None if last is None else last.notice,
        refusal=REFUSED if refusal is True else refusal or None,
        code=Code.SYS_TEMP if last is not None and last.code == "SYS/TEMP" else Code.SYS_PERM,
    )


def _reaches(action: Action, scored: Scored) -> bool:
    return scored.spam if action.at == "spam" else scored.score >= action.at


def check_notice(text: str) -> None:
    """ValueError for a text that is no notice."""
    if not text.strip():
        raise ValueError("an empty notice: write true for the usual text")
    if len(text) > _TEXT or any(len(line) > _LINE for line in text.splitlines()):
        raise ValueError(f"a notice has at most {_TEXT} characters, and {_LINE} in a line")
    if any(not sign.isprintable() and sign not in "\r\n\t" for sign in text):
        raise ValueError("a notice is plain text, without control characters")
    fill_notice(text, dict.fromkeys(PLACES, ""))


def fill_notice(text: str, places: dict[str, str]) -> str:
    """``text`` with its placeholders filled. ValueError for one that is unknown."""
    made: list[str] = []
    try:
        for literal, name, form, conversion in Formatter().parse(text):
            if name is not None and (name not in places or form or conversion):
                raise LookupError(f"{{{name}}} is no placeholder")
            made += (literal, "" if name is None else places[name])
    except (LookupError, ValueError) as error:
        known = ", ".join(f"{{{place}}}" for place in PLACES)
        problem = error.args[0]
        raise ValueError(f"a notice knows the placeholders {known}; write {{{{ for a brace: {problem}") from error
    return "".join(made)
