"""brute_force: what counts, who is held, who is refused, and who is not."""

from __future__ import annotations

from typing import Any

import pytest
from popproxy_plugins.brute_force import BruteForce, BruteForceConfig, bans
from pydantic import ValidationError

from popproxy.api import Bearer, Digest, Fail, Hold, Password, Refuse
from popproxy.api.fakes import FakeServices, FakeStore, World
from popproxy.api.testing import play
from tests.plugins.brute_force.rig import AT_HOME, ELSEWHERE, Rig
from tests.plugins.driving import drive


def test_delays_grow_and_then_it_is_refused() -> None:
    rig = Rig(address={"names": 0})
    outcomes = [rig.login("joe", f"guess{n}") for n in range(13)]
    assert [held for _, held in outcomes[:12]] == [0, 0, 0, 0, 2, 4, 8, 15, 15, 15, 15, 15]
    assert {outcome for outcome, _ in outcomes[:12]} == {"wrong"}
    assert outcomes[12] == ("SYS/TEMP", 0.0)
    ((event, fields),) = [line for line in rig.events() if line[0] == "banned"]
    assert event == "banned"
    assert str(fields["network"]) == f"{AT_HOME}/32"
    assert (fields["pairs"], fields["passwords"], fields["names"], fields["seconds"]) == (12, 12, 1, 600)


def test_a_phone_with_an_old_password_is_one_failure() -> None:
    rig = Rig()
    for _ in range(500):
        assert rig.login("joe", "old") == ("wrong", 0.0)
        rig.clock.wait(60)
    assert rig.login("ann", "right", right=True) == ("ok", 0.0)


def test_names_count_without_case() -> None:
    rig = Rig(address={"delay": 2})
    for name in ("joe", "JOE", "Joe"):
        assert rig.login(name, "old") == ("wrong", 0.0)


@pytest.mark.parametrize(("kind", "limit"), [("names", 8), ("passwords", 12), ("pairs", 12)])
def test_each_kind_has_its_own_limit(kind: str, limit: int) -> None:
    others = {"names": 0, "passwords": 0, "pairs": 0, "delay": 0} | {kind: limit}
    rig = Rig(address=others, user={"delay": 0, "passwords": 0})
    for n in range(limit):
        name = "joe" if kind == "passwords" else f"user{n}"
        password = "spray" if kind == "names" else f"guess{n}"
        assert rig.login(name, password) == ("wrong", 0.0)
    assert rig.login("ann", "guess", right=True)[0] == "SYS/TEMP"


@pytest.mark.parametrize("code", ["SYS/TEMP", "SYS/PERM", "IN-USE", "LOGIN-DELAY", ""])
def test_only_bad_credentials_count(code: str) -> None:
    rig = Rig()
    for n in range(50):
        session = rig.session(AT_HOME, f"user{n}")
        assert rig.begin(session, f"guess{n}") is None
        assert rig.end(session, code) is None


def test_networks_count_too_with_higher_limits() -> None:
    rig = Rig(user={"delay": 0, "passwords": 0})
    held = 0
    for n in range(60):
        outcome, seconds = rig.login(f"user{n % 30}", f"guess{n}", f"203.0.113.{n + 1}")
        assert outcome == "wrong", n
        held += seconds > 0
    assert held == 40
    assert rig.login("ann", "x", "203.0.113.200")[0] == "SYS/TEMP"
    assert rig.login("ann", "x", "203.0.114.200")[0] == "wrong"


def test_an_ipv6_network_of_64_bits_is_one_address() -> None:
    rig = Rig()
    for n in range(8):
        assert rig.login(f"user{n}", "spray", f"2001:db8:1:2::{n + 1:x}")[0] == "wrong"
    assert rig.login("ann", "x", "2001:db8:1:2:ffff::1")[0] == "SYS/TEMP"
    assert rig.login("ann", "x", "2001:db8:1:3::1")[0] == "wrong"


def test_a_mapped_address_is_the_ipv4_address() -> None:
    rig = Rig()
    for n in range(8):
        rig.login(f"user{n}", "spray", f"::ffff:{AT_HOME}")
    assert rig.login("ann", "x", AT_HOME)[0] == "SYS/TEMP"


