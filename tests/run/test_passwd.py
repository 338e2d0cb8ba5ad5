"""popproxy passwd: entries made and checked; the password comes by terminal or standard input, never by argv."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from popproxy.run import asked, secret
from popproxy.run.cli import main

CHEAP = ["--scheme", "ssha512"]


class Input(io.TextIOWrapper):
    """Standard input with these octets; a terminal when it has ``answers``."""

    def __init__(self, octets: bytes = b"", answers: Sequence[str] = ()) -> None:
        super().__init__(io.BytesIO(octets))
        self.answers = list(answers)

    def isatty(self) -> bool:
        return bool(self.answers)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> object:
    def tell(octets: bytes = b"", answers: Sequence[str] = ()) -> None:
        stdin = Input(octets, answers)
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(secret.getpass, "getpass", lambda prompt: stdin.answers.pop(0))

    return tell


def test_made_and_checked(told: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for octets in (b"sesame\n", b"sesame\r\n", b"sesame", b"s\xffme\nmore\n"):
        told(octets)  # type: ignore[operator]
        assert main(["passwd", "joe", *CHEAP]) == 0
        line = capsys.readouterr().out
        assert line.startswith("joe:{SSHA512}")
        (tmp_path / "users").write_text(line)
        told(octets)  # type: ignore[operator]
        assert main(["passwd", "joe", "--verify", str(tmp_path / "users")]) == 0
        assert "right" in capsys.readouterr().err
        told(b"other\n")  # type: ignore[operator]
        assert main(["passwd", "joe", "--verify", str(tmp_path / "users")]) == asked.EX_WRONG
        assert "wrong" in capsys.readouterr().err


def test_without_a_name_only_the_password(told: object, capsys: pytest.CaptureFixture[str]) -> None:
    told(b"sesame\n")  # type: ignore[operator]
    assert main(["passwd", *CHEAP]) == 0
    assert capsys.readouterr().out.startswith("{SSHA512}")


def test_the_default_is_argon2id(told: object, capsys: pytest.CaptureFixture[str]) -> None:
    told(b"sesame\n")  # type: ignore[operator]
    assert main(["passwd", "joe", "--rounds", "1"]) == 0
    assert capsys.readouterr().out.startswith("joe:{ARGON2ID}$argon2id$v=19$m=65536,t=1,p=1$")


def test_a_terminal_is_asked_twice(told: object, capsys: pytest.CaptureFixture[str]) -> None:
    told(answers=["sesame", "sesame"])  # type: ignore[operator]
    assert main(["passwd", "joe", *CHEAP]) == 0
    told(answers=["sesame", "sesami"])  # type: ignore[operator]
    assert main(["passwd", "joe", *CHEAP]) == asked.EX_DATAERR
    assert "not the same" in capsys.readouterr().err


def test_a_terminal_that_ends(
    told: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(prompt: str) -> str:
        raise EOFError

    told(answers=["never read"])  # type: ignore[operator]
    monkeypatch.setattr(secret.getpass, "getpass", ended)
    assert main(["passwd", "joe", *CHEAP]) == asked.EX_DATAERR
    assert "no password was given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "octets", "code", "words"),
    [
        (["joe"], b"\n", asked.EX_DATAERR, "1 to 1024 octets"),
        (["joe", "--scheme", "md4"], b"", asked.EX_DATAERR, "is not made; there are ARGON2ID"),
        (["a:b"], b"x\n", asked.EX_DATAERR, "cannot be a name"),
        (["a\x01b"], b"x\n", asked.EX_DATAERR, "cannot be a name"),
        (["#a"], b"x\n", asked.EX_DATAERR, "cannot be a name"),
        (["joe", "--scheme", "blf-crypt", "--rounds", "99"], b"x\n", asked.EX_DATAERR, "4 to 20"),
        (["--verify", "users"], b"x\n", asked.EX_USAGE, "needs the name"),
        (["joe", "--verify", "none"], b"x\n", asked.EX_DATAERR, "none: No such file"),
        (["eve", "--verify", "users"], b"x\n", asked.EX_DATAERR, "users has no user 'eve'"),
        (["ann", "--verify", "users"], b"x\n", asked.EX_DATAERR, "users:2: ann has no password"),
        (["joe", "--verify", "broken"], b"x\n", asked.EX_DATAERR, "broken:2: no colon"),
    ],
)
def test_what_cannot_be_done(
    arguments: list[str],
    octets: bytes,
    code: int,
    words: str,
    told: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users").write_text("joe:{PLAIN}x\nann:\n")
    (tmp_path / "broken").write_text("joe:{PLAIN}x\nann\n")
    told(octets)  # type: ignore[operator]
    assert main(["passwd", *arguments]) == code
    assert words in capsys.readouterr().err


def test_a_password_is_no_argument() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "popproxy", "passwd", "joe", "sesame"], capture_output=True, text=True, check=False
    )
    assert done.returncode == asked.EX_USAGE
    assert "unrecognized arguments" in done.stderr
