"""What only shows between the keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from popproxy.config.load import Loaded

Bad = Callable[[str], list[str]]
Good = Callable[[str], Loaded]


def listener(name: str, bind: str, tls: str = "implicit", more: str = "") -> str:
    return f'[[listener]]\nname = "{name}"\nbind = {bind}\ntls = "{tls}"\n{more}\n'


def upstream(servers: str, more: str = "") -> str:
    return f"[upstream.main]\nservers = {servers}\n{more}\n"


def warnings(loaded: Loaded) -> list[str]:
    return [f"{warning.key}: {warning.message}" for warning in loaded.warnings]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate and its key in ``directory``."""
    issued = authority.issue_cert(f"{name}.example.com")
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return cert, key


def encrypt(key: Path) -> None:
    """Encrypt the key in the file with the password hunter2."""
    private = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            listener("a", '["[::]:1"]', more='verify_client = "optional"'),
            "5: listener[a].verify_client: needs the authorities whose certificates are good; "
            'write client_ca_file = "..."',
        ),
        (
            listener("a", '["[::]:1"]', "off", 'auth_before_tls = "allow"\nverify_client = "required"'),
            "6: listener[a].verify_client: has no effect without TLS; leave it out, or write tls = \"starttls\"",
        ),
        (
            listener("a", '["[::]:1"]') + listener("a", '["[::]:2"]'),
            "7: listener[a].name: there are two listeners named 'a'; give one another name",
        ),
        (
            listener("a", '["[::]:1"]') + listener("b", '["[::1]:1", "[::]:1"]'),
            "8: listener[b].bind[#2]: [::]:1 is taken by listener 'a'; write another address or port",
        ),
        (
            listener("a", '["[::]:1", "[::]:1"]'),
            "3: listener[a].bind[#2]: [::]:1 is taken by listener 'a'; write another address or port",
        ),
        (
            listener("a", '["127.0.0.1:9110"]') + "[admin]\n",
            "3: listener[a].bind[#1]: 127.0.0.1:9110 is taken by [admin]; write another address or port",
        ),
        (
            listener("a", '["[::]:1"]', "off"),
            "4: listener[a].tls: nobody can log in: there is no TLS, and logins without TLS are refused; write tls = "
            '"starttls" or "implicit"; or auth_before_tls = "allow" to let passwords travel in clear',
        ),
        (
            upstream('["pop3s://a", "pop3+clear://b:1"]'),
            "2: upstream.main.servers: mixes servers with and without TLS, so that chance decides whether passwords "
            "travel in clear; write pop3://b for STLS, or make two upstreams",
        ),
        (
            upstream('["pop3s://a", "pops://A:995"]'),
            "2: upstream.main.servers[#2]: pop3s://a:995 is written twice; leave one out",
        ),
        (
            upstream('["pop3+clear://a"]', 'server_name = "b"'),
            "3: upstream.main.server_name: has no effect without TLS; leave it out, or write pop3s:// or pop3:// URLs",
        ),
        (
            upstream('[{ url = "pop3s://a", weight = 0 }]'),
            "2: upstream.main.servers[#1].weight: 0 is out of range; write at least 1",
        ),
        (
            upstream('["pop3s://a", { url = "pop3s://A:995", weight = 2 }]'),
            "2: upstream.main.servers[#2]: pop3s://a:995 is written twice; leave one out",
        ),
        (
            upstream('["pop3s://a", { url = "pop3+clear://b:1" }]'),
            "2: upstream.main.servers: mixes servers with and without TLS, so that chance decides whether passwords "
            "travel in clear; write pop3://b for STLS, or make two upstreams",
        ),
        (
            upstream('["pop3s://a", { url = "imap://b" }]'),
            "2: upstream.main.servers[#2].url: unknown scheme imap://; write pop3s://b (TLS), pop3://b (STLS required) "
            "or pop3+clear://b (no TLS)",
        ),
        (
            upstream('["pop3s://a", { host = "b" }]'),
            '2: upstream.main.servers[#2].url: is missing; write url = "pop3s://mail1.example.com"',
        ),
        (
            upstream('["pop3s://a", 7]'),
            "2: upstream.main.servers[#2]: must be a table, not a whole number; write servers = "
            '["pop3s://mail.example.com"]',
        ),
        (
            upstream('["pop3s://a"]', 'balance = "random"'),
            '3: upstream.main.balance: "random" is not one of the choices; write "first", "round_robin", '
            '"least_sessions" or "sticky"',
        ),
        (
            upstream('["pop3s://a"]', 'health = { backoff = "10s", longest = "5s" }'),
            "3: upstream.main.health.longest: is shorter than backoff; write at least as long",
        ),
        (
            listener("a", '["[::]:995"]') + upstream('["pop3s://localhost"]'),
            "7: upstream.main.servers[#1]: pop3s://localhost:995 is a listener of this proxy, which would connect to "
            "itself; write the mail server's own address and port",
        ),
        (
            listener("a", '["192.0.2.1:995"]') + upstream('["pop3s://192.0.2.1"]'),
            "7: upstream.main.servers[#1]: pop3s://192.0.2.1:995 is a listener of this proxy, which would connect to "
            "itself; write the mail server's own address and port",
        ),
        (
            '[[plugin]]\nuse = "headers"\nrules = [{ remove = "X" }]\nwhen = { listener = ["pop3", "pop3s"] }',
            "4: plugin[headers].when.listener[#1]: there is no listener 'pop3'; did you mean pop3s?",
        ),
        (
            '[[plugin]]\nuse = "headers"\nrules = [{ remove = "X" }]\n' * 2,
            "5: plugin[headers].use: there are two plugins named 'headers'; write name = \"...\" with a name of its "
            "own",
        ),
        (
            '[tls]\nciphers = "NONSENSE"',
            "2: tls.ciphers: selects no cipher; try it with openssl ciphers -v, or leave it out",
        ),
        (
            '[log]\nfile = "/nowhere/at/all.log"',
            "2: log.file: there is no directory /nowhere/at; make it, or write another path",
        ),
        ('[log]\nfile = "/"', "2: log.file: / is a directory; write the path of a file"),
        (
            '[log]\nformat = "journald"\nfile = "/tmp/log"',
            '3: log.file: the journal is no file; leave it out, or write format = "json"',
        ),
        (
            '[protocol]\nverbs = [{ name = "XA", framing = "multi" },\n{ name = "xa", framing = "multi" }]',
            "3: protocol.verbs[xa].name: XA is declared twice; leave one out",
        ),
    ],
)
def test_each_contradiction_is_found(bad: Bad, text: str, problem: str) -> None:
    assert problem in bad(text)


