from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.config.problems import Wrong
from popproxy.config.urls import Bind, Server, parse_bind, parse_listen, parse_server
from popproxy.core.plan import LegTls


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("pop3s://mail.example.com", "mail.example.com", 995, "implicit"),
        ("pop3s://mail.example.com/", "mail.example.com", 995, "implicit"),
        ("POPS://Mail.Example.com:1995", "mail.example.com", 1995, "implicit"),
        ("pop3://mail.example.com", "mail.example.com", 110, "starttls"),
        ("pop://mail:1110", "mail", 1110, "starttls"),
        ("pop3+clear://127.0.0.1", "127.0.0.1", 110, "off"),
        ("pop3s://[2001:DB8::1]", "2001:db8::1", 995, "implicit"),
        ("pop3s://[::1]:9995", "::1", 9995, "implicit"),
        ("pop3s://mail_1.example.com.", "mail_1.example.com.", 995, "implicit"),
    ],
)
def test_server(url: str, host: str, port: int, tls: LegTls) -> None:
    server = parse_server(url)
    assert (server.host, server.port, server.tls) == (host, port, tls)


def test_a_server_has_one_normal_url() -> None:
    assert parse_server("pops://[2001:db8:0::1]") == parse_server("pop3s://[2001:db8::1]:995")
    assert parse_server("pop://x") == Server("x", 110, "starttls", "pop3://x:110")


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("mail.example.com:995", "no scheme", "write pop3s://mail.example.com:995 (TLS)"),
        ("imap://mail.example.com", "unknown scheme imap://", "pop3+clear://mail.example.com (no TLS)"),
        ("pop3+tls://h", "unknown scheme", "pop3://h (STLS required)"),
        ("pop3s://h/INBOX", "a path", "write pop3s://h"),
        ("pop3s://h?x=1", "a query", "write pop3s://h"),
        ("pop3s://h/#x", "a path", "write pop3s://h"),
        ("pop3s://h#x", "a fragment", "write pop3s://h"),
        ("pop3s://2001:db8::1", "needs brackets", "write pop3s://[2001:db8::1]:995"),
        ("pop3://2001:db8::1:110", "needs brackets", "write pop3://[2001:db8::1]:110"),
        ("pop3s://[::1", "no address", "write pop3s://[2001:db8::1]:995"),
        ("pop3s://[::1]x", "no address", "write pop3s://["),
        ("pop3s://[mail]", "no IPv6 address", "write pop3s://["),
        ("pop3s://", "the host is missing", "write pop3s://mail.example.com:995"),
        ("pop3s://:995", "the host is missing", "write pop3s://mail.example.com:995"),
        ("pop3s://h:0", "port 0", "write pop3s://h"),
        ("pop3s://h:65536", "no port", "write pop3s://h:995"),
        ("pop3s://h:", "no port", "write pop3s://h:995"),
        ("pop3s://h:x", "no port", "write pop3s://h:995"),
        ("pop3s://b\u00fccher.example", "not ASCII", "xn--bcher-kva.example"),
        ("pop3s://256.1.1.1", "no host name and no IP", "mail.example.com"),
        ("pop3s://-h", "no host name", "mail.example.com"),
        ("pop3s://a..b", "no host name", "mail.example.com"),
        ("pop3s://h h", "no host name", "mail.example.com"),
        (995, "no URL", "pop3s://mail.example.com"),
    ],
)
def test_a_bad_server_url_says_what_to_write(url: object, message: str, hint: str) -> None:
    with pytest.raises(Wrong) as caught:
        parse_server(url)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "pop3s://bob:hunter2@mail.example.com",
        "pop3s://bob:hunter2@mail.example.com/INBOX",
        "pop3s://bob:hun/hunter2@mail.example.com",
        "pop3s://bob:hunter2#@mail.example.com:995",
        "imap://bob:hunter2@mail.example.com",
        "bob:hunter2@mail.example.com",
    ],
)
def test_user_information_is_refused_and_never_repeated(url: str) -> None:
    for parser in (parse_server, parse_listen, parse_bind):
        with pytest.raises(Wrong) as caught:
            parser(url)
        said = caught.value.message + caught.value.hint
        assert "hun" not in said
        assert "bob" not in said
    with pytest.raises(Wrong) as caught:
        parse_server(url)
    assert "pop3s://mail.example.com" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("[::]:995", Bind("inet", "::", 995, v6only=False)),
        ("127.0.0.1:110", Bind("inet", "127.0.0.1", 110, v6only=False)),
        ("127.0.0.1:0", Bind("inet", "127.0.0.1", 0, v6only=False)),
        ("unix:/run/popproxy/pop3.sock", Bind("unix", path="/run/popproxy/pop3.sock", v6only=False)),
    ],
)
def test_bind(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind
    assert str(bind) == text


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("localhost:110", "a name cannot be bound", "write 127.0.0.1:110 or [::1]:110"),
        ("mail.example.com:110", "no IP address of this host", "write 127.0.0.1:110"),
        ("*:110", "no IP address", "write [::]:110 for all addresses"),
        ("::1:110", "needs brackets", "write [::1]:110"),
        ("::", "needs brackets", "write [::]:995"),
        ("a:b:c", "needs brackets", "write [2001:db8::1]:995"),
        ("127.0.0.1", "has no port", 'write "127.0.0.1:995"'),
        ("995", "names no address", 'write "[::]:995"'),
        (":995", "the host is missing", "write [::]:995"),
        ("pop3s://127.0.0.1", "a URL cannot be bound", "tls ="),
        ("/run/pop3.sock", "is a path", 'write "unix:/run/pop3.sock"'),
        ("unix:pop3.sock", "no absolute path", "unix:/run"),
        ("unix:/" + "x" * 107, "107 octets", "shorter"),
        (995, "no address", "[::]:995"),
    ],
)
def test_a_bad_bind_says_what_to_write(text: object, message: str, hint: str) -> None:
    with pytest.raises(Wrong) as caught:
        parse_bind(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("url", "tls", "port"),
    [
        ("pop3s://127.0.0.1:9995", "implicit", 9995),
        ("pop3://127.0.0.1:1110", "starttls", 1110),
        ("pop3+clear://127.0.0.1:0", "off", 0),
        ("pop3s://127.0.0.1", "implicit", 995),
    ],
)
def test_listen(url: str, tls: LegTls, port: int) -> None:
    assert parse_listen(url) == (tls, Bind("inet", "127.0.0.1", port, v6only=False))


def test_listen_binds_addresses_only() -> None:
    with pytest.raises(Wrong) as caught:
        parse_listen("pop3s://localhost:9995")
    assert caught.value.hint == "write pop3s://127.0.0.1:9995 or pop3s://[::1]:9995"


@given(st.text(alphabet=st.sampled_from("pop3s+clear:/[]@.?#-1a é\n"), max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_is_an_address_or_wrong(text: str) -> None:
    for parser in (parse_server, parse_bind, parse_listen):
        for candidate in (text, "pop3s://" + text):
            try:
                parser(candidate)
            except Wrong as wrong:
                assert wrong.message and wrong.hint


_NORMAL = r"(pop3s|pops|pop3|pop|pop3\+clear)://[a-z][a-z0-9]{0,8}(\.[a-z]{1,5})?(:[1-9][0-9]{0,3})?/?"


@given(st.from_regex(_NORMAL, fullmatch=True))
@settings(max_examples=100, deadline=None)
def test_a_normal_url_reads_as_itself(url: str) -> None:
    server = parse_server(url)
    assert parse_server(server.url) == server
