"""The dialogue with an upstream until it is ready for a login."""

from __future__ import annotations

from typing import Any

from popproxy.api import parse
from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Relayed
from popproxy.core.limits import Timeouts
from popproxy.core.login import Knowledge, prepare, relay
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.capabilities import Capabilities
from tests.core.talk import talk

TIMES = Timeouts()


def ready(policy: UpstreamPolicy, knowledge: Knowledge, *answers: bytes | None, **more: Any) -> Any:
    return talk(prepare(policy, more.pop("secure", False), knowledge, 5.0, TIMES, **more), *answers)


def test_knowledge_is_fresh_for_a_while() -> None:
    knowledge = Knowledge(lifetime=10)
    assert knowledge.get("main") is None
    assert not knowledge.fresh("main", 0)
    knowledge.learn("main", None, 5)
    assert knowledge.fresh("main", 14.9)
    assert not knowledge.fresh("main", 15)
    theirs = Capabilities.parse([b"TOP"])
    knowledge.learn("main", theirs, 15)
    assert knowledge.get("main") == theirs
    knowledge.forget("main")
    knowledge.forget("main")
    assert not knowledge.fresh("main", 15)


def test_prepare_in_the_clear() -> None:
    knowledge = Knowledge()
    clear = UpstreamPolicy("main", "off")
    assert ready(clear, knowledge, b"+OK hi", b"+OK\nTOP\nSASL PLAIN") == ([b"", b"CAPA\r\n"], None)
    assert knowledge.get("main") == Capabilities.parse([b"TOP", b"SASL PLAIN"])
    assert ready(clear, knowledge, b"+OK hi") == ([b""], None)


def test_prepare_without_capa() -> None:
    knowledge = Knowledge()
    assert ready(UpstreamPolicy("main", "off"), knowledge, b"+OK", b"-ERR") == ([b"", b"CAPA\r\n"], None)
    assert knowledge.fresh("main", 5)
    assert knowledge.get("main") is None
    other = Knowledge()
    assert ready(UpstreamPolicy("main", "off"), other, b"+OK", ask=False) == ([b""], None)
    assert other.fresh("main", 5)


def test_prepare_with_stls() -> None:
    said, result = ready(UpstreamPolicy("main", "starttls"), Knowledge(), b"+OK", b"+OK", None, b"-ERR")
    assert said == [b"", b"STLS\r\n", None, b"CAPA\r\n"]
    assert result is None


def test_prepare_does_not_ask_for_tls_that_is_on() -> None:
    for tls in ("starttls", "implicit"):
        said, _ = ready(UpstreamPolicy("main", tls), Knowledge(), b"+OK", b"-ERR", secure=True)
        assert said == [b"", b"CAPA\r\n"]


def test_promise_5_no_stls_no_login() -> None:
    _, result = ready(UpstreamPolicy("main", "starttls"), Knowledge(), b"+OK", b"-ERR no TLS here")
    assert isinstance(result, Failure)
    assert result.kind is Kind.NO_STLS
    said, result = ready(UpstreamPolicy("main", "implicit"), Knowledge())
    assert said == []
    assert isinstance(result, Failure)
    assert result.kind is Kind.TLS


def test_prepare_greeted_with_err() -> None:
    _, result = ready(UpstreamPolicy("main", "off"), Knowledge(), b"-ERR busy")
    assert result == Failure(Kind.GREETING, "greeted with b'-ERR busy\\r\\n'")


def test_relay() -> None:
    assert talk(relay(parse(b"UTF8"), TIMES), b"+OK fine") == ([b"UTF8\r\n"], Relayed(True, b"+OK fine\r\n"))
    assert talk(relay(parse(b"UTF8"), TIMES), b"-ERR no") == ([b"UTF8\r\n"], Relayed(False, b"-ERR no\r\n"))
    assert talk(relay(parse(b"LANG"), TIMES), b"-ERR no") == ([b"LANG\r\n"], Relayed(False, b"-ERR no\r\n"))
    _, listed = talk(relay(parse(b"LANG"), TIMES), b"+OK\nen\n.x")
    assert listed == Relayed(True, b"+OK\r\nen\r\n..x\r\n.\r\n")
