"""routing: sends each login to the upstream that holds its mail. docs/plugins/routing.md is its manual page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import translate
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from popproxy.api import (
    ConfigNames,
    Credentials,
    Explained,
    Fail,
    LineError,
    Plugin,
    PluginConfig,
    Problem,
    ReadableFile,
    Route,
    Services,
    SessionView,
    WatchedFile,
    bounded_pattern,
)

LONGEST = 320
"""Characters of a name that a regular expression looks at: 64 before the @, 255 behind it (RFC 5321 section 4.5.3.1).
"""

_ACTIONS = ("upstream", "map", "keep")
_CONDITIONS = ("user", "domain", "match", "routed")
_PLACES = ("user", "local", "domain")
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_BOM = b"\xef\xbb\xbf"


class Rule(PluginConfig):
    """Where the logins go for which all conditions hold. The first rule that applies decides."""

    user: tuple[str, ...] = Field(
        default=(),
        description="Condition: the name matches one of these globs (`*`, `?`, `[...]`), without case.",
        examples=[["*@archive.example.com", "old-*"]],
    )
    domain: tuple[str, ...] = Field(
        default=(),
        description="Condition: what stands behind the last `@` of the name is one of these, without case.",
        examples=[["example.org"]],
    )
    match: str | None = Field(
        default=None,
        description="Condition: a regular expression that the whole name matches. Its named groups are placeholders of "
        "`key`. Names above 320 characters match none.",
        examples=[r"(?P<shelf>[a-f])[^@]*@big\.example"],
    )
    routed: tuple[str, ...] = Field(
        default=(),
        description="Condition: a plugin in front of this one has routed the login to an upstream that matches one of "
        "these globs.",
        examples=[["legacy"], ["*"]],
    )
    upstream: str | None = Field(default=None, description="The upstream.", examples=["archive"])
    map: ReadableFile | None = Field(
        default=None,
        description="The upstream is what this file says for the name. It is read again when it changes. For a name "
        "that is not in the file the rule does not apply.",
        examples=["/etc/popproxy/routes"],
    )
    keep: Literal[True] | None = Field(
        default=None, description="The login stays where plugins in front have routed it, or at the default upstream."
    )
    key: str | None = Field(
        default=None,
        description='What `balance = "sticky"` chooses the server by, instead of the user name: a template of '
        "`{user}`, `{local}`, `{domain}` and the groups of `match`.",
        examples=["{domain}"],
    )

    @field_validator("match")
    @classmethod
    def _is_pattern(cls, match: str | None) -> str | None:
        if match is not None:
            taken = set(_PLACES) & set(bounded_pattern(match, LONGEST).groupindex)
            if taken:
                raise ValueError(f"the groups {', '.join(sorted(taken))} are placeholders already: write other names")
        return match

    @field_validator("key")
    @classmethod
    def _is_template(cls, key: str | None, info: ValidationInfo) -> str | None:
        # A match that is faulty has been named; its groups are not known.
        if key is not None and "match" in info.data:
            match: str | None = info.data["match"]
            known = (*_PLACES, *(re.compile(match).groupindex if match is not None else ()))
            for found in _PLACE.finditer(key):
                if found[0] in ("{", "}") or (found[1] is not None and found[1] not in known):
                    places = ", ".join(f"{{{place}}}" for place in known)
                    raise ValueError(f"{found[0]!r} is none of {places}: write one of them, or {{{{ for a brace")
        return key

    @model_validator(mode="after")
    def _is_one_action(self) -> Rule:
        given = [action for action in _ACTIONS if getattr(self, action) is not None]
        if len(given) != 1:
            cure = f"found {' and '.join(given)}: write one rule for each" if given else "found none of them"
            raise ValueError(f"a rule leads to exactly one of {', '.join(_ACTIONS)}; {cure}")
        return self


class RoutingConfig(PluginConfig):
    """The rules in their order, and what becomes of everybody else."""

    rules: tuple[Rule, ...] = Field(default=(), description="Rules. The first one that applies decides.")
    default: str | None = Field(
        default=None,
        description="The upstream of logins to which no rule applies and that no plugin in front has routed. Without "
        "it, the config's `default_upstream`.",
        examples=["main"],
    )

    @model_validator(mode="after")
    def _decides_something(self) -> RoutingConfig:
        if not self.rules and self.default is None:
            raise ValueError('nothing to do: write rules, like rules = [{ domain = ["a.example"], upstream = "a" }]')
        return self


class Routing(Plugin[RoutingConfig]):
    """Sends each login to the upstream that holds its mail."""

    fail = Fail.CLOSED

    def __init__(self, config: RoutingConfig) -> None:
        super().__init__(config)
        self._rules = [_Compiled(rule) for rule in config.rules]
        self._files: dict[Path, WatchedFile[Routes]] = {}
        self._upstreams: tuple[str, ...] | None = None

    def check(self, names: ConfigNames) -> Iterator[Problem]:
        self._upstreams = names.upstreams
        if self.config.default is not None:
            yield from names.upstream(("default",), self.config.default)
        for place, rule in enumerate(self.config.rules):
            if rule.upstream is not None:
                yield from names.upstream(("rules", place, "upstream"), rule.upstream)
            if rule.map is not None:
                try:
                    parse(rule.map.read_bytes(), names.upstreams)
                except LineError as error:
                    yield Problem(("rules", place, "map"), f"{rule.map}:{error.line}: {error}")
                except OSError as error:
                    yield Problem(("rules", place, "map"), f"cannot read {rule.map}: {error.strerror or error}")

    async def start(self, services: Services) -> None:
        labels = [str(number) for number in range(1, len(self._rules) + 1)]
        help = "Logins by the number of the rule that decided"
        self._counters = services.metrics.counter("logins", help, "rule", [*labels, "none"])
        for rule in self.config.rules:
            if rule.map is not None and rule.map not in self._files:
                self._files[rule.map] = await services.file(rule.map, partial(parse, upstreams=self._upstreams))

    def on_login(self, session: SessionView, credentials: Credentials) -> Route | None:
        number, route = self._decide(session.upstream, credentials.user)
        self._counters[str(number) if number else "none"].inc()
        return route

    def explain(self, session: SessionView, user: str) -> Explained:
        number, route = self._decide(session.upstream, user)
        if number:
            told = f"rule {number}: {self._rules[number - 1].label}"
        elif session.upstream is not None:
            told = "no rule applies; stays where it was routed"
        else:
            told = "no rule applies; " + ("the default" if self.config.default else "stays where it is")
        route = route or Route()
        if route.key is not None:
            told += f", by the key {route.key}"
        return Explained((told,), upstream=route.upstream, key=route.key)

    def _decide(self, routed: str | None, user: str) -> tuple[int, Route | None]:
        """The number of the rule that decides (0: none), and where it leads."""
        name = user.casefold()
        for number, rule in enumerate(self._rules, 1):
            groups = rule.applies(name, user, routed)
            if groups is None:
                continue
            if rule.map is None:
                return number, rule.route(rule.upstream, None, user, groups)
            found = self._routes(rule.map).find(name)
            if found is not None:
                return number, rule.route(*found, user, groups)
        if routed is None and self.config.default is not None:
            return 0, Route(self.config.default)
        return 0, None

    def _routes(self, path: Path) -> Routes:
        """The map of a file: the worker's, or what it holds now when no worker runs."""
        file = self._files.get(path)
        return parse(path.read_bytes(), self._upstreams) if file is None else file.value


