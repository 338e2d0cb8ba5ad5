"""Views and slots: what a plugin sees and keeps."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from popproxy.api import MaildropEntry, MaildropView, ReplyView, SessionSummary, SessionView, Slot, TlsView


def test_a_slot_has_its_default_until_it_is_set() -> None:
    seen = Slot("seen", 0)
    session = SessionView("1", "pop3s")
    assert seen.get(session) == 0
    seen.set(session, seen.get(session) + 1)
    assert seen.get(session) == 1


def test_a_slot_is_private_to_its_session() -> None:
    seen = Slot[tuple[str, ...]]("seen", ())
    one, other = SessionView("1", "pop3s"), SessionView("2", "pop3s")
    seen.set(one, ("x",))
    assert seen.get(other) == ()
    assert other.slots == {}


def test_slots_of_one_name_do_not_meet() -> None:
    first, second = Slot("seen", 0), Slot("seen", 0)
    session = SessionView("1", "pop3s")
    first.set(session, 5)
    assert second.get(session) == 0


def test_a_slot_takes_no_other_attributes() -> None:
    slot: Any = Slot("seen", 0)
    with pytest.raises(AttributeError):
        slot.value = 1


def test_a_session_begins_in_authorization_and_knows_nobody() -> None:
    session = SessionView("1", "pop3")
    assert session.phase == "authorization"
    assert (session.user, session.login, session.tls, session.upstream) == (None, None, None, None)
    unknown: Any = session
    with pytest.raises(AttributeError):
        unknown.usr = "typo"


def test_the_maildrop_adds_up() -> None:
    view = MaildropView({1: MaildropEntry(1, 120, b"a"), 3: MaildropEntry(3, 200, None)})
    assert view.octets == 320
    assert MaildropView({}).octets == 0


@pytest.mark.parametrize(
    "view",
    [
        TlsView("TLSv1.3"),
        ReplyView(True, None, b""),
        MaildropEntry(1, 1, None),
        MaildropView({}),
        SessionSummary("quit", "update", 0.1, {}, 0, 0, 0, 0),
    ],
)
def test_what_is_only_for_reading_cannot_be_written(view: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(view, view.__match_args__[0], None)
