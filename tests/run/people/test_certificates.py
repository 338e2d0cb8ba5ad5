"""Commands at a port with TLS: by client certificate, by token, and what is said when those are not right."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from popproxy.config.plan import AdminPlan, CertificatePlan
from popproxy.run.asked import EX_OK, EX_UNAVAILABLE, EX_USAGE, EX_WRONG
from tests.net.running import Setup, pem, running
from tests.net.tlspeers import AUTHORITY, CERTIFICATE
from tests.run.people.conftest import Typed
from tests.run.test_admin_access import CLIENTS, PORT, TOKEN, Port


class Files:
    """What an administrator has, right and wrong."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        before = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(days=3)
        past = before + datetime.timedelta(days=1)
        name = "admin@example.com"
        self.good = pem(directory / "good.pem", CLIENTS.issue_cert(name))
        self.strange = pem(directory / "strange.pem", trustme.CA().issue_cert(name))
        self.expired = pem(directory / "expired.pem", CLIENTS.issue_cert(name, not_before=before, not_after=past))
        self.keyless = self.file("keyless.pem", CLIENTS.issue_cert(name).cert_chain_pems[0].bytes())
        self.authority = self.file("ca.pem", AUTHORITY.cert_pem.bytes())
        self.clients = self.file("clients.pem", CLIENTS.cert_pem.bytes())
        self.token = self.file("token", TOKEN.encode() + b"\n")
        self.wrong = self.file("wrong", b"x" * 30)

    def file(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(mode)
        return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def port(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    directory = tmp_path_factory.mktemp("port")
    certificate = CertificatePlan(pem(directory / "admin.pem", CERTIFICATE), None, None)
    plan = AdminPlan((PORT,), token=SecretStr(TOKEN), certificate=certificate, client_ca_file=files.clients)
    with running(Setup(["pop3+clear://127.0.0.1:9"]), directory) as proxy:
        made = Port(proxy, plan)
        yield made
        proxy.call(made.admin.stop())


def number(port: Port) -> str:
    return port.admin.address.rpartition(":")[2]


@pytest.fixture
def trusting(port: Port, files: Files, typed: Typed) -> Iterator[list[str]]:
    typed.place = f"https://localhost:{number(port)}"
    yield ["--ca-file", str(files.authority)]


COMMANDS = {
    "who": EX_WRONG, "kick --ip 192.0.2.1": EX_WRONG, "top --once": EX_OK, "upstreams": EX_OK, "status": EX_OK,
    "upstreams drain main": EX_OK, "upstreams undrain main": EX_OK, "upstreams probe main": EX_WRONG, "reload": EX_OK,
    "drain": EX_OK,
}  # fmt: skip
"""What each of them says of a proxy without sessions, whose upstream is not there."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("by", ["certificate", "token"])
def test_every_command_may(by: str, command: str, typed: Typed, trusting: list[str], files: Files) -> None:
    """Changes as well, which a certificate alone does not open for whoever could be a web page."""
    how = ["--cert", str(files.good)] if by == "certificate" else ["--token-file", str(files.token)]
    code, _, err = typed(command, *trusting, *how)
    assert (code, err) == (COMMANDS[command], "")


@pytest.mark.parametrize("command", ["who", "reload", "tap --user x", "top --once"])
@pytest.mark.parametrize("which", ["strange", "expired"])
def test_a_certificate_that_is_not_good(
    which: str, command: str, typed: Typed, trusting: list[str], files: Files
) -> None:
    path = getattr(files, which)
    code, out, err = typed(command, *trusting, "--cert", str(path))
    assert (code, out) == (EX_UNAVAILABLE, "")
    assert f"It may not take {path}: of another authority than those of client_ca_file, or expired." in err
    assert "Is it running" not in err


def test_a_certificate_without_its_key(typed: Typed, trusting: list[str], files: Files) -> None:
    code, _, err = typed("who", *trusting, "--cert", str(files.keyless))
    assert code == EX_USAGE and err.startswith(f"popproxy: {files.keyless}: cannot be used for https")
    assert err.endswith("write a PEM file with the certificate and its key\n")


@pytest.mark.parametrize("command", ["who", "tap --user x"])
def test_neither_certificate_nor_token(command: str, typed: Typed, trusting: list[str], files: Files) -> None:
    code, out, err = typed(command, *trusting)
    assert (code, out) == (EX_WRONG, "")
    assert "write --token-file with the token of [admin], with https perhaps --cert, or use its Unix socket" in err
    code, out, err = typed(command, *trusting, "--token-file", str(files.wrong))
    assert (code, out) == (EX_WRONG, "")
    assert "the token that was sent is another one: write --token-file with that of [admin]" in err


def test_a_token_that_everybody_can_read(typed: Typed, trusting: list[str], files: Files) -> None:
    path = files.file("open", TOKEN.encode(), 0o644)
    code, out, err = typed("status", *trusting, "--token-file", str(path))
    assert code == EX_OK and out
    assert err == f"popproxy: warning: --token-file: everybody on this host can read {path}: chmod 600\n"


def test_a_server_that_is_not_believed(port: Port, typed: Typed, files: Files) -> None:
    trust = ["--ca-file", str(files.authority)]
    token = ["--token-file", str(files.token)]
    for place, how, hint in (
        (f"https://localhost:{number(port)}", [], "an authority that is not trusted here: write --ca-file"),
        (f"https://127.0.0.1:{number(port)}", trust, "for another name: write --admin https://NAME:PORT"),
        (f"127.0.0.1:{number(port)}", [], f"It may have TLS: write --admin https://127.0.0.1:{number(port)}"),
    ):
        typed.place = place
        for command in ("status", "tap --user x"):
            code, out, err = typed(command, *how, *token)
            assert (code, out) == (EX_UNAVAILABLE, "") and hint in err, (place, command, err)
