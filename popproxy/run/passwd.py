"""``popproxy passwd``: makes and checks entries of users files (plugin auth_file). No password is ever in argv."""

from __future__ import annotations

import sys
from pathlib import Path

from popproxy_plugins.auth_file import schemes
from popproxy_plugins.auth_file.users import read

from popproxy.run.secret import NoSecret, ask


class PasswdError(Exception):
    """It cannot be done; the text says why and what to do."""


def make(user: str | None, scheme: str, rounds: int | None) -> str:
    """The line for ``user`` (None: only what stands behind the colon). Asks for the password. Raises PasswdError."""
    if user is not None and (
        not user or user != user.strip() or user[0] == "#" or any(c == ":" or (c < " " and c != "\t") for c in user)
    ):
        raise PasswdError(f"{user!r} cannot be a name in a users file")
    try:
        schemes.makeable(scheme)
        made = schemes.make(scheme, _asked(twice=True), rounds)
    except ImportError as error:
        raise PasswdError(
            f"{scheme} needs the library {error.name}: {schemes.EXTRA}; or write --scheme SHA512-CRYPT"
        ) from error
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
    return found.secret.proven(_asked(twice=False))


def _asked(twice: bool) -> bytes:
    try:
        return ask(sys.stdin, twice)
    except NoSecret as error:
        raise PasswdError(str(error)) from None
