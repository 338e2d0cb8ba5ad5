"""auth_http: what is asked and how an answer is read, octet by octet. tests/integration asks a real nginx the same."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from popproxy_plugins.auth_http.reply import TEXT, Again, BadReply, Granted, Refused, read
from popproxy_plugins.auth_http.request import escaped, headers

from popproxy.api import Bearer, Code, Digest, External, HttpReply, Password, SessionView, TlsView, Verified

SESSION = SessionView("1", "pop3", "192.0.2.42", 50000, "192.0.2.110", 110, attempt=3)
PASSWORD = Password("joe", b"sesame")


def test_the_request_that_nginx_documents() -> None:
    assert headers(SESSION, PASSWORD, "client.example.org", False) == [
        ("Auth-Method", "plain"),
        ("Auth-User", "joe"),
        ("Auth-Pass", "sesame"),
        ("Auth-Protocol", "pop3"),
        ("Auth-Login-Attempt", "3"),
        ("Client-IP", "192.0.2.42"),
        ("Client-Host", "client.example.org"),
    ]


@pytest.mark.parametrize(("mechanism", "method"), [("APOP", "apop"), ("CRAM-MD5", "cram-md5")])
def test_a_digest_goes_with_its_salt(mechanism: Any, method: str) -> None:
    digest = Digest("joe", mechanism, b"<238188073.1163692009@mail.example.com>", b"a" * 32)
    assert headers(SESSION, digest, None, False) == [
        ("Auth-Method", method),
        ("Auth-User", "joe"),
        ("Auth-Pass", "a" * 32),
        ("Auth-Salt", "<238188073.1163692009@mail.example.com>"),
        ("Auth-Protocol", "pop3"),
        ("Auth-Login-Attempt", "3"),
        ("Client-IP", "192.0.2.42"),
    ]


def test_a_certificate_is_a_method_without_a_password() -> None:
    made = dict(headers(SESSION, External("joe"), None, False) or ())
    assert (made["Auth-Method"], made["Auth-User"], made["Auth-Pass"]) == ("external", "joe", "")


@pytest.mark.parametrize("credentials", [Bearer("joe", b"token"), Verified("joe")])
def test_there_are_no_words_for_these(credentials: Any) -> None:
    assert headers(SESSION, credentials, None, False) is None


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        (TlsView("TLSv1.3", "TLS_AES_256_GCM_SHA384"), {"Auth-SSL": "on", "Auth-SSL-Protocol": "TLSv1.3"}),
        (TlsView("TLSv1.2", "X", verify="NONE"), {"Auth-SSL-Cipher": "X", "Auth-SSL-Verify": "NONE"}),
        (
            TlsView(verify="SUCCESS", subject="CN=a", issuer="CN=b", serial="0A", fingerprint="ff", pem="-\n% "),
            {
                "Auth-SSL": "on",
                "Auth-SSL-Verify": "SUCCESS",
                "Auth-SSL-Subject": "CN=a",
                "Auth-SSL-Issuer": "CN=b",
                "Auth-SSL-Serial": "0A",
                "Auth-SSL-Fingerprint": "ff",
                "Auth-SSL-Cert": "-%0A%25%20",
            },
        ),
    ],
)
def test_tls(tls: TlsView, told: dict[str, str]) -> None:
    session = SessionView("1", "pop3", "192.0.2.42", tls=tls)
    made = headers(session, PASSWORD, None, True) or []
    assert {name: value for name, value in made if name.startswith("Auth-SSL") and name in told} == told
    assert [name for name, value in made if not value] == []
    without = headers(session, PASSWORD, None, False) or []
    assert [name for name, _ in made if name != "Auth-SSL-Cert"] == [name for name, _ in without]


def test_behind_a_proxy_header() -> None:
    session = SessionView("1", "pop3", "2001:db8::1", 50000, "192.0.2.110", 110, proxied=True)
    assert (headers(session, PASSWORD, None, False) or [])[-5:] == [
        ("Client-IP", "2001:db8::1"),
        ("Proxy-Protocol-Addr", "2001:db8::1"),
        ("Proxy-Protocol-Port", "50000"),
        ("Proxy-Protocol-Server-Addr", "192.0.2.110"),
        ("Proxy-Protocol-Server-Port", "110"),
    ]


def test_a_unix_socket_is_named_as_nginx_names_it() -> None:
    assert ("Client-IP", "unix:") in (headers(SessionView("1", "pop3", "unix"), PASSWORD, None, False) or [])


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"a b%c+&=?/\"~", 'a%20b%25c+&=?/"~'),
        (b"\0\r\n\t\x1f\x7f", "%00%0D%0A%09%1F\x7f"),
        ("ä€".encode(), "ä€"),
        (b"\xff\xc3", "%FF%C3"),
    ],
)
def test_octets_as_nginx_writes_them(octets: bytes, text: str) -> None:
    assert escaped(octets) == text


@given(st.binary())
def test_whatever_the_octets_are_they_come_back_and_break_no_line(octets: bytes) -> None:
    text = escaped(octets)
    assert unquote_to_bytes(text) == octets
    assert not set(text) & set(map(chr, range(33)))
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("value", "groups"), [(None, None), ("", ()), ("staff", ("staff",)), ("staff, dev", ("staff", "dev"))]
)
def test_groups(value: str | None, groups: tuple[str, ...] | None) -> None:
    told = () if value is None else (("auth-groups", value),)
    answer = read(HttpReply(200, (("Auth-Status", "OK"), ("Auth-Server", "a"), ("Auth-Port", "110"), *told)))
    assert answer == Granted("a", 110, groups=groups)


@pytest.mark.parametrize("value", ["a b", "a,,b", "x" * 65, ",".join(map(str, range(65)))])
def test_groups_that_cannot_be_meant(value: str) -> None:
    granted = (("Auth-Status", "OK"), ("Auth-Server", "a"), ("Auth-Port", "110"), ("Auth-Groups", value))
    with pytest.raises(BadReply, match="Auth-Groups: "):
        read(HttpReply(200, granted))


@given(st.text(alphabet=st.characters(max_codepoint=0xFF, exclude_categories=[])), st.binary())
def test_a_request_of_any_login_can_be_sent(user: str, password: bytes) -> None:
    name = user.encode("latin-1").decode("utf-8", "surrogateescape")
    for _, value in headers(SESSION, Password(name, password), None, True) or []:
        assert not set(value.encode()) & {0, 10, 13}


# Replies


def reply(**values: str) -> HttpReply:
    return HttpReply(200, tuple((f"Auth-{name.replace('_', '-')}", value) for name, value in values.items()))


GOOD: list[tuple[dict[str, str], Any]] = [
    ({"Status": "OK", "Server": "198.51.100.1", "Port": "143"}, Granted("198.51.100.1", 143)),
    ({"Status": "OK", "Server": "mail.example.com", "Port": "110"}, Granted("mail.example.com", 110)),
    ({"Status": "OK", "Server": "[2001:DB8::1]", "Port": "110"}, Granted("2001:db8::1", 110)),
    ({"Status": "OK", "Server": "::1", "Port": "0110"}, Granted("::1", 110)),
    (
        {"Status": "OK", "Server": "a", "Port": "1", "User": "j%20 o\udcff", "Pass": "ä %20\udcff"},
        Granted("a", 1, "j%20 o\udcff", "ä %20".encode() + b"\xff"),
    ),
    ({"Status": "WAIT", "Wait": "5"}, Again(5)),
    ({"Status": "WAIT"}, Again(0)),
    ({"Status": "Invalid login or password", "Wait": "3"}, Refused("Invalid login or password", Code.AUTH, 3)),
    ({"Status": "No"}, Refused("No", Code.AUTH, 0)),
    ({"Status": "ok"}, Refused("ok", Code.AUTH, 0)),
    ({"Status": ""}, Refused("", Code.AUTH, 0)),
    ({"Status": "No", "Wait": "-3"}, Refused("No", Code.AUTH, 0)),
    ({"Status": "No", "Wait": "3s"}, Refused("No", Code.AUTH, 0)),
    ({"Status": "No", "Wait": "9" * 5000}, Refused("No", Code.AUTH, 0)),
    ({"Status": "No", "Wait": "٣"}, Refused("No", Code.AUTH, 0)),
    ({"Status": "Later", "Error_Code": "451 4.3.0", "Wait": "3"}, Refused("Later", Code.SYS_TEMP, 3)),
    ({"Status": "No", "Error_Code": "535 5.7.0"}, Refused("No", Code.AUTH, 0)),
    ({"Status": "No", "Error_Code": "550 5.7.1"}, Refused("No", Code.SYS_PERM, 0)),
    ({"Status": "No", "Error_Code": "what"}, Refused("No", Code.AUTH, 0)),
    ({"Status": "[SYS/TEMP] later"}, Refused("later", Code.SYS_TEMP, 0)),
    ({"Status": "[IN-USE] busy", "Error_Code": "535"}, Refused("busy", Code.IN_USE, 0)),
    ({"Status": "[NEW] x"}, Refused("[NEW] x", Code.AUTH, 0)),
    ({"Status": "x" * 5000}, Refused("x" * TEXT, Code.AUTH, 0)),
]


@pytest.mark.parametrize(("values", "answer"), GOOD)
def test_answers(values: dict[str, str], answer: Any) -> None:
    assert read(reply(**values)) == answer


BAD: list[tuple[dict[str, str], str]] = [
    ({}, "no Auth-Status"),
    ({"Server": "127.0.0.1", "Port": "110"}, "no Auth-Status"),
    ({"Status": "OK"}, "no Auth-Server"),
    ({"Status": "OK", "Server": "", "Port": "1"}, "no Auth-Server"),
    ({"Status": "OK", "Server": "127.0.0.1"}, "no Auth-Port"),
    ({"Status": "OK", "Server": "a b", "Port": "1"}, "Auth-Server: 'a b'"),
    ({"Status": "OK", "Server": "1.2.3", "Port": "1"}, "Auth-Server: '1.2.3'"),
    ({"Status": "OK", "Server": "unix:/run/pop3", "Port": "1"}, "Auth-Server: 'unix:/run/pop3'"),
    ({"Status": "OK", "Server": "x" * 64, "Port": "1"}, "Auth-Server: "),
    ({"Status": "OK", "Server": "a.-b", "Port": "1"}, "Auth-Server: 'a.-b'"),
    ({"Status": "OK", "Server": "a", "Port": "0"}, "Auth-Port is '0'"),
    ({"Status": "OK", "Server": "a", "Port": "65536"}, "Auth-Port"),
    ({"Status": "OK", "Server": "a", "Port": "pop3"}, "Auth-Port"),
    ({"Status": "OK", "Server": "a", "Port": "²"}, "Auth-Port"),
    ({"Status": "OK", "Server": "a", "Port": "1", "Pass": "sesame\0x"}, "Auth-Pass holds control"),
    ({"Status": "OK", "Server": "a", "Port": "1", "User": "joe\r\nDELE 1"}, "Auth-User holds control"),
    ({"Status": "OK", "Server": "a", "Port": "1", "User": ""}, "Auth-User is empty"),
    ({"Status": "OK", "Server": "a", "Port": "1", "Pass": ""}, "Auth-Pass is empty"),
    ({"Status": "No\r\n+OK"}, "Auth-Status holds control"),
    ({"Status": "OK", "status": "No"}, "Auth-Status comes 2 times"),
]


@pytest.mark.parametrize(("values", "told"), BAD)
def test_lies_name_their_header_and_no_secret(values: dict[str, str], told: str) -> None:
    with pytest.raises(BadReply) as caught:
        read(reply(**values))
    assert told in str(caught.value)
    assert "sesame" not in str(caught.value) and "DELE" not in str(caught.value)


NAMES = st.sampled_from(["Auth-Status", "auth-wait", "Auth-Server", "Auth-Port", "Auth-User", "Auth-Pass", "X"])
WORDS = st.one_of(st.sampled_from(["OK", "WAIT", "110", "a.example"]), st.text())


@given(st.lists(st.tuples(NAMES, WORDS)))
def test_any_reply_is_an_answer_or_a_bad_reply(pairs: list[tuple[str, str]]) -> None:
    try:
        answer = read(HttpReply(200, tuple(pairs)))
    except BadReply:
        return
    text = answer.text if isinstance(answer, Refused) else repr(answer)
    assert "\r" not in text and "\n" not in text and "\0" not in text


def test_a_granted_password_is_hidden() -> None:
    assert "sesame" not in repr(Granted("a", 1, "joe", b"sesame"))
