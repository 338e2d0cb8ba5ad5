"""A plugin that is configured and has no hook at all: what it costs a session should be nothing."""

from __future__ import annotations

from popproxy.api import Plugin, PluginConfig


class UnsubscribedConfig(PluginConfig):
    """No options."""


class Unsubscribed(Plugin[UnsubscribedConfig]):
    """Does nothing."""
