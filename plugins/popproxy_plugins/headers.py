r"""headers: adds, removes and rewrites header fields of retrieved messages, while they stream.

```toml
[[plugin]]
use = "headers"
rules = [
  { remove = "X-Spam-*" },
  { set = "X-Fetched-By", value = "{user} through {listener}" },
  { rewrite = "Subject", match = '^(?!\[EXT\])(.*)', with = '[EXT] \1', if_header = "X-External" },
]
```

The rules run in order on every RETR and TOP, each on what those before it left. A rule is one action:

- ``add = NAME, value = TEXT``: one more field on top of the header.
- ``set = NAME, value = TEXT``: the field gets this value; it is added when there is none.
- ``remove = NAME``: all fields of this name or glob go.
- ``rewrite = NAME, match = REGEX, with = TEMPLATE``: in every field of this name the first place that matches is
  replaced; ``\1`` and ``\g<name>`` stand for groups. What is matched is the unfolded value as it was sent, RFC 2047
  encoded-words not decoded, control characters read as spaces. Only its first 998 characters are matched, the rest
  stays behind them. A pattern that could take for ever, such as ``(a+)+$``, is refused: write ``(?>a+)+$``.

``if_header`` and ``unless_header`` (a name or a glob) make a rule wait for a field that is or is not there. In TEXT
``{user}`` is the name the client gave, ``{listener}``, ``{client}`` (its address), ``{session}`` and ``{upstream}``
speak for themselves; write ``{{`` for a brace.

Sizes: every message of a session grows by the same number of octets, which STAT and LIST announce: what ``add`` and
``set`` may add, plus ``room`` for what ``rewrite`` adds, plus 48. A field ``X-Popproxy-Padding`` makes up the
difference. A field for whose rewrite there is no room is left as it is and counted, and the other rules hold; with
``fail = "closed"`` the message is refused. A header above 256 KiB is the plugin's failure: with ``fail = "open"`` the
message passes unedited, and as large as announced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from string import Formatter

from pydantic import Field, ValidationInfo, field_validator, model_validator

from popproxy.api import (
    BodyFilter,
    Command,
    Counter,
    Fail,
    Grow,
    Header,
    HeaderFilter,
    Plugin,
    PluginConfig,
    Services,
    SessionView,
    Slot,
    bounded_pattern,
)

MATCHED = 998
"""Characters of a value that a pattern sees: one line of RFC 5322 section 2.1.1."""
JUDGED = 96
"""Characters by which patterns are judged: exponential ones are refused, two repetitions that share characters pass."""
ROOM = 256
"""Octets that one rewrite rule may add beside its template: for a value that is folded or encoded anew."""

_PLACES: dict[str, Callable[[SessionView], str | None]] = {
    "user": lambda session: session.user,
    "listener": lambda session: session.listener,
    "client": lambda session: session.client,
    "session": lambda session: session.id,
    "upstream": lambda session: session.upstream,
}
_ACTIONS = ("add", "remove", "rewrite", "set")
_NEEDS = {"add": {"value"}, "set": {"value"}, "remove": set[str](), "rewrite": {"match", "with"}}
_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")

Edit = Callable[[Header, SessionView, int], tuple[int, int]]
"""A rule on a header, in so much room: how much of the room it took, and how many fields had none."""
Part = tuple[str, str | None]


class Rule(PluginConfig):
    """One action and its conditions."""

    add: str | None = Field(default=None, description="name of a field to put on top")
    set: str | None = Field(default=None, description="name of a field to replace, or to add")
    remove: str | None = Field(default=None, description="name or glob of the fields to drop")
    rewrite: str | None = Field(default=None, description="name of the fields whose value is changed")
    value: str | None = Field(default=None, description="text of add and set, with {user} and the like")
    match: str | None = Field(default=None, description="regular expression of rewrite")
    template: str | None = Field(default=None, alias="with", description="replacement of rewrite, with \\1")
    if_header: str | None = Field(default=None, description="only when a field of this name or glob is there")
    unless_header: str | None = Field(default=None, description="only when no field of this name or glob is there")

    @field_validator("add", "set", "remove", "rewrite", "if_header", "unless_header")
    @classmethod
    def _is_name(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None:
            Header.check(name)
            if info.field_name in ("add", "set", "rewrite") and any(sign in name for sign in "*?["):
                raise ValueError(f"{name!r} is a glob; {info.field_name} needs one name, like X-Name")
        return name

    @field_validator("value")
    @classmethod
    def _is_text(cls, value: str | None) -> str | None:
        if value is not None:
            _parts(value)
            Header.check("value", value)
        return value

    @field_validator("match")
    @classmethod
    def _is_pattern(cls, match: str | None) -> str | None:
        if match is not None:
            bounded_pattern(match, JUDGED)
        return match

    @model_validator(mode="after")
    def _is_one_action(self) -> Rule:
        given = {"match": self.match, "with": self.template, "value": self.value}
        actions = [action for action in _ACTIONS if getattr(self, action) is not None]
        if len(actions) != 1:
            cure = f"found {' and '.join(actions)}: write one rule for each" if actions else "found none of them"
            raise ValueError(f"a rule is exactly one of {', '.join(_ACTIONS)}; {cure}")
        needed = _NEEDS[actions[0]]
        for key, text in given.items():
            if key in needed and text is None:
                raise ValueError(f"{actions[0]} needs {key}: write {key} = \"...\"")
            if key not in needed and text is not None:
                raise ValueError(f"{actions[0]} takes no {key}: leave it out")
        if self.match is not None and self.template is not None:
            try:
                re.compile(self.match).sub(self.template, "")
            except (re.error, IndexError) as error:
                raise ValueError(f"with = {self.template!r} does not fit match = {self.match!r}: {error}") from error
        return self


class HeadersConfig(PluginConfig):
    """The rules, in order."""

    rules: tuple[Rule, ...] = Field(
        description="what is done to the header, in this order", examples=[[{"remove": "X-Spam-*"}]]
    )
    room: int | None = Field(
        default=None,
        ge=0,
        le=1 << 20,
        description="octets that all rewrite rules together may add to a message, and that every message carries; "
        "without it 256 for each rule and the length of its `with`",
    )

    @field_validator("rules")
    @classmethod
    def _is_any(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        if not rules:
            raise ValueError('no rule: write at least one, like { remove = "X-Spam-*" }')
        return rules


class Headers(Plugin[HeadersConfig]):
    """Adds, removes and rewrites header fields of retrieved messages by rule."""

    fail = Fail.OPEN
    _closed = False
    _unfit: Counter | None = None

    def __init__(self, config: HeadersConfig) -> None:
        super().__init__(config)
        self._edits = tuple(_compile(rule) for rule in config.rules)
        self._added = tuple(
            (rule.add or rule.set or "", _parts(rule.value or "")) for rule in config.rules if rule.value is not None
        )
        templates = [rule.template or "" for rule in config.rules if rule.rewrite is not None]
        room = sum(ROOM + len(template.encode()) for template in templates) if config.room is None else config.room
        self._room = room if templates else 0
        self._growth: Slot[int | None] = Slot("growth", None)

    def start(self, services: Services) -> None:
        self._closed = services.fail is Fail.CLOSED
        self._unfit = services.metrics.counter("unfit", "Fields left as they are for want of room")[""]

    def growth(self, session: SessionView) -> int:
        """Everything the rules may add. Names and addresses of a session do not change behind its login."""
        growth = Grow.LEAST + self._room
        for name, parts in self._added:
            header = Header()
            header.add(name, _fill(parts, session))
            growth += len(bytes(header))
        self._growth.set(session, growth)
        return growth

    def open_body(self, session: SessionView, command: Command) -> BodyFilter:
        growth = self._growth.get(session)
        return _Rules(session, self, self.growth(session) if growth is None else growth)

    def edit(self, header: Header, session: SessionView) -> None:
        """All rules, the rewriting ones in what room those before them left."""
        room = self._room
        for edit in self._edits:
            added, unfit = edit(header, session, room)
            room -= added
            if unfit and self._closed:
                raise ValueError(f"{unfit} fields have no room to be rewritten: give more room")
            if unfit and self._unfit is not None:
                self._unfit.inc(unfit)


class _Rules(HeaderFilter):
    """All rules on one message."""

    __slots__ = ("_plugin", "_session")

    def __init__(self, session: SessionView, plugin: Headers, growth: int) -> None:
        super().__init__(growth=growth)
        self._session = session
        self._plugin = plugin

    def edit(self, header: Header) -> None:
        self._plugin.edit(header, self._session)

    def overflow(self, top: Header) -> None:
        raise ValueError("the header of the message is above 256 KiB")


def _compile(rule: Rule) -> Edit:
    action = _action(rule)
    wanted, unwanted = rule.if_header, rule.unless_header
    if wanted is None and unwanted is None:
        return action

    def conditional(header: Header, session: SessionView, room: int) -> tuple[int, int]:
        if (wanted is None or wanted in header) and (unwanted is None or unwanted not in header):
            return action(header, session, room)
        return 0, 0

    return conditional


def _action(rule: Rule) -> Edit:
    if rule.rewrite is not None:
        return _rewriting(rule.rewrite, _substitution(re.compile(rule.match or ""), rule.template or ""))
    parts = _parts(rule.value or "")
    added, name, removed = rule.add, rule.set, rule.remove

    def act(header: Header, session: SessionView, room: int) -> tuple[int, int]:
        if added is not None:
            header.add(added, _fill(parts, session))
        elif name is not None:
            value = _fill(parts, session)
            if not header.replace(name, value):
                header.add(name, value)
        else:
            header.remove(removed or "")
        return 0, 0

    return act


def _rewriting(name: str, change: Callable[[str], str]) -> Edit:
    def act(header: Header, session: SessionView, room: int) -> tuple[int, int]:
        wanted = 0

        def counted(value: str) -> str:
            nonlocal wanted
            new = change(value)
            wanted += new != value
            return new

        if name not in header:
            return 0, 0
        before = len(bytes(header))
        done = header.rewrite(name, counted, room)
        return (len(bytes(header)) - before if done else 0), wanted - done

    return act


def _substitution(pattern: re.Pattern[str], template: str) -> Callable[[str], str]:
    def change(value: str) -> str:
        matched = _CONTROL.sub(" ", value[:MATCHED])
        new, count = pattern.subn(template, matched, count=1)
        return _CONTROL.sub(" ", new + value[MATCHED:]) if count else value

    return change


def _parts(text: str) -> tuple[Part, ...]:
    """``text`` as literals, each with the placeholder behind it. ValueError for one that is unknown."""
    parts: list[Part] = []
    try:
        for literal, name, form, conversion in Formatter().parse(text):
            if name is not None and (name not in _PLACES or form or conversion):
                known = ", ".join(f"{{{place}}}" for place in _PLACES)
                raise LookupError(f"{{{name}}} is no placeholder; write one of {known}, or {{{{ for a brace")
            parts.append((literal, name))
    except LookupError as error:
        raise ValueError(str(error)) from error
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; write {{{{ or }}}} for a brace") from error
    return tuple(parts)


def _fill(parts: tuple[Part, ...], session: SessionView) -> str:
    """The text for this session. What a client chose cannot break a line: control characters become spaces."""
    return "".join(
        literal + (_CONTROL.sub(" ", _PLACES[name](session) or "") if name is not None else "")
        for literal, name in parts
    )
