"""What docs/ says about the config is what the models say."""

from __future__ import annotations

from pathlib import Path

import pytest

from popproxy.config.reference import reference
from popproxy.config.schema import example, schema_text

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("name", "command", "text"),
    [
        ("configuration.md", "reference", reference()),
        ("popproxy.schema.json", "schema", schema_text()),
        ("popproxy.example.toml", "example", example()),
    ],
)
def test_the_committed_file_is_what_is_generated(name: str, command: str, text: str) -> None:
    assert (DOCS / name).read_text("utf-8") == text, f"write it again: popproxy config {command} > docs/{name}"
