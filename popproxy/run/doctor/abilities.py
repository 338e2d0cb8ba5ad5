"""CAPA: what the server says it can do, and what the proxy and its clients miss."""

from __future__ import annotations

from popproxy.core.failures import Failure
from popproxy.core.mechanisms import TOKENS, spoken
from popproxy.run.doctor.case import Case
from popproxy.run.doctor.findings import Findings
from popproxy.run.doctor.talk import Talk
from popproxy.wire.capabilities import Capabilities

_WANTED = (
    (b"UIDL", "warn", "mail programs that leave mail on the server need it to know what they have"),
    (b"TOP", "note", "mail programs cannot look at a message before they take it"),
    (b"PIPELINING", "note", "clients wait for each answer before they ask again, so many small messages take long"),
    (b"RESP-CODES", "note", "the proxy has to guess by its words why a login is refused"),
)


def ask(case: Case, talk: Talk, findings: Findings) -> Capabilities | Failure | None:
    """The capabilities, None for a server without CAPA."""
    heard = talk.ask(b"CAPA\r\n", case.times.login, multiline=True)
    if isinstance(heard, Failure):
        findings.fail(
            "capabilities",
            "capa_failed",
            f"the server does not answer CAPA properly: {heard.detail}",
            "update the server: a server without CAPA answers -ERR (RFC 2449 section 5)",
            talk.seconds,
        )
        return heard
    if not heard.ok:
        findings.warn(
            "capabilities",
            "capa_none",
            "the server has no CAPA: it is logged in to by USER and PASS, and clients are offered little",
            "use a server that speaks RFC 2449, if you can choose",
        )
        return None
    known = Capabilities.parse(heard.lines)
    words = ", ".join(line.decode("ascii", "backslashreplace") for line in known.lines())
    findings.ok("capabilities", "capa", words or "none", talk.seconds)
    return known


def judge(case: Case, known: Capabilities | None, secure: bool, findings: Findings) -> None:
    """What is missing of ``known``."""
    if known is not None:
        for name, mark, why in _WANTED:
            if name in known:
                continue
            word, text = f"capa_no_{name.decode().lower().replace('-', '_')}", f"no {name.decode()}: {why}"
            if mark == "warn":
                findings.warn("capabilities", word, text, "switch it on in the server, if it has it")
            else:
                findings.remark("capabilities", word, text)
        if not secure and b"STLS" in known:
            findings.warn(
                "capabilities",
                "capa_stls_unused",
                "the server has STLS, but the URL says pop3+clear://: passwords travel in clear",
                "write pop3:// instead",
            )
    _mechanisms(case, known, findings)


def _mechanisms(case: Case, known: Capabilities | None, findings: Findings) -> None:
    names = spoken(case.policy, known)
    offered = {word.decode("ascii", "replace").upper() for word in known.parameters(b"SASL")} if known else set()
    if known is None or b"USER" in known:
        offered.add("USER")
    missing = [name for name in names if name not in offered]
    if case.policy.mechanism != "auto" and missing:
        findings.warn(
            "capabilities",
            "mechanism_not_announced",
            f'mechanism = "{case.policy.mechanism}" is configured, but the server announces '
            f"{', '.join(sorted(offered)) or 'no way to log in'}",
            'write one that is announced, or mechanism = "auto"',
        )
    elif missing:
        findings.warn(
            "capabilities",
            "mechanism_none",
            f"the server announces no way to log in that the proxy speaks ({', '.join(sorted(offered)) or 'none'}): "
            "USER and PASS are tried",
            "allow PLAIN, or USER and PASS, on the server (Dovecot without TLS: disable_plaintext_auth)",
        )
    elif set(names) <= set(TOKENS):
        findings.remark("capabilities", "mechanism_tokens", f"only tokens can log in, no passwords: {', '.join(names)}")
    else:
        findings.remark("capabilities", "mechanisms", f"the proxy logs in by the first that suits: {', '.join(names)}")
