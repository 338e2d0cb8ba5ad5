from __future__ import annotations

import errno
import socket

import pytest

from popproxy.config import defaults
from popproxy.config.defaults import default_config, with_admin
from popproxy.config.problems import ConfigError


def binds(monkeypatch: pytest.MonkeyPatch, trouble: int | None) -> None:
    """Lets every bind to a port under 1024 end in ``trouble``."""
    real = socket.socket.bind

    def bind(self: socket.socket, address: tuple[str, int]) -> None:
        if 0 < address[1] < 1024:
            if trouble is not None:
                raise OSError(trouble, "no")
            return
        real(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind)


def addresses(listeners: object) -> list[str]:
    return [str(bind) for listener in listeners for bind in listener.bind]  # type: ignore[attr-defined]


def test_the_usual_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    binds(monkeypatch, None)
    monkeypatch.setattr(defaults, "_has_ipv6", lambda: True)
    loaded, notes = default_config("pop3s://mail.example.com")
    assert addresses(loaded.plan.listeners) == ["[::]:995", "[::]:110"]
    assert [listener.tls for listener in loaded.plan.listeners] == ["implicit", "starttls"]
    assert notes == ()
    assert loaded.plan.upstreams["main"].servers[0].url == "pop3s://mail.example.com:995"
    assert loaded.plan.admin is not None and str(loaded.plan.admin.binds[0]) == "127.0.0.1:9110"
    assert loaded.plan.log.format == "console"
    assert loaded.plan.source is None


def test_other_ports_where_low_ones_are_not_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    binds(monkeypatch, errno.EACCES)
    monkeypatch.setattr(defaults, "_has_ipv6", lambda: False)
    loaded, (note,) = default_config("pop3s://mail.example.com")
    assert addresses(loaded.plan.listeners) == ["0.0.0.0:1995", "0.0.0.0:1110"]
    assert "1995" in note and "CAP_NET_BIND_SERVICE" in note and "--listen" in note


def test_a_port_in_use_is_a_permitted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    binds(monkeypatch, errno.EADDRINUSE)
    loaded, notes = default_config("pop3s://mail.example.com")
    assert notes == ()
    assert loaded.plan.listeners[0].bind[0].port == 995


def test_listen_replaces_the_listeners() -> None:
    loaded, notes = default_config(
        "pop3://mail.example.com",
        ["pop3s://127.0.0.1:9995", "pop3://127.0.0.1:1110", "pop3+clear://127.0.0.1:1111", "pop3s://[::1]:9995"],
    )
    assert [(listener.name, listener.tls) for listener in loaded.plan.listeners] == [
        ("pop3s", "implicit"),
        ("pop3", "starttls"),
        ("pop3-clear", "off"),
        ("pop3s-2", "implicit"),
    ]
    assert [listener.session.auth_before_tls for listener in loaded.plan.listeners] == [False, False, True, False]
    assert notes == ()


def test_all_that_is_wrong_on_the_command_line() -> None:
    with pytest.raises(ConfigError) as caught:
        default_config("mail.example.com", ["pop3s://localhost", "x"], "9110")
    assert [str(problem).split(": ")[:2] for problem in caught.value.problems] == [
        ["command line", "--upstream"],
        ["command line", "--listen"],
        ["command line", "--listen"],
        ["command line", "--admin"],
    ]


def test_a_listener_that_would_connect_to_itself() -> None:
    with pytest.raises(ConfigError) as caught:
        default_config("pop3s://127.0.0.1:9995", ["pop3s://127.0.0.1:9995"])
    assert "itself" in str(caught.value)


def test_the_admin_listener_can_be_moved_and_left_out() -> None:
    loaded, _ = default_config("pop3s://mail.example.com", ["pop3s://127.0.0.1:9995"], "off")
    assert loaded.plan.admin is None
    moved = with_admin(loaded, "[::1]:1")
    assert moved.plan.admin is not None and str(moved.plan.admin.binds[0]) == "[::1]:1"
    assert with_admin(moved, "off").plan.admin is None
    with pytest.raises(ConfigError, match="--admin: a name cannot be bound"):
        with_admin(loaded, "localhost:1")


def test_without_ipv6_all_addresses_are_those_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoIpv6(socket.socket):
        def __init__(self, family: int = -1, *rest: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "no")
            super().__init__(family, *rest)

    monkeypatch.setattr("socket.socket", NoIpv6)
    monkeypatch.setattr(defaults, "_may_bind", lambda port: True)
    loaded, _ = default_config("pop3s://mail.example.com")
    assert addresses(loaded.plan.listeners) == ["0.0.0.0:995", "0.0.0.0:110"]
