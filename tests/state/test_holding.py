from popproxy.state.holding import Holding


def test_what_is_held_is_counted_by_key_until_its_ticket_is_released() -> None:
    holding = Holding()
    one, two = holding.take(("a", "b")), holding.take(("a",))
    assert holding.everything() == {"a": 2, "b": 1}
    assert not holding.unsettled, "the store has counted them"
    assert holding.release(one) == ("a", "b")
    assert holding.settle() == {"a": 1, "b": 0}
    assert not holding.unsettled
    assert holding.release(two) == ("a",)
    assert holding.settle() == {"a": 0}
    assert len(holding) == 0


def test_a_ticket_is_released_once() -> None:
    holding = Holding()
    one, other = holding.take(("a",)), holding.take(("a",))
    assert holding.release(one)
    assert holding.release(one) == ()
    assert holding.release(0) == holding.release(99) == ()
    assert holding.count("a") == 1
    assert holding.release(other)
    assert holding.count("a") == 0


def test_no_keys_are_no_ticket() -> None:
    assert Holding().take(()) == 0


def test_doubt_tells_the_number_of_the_time_of_telling() -> None:
    holding = Holding()
    ticket = holding.take(("a",))
    holding.doubt(["a", "never"])
    holding.release(ticket)
    holding.take(("a",))
    assert holding.settle() == {"a": 1, "never": 0}


def test_clear_releases_everything() -> None:
    holding = Holding()
    ticket = holding.take(("a", "b"))
    holding.clear()
    assert holding.settle() == {"a": 0, "b": 0}
    assert holding.release(ticket) == ()
    assert holding.everything() == {}
