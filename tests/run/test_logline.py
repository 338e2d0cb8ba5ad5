"""Events as lines: one line, ASCII, harmless types only, whatever the fields hold."""

import json
from enum import Enum
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Bearer, Password
from popproxy.run.logline import LINE, as_json, clean, console, shown

TIME = "2026-11-23T10:11:12.345Z"
SECRET = "hunter2-swordfish"
plain = console(False)


class Colour(Enum):
    RED = "red"
    BLOB = b"blob"


def one(**fields: object) -> Any:
    line = as_json(TIME, "info", "session", fields)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and len(line) <= LINE
    return json.loads(line)


def test_json_begins_with_time_level_event() -> None:
    assert as_json(TIME, "info", "session", {"user": "é", "tls": None, "n": 1.5}) == (
        b'{"time":"2026-11-23T10:11:12.345Z","level":"info","event":"session","user":"\\u00e9","tls":null,"n":1.5}\n'
    )


def test_harmless_types_are_shown() -> None:
    found = one(
        a=ip_address("192.0.2.1"), b=ip_network("2001:db8::/32"), c=Path("/etc/x"), d=Colour.RED, e=(1, True),
        f=MappingProxyType({"RETR": 2}), g={"y", "x"}, h=frozenset([3]),
    )  # fmt: skip
    del found["time"], found["level"], found["event"]
    assert found == {
        "a": "192.0.2.1", "b": "2001:db8::/32", "c": "/etc/x", "d": "red", "e": [1, True], "f": {"RETR": 2},
        "g": ["x", "y"], "h": [3],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Password("u", SECRET.encode()), "<Password hidden>"),
        (Bearer("u", SECRET.encode()), "<Bearer hidden>"),
        (SECRET.encode(), "<bytes hidden>"),
        (bytearray(SECRET.encode()), "<bytearray hidden>"),
        (memoryview(SECRET.encode()), "<memoryview hidden>"),
        (ValueError(SECRET), "<ValueError hidden>"),
        (Colour.BLOB, "<bytes hidden>"),
        ([Password("u", SECRET.encode())], ["<Password hidden>"]),
        ({"deep": {"er": SECRET.encode()}}, {"deep": {"er": "<bytes hidden>"}}),
        ({SECRET.encode(): 1}, {"<bytes hidden>": 1}),
    ],
)
def test_secrets_are_hidden_by_type(value: object, expected: object) -> None:
    assert one(value=value)["value"] == expected
    for line in (as_json(TIME, "info", "x", {"value": value}), plain(TIME, "info", "x", {"value": value})):
        assert SECRET.encode() not in line


def test_what_json_cannot_have_is_cleaned() -> None:
    loop: list[object] = [1]
    loop.append(loop)
    assert one(value=float("nan"), other=float("-inf")) == {
        "time": TIME, "level": "info", "event": "session", "value": "nan", "other": "-inf",
    }  # fmt: skip
    assert one(value=loop)["value"] == [1, [1, [1, "..."]]]
    assert one(value=10**5000)["value"] == "<int hidden>"
    assert one(value=float("nan"), deep={"a": {"b": {"c": {"d": {}}}}})["deep"] == {"a": {"b": {"c": "..."}}}
    assert one(value=float("nan"), at={ip_address("::1"): 1, "n": 5})["at"] == {"::1": 1, "n": 5}
    assert clean({"x"}, 1) == ["x"]
    assert clean({"x"}, 0) == "..."


def test_a_long_line_is_cut() -> None:
    found = one(detail="x" * LINE, many=list(range(9999)), ok=True)
    assert found["detail"] == "x" * 512 + f"... ({LINE} characters)"
    assert found["many"] == list(range(32))
    assert found["ok"] is True


def test_a_line_that_cannot_be_cut_says_so() -> None:
    found = json.loads(as_json(TIME, "info", "e" * 9999, {f"f{n}": [["x" * 500] * 9] * 9 for n in range(200)}))
    assert found == {
        "time": TIME, "level": "info", "event": "e" * 512,
        "detail": f"200 fields are too long for a line of {LINE} octets",
    }  # fmt: skip


def test_console() -> None:
    line = plain(
        TIME, "info", "session",
        {
            "client": "192.0.2.1", "user": "a b", "seconds": 1.23456, "commands": {"RETR": 2, "XTND XLST": 1},
            "tls": "", "code": None, "detail": 'x="y"\n', "list": [1], "none": {},
        },
    )  # fmt: skip
    assert line == (
        b'10:11:12.345 INFO    session client=192.0.2.1 user="a b" seconds=1.235 commands=RETR:2,"XTND XLST":1 '
        b'detail="x=\\"y\\"\\n" list=[1] none={}\n'
    )


def test_console_in_colour() -> None:
    assert console(True)(TIME, "error", "stopped", {"n": 1}) == (
        b"10:11:12.345 \x1b[31mERROR  \x1b[0m \x1b[1mstopped\x1b[0m n=1\n"
    )


def test_console_lines_are_cut() -> None:
    assert len(plain(TIME, "info", "x", {"detail": "y" * LINE * 2})) == LINE


def test_shown_does_not_know_numbers() -> None:
    assert shown(1j) == "<complex hidden>"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4))


@settings(max_examples=200, deadline=None)
@given(st.text(), st.dictionaries(st.text(), VALUES, max_size=5))
def test_any_value_becomes_one_ascii_line(event: str, fields: dict[str, object]) -> None:
    for encode in (as_json, plain):
        line = encode(TIME, "warning", event, fields)
        assert line.endswith(b"\n")
        assert all(0x20 <= octet < 0x7F for octet in line[:-1])
    json.loads(as_json(TIME, "warning", event, fields))


USUAL = st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NAMES = st.text("%sd{}\"e\u00e9") | st.just("event")


@settings(max_examples=200, deadline=None)
@given(
    st.text("%s{}a\u00e9"),
    st.dictionaries(NAMES, USUAL | st.booleans() | st.dictionaries(st.text(), USUAL), max_size=6),
)
def test_usual_types_are_written_as_json_writes_them(event: str, fields: dict[str, object]) -> None:
    """To the octet, by whichever way."""
    record = {"time": TIME, "level": "info", "event": event, **fields}
    assert as_json(TIME, "info", event, fields).decode() == json.dumps(record, separators=(",", ":")) + "\n"


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text())
def test_no_value_looks_like_another_field(a: str, b: str) -> None:
    line = plain(TIME, "info", "x", {"a": a, "b": b}).decode()
    expected = [name for name, value in (("a", a), ("b", b)) if value]
    rest, found = line[len("10:11:12.345 INFO    x") :].rstrip("\n"), []
    while rest:
        name, _, rest = rest[1:].partition("=")
        found.append(name)
        if rest.startswith('"'):
            _, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:]
        else:
            _, space, rest = rest.partition(" ")
            rest = space + rest
    assert found == expected