def test_a_known_user_gets_in_through_every_ban() -> None:
    rig = Rig()
    assert rig.login("ann", "right", right=True) == ("ok", 0.0)
    for n in range(80):
        rig.login("ann" if n % 2 else f"user{n}", f"guess{n}", AT_HOME if n % 3 == 0 else f"192.0.2.{n + 100}")
        rig.login("ann", f"more{n}", f"198.51.{n}.1")
    assert rig.login("new", "right", AT_HOME, right=True)[0] == "SYS/TEMP"
    # Guesses at herself from her own address were hers.
    rig.clock.wait(3601)
    for n in range(20):
        rig.login(f"user{n}", f"guess{n}", AT_HOME)
        rig.login("ann", f"again{n}", f"198.51.{n}.2")
    assert rig.login("new", "right", AT_HOME, right=True)[0] == "SYS/TEMP"
    assert rig.login("ann", "right", right=True) == ("ok", 0.0)
    assert rig.count("known") > 0


def test_behind_one_address_a_user_cannot_be_guessed_without_limit() -> None:
    rig = Rig()
    rig.login("ann", "right", right=True)
    outcomes = [rig.login("ann", f"guess{n}") for n in range(100)]
    assert [outcome for outcome, _ in outcomes].count("wrong") == 20
    assert outcomes[19][1] == 15.0
    assert [event for event, _ in rig.events()].count("guessed") == 1
    rig.clock.wait(3601)
    assert rig.login("ann", "right", right=True) == ("ok", 0.0)


def test_a_user_under_attack_is_open_for_clean_addresses() -> None:
    rig = Rig()
    for n in range(25):
        rig.login("ann", f"guess{n}", f"198.51.{n}.1")
    assert rig.login("ann", "right", "203.0.113.1", right=True) == ("ok", 15.0)
    for n in range(3):
        assert rig.login(f"user{n}", "x", "203.0.114.1")[0] == "wrong"
    assert rig.login("ann", "right", "203.0.114.1", right=True)[0] == "SYS/TEMP"
    assert rig.login("bob", "right", "203.0.114.1", right=True)[0] == "ok"


def test_everybody_closes_the_door_to_strangers() -> None:
    rig = Rig(user={"everybody": 30})
    rig.login("ann", "right", right=True)
    for n in range(30):
        rig.login("ann", f"guess{n}", f"198.51.{n}.1")
    assert rig.login("ann", "right", "203.0.113.1", right=True)[0] == "SYS/TEMP"
    assert rig.login("ann", "right", right=True) == ("ok", 0.0)


@pytest.mark.parametrize("near", [True, False])
def test_the_next_address_of_the_same_provider(near: bool) -> None:
    rig = Rig(known={"near": near})
    rig.login("ann", "right", "192.0.2.7", right=True)
    for n in range(25):
        rig.login("ann", f"guess{n}", f"198.51.{n}.1")
    assert rig.login("ann", "right", "192.0.2.8", right=True) == ("ok", 0.0 if near else 15.0)


def test_bans_end_and_grow_and_do_not_come_back_by_an_old_password() -> None:
    rig = Rig(user={"delay": 0, "passwords": 0})
    for n in range(8):
        rig.login(f"user{n}", "spray")
    assert rig.login("user0", "spray")[0] == "SYS/TEMP"
    rig.clock.wait(601)
    assert rig.login("user0", "spray") == ("wrong", 15.0)
    assert rig.login("user1", "spray")[0] == "wrong"
    assert rig.login("user99", "spray")[0] == "wrong"
    assert rig.login("user99", "spray")[0] == "SYS/TEMP"
    rig.clock.wait(1750)
    assert rig.login("user99", "spray")[0] == "SYS/TEMP"
    banned = [fields for event, fields in rig.events() if event == "banned"]
    assert [(ban["seconds"], ban["times"]) for ban in banned] == [(600, 1), (1800, 2)]


def test_the_longest_ban() -> None:
    rig = Rig(user={"delay": 0, "passwords": 0}, ban={"longest": "1h"}, window="1d")
    for n in range(200):
        if rig.login(f"user{n}", "spray")[0] == "SYS/TEMP":
            rig.clock.wait(3600)
    assert max(fields["seconds"] for event, fields in rig.events() if event == "banned") == 3600  # type: ignore[type-var]


def test_all_workers_see_the_same() -> None:
    rig = Rig(workers=4)
    for n in range(8):
        assert rig.login(f"user{n}", "spray", worker=n % 4)[0] == "wrong"
    assert [rig.login("ann", "x", worker=n)[0] for n in range(4)] == ["SYS/TEMP"] * 4


def test_an_ordinary_login_is_one_call_of_the_store() -> None:
    rig = Rig()
    rig.login("ann", "right", right=True)
    runs = rig.store.runs
    rig.login("ann", "right", right=True)
    assert rig.store.runs - runs == 1
    rig.login("bob", "wrong", ELSEWHERE)
    assert rig.store.runs - runs == 3


