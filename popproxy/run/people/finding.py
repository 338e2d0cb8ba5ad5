"""Which admin listener is meant: --admin, else what the config says, else the usual socket.

Only ``[admin]`` of the config is read, and without its checks: a running popproxy can be asked although the file has
become a bad one since, and an answer is quick.
"""

from __future__ import annotations

import argparse
import os
import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from popproxy.run import asked
from popproxy.run.asked import CONFIG_VARIABLE, UsageError, say
from popproxy.run.client import Client, Place

SOCKET = Path("/run/popproxy/admin.sock")
"""Where it is when nothing else is said; $RUNTIME_DIRECTORY goes before."""
PORT = "127.0.0.1:9110"
"""Where it is, too, when ``[admin]`` does not say more."""
_ADDRESS = "write unix:/run/popproxy/admin.sock, 127.0.0.1:9110 or https://mail.example.com:9110"


def client(arguments: argparse.Namespace) -> Client:
    """The client for what the command line says. Raises UsageError."""
    said = _said(arguments)
    token = _token(arguments, said)
    if arguments.admin is not None:
        return Client([_place(arguments.admin, arguments)], token)
    return Client(list(_places(said, arguments)), token)


def _said(arguments: argparse.Namespace) -> tuple[Path | None, dict[str, Any]]:
    """The config file and its ``[admin]``, nothing of it when it cannot be read."""
    named = os.environ.get(CONFIG_VARIABLE)
    path: Path | None = arguments.config or (Path(named) if named else None)
    path = path or asked.system_config()
    if path is None:
        return None, {}
    try:
        found = tomllib.loads(path.read_text("utf-8")).get("admin", {})
    except (OSError, ValueError) as error:
        if arguments.config is not None and arguments.admin is None:
            told = getattr(error, "strerror", None) or error
            raise UsageError(f"--config: {path}: {told}; write --admin to say where popproxy listens") from None
        return path, {}
    return path, found if isinstance(found, dict) else {}


def _places(said: tuple[Path | None, dict[str, Any]], arguments: argparse.Namespace) -> Iterator[Place]:
    """Where to look, in order: Unix sockets before ports, which want a token."""
    path, admin = said
    bind = admin.get("bind", PORT if admin else [])
    binds = [text for text in ([bind] if isinstance(bind, str) else bind) if isinstance(text, str)]
    if admin and not binds:
        raise UsageError(f"{path}: [admin] bind = [] says that nothing can be asked; write an address there")
    sockets = [text for text in binds if text.startswith("unix:")]
    yield from (_place(text, arguments) for text in sockets)
    if not sockets:
        # Where a popproxy listens whose config has no Unix socket. Not beside one that has: it would be another's.
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        yield Place(Path(runtime) / SOCKET.name if runtime else SOCKET)
    for text in binds:
        if text not in sockets:
            yield _place(f"https://{text}" if "cert" in admin else text, arguments)


def _place(text: str, arguments: argparse.Namespace) -> Place:
    """An address of the command line or of the config. Raises UsageError."""
    if text.startswith("/"):
        return Place(Path(text))
    if text.startswith("unix:"):
        return Place(Path(text.removeprefix("unix:")))
    url = urlsplit(text if "://" in text else f"http://{text}")
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if url.scheme not in ("http", "https") or not host or url.path not in ("", "/") or url.query or url.username:
        raise UsageError(f"--admin: {text!r} is no address of an admin listener; {_ADDRESS}")
    if port is None:
        raise UsageError(f"--admin: {text!r} has no port; {_ADDRESS}")
    # A listener on all addresses is reached by this host's own.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return Place(None, host, port, _context(arguments) if url.scheme == "https" else None)


def _context(arguments: argparse.Namespace) -> ssl.SSLContext:
    path = arguments.ca_file
    try:
        context = ssl.create_default_context(cafile=path)
        if arguments.cert is not None:
            path = arguments.cert
            # An empty password, not None: with None OpenSSL would ask on the terminal.
            context.load_cert_chain(path, password=b"")
    except OSError as error:
        parts = "the certificate and its key" if path is arguments.cert else "certificates"
        raise UsageError(f"{path}: cannot be used for https: {error}; write a PEM file with {parts}") from None
    return context


def _token(arguments: argparse.Namespace, said: tuple[Path | None, dict[str, Any]]) -> str | None:
    """The token for TCP: of --token-file, else of the config. Raises UsageError."""
    if arguments.token_file is not None:
        try:
            token = arguments.token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            told = getattr(error, "strerror", None) or error
            raise UsageError(f"--token-file: {arguments.token_file}: {told}") from None
        if not token or not token.isprintable() or not token.isascii():
            raise UsageError(f"--token-file: {arguments.token_file} has no token: write it as its only line")
        if arguments.token_file.stat().st_mode & 0o004:
            say(f"warning: --token-file: everybody on this host can read {arguments.token_file}: chmod 600")
        return str(token)
    path, admin = said
    if path is None or "token" not in admin:
        return None
    from popproxy.config.problems import Wrong
    from popproxy.config.secrets import reveal

    try:
        found = reveal(admin["token"], path.resolve().parent)
    except Wrong:
        # Not for this user's eyes; on a Unix socket nobody asks for it, and elsewhere the refusal says what to do.
        return None
    return found if isinstance(found, str) else None