@pytest.mark.parametrize(
    "text",
    [
        listener("a", '["127.0.0.1:0", "127.0.0.1:0"]'),
        listener("a", '["[::]:995", "0.0.0.0:995"]'),
        listener("a", '["[::]:1"]', "off", 'auth_before_tls = "allow"'),
        listener("a", '["[::]:1"]', "off", 'proxy_protocol = { trusted = ["10.0.0.0/8"] }'),
        listener("a", '["127.0.0.1:995"]') + upstream('["pop3s://127.0.0.2"]'),
        listener("a", '["[::1]:995"]') + upstream('["pop3s://127.0.0.1"]'),
        listener("a", '["[::]:995"]') + upstream('["pop3s://mail.example.com"]'),
        '[[plugin]]\nuse = "headers"\nrules = [{ remove = "X" }]\n'
        '[[plugin]]\nuse = "headers"\nname = "two"\nrules = [{ remove = "Y" }]\n',
        upstream('["pop3s://a", "pop3://b"]'),
        '[tls]\nciphers = "ECDHE+AESGCM"',
    ],
)
def test_what_is_no_contradiction(good: Good, text: str) -> None:
    assert good(text).plan.listeners


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            listener("a", '["[::]:1"]', "starttls", 'auth_before_tls = "allow"'),
            "listener[a].auth_before_tls: passwords may travel in clear",
        ),
        (
            upstream('["pop3s://mail"]', 'balance = "sticky"'),
            "upstream.main.balance: decides nothing: there is one server",
        ),
        (
            upstream('["pop3s://a", { url = "pop3s://b", weight = 2 }]'),
            'upstream.main.servers[#2].weight: decides nothing with balance = "first"',
        ),
        (upstream('["pop3+clear://mail"]'), "upstream.main.servers: passwords travel in clear to this upstream"),
        (
            upstream('["pop3s://mail"]', "verify = false"),
            "upstream.main.verify: the server's certificate is not verified: whoever is in between can read passwords",
        ),
        ("[timeouts]\nidle = 599", "timeouts.idle: is shorter than RFC 1939 allows"),
        ('[log]\nsalt = "pepper"', 'log.salt: decides nothing with users = "plain"'),
        ("", "tls: there is no certificate: a self-signed one is made, which mail clients will not trust"),
    ],
)
def test_what_works_and_weakens_is_a_warning(good: Good, text: str, warning: str) -> None:
    assert warning in warnings(good(text))


