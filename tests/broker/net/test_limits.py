"""Slots: counted, given back once, and nothing kept for addresses that are gone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.net.limits import ConnectionLimits, ConnectionSlot, is_milestone


def test_all_clients():
    limits = ConnectionLimits(clients=2)
    first, second, third = (limits.slot() for _ in range(3))
    assert first.acquire() and second.acquire() and not third.acquire()
    third.release()
    assert not limits.slot().acquire()
    first.release()
    first.release()
    assert third.acquire() and not limits.slot().acquire()


def test_one_address():
    limits = ConnectionLimits(per_address=2)
    first, second, third = (limits.slot() for _ in range(3))
    assert first.acquire_from("192.0.2.1") and second.acquire_from("192.0.2.1") and not third.acquire_from("192.0.2.1")
    assert third.acquire_from("192.0.2.2")
    first.release()
    first.release()
    assert limits.slot().acquire_from("192.0.2.1") and not limits.slot().acquire_from("192.0.2.1")


def test_no_limit_counts_nothing():
    limits = ConnectionLimits(clients=1)
    slot = limits.slot()
    assert slot.acquire_from("192.0.2.1")
    assert not limits.addresses


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8:0:0:ffff::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "", True),
        (":nonsense:", ":nonsense:", True),
    ],
)
def test_what_counts_as_one_address(one, other, same):
    limits = ConnectionLimits(per_address=1)
    assert limits.slot().acquire_from(one)
    assert limits.slot().acquire_from(other) is not same


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=60))
def test_it_is_as_if_all_were_counted_anew_each_time(steps):
    limits = ConnectionLimits(clients=4, per_address=2)
    inside: list[tuple[str, ConnectionSlot]] = []
    for address, comes in steps:
        if comes:
            slot = limits.slot()
            may = Counter(where for where, _ in inside)[address] < 2
            assert slot.acquire_from(address) is may
            if may and slot.acquire():
                inside.append((address, slot))
            else:
                assert not may or len(inside) == 4
                slot.release()
        elif inside:
            inside.pop(0)[1].release()
        assert limits.clients == len(inside) <= 4
        assert limits.addresses == Counter(where for where, _ in inside)


def test_milestones():
    assert [count for count in range(1, 70) if is_milestone(count)] == [1, 2, 4, 8, 16, 32, 64]
