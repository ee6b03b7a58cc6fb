from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.events.queue import EVENT_COST, EventQueue, Offered, cost
from pystrands.broker.events.stream import ClientEvent, Kind
from tests.broker.doubles import make_client

SENDER = make_client(1)
POLICIES = ("backpressure", "drop-oldest", "disconnect")


def make(max_messages, max_bytes, policy):
    return EventQueue(max_messages, max_bytes, policy, Counter())


def message(content):
    return ClientEvent(SENDER, Kind.MESSAGE, 1, content, len(content))


def size(*contents):
    return sum(cost(message(content)) for content in contents)


def offer(queue, content):
    """Offer a message and make room, as the router does; return the outcome and what was dropped."""
    event = message(content)
    outcome = queue.offer(event)
    dropped = []
    while (old := queue.overdue()) is not None:
        queue.taken(old)
        dropped.append(old.content)
    return outcome, dropped


def test_backpressure_keeps_what_was_taken_and_says_when_to_stop_reading():
    queue = make(2, 1000, "backpressure")
    assert [offer(queue, str(n))[0] for n in range(4)] == [Offered.KEPT, Offered.FULL, Offered.FULL, Offered.FULL]
    assert len(queue) == 4
    assert not queue._counters


def test_backpressure_by_bytes():
    queue = make(100, size("12345", b"12345"), "backpressure")
    assert offer(queue, "12345") == (Offered.KEPT, [])
    assert offer(queue, b"12345") == (Offered.FULL, [])
    assert queue.size == size("12345", b"12345")


def test_a_message_costs_what_it_takes_in_memory():
    """900,000 messages of a byte are 270 MB, and a character may take four bytes."""
    assert size("x") > EVENT_COST >= 250
    assert size(b"x" * 1000) > 1000 + EVENT_COST
    assert size("\N{EURO SIGN}" * 1000) > 2000 + EVENT_COST
    assert size("\N{GRINNING FACE}" * 1000) > 4000 + EVENT_COST


def test_drop_oldest_drops_the_oldest():
    queue = make(2, 1000, "drop-oldest")
    assert [offer(queue, text) for text in "1234"] == [
        (Offered.KEPT, []), (Offered.KEPT, []), (Offered.KEPT, ["1"]), (Offered.KEPT, ["2"])
    ]  # fmt: skip
    assert queue._counters["queue_dropped"] == 2


def test_drop_oldest_by_bytes_keeps_at_least_the_newest():
    queue = make(100, size("12345", "12345"), "drop-oldest")
    offer(queue, "12345")
    offer(queue, "12345")
    assert offer(queue, "x" * 50) == (Offered.KEPT, ["12345", "12345"])
    assert len(queue) == 1


def test_disconnect_refuses_when_full():
    queue = make(2, 1000, "disconnect")
    assert [offer(queue, "x")[0] for _ in range(3)] == [Offered.KEPT, Offered.KEPT, Offered.REFUSED]
    assert len(queue) == 2
    assert queue._counters["queue_dropped"] == 1


def test_zero_turns_the_queue_off():
    for policy in POLICIES:
        queue = make(0, 1000, policy)
        assert offer(queue, "x") == (Offered.DROPPED, [])
        assert queue._counters["queue_dropped"] == 1


def test_what_is_no_longer_waiting_is_not_counted_and_lifecycle_events_never_are():
    queue = make(2, 1000, "backpressure")
    event = message("x")
    queue.keep(event)
    queue.taken(ClientEvent(SENDER, Kind.GONE, 2))
    assert (len(queue), queue.size) == (1, cost(event))
    queue.taken(event)
    queue.taken(event)
    assert (len(queue), queue.size) == (0, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_waits_for_a_backend_that_is_there_fills_nothing_and_is_never_dropped(policy):
    queue = make(2, 10_000, policy)
    kept = [message(str(number)) for number in range(50)]
    for event in kept:
        queue.keep(event)
    assert not queue.is_full
    assert offer(queue, "a") == (Offered.KEPT, [])
    assert (len(queue), queue.size) == (51, sum(map(cost, kept)) + size("a"))
    assert [old for text in "bcde" for old in offer(queue, text)[1]] == {"drop-oldest": ["a", "b", "c"]}.get(policy, [])
    for event in kept:
        queue.taken(event)
    assert len(queue) == {"drop-oldest": 2, "disconnect": 2, "backpressure": 5}[policy]
    assert queue.size == size("a") * len(queue)


def test_who_is_to_be_read_from():
    for policy in POLICIES:
        for max_messages in (0, 1, 2):
            queue = make(max_messages, 1000, policy)
            offer(queue, "x")
            assert queue.wants_more == (policy != "backpressure" or max_messages != 1)


@given(st.sampled_from(POLICIES), st.integers(1, 5), st.integers(1, 2000), st.lists(st.text("x", max_size=12)))
def test_bounds_and_order_hold_for_any_sequence(policy, max_messages, max_bytes, contents):
    queue = make(max_messages, max_bytes, policy)
    kept: list[str] = []
    dropped = 0
    for content in contents:
        was_full = queue.is_full
        outcome, old = offer(queue, content)
        assert (outcome is Offered.REFUSED) == (policy == "disconnect" and was_full)
        assert (outcome is Offered.FULL) == (policy == "backpressure" and queue.is_full)
        if outcome is not Offered.REFUSED:
            kept.append(content)
        assert old == kept[: len(old)]
        del kept[: len(old)]
        dropped += len(old) + (outcome is Offered.REFUSED)
        assert [event.content for event in queue._homeless] == kept
        assert queue.size == size(*kept)
        if policy != "backpressure":
            assert len(queue) <= max_messages
            assert policy == "disconnect" or queue.size <= max_bytes or len(queue) == 1
    assert queue._counters["queue_dropped"] == dropped
