"""Any lines lead the server's side of any mechanism to a SaslError or to an Identity that holds no NUL, CR or LF and
was really sent, and the client's side to a SaslError or to answers that are lines.

The first line names the mechanism by its length, and the side: an odd number of its octets that are capitals is the
client's. The second is the initial response unless it is empty, the others are the peer's answers or challenges.
"""

from __future__ import annotations

import base64

from popproxy.wire.sasl import (
    CLIENT_MECHANISMS,
    SERVER_MECHANISMS,
    Challenge,
    Complete,
    Derivation,
    Identity,
    SaslError,
    Secret,
    Step,
    Wanted,
    command_line,
    decode_challenge,
    decode_initial,
    decode_response,
    encode_challenge,
    encode_response,
    fake,
)

SERVERS, CLIENTS = list(SERVER_MECHANISMS), list(CLIENT_MECHANISMS)


def _b64(*messages: bytes) -> bytes:
    return b"\n".join(base64.b64encode(message) for message in messages)


SEEDS: list[bytes] = [
    b"xxxx\nAHRpbQB0YW5zdGFhZnRhbnN0YWFm",
    b"xxxx\n\nVXJzZWwAS3VydAB4aXBqM3BsbXE=",
    b"xxxx\n=",
    b"xxxxx\ndGlt\ndGFuc3RhYWY=",
    b"xxxxx\n\ndGlt\n/+/+\ndGlt",
    b"xxxx\nAHRpbQBwYXNzAHdvcmQ=",
    b"\n" + _b64(b"n,a=a=2Cb,n=us=3Der,r=abc", b"c=biws,r=abcnonce,p=" + b"A" * 43 + b"="),
    b"x\n" + _b64(b"y,,n=user,r=abc,x=y"),
    b"xx\n" + _b64(b"n,a=joe,\x01host=a\x01auth=Bearer t\x01\x01"),
    b"xxx\n" + _b64(b"user=joe\x01auth=Bearer t\x01\x01"),
    b"xxxxxx\n\n" + _b64(b"tim b913a602c7eda7a495b4e6e7334d3890"),
    b"Xxxxx\n\n" + _b64(b"r=noncex,s=AAAA,i=9", b"v=" + b"A" * 43 + b"="),
    b"Xxxxx\n\n" + _b64(b"r=noncex,s=AAAA,i=9", b"e=other-error"),
    b"Xx\n\n" + _b64(b'{"status":"invalid_token","scope":"x"}', b""),
    b"Xxx\n\n" + _b64(b"[[[[", b"{}"),
]


def one_input(data: bytes) -> None:
    """See the head of this file. Raises AssertionError when that does not hold."""
    which, *lines = data.split(b"\n")
    if sum(65 <= octet <= 90 for octet in which) % 2:
        client(CLIENTS[len(which) % len(CLIENTS)], lines[1:])
    else:
        server(SERVERS[len(which) % len(SERVERS)], lines)


def server(name: bytes, lines: list[bytes]) -> None:
    """The lines of a client."""
    mechanism, sent = SERVER_MECHANISMS[name](b"nonce"), b""

    def known(step: Step) -> Step:
        return mechanism.supply(fake(b"seed", name.decode(), step.user)) if isinstance(step, Wanted) else step

    try:
        initial = decode_initial(lines[0]) if lines and lines[0] else None
        sent += initial or b""
        step = known(mechanism.start(initial))
        for line in lines[1:]:
            if not isinstance(step, Challenge):
                break
            assert decode_challenge(encode_challenge(step.data)[:-2]) == step.data
            answer = decode_response(line)
            assert base64.b64encode(answer) == line, "a second spelling was taken"
            sent += b"\x00" + answer
            step = known(mechanism.respond(answer))
    except SaslError as error:
        assert str(error), "a refusal without a reason"
        return
    if isinstance(step, Complete):
        assert not name.startswith(b"SCRAM"), "somebody proved to know a password that nobody has"
        safe(name, step.identity, sent)


def safe(name: bytes, who: Identity, sent: bytes) -> None:
    """What came out can go anywhere, and came in."""
    fields = [who.authcid.encode(), who.authzid.encode(), who.secret]
    assert not set(b"\x00\r\n") & set(b"".join(fields)), "an identity that no wire can carry"
    plain = sent.replace(b"=2C", b",").replace(b"=3D", b"=") if name == b"OAUTHBEARER" else sent
    assert who.secret in sent or who.kind is Secret.DIGEST
    assert who.authzid.encode() in sent and who.authcid.encode() in plain, "something nobody sent"
    assert who.authcid or name == b"OAUTHBEARER"
    if who.kind is Secret.PASSWORD:
        opening = CLIENT_MECHANISMS[b"PLAIN"](who, b"nonce").initial()
        assert opening is not None and opening.split(b"\x00") == [fields[1], fields[0], fields[2]]
        line_of_it = command_line(b"PLAIN", opening)
        assert line_of_it is None or (len(line_of_it) <= 255 and line_of_it.count(b"\n") == 1)


def client(name: bytes, lines: list[bytes]) -> None:
    """The challenges of a server. A derivation is stood in for: what comes of it does not matter here."""
    kind = Secret.TOKEN if name in (b"OAUTHBEARER", b"XOAUTH2") else Secret.PASSWORD
    mechanism = CLIENT_MECHANISMS[name](Identity("joe", "", b"s3cr3t", kind), b"nonce")
    opening = mechanism.initial()
    assert opening is None or opening == mechanism.initial()
    try:
        for line in lines:
            answer = mechanism.respond(decode_challenge(b"+ " + line))
            if isinstance(answer, Derivation):
                assert 1 <= answer.iterations <= 1_000_000
                answer = mechanism.derived(b"salted")
            assert encode_response(answer).count(b"\n") == 1
    except SaslError as error:
        assert str(error), "a refusal without a reason"
        assert "s3cr3t" not in str(error)
    assert not set(b"\r\n") & set(mechanism.document)


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