def test_a_success_is_noted_once_a_day_and_forgotten() -> None:
    rig = Rig(known={"keep": "30d"})
    posts = 0
    post = rig.store.post

    def counted(*steps: Any) -> None:
        nonlocal posts
        posts += 1
        post(*steps)

    rig.store.post = counted  # type: ignore[method-assign]
    for _ in range(3 * 144):
        rig.login("ann", "right", right=True)
        rig.clock.wait(600)
    assert posts == 3
    rig.clock.wait(31 * 86400)
    session = rig.session(AT_HOME, "ann")
    rig.begin(session)
    assert not rig.plugin._slot.get(session).facts.known  # type: ignore[union-attr]


def test_many_at_once_are_no_way_around() -> None:
    rig = Rig()
    sessions = [rig.session(AT_HOME, f"user{n}") for n in range(100)]
    verdicts = [rig.begin(session) for session in sessions]
    assert verdicts.count(None) == 16
    assert all(verdict.code.value == b"SYS/TEMP" for verdict in verdicts if verdict is not None)
    for session, verdict in zip(sessions, verdicts, strict=True):
        if verdict is None:
            rig.close(session)
    assert not rig.plugin._flights
    assert rig.begin(rig.session(AT_HOME, "ann")) is None


def test_known_users_are_not_counted_among_those_at_once() -> None:
    rig = Rig()
    for n in range(100):
        rig.login(f"user{n}", "right", right=True)
    sessions = [rig.session(AT_HOME, f"user{n}") for n in range(100)]
    assert [rig.begin(session) for session in sessions] == [None] * 100


def test_who_is_allowed_is_not_counted() -> None:
    rig = Rig(allow=["192.0.2.0/24"])
    kept = len(rig.store._space._backend)  # type: ignore[arg-type]
    for client in (AT_HOME, "unix", "::ffff:192.0.2.9"):
        for n in range(50):
            assert rig.login(f"user{n}", f"guess{n}", client) == ("wrong", 0.0)
    assert len(rig.store._space._backend) == kept  # type: ignore[arg-type]


def test_a_scram_guess_counts_is_held_by_its_answer_and_refused_before_the_proof() -> None:
    rig = Rig(user={"delay": 0, "passwords": 0})
    rig.login("zoe", "x", right=True, client=ELSEWHERE)
    verdicts = [rig.scram("joe") for _ in range(12)]
    assert verdicts[:4] == [None] * 4
    assert [verdict.delay for verdict in verdicts[4:]] == [2, 4, 8, 15, 15, 15, 15, 15]
    assert {verdict.code.value for verdict in verdicts[4:]} == {b"AUTH"}
    refused = rig.scram("joe")
    assert isinstance(refused, Refuse)
    assert refused.code is not None
    assert refused.code.value == b"SYS/TEMP"
    # The same whether or not the proof is right: nobody has looked at it.
    assert rig.scram("joe", right=True) == refused


def test_a_right_scram_proof_is_held_as_long_as_a_wrong_one() -> None:
    rig = Rig()
    for n in range(5):
        rig.login("joe", f"guess{n}")
    assert rig.scram("ann", right=True) == Hold(4.0, "failed logins before")
    assert rig.scram("bob").delay == 4.0


def test_a_try_without_a_password_is_forgotten_sooner() -> None:
    rig = Rig()
    for _ in range(200):
        assert rig.scram("joe") is None
        rig.clock.wait(300)


def test_a_digest_counts_as_a_try_of_its_own_and_a_token_as_a_password() -> None:
    rig = Rig(address={"delay": 2}, user={"delay": 0})
    bearer = Bearer("joe", b"token")
    for _ in range(5):
        session = rig.session(AT_HOME)
        assert rig.begin(session, bearer) is None
        rig.end(session, "AUTH")
    digest = Digest("joe", "APOP", b"<1@x>", b"0" * 32)
    for expected in (None, 2.0, 4.0):
        session = rig.session(AT_HOME)
        verdict = rig.begin(session, digest)
        assert (verdict and verdict.seconds) == expected
        rig.clock.wait(15)
        rig.end(session, "AUTH")


def test_a_password_that_is_judged_at_once_is_answered_late() -> None:
    rig = Rig()
    for n in range(5):
        rig.login("joe", f"guess{n}")
    session = rig.session(AT_HOME)
    assert rig.begin(session, "more") == Hold(4.0, "failed logins before")
    rig.clock.wait(1)
    verdict = rig.end(session, "AUTH")
    assert (verdict.delay, verdict.text, verdict.limited) == (3.0, "No", False)


