"""Who makes room for whom among connections that have not shown yet what they want, without sockets."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.net.pending import PendingConnections

TIME = 10.0


@dataclass(eq=False)
class One:
    began: float = 0.0
    is_silent: bool = True


def crowded(size, *groups):
    """A crowd with so many of each (key, count, age, is_silent), the oldest first."""
    crowd = PendingConnections(size, TIME)
    for key, count, age, is_silent in groups:
        for _ in range(count):
            crowd.enter(One(-age, is_silent), key)
    return crowd


def fill(crowd, key, now=0.0):
    """Let one more in if there is room or can be; who went for it, or None if it was not let in."""
    is_full = 0 < crowd.size <= len(crowd)
    gone = crowd.who_gives_way(key, now, is_full=is_full)
    if gone is not None:
        crowd.leave(gone)
    if gone is not None or not is_full:
        crowd.enter(One(now), key)
        return gone or True
    return None


def test_while_there_is_room_nobody_goes():
    crowd = crowded(100, ("a", 20, 9, True), ("b", 20, 0, False))
    for key in ("a", "b", "c", None):
        assert crowd.who_gives_way(key, 0.0, is_full=False) is None
        assert not crowd.is_overrun_by("c")


def test_one_address_has_its_share_even_while_there_is_room():
    crowd = crowded(100, ("a", 25, 2, True))
    assert fill(crowd, "a") is not None
    assert len(crowd) == 25


def test_a_share_costs_nobody_who_has_begun_or_has_just_come():
    for age, is_silent in ((0.9, True), (2.4, False)):
        crowd = crowded(100, ("a", 25, age, is_silent))
        assert fill(crowd, "a") is True
        assert len(crowd) == 26


def test_who_has_many_makes_room_for_who_has_few_at_once_the_oldest_silent_one_first():
    crowd = crowded(40, ("a", 19, 0, False), ("a", 20, 0, True), ("b", 1, 0, True))
    honest = list(crowd)[-1]
    first_silent = list(crowd)[19]
    assert fill(crowd, "c") is first_silent
    for _ in range(19):
        assert fill(crowd, "c").is_silent
    assert fill(crowd, "c") is None, "now c has many itself"
    assert honest in crowd


def test_a_crowd_that_has_it_all_gets_no_more():
    crowd = crowded(40, ("a", 40, 0, False))
    assert fill(crowd, "a") is None
    assert crowd.is_overrun_by("a")
    assert not crowd.is_overrun_by("b")


def test_many_with_a_few_each_wait_for_one_another():
    crowd = crowded(40, *((key, 4, 0, False) for key in range(10)))
    assert fill(crowd, "b") is None
    assert not crowd.is_overrun_by("b")
    assert not crowd.is_overrun_by(3)
    assert fill(crowd, "b", now=2.6) is not None, "a quarter of the time has gone by"


def test_a_trusted_proxy_has_all_the_room_and_its_silent_ones_have_time():
    crowd = crowded(40, (None, 40, 2, True))
    assert not crowd.is_overrun_by(None)
    assert fill(crowd, None) is None
    assert fill(crowd, "a") is None
    assert fill(crowd, None, now=1.0) is not None
    assert crowd.old_and_silent(None, 0.0) is None


def test_only_the_silent_ones_of_an_address_are_no_loss():
    crowd = crowded(0, ("a", 1, 2, False), ("a", 1, 1.5, True))
    assert crowd.old_and_silent("a", 0.0) is list(crowd)[1]
    assert crowd.old_and_silent("a", -1.0) is None
    assert crowd.old_and_silent("b", 0.0) is None


def test_without_a_size_nobody_goes():
    crowd = crowded(0, ("a", 500, 100, True))
    assert fill(crowd, "a") is True


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.booleans(), st.floats(0, 1)), max_size=200))
def test_it_never_holds_more_than_its_size_and_forgets_who_left(steps):
    crowd, now = PendingConnections(20, TIME), 0.0
    for key, is_silent, later in steps:
        now += later
        if fill(crowd, key, now) is not None:
            list(crowd)[-1].is_silent = is_silent
        assert len(crowd) <= 20
    for one in list(crowd):
        crowd.leave(one)
        crowd.leave(one)
    assert not len(crowd)
    assert not crowd._by_key


@pytest.mark.parametrize("attackers", [1, 2, 5])
def test_whatever_a_few_addresses_do_an_honest_newcomer_is_let_in_at_once(attackers):
    crowd = PendingConnections(200, TIME)
    for step in range(2000):
        if fill(crowd, step % attackers, now=step / 1000) is not None:
            list(crowd)[-1].is_silent = step % 7 != 0
        if step % 100 == 0:
            assert fill(crowd, "honest", now=step / 1000) is not None
            crowd.leave(list(crowd)[-1])
