"""Plugin: the base class of every plugin, first-party or not.

Life: strict config > ``__init__`` (no side effects) > ``check`` > ``start`` > hooks > ``stop`` (also after a failed
start).
Order is the order of the ``[[plugin]]`` tables: requests run forward, replies and bodies in reverse. A hook that
a plugin does not override is never called. A hook may be ``def`` or ``async def`` except those of SYNC_ONLY, which
are ``def``; only an async one suspends the session. An exception or a missed deadline is
the plugin's failure: ``Fail.OPEN`` goes on as if it had returned None, ``Fail.CLOSED`` refuses with [SYS/TEMP].
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterable, Sequence
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict

from popproxy.api.bodies import BodyFilter
from popproxy.api.credentials import Credentials
from popproxy.api.explained import Explained
from popproxy.api.names import ConfigNames, Problem
from popproxy.api.observer import Observer
from popproxy.api.pace import Pace
from popproxy.api.services import Services
from popproxy.api.verdicts import (
    CommandVerdict,
    ConnectVerdict,
    LoginResultVerdict,
    LoginVerdict,
    MaildropVerdict,
    MessageVerdict,
    ReplyVerdict,
    VerifierVerdict,
)
from popproxy.api.views import (
    LoginResult,
    MaildropView,
    MessageView,
    ReplyView,
    SessionSummary,
    SessionView,
)
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import Command


class Fail(Enum):
    """What a plugin's failure means for the session."""

    OPEN = "open"
    CLOSED = "closed"


