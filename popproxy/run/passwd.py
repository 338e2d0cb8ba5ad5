"""``popproxy passwd``: makes and checks entries of users files (plugin auth_file). No password is ever in argv."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TextIO

from popproxy_plugins.auth_file import schemes
from popproxy_plugins.auth_file.users import read


class PasswdError(Exception):
    """It cannot be done; the text says why and what to do."""


def make(user: str | None, scheme: str, rounds: int | None) -> str:
    """The line for ``user`` (None: only what stands behind the colon). Asks for the password. Raises PasswdError."""
    if user is not None and (
        not user or user != user.strip() or user[0] == "#" or any(c == ":" or (c < " " and c != "\t") for c in user)
    ):
        raise PasswdError(f"{user!r} cannot be a name in a users file")
    password = _asked(sys.stdin, twice=True)
    try:
        made = schemes.make(scheme, password, rounds)
    except ImportError as error:
        raise PasswdError(f"{scheme} needs the library {error.name}: {schemes.EXTRA}") from error
    except ValueError as error:
        raise PasswdError(str(error)) from error
    return made if user is None else f"{user}:{made}"


def verify(path: Path, user: str, scheme: str) -> bool:
    """Whether the password, which is asked for, is that of ``user`` in the file. Raises PasswdError."""
    try:
        found = read(path.read_bytes(), scheme=scheme).get(user)
    except ImportError as error:
        raise PasswdError(f"{path} needs the library {error.name}: {schemes.EXTRA}") from error
    except OSError as error:
        raise PasswdError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        line = getattr(error, "line", 0)
        raise PasswdError(f"{path}:{line}: {error}") from error
    if found is None:
        raise PasswdError(f"{path} has no user {user!r}")
    if found.secret is None:
        raise PasswdError(f"{path}:{found.line}: {user} has no password")
    return found.secret.proven(_asked(sys.stdin, twice=False))


def _asked(stdin: TextIO, twice: bool) -> bytes:
    """The password, from the terminal without echo or as one line of standard input."""
    if stdin.isatty():
        try:
            password = getpass.getpass("Password: ")
            if twice and getpass.getpass("Again: ") != password:
                raise PasswdError("the two are not the same")
        except EOFError:
            raise PasswdError("no password was given") from None
        return password.encode("utf-8", "surrogateescape")
    # Octets: a password need not be text.
    line = stdin.buffer.readline(1 << 16)
    return line.removesuffix(b"\n").removesuffix(b"\r")
