"""Whom a command asks, and what it says when nobody answers."""

from __future__ import annotations

import argparse
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from popproxy.run import asked
from popproxy.run.asked import EX_UNAVAILABLE, EX_USAGE, EX_WRONG
from popproxy.run.client import Client, Place, Refused, Unanswered
from popproxy.run.people import finding
from tests.run.people.conftest import Typed


def places(
    config: Path | None = None, admin: str | None = None, token: Path | None = None
) -> tuple[list[str], str | None]:
    found = finding.client(
        argparse.Namespace(admin=admin, config=config, token_file=token, ca_file=None, cert=None, json=False)
    )
    return [str(place) for place in found.places], found.token


def written(directory: Path, text: str) -> Path:
    path = directory / "popproxy.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["unix:{usual}"]),
        ("[admin]\nunix_mode = '0600'\n", ["unix:{usual}", "http://127.0.0.1:9110"]),
        ('[admin]\nbind = "unix:/x/y"\n', ["unix:/x/y"]),
        ('[admin]\nbind = ["[::1]:9110", "unix:/x/y", "unix:/z"]\n', ["unix:/x/y", "unix:/z", "http://[::1]:9110"]),
        ('[admin]\nbind = "0.0.0.0:9110"\ncert = "c.pem"\n', ["unix:{usual}", "https://127.0.0.1:9110"]),
    ],
)
def test_as_the_config_says(text: str, found: list[str], tmp_path: Path) -> None:
    """It need not be a good one: a running popproxy can be asked although the file has become bad."""
    usual = str(tmp_path / "usual.sock")
    path = written(tmp_path, text + "[listener]\nnonsense = 1\n")
    assert places(path)[0] == [place.replace("{usual}", usual) for place in found]


def test_without_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places()[0] == [f"unix:{tmp_path}/usual.sock"]
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/one:/run/two")
    assert places()[0] == ["unix:/run/one/usual.sock"]
    path = written(tmp_path, '[admin]\nbind = "unix:/x"\n')
    monkeypatch.setenv(asked.CONFIG_VARIABLE, str(path))
    assert places()[0] == ["unix:/x"]
    monkeypatch.delenv(asked.CONFIG_VARIABLE)
    monkeypatch.setattr(asked, "SYSTEM_CONFIG", path)
    assert places()[0] == ["unix:/x"]
    path.write_text("no toml [")
    assert places()[0] == ["unix:/run/one/usual.sock"]


def test_a_config_that_is_not_for_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path, **options: bool) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", closed)
    monkeypatch.setattr(Path, "exists", closed)
    assert asked.config_path(None) == asked.SYSTEM_CONFIG
    assert places(admin="unix:/x")[0] == ["unix:/x"]
    assert places()[0] == [f"unix:{tmp_path}/usual.sock"]


def test_as_the_command_line_says() -> None:
    for text, found in (
        ("unix:/x/y", "unix:/x/y"),
        ("/x/y", "unix:/x/y"),
        ("127.0.0.1:9110", "http://127.0.0.1:9110"),
        ("http://[::]:9110/", "http://[::1]:9110"),
        ("https://mail.example.com:9110", "https://mail.example.com:9110"),
    ):
        assert places(admin=text)[0] == [found]


