"""What the plugin knows of one session, and what the session holds of the store."""

from __future__ import annotations

from weakref import finalize

from popproxy.api import Outcome, SessionView, Slot, Store
from popproxy_plugins.policy.claims import Who
from popproxy_plugins.policy.decide import Decision
from popproxy_plugins.policy.ledger import Act, Noted
from popproxy_plugins.policy.paces import Share
from popproxy_plugins.policy.tally import Tally
from popproxy_plugins.policy.volume import Day


class Held:
    """Places of a session. They are given back once: when the attempt or the session ends, and whatever happens when
    nobody knows the session any more."""

    __slots__ = ("__weakref__", "give_back")

    def __init__(self, store: Store, outcome: Outcome) -> None:
        self.give_back = finalize(self, store.release, outcome)
        self.give_back.atexit = False


class State:
    """One session, from its first hook on; ``decision`` is the one of the attempt that goes on or went well. ``due`` is
    what an audited rule would have done at connect: told with the user's name, or at the end when none came.

    Once the session is ``inside``: ``base`` octets were sent before, ``real`` and (``trying``) ``tried`` look at its
    commands."""

    __slots__ = (
        "base",
        "days",
        "decision",
        "due",
        "groups",
        "held",
        "inside",
        "noted",
        "real",
        "shares",
        "tried",
        "trying",
        "user",
        "whom",
    )

    def __init__(self) -> None:
        self.user = ""
        self.whom = Who("", "", "")
        self.groups: frozenset[str] = frozenset()
        self.decision = Decision()
        self.noted: Noted = set()
        self.due: Act | None = None
        self.held: Held | None = None
        self.days: list[Day] = []
        self.shares: list[Share] = []
        self.inside = False
        self.trying = False
        self.base = 0
        self.real: Tally
        self.tried: Tally

    def give_back(self) -> None:
        """Give back what an attempt took."""
        held, self.held = self.held, None
        self.days.clear()
        if held is not None:
            held.give_back()


Place = Slot[State | None]
"""Where one instance of the plugin keeps its states: a config may have several of them."""


def state_of(place: Place, session: SessionView) -> State:
    """The state of ``session``, made at the first call."""
    state = place.get(session)
    if state is None:
        state = State()
        place.set(session, state)
    return state
