"""How many Python calls a login, a NOOP and a message cost in the proxy: at most so many, whatever the machine does.

A call is the unit in which this proxy's CPU is spent, and unlike seconds it is the same on a busy machine. Who makes
something dearer hears of it here; who makes something cheaper lowers the ceiling, to what is measured and one in fifty
more. ``python -m pytest -rP tests/net/test_calls.py`` shows which functions were called how often.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tests.net.running import PASSWORD, USER, Proxy, Setup, running
from tests.net.upstream import Gone, Peer, Upstream

LOGIN = 365
"""From the connect to the end of a session that logs in by USER and PASS, and says QUIT."""
NOOP = 16
"""A NOOP behind the reply to the one before."""
MESSAGE = 35
"""A RETR and a DELE, each behind the reply to the one before; the message comes in one piece."""

BATCHES, TIMES = 3, 20
_BODY = b"+OK 2000 octets\r\n" + b"A line of a message, of as many octets as it needs.\r\n" * 37 + b".\r\n"


class Calls:
    """Counts calls of Python functions in the thread in which it is switched on, while ``counts`` is not None."""

    def __init__(self) -> None:
        self.counts: Counter[str] | None = None

    async def begin(self) -> None:
        """In the thread that is meant."""
        sys.setprofile(self._seen)

    async def end(self) -> None:
        """In the same thread."""
        sys.setprofile(None)

    def _seen(self, frame: FrameType, event: str, _: Any) -> None:
        counts = self.counts
        if event == "call" and counts is not None:
            code = frame.f_code
            counts[f"{'/'.join(code.co_filename.rsplit('/', 2)[-2:])} {code.co_qualname}"] += 1

    def least(self, work: Callable[[], None]) -> float:
        """Calls that ``work`` costs, in the best of some batches: what else goes on in the thread only adds to it."""
        best = Counter[str]()
        work()
        for _ in range(BATCHES):
            self.counts = Counter()
            for _ in range(TIMES):
                work()
            counts, self.counts = self.counts, None
            if not best or counts.total() < best.total():
                best = counts
        for name, count in best.most_common():
            print(f"{count / TIMES:7.2f} {name}")
        print(f"{best.total() / TIMES:7.2f} in all")
        return best.total() / TIMES


def serve(peer: Peer) -> None:
    """Whatever may come; a message for every RETR."""
    peer.login()
    while True:
        line = peer.line()
        peer.send(_BODY if line.startswith(b"RETR") else b"+OK\r\n")
        if line == b"QUIT":
            raise Gone


@contextmanager
def counted(directory: Path) -> Iterator[tuple[Proxy, Calls]]:
    """A proxy that has learned what its upstream can do, and the calls of its loop's thread."""
    calls = Calls()
    with Upstream(serve, quits=(1 + BATCHES) * TIMES) as upstream, running(Setup([upstream.url]), directory) as proxy:
        proxy.logged_in().close()
        proxy.session()
        proxy.call(calls.begin())
        try:
            yield proxy, calls
        finally:
            proxy.call(calls.end())


def test_a_login(tmp_path: Path) -> None:
    with counted(tmp_path) as (proxy, calls):

        def login() -> None:
            with proxy.client() as client:
                assert client.user_pass(USER, PASSWORD) == b"+OK welcome\r\n"
                client.send(b"QUIT\r\n")
                assert client.read_eof() == b"+OK\r\n"

        assert calls.least(login) <= LOGIN


def test_a_noop(tmp_path: Path) -> None:
    with counted(tmp_path) as (proxy, calls), proxy.logged_in() as client:

        def noop() -> None:
            assert client.single(b"NOOP") == b"+OK\r\n"

        assert calls.least(noop) <= NOOP


def test_a_message(tmp_path: Path) -> None:
    with counted(tmp_path) as (proxy, calls), proxy.logged_in() as client:

        def message() -> None:
            assert client.multi(b"RETR 1") == _BODY
            assert client.single(b"DELE 1") == b"+OK\r\n"

        assert calls.least(message) <= MESSAGE
