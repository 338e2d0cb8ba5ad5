"""spam: scores messages with rspamd or SpamAssassin, or by what the upstream wrote, and tags, replaces or refuses them.

docs/plugins/spam.md is its manual page.
"""

from popproxy_plugins.spam.config import SpamConfig
from popproxy_plugins.spam.plugin import Spam

__all__ = ["Spam", "SpamConfig"]
