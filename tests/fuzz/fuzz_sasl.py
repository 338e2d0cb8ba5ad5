"""Any lines lead either server side to a SaslError or to an Identity that holds no NUL, CR or LF and was really sent.

The first line names the mechanism (odd length: PLAIN), the second is its initial response unless it is empty, the
others are the client's answers.
"""

from __future__ import annotations

import base64

from popproxy.wire.sasl import (
    CLIENT_MECHANISMS,
    SERVER_MECHANISMS,
    Challenge,
    Complete,
    SaslError,
    command_line,
    decode_challenge,
    decode_initial,
    decode_response,
    encode_challenge,
)

SEEDS: list[bytes] = [
    b"P\nAHRpbQB0YW5zdGFhZnRhbnN0YWFm",
    b"P\n\nVXJzZWwAS3VydAB4aXBqM3BsbXE=",
    b"P\n=",
    b"\ndGlt\ndGFuc3RhYWY=",
    b"\n\ndGlt\n/+/+\ndGlt",
    b"P\nAHRpbQBwYXNzAHdvcmQ=",
]


def one_input(data: bytes) -> None:
    """See the head of this file. Raises AssertionError when that does not hold."""
    which, *lines = data.split(b"\n")
    name = (b"LOGIN", b"PLAIN")[len(which) % 2]
    server, sent = SERVER_MECHANISMS[name](), b""
    try:
        initial = decode_initial(lines[0]) if lines and lines[0] else None
        sent += initial or b""
        step = server.start(initial)
        for line in lines[1:]:
            if not isinstance(step, Challenge):
                break
            assert decode_challenge(encode_challenge(step.data)[:-2]) == step.data
            answer = decode_response(line)
            assert base64.b64encode(answer) == line, "a second spelling was taken"
            sent += b"\x00" + answer
            step = server.respond(answer)
    except SaslError as error:
        assert str(error), "a refusal without a reason"
        return
    if isinstance(step, Complete):
        who = step.identity
        fields = [who.authcid.encode(), who.authzid.encode(), who.secret]
        assert who.authcid and not set(b"\x00\r\n") & set(b"".join(fields)), "an identity that no wire can carry"
        assert all(field in sent for field in fields), "something nobody sent"
        opening = CLIENT_MECHANISMS[b"PLAIN"](who).initial()
        assert opening is not None and opening.split(b"\x00") == [fields[1], fields[0], fields[2]]
        line_of_it = command_line(b"PLAIN", opening)
        assert line_of_it is None or (len(line_of_it) <= 255 and line_of_it.count(b"\n") == 1)


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
