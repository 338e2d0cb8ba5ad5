"""policy: what a session may do, by user, group, network and time. docs/plugins/policy.md is its manual page."""

from popproxy_plugins.policy.config import PolicyConfig
from popproxy_plugins.policy.plugin import Policy

__all__ = ["Policy", "PolicyConfig"]
