from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from popproxy.config.load import load
from popproxy.config.plan import Plan
from popproxy.run.explain import Explanation, ListenerView, PluginView, Skipped, explain, render

CONFIG = """
default_upstream = "main"
[[listener]]
name = "pop3s"
bind = ["[::]:995"]
tls = "implicit"
[[listener]]
name = "pop3"
bind = ["0.0.0.0:110"]
tls = "starttls"
[[listener]]
name = "local"
bind = ["127.0.0.1:1110", "unix:/run/x"]
tls = "off"
auth_before_tls = "allow"
[[listener]]
name = "balanced"
bind = ["[::]:2110"]
tls = "off"
proxy_protocol = { trusted = ["10.0.0.0/8"] }
[upstream.main]
servers = ["pop3s://a", "pop3://b"]
[upstream.other]
servers = ["pop3+clear://127.0.0.1:1100"]
[[plugin]]
use = "explained_plugins:Everything"
name = "first"
secret = "hunter2"
[[plugin]]
use = "explained_plugins:Everything"
name = "second"
fail = "closed"
deadline = "3s"
secret = "hunter2"
when = { user = ["*@example.com"], network = ["192.0.2.0/24"], tls = true }
"""

PLUGIN = """
from pydantic import SecretStr
from popproxy.api import BodyFilter, Plugin, PluginConfig

class Options(PluginConfig):
    secret: SecretStr

class Everything(Plugin[Options]):
    def on_connect(self, session):
        return None

    def on_capabilities(self, session, capabilities):
        return None

    async def on_login(self, session, credentials):
        return None

    def on_reply(self, session, command, reply):
        return None

    def open_body(self, session, command):
        return BodyFilter()
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "explained_plugins.py").write_text(PLUGIN)
    (tmp_path / "popproxy.toml").write_text(CONFIG)
    return load(tmp_path / "popproxy.toml").plan


def one(explanation: Explanation, name: str) -> ListenerView:
    return next(listener for listener in explanation.listeners if listener.name == name)


def names(plugins: tuple[PluginView, ...]) -> list[str]:
    return [plugin.name for plugin in plugins]


def test_the_chain_is_in_call_order_with_conditions_evaluated(plan: Plan) -> None:
    chain = one(explain(plan, "bob@Example.com", "192.0.2.9"), "pop3s").chain
    assert names(chain["on_login"]) == ["first", "second"]
    assert names(chain["on_reply"]) == ["second", "first"]
    assert names(chain["open_body"]) == ["second", "first"]
    assert names(chain["on_capabilities (after login)"]) == ["second", "first"]
    assert "on_command" not in chain


def test_a_condition_on_the_user_does_not_hold_before_login(plan: Plan) -> None:
    chain = one(explain(plan, "bob@example.com", "192.0.2.9"), "pop3s").chain
    assert names(chain["on_connect"]) == ["first"]
    assert names(chain["on_capabilities (before login)"]) == ["first"]


def test_only_what_can_be_awaited_has_a_deadline(plan: Plan) -> None:
    chain = one(explain(plan, "bob@example.com", "192.0.2.9"), "pop3s").chain
    assert chain["on_login"] == (PluginView("first", "open", 10.0), PluginView("second", "closed", 3.0))
    assert chain["on_reply"] == (PluginView("second", "closed", None), PluginView("first", "open", None))


@pytest.mark.parametrize(
    ("user", "ip", "tls", "because"),
    [
        ("bob@example.org", "192.0.2.9", None, ("user",)),
        ("bob", "198.51.100.1", None, ("user", "network")),
        ("bob@example.com", "192.0.2.9", False, ("tls",)),
        ("bob@example.com", "2001:db8::1", False, ("network", "tls")),
    ],
)
def test_a_plugin_that_is_skipped_says_why(
    plan: Plan, user: str, ip: str, tls: bool | None, because: tuple[str, ...]
) -> None:
    listener = one(explain(plan, user, ip, tls=tls), "pop3")
    assert listener.skipped == (Skipped("second", because),)
    assert names(listener.chain["on_login"]) == ["first"]


def test_an_ipv4_address_in_ipv6_is_the_ipv4_address(plan: Plan) -> None:
    assert one(explain(plan, "bob@example.com", "::ffff:192.0.2.9"), "pop3s").skipped == ()


@pytest.mark.parametrize(
    ("listener", "ip", "connects"),
    [
        ("pop3s", "192.0.2.1", True),
        ("pop3s", "2001:db8::1", True),
        ("pop3", "192.0.2.1", True),
        ("pop3", "2001:db8::1", False),
        ("local", "127.0.0.1", True),
        ("local", "192.0.2.1", False),
        ("local", "::1", False),
        ("balanced", "10.1.2.3", True),
        ("balanced", "192.0.2.1", False),
    ],
)
def test_whether_an_address_may_connect(plan: Plan, listener: str, ip: str, connects: bool) -> None:
    view = one(explain(plan, "bob", ip), listener)
    assert view.connects is connects
    assert view.connects_because


@pytest.mark.parametrize(
    ("listener", "tls", "session_tls", "logs_in"),
    [
        ("pop3s", None, True, True),
        ("pop3s", False, True, True),
        ("pop3", None, True, True),
        ("pop3", False, False, False),
        ("local", None, False, True),
        ("local", True, False, True),
        ("balanced", None, False, False),
        ("balanced", True, True, True),
    ],
)
def test_whether_a_login_is_allowed(
    plan: Plan, listener: str, tls: bool | None, session_tls: bool, logs_in: bool
) -> None:
    view = one(explain(plan, "bob", "192.0.2.1", tls=tls), listener)
    assert (view.session_tls, view.logs_in) == (session_tls, logs_in)


def test_the_upstream(plan: Plan) -> None:
    upstream = explain(plan, "bob", "192.0.2.1").upstreams[0]
    assert upstream.name == "main"
    assert [server.url for server in upstream.servers] == ["pop3s://a:995", "pop3://b:110"]
    assert upstream.servers[0].tls == "TLS from the first octet; the certificate is verified against the system's store"
    assert upstream.servers[1].tls.startswith("STLS, required")
    assert upstream.login.startswith("USER and PASS; AUTH")
    assert (upstream.routed_by, upstream.others) == (("first",), ("other",))


@pytest.mark.parametrize(
    ("more", "server", "login"),
    [
        (
            'servers = ["pop3+clear://127.0.0.1"]\nmechanism = "user"',
            "no TLS: passwords travel in clear",
            "USER and PASS",
        ),
        (
            'servers = ["pop3s://a"]\nverify = false\nmechanism = "plain"\ninitial_response = "never"',
            "TLS from the first octet; the certificate is not verified",
            "AUTH PLAIN, in two steps",
        ),
        (
            'servers = ["pop3s://a"]\nserver_name = "b"\nmechanism = "login"\ninitial_response = "always"',
            "TLS from the first octet; the certificate is verified for b against the system's store",
            "AUTH LOGIN, in one line",
        ),
        (
            'servers = ["pop3s://a"]\nmechanism = "xoauth2"',
            "TLS from the first octet; the certificate is verified against the system's store",
            "AUTH XOAUTH2 with a token, in one line when the server announces SASL and it fits",
        ),
    ],
)
def test_tls_and_mechanism_of_an_upstream(tmp_path: Path, more: str, server: str, login: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f'[[listener]]\nname = "a"\nbind = ["[::]:995"]\ntls = "implicit"\n[upstream.main]\n{more}\n')
    upstream = explain(load(file).plan, "bob", "192.0.2.1").upstreams[0]
    assert (upstream.servers[0].tls, upstream.login) == (server, login)


def test_bounds_that_apply(plan: Plan) -> None:
    explanation = explain(plan, "bob", "192.0.2.1")
    assert explanation.timeouts["idle"] == 600.0
    assert explanation.limits["bad_commands"] == 20


def test_one_listener_only_and_an_unknown_one(plan: Plan) -> None:
    assert [listener.name for listener in explain(plan, "bob", "192.0.2.1", "pop3").listeners] == ["pop3"]
    with pytest.raises(KeyError):
        explain(plan, "bob", "192.0.2.1", "imap")
    with pytest.raises(ValueError, match="does not appear"):
        explain(plan, "bob", "nowhere")


@pytest.mark.parametrize("shown", [render, lambda explanation: json.dumps(explanation.as_dict())])
def test_nothing_of_a_secret_is_shown(plan: Plan, shown: Callable[[Explanation], str]) -> None:
    text = shown(explain(plan, "bob@example.com", "192.0.2.9"))
    assert "second" in text
    assert "hunter2" not in text


def test_the_text(plan: Plan) -> None:
    text = render(explain(plan, "bob@example.com", "192.0.2.9", "pop3s"))
    assert text.startswith("bob@example.com from 192.0.2.9\n\nlistener pop3s  [::]:995  tls implicit\n")
    assert "\n    on_login                        first (fail open, 10s)  >  second (fail closed, 3s)\n" in text
    assert "\n  or       other, where first, second may route it\n" in text
    assert "  idle 600s  " in text
    skipped = render(explain(plan, "a\nb", "192.0.2.9", "local"))
    assert skipped.startswith("a\\nb from")
    assert "\n  skipped  second: when user, tls\n" in skipped


def test_a_listener_without_plugins(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(
        '[[listener]]\nname = "a"\nbind = ["[::]:995"]\ntls = "implicit"\n[upstream.main]\nservers = ["pop3s://x"]\n'
    )
    explanation = explain(load(file).plan, "bob", "192.0.2.1")
    assert "  chain    no plugin\n" in render(explanation)
    assert explanation.upstreams[0].routed_by == ()
