"""``when``: which sessions a condition holds for."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from popproxy.api import SessionView, TlsView
from popproxy.core.conditions import Condition, condition


def view(client: str = "192.0.2.1", listener: str = "pop3", tls: TlsView | None = None) -> SessionView:
    return SessionView("1", listener, client, tls=tls)


def test_the_empty_condition_always_holds() -> None:
    assert Condition().applies(view(), None)
    assert condition().applies(view(), "joe")
    assert not condition().needs_user


@pytest.mark.parametrize(
    ("pattern", "user", "holds"),
    [
        ("joe", "joe", True),
        ("joe", "JOE", True),
        ("J*", "joe", True),
        ("*@Example.com", "joe@example.COM", True),
        ("j?e", "joe", True),
        ("joe", "joey", False),
        ("joe", "", False),
        ("joe", None, False),
        ("*", None, False),
    ],
)
def test_users(pattern: str, user: str | None, holds: bool) -> None:
    made = condition(users=["nobody", pattern])
    assert made.needs_user
    assert made.applies(view(), user) is holds


@pytest.mark.parametrize(
    ("user", "holds"),
    [("joe@example.com", True), ("joe@EXAMPLE.com", True), ("a@b@example.com", True), ("joe@x.org", False),
     ("joe", False), (None, False)],
)  # fmt: skip
def test_domains(user: str | None, holds: bool) -> None:
    assert condition(domains=["Example.com"]).applies(view(), user) is holds


def test_users_and_domains_must_both_hold() -> None:
    made = condition(users=["j*"], domains=["example.com"])
    assert made.applies(view(), "joe@example.com")
    assert not made.applies(view(), "ann@example.com")
    assert not made.applies(view(), "joe@example.org")


@pytest.mark.parametrize(
    ("client", "holds"),
    [("192.0.2.200", True), ("192.0.3.1", False), ("2001:db8::1", True), ("2001:db9::1", False), ("unix", False),
     ("", False)],
)  # fmt: skip
def test_networks(client: str, holds: bool) -> None:
    made = condition(networks=[ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])
    assert made.applies(view(client), None) is holds


def test_listeners_and_tls() -> None:
    made = condition(listeners=["pop3s"], tls=True)
    assert made.applies(view(listener="pop3s", tls=TlsView()), None)
    assert not made.applies(view(listener="pop3s"), None)
    assert not made.applies(view(tls=TlsView()), None)
    assert condition(tls=False).applies(view(), None)
    assert not condition(tls=False).applies(view(tls=TlsView()), None)
