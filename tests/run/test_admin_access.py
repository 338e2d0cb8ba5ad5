"""Who may use /v1 on a port: the token, client certificates, and nothing a browser does for pages from elsewhere."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from popproxy.config.plan import AdminPlan, Bind, CertificatePlan
from popproxy.net.tls import TlsConfigError
from popproxy.run.admin import Admin
from popproxy.run.admin import access as module
from popproxy.run.admin.access import Access, Tls
from popproxy.run.admin.api import Api
from popproxy.run.client import UnixConnection
from tests.net.running import Proxy, Setup, running
from tests.net.tlspeers import AUTHORITY, CERTIFICATE
from tests.run.office import Desks

TOKEN = "0123456789abcdef-the-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}
PORT = Bind("inet", "127.0.0.1", 0)
CLIENTS = trustme.CA()


class Kept:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def event(self, level: str, name: str, /, **fields: object) -> None:
        self.lines.append((name, fields))

    def denied(self) -> list[object]:
        return [fields["reason"] for name, fields in self.lines if name == "admin_denied"]


class Port:
    """The admin listener on a port of a running worker."""

    def __init__(self, proxy: Proxy, plan: AdminPlan, context: ssl.SSLContext | None = None) -> None:
        self.proxy = proxy
        self.context = context
        self.log = Kept()
        self.fleet = Desks([proxy.worker.desk])
        self.refused: list[str] = []
        self.admin = Admin(
            lambda accept: (b"up 1\n", "text/plain"), lambda: None, private=Api(self.fleet).routes,
            refused=self.refused.append,
        )  # fmt: skip
        proxy.call(self.admin.open(plan, self.log))

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] = {}, body: bytes | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body."""
        host, _, port = self.admin.address.rpartition(":")
        connection: http.client.HTTPConnection
        if self.context is None:
            connection = http.client.HTTPConnection(host, int(port), timeout=20)
        else:
            connection = http.client.HTTPSConnection(host, int(port), timeout=20, context=self.context)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def status(self, method: str, path: str, **headers: str) -> int:
        """Only the status. ``_`` in names of headers stands for ``-``."""
        return self.ask(method, path, {name.replace("_", "-"): value for name, value in headers.items()})[0]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running(Setup(["pop3+clear://127.0.0.1:9"]), tmp_path_factory.mktemp("access")) as made:
        yield made


@contextmanager
def port(proxy: Proxy, plan: AdminPlan, context: ssl.SSLContext | None = None) -> Iterator[Port]:
    made = Port(proxy, plan, context)
    try:
        yield made
    finally:
        proxy.call(made.admin.stop())


