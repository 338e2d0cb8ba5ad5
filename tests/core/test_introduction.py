"""Who the client is: believed from trusted proxies, told to servers."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Refuse, SessionView, TlsView
from popproxy.core.conditions import condition
from popproxy.core.effects import CloseUpstream, Dial, SecureClient
from popproxy.core.introduction import HOPS, introduction, remaining
from popproxy.core.phases import Phase
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.xclient import LIMIT, parse
from tests.core.rig import AWAY, Rig, plugin

NEAR = (ip_network("192.0.2.0/24"),)
TELLING = UpstreamPolicy("main", "off", xclient="offered", forward=(("proxy", "edge1"),))


def greeted(*plugins: Any, **given: Any) -> Rig:
    return Rig(*plugins, **{"xclient": NEAR, **given}).start()


@pytest.mark.parametrize(
    ("client", "networks", "told"),
    [
        ("192.0.2.1", NEAR, True),
        ("192.0.3.1", NEAR, False),
        ("2001:db8::1", NEAR, False),
        ("unix", NEAR, True),
        ("unix", (), False),
        ("192.0.2.1", (), False),
        ("", NEAR, False),
    ],
)
def test_only_trusted_networks_are_told_and_believed(client: str, networks: Any, told: bool) -> None:
    rig = Rig(xclient=networks)
    rig.view.client = client
    rig.s = type(rig.s)(rig.plan, rig.view, rig.meter, rig.knowledge, lambda: rig.now, rig.s.spool)
    assert rig.start().said() == (b"+OK [XCLIENT] POP3 ready\r\n" if told else b"+OK POP3 ready\r\n")
    rig.client(b"XCLIENT ADDR=203.0.113.9 TTL=1\r\n")
    assert (rig.view.client == "203.0.113.9") is told


def test_a_plugin_that_writes_into_the_view_makes_nobody_trusted() -> None:
    """Promise 7: the session decides by what it has seen itself."""

    def on_connect(session: SessionView) -> None:
        session.client = "192.0.2.1"

    rig = Rig(plugin(on_connect=on_connect), xclient=(ip_network("192.0.2.77"),))
    assert rig.start().said() == b"+OK POP3 ready\r\n"
    rig.client(b"XCLIENT ADDR=203.0.113.9\r\n")
    assert rig.view.client == "192.0.2.1"


def test_everything_that_is_said_rules_the_view() -> None:
    rig = greeted()
    rig.client(b"xclient Addr=2001:db8::5 Port=5 DestAddr=10.0.0.1 DestPort=110 Session=abc TTL=2 Unknown=x\r\n")
    view = rig.view
    assert (view.client, view.client_port, view.local, view.local_port) == ("2001:db8::5", 5, "10.0.0.1", 110)
    assert (view.id, view.ttl, rig.s.ttl, view.tls) == ("abc", 2, 2, None)


def test_what_is_not_said_stays() -> None:
    rig = greeted()
    rig.client(b"XCLIENT TTL=7\r\nXCLIENT PORT=9\r\n")
    assert (rig.view.client, rig.view.client_port, rig.s.ttl) == ("192.0.2.1", 9, 7)


def test_a_wrong_value_changes_nothing() -> None:
    rig = greeted()
    rig.said()
    rig.client(b"XCLIENT ADDR=203.0.113.9 PORT=70000\r\n")
    assert rig.said().startswith(b"-ERR Invalid XCLIENT: PORT")
    assert rig.view.client == "192.0.2.1"
    assert rig.meter.violations == [("client", "arguments")]


def test_tls_of_the_client_is_vouched_for() -> None:
    rig = greeted(auth_before_tls=False)
    rig.client(b"USER joe\r\n")
    rig.said()
    rig.client(b"XCLIENT CLIENT-TRANSPORT=TLS DESTNAME=mail.example.com\r\nUSER joe\r\n")
    assert rig.said() == b"+OK Updated\r\n+OK\r\n"
    assert rig.view.tls == TlsView(server_name="mail.example.com", by_proxy=True)


@pytest.mark.parametrize("said", [b"insecure", b"none", b"xTLS"])
def test_no_tls_is_not_vouched_for(said: bytes) -> None:
    rig = greeted(auth_before_tls=False)
    rig.client(b"XCLIENT CLIENT-TRANSPORT=" + said + b"\r\nUSER joe\r\n")
    assert b"-ERR" in rig.said() and rig.view.tls is None


def test_tls_of_this_leg_is_kept() -> None:
    own = TlsView("TLSv1.3")
    rig = greeted(view_tls=own)
    rig.client(b"XCLIENT CLIENT-TRANSPORT=insecure\r\nXCLIENT CLIENT-TRANSPORT=TLS\r\n")
    assert rig.view.tls is own


def test_stls_before_it_works() -> None:
    rig = greeted(tls="starttls").client(b"STLS\r\n").done(TlsView("TLSv1.3"), SecureClient)
    rig.said()
    rig.client(b"XCLIENT ADDR=203.0.113.9\r\n")
    assert rig.said() == b"+OK Updated\r\n"


def test_promise_3_stls_forgets_what_was_said_before() -> None:
    """Anybody between the two proxies may have said it."""
    rig = greeted(tls="starttls")
    rig.client(b"XCLIENT ADDR=203.0.113.9 PORT=9 DESTADDR=203.0.113.1 SESSION=x TTL=0 FORWARD=YT1i\r\n")
    assert rig.view.client == "203.0.113.9" and rig.s.forward
    rig.client(b"XCLIENT ADDR=203.0.113.10\r\nSTLS\r\n").done(TlsView("TLSv1.3"), SecureClient)
    view = rig.view
    assert (view.client, view.client_port, view.local, view.id, view.ttl) == ("192.0.2.1", 0, "", "1", None)
    assert (rig.s.ttl, rig.s.forward) == (None, ())
    rig.client(b"XCLIENT ADDR=203.0.113.11\r\n")
    assert rig.view.client == "203.0.113.11"


def test_on_connect_is_asked_about_the_real_client() -> None:
    seen: list[str] = []

    def on_connect(session: SessionView) -> Refuse | None:
        seen.append(session.client)
        return Refuse("Go away") if session.client == "203.0.113.66" else None

    rig = greeted(plugin(on_connect=on_connect))
    rig.client(b"XCLIENT ADDR=203.0.113.9\r\nXCLIENT TTL=2\r\n")
    assert seen == ["192.0.2.1", "203.0.113.9"]
    assert not rig.closed
    rig.said()
    rig.client(b"XCLIENT ADDR=203.0.113.66\r\nUSER joe\r\n")
    assert rig.said() == b"-ERR [SYS/PERM] Go away\r\n"
    rig.ended("policy")


def test_a_slow_on_connect_makes_the_client_wait() -> None:
    async def on_connect(session: SessionView) -> None: ...

    rig = greeted(plugin(on_connect=on_connect)).returned()
    rig.said()
    rig.client(b"XCLIENT ADDR=203.0.113.9\r\nUSER joe\r\n")
    assert rig.said() == b"" and rig.s.phase is Phase.AUTHORIZATION
    rig.returned()
    assert rig.said() == b"+OK Updated\r\n+OK\r\n"


def test_conditions_look_at_the_real_client() -> None:
    seen: list[str] = []
    noting = plugin(on_capabilities=lambda session, capabilities: seen.append(session.client))
    rig = greeted(noting, when=condition(networks=[ip_network("203.0.113.0/24")]))
    rig.client(b"CAPA\r\nXCLIENT ADDR=203.0.113.9\r\nCAPA\r\n")
    assert seen == ["203.0.113.9"]


# To the server


def told(rig: Rig, policy: UpstreamPolicy = TELLING) -> Any:
    (line,) = introduction(rig.s, policy)
    assert line.startswith(b"XCLIENT ") and line.endswith(b"\r\n")
    return parse(line[8:-2])


def test_a_server_is_told_what_is_known() -> None:
    rig = Rig(policy=TELLING)
    view = rig.view
    view.client, view.client_port, view.local, view.local_port = "203.0.113.9", 50000, "192.0.2.80", 995
    view.tls = TlsView("TLSv1.3", server_name="pop.example.com")
    said = told(rig)
    assert (said.addr, said.port, said.dest_addr, said.dest_port) == ("203.0.113.9", 50000, "192.0.2.80", 995)
    assert (said.session, said.ttl, said.client_transport, said.dest_name) == ("1", HOPS - 1, "TLS", "pop.example.com")
    assert said.forward == (("proxy", "edge1"),)


def test_a_unix_client_has_no_address() -> None:
    rig = Rig(policy=TELLING)
    rig.view.client, rig.view.local = "unix", "/run/popproxy.sock"
    said = told(rig)
    assert (said.addr, said.port, said.dest_addr, said.dest_port) == (None, None, None, None)
    assert said.session == "1"


def test_what_was_forwarded_to_us_counts_more_than_our_own() -> None:
    rig = Rig()
    rig.s.forward = (("proxy", "outer"), ("x", "y"))
    assert told(rig).forward == (("proxy", "outer"), ("x", "y"))


@pytest.mark.parametrize(
    ("name", "forward"), [("no host name", ()), (None, (("k", "v" * 2000),)), ("ok.example", (("a=b", "c"),))]
)
def test_what_cannot_be_said_does_not_hide_the_rest(name: str | None, forward: Any) -> None:
    rig = Rig()
    rig.view.local, rig.view.tls = "192.0.2.80", TlsView(server_name=name)
    rig.s.forward = forward
    said = told(rig)
    assert (said.addr, said.session, said.ttl) == ("192.0.2.1", "1", HOPS - 1)
    assert (said.dest_name, said.forward) == ((name, ()) if forward else (None, TELLING.forward))


def test_who_wants_none_tells_nothing() -> None:
    assert introduction(Rig().s, UpstreamPolicy("main")) == []


def test_ttl_goes_down_at_every_proxy() -> None:
    ttl = None
    for left in (4, 3, 2, 1, 0, 0):
        ttl = remaining(ttl)
        assert ttl == left


def test_a_client_whose_ttl_is_used_up_leads_nowhere() -> None:
    rig = greeted().client(b"XCLIENT TTL=0\r\nUSER joe\r\nPASS sesame\r\n")
    assert rig.said().endswith(AWAY)
    assert not rig.pending(Dial)
    assert [note["kind"] for note in rig.notes("upstream_failed")] == ["loop"]
    rig = greeted().client(b"XCLIENT TTL=1\r\nUSER joe\r\nPASS sesame\r\n")
    assert rig.pending(Dial)


def test_a_leg_that_was_told_of_another_client_is_left() -> None:
    rig = greeted(known=None).client(b"CAPA\r\n").connected().upstream(b"-ERR\r\n")
    rig.client(b"XCLIENT TTL=4\r\n")
    assert rig.pending(CloseUpstream)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=80),
    st.text(max_size=80),
    st.text(max_size=40),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=400)), max_size=4),
)
def test_whatever_the_view_holds_every_line_can_be_sent(
    session_id: str, client: str, name: str, forward: list[tuple[str, str]]
) -> None:
    """A plugin may write into the view; what goes out is still whole lines of the right kind."""
    rig = Rig()
    rig.view.id, rig.view.client, rig.view.tls = session_id, client, TlsView(server_name=name)
    rig.s.forward = tuple(forward)
    for line in introduction(rig.s, TELLING):
        assert line.startswith(b"XCLIENT ") and line.endswith(b"\r\n") and len(line) <= LIMIT
        assert line.count(b"\r") == line.count(b"\n") == 1
