"""server_host: what may become the host of a ServerAddress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popproxy.api import Route, ServerAddress, server_host
from popproxy.core.lies import Lie
from popproxy.core.plan import UpstreamPolicy
from popproxy.core.target import Target


@pytest.mark.parametrize(
    ("text", "host"),
    [("a.example.", "a.example."), ("[2001:DB8::1]", "2001:db8::1"), ("::1", "::1"), ("192.0.2.1", "192.0.2.1")],
)
def test_hosts(text: str, host: str) -> None:
    assert server_host(text) == host


WRONG = ["", "a b", "a..b", "-a", "a-", "a.-b", "1.2.3", "[a.example]", "[1.2", "x" * 64, "a\n"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="no host name and no IP address"):
        server_host(text)


@given(st.text(alphabet="a-1.:[]_", max_size=20))
def test_what_it_gives_can_be_routed_to(text: str) -> None:
    try:
        host = server_host(text)
    except ValueError:
        return
    policies = {"main": UpstreamPolicy("main", "off")}
    try:
        Target("main").routed(Route(server=ServerAddress(host)), policies)
    except Lie as lie:
        raise AssertionError(f"{text!r} became {host!r}, which is refused") from lie
