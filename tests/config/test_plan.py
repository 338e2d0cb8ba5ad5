from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from ipaddress import ip_network
from pathlib import Path

import pytest

from popproxy.config import budgets
from popproxy.config.load import Loaded
from popproxy.config.plan import AdminPlan, Bind, HealthPlan, LogPlan, state_directory
from popproxy.core import limits
from popproxy.wire.commands import Framing

Good = Callable[[str], Loaded]

FULL = """
default_upstream = "b"
[[listener]]
name = "one"
bind = ["[::]:110", "0.0.0.0:110", "[::]:111", "[2001:db8::1]:112", "unix:/run/x"]
tls = "starttls"
auth_before_tls = "allow"
greeting = "hello"
max_connections = 7
unix_mode = "0600"
proxy_protocol = { trusted = ["10.0.0.0/8", "::1"] }
[[listener]]
name = "two"
bind = ["127.0.0.1:995"]
tls = "implicit"
[upstream.a]
servers = ["pop3s://a"]
[upstream.b]
servers = ["pop3s://b1", "pop3://b2"]
server_name = "b"
mechanism = "plain"
initial_response = "never"
[admin]
bind = "unix:/run/admin"
unix_mode = "0666"
[log]
format = "console"
level = "debug"
users = "hashed"
[timeouts]
idle = "11m"
[limits]
auth_line = "4KiB"
[protocol]
open = ["last", "xtnd  xlst"]
verbs = [{ name = "xfoo", framing = "listing" }]
capabilities = ["x-feature"]
bare_lf = true
pipelining = false
implementation = "popproxy"
"""


def test_listeners(good: Good) -> None:
    one, two = good(FULL).plan.listeners
    assert (one.name, one.tls, one.limit) == ("one", "starttls", 7)
    assert one.proxy_protocol == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert [(str(bind), bind.v6only) for bind in one.bind] == [
        ("[::]:110", True),
        ("0.0.0.0:110", False),
        ("[::]:111", False),
        ("[2001:db8::1]:112", True),
        ("unix:/run/x", False),
    ]
    assert one.bind[4].mode == 0o600
    assert (one.session.greeting, one.session.auth_before_tls, one.session.tls) == ("hello", True, "starttls")
    assert (two.session.listener, two.session.auth_before_tls, two.proxy_protocol) == ("two", False, ())


def test_upstreams(good: Good) -> None:
    plan = good(FULL).plan
    assert plan.default_upstream == "b"
    assert plan.upstreams["a"].policy.tls == "implicit"
    mixed = plan.upstreams["b"]
    assert mixed.policy.tls == "starttls"
    assert [server.tls for server in mixed.servers] == ["implicit", "starttls"]
    assert (mixed.policy.mechanism, mixed.policy.initial_response) == ("plain", "never")
    assert (mixed.server_name, mixed.verify, mixed.ca_file) == ("b", True, None)
    for listener in plan.listeners:
        assert listener.session.default_upstream == "b"
        assert listener.session.upstreams == {name: upstream.policy for name, upstream in plan.upstreams.items()}


def test_an_upstream_in_clear_has_to_be_all_clear(good: Good) -> None:
    plan = good('[upstream.main]\nservers = ["pop3+clear://a", "pop3+clear://b"]').plan
    assert plan.upstreams["main"].policy.tls == "off"


def test_the_rest(good: Good, tmp_path: Path) -> None:
    plan = good(FULL).plan
    assert plan.admin == AdminPlan((Bind("unix", path="/run/admin", mode=0o666, v6only=False),))
    assert plan.log == LogPlan("console", "debug", None, "hashed")
    assert (plan.timeouts.idle, plan.timeouts.hook) == (660.0, 10.0)
    assert plan.limits.auth_line == 4096
    session = plan.listeners[0].session
    assert session.timeouts is plan.timeouts and session.limits is plan.limits
    assert session.opened == {b"LAST", b"XTND XLST"}
    assert session.verbs[b"XFOO"].framing is Framing.LISTING
    assert session.capabilities == {b"X-FEATURE"}
    assert (session.bare_lf, session.pipelining, session.implementation) == (True, False, "popproxy")
    assert plan.source == tmp_path / "popproxy.toml"


def test_without_an_admin_table_there_is_no_admin_listener(good: Good) -> None:
    assert good("").plan.admin is None
    admin = good("[admin]").plan.admin
    assert admin is not None and str(admin.binds[0]) == "127.0.0.1:9110"


def test_the_budgets_are_those_of_core() -> None:
    for model, core in ((budgets.Timeouts, limits.Timeouts), (budgets.Limits, limits.Limits)):
        assert list(model.model_fields) == [field.name for field in fields(core)]
        assert model().model_dump() == asdict(core())


def test_the_hash_tells_configs_apart_and_not_their_spelling(good: Good) -> None:
    plain = good("").plan.hash
    assert len(plain) == 12
    assert good("# a comment\n").plan.hash == plain
    assert good('[timeouts]\nidle = "10m"').plan.hash == plain
    assert good('[timeouts]\nidle = "11m"').plan.hash != plain
    assert good("[admin]").plan.hash != plain
    ruled = good('[[plugin]]\nuse = "headers"\nrules = [{ remove = "X" }]').plan.hash
    assert good('[[plugin]]\nuse = "headers"\nrules = [{ remove = "Y" }]').plan.hash != ruled
    assert good('[[plugin]]\nuse = "headers"\nrules = [{ remove = "X" }]\nwhen = { tls = true }').plan.hash != ruled


def test_the_hash_does_not_cover_secrets(good: Good, tmp_path: Path) -> None:
    import trustme

    trustme.CA().issue_cert("a.example").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "a.pem"))
    hashes = {
        good(f'[tls]\ncertificates = [{{ cert = "a.pem", password = "{password}" }}]').plan.hash
        for password in ("one", "two")
    }
    assert len(hashes) == 1


def test_where_state_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/other")
    assert state_directory() == tmp_path
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setattr("os.access", lambda path, mode: True)
    assert state_directory() == Path("/var/lib/popproxy")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_directory() == tmp_path / "state" / "popproxy"


def test_a_group_is_compiled_with_what_sets_its_servers_apart(good: Good) -> None:
    text = (
        '[upstream.main]\nservers = ["pop3s://a", { url = "pop3://b:1", weight = 3, max_sessions = 7 }]\n'
        'balance = "sticky"\nmax_sessions = 9\nqueue = 4\nqueue_timeout = "2s"\n'
        '[upstream.main.health]\nfall = 5\nrise = 2\nbackoff = 3\nlongest = "1m"\n'
    )
    plan = good(text).plan.upstreams["main"]
    assert [(server.host, server.weight, server.max_sessions) for server in plan.servers] == [("a", 1, 0), ("b", 3, 7)]
    assert (plan.balance, plan.max_sessions, plan.queue, plan.queue_timeout) == ("sticky", 9, 4, 2.0)
    assert plan.health == HealthPlan(5, 2, 3.0, 60.0)
    assert (plan.policy.tls, plan.policy.servers, plan.policy.sticky) == ("starttls", 2, True)


def test_one_server_is_never_sticky(good: Good) -> None:
    policy = good('[upstream.main]\nservers = ["pop3s://a"]\nbalance = "sticky"\n').plan.upstreams["main"].policy
    assert (policy.servers, policy.sticky) == (1, False)
