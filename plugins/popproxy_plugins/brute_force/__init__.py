"""brute_force: who guesses is held, then refused; who is attacked is not. docs/plugins/brute_force.md is its page.

One round trip before a login is tried, one more behind a failure. A user at an address where the login has succeeded
before is not touched by what others do (judge.py).
"""

from __future__ import annotations

from popproxy_plugins.brute_force.config import BruteForceConfig
from popproxy_plugins.brute_force.plugin import BruteForce

__all__ = ["BruteForce", "BruteForceConfig"]
