"""Any octets are a command, which travels as a line that parses to the same command, or BadCommand; nothing else."""

from __future__ import annotations

from popproxy.wire.commands import VERBS, BadCommand, Command, Framing, Verb, content, declared, parse, redacted

EXTRA = {b"XFOO": declared(b"XFOO", Framing.MULTI), b"XTND": declared(b"XTND", Framing.SINGLE)}
SEEDS = [
    b"NOOP\r\n",
    b"retr 1\r\n",
    b"TOP 1 0\r\n",
    b"PASS  two  spaces \r\n",
    b"USER joe\n",
    b"AUTH PLAIN AGpvZQBzZXNhbWU=\r\n",
    b"XTND XLST Message-Id 4\r\n",
    b"XTND FOO bar\r\n",
    b"RETR 9223372036854775808\r\n",
    b"DELE \xff\0\r\n",
]
_KEPT = (VERBS[b"PASS"], VERBS[b"USER"], VERBS[b"APOP"])


def one_input(data: bytes) -> None:
    """A line as a LineBuffer gives it, with and without bare LF allowed, then its text alone."""
    line = data.replace(b"\n", b"") + b"\n"
    for bare_lf in (False, True):
        try:
            text = content(line, bare_lf)
        except BadCommand as bad:
            assert bad.kind in ("bare_lf", "bare_cr", "nul"), bad.kind
            continue
        assert not set(text) & {0, 10, 13}
        _check(text, None)
        _check(text, EXTRA)
    _check(data, EXTRA)


def _check(text: bytes, extra: dict[bytes, Verb] | None) -> None:
    try:
        command = parse(text, extra)
    except BadCommand as bad:
        assert bad.kind in ("unknown", "arguments", "number"), bad.kind
        assert str(bad).isascii()
        return
    assert parse(command.line[:-2], extra) == command
    assert command.message is None or command.message >= 1
    assert command.multiline in (False, True)
    _check_argument(text, command)
    _check_log(command)


def _check_argument(text: bytes, command: Command) -> None:
    if command.verb in _KEPT:
        assert text.endswith(command.argument)
        assert len(text) == len(command.verb.name) + 1 + len(command.argument)
    else:
        words = [word for word in text.split(b" ") if word]
        assert words[len(words) - len(command.arguments) :] == list(command.arguments)
        assert len(words) == len(command.arguments) + len(command.verb.name.split())


def _check_log(command: Command) -> None:
    shown = redacted(command)
    if command.verb.name in (b"PASS", b"AUTH", b"APOP", b"RPOP"):
        assert shown in (command.name, f"{command.name} <hidden>")
    assert not any(ord(character) < 32 for character in shown)
    assert shown in repr(command)


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
