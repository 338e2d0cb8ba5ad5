"""Every mistake at once, each with its line, its key and what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from popproxy.config.load import Loaded, load, load_data
from popproxy.config.problems import ConfigError, ConfigProblem

Bad = Callable[[str], list[str]]
Good = Callable[[str], Loaded]


def test_the_smallest_config_is_good(good: Good) -> None:
    loaded = good("")
    assert [listener.name for listener in loaded.plan.listeners] == ["pop3s"]
    assert loaded.plan.default_upstream == "main"


def test_all_mistakes_are_found_at_once_in_the_order_of_lines(bad: Bad) -> None:
    found = bad(
        'listen = 1\n'
        '[[listener]]\nname = "a"\nbind = ["x:1", "[::]:995"]\ntls = "implict"\n'
        '[[listener]]\nname = "a"\nbind = ["[::]:110"]\ntls = "off"\n'
        '[upstream.main]\nservers = ["imap://x"]\nverfy = false\n'
        '[upstream.other]\nservers = []\n'
        '[[plugin]]\nuse = "heders"\n'
        '[timeouts]\nidle = "10 minutes"\n'
        '[limits]\nreply = 12\n'
    )
    assert [line.split(": ")[:2] for line in found] == [
        ["1", "listen"],
        ["1", "default_upstream"],
        ["4", "listener[a].bind[#1]"],
        ["5", "listener[a].tls"],
        ["7", "listener[a].name"],
        ["9", "listener[a].tls"],
        ["11", "upstream.main.servers[#1]"],
        ["12", "upstream.main.verfy"],
        ["14", "upstream.other.servers"],
        ["16", "plugin[heders].use"],
        ["18", "timeouts.idle"],
        ["20", "limits.reply"],
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lisener = 1", "1: lisener: unknown key; did you mean listener?"),
        ('[[listener]]\nlisten = 1\n#listener]]', "2: listener[#1].listen: unknown key; did you mean bind?"),
        (
            "[log]\nworkers = 2",
            "2: log.workers: unknown key; write it above the first table: TOML takes it for a key "
            "of the table it stands in",
        ),
        (
            "[zzz]",
            "1: zzz: unknown key; write one of: admin, default_upstream, limits, listener, log, metrics, overload, "
            "plugin, protocol, store, timeouts, tls, upstream, workers",
        ),
        ("default_upstream = 1", '1: default_upstream: must be a string; write default_upstream = "main"'),
        ('default_upstream = "mian"', "1: default_upstream: there is no upstream 'mian'; did you mean main?"),
        (
            '[upstream.a]\nservers = ["pop3s://a"]\n[upstream.b]\nservers = ["pop3s://b"]',
            '1: default_upstream: is missing, and there are several upstreams; write default_upstream = "a" above the '
            "first table",
        ),
        (
            '[upstream]\nservers = ["pop3s://a"]',
            "1: upstream: is not a table of upstreams; write [upstream.main], with a name of your own",
        ),
        (
            '[listener]\nname = "a"\n#listener]]',
            "1: listener: is not a list of tables; write [[listener]] in double brackets, once for each",
        ),
        (
            'listener = []\n#listener]]',
            '1: listener: there is no listener; write [[listener]] with name = "pop3s", bind = ["[::]:995"] and '
            'tls = "implicit"',
        ),
        (
            "upstream = {}\n#[upstream",
            '1: upstream: there is no upstream; write [upstream.main] with servers = ["pop3s://mail.example.com"]',
        ),
        ('plugin = "x"', "1: plugin: is not a list of tables; write [[plugin]] in double brackets, once for each"),
        ("plugin = [1]", "1: plugin[#1]: must be a table, not a whole number; write a table"),
        ("log = 1", "1: log: must be a table, not a whole number; write a table"),
        (
            '[[listener]]\nname = "a"\ntls = "off"\nauth_before_tls = "allow"',
            '1: listener[a].bind: is missing; write bind = ["[::]:995"]',
        ),
        (
            '[[listener]]\nname = "a"\nbind = []\ntls = "implicit"',
            '3: listener[a].bind: needs at least 1 entry; write bind = ["[::]:995"]',
        ),
        (
            '[[listener]]\nname = "a"\nbind = "[::]:995"\ntls = "implicit"',
            '3: listener[a].bind: must be a list; write it in brackets: ["..."]',
        ),
        (
            '[[listener]]\nname = "a"\nbind = ["[::]:995"]\ntls = "ssl"',
            '4: listener[a].tls: "ssl" is not one of the choices; write "off", "starttls" or "implicit"',
        ),
        (
            '[[listener]]\nname = "a"\nbind = ["[::]:995"]\ntls = "implicit"\nmax_connections = 0',
            "5: listener[a].max_connections: 0 is out of range; write at least 1",
        ),
        (
            '[[listener]]\nname = "a"\nbind = ["[::]:995"]\ntls = "implicit"\nmax_connections = "2"',
            "5: listener[a].max_connections: must be a whole number, not a string; write max_connections = 2000",
        ),
        (
            '[[listener]]\nname = "a"\nbind = ["[::]:995"]\ntls = "implicit"\ngreeting = "<1.2@x>"',
            "5: listener[a].greeting: a greeting with < reads as an offer of APOP (RFC 1939 section 7); leave angle "
            "brackets out of it",
        ),
        (
            '[[listener]]\nname = "a"\nbind = ["unix:/x"]\ntls = "implicit"\nunix_mode = "rw"',
            '5: listener[a].unix_mode: \'rw\' is no file mode; write three octal digits as a string, like "0660"',
        ),
        (
            '[[listener]]\nname = "a"\nbind = ["[::]:995"]\ntls = "implicit"\n[listener.proxy_protocol]\ntrusted = []',
            '6: listener[a].proxy_protocol.trusted: needs at least 1 entry; write trusted = ["10.0.0.0/8", '
            '"2001:db8::/32"]',
        ),
        (
            '[upstream."a b"]\nservers = ["pop3s://x"]',
            "1: upstream.a b: 'a b' is no name; write a letter, then at most 63 letters, digits, - or _ (names become "
            "metric labels)",
        ),
        (
            '[upstream.main]\nservers = ["pop3s://x"]\nverify = "no"',
            "3: upstream.main.verify: must be true or false, not a string; write verify = true",
        ),
        (
            '[upstream.main]\nservers = ["pop3s://x"]\nserver_name = "pop3s://x"',
            "3: upstream.main.server_name: 'pop3s://x' is no host name; write only a name, like \"mail.example.com\"",
        ),
        (
            '[upstream.main]\nservers = ["pop3s://x"]\nca_file = "nowhere.pem"',
            "nowhere.pem: No such file or directory; write the path of a file that the user running popproxy may read",
        ),
        (
            '[upstream.main]\nservers = ["pop3s://x"]\nmechanism = "cram"',
            '3: upstream.main.mechanism: "cram" is not one of the choices; write "auto", "user", "plain", "login", '
            '"scram-sha-256", "oauthbearer" or "xoauth2"',
        ),
        ("[[plugin]]\nname = \"a\"", '1: plugin[a].use: is missing; write use = "headers"'),
        (
            '[[plugin]]\nuse = "a b"',
            "2: plugin[a b].use: 'a b' names no plugin; write its name, or \"package.module:Class\" for your own",
        ),
        (
            '[admin]\nbind = "localhost:9110"',
            "2: admin.bind: a name cannot be bound; write 127.0.0.1:9110 or [::1]:9110",
        ),
        (
            '[log]\nformat = "xml"',
            '2: log.format: "xml" is not one of the choices; write "json", "console" or "journald"',
        ),
        ("[log]\nfile = 1", '2: log.file: 1 is no path; write a path like "/etc/popproxy/mail.pem"'),
        (
            "[timeouts]\nidel = 1",
            "2: timeouts.idel: unknown key; did you mean idle?",
        ),
        ("[limits]\npipeline = true", "2: limits.pipeline: must be a whole number, not true; write pipeline = 512"),
        ('[protocol]\nopen = ["TOP"]', "2: protocol.open[#1]: TOP is never fenced; leave it out"),
        (
            '[protocol]\nopen = ["XFOO"]',
            "2: protocol.open[#1]: 'XFOO' is no fenced verb; write one of LAST, RPOP, XTND BBOARDS, XTND X-BBOARDS, "
            "XTND ARCHIVE, XTND XLST, XTND XMIT, XOIP, XSENDER; declare a verb of your own in protocol.verbs",
        ),
        (
            '[protocol]\nverbs = [{ name = "last", framing = "single" }]',
            '2: protocol.verbs[last].name: LAST is known already; write it in open = ["LAST"]',
        ),
        (
            '[protocol]\nverbs = [{ name = "RETR", framing = "multi" }]',
            "2: protocol.verbs[RETR].name: RETR is known already; leave it out",
        ),
        (
            '[protocol]\nverbs = [{ name = "A B", framing = "multi" }]',
            "2: protocol.verbs[A B].name: 'A B' is no verb; write a word of 1 to 40 printable ASCII characters, like "
            '"XFOO"',
        ),
        (
            '[protocol]\nverbs = [{ name = "XFOO" }]',
            '2: protocol.verbs[XFOO].framing: is missing; write framing = "single"',
        ),
        (
            '[protocol]\ncapabilities = ["stls"]',
            "2: protocol.capabilities[#1]: STLS is decided on by popproxy itself; leave it out",
        ),
        (
            '[protocol]\ncapabilities = ["X-A 1"]',
            "2: protocol.capabilities[#1]: 'X-A 1' is no capability; write one word without parameters, like "
            '"X-FEATURE"',
        ),
        (
            "[tls]\ncertificates = [{ key = 1 }]",
            '2: tls.certificates[#1].cert: is missing; write cert = "/etc/popproxy/mail.pem"',
        ),
        (
            '[tls]\nminimum = "TLSv1.1"',
            '2: tls.minimum: "TLSv1.1" is not one of the choices; write "TLSv1.2" or "TLSv1.3"',
        ),
    ],
)
def test_each_mistake_says_where_it_is_and_what_to_write(bad: Bad, text: str, problem: str) -> None:
    found = bad(text)
    assert any(line.endswith(problem) for line in found), found


def test_pydantic_never_speaks_for_itself(bad: Bad) -> None:
    found = bad(
        '[[listener]]\nname = 1\nbind = [1]\ntls = 1\nauth_before_tls = 1\nproxy_protocol = 1\ngreeting = 1\n'
        'max_connections = "x"\nunix_mode = 1\n[upstream.main]\nservers = 1\nca_file = 1\nverify = 1\nserver_name = 1\n'
        'mechanism = 1\nclient_certificate = 1\n[[plugin]]\nuse = 1\nname = 1\nwhen = 1\nfail = 1\ndeadline = "x"\n'
        '[admin]\nbind = 1\n[log]\nusers = 1\nlevel = 1\n[protocol]\nbare_lf = "x"\nopen = 1\nverbs = 1\n'
    )
    assert len(found) == 25, found
    assert not [line for line in found if "Input" in line or "input" in line or "Value error" in line]
    assert all("; " in line for line in found)


def test_a_secret_is_in_no_problem(bad: Bad, tmp_path: Path) -> None:
    found = bad(
        '[tls]\ncertificates = [{ cert = "x", password = ["hunter2"] }, { cert = "y", password = { pass = "hunter2" } }'
        ', { cert = "z", password = 20021 }]\n'
    )
    assert len([line for line in found if ".password: " in line]) == 3
    assert not [line for line in found if "hunter2" in line or "20021" in line]


@pytest.mark.parametrize(
    ("octets", "line", "message"),
    [
        (b"a = 1\nb = \n", 2, "is not TOML at column 5: Invalid value; write strings in quotes"),
        (b"a = 1\na = 2\n", 2, "is not TOML at column 6: Cannot overwrite a value; the key stands there twice"),
        (b"[a]\nb = 1\n[a]\n", 3, "is not TOML at column 3: Cannot declare ('a',) twice; the table stands there"),
        (b'a = 1\n\nb = """x', 3, "is not TOML: Unterminated string; end the string with the quotes"),
        (b'a = "x\n', 1, "is not TOML at column 7: Illegal character '\\n'; end the string with a quote"),
        (b'a = "C:\\users"\n', 1, "is not TOML at column 10: Invalid hex value; write \\\\ for each backslash"),
        (b'a = "C:\\etc"\n', 1, "is not TOML at column 10: Unescaped '\\' in a string; write \\\\ for each"),
        (b'a = ["x"\n[b]\n', 2, "is not TOML at column 1: Unclosed array; end the list"),
        (b'a = { b = "x"\n', 1, "is not TOML at column 14: Unclosed inline table; end the table"),
        (b"a: 1\n", 1, "is not TOML at column 2: Expected '=' after a key in a key/value pair; write key = value"),
        (b"a = 1\nb = '\xff'", 2, "is not UTF-8"),
        (b"a = " + b"1" * 5000, 0, "holds a number of thousands of digits"),
        (b"a = " + b"[" * 3000 + b"]" * 3000, 0, "nests tables too deep"),
        (b"a = " + b"{a = " * 330 + b"1" + b"}" * 330, 0, "nests tables too deep"),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, octets: bytes, line: int, message: str) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(octets)
    with pytest.raises(ConfigError) as caught:
        load(file)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(file), line)
    assert f"{problem.message}; {problem.hint}".startswith(message)
    assert problem.hint


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"\xef\xbb\xbf[[listener]]\nname = 1\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [problem.key for problem in caught.value.problems if problem.line == 2] == ["listener[#1].name"]


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError) as caught:
            load(path)
        (problem,) = caught.value.problems
        assert problem.message.startswith("cannot be read: ")
        assert str(problem).startswith(f"{path}: cannot be read")


def test_without_a_file_there_are_no_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        load_data({"listener": [{"name": "a"}], "upstream": {"a": {"servers": []}}}, "command line", "", Path("/"))
    assert {problem.line for problem in caught.value.problems} == {0}


def test_a_problem_as_text_and_as_json() -> None:
    problem = ConfigProblem("f.toml", 3, "a.b", "is wrong", "write c")
    assert str(problem) == "f.toml:3: a.b: is wrong; write c"
    assert str(ConfigProblem("f.toml", 0, "", "is wrong", "")) == "f.toml: is wrong"
    assert problem.as_dict() == {"file": "f.toml", "line": 3, "key": "a.b", "message": "is wrong", "hint": "write c"}
    assert str(ConfigError([problem, problem])) == f"{problem}\n{problem}"


def test_relative_paths_begin_at_the_config_file(good: Good, tmp_path: Path) -> None:
    loaded = good('[log]\nfile = "popproxy.log"\n[tls]\nself_signed_directory = "state"')
    assert loaded.plan.log.file == tmp_path / "popproxy.log"
    assert loaded.plan.tls.self_signed_directory == tmp_path / "state"