def test_a_loopback_in_clear_needs_no_warning(good: Good) -> None:
    text = listener("a", '["127.0.0.1:1", "unix:/x"]', "off", 'auth_before_tls = "allow"')
    assert warnings(good(text + upstream('["pop3+clear://127.0.0.1"]'))) == []


def test_a_certificate_with_its_key_is_good(good: Good, authority: trustme.CA, tmp_path: Path) -> None:
    issue(authority, tmp_path, "mail")
    loaded = good('[tls]\ncertificates = [{ cert = "mail.pem", key = "mail.key" }]')
    assert loaded.warnings == ()
    assert loaded.plan.tls.certificates[0].cert == tmp_path / "mail.pem"


def test_an_encrypted_key_needs_its_password(
    good: Good, bad: Bad, authority: trustme.CA, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, key = issue(authority, tmp_path, "mail")
    encrypt(key)
    (tmp_path / "pass").write_text("hunter2\n")
    wanted = "2: tls.certificates[#1]: the key is encrypted and has {} password; write password = {{ file = \"...\" }}"
    assert bad('[tls]\ncertificates = [{ cert = "mail.pem", key = "mail.key" }]') == [wanted.format("no")]
    found = bad('[tls]\ncertificates = [{ cert = "mail.pem", key = "mail.key", password = "wrong" }]')
    assert found == [wanted.format("another")]
    loaded = good('[tls]\ncertificates = [{ cert = "mail.pem", key = "mail.key", password = { file = "pass" } }]')
    assert "hunter2" not in repr(loaded)
    assert capfd.readouterr() == ("", "")


def test_certificates_that_cannot_be_used(bad: Bad, authority: trustme.CA, tmp_path: Path) -> None:
    issue(authority, tmp_path, "one")
    issue(authority, tmp_path, "two")
    (tmp_path / "text").write_text("no certificate")
    found = bad(
        '[tls]\ncertificates = [\n{ cert = "one.pem", key = "two.key" },\n{ cert = "text", key = "one.key" },\n'
        '{ cert = "one.pem" },\n{ cert = "missing.pem" }]\n'
        '[upstream.main]\nservers = ["pop3s://x"]\nca_file = "text"\n'
        'client_certificate = { cert = "one.pem", key = "two.key" }\n'
    )
    assert [line.partition(";")[0] for line in found] == [
        f"6: tls.certificates[#4].cert: cannot read {tmp_path}/missing.pem: No such file or directory",
        f"9: upstream.main.ca_file: {tmp_path}/text holds no PEM certificate",
        "10: upstream.main.client_certificate: the key is not the certificate's",
    ]
    found = bad(
        '[tls]\ncertificates = [\n{ cert = "one.pem", key = "two.key" },\n{ cert = "text", key = "one.key" },\n'
        '{ cert = "one.pem" }]\n'
    )
    assert [line.partition(";")[0].replace(f"{tmp_path}/", "") for line in found] == [
        "3: tls.certificates[#1]: the key is not the certificate's",
        "4: tls.certificates[#2]: text holds no PEM certificate",
        "5: tls.certificates[#3]: one.pem holds no PEM private key",
    ]


def test_a_password_that_openssl_cannot_take(bad: Bad, authority: trustme.CA, tmp_path: Path) -> None:
    issue(authority, tmp_path, "mail")
    encrypt(tmp_path / "mail.key")
    password = "x" * 2000
    (problem,) = bad(f'[tls]\ncertificates = [{{ cert = "mail.pem", key = "mail.key", password = "{password}" }}]')
    assert "cannot be used: password cannot be longer" in problem
    assert password not in problem


def test_a_log_file_that_cannot_be_written(bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    (problem,) = bad('[log]\nfile = "popproxy.log"')
    assert problem == f"2: log.file: {tmp_path}/popproxy.log cannot be written; let the user running popproxy write it"


def test_an_expired_certificate_is_a_warning(good: Good, authority: trustme.CA, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    issued = authority.issue_cert("old.example.com", not_after=datetime(2020, 1, 2, tzinfo=UTC))
    (tmp_path / "old.pem").write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    loaded = good('[tls]\ncertificates = [{ cert = "old.pem" }]')
    assert warnings(loaded) == ["tls.certificates[#1]: the certificate expired on 2020-01-02"]


def test_a_ca_file_without_verification_is_refused(bad: Bad, authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    found = bad(upstream('["pop3s://x"]', 'ca_file = "ca.pem"\nverify = false'))
    assert found == ["3: upstream.main.ca_file: has no effect with verify = false; leave one of the two out"]