def test_what_a_plugin_in_front_refuses_counts() -> None:
    rig = Rig()
    for n in range(12):
        rig.end(rig.session(AT_HOME, f"user{n % 7}"), "AUTH")
    assert rig.login("ann", "x")[0] == "SYS/TEMP"


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
def test_the_store_is_down_for_a_while(fail: Fail) -> None:
    rig = Rig(fail=fail)
    rig.store.down = True
    for _ in range(3):
        verdict = rig.begin(rig.session(AT_HOME))
        assert (verdict is None) == (fail is Fail.OPEN)
        rig.end(rig.session(AT_HOME), "AUTH")
    assert rig.count("error") == 3
    rig.store.down = False
    assert rig.login("joe", "x") == ("wrong", 0.0)
    assert [event for event, _ in rig.events()] == ["store_failed", "store_back"]


def test_it_starts_while_the_store_is_down() -> None:
    rig = Rig(secret=None)
    rig.store.down = True
    services = FakeServices(rig.clock, World())
    services.store = rig.store
    late = BruteForce(rig.config)
    drive(late.start(services))
    rig.workers.append((late, services))
    assert rig.begin(rig.session(AT_HOME), worker=1) is None
    rig.store.down = False
    for n in range(8):
        assert rig.login(f"user{n}", "spray", worker=1)[0] == "wrong"
    assert rig.login("ann", "x", worker=0)[0] == "SYS/TEMP"


def test_the_failure_cannot_be_noted_and_the_answer_is_given_nevertheless() -> None:
    rig = Rig()
    session = rig.session(AT_HOME)
    rig.begin(session)
    rig.store.down = True
    assert rig.end(session, "AUTH") is None
    assert not rig.plugin._flights


def test_no_password_and_no_name_is_in_the_store_or_the_log() -> None:
    rig = Rig()
    for n in range(12):
        rig.login("josephine", f"correct-horse-{n % 4}", right=n == 0)
        rig.login("josephine", f"correct-horse-{n}", ELSEWHERE)
    kept = repr(vars(rig.store._space._backend)) + repr(rig.events())
    assert "josephine" not in kept
    assert "correct-horse" not in kept
    assert "banned" in kept


def test_a_manual_ban_holds_for_known_users_too_and_stays() -> None:
    rig = Rig()
    rig.login("ann", "right", right=True)
    network = bans.parse_network(AT_HOME)
    drive(bans.add(rig.store, network, 3600, "said so", rig.clock.now()))
    assert rig.login("ann", "right", right=True)[0] == "SYS/PERM"
    for n in range(12):
        rig.end(rig.session(AT_HOME, f"user{n}"), "AUTH")
    (ban,) = drive(bans.listed(rig.store))
    assert (ban.by, ban.reason, str(ban.network)) == ("manual", "said so", f"{AT_HOME}/32")
    assert drive(bans.remove(rig.store, network))
    assert not drive(bans.remove(rig.store, network))
    assert rig.login("ann", "right", right=True) == ("ok", 0.0)


@pytest.mark.parametrize(("connect", "refuses"), [("manual", "manual"), ("all", "both"), ("off", "none")])
def test_bans_at_the_connection(connect: str, refuses: str) -> None:
    rig = Rig(connect=connect)
    for n in range(8):
        rig.login(f"user{n}", "spray", ELSEWHERE)
    drive(bans.add(rig.store, bans.parse_network("192.0.2.0/24"), 60, "", rig.clock.now()))
    assert ("on_connect" in rig.plugin.skips) == (connect == "off")
    if connect != "off":
        by_hand = drive(rig.plugin.on_connect(rig.session(AT_HOME)))
        assert by_hand is not None
        assert by_hand.code is not None
        assert by_hand.code.value == b"SYS/PERM"
        assert (drive(rig.plugin.on_connect(rig.session(ELSEWHERE))) is not None) == (refuses == "both")
        assert drive(rig.plugin.on_connect(rig.session("203.0.113.1"))) is None
        rig.store.down = True
        assert drive(rig.plugin.on_connect(rig.session(AT_HOME))) is None


def test_audit_touches_nobody_and_tells() -> None:
    rig = Rig(mode="audit")
    for n in range(20):
        assert rig.login(f"user{n}", f"guess{n}") == ("wrong", 0.0)
    assert rig.count("address") > 0
    assert [fields["result"] for event, fields in rig.events() if event == "audited"].count("held") > 0
    # fail2ban reads "banned", and would ban in earnest.
    assert {event for event, _ in rig.events()} == {"audited", "would_ban"}


def test_audit_lets_in_while_the_store_is_down() -> None:
    rig = Rig(mode="audit", fail=Fail.CLOSED, connect="all")
    rig.store.down = True
    assert rig.begin(rig.session(AT_HOME)) is None
    assert drive(rig.plugin.on_connect(rig.session(AT_HOME))) is None


