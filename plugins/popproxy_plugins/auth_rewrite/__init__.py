"""auth_rewrite: makes other user names of those that clients give, and other passwords where the proxy knows better.

docs/plugins/auth_rewrite.md is its manual page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from popproxy.api import (
    Bearer,
    Code,
    ConfigNames,
    Credentials,
    Digest,
    Explained,
    External,
    Fail,
    LineError,
    Password,
    Plugin,
    Problem,
    Refuse,
    Rename,
    Route,
    Services,
    SessionView,
    Verified,
    WatchedFile,
)
from popproxy_plugins.auth_rewrite.aliases import Aliases, parse
from popproxy_plugins.auth_rewrite.config import AUTHZID, PLACES, AuthRewriteConfig
from popproxy_plugins.auth_rewrite.rules import Rules, Unfit, places
from popproxy_plugins.auth_rewrite.templates import Template

__all__ = ["AuthRewrite", "AuthRewriteConfig"]

_KINDS: dict[type[Credentials], str] = {
    Verified: "verified",
    External: "external",
    Password: "password",
    Bearer: "bearer",
    Digest: "digest",
}


@dataclass(frozen=True, slots=True)
class _Name:
    """A name behind the rules. ``prefix`` and ``suffix`` are what the client wrote around it and is kept."""

    prefix: str
    middle: str
    suffix: str

    @property
    def whole(self) -> str:
        return self.prefix + self.middle + self.suffix


class AuthRewrite(Plugin[AuthRewriteConfig]):
    """Rewrites user names by rule, and passwords for upstreams that trust the proxy."""

    fail = Fail.CLOSED

    def __init__(self, config: AuthRewriteConfig) -> None:
        super().__init__(config)
        self._rules = Rules(config.rules, self._aliases)
        self._files: dict[Path, WatchedFile[Aliases]] = {}
        self._password = _password(config)
        self._form = None if config.master_form == AUTHZID else Template(config.master_form, None)

    def check(self, names: ConfigNames) -> Iterator[Problem]:
        for place, rule in enumerate(self.config.rules):
            if rule.alias is not None:
                try:
                    parse(rule.alias.read_bytes())
                except LineError as error:
                    yield Problem(("rules", place, "alias"), f"{rule.alias}:{error.line}: {error}")
                except OSError as error:
                    yield Problem(("rules", place, "alias"), f"cannot read {rule.alias}: {error.strerror or error}")

    async def start(self, services: Services) -> None:
        for rule in self.config.rules:
            if rule.alias is not None and rule.alias not in self._files:
                self._files[rule.alias] = await services.file(rule.alias, parse)

    def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Rename | Refuse | None:
        try:
            name = self._name(user).whole
        except Unfit as unfit:
            return _refused(unfit)
        return None if name == user else Rename(name)

    def on_login(self, session: SessionView, credentials: Credentials) -> Route | Refuse | None:
        try:
            changed = self._changed(credentials)
        except Unfit as unfit:
            return _refused(unfit)
        if isinstance(changed, Refuse):
            return changed
        return None if changed == credentials else Route(credentials=changed)

    def explain(self, session: SessionView, user: str) -> Explained:
        told: list[str] = []
        try:
            name = self._name(user, told)
            replaced = self._replaced(name, "") if self._password is not None and not name.suffix else None
        except Unfit as unfit:
            return Explained((*told, f"refused: {unfit}"), refused=True)
        if isinstance(replaced, Password):
            as_whom = f", with the authorization identity {replaced.authzid}" if replaced.authzid else ""
            kinds = ", ".join(self.config.password_for)
            told.append(f"credentials of the kinds {kinds}: as {replaced.user}{as_whom}, with the config's password")
            if "password" in self.config.password_for:
                return Explained(tuple(told), user=replaced.user)
        return Explained(tuple(told), user=name.whole)

    def _changed(self, credentials: Credentials) -> Credentials | Refuse:
        authzid = "" if isinstance(credentials, External | Digest) else credentials.authzid
        as_whom = self._name(authzid).whole if authzid else ""
        if isinstance(credentials, Bearer) and not credentials.user:
            # The token says itself whose it is.
            return replace(credentials, authzid=as_whom)
        name = self._name(credentials.user)
        if _KINDS[type(credentials)] in self.config.password_for and not name.suffix:
            replaced = self._replaced(name, as_whom)
            if replaced is not None:
                return replaced
        if isinstance(credentials, External | Digest):
            return replace(credentials, user=name.whole)
        return replace(credentials, user=name.whole, authzid=as_whom)

    def _replaced(self, name: _Name, authzid: str) -> Password | Refuse | None:
        """What logs in upstream when the proxy brings the password; None when it does not. Raises Unfit."""
        if self._password is None:
            return None
        password = self._password.fill(places(name.middle)).encode("utf-8", "surrogateescape")
        master = self.config.master
        if master is None:
            return Password(name.whole, password, authzid)
        if authzid not in ("", name.whole):
            return Refuse("Authorization identity not accepted", reason="a master user logs in as one user only")
        if self._form is None:
            return Password(master, password, name.whole)
        if any(literal in name.middle for literal in self._form.literals):
            raise Unfit("the user name holds what separates it from the master user")
        return Password(name.prefix + self._form.fill({"user": name.middle, "master": master}), password)

    def _name(self, user: str, told: list[str] | None = None) -> _Name:
        """``user`` behind the rules. Raises Unfit."""
        if any("\ud800" <= char <= "\udfff" for char in user):
            if self.config.not_utf8 == "refuse":
                raise Unfit(NOT_UTF8)
            return _Name("", user, "")
        prefix, suffix = "", ""
        for kept in self.config.keep_prefixes:
            if user[: len(kept)].casefold() == kept.casefold():
                prefix, user = user[: len(kept)], user[len(kept) :]
                break
        if self.config.client_master is not None:
            user, separator, master = user.partition(self.config.client_master)
            suffix = separator + master
        for kept in (prefix, suffix):
            if told is not None and kept:
                told.append(f"kept aside: {kept}")
        return _Name(prefix, self._rules.run(user, told), suffix)

    def _aliases(self, path: Path) -> Aliases:
        """The map of a file: the worker's, or what it holds now when no worker runs."""
        file = self._files.get(path)
        return parse(path.read_bytes()) if file is None else file.value


NOT_UTF8 = "the user name is not UTF-8"


def _refused(unfit: Unfit) -> Refuse:
    """RFC 4616 section 2: a name that cannot be prepared is one that does not verify; RFC 3206 calls it [AUTH]."""
    reason = str(unfit)
    return Refuse("The user name is not UTF-8" if reason == NOT_UTF8 else "Authentication failed", Code.AUTH, reason)


def _password(config: AuthRewriteConfig) -> Template | None:
    if config.password is not None:
        text = config.password.get_secret_value()
        return Template(text.replace("{", "{{").replace("}", "}}"), ())
    if config.password_template is not None:
        return Template(config.password_template.get_secret_value(), PLACES)
    return None