@pytest.fixture
def guarded(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    """A port with a token, whose refusals come at once and are all told."""
    monkeypatch.setattr(module, "QUIET", 0.0)
    monkeypatch.setattr(Access.__init__, "__defaults__", (0.0,))
    with port(proxy, AdminPlan((PORT,), token=SecretStr(TOKEN), hosts=("proxy.example.com",))) as made:
        yield made


def test_without_a_token_a_port_has_three_paths(proxy: Proxy) -> None:
    with port(proxy, AdminPlan((PORT,))) as made:
        assert [made.status("GET", path) for path in ("/metrics", "/healthz", "/readyz")] == [200, 200, 200]
        for method, path in (("GET", "/v1/status"), ("POST", "/v1/drain"), ("GET", "/v1/openapi.json")):
            assert made.ask(method, path, BEARER)[0] == 404
        assert made.fleet.drained == []


def test_the_token_opens_it(guarded: Port) -> None:
    assert guarded.ask("GET", "/v1/status", BEARER)[0] == 200
    assert guarded.ask("GET", "/v1/status", {"Authorization": f"bearer  {TOKEN} "})[0] == 200
    assert guarded.ask("POST", "/v1/drain", BEARER)[0] == 202
    assert guarded.log.denied() == []
    assert guarded.status("GET", "/metrics") == 200, "scraped without one"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "nothing"),
        ("", "token"),
        ("Bearer", "token"),
        ("Bearer ", "token"),
        (f"Bearer {TOKEN[:-1]}", "token"),
        (f"Bearer {TOKEN}x", "token"),
        (f"Basic {TOKEN}", "token"),
        (f"Bearer {TOKEN.upper()}", "token"),
        ("Bearer \xff\xfe", "token"),
    ],
)
def test_nothing_else_does(guarded: Port, header: str | None, reason: str) -> None:
    status, headers, body = guarded.ask("POST", "/v1/drain", {} if header is None else {"Authorization": header})
    assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
    assert "Authorization: Bearer" in json.loads(body)["error"]
    assert guarded.log.denied() == [reason] and guarded.fleet.drained == []
    assert TOKEN not in str(guarded.log.lines)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9110", 200),
        ("[::1]:9110", 200),
        ("localhost:9110", 200),
        ("LOCALHOST", 200),
        ("proxy.example.com", 200),
        ("evil.example.com", 403),
        ("proxy.example.com.evil.example", 403),
        ("localhost.evil.example:9110", 403),
        ("[", 403),
        ("[::1", 403),
    ],
)
def test_names_that_are_not_ours_are_refused(guarded: Port, host: str, status: int) -> None:
    """DNS rebinding: a page has its own name lead to this address, and is then of the same origin."""
    assert guarded.status("GET", "/v1/status", Host=host, **BEARER) == status
    assert guarded.log.denied() == ([] if status == 200 else ["host"])
    assert guarded.status("GET", "/metrics", Host=host) == 200, "scraped by whatever name"