def test_what_a_client_reads() -> None:
    played = play(
        BruteForce,
        """
S~ \\+OK.*
C: USER joe
S~ \\+OK.*
C: PASS one
@ connect
U< +OK upstream
U> CAPA
U< -ERR no CAPA
U> USER joe
U< +OK
U> PASS one
U< -ERR [AUTH] no
S: -ERR [AUTH] Authentication failed
C: USER joe
S~ \\+OK.*
C: PASS two
S: -ERR [SYS/TEMP] Too many failed logins, try again later
""",
        config={"address": {"pairs": 1}},
        may_fail=False,
    )
    assert [result for _, result in played.logins] == ["bad_credentials", "rate_limited"]


def test_a_store_that_loses_everything_is_no_crash() -> None:
    rig = Rig()
    for n in range(3):
        rig.login("joe", f"guess{n}")
    rig.clock.wait(40 * 365 * 86400.0)
    assert rig.login("joe", "x") == ("wrong", 0.0)


def test_passwords_may_hold_anything() -> None:
    rig = Rig()
    for password in (b"", b"\xff\xfe", b"x" * 100_000, b"\x00"):
        session = rig.session(AT_HOME, "j\udcffoe" + "x" * 5000)
        assert rig.begin(session, Password("j\udcffoe" + "x" * 5000, password)) is None
        rig.end(session, "AUTH")
        drive(rig.plugin.on_verifier(session, session.user or "", "SCRAM-SHA-1"))
        rig.close(session)
    assert not rig.plugin._flights


def test_one_key_of_a_table_leaves_the_others_as_they_are() -> None:
    network = BruteForceConfig(network={"pairs": 100}).network  # type: ignore[arg-type]
    assert (network.delay, network.pairs, network.names, network.passwords) == (20, 100, 40, 60)


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"delays": []}, "write at least one"),
        ({"delays": ["5m"]}, "write at most 60"),
        ({"ban": {"longest": "1m"}}, "write a longer one"),
        ({"text": "[AUTH] no"}, "do not begin with ["),
        ({"secret": "s3cr3t"}, "write at least 16 characters"),
        ({"address": {"names": 20_000}}, "less than or equal to 10000"),
        ({"allow": ["10.0.0.1/8"]}, "has bits set behind its prefix"),
    ],
)
def test_what_is_wrong_with_the_options(options: dict[str, Any], cure: str) -> None:
    with pytest.raises(ValidationError) as caught:
        BruteForceConfig(**options)
    assert cure in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_explain_says_what_is_counted_with_whom() -> None:
    rig = Rig(allow=["10.0.0.0/8"])
    told = rig.plugin.explain(rig.session("2001:db8:1:2::7"), "joe").steps
    assert told[0].startswith("2001:db8:1:2::/64: held from 4 failures on")
    assert told[1].startswith("2001:db8:1::/48: held from 20 failures on")
    assert len(told) == 5
    assert rig.plugin.explain(rig.session("10.1.2.3"), "joe").steps == ("not counted: 10.1.2.3 is in allow",)
    assert rig.plugin.explain(rig.session("unix"), "joe").steps == ("not counted: a Unix socket has no address",)


def test_a_key_of_the_operators_own_is_not_in_the_store() -> None:
    rig = Rig(secret="0123456789abcdef0123")
    assert not vars(rig.store._space._backend)["_entries"]
    rig.login("joe", "x")
    assert "0123456789abcdef" not in repr(vars(rig.store._space._backend))


def test_a_store_that_has_lost_its_data_gets_one_key_again() -> None:
    rig = Rig(workers=2, secret=None)
    rig.login("ann", "right", right=True)
    backend = FakeStore(rig.clock)
    rig.store._space = backend._space
    late = Rig(secret=None)
    services, plugin = FakeServices(rig.clock, World()), BruteForce(late.config)
    services.store = rig.store
    drive(plugin.start(services))
    rig.workers.append((plugin, services))
    for worker in range(3):
        rig.login("ann", "old", worker=worker)
    keys = {worker._hashes.key for worker, _ in rig.workers if worker._hashes is not None}
    assert len(keys) == 1
    backend = FakeStore(rig.clock)
    rig.store._space = backend._space
    for worker in (2, 0, 1):
        rig.login("ann", "old", worker=worker)
    assert {worker._hashes.key for worker, _ in rig.workers if worker._hashes is not None} == keys
    session = rig.session(AT_HOME, "ann")
    rig.begin(session)
    assert rig.plugin._slot.get(session).facts.pairs == 1  # type: ignore[union-attr]
