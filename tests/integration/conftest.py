"""Real servers and the real proxy, started once each and only when a test asks for them."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from tests.integration import courier as courier_server
from tests.integration import cyrus as cyrus_server
from tests.integration import dovecot as dovecot_server
from tests.integration import packages, proxy
from tests.integration.courier import Courier
from tests.integration.cyrus import Cyrus
from tests.integration.daemon import RUNNING, Account
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.proxy import Certificate, Proxy, Setup
from tests.ports import free_ports

NAMES = ("localhost", "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "::1")

Need = Callable[..., None]
ProxyTo = Callable[[str], Proxy]
Start = Callable[[Setup], Proxy]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the end of the log of everything that runs."""
    report = yield
    if report.failed and item.get_closest_marker("integration") is not None:
        report.sections += [(f"log of {daemon.name} ({daemon.log})", daemon.tail()) for daemon in RUNNING]
    return report


@pytest.fixture(scope="session")
def need() -> Need:
    """`need("fetchmail", ...)`: skip, by name and with the reason, when a package is not here; under CI fail."""

    def check(*names: str) -> None:
        for name in names:
            reason = packages.lacking(name)
            if reason is None:
                continue
            unavailable(f"needs the Debian package {name}: {reason}")

    return check


def unavailable(text: str) -> None:
    """Skip with this reason; under CI fail."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"{text} (a skip is a failure under CI)", pytrace=False)
    pytest.skip(text)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The one who signs every certificate of these tests."""
    return trustme.CA()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for certificates."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, files: Path) -> Path:
    """The authority's certificate, PEM."""
    path = files / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """A client's TLS: the authority's certificates only, host names checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def issued(authority: trustme.CA, *names: str) -> tuple[bytes, bytes]:
    """A certificate chain and its key, PEM, for these host names and addresses."""
    leaf = authority.issue_cert(*names, common_name=names[0])  # fetchmail wants one
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()


def stored(authority: trustme.CA, directory: Path, *names: str) -> Certificate:
    """`issued` as two files."""
    chain, key = issued(authority, *names)
    certificate = Certificate(directory / f"{names[0]}.pem", directory / f"{names[0]}.key")
    certificate.cert.write_bytes(chain)
    certificate.key.write_bytes(key)
    certificate.key.chmod(0o600)
    return certificate


@pytest.fixture(scope="session")
def dovecot(need: Need, authority: trustme.CA) -> Iterator[Dovecot]:
    """Dovecot, with no account yet."""
    need("dovecot-pop3d")
    with dovecot_server.start(*issued(authority, *NAMES)) as server:
        yield server


@pytest.fixture(scope="session")
def courier(need: Need, authority: trustme.CA) -> Iterator[Courier]:
    """Courier, with no account yet."""
    need("courier-pop")
    if os.geteuid() != 0:
        unavailable("courier-pop runs in a chroot here, which takes root")
    with courier_server.start(*issued(authority, *NAMES)) as server:
        yield server


@pytest.fixture(scope="session")
def cyrus(need: Need, authority: trustme.CA) -> Iterator[Cyrus]:
    """Cyrus, with no account yet."""
    need("cyrus-pop3d")
    with cyrus_server.start(*issued(authority, *NAMES)) as server:
        yield server


@pytest.fixture(scope="session")
def reader(dovecot: Dovecot) -> Account:
    """The account with all of LETTERS. Nobody deletes one."""
    return dovecot.account(LETTERS)


@pytest.fixture(scope="session")
def served(authority: trustme.CA, files: Path) -> Certificate:
    """The certificate which the proxy shows."""
    return stored(authority, files, *NAMES)


@pytest.fixture(scope="session")
def setup(served: Certificate, ca_file: Path) -> Setup:
    """The usual setup, its server still to be named."""
    return Setup(server="", ca_file=ca_file, certificates=(served,))


@pytest.fixture(scope="session")
def proxy_to(setup: Setup) -> Iterator[ProxyTo]:
    """`proxy_to(url)`: a proxy in front of that server; one for all tests that ask for the same."""
    with ExitStack() as running:
        known: dict[str, Proxy] = {}

        def to(url: str) -> Proxy:
            if url not in known:
                known[url] = running.enter_context(proxy.start(replace(setup, server=url)))
            return known[url]

        yield to


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(setup)`: a proxy of this test's own."""
    with ExitStack() as running:
        yield lambda setup: running.enter_context(proxy.start(setup))


@pytest.fixture(scope="session")
def ipv6() -> None:
    """Skip where the machine has no IPv6 loopback."""
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        free_ports(1, "::1")
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback address: {error}")
