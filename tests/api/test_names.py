"""Plugin.check: a plugin says what does not fit the rest of the config."""

from __future__ import annotations

import pytest

from popproxy.api import ConfigNames, Plugin, PluginConfig, Problem

NAMES = ConfigNames(("main", "archive"), ("pop3s",))


def test_a_name_that_exists_is_no_problem() -> None:
    assert NAMES.upstream(("to",), "archive") == []
    assert NAMES.listener(("at",), "pop3s") == []


@pytest.mark.parametrize(
    ("problems", "hint"),
    [
        (NAMES.upstream(("rules", 2, "to"), "archiv"), "did you mean archive?"),
        (NAMES.upstream(("rules", 2, "to"), "x"), "write one of: main, archive"),
        (ConfigNames().upstream(("rules", 2, "to"), "x"), "leave it out"),
    ],
)
def test_a_name_that_does_not_exist(problems: list[Problem], hint: str) -> None:
    assert [problem.key for problem in problems] == [("rules", 2, "to")]
    assert problems[0].message.startswith("there is no upstream ")
    assert problems[0].hint == hint


def test_the_kind_is_named() -> None:
    assert NAMES.listener((), "pop3")[0].message == "there is no listener 'pop3'"


def test_who_overrides_nothing_has_no_problem() -> None:
    assert list(Plugin(PluginConfig()).check(NAMES)) == []


def test_the_signature_is_looked_at() -> None:
    with pytest.raises(TypeError, match=r"write \(self, names\)"):

        class Wrong(Plugin[PluginConfig]):
            def check(self) -> list[Problem]:  # type: ignore[override]
                return []

    with pytest.raises(TypeError, match="plain def"):

        class Waits(Plugin[PluginConfig]):
            async def check(self, names: ConfigNames) -> list[Problem]:  # type: ignore[override]
                return []
