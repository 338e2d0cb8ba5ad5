"""What questions carry: arguments that are what they should be, and the words for those that are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from popproxy.net.desk import BadQuestion

LONGEST = 320
"""Characters of any word in a question: a user name of 255, and room for its domain."""


def word(arguments: Mapping[str, Any], name: str) -> str | None:
    """A string that is not empty, or None when it is not there. Raises BadQuestion."""
    value = arguments.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST:
        raise BadQuestion(400, f"{name}: write a string of 1 to {LONGEST} characters")
    return value


def needed(arguments: Mapping[str, Any], name: str) -> str:
    """A string that must be there. Raises BadQuestion."""
    value = word(arguments, name)
    if value is None:
        raise BadQuestion(400, f"{name} is missing: write a string")
    return value


def choice(arguments: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    """One of ``choices``, or None when it is not there. Raises BadQuestion."""
    value = arguments.get(name)
    if value is not None and value not in choices:
        raise BadQuestion(400, f"{name}: write one of: {', '.join(choices)}")
    return None if value is None else str(value)


def truth(arguments: Mapping[str, Any], name: str) -> bool | None:
    """A boolean, or None when it is not there. Raises BadQuestion."""
    value = arguments.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadQuestion(400, f"{name}: write true or false")
    return value


def number(arguments: Mapping[str, Any], name: str, default: int, most: int) -> int:
    """A whole number from 1 to ``most``; ``default`` when it is not there. Raises BadQuestion."""
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise BadQuestion(400, f"{name}: write a number from 1 to {most}")
    return value


def matches_user(pattern: str) -> Callable[[str | None], bool]:
    """Whether a user name is ``pattern``, which may be a glob. Without case, as ``when`` compares them."""
    compiled = re.compile(translate(pattern.casefold()))
    return lambda name: name is not None and compiled.match(name.casefold()) is not None


def matches_address(text: str) -> Callable[[str], bool]:
    """Whether an address is ``text``, or in the network that it is; ``unix`` is that of Unix sockets. Raises
    BadQuestion."""
    if text == "unix":
        return lambda client: client == "unix"
    try:
        network: IPv4Network | IPv6Network = ip_network(text, strict=False)
    except ValueError:
        wrong = f"ip: {text[:60]!r} is no address and no network; write 192.0.2.7 or 192.0.2.0/24"
        raise BadQuestion(400, wrong) from None
    if network.num_addresses == 1:
        alone = str(network.network_address)
        return lambda client: client == alone

    def inside(client: str) -> bool:
        try:
            return ip_address(client) in network
        except ValueError:
            # That of a Unix socket, or what a plugin wrote into the view.
            return False

    return inside
