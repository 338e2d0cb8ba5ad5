"""Certificates follow their files: who sees the new ones, and what becomes of those that cannot be used."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from popproxy.config.plan import CertificatePlan, Plan
from popproxy.net import worker
from popproxy.net.renewal import Renewable
from popproxy.net.tls import TlsConfigError
from tests.net.running import (
    PASSWORD,
    USER,
    Proxy,
    Setup,
    both_loops,
    client_context,
    eventually,
    pem,
    plan_of,
    running,
)
from tests.net.test_dialer import with_certificate
from tests.net.test_generation import saying
from tests.net.tlspeers import AUTHORITY
from tests.net.upstream import Upstream
from tests.wireclient import WireClient

END = datetime.datetime(2035, 5, 17, tzinfo=datetime.UTC)


def second() -> trustme.LeafCert:
    return AUTHORITY.issue_cert("localhost", not_after=END)


def shown(proxy: Proxy) -> bytes:
    """The certificate that a new client is shown."""
    with proxy.client() as client:
        client.stls(client_context())
        return peer(client)


def peer(client: WireClient) -> bytes:
    der: bytes = client.socket.getpeercert(True)  # type: ignore[attr-defined]
    return der


def der_of(certificate: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())


def served_from(plan: Plan, path: Path, key: Path | None = None) -> Plan:
    """``plan`` with another certificate."""
    tls = replace(plan.tls, certificates=(CertificatePlan(path, key),))
    return replace(plan, tls=tls, listeners=tuple(replace(one, tls_context=tls) for one in plan.listeners))


def look(proxy: Proxy) -> None:
    proxy.call(proxy.worker.generations[0].renew())


@both_loops
def test_new_handshakes_get_the_renewed_pair_and_sessions_go_on(loop: str, tmp_path: Path) -> None:
    with Upstream(saying(b"x")) as upstream, running(Setup([upstream.url], loop, "starttls"), tmp_path) as proxy:
        with proxy.client() as before, proxy.client() as late:
            before.stls(client_context())
            assert before.user_pass(USER, PASSWORD).startswith(b"+OK")
            look(proxy)
            assert not proxy.lines("certificate_renewed"), "nothing has changed"
            new = second()
            pem(tmp_path / "proxy.pem", new)
            look(proxy)
            line = proxy.wait("certificate_renewed")
            assert line["certificate"] == str(tmp_path / "proxy.pem")
            assert line["detail"] == "proxy.pem is valid until 2035-05-17"
            late.stls(client_context())
            assert peer(late) == shown(proxy) == der_of(new) != peer(before)
            assert before.single(b"NOOP") == b"+OK x\r\n"
            until = proxy.sample("tls_certificate_expiry_timestamp_seconds", listener="main", name="proxy.pem")
            assert until == END.timestamp()
            look(proxy)
        assert len(proxy.lines("certificate_renewed")) == 1


@both_loops
def test_a_pair_that_is_written_one_file_after_the_other_is_taken_when_it_is_whole(loop: str, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    old, new = AUTHORITY.issue_cert("localhost"), second()

    def write(certificate: trustme.LeafCert, path: Path) -> None:
        part = certificate.private_key_pem if path == key else certificate.cert_chain_pems[0]
        part.write_to_path(str(path))
        path.chmod(0o600)

    write(old, cert)
    write(old, key)
    plan = plan_of(Setup(["pop3+clear://127.0.0.1:9"], loop, "starttls"), tmp_path)
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop, "starttls"), tmp_path) as proxy:
        proxy.adopt(served_from(plan, cert, key))
        write(new, cert)
        look(proxy)
        assert shown(proxy) == der_of(old)
        write(new, key)
        look(proxy)
        assert shown(proxy) == der_of(new)
        assert not proxy.lines("certificate"), "half a pair for a moment is nobody's fault"
        key.write_text("-----BEGIN PRIVATE KEY-----\nhalf of i")
        for _ in range(3):
            look(proxy)
            assert shown(proxy) == der_of(new)
        proxy.wait("certificate")
        write(new, key)
        look(proxy)
        assert shown(proxy) == der_of(new)
        (line,) = proxy.lines("certificate")
        assert line["detail"].startswith(f"{key}: the private key is damaged")
        assert line["detail"].endswith("; the one before stays in use")
        assert proxy.wait("certificate_renewed")["certificate"] == f"{cert}, {key}"
        assert proxy.wait("certificate_renewed", 2)["certificate"] == str(key)


@both_loops
def test_it_is_looked_at_again_and_again(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_RENEW_SECONDS", 0.05)
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop, "starttls"), tmp_path) as proxy:
        for number in (1, 2):
            new = second()
            pem(tmp_path / "new.pem", new).rename(tmp_path / "proxy.pem")
            proxy.wait("certificate_renewed", number)
            assert shown(proxy) == der_of(new)


@both_loops
def test_an_authority_for_an_upstream_follows_its_file(loop: str, tmp_path: Path) -> None:
    authority, other = tmp_path / "upstream-ca.pem", trustme.CA()
    AUTHORITY.cert_pem.write_to_path(str(authority))
    with Upstream(with_certificate(other.issue_cert("localhost"))) as upstream:
        server = f"pop3s://localhost:{upstream.port}"
        with running(Setup([server], loop, upstream=f'ca_file = "{authority}"'), tmp_path) as proxy:
            with proxy.client() as client:
                assert client.user_pass(USER, PASSWORD).startswith(b"-ERR [SYS/TEMP]")
                other.cert_pem.write_to_path(str(authority))
                look(proxy)
                assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            line = proxy.wait("certificate_renewed")
            assert (line["certificate"], line["detail"]) == (str(authority), "for upstream main")


@both_loops
def test_an_authority_for_clients_follows_its_file(loop: str, tmp_path: Path) -> None:
    authority, other = tmp_path / "client-ca.pem", trustme.CA()
    AUTHORITY.cert_pem.write_to_path(str(authority))
    asked = f'verify_client = "required"\nclient_ca_file = "{authority}"\n'
    context = client_context()
    other.issue_cert("alice@example.org").configure_cert(context)
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop, "implicit", listener=asked), tmp_path) as proxy:
        with pytest.raises(OSError), proxy.client(implicit=context):
            raise AssertionError("nobody trusts this client")
        other.cert_pem.write_to_path(str(authority))
        look(proxy)
        with proxy.client(implicit=context) as client:
            assert client.greeting.startswith(b"+OK")


@both_loops
def test_a_session_of_the_plan_before_still_starts_tls(loop: str, tmp_path: Path) -> None:
    setup = Setup(["pop3+clear://127.0.0.1:9"], loop, "starttls")
    with running(setup, tmp_path) as proxy, proxy.client() as late:
        first = shown(proxy)
        pem(tmp_path / "other.pem", second())
        proxy.adopt(served_from(proxy.plan, tmp_path / "other.pem"))
        assert shown(proxy) != first
        late.stls(client_context())
        assert peer(late) == first
        late.close()
        eventually(lambda: len(proxy.worker.generations) == 1, "end of the first generation")


# The files by themselves


class Files:
    """A Renewable of one file whose content is what it makes; ``bad`` is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.during = ""
        self.it = Renewable([path], self._make)

    def _make(self) -> str:
        text = self.path.read_text()
        if self.during:
            self.path.write_text(self.during)
            self.during = ""
        if text == "bad":
            raise TlsConfigError(self.path, "is bad")
        return text

    def write(self, text: str) -> None:
        self.path.write_text(text)


def test_what_changes_while_it_is_read_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    files = Files(tmp_path / "f")
    files.during = "second"
    assert files.it.load() == "second"
    assert files.it.look() is None
    files.write("third..")
    files.during = "fourth.."
    assert files.it.look() is None
    assert files.it.look() == ("fourth..", (tmp_path / "f",))
    assert files.it.look() is None


def test_what_is_bad_is_told_at_the_second_look_and_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    files = Files(tmp_path / "f")
    files.it.load()
    files.write("bad")
    looks = [files.it.look() for _ in range(4)]
    assert looks == [None, f"{tmp_path / 'f'}: is bad", None, None]
    (tmp_path / "f").unlink()
    first, told, again = (files.it.look() for _ in range(3))
    assert first is None and again is None and "No such file" in str(told)
    files.write("two")
    assert files.it.look() == ("two", (tmp_path / "f",))