class PluginConfig(BaseModel):
    """Base of a plugin's options: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


C = TypeVar("C", bound=PluginConfig)

MECHANISMS: tuple[str, ...] = ("USER", "SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2", "CRAM-MD5", "APOP")
"""What ``Plugin.mechanisms`` may hold. ``USER`` stands for passwords: USER and PASS, PLAIN and LOGIN."""

SYNC_ONLY = frozenset({"unneeded", "growth", "pace", "wants_message", "open_body", "on_close"})
REVERSED = frozenset({"on_capabilities", "on_login_result", "on_reply", "open_body", "on_close"})
OPTIONAL = frozenset(
    {"growth", "pace", "on_maildrop", "on_command", "on_reply", "wants_message", "open_body", "on_message"}
)
"""What ``unneeded`` may hold: the hooks behind the login, but for on_close."""


class Plugin(Generic[C]):
    """One plugin of one worker. Subclass it as ``class Mine(Plugin[MyConfig])``."""

    fail: ClassVar[Fail] = Fail.OPEN
    """What a failure means unless the operator says otherwise."""
    config_model: ClassVar[type[PluginConfig]] = PluginConfig
    skips: frozenset[str] = frozenset()
    """Hooks that the class overrides and this instance, with its options, does not need: they are not called and cost
    nothing. Set it in ``__init__``."""
    mechanisms: frozenset[str] = frozenset()
    """What this plugin makes possible for clients, of MECHANISMS: set it on the class or, when the config decides, on
    the instance. It is read whenever a greeting or a list of mechanisms is made. Passwords and tokens appear without
    it where an upstream takes them."""

    remembers: bool = False
    """Whether it keeps in ``services.store`` what all workers have to know. With several workers and a store in memory
    ``popproxy check`` warns about it: each worker then knows its own part only. Set it on the class or in
    ``__init__``."""

    def __init__(self, config: C) -> None:
        self.config = config

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            origin, arguments = get_origin(base), get_args(base)
            if isinstance(origin, type) and issubclass(origin, Plugin) and isinstance(arguments[0], type):
                cls.config_model = arguments[0]
        _check_hooks(cls)

    def check(self, names: ConfigNames) -> Iterable[Problem]:
        """What does not fit the rest of the config, for ``popproxy check`` and at start. Plain ``def``, no side
        effects; called once, when the options are valid by themselves."""
        return ()

    def start(self, services: Services) -> Awaitable[None] | None:
        """Called once per worker before the first session. May be ``async def``. Raise to refuse to start.

        A reload makes another plugin of the new config and starts it while this one still has sessions; when that one
        refuses, the reload changes nothing."""

    def stop(self) -> Awaitable[None] | None:
        """Called once when the worker ends, or a reload has put another config in force and the last session of this
        one is over; also after a failed start. May be ``async def``."""

    def on_connect(self, session: SessionView) -> ConnectVerdict | Awaitable[ConnectVerdict]:
        """A client is connected, PROXY header and implicit TLS are known; the greeting is not sent yet. Called again
        when a trusted proxy says by XCLIENT who the client really is."""

    def on_capabilities(
        self, session: SessionView, capabilities: Capabilities
    ) -> Capabilities | None | Awaitable[Capabilities | None]:
        """A capability list is about to be shown; return another one to show that."""

    def on_verifier(
        self, session: SessionView, user: str, mechanism: str
    ) -> VerifierVerdict | Awaitable[VerifierVerdict]:
        """A client began SCRAM (``mechanism``) as ``user``, exactly as it wrote the name. The first Verifier counts.

        When nobody gives one, the exchange goes on with a fake one and fails as a wrong password would. A client that
        proved itself reaches on_login as Verified.
        """

    def on_login(self, session: SessionView, credentials: Credentials) -> LoginVerdict | Awaitable[LoginVerdict]:
        """The credentials are complete, whatever the mechanism; no upstream was contacted for them yet.

        Called again for the next attempt of the same session; an earlier one came to nothing then, whatever its result
        was when this plugin heard of it."""

    def on_login_result(
        self, session: SessionView, result: LoginResult
    ) -> LoginResultVerdict | Awaitable[LoginResultVerdict]:
        """The attempt has ended: the upstream has answered, or a plugin or the proxy refused it.

        Called once for each attempt that reached on_login, and for those that ended before it because on_verifier
        refused or a proof was wrong; not for a client that goes away meanwhile: then on_close is all. What is taken at
        on_login is given back here, at the next on_login or in on_close.

        An Answer replaces the text; it cannot turn a failure into a success. A Refuse makes a failure of a success: the
        connection upstream is closed without QUIT, and the plugins that are called later (those in front of this one)
        get the new result, while those behind it have heard that all was well. For an attempt that has failed a Refuse
        replaces the text and may add ``delay`` and ``close``; code, reason and how it is counted stay. The longest
        delay counts."""

    def unneeded(self, session: SessionView) -> frozenset[str]:
        """Names of hooks, of OPTIONAL, that this plugin does not need for this session; asked once, behind the login.

        They are not called and cost nothing, as with ``skips``: octets that nobody looks at pass as fast as without
        plugins. The answer holds until the session ends."""
        return frozenset()

    def growth(self, session: SessionView) -> int:
        """By how many octets this plugin makes every message of the session longer; asked once, behind the login.

        STAT, LIST and RETR then say so without a listing of the maildrop. See Grow for what it binds the plugin to."""
        return 0

    def pace(self, session: SessionView) -> Sequence[Pace]:
        """How fast octets may go to the client; asked once, behind the login. Of several the slowest counts.

        A Pace that several sessions get is shared by them. While a session has to wait, nothing is read from its
        upstream, its further commands wait, and no time-out runs."""
        return ()

    def on_maildrop(
        self, session: SessionView, maildrop: MaildropView
    ) -> MaildropVerdict | Awaitable[MaildropVerdict]:
        """Before the first command that needs message numbers. Costs a LIST and a UIDL upstream."""

    def on_command(self, session: SessionView, command: Command) -> CommandVerdict | Awaitable[CommandVerdict]:
        """A legal command of the TRANSACTION state. QUIT is shown, too, but only Hangup may stop it."""

    def on_reply(
        self, session: SessionView, command: Command, reply: ReplyView
    ) -> ReplyVerdict | Awaitable[ReplyVerdict]:
        """A status line came from upstream and nothing of it has been sent yet."""

    def wants_message(self, session: SessionView, command: Command) -> bool:
        """RETR or TOP was answered ``+OK``: whether on_message is to be called, for which the message is spooled."""
        return True

    def open_body(self, session: SessionView, command: Command) -> BodyFilter | None:
        """RETR or TOP was answered ``+OK``; return a filter for the message that follows."""

    def on_message(
        self, session: SessionView, command: Command, message: MessageView
    ) -> MessageVerdict | Awaitable[MessageVerdict]:
        """The whole message of RETR or TOP is spooled and nothing of it has been sent yet."""

    def on_close(self, session: SessionView, summary: SessionSummary) -> None:
        """The session is over; totals are final."""

    def observe(self, session: SessionView) -> Observer | None:
        """A session begins, before on_connect: return an Observer to be told what it does, as the metrics are.

        No hook, and no part in any decision. Plain ``def``, called once per session, a few microseconds at most; a
        plugin whose ``when`` asks for users or domains is not called. What it raises is logged as ``plugin_error``.
        """
        return None

    def explain(self, session: SessionView, user: str) -> Explained | None:
        """What on_login would do for ``user``, for ``popproxy explain``; None when nothing.

        No hook: called on a plugin that was made and never started, without services and without a loop; it may read
        files and must not use the network. ``session.user`` is the name the client gave, ``user`` what the plugins
        before this one made of it, ``session.upstream`` where one of them routed the login (None: nowhere yet),
        ``session.groups`` what they or ``--group`` say. ``session.began`` is now: the time that ``--at`` says.
        ``session.mechanism`` is None unless ``--mechanism`` says it.
        """


HOOKS: tuple[str, ...] = (
    "on_connect",
    "on_capabilities",
    "on_verifier",
    "on_login",
    "on_login_result",
    "unneeded",
    "growth",
    "pace",
    "on_maildrop",
    "on_command",
    "on_reply",
    "wants_message",
    "open_body",
    "on_message",
    "on_close",
)


def overrides(cls: type[Plugin[Any]], hook: str) -> bool:
    """Whether ``cls`` subscribes to ``hook``."""
    return getattr(cls, hook) is not getattr(Plugin, hook)


def subscribes(plugin: Plugin[Any], hook: str) -> bool:
    """Whether ``hook`` of this instance is called."""
    return overrides(type(plugin), hook) and hook not in plugin.skips


def is_async(cls: type[Plugin[Any]], hook: str) -> bool:
    """Whether the hook of ``cls`` is an ``async def``."""
    return inspect.iscoroutinefunction(getattr(cls, hook))


def _check_hooks(cls: type[Plugin[Any]]) -> None:
    """Refuse a misspelt hook, a wrong signature and a forbidden ``async def`` when the class is made."""
    for name, member in vars(cls).items():
        if name in HOOKS or name in ("check", "start", "stop", "observe", "explain"):
            wanted = [p.name for p in inspect.signature(getattr(Plugin, name)).parameters.values()]
            if not callable(member):
                raise TypeError(f"{cls.__name__}.{name} must be a method")
            given = [p.name for p in inspect.signature(member).parameters.values()]
            if given != wanted:
                raise TypeError(
                    f"{cls.__name__}.{name} takes ({', '.join(given)}); write ({', '.join(wanted)})"
                )
            if name in SYNC_ONLY and inspect.iscoroutinefunction(member):
                raise TypeError(f"{cls.__name__}.{name} must be a plain def: it is called for every message")
            if name == "observe" and inspect.iscoroutinefunction(member):
                raise TypeError(f"{cls.__name__}.observe must be a plain def: a session does not wait for it")
            if name in ("check", "explain") and inspect.iscoroutinefunction(member):
                raise TypeError(f"{cls.__name__}.{name} must be a plain def: no loop runs while it is called")
        elif name.startswith(("on_", "open_", "wants_")) and callable(member):
            raise TypeError(f"{cls.__name__}.{name} is no hook; the hooks are: {', '.join(HOOKS)}")
