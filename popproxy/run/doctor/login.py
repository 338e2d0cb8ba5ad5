"""The login, made by the proxy's own rules; and what the maildrop looks like from inside."""

from __future__ import annotations

import secrets
from time import monotonic

from popproxy.api.credentials import Bearer, Credentials, Password
from popproxy.core.authenticate import log_in
from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Heard, LoggedIn, LoginRefused
from popproxy.core.mechanisms import choose
from popproxy.run.doctor.case import Case
from popproxy.run.doctor.findings import Findings, shown
from popproxy.run.doctor.greeting import meaning
from popproxy.run.doctor.talk import Talk
from popproxy.wire.capabilities import Capabilities

SLOW = 5.0
"""Seconds from which on a login, or a listing, is slow."""
_UID = 70
_MANY = 20_000


def credentials(mechanism: str, user: str, secret: bytes) -> Credentials:
    """What ``user`` logs in with: a token where the config's mechanism takes no other, else a password."""
    return Bearer(user, secret) if mechanism in ("oauthbearer", "xoauth2") else Password(user, secret)


def attempt(case: Case, talk: Talk, known: Capabilities | None, findings: Findings) -> bool:
    """Whether the login succeeded."""
    given = case.credentials
    if given is None:
        findings.remark("login", "login_untried", "nobody logged in", "write --user to try it")
        return False

    def nonce() -> bytes:
        return secrets.token_urlsafe(24).encode()

    chosen = choose(case.policy, given, known, nonce)
    way = "USER and PASS" if chosen is None else chosen if isinstance(chosen, str) else f"AUTH {chosen.name.decode()}"
    result = talk.run(log_in(case.policy, given, known, case.times, b"PASS", nonce))
    if isinstance(result, LoggedIn):
        text = f"logged in by {way}"
        if talk.seconds > SLOW:
            advice = "see what the server does at a login: user database, lock of the maildrop, index of many messages"
            findings.warn("login", "login_slow", f"{text}, but slowly", advice, talk.seconds)
        else:
            findings.ok("login", "login", text, talk.seconds)
        return True
    if isinstance(result, LoginRefused):
        _refused(way, result, talk, findings)
    elif isinstance(result, Failure):
        _failed(case, way, result, findings)
    return False


def _refused(way: str, result: LoginRefused, talk: Talk, findings: Findings) -> None:
    code = result.code.value
    means, helps = meaning(code) or ("", "see the server's log")
    coded = result.reason.startswith(f"[{code.decode()}")
    how = "" if coded else " (read from its words: it sent no response code)"
    if code == b"AUTH":
        helps += "; whether it wants the name with or without its domain; and whether the account may use POP3 at all"
    word = f"login_{code.decode().lower().replace('-', '_').replace('/', '_')}"
    findings.fail(
        "login", word, f"{way} was refused: {shown(result.reason.encode())}: {means}{how}", helps, talk.seconds
    )


def _failed(case: Case, way: str, failure: Failure, findings: Findings) -> None:
    if failure.kind is Kind.CREDENTIALS:
        findings.fail(
            "login",
            "login_impossible",
            f"nothing was sent: {failure.detail}",
            'write another mechanism = into the config, or allow PLAIN or USER on the server',
        )
    elif failure.kind is Kind.LOGIN_TIMEOUT:
        findings.fail(
            "login",
            "login_timeout",
            f"no answer to {way} within {case.times.login:g} s",
            "see the server's log: its user database may hang; servers also slow down after wrong passwords",
        )
    else:
        findings.fail(
            "login",
            "login_failed",
            f"{way} failed: {failure.kind.value}: {failure.detail}",
            "see the server's log of this moment",
        )


def maildrop(case: Case, talk: Talk, findings: Findings) -> None:
    """STAT, LIST and UIDL. Nothing is retrieved, nothing deleted."""
    stat = talk.ask(b"STAT\r\n", case.times.command)
    counts = _stat(stat)
    if counts is None:
        _broken("STAT", stat, findings)
        return
    messages, octets = counts
    findings.ok("maildrop", "stat", f"{messages} messages, {octets} octets", talk.seconds)
    started = monotonic()
    listed = talk.ask(b"LIST\r\n", case.times.command, multiline=True)
    sizes = _numbers(listed)
    if sizes is None:
        _broken("LIST", listed, findings)
        return
    uids = talk.ask(b"UIDL\r\n", case.times.command, multiline=True)
    if isinstance(uids, Failure):
        _broken("UIDL", uids, findings)
        return
    took = monotonic() - started
    if sum(sizes) != octets or len(sizes) != messages:
        findings.warn(
            "maildrop",
            "maildrop_sums",
            f"LIST has {len(sizes)} messages of {sum(sizes)} octets, which is not what STAT says",
            "let the server count again (Dovecot: doveadm index, or remove its index files)",
        )
    if not uids.ok:
        findings.warn(
            "maildrop",
            "uidl_refused",
            f"UIDL is refused: {shown(uids.raw)}",
            "mail programs that leave mail on the server need it",
        )
        return
    _ids(uids, messages, findings)
    if messages > _MANY:
        findings.remark("maildrop", "maildrop_large", f"{messages} messages are many: each login of a client lists all")
    if took > SLOW:
        advice = "see how long the server needs for its index, and whether its disk keeps up"
        findings.warn("maildrop", "maildrop_slow", "LIST and UIDL are slow", advice, took)


def _ids(uids: Heard, messages: int, findings: Findings) -> None:
    ids = [words[1] for line in uids.lines if len(words := line.split()) == 2]
    wrong = [uid for uid in ids if len(uid) > _UID or any(not 0x21 <= octet <= 0x7E for octet in uid)]
    if len(ids) != messages or len(set(ids)) != len(ids) or wrong:
        doubles = len(ids) - len(set(ids))
        findings.warn(
            "maildrop",
            "uidl_wrong",
            f"UIDL names {len(ids)} ids for {messages} messages, {doubles} of them twice, {len(wrong)} too long or not "
            "printable",
            "mail programs will take mail twice or never: give the server another format of ids (Dovecot: "
            "pop3_uidl_format)",
        )
    else:
        findings.ok("maildrop", "uidl", f"UIDL has an id of its own for each of {messages} messages")


def leave(case: Case, talk: Talk, inside: bool, findings: Findings) -> None:
    """QUIT. Nothing was marked, so nothing is deleted."""
    heard = talk.ask(b"QUIT\r\n", case.times.command)
    if isinstance(heard, Heard) and heard.ok:
        return
    if inside:
        _broken("QUIT", heard, findings)


def _stat(heard: Heard | Failure) -> tuple[int, int] | None:
    if isinstance(heard, Failure) or not heard.ok:
        return None
    words = heard.raw.split()
    if len(words) < 3 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return int(words[1]), int(words[2])


def _numbers(heard: Heard | Failure) -> list[int] | None:
    if isinstance(heard, Failure) or not heard.ok:
        return None
    return [int(words[1]) for line in heard.lines if len(words := line.split()) >= 2 and words[1].isdigit()]


def _broken(command: str, heard: Heard | Failure, findings: Findings) -> None:
    said = heard.detail if isinstance(heard, Failure) else shown(heard.raw)
    findings.fail(
        "maildrop", "maildrop_broken", f"{command} does not work: {said}", "see the server's log of this moment"
    )
