from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from popproxy.api import PluginConfig, ReadableFile


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
