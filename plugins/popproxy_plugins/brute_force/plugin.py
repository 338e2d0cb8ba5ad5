"""The plugin: what is asked of the store at each moment, and what a client hears."""

from __future__ import annotations

from collections import Counter as Counts
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b
from secrets import token_bytes
from typing import get_args

from popproxy.api import (
    Code,
    Counter,
    Credentials,
    Explained,
    External,
    Fail,
    Get,
    Hold,
    LoginResult,
    Outcome,
    Plugin,
    Put,
    Refuse,
    Services,
    SessionSummary,
    SessionView,
    Slot,
    StoreFailed,
    Verified,
)
from popproxy_plugins.brute_force.bans import By, by_whom, keys
from popproxy_plugins.brute_force.config import BruteForceConfig
from popproxy_plugins.brute_force.explained import told
from popproxy_plugins.brute_force.failures import Failures
from popproxy_plugins.brute_force.judge import Facts, Judgement, Result, judge
from popproxy_plugins.brute_force.places import KEY, Hashes, Looked, Origin, Tried, is_fresh, success
from popproxy_plugins.clients import address_of, is_scram, within

_KEY_LIFE = 10 * 365 * 86400.0
_SLACK = 0.05
"""Seconds that a login was held are enough when so few are missing."""
_PATIENCE = 20.0
"""Seconds after which it is no longer a guesser who goes away without an answer: servers say no after 2 s, or 17 s
when there were many failures, and mail programs wait for longer."""
_GONE = ("client_eof", "client_reset")
_PENDING, _AT_ONCE = 4096, 4
"""Tries whose client went away that may wait for the next login, and how many it notes."""
_DOWN = Refuse("Try again later", Code.SYS_TEMP, "the store is down, and brute_force has fail = closed")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login between on_login (or on_verifier) and its outcome. ``began`` is monotonic, ``now`` the store's clock."""

    origin: Origin
    tried: Tried
    facts: Facts
    judgement: Judgement
    fresh: bool
    scram: bool
    flight: str
    began: float
    now: float


