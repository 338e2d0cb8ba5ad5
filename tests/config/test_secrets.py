from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from popproxy.config.listener import Certificate
from popproxy.config.problems import Wrong
from popproxy.config.secrets import Secret, reveal
from popproxy.config.values import Context, Model


class Holder(Model):
    secret: Secret


def hold(value: object, base: Path = Path("/")) -> SecretStr:
    return Holder.model_validate({"secret": value}, context=Context(base)).secret


def test_a_secret_is_hidden_in_every_form(tmp_path: Path) -> None:
    holder = Holder.model_validate({"secret": "hunter2"})
    for text in (repr(holder), str(holder), repr(holder.model_dump()), holder.model_dump_json()):
        assert "hunter2" not in text
    assert holder.secret.get_secret_value() == "hunter2"


@pytest.mark.parametrize("content", ["hunter2", "hunter2\n", "hunter2\r\n"])
def test_by_file_relative_to_the_config(tmp_path: Path, content: str) -> None:
    (tmp_path / "pass").write_bytes(content.encode())
    assert hold({"file": "pass"}, tmp_path).get_secret_value() == "hunter2"


def test_only_one_line_end_is_taken_off(tmp_path: Path) -> None:
    (tmp_path / "pass").write_text(" a b \n\n")
    assert hold({"file": "pass"}, tmp_path).get_secret_value() == " a b \n"


def test_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "hunter2")
    assert hold({"env": "SOME_SECRET"}).get_secret_value() == "hunter2"


def test_by_systemd_credential(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert hold({"credential": "key"}).get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "exactly one source"),
        ({"file": "a", "env": "b"}, "exactly one source"),
        ({"fil": "a"}, "exactly one source"),
        ({"file": 1}, "must be a string"),
        ({"file": ""}, "must be a string"),
        ({"file": "missing"}, "cannot read /nowhere/missing: No such file"),
        ({"env": "POPPROXY_NOT_SET"}, "POPPROXY_NOT_SET is not set"),
        ({"credential": "key"}, "needs $CREDENTIALS_DIRECTORY"),
    ],
)
def test_what_is_wrong_with_a_source(monkeypatch: pytest.MonkeyPatch, value: object, message: str) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(Wrong) as caught:
        reveal(value, Path("/nowhere"))
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["../passwd", "..", "a/b"])
def test_a_credential_is_no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(Wrong, match="no credential name"):
        reveal({"credential": name}, tmp_path)


def test_empty_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(Wrong, match="is empty"):
        reveal({"file": "empty"}, tmp_path)
    with pytest.raises(Wrong, match="not UTF-8"):
        reveal({"file": "binary"}, tmp_path)


@pytest.mark.parametrize("value", [123456789, True, "", ["hunter2"], None])
def test_no_secret_and_its_value_is_not_repeated(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        hold(value)
    assert "123456789" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_certificate_hides_its_password(tmp_path: Path) -> None:
    (tmp_path / "cert").write_text("x")
    table = Certificate.model_validate({"cert": "cert", "password": "hunter2"}, context=Context(tmp_path))
    assert "hunter2" not in repr(table)
