"""The plugin in whole sessions of one worker, with an honest server behind each; nothing but octets is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from popproxy_plugins.policy import Policy, PolicyConfig

from popproxy.api import Capabilities, Fail, SessionView, TlsView
from popproxy.api.fakes import FakeClock, FakeServices, World
from popproxy.core.chain import Chain, Subscriber
from popproxy.core.effects import Await, CloseClient, CloseUpstream, Dial, Dialed, Note, Returned
from popproxy.core.login import Knowledge
from popproxy.core.phases import Phase
from popproxy.core.plan import SessionPlan, UpstreamPolicy
from popproxy.core.session import Session
from popproxy.core.spool import MemorySpool
from popproxy.wire.dots import stuff
from tests.core.rig import Meter
from tests.core.server import Server
from tests.plugins.policy.rig import DAY, WatchedStore

CAPABILITIES = (b"TOP", b"UIDL", b"PIPELINING")


class Mail(Server):
    """The server, with messages of a test's own. ``asked`` are its command lines behind the login."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        super().__init__()
        self.messages = dict(enumerate(messages, 1))
        self.asked: list[str] = []

    def answer(self, line: bytes) -> bytes:
        """See Server."""
        if not self.inside or line.split()[0].upper() in (b"CAPA", b"QUIT"):
            return super().answer(line)
        self.asked.append(line.decode())
        name, _, argument = line.partition(b" ")
        number = int(argument.split()[0]) if argument else 0
        message = self.messages.get(number)
        if argument and (message is None or number in self.deleted):
            return b"-ERR No such message\r\n"
        left = {place: text for place, text in self.messages.items() if place not in self.deleted}
        octets = sum(map(len, left.values()))
        match name.upper(), message:
            case b"STAT", _:
                return b"+OK %d %d\r\n" % (len(left), octets)
            case b"LIST", None:
                return b"+OK %d messages\r\n" % len(left) + _rows({n: b"%d" % len(one) for n, one in left.items()})
            case b"UIDL", None:
                return b"+OK ids\r\n" + _rows({n: b"uid%d" % n for n in left})
            case b"LIST", bytes():
                return b"+OK %d %d\r\n" % (number, len(message))
            case b"UIDL", bytes():
                return b"+OK %d uid%d\r\n" % (number, number)
            case b"RETR", bytes():
                return b"+OK %d octets\r\n" % len(message) + stuff(message)
            case b"TOP", bytes():
                return b"+OK\r\n" + stuff(message.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            case b"DELE", bytes():
                self.deleted.add(number)
                return b"+OK marked\r\n"
            case b"RSET", _:
                self.deleted.clear()
                return b"+OK reset\r\n"
            case b"NOOP", _:
                return b"+OK nothing\r\n"
            case _:
                return b"-ERR unknown\r\n"

    @property
    def kept(self) -> list[int]:
        """The messages that are there behind its end."""
        return [number for number in self.messages if not (self.committed and number in self.deleted)]


def _rows(rows: Mapping[int, bytes]) -> bytes:
    return b"".join(b"%d %b\r\n" % pair for pair in rows.items()) + b".\r\n"


class Worker:
    """One worker with these rules; with none it has no plugin at all. ``behind`` are those of a second instance."""

    def __init__(self, *rules: Mapping[str, Any], behind: Sequence[Mapping[str, Any]] = (), **options: Any) -> None:
        self.clock = FakeClock()
        self.store = WatchedStore(self.clock)
        self.services = FakeServices(self.clock, World(), Fail.CLOSED)
        self.services.store = self.store
        subscribers: list[Subscriber] = []
        for number, given in enumerate(one for one in (rules, behind) if one):
            policy = Policy(PolicyConfig.model_validate({"rules": given, **options}))
            _drive(policy.start(self.services))
            subscribers.append(Subscriber(f"policy{number}", policy, Fail.CLOSED))
        self.knowledge = Knowledge()
        self.knowledge.learn("main", Capabilities.parse(CAPABILITIES), self.clock.monotonic())
        self.plan = SessionPlan(
            listener="pop3",
            upstreams={"main": UpstreamPolicy("main", "off")},
            default_upstream="main",
            auth_before_tls=True,
            chain=Chain(subscribers),
            wall=self.clock.now,
        )

    def message(self, age: float, text: str = "hello", octets: int = 0) -> bytes:
        """A message that arrived ``age`` days ago, with at least so many octets."""
        date = format_datetime(datetime.fromtimestamp(self.clock.now() - age * DAY, UTC))
        head = f"Received: from a by b; {date}\r\nSubject: {text}\r\n\r\n{text}\r\n".encode()
        return head + b"x" * max(0, octets - len(head) - 2) + b"\r\n"

    def client(self, *messages: bytes, address: str = "192.0.2.1") -> Client:
        """A client that is connected and has read the greeting."""
        return Client(self, Mail(messages), address)

    def inside(self, *messages: bytes, user: str = "joe") -> Client:
        """A client that is logged in."""
        client = self.client(*messages)
        said = client.send(f"USER {user}\r\nPASS sesame\r\n".encode())
        assert said == b"+OK\r\n+OK welcome\r\n", said
        return client


class Client:
    """One session. ``send`` gives what came back until everybody waits."""

    def __init__(self, worker: Worker, server: Mail, address: str, tls: TlsView | None = None) -> None:
        self.worker, self.server = worker, server
        self.view = SessionView("1", "pop3", address, tls=tls, began=worker.clock.now())
        clock = worker.clock.monotonic
        self.session = Session(worker.plan, self.view, Meter(), worker.knowledge, clock, MemorySpool)
        self.notes: list[Note] = []
        self.open = True
        self._out = b""
        self.session.start()
        self._turn()
        self.greeting, self._out = self._out, b""

    def send(self, data: bytes) -> bytes:
        """Send these octets."""
        self.session.client_data(data)
        self._turn()
        out, self._out = self._out, b""
        return out

    def lines(self, *commands: str) -> list[str]:
        """Send each command when the one before is answered; the first lines of the replies."""
        return [self.send(f"{command}\r\n".encode()).partition(b"\r\n")[0].decode() for command in commands]

    def hooks(self, name: str) -> int:
        """How many plugins have this hook in this session, which is logged in."""
        stage: Any = self.session._stage
        return len(stage.chain[name])

    def gone(self) -> None:
        """The connection ends, whoever ended it."""
        self.session.client_gone("client_eof")
        self.session.summary()
        self._turn()

    def _turn(self) -> None:
        session = self.session
        while True:
            up, out = b"".join(session.to_upstream), b"".join(session.to_client)
            session.to_upstream.clear()
            session.to_client.clear()
            session.octets_out += len(out)
            self._out += out
            effects, session.effects = session.effects, []
            for effect in effects:
                self._perform(effect)
            if up:
                session.upstream_data(self.server.feed(up))
            elif not (effects or session.pulling):
                return
            if session.pulling:
                session.drained()

    def _perform(self, effect: Any) -> None:
        session = self.session
        if isinstance(effect, Await):
            try:
                outcome = Returned(_drive(effect.awaitable))
            except Exception as error:
                outcome = Returned(error=error)
            session.done(effect.id, outcome)
        elif isinstance(effect, Dial):
            session.done(effect.id, Dialed("mail.example.com:110", False))
            session.upstream_data(self.server.greeting)
        elif isinstance(effect, Note):
            self.notes.append(effect)
            assert effect.event != "plugin_error", effect
        elif isinstance(effect, CloseClient):
            self.open = False
        elif isinstance(effect, CloseUpstream) and session.phase is not Phase.CLOSED:
            # The next attempt has a connection of its own.
            self.server = Mail(list(self.server.messages.values()))


def _drive(awaitable: Any) -> Any:
    """What a coroutine returns that never really waits."""
    try:
        while awaitable.send(None) is None:
            continue
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits for something")
