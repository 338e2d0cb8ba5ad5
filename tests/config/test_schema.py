from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, TypeAdapter

from popproxy.config.load import load
from popproxy.config.models import Config
from popproxy.config.reference import reference
from popproxy.config.schema import DIALECT, example, schema, schema_text
from popproxy.config.translate import model_in, toml
from popproxy.config.values import Context


def keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    """Every key with its model."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}", model, name
        inner = model_in(field.annotation)
        if inner is not None:
            yield from keys(inner, f"{path}{name}.")


def test_every_key_is_documented() -> None:
    for path, model, name in keys(Config):
        description = model.model_fields[name].description
        assert description and description.endswith("."), path
        assert model.__doc__, model


def test_the_example_loads_and_has_every_section(tmp_path: Path) -> None:
    file = tmp_path / "popproxy.toml"
    file.write_text(example())
    loaded = load(file)
    assert example().startswith("#:schema ./popproxy.schema.json\n")
    assert set(tomllib.loads(example())) == set(Config.model_fields)
    assert [warning.key for warning in loaded.warnings] == ["tls.certificates"]


def test_the_example_names_every_key_of_its_sections() -> None:
    text = example()
    unnamed = [
        path
        for path, _, name in keys(Config)
        if not path.startswith(("timeouts.", "limits.")) and not re.search(rf"\b{name}\b", text)
    ]
    assert unnamed == ["listener.unix_mode", "admin.unix_mode"]


def test_the_commented_lines_of_the_example_are_good_too(tmp_path: Path) -> None:
    """What stands behind # is loaded as well, alternatives one by one, files left aside."""
    lines = example().split("\n")
    loaded = 0
    for number, line in enumerate(lines):
        found = re.match(r"# ([a-z_]+ *= .*)", line)
        if found is None or re.search(r"\.pem|\.log|server_name|mail-key", line):
            continue
        file = tmp_path / "popproxy.toml"
        key = found[1].split()[0]
        others = ["" if re.match(rf"{key} *=", other) and key != "name" else other for other in lines]
        file.write_text("\n".join([*others[:number], found[1], *others[number + 1 :]]))
        load(file)
        loaded += 1
    assert loaded >= 9


@pytest.mark.parametrize(
    ("model", "name"), [pytest.param(model, name, id=path) for path, model, name in keys(Config)]
)
def test_every_example_of_the_schema_is_accepted(
    model: type[BaseModel], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = model.model_fields[name]
    monkeypatch.setattr("popproxy.config.values.unreadable", lambda path: "")
    monkeypatch.setattr("popproxy.config.secrets._read", lambda path: "x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    annotation: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    for value in field.examples or ():
        assert tomllib.loads(f"key = {toml(value)}")["key"] == value
        adapter.validate_python(value, context=Context(tmp_path))


def test_the_schema_says_what_it_is_and_knows_no_null() -> None:
    made = schema()
    assert made["$schema"] == DIALECT
    assert next(iter(made)) == "$schema"
    assert made["additionalProperties"] is False
    assert made["$defs"]["PluginTable"]["additionalProperties"] is True
    assert "null" not in schema_text()
    assert json.loads(schema_text()) == made


def test_no_default_in_the_schema_is_of_a_wrong_type() -> None:
    for name, model in schema()["$defs"].items():
        for key, node in model["properties"].items():
            if "default" in node and "type" in node:
                kind = {"string": str, "integer": int, "boolean": bool, "array": list}[node["type"]]
                assert isinstance(node["default"], kind), (name, key)


def test_the_reference_has_every_key_in_a_row() -> None:
    text = reference()
    for path, _, name in keys(Config):
        if "." in path or name == "default_upstream":
            assert f"| `{name}` |" in text, path
    for title in ("[[listener]]", "[upstream.NAME]", "[[plugin]]", "[tls]", "[admin]", "listener.proxy_protocol"):
        assert re.search(rf"^#+ `{re.escape(title)}`$", text, re.MULTILINE), title
