"""FLOOR 1: the only thing a plugin imports. ``plugins/README.md`` is the author's guide."""

from popproxy.api.bodies import BodyFilter, HeaderFilter
from popproxy.api.credentials import Bearer, Credentials, Digest, External, Password, Verified
from popproxy.api.explained import Explained
from popproxy.api.header import Header
from popproxy.api.names import ConfigNames, Problem
from popproxy.api.options import ReadableFile
from popproxy.api.patterns import bounded_pattern
from popproxy.api.plugin import Fail, Plugin, PluginConfig
from popproxy.api.services import Clock, Counter, Log, Metrics, Resolver, Services
from popproxy.api.verdicts import (
    Answer,
    CommandVerdict,
    ConnectVerdict,
    Edit,
    Grow,
    Hangup,
    Hide,
    LoginResultVerdict,
    LoginVerdict,
    MaildropVerdict,
    MessageVerdict,
    Refuse,
    Rename,
    Replace,
    ReplyVerdict,
    Rewrite,
    Route,
    ServerAddress,
    Sizes,
    Verdict,
    VerifierVerdict,
)
from popproxy.api.views import (
    LoginResult,
    MaildropEntry,
    MaildropView,
    MessageView,
    ReplyView,
    SessionSummary,
    SessionView,
    Slot,
    TlsView,
)
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import Command, parse
from popproxy.wire.errors import Code
from popproxy.wire.sasl import Verifier

__all__ = [
    "Answer",
    "Bearer",
    "BodyFilter",
    "Capabilities",
    "Clock",
    "Code",
    "Command",
    "CommandVerdict",
    "ConfigNames",
    "ConnectVerdict",
    "Counter",
    "Credentials",
    "Digest",
    "Edit",
    "Explained",
    "External",
    "Fail",
    "Grow",
    "Hangup",
    "Header",
    "HeaderFilter",
    "Hide",
    "Log",
    "LoginResult",
    "LoginResultVerdict",
    "LoginVerdict",
    "MaildropEntry",
    "MaildropVerdict",
    "MaildropView",
    "MessageVerdict",
    "MessageView",
    "Metrics",
    "Password",
    "Plugin",
    "PluginConfig",
    "Problem",
    "ReadableFile",
    "Refuse",
    "Rename",
    "Replace",
    "ReplyVerdict",
    "ReplyView",
    "Resolver",
    "Rewrite",
    "Route",
    "ServerAddress",
    "Services",
    "SessionSummary",
    "SessionView",
    "Sizes",
    "Slot",
    "TlsView",
    "Verdict",
    "Verified",
    "Verifier",
    "VerifierVerdict",
    "bounded_pattern",
    "parse",
]