class BruteForce(Plugin[BruteForceConfig]):
    """Holds and refuses logins from where others have failed."""

    remembers = True

    def __init__(self, config: BruteForceConfig) -> None:
        super().__init__(config)
        if config.connect == "off":
            self.skips = frozenset({"on_connect"})
        secret = config.secret
        key = None if secret is None else blake2b(secret.get_secret_value().encode(), digest_size=32).digest()
        self._hashes: Hashes | None = None if key is None else Hashes(key)
        self._slot: Slot[Attempt | None] = Slot("brute_force", None)
        self._flights: Counts[str] = Counts()
        self._unanswered: deque[Attempt] = deque()
        self._down = False

    async def start(self, services: Services) -> None:
        self._services = services
        self._store, self._log = services.store, services.log
        results = (*get_args(Result), "error")
        self._count: dict[str, Counter] = services.metrics.counter(
            "logins", "Logins by what was done with them before they were tried", "result", results
        )
        self._failures = Failures(self.config, services)
        if self._hashes is None:
            try:
                await self._keyed()
            except StoreFailed as error:
                # It is tried again at the next login.
                self._is_down(error)

    async def on_connect(self, session: SessionView) -> Refuse | None:
        address = address_of(session.client)
        if address is None or within(address, self.config.allow):
            return None
        steps = [Get(key) for key in keys(address)]
        try:
            outcome = await self._store.run(*steps)
        except StoreFailed as error:
            return self._failed(error)
        self._is_up()
        found = {by_whom(outcome[step]) for step in steps}
        wanted: set[By | None] = {"manual"} if self.config.connect == "manual" else {"manual", "auto"}
        if not found & wanted:
            return None
        judgement = Judgement("manual" if "manual" in found else "address", refused="banned")
        self._count[judgement.result].inc()
        return self._refusal(judgement) if self.config.mode == "enforce" else None

    async def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Refuse | None:
        # A wrong proof never reaches on_login: here is the only place to refuse it. It is held by its answer.
        verdict = await self._begin(session, user, None)
        return verdict if isinstance(verdict, Refuse) else None

    async def on_login(self, session: SessionView, credentials: Credentials) -> Refuse | Hold | None:
        begun = self._slot.get(session)
        if begun is not None and begun.scram and (isinstance(credentials, Verified) or is_scram(session)):
            return self._hold(begun.judgement)
        return await self._begin(session, credentials.user, credentials)

    async def on_login_result(self, session: SessionView, result: LoginResult) -> Refuse | None:
        attempt = self._slot.get(session)
        if attempt is not None and attempt.scram and not is_scram(session):
            # Of an exchange that was cancelled; a plugin in front has refused the login that came next.
            self._end(session)
            attempt = None
        try:
            if result.ok:
                if attempt is not None and attempt.tried.user and not attempt.fresh:
                    self._store.post(*success(self.config, attempt.origin, attempt.tried.user, attempt.now))
                return None
            if result.code != Code.AUTH.value.decode():
                return None
            if attempt is None:
                await self._unseen(session)
                return None
            await self._failures.note(attempt.origin, attempt.tried, attempt.facts)
        except StoreFailed as error:
            self._is_down(error)
        finally:
            # Not before the failure is noted: until then it is one of those that wait for their outcome.
            self._end(session)
        if attempt is None:
            return None
        # A password that a plugin judges is judged at once: then it is the answer that is held.
        left = attempt.judgement.delay - (self._services.clock.monotonic() - attempt.began)
        if left <= _SLACK or self.config.mode == "audit":
            return None
        return Refuse(result.text, Code.AUTH, result.reason, delay=left)

    def on_close(self, session: SessionView, summary: SessionSummary) -> None:
        attempt = self._slot.get(session)
        gone = summary.phase == "logging_in" and summary.reason in _GONE
        if attempt is None or not gone or not self._was_tried(attempt) or len(self._unanswered) >= _PENDING:
            self._end(session)
            return
        # Servers say yes at once and no after seconds: who goes away in between has learned as much as from an answer.
        # It waits for its outcome until it is noted.
        self._slot.set(session, None)
        self._unanswered.append(attempt)

    def explain(self, session: SessionView, user: str) -> Explained:
        return Explained(told(self.config, address_of(session.client), user))

    async def _begin(self, session: SessionView, user: str, credentials: Credentials | None) -> Refuse | Hold | None:
        """Look at what is known, and remember it for the outcome. ``credentials`` None: SCRAM."""
        self._end(session)
        address = address_of(session.client)
        if address is None or within(address, self.config.allow):
            return None
        if isinstance(credentials, External | Verified):
            # Proven already, and not by a password that somebody could have guessed here.
            return None
        origin = Origin.of(address)
        began = self._services.clock.monotonic()
        try:
            hashes = self._hashes or await self._keyed()
            await self._note_unanswered()
            tried = hashes.tried(user, credentials)
            looked = Looked(self.config, origin, tried.user)
            outcome = await self._store.run(*looked.steps())
        except StoreFailed as error:
            return self._failed(error)
        self._is_up()
        if looked.key is not None and outcome[looked.key] != hashes.key:
            self._rekeyed(hashes, outcome[looked.key])
        known = looked.known is not None and outcome[looked.known] is not None
        flight = f"{origin.place} {tried.user}" if known else str(origin.place)
        facts = _facts(looked, outcome, known, self._flights[flight])
        judgement = judge(self.config, facts)
        self._count[judgement.result].inc()
        if judgement.refused and self.config.mode == "enforce":
            return self._refusal(judgement)
        if self.config.mode == "audit" and (judgement.refused or judgement.delay):
            fields = {"session": session.id, "client": session.client, "user": session.user}
            self._log.info("audited", **fields, result=judgement.result, delay=judgement.delay, why=judgement.refused)
        fresh = looked.known is not None and is_fresh(outcome[looked.known], outcome.now)
        self._flights[flight] += 1
        attempt = Attempt(origin, tried, facts, judgement, fresh, credentials is None, flight, began, outcome.now)
        self._slot.set(session, attempt)
        # Of SCRAM nobody knows yet: on_login holds what was right, the answer what was wrong.
        return None if credentials is None else self._hold(judgement)

    def _end(self, session: SessionView) -> None:
        """The attempt of ``session`` is over, if there is one."""
        attempt = self._slot.get(session)
        if attempt is not None:
            self._slot.set(session, None)
            self._landed(attempt)

    def _landed(self, attempt: Attempt) -> None:
        self._flights[attempt.flight] -= 1
        if not self._flights[attempt.flight]:
            del self._flights[attempt.flight]

    def _was_tried(self, attempt: Attempt) -> bool:
        """Whether somebody judges ``attempt`` now: not while it is held. A proof of SCRAM is judged at once."""
        held = 0.0 if self.config.mode == "audit" else attempt.judgement.delay
        waited = self._services.clock.monotonic() - attempt.began - held
        return not attempt.scram and -_SLACK <= waited <= _PATIENCE

    async def _note_unanswered(self) -> None:
        """Tries whose client did not wait for the answer are failures. Raises StoreFailed."""
        for _ in range(min(len(self._unanswered), _AT_ONCE)):
            # Another login may have been here meanwhile.
            if not self._unanswered:
                return
            attempt = self._unanswered.popleft()
            try:
                await self._failures.note(attempt.origin, attempt.tried, attempt.facts)
            finally:
                self._landed(attempt)

    async def _unseen(self, session: SessionView) -> None:
        """A plugin in front said [AUTH] before this one was asked: a failure without a password."""
        address = address_of(session.client)
        if address is None or within(address, self.config.allow):
            return
        try:
            tried = (self._hashes or await self._keyed()).tried(session.user or "", None)
            await self._failures.unseen(Origin.of(address), tried)
        except StoreFailed as error:
            self._is_down(error)

    def _hold(self, judgement: Judgement) -> Hold | None:
        if not judgement.delay or self.config.mode == "audit":
            return None
        return Hold(judgement.delay, "failed logins before")

    def _refusal(self, judgement: Judgement) -> Refuse:
        # [AUTH] would make clients ask for another password. What passes by itself is SYS/TEMP (RFC 3206).
        code = Code.SYS_PERM if judgement.result == "manual" else Code.SYS_TEMP
        return Refuse(self.config.text, code, f"{judgement.result}: {judgement.refused}", limited=True)

    async def _keyed(self) -> Hashes:
        """The key of the hashes, made by whoever comes first. Raises StoreFailed."""
        await self._store.run(Put(KEY, token_bytes(32), _KEY_LIFE, absent=True))
        get = Get(KEY)
        key = (await self._store.run(get))[get]
        if key is None:
            raise StoreFailed("the store has lost the key of the hashes at once")
        self._hashes = Hashes(key)
        return self._hashes

    def _rekeyed(self, hashes: Hashes, key: bytes | None) -> None:
        """The store has lost its data: all workers go on with the key that one of them puts back first."""
        if key is None:
            self._store.post(Put(KEY, hashes.key, _KEY_LIFE, absent=True))
        else:
            self._hashes = Hashes(key)

    def _failed(self, error: StoreFailed) -> Refuse | None:
        self._count["error"].inc()
        self._is_down(error)
        closed = self._services.fail is Fail.CLOSED and self.config.mode == "enforce"
        return _DOWN if closed else None

    def _is_down(self, error: StoreFailed) -> None:
        """Said once for each time that the store is down."""
        if not self._down:
            self._down = True
            self._log.error("store_failed", detail=str(error))

    def _is_up(self) -> None:
        if self._down:
            self._down = False
            self._log.info("store_back")


def _facts(looked: Looked, outcome: Outcome, known: bool, flights: int) -> Facts:
    found: list[By | None] = [by_whom(outcome[step]) for step in looked.bans]
    of_place = found[:-1]
    return Facts(
        known=known,
        near=looked.near is not None and outcome[looked.near] is not None,
        own=0 if looked.own is None else outcome[looked.own],
        pairs=outcome[looked.pairs],
        network_pairs=outcome[looked.around],
        passwords=0 if looked.passwords is None else outcome[looked.passwords],
        ban="manual" if "manual" in of_place else "auto" if "auto" in of_place else None,
        network_ban=found[-1],
        at_once=flights,
    )
