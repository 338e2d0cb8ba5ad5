"""Passwords that people type: from the terminal, or as the first line of standard input; never from argv."""

from __future__ import annotations

import getpass
from typing import TextIO

_LONGEST = 1 << 16


class NoSecret(Exception):
    """No password was given; the text says why."""


def ask(stdin: TextIO, twice: bool) -> bytes:
    """The password, from the terminal without echo (``twice``: and again, to be sure) or as one line of standard
    input. Raises NoSecret."""
    if stdin.isatty():
        try:
            password = getpass.getpass("Password: ")
            if twice and getpass.getpass("Again: ") != password:
                raise NoSecret("the two are not the same")
        except EOFError:
            raise NoSecret("no password was given") from None
        return password.encode("utf-8", "surrogateescape")
    # Octets: a password need not be text.
    line = stdin.buffer.readline(_LONGEST)
    return line.removesuffix(b"\n").removesuffix(b"\r")
