"""``python -m popproxy.sample --port 1101 alice:secret``: the sample mailbox alone, a mail server to try things with.

It speaks in the clear on 127.0.0.1 until Ctrl-C. Each user has a copy of the sample letters, and deletes from it alone;
nothing is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from popproxy.sample import SampleServer, write_sample


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM. SystemExit (2) when the arguments, or the port, cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m popproxy.sample", description="A small POP3 server to try with.")
    parser.add_argument("users", nargs="+", metavar="USER:PASSWORD", type=_user, help="who may log in, and how")
    parser.add_argument("--port", metavar="N", type=int, default=0, help="on 127.0.0.1 (default: a free one)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="popproxy-sample-") as name, contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(_serve(dict(given.users), given.port, Path(name)))
        except (OSError, OverflowError) as error:
            parser.error(f"cannot listen on 127.0.0.1:{given.port}: {error}; write another --port")


def _user(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError(f"{text!r} is no user; write USER:PASSWORD, like alice:secret")
    return user, password


async def _serve(passwords: dict[str, str], port: int, root: Path) -> None:
    maildirs = {user: root / str(number) for number, user in enumerate(passwords)}
    for maildir in maildirs.values():
        write_sample(maildir)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with SampleServer(maildirs, passwords, port=port) as server:
        print(f"a sample mail server at 127.0.0.1:{server.port} for {', '.join(passwords)}", flush=True)
        await ended.wait()


if __name__ == "__main__":
    main()
