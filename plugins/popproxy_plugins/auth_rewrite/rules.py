"""The rules at work: each makes another name of a name, or leaves it alone and says why."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from popproxy.api import saslprep
from popproxy_plugins.auth_rewrite.aliases import Aliases
from popproxy_plugins.auth_rewrite.config import LONGEST, Rule
from popproxy_plugins.auth_rewrite.templates import Template

_UNSAFE = re.compile(r"[\0\r\n]")

Done = tuple[str, str]
"""The name, and why it was left alone; empty when it was not."""
Change = Callable[[str], Done]


class Unfit(ValueError):
    """A name no mailbox can have. The text holds nothing of it and is fit for the log."""


class Rules:
    """The rules of one plugin, in order. ``aliases`` gives the map of a file as it is now."""

    def __init__(self, rules: Sequence[Rule], aliases: Callable[[Path], Aliases]) -> None:
        self._changes = [
            (f"rule {place}, {rule.label()}", _conditional(rule, aliases)) for place, rule in enumerate(rules, 1)
        ]

    def run(self, name: str, told: list[str] | None = None) -> str:
        """What becomes of ``name``; each step is added to ``told``. Raises Unfit."""
        for label, change in self._changes:
            if len(name) > LONGEST:
                raise Unfit(f"the user name is longer than {LONGEST} characters")
            if _UNSAFE.search(name):
                raise Unfit("the user name holds NUL, CR or LF")
            name, why = change(name)
            if told is not None:
                told.append(f"{label}: {f'left alone, {why}' if why else name}")
        if not name:
            raise Unfit("nothing is left of the user name")
        return name


def split(name: str) -> tuple[str, str | None]:
    """What stands before the last ``@``, and the domain behind it; None when there is none."""
    local, at, domain = name.rpartition("@")
    return (local, domain) if at else (name, None)


def places(name: str) -> dict[str, str | None]:
    """What ``{user}``, ``{local}`` and ``{domain}`` stand for."""
    local, domain = split(name)
    return {"user": name, "local": local, "domain": domain}


def _conditional(rule: Rule, aliases: Callable[[Path], Aliases]) -> Change:
    change = _change(rule, aliases)
    domains = {domain.casefold() for domain in rule.domain}
    pattern = rule.pattern()
    if not domains and pattern is None:
        return change

    def conditional(name: str) -> Done:
        if domains and (split(name)[1] or "").casefold() not in domains:
            return name, "another domain"
        if pattern is not None and pattern.fullmatch(name) is None:
            return name, "no match"
        return change(name)

    return conditional


def _change(rule: Rule, aliases: Callable[[Path], Aliases]) -> Change:
    if rule.trim:
        return lambda name: (name.strip(), "")
    if rule.lower is not None:
        return _lower(rule.lower)
    if rule.strip_domain is not None:
        return _strip(rule.strip_domain)
    if rule.add_domain is not None:
        added = f"@{rule.add_domain}"
        return lambda name: (name, "it has a domain") if "@" in name else (name + added, "")
    if rule.alias is not None:
        path = rule.alias
        return lambda name: _found(name, aliases(path).find(name))
    if rule.template is not None:
        return _fill(Template(rule.template, None), rule.pattern())
    return _prepare


def _lower(what: str) -> Change:
    def lower(name: str) -> Done:
        local, domain = split(name)
        if domain is None:
            return (name, "it has no domain") if what == "domain" else (name.lower(), "")
        local = local if what == "domain" else local.lower()
        return f"{local}@{domain if what == 'local' else domain.lower()}", ""

    return lower


def _strip(domains: str | Sequence[str]) -> Change:
    given = {domains} if isinstance(domains, str) else set(domains)
    stripped = None if "*" in given else {domain.casefold() for domain in given}

    def strip(name: str) -> Done:
        local, domain = split(name)
        if domain is None:
            return name, "it has no domain"
        if stripped is not None and domain.casefold() not in stripped:
            return name, "another domain"
        return local, ""

    return strip


def _found(name: str, target: str | None) -> Done:
    return (name, "it is not in the file") if target is None else (target, "")


def _fill(template: Template, pattern: re.Pattern[str] | None) -> Change:
    def fill(name: str) -> Done:
        values = places(name)
        if "domain" in template.needs and values["domain"] is None:
            return name, "it has no domain"
        found = pattern.fullmatch(name) if pattern is not None else None
        return template.fill(values if found is None else {**values, **found.groupdict()}), ""

    return fill


def _prepare(name: str) -> Done:
    try:
        return saslprep("user name", name), ""
    except ValueError as error:
        raise Unfit(str(error)) from error
