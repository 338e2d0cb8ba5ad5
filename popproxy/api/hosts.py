"""Host names and IP addresses as text."""

from __future__ import annotations

import re
from ipaddress import ip_address

_NAME = re.compile(r"(?=.{1,253}\.?\Z)(?:(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!\Z)|\.?\Z))+\Z", re.ASCII)
_NUMERIC = re.compile(r"[\d.]+\Z")


def server_host(text: str) -> str:
    """``text`` if it is a host name, the address if it is one, without brackets. Raises ValueError.

    What a plugin reads somewhere goes through here before it becomes a ServerAddress.
    """
    bracketed = text.startswith("[") and text.endswith("]")
    try:
        return str(ip_address(text[1:-1] if bracketed else text))
    except ValueError:
        if bracketed or _NAME.match(text) is None or _NUMERIC.match(text) is not None:
            raise ValueError(f"{text[:80]!r} is no host name and no IP address") from None
        return text
