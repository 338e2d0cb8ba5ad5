"""The options of auth_rewrite."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from popproxy.api import PluginConfig, ReadableFile, bounded_pattern
from popproxy_plugins.auth_rewrite.templates import Template

LONGEST = 320
"""Characters of a name: 64 before the @ and 255 behind it (RFC 5321 section 4.5.3.1)."""

PLACES = ("user", "local", "domain")
ACTIONS = ("trim", "lower", "strip_domain", "add_domain", "alias", "template", "saslprep")
AUTHZID = "authzid"
"""The master form that is no template."""

Kind = Literal["verified", "external", "password", "bearer", "digest"]


class Rule(PluginConfig):
    """One change, and the conditions under which it is made."""

    trim: Literal[True] | None = Field(default=None, description="Takes white space off both ends.", examples=[True])
    lower: Literal["all", "local", "domain"] | None = Field(
        default=None, description="Lower-cases the whole name, what stands before its last `@`, or its domain."
    )
    strip_domain: str | tuple[str, ...] | None = Field(
        default=None,
        description="Takes the domain off when it is this one, one of these, or any (`*`).",
        examples=["old.example.com", ["a.example", "b.example"], "*"],
    )
    add_domain: str | None = Field(
        default=None, description="Adds this domain to a name without one.", examples=["example.com"]
    )
    alias: ReadableFile | None = Field(
        default=None,
        description="Replaces the name as this file says. It is read again when it changes.",
        examples=["/etc/popproxy/aliases"],
    )
    saslprep: Literal[True] | None = Field(
        default=None,
        description="Prepares the name by SASLprep (RFC 4013); a name that cannot be is refused.",
        examples=[True],
    )
    match: str | None = Field(
        default=None,
        description="Condition: a regular expression that the whole name matches. Its named groups are placeholders of "
        "`template`.",
        examples=[r"(?P<first>[^.@]+)\.(?P<last>[^@]+)@old\.example"],
    )
    domain: tuple[str, ...] = Field(
        default=(), description="Condition: the name has one of these domains.", examples=[["old.example.com"]]
    )
    template: str | None = Field(
        default=None,
        description="Makes a new name of `{user}` (the name so far), `{local}`, `{domain}` and the groups of `match`. "
        "With `{domain}` in it, names without a domain are left alone.",
        examples=["{local}%{domain}", "{domain}!{local}", "{last}@new.example"],
    )

    @field_validator("strip_domain", "add_domain", "domain")
    @classmethod
    def _is_domain(cls, value: str | tuple[str, ...] | None, info: ValidationInfo) -> str | tuple[str, ...] | None:
        for domain in (value,) if isinstance(value, str) else value or ():
            any_domain = domain == "*" and info.field_name == "strip_domain"
            if not any_domain and re.fullmatch(r"[^\s@*\0]+", domain) is None:
                raise ValueError(f"{domain!r} is no domain: write it like example.com, without @")
        if info.field_name == "strip_domain" and value == ():
            raise ValueError('no domain: write one, or "*" for any')
        return value

    @field_validator("match")
    @classmethod
    def _is_pattern(cls, match: str | None) -> str | None:
        if match is not None:
            taken = set(PLACES) & set(bounded_pattern(match, LONGEST).groupindex)
            if taken:
                raise ValueError(f"the groups {', '.join(sorted(taken))} are placeholders already: write other names")
        return match

    @field_validator("template")
    @classmethod
    def _is_template(cls, template: str | None, info: ValidationInfo) -> str | None:
        if template is not None:
            match: str | None = info.data.get("match")
            groups = tuple(re.compile(match).groupindex) if match is not None else ()
            # A match that is faulty has been named; its groups are not known.
            Template(template, (*PLACES, *groups) if "match" in info.data else None)
        return template

    @model_validator(mode="after")
    def _is_one_action(self) -> Rule:
        given = [action for action in ACTIONS if getattr(self, action) is not None]
        if len(given) != 1:
            cure = f"found {' and '.join(given)}: write one rule for each" if given else "found none of them"
            raise ValueError(f"a rule is exactly one of {', '.join(ACTIONS)}; {cure}")
        return self

    def pattern(self) -> re.Pattern[str] | None:
        """``match`` compiled."""
        return None if self.match is None else re.compile(self.match)

    def label(self) -> str:
        """Its action as it is written."""
        action = next(action for action in ACTIONS if getattr(self, action) is not None)
        value = getattr(self, action)
        shown = str(value) if isinstance(value, Path) else value
        return f"{action} = {json.dumps(shown, ensure_ascii=False)}"


class AuthRewriteConfig(PluginConfig):
    """The rules, in order, and what becomes of the secret."""

    rules: tuple[Rule, ...] = Field(
        default=(), description="Changes of the user name, in this order, each on what those before it left."
    )
    keep_prefixes: tuple[str, ...] = Field(
        default=(),
        description="Prefixes that are taken off before the rules and put back behind them, whatever their case.",
        examples=[["recent:"]],
    )
    client_master: str | None = Field(
        default=None,
        description="What separates a user from a master user in names that clients give (`joe*support`): it and what "
        "stands behind it are taken off before the rules and put back behind them. Without it, such names are like any "
        "other.",
        examples=["*"],
        min_length=1,
    )
    not_utf8: Literal["refuse", "pass"] = Field(
        default="refuse",
        description="What becomes of a name that is not UTF-8: refused as bad credentials, or left alone by all rules.",
    )
    password: SecretStr | None = Field(
        default=None,
        description="Password for the upstream instead of the client's. Read what `password_for` says.",
        examples=[{"file": "/etc/popproxy/master.pass"}],
    )
    password_template: SecretStr | None = Field(
        default=None,
        description="As `password`, with `{user}`, `{local}` and `{domain}` of the name the rules made.",
        examples=[{"env": "POPPROXY_PASSWORD_TEMPLATE"}],
    )
    password_for: tuple[Kind, ...] = Field(
        default=("verified", "external"),
        description="Which credentials get `password` and `master`. `verified` (SCRAM) and `external` (certificate) "
        "were proven at the proxy. The others were not: name them only behind a plugin that checks them, or whoever "
        "connects opens every mailbox.",
        examples=[["verified", "password"]],
    )
    master: str | None = Field(
        default=None,
        description="Master user whose password `password` is: the login upstream has the form `master_form`.",
        examples=["popproxy"],
        min_length=1,
    )
    master_form: str = Field(
        default="{user}*{master}",
        description='How a master user logs in as somebody, or `"authzid"`: as itself, with the user as authorization '
        "identity of SASL PLAIN. A name that holds what stands between the places is refused.",
        examples=["{user}*{master}", "authzid"],
    )

    @field_validator("keep_prefixes")
    @classmethod
    def _is_prefix(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        if "" in prefixes:
            raise ValueError('an empty prefix: write one like "recent:"')
        return prefixes

    @field_validator("password", "password_template")
    @classmethod
    def _is_secret(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is not None:
            text = secret.get_secret_value()
            if not text or re.search(r"[\0\r\n]", text):
                raise ValueError("is empty, or holds NUL, CR or LF: write one line of text")
            if info.field_name == "password_template":
                _secret_template(text)
        return secret

    @field_validator("master_form")
    @classmethod
    def _is_form(cls, form: str) -> str:
        if form != AUTHZID and len(Template(form, ("user", "master")).needs) != 2:
            raise ValueError('needs {user} and {master}: write "{user}*{master}", or "authzid"')
        return form

    @model_validator(mode="after")
    def _is_whole(self) -> AuthRewriteConfig:
        secrets = [name for name in ("password", "password_template") if getattr(self, name) is not None]
        if len(secrets) == 2:
            raise ValueError("password and password_template exclude one another: write one of them")
        if self.master is not None and not secrets:
            raise ValueError("master needs its password: write password = { file = \"...\" }")
        for name, needed in (("password_for", secrets), ("master_form", self.master)):
            if name in self.model_fields_set and not needed:
                wanted = "password" if name == "password_for" else "master"
                raise ValueError(f"{name} does nothing without {wanted}: write {wanted}, or leave it out")
        if not self.rules and not secrets:
            raise ValueError('nothing to do: write rules, like rules = [{ lower = "all" }], or a password')
        return self


def _secret_template(text: str) -> Template:
    """Never with the text in the error."""
    try:
        return Template(text, PLACES)
    except ValueError:
        known = ", ".join(f"{{{place}}}" for place in PLACES)
        raise ValueError(f"has a place that is none of {known}: write one of them, or {{{{ for a brace") from None
