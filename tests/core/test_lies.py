"""Verdicts that cannot stand."""

from __future__ import annotations

from typing import Any

import pytest

from popproxy.api import (
    Answer,
    Bearer,
    BodyFilter,
    Capabilities,
    Code,
    Command,
    Credentials,
    Dates,
    Digest,
    Edit,
    External,
    Grow,
    Hangup,
    HeaderFilter,
    Hide,
    Hold,
    Keep,
    Pace,
    Password,
    Plugin,
    Refuse,
    Rename,
    Replace,
    Rewrite,
    Route,
    Sizes,
    Verified,
    Verifier,
    parse,
)
from popproxy.api.plugin import HOOKS
from popproxy.core.lies import ALLOWED, Lie, check, check_growth, unsendable

VERDICTS: list[Any] = [
    Refuse(),
    Hold(2.5),
    Answer(True),
    Hangup(),
    Keep("kept"),
    Rewrite(parse(b"NOOP")),
    Verifier(b"salt", 4096, b"s" * 20, b"k" * 20),
    Rename("joe"),
    Route(),
    Hide(frozenset({1})),
    Sizes({1: 2}),
    Grow(64),
    Dates(frozenset({1})),
    Edit(add=[("X", "y")], remove=["Z*"]),
    Replace(b"x"),
    Capabilities([(b"TOP", ()), (b"SASL", (b"PLAIN", b"LOGIN"))]),
    BodyFilter(),
    frozenset({"growth", "on_reply"}),
    (Pace(1, 1), Pace(2.5, 1)),
]


@pytest.mark.parametrize("hook", ALLOWED)
def test_each_hook_takes_its_own(hook: str) -> None:
    for verdict in VERDICTS:
        if isinstance(verdict, ALLOWED[hook]):
            check(hook, verdict)
        else:
            with pytest.raises(Lie, match=f"returned {type(verdict).__name__}; allowed: "):
                check(hook, verdict)


def test_every_hook_with_a_verdict_is_known() -> None:
    assert set(ALLOWED) == set(HOOKS) - {"on_close"}
    assert all(hasattr(Plugin, hook) for hook in ALLOWED)


@pytest.mark.parametrize("verdict", [True, 0, "", b"", [], object(), Refuse, NotImplemented])
def test_strangers(verdict: object) -> None:
    with pytest.raises(Lie):
        check("on_command", verdict)


def test_promise_8_no_code_hides_in_a_text() -> None:
    for verdict in (Keep("[x"), Refuse("[AUTH] no", None), Answer(False, "[AUTH] no"), Answer(True, "[x")):
        with pytest.raises(Lie, match="read as a code"):
            check("on_command", verdict)
    check("on_command", Refuse("[AUTH] no", Code.SYS_PERM))


@pytest.mark.parametrize("verdict", [frozenset({"on_close"}), frozenset({5}), frozenset({"on_login"})])
def test_unneeded_names_hooks_behind_the_login(verdict: object) -> None:
    with pytest.raises(Lie, match=r"unneeded: .* is none of growth, "):
        check("unneeded", verdict)


@pytest.mark.parametrize("verdict", ["fast", [5], (Pace(1, 1), None), b"x"])
def test_pace_is_a_list_of_paces(verdict: object) -> None:
    with pytest.raises(Lie, match="only Pace may be"):
        check("pace", verdict)


@pytest.mark.parametrize(
    "credentials",
    [
        Password("a\rb", b"x"),
        Password("a", b"x\ny"),
        Password("a", b"x", "\0"),
        Password("", b"x"),
        Password("a", b""),
        Password("\ud800", b"x"),
        Bearer("a", b"x\r\n"),
        Bearer("a", b""),
        Bearer("a", b"x", "b\n"),
        Verified("a\n"),
        Verified("a", "\r"),
        Verified(""),
        Digest("a\n", "APOP", b"<1@a>", b"0"),
        Digest("", "APOP", b"<1@a>", b"0"),
        Digest("a", "APOP", b"", b"0"),
        Digest("a", "APOP", b"<1@a>", b""),
        Digest("a", "APOP", b"<1@a>", b"0\r"),
        External(""),
        Password(5, b"x"),  # type: ignore[arg-type]
        Password("a", "x"),  # type: ignore[arg-type]
        Bearer("a", None),  # type: ignore[arg-type]
        Verified(None),  # type: ignore[arg-type]
    ],
)
def test_promise_1_unsendable_credentials(credentials: Credentials) -> None:
    assert unsendable(credentials)
    with pytest.raises(Lie, match="Route"):
        check("on_login", Route(None, credentials))


@pytest.mark.parametrize(
    "credentials",
    [
        Password("j\udcf6e", b" x \xff", "ann"),
        Bearer("a@b", b"t", "ann"),
        Bearer("", b"t"),
        Verified("ü", "ann"),
        External("a b"),
        Digest("a", "CRAM-MD5", b"<1@a>", b"0" * 32),
    ],
)
def test_sendable_credentials(credentials: Credentials) -> None:
    assert unsendable(credentials) is None
    check("on_login", Route("main", credentials))


def test_nobody_is_called_nothing() -> None:
    with pytest.raises(Lie, match="empty"):
        check("on_verifier", Rename(""))


@pytest.mark.parametrize("octets", [-1, 1, 47, True, False, 64.0, "64", None])
def test_promise_7_a_growth_that_cannot_be(octets: Any) -> None:
    forged = Grow(0)
    object.__setattr__(forged, "octets", octets)
    with pytest.raises(Lie, match="a growth of"):
        check("on_maildrop", forged)
    with pytest.raises(Lie):
        check("growth", octets)


def test_growths() -> None:
    for octets in (0, 48, 5000):
        check("growth", octets)
        check("on_maildrop", Grow(octets))
        check_growth(HeaderFilter(growth=octets), octets)
    check_growth(HeaderFilter(growth=48), None)
    with pytest.raises(Lie, match="growth=48, but the plugin announced 0"):
        check_growth(HeaderFilter(growth=48), 0)
    with pytest.raises(Lie, match="growth=48, but the plugin announced 64"):
        check_growth(HeaderFilter(growth=48), 64)
    with pytest.raises(Lie, match="growth=0, but the plugin announced 64"):
        check_growth(BodyFilter(), 64)
    odd = HeaderFilter()
    odd.growth = 5
    with pytest.raises(Lie, match="a growth of 5"):
        check_growth(odd, None)


def test_sizes_are_not_negative() -> None:
    check("on_maildrop", Sizes({1: 0}))
    with pytest.raises(Lie, match="below 0"):
        check("on_maildrop", Sizes({1: -1}))


@pytest.mark.parametrize("name", [b"A\r\nB", b".", b"", b"A B\n", b"x" * 511])
def test_capabilities_that_would_break_the_reply(name: bytes) -> None:
    capabilities = Capabilities()
    capabilities._items[name] = ()
    with pytest.raises(Lie, match="no capability line"):
        check("on_capabilities", capabilities)


def test_the_text_of_a_lie_has_no_secret() -> None:
    with pytest.raises(Lie) as found:
        check("on_login", Route(None, Password("joe", b"sesame\n")))
    assert "sesame" not in str(found.value)
    command: Command = parse(b"NOOP")
    check("on_command", Rewrite(command))