def test_pages_from_elsewhere_are_refused(guarded: Port) -> None:
    for origin in ("http://evil.example.com", "null", "https://localhost.evil.example", "http://[", "["):
        assert guarded.status("GET", "/v1/status", Host="localhost", Origin=origin, **BEARER) == 403
    assert guarded.status("GET", "/v1/status", Host="localhost", Origin="http://localhost", **BEARER) == 200
    status, headers, _ = guarded.ask("OPTIONS", "/v1/drain", {"Origin": "http://evil.example.com", "Host": "localhost"})
    assert status == 403
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:9110"}, 202),
        ({"Host": "popproxy"}, 202),
        ({"Host": "127.0.0.1:9110", "Origin": "http://127.0.0.1:9110"}, 202),
        ({"Host": "proxy.example.com"}, 202),
        ({"Host": "evil.example.com:9110"}, 403),
        ({"Host": "["}, 403),
        ({"Host": "localhost:9110", "Origin": "http://evil.example.com"}, 403),
        ({"Host": "localhost:9110", "Origin": "http://localhost:8000"}, 403),
        ({"Host": "localhost:9110", "Origin": "null"}, 403),
    ],
)
def test_a_unix_socket_that_ssh_brings_to_a_port_is_not_for_pages(
    proxy: Proxy, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    """``ssh -L 9110:/run/popproxy/admin.sock`` and a browser: a form could drain it, DNS rebinding read it."""
    path = tmp_path / "admin.sock"
    with port(proxy, AdminPlan((Bind("unix", path=str(path), mode=0o600),), hosts=("proxy.example.com",))) as made:
        connection = UnixConnection(path)
        connection.request("POST", "/v1/drain", None, headers)
        assert connection.getresponse().status == status
        connection.close()
        assert len(made.fleet.drained) == (status == 202)


def test_a_wrong_token_is_answered_late_and_lines_about_it_are_few(proxy: Proxy) -> None:
    made = Access(AdminPlan((PORT,), token=SecretStr(TOKEN)), Kept())
    assert (made._late, module.QUIET) == (1.0, 1.0)
    with port(proxy, AdminPlan((PORT,), token=SecretStr(TOKEN))) as slow:
        for _ in range(30):
            assert slow.status("GET", "/v1/status") == 401
        told = [fields for name, fields in slow.log.lines if name == "admin_denied"]
        assert slow.refused == ["nothing"] * 30, "each is counted"
        assert 1 <= len(told) < 30 and told[0] == {"client": "127.0.0.1", "reason": "nothing", "count": 1}


# Client certificates


def files(directory: Path, certificate: trustme.LeafCert, name: str = "admin") -> CertificatePlan:
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    return CertificatePlan(cert, key)


def trusting(directory: Path, issuer: trustme.CA | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    context.check_hostname = False
    if issuer is not None:
        shown = files(directory, issuer.issue_cert("an-admin"), "client")
        context.load_cert_chain(shown.cert, shown.key)
    return context


def secure_plan(directory: Path, token: str | None = None) -> AdminPlan:
    authorities = directory / "clients.pem"
    CLIENTS.cert_pem.write_to_path(str(authorities))
    return AdminPlan(
        (PORT,),
        token=None if token is None else SecretStr(token),
        certificate=files(directory, CERTIFICATE),
        client_ca_file=authorities,
    )


def test_a_client_certificate_opens_it(proxy: Proxy, tmp_path: Path) -> None:
    with port(proxy, secure_plan(tmp_path), trusting(tmp_path, CLIENTS)) as made:
        assert made.status("GET", "/v1/status") == 200
        assert made.status("POST", "/v1/drain") == 415, "a form of a page from elsewhere could ask for that"
        assert made.ask("POST", "/v1/drain", {"Content-Type": "text/plain"}, b"{}")[0] == 415
        assert made.fleet.drained == []
        assert made.ask("POST", "/v1/drain", JSON, b"{}")[0] == 202
        assert made.status("POST", "/v1/reload", X_Requested_With="curl") == 200


def test_without_one_there_is_what_everybody_may_see(proxy: Proxy, tmp_path: Path) -> None:
    with port(proxy, secure_plan(tmp_path, TOKEN), trusting(tmp_path, None)) as made:
        assert made.status("GET", "/metrics") == 200
        assert made.status("GET", "/v1/status") == 401
        assert made.ask("POST", "/v1/reload", BEARER)[0] == 200, "the token does as well"


def test_one_of_somebody_else_ends_the_handshake(proxy: Proxy, tmp_path: Path) -> None:
    with port(proxy, secure_plan(tmp_path), trusting(tmp_path, trustme.CA())) as made:
        with pytest.raises((ssl.SSLError, OSError)):
            made.status("GET", "/v1/status")


def test_a_renewed_certificate_is_served_and_a_broken_one_is_not(tmp_path: Path) -> None:
    log = Kept()
    certificate = files(tmp_path, CERTIFICATE)
    tls = Tls(AdminPlan((PORT,)), certificate, log)
    assert serial(tls) == serial_of(CERTIFICATE)
    renewed = AUTHORITY.issue_cert("localhost")
    certificate.cert.write_bytes(b"".join(blob.bytes() for blob in renewed.cert_chain_pems))
    tls.renew()
    assert serial(tls) == serial_of(CERTIFICATE), "its key is not there yet"
    assert [name for name, _ in log.lines] == ["certificate"]
    tls.renew()
    assert len(log.lines) == 1, "said once"
    assert certificate.key is not None
    certificate.key.write_bytes(renewed.private_key_pem.bytes())
    os.utime(certificate.key, (1, 1))
    tls.renew()
    assert serial(tls) == serial_of(renewed)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    certificate = files(tmp_path, CERTIFICATE)
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    with pytest.raises(TlsConfigError, match=r"bad\.pem: cannot be used"):
        Tls(AdminPlan((PORT,), client_ca_file=bad), certificate, Kept())
    with pytest.raises(TlsConfigError, match=r"bad\.pem: cannot be used"):
        Tls(AdminPlan((PORT,)), CertificatePlan(bad), Kept())


def serial(tls: Tls) -> Any:
    """Of the certificate that the context serves, by a handshake in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    one, other, back = ssl.MemoryBIO(), ssl.MemoryBIO(), None
    here = client.wrap_bio(one, other)
    there = tls.context.wrap_bio(other, one, server_side=True)
    for _ in range(4):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                back = side
    assert back is not None
    shown = here.getpeercert(True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown).strip()


def serial_of(certificate: trustme.LeafCert) -> str:
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())).strip()
