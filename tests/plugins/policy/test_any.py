"""Any rules, any session: no hook fails, every command is answered once, nothing goes that a rule keeps."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.policy import PolicyConfig
from pydantic import ValidationError

from tests.plugins.policy.test_audit import LINES, SETTINGS
from tests.plugins.policy.wire import Worker

BEHIND = sorted({*SETTINGS} - {"login", "networks", "hours", "tls", "mechanisms"})
RULES = st.lists(
    st.tuples(
        st.sampled_from(BEHIND).flatmap(lambda point: st.tuples(st.just(point), SETTINGS[point] | st.just(False))),
        st.sampled_from([None, ["joe"], ["ann"]]),
        st.sampled_from(["enforce", "audit"]),
    ),
    min_size=1,
    max_size=5,
)
MULTI = ("LIST", "UIDL", "CAPA", "RETR", "TOP")


def rules_of(drawn: list[tuple[tuple[str, Any], list[str] | None, str]]) -> list[dict[str, Any]]:
    """Rules that the config takes."""
    rules: list[dict[str, Any]] = []
    for number, ((point, value), user, mode) in enumerate(drawn):
        rule: dict[str, Any] = {"name": f"r{number}", point: value, "mode": mode}
        if user is not None:
            rule["when"] = {"user": user}
        try:
            PolicyConfig.model_validate({"rules": [rule]})
        except ValidationError:
            # ``false`` has no meaning for this one.
            rule[point] = {"dele": "allow"}.get(point, 5)
        rules.append(rule)
    return rules


@settings(max_examples=150, deadline=None)
@given(RULES, st.lists(st.sampled_from(LINES), max_size=25), st.sampled_from(["merge", "first"]), st.integers(1, 3))
def test_any_session_by_any_rules(
    drawn: list[tuple[tuple[str, Any], list[str] | None, str]], lines: list[bytes], match: str, sessions: int
) -> None:
    rules = rules_of(drawn)
    worker = Worker(*rules, match=match)
    for _ in range(sessions):
        client = worker.client(worker.message(3), worker.message(30, octets=400))
        said = client.send(b"USER joe\r\nPASS sesame\r\n")
        if said != b"+OK\r\n+OK welcome\r\n":
            assert said.startswith(b"+OK\r\n-ERR [")
            client.gone()
            continue
        for line in lines:
            reply = client.send(line + b"\r\n")
            if not client.open:
                break
            whole = reply.startswith(b"+OK") and line.split()[0].upper().decode() in MULTI and (
                len(line.split()) == 1 or line.split()[0].upper() in (b"RETR", b"TOP")
            )
            assert reply.endswith(b"\r\n.\r\n") if whole else reply.count(b"\r\n") == 1, (line, reply)
        if client.open:
            assert client.send(b"QUIT\r\n").startswith(b"+OK")
        client.gone()
        keeping = [rule for rule in rules if rule.get("when", {}).get("user") != ["ann"] and rule["mode"] == "enforce"]
        if keeping and keeping[0].get("dele") in ("keep", "refuse"):
            assert client.server.kept == [1, 2]
    assert worker.store.held == set()