class _Compiled:
    """A rule at work."""

    def __init__(self, rule: Rule) -> None:
        self.upstream = rule.upstream
        self.map = rule.map
        self._key = rule.key
        self._users = [_glob(user) for user in rule.user]
        self._domains = {domain.casefold() for domain in rule.domain}
        self._match = re.compile(rule.match) if rule.match is not None else None
        self._routed = [_glob(name) for name in rule.routed]
        given = [name for name in _CONDITIONS if getattr(rule, name)]
        target = f"upstream {rule.upstream}" if rule.upstream else f"as {rule.map} says" if rule.map else "stays"
        self.label = f"{' and '.join(given) or 'every login'}: {target}"

    def applies(self, name: str, user: str, routed: str | None) -> Mapping[str, str] | None:
        """The groups of ``match`` when all conditions hold for ``user``, who is ``name`` in lower case."""
        if self._users and not any(glob.match(name) for glob in self._users):
            return None
        if self._domains and ("@" not in name or name.rpartition("@")[2] not in self._domains):
            return None
        if self._routed and (routed is None or not any(glob.match(routed.casefold()) for glob in self._routed)):
            return None
        if self._match is None:
            return {}
        found = self._match.fullmatch(user) if len(user) <= LONGEST else None
        return None if found is None else found.groupdict("")

    def route(self, upstream: str | None, key: str | None, user: str, groups: Mapping[str, str]) -> Route | None:
        """Where it leads; ``key`` is what a map said. None leaves everything as it is."""
        if self._key is not None:
            local, at, domain = user.rpartition("@")
            places = {"user": user, "local": local if at else user, "domain": domain if at else "", **groups}
            key = _PLACE.sub(lambda found: found[0][0] if found[1] is None else places[found[1]], self._key).casefold()
        return None if upstream is None and key is None else Route(upstream, key=key)


class Routes:
    """A map as it stood in its file at one time: names in lower case, and the upstream and the key of each."""

    __slots__ = ("_targets",)

    def __init__(self, targets: dict[str, tuple[str, str | None]]) -> None:
        self._targets = targets

    def find(self, name: str) -> tuple[str, str | None] | None:
        """Upstream and key of ``name`` (in lower case), else of its domain, else of ``*``."""
        domain = "@" + name.rpartition("@")[2] if "@" in name else ""
        return self._targets.get(name) or self._targets.get(domain) or self._targets.get("*")


def parse(octets: bytes, upstreams: tuple[str, ...] | None) -> Routes:
    """The map in the content of a file: in each line a name, an upstream and perhaps a key, ``#`` for comments.

    ``@domain`` stands for its names that have no line of their own, ``*`` for all. Raises LineError for the first line
    that is wrong, also for an upstream that is not one of ``upstreams`` (None: not known).
    """
    targets: dict[str, tuple[str, str | None]] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(octets.removeprefix(_BOM).split(b"\n"), 1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise LineError(number, "is not UTF-8: save the file as UTF-8") from None
        if not text or text.startswith("#"):
            continue
        words = text.split()
        if not 2 <= len(words) <= 3:
            count = f"{len(words)} word{'s' if len(words) > 1 else ''}"
            raise LineError(number, f"has {count}: write a name, its upstream and perhaps a key, with spaces between")
        name, upstream = words[0].casefold(), words[1]
        if upstreams is not None and upstream not in upstreams:
            raise LineError(number, f"there is no upstream {upstream!r}: write one of: {', '.join(upstreams)}")
        if name in targets:
            raise LineError(number, f"{words[0]!r} is in line {lines[name]} already: leave one out")
        targets[name], lines[name] = (upstream, words[2].casefold() if len(words) == 3 else None), number
    return Routes(targets)


def _glob(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob.casefold()))
