from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from popproxy.api import Duration, Network, Octets, PluginConfig, ReadableFile, StatusText
from popproxy.config.translate import words


class Options(PluginConfig):
    file: ReadableFile


@dataclass
class Context:
    base: Path


def test_a_relative_path_begins_at_the_config(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("")
    assert Options.model_validate({"file": "names"}, context=Context(tmp_path)).file == tmp_path / "names"
    assert Options.model_validate({"file": str(tmp_path / "names")}, context=Context(Path("/"))).file.is_absolute()


def test_without_a_config_it_begins_where_the_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").write_text("")
    assert Options(file=Path("names")).file == Path("names")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "is no path: write a string like"),
        ("a\0b", "is no path"),
        (5, "is no path"),
        (["names"], "is no path"),
        ("nowhere", "nowhere: No such file or directory; write the path of a file that popproxy may read"),
        ("plain/below", "Not a directory; write the path"),
        (".", "Is a directory; write the path"),
    ],
)
def test_what_is_refused_says_what_to_write(tmp_path: Path, value: object, message: str) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(ValidationError) as caught:
        Options.model_validate({"file": value}, context=Context(tmp_path))
    assert message in str(caught.value)


def test_its_schema_is_a_string() -> None:
    assert Options.model_json_schema()["properties"]["file"]["type"] == "string"


class Bounds(PluginConfig):
    every: Duration = 60.0
    most: Octets = 1000
    networks: tuple[Network, ...] = ()


def test_quantities_are_written_as_in_the_rest_of_the_config() -> None:
    bounds = Bounds.model_validate({"every": "1h30m", "most": "64KiB", "networks": ["192.0.2.0/24", "2001:db8::1"]})
    assert (bounds.every, bounds.most) == (5400.0, 65536)
    assert bounds.networks == (ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128"))


@pytest.mark.parametrize(
    ("key", "value", "message", "hint"),
    [
        ("every", "10", "'10' is no duration", 'write seconds (600) or a string like "90s", "10m", "1h30m"'),
        ("most", "64k", "'64k' is no size", 'write octets (65536) or a string like "64KiB", "1MiB"'),
        ("networks", ["10.1.2.3/8"], "'10.1.2.3/8' has bits set behind its prefix", 'write "10.0.0.0/8"'),
    ],
)
def test_a_wrong_quantity_says_what_to_write(key: str, value: object, message: str, hint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Bounds.model_validate({key: value})
    (error,) = caught.value.errors()
    assert words(error, Bounds, tuple(error["loc"])) == (message, hint)


def test_quantities_are_named_in_the_reference() -> None:
    properties = Bounds.model_json_schema()["properties"]
    assert [choice["type"] for choice in properties["every"]["anyOf"]] == ["number", "string"]
    assert [choice["type"] for choice in properties["most"]["anyOf"]] == ["integer", "string"]


class Said(PluginConfig):
    text: StatusText


@pytest.mark.parametrize("text", ["", "x" * 401, "two\r\nlines", "\u00fcber", "[AUTH] no", "tab\t"])
def test_what_cannot_stand_in_a_status_line_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="cannot be sent in a status line"):
        Said(text=text)


def test_a_status_text_stays_as_it_is_written() -> None:
    for text in ("x", "x" * 400, "Not now [try later]"):
        assert Said(text=text).text == text