def test_tokens(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    assert places(admin="127.0.0.1:1", token=file)[1] == "s3cret"
    assert places(written(tmp_path, '[admin]\ntoken = "of the config"\n'))[1] == "of the config"
    assert places(written(tmp_path, '[admin]\ntoken = { file = "token" }\n'))[1] == "s3cret"
    assert places(written(tmp_path, '[admin]\ntoken = { file = "none" }\n'))[1] is None
    assert "s3cret" not in repr(finding.client(argparse.Namespace(
        admin="127.0.0.1:1", config=None, token_file=file, ca_file=None, cert=None, json=False
    )))  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--admin", "mail"], "'mail' has no port; write unix:/run/popproxy/admin.sock"),
        (["--admin", "ftp://mail:1"], "is no address of an admin listener"),
        (["--admin", "127.0.0.1:70000"], "is no address of an admin listener"),
        (["--config", "none.toml"], "none.toml: No such file or directory; write --admin"),
        (["--config", "empty.toml"], "bind = [] says that nothing can be asked"),
        (["--admin", "127.0.0.1:1", "--token-file", "none"], "--token-file: none: No such file"),
        (["--admin", "127.0.0.1:1", "--token-file", "blank"], "blank has no token"),
        (["--admin", "https://127.0.0.1:1", "--ca-file", "blank"], "blank: cannot be used for https"),
    ],
)
def test_what_cannot_be_meant(
    arguments: list[str], told: str, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.toml").write_text("[admin]\nbind = []\n")
    Path("blank").write_text("\n")
    code, out, err = typed("status", *arguments)
    assert (code, out) == (EX_USAGE, "")
    assert told in err


def test_nobody_answers(tmp_path: Path, typed: Typed) -> None:
    for command in ("who", "kick --user joe", "upstreams", "upstreams drain main", "reload", "drain", "status"):
        code, out, err = typed(command)
        assert (code, out) == (EX_UNAVAILABLE, "")
        assert f"unix:{tmp_path}/usual.sock: No such file or directory" in err
        assert "Is it running" in err and "write --admin" in err
    typed.place = f"unix:{tmp_path}/other.sock"
    assert "write --admin" not in typed("status")[2]


def test_who_may_not_is_told_how(tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("popproxy.run.client.UnixConnection.connect", denied)
    code, _, err = typed("status")
    assert code == EX_UNAVAILABLE
    assert "use sudo, or usermod -aG popproxy NAME" in err


@contextmanager
def answering(path: Path, octets: bytes) -> Iterator[list[bytes]]:
    """A server that answers every request so, and what it was asked."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)

        def serve() -> None:
            while True:
                sock, _ = listener.accept()
                with sock:
                    asked = sock.recv(65536)
                    if not asked:
                        return
                    # The body comes on its own.
                    while b"Content-Length: " in asked and b"Length: 0" not in asked and not asked.endswith(b"}"):
                        asked += sock.recv(65536)
                    heard.append(asked)
                    sock.sendall(octets)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield heard
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join(20)


def test_what_answers_strangely(tmp_path: Path, typed: Typed) -> None:
    typed.place = f"unix:{tmp_path}/x"
    for number, (octets, code, told) in enumerate((
        (b"HTTP/1.1 200 OK\r\n\r\nhello", EX_UNAVAILABLE, "is no popproxy that knows this"),
        (b"220 smtp\r\n", EX_UNAVAILABLE, "no popproxy answers"),
        (b"", EX_UNAVAILABLE, "no popproxy answers"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n{}", EX_WRONG, "that popproxy is older"),
        (b'HTTP/1.1 401 Unauthorized\r\n\r\n{"error": "no"}', EX_WRONG, "write --token-file"),
        (b'HTTP/1.1 503 Unavailable\r\n\r\n{"error": "no worker is up"}', EX_UNAVAILABLE, "no worker is up"),
        (b'HTTP/1.1 400 Bad Request\r\n\r\n{"error": "\\u001b[2J"}', EX_WRONG, "\\x1b[2J"),
    )):  # fmt: skip
        path = tmp_path / str(number)
        typed.place = f"unix:{path}"
        with answering(path, octets):
            found = typed("status")
        assert (found[0], found[1]) == (code, "")
        assert told in found[2]


def test_a_request_that_may_have_been_heard_goes_to_nobody_else(tmp_path: Path) -> None:
    silent, other = tmp_path / "silent", tmp_path / "other"
    with answering(silent, b""), answering(other, b"HTTP/1.1 200 OK\r\n\r\n{}") as heard:
        with pytest.raises(Unanswered):
            Client([Place(silent), Place(other)]).post("/v1/drain")
        assert heard == []
        client = Client([Place(tmp_path / "none"), Place(other)], token="s3cret")
        assert client.get("/v1/status", tls=True, user=None, ip="::1") == {}
        assert client.post("/v1/kick", {"user": "a\udcff"}) == {}
    assert heard[0].startswith(b"GET /v1/status?tls=true&ip=%3A%3A1 HTTP/1.1\r\n")
    assert heard[1].endswith(b'{"user": "a\\udcff"}')
    assert not any(b"s3cret" in request for request in heard), "a Unix socket wants no token"


def test_a_token_goes_with_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[bytes] = []

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                heard.append(sock.recv(65536))
                sock.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n[]")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Refused, match="HTTP status 403"):
            Client([Place(None, *listener.getsockname())], token="s3cret").get("/v1/status")
        thread.join(20)
    assert b"\r\nAuthorization: Bearer s3cret\r\n" in heard[0]
