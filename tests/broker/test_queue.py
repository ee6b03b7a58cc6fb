from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.queue import EventQueue, Put

POLICIES = ("backpressure", "drop-oldest", "disconnect")


def contents(queue: EventQueue[str]) -> list[tuple[str, str | bytes | None, bytes]]:
    return [(event.owner, event.message, event.line) for event in queue.drain()]


def test_events_come_out_in_the_order_in_which_they_came():
    queue = EventQueue[str](10, 1000, "backpressure")
    assert queue.put_message("a", "one") is Put.KEPT
    queue.put_lifecycle("b", b"gone")
    assert queue.put_message("a", b"two") is Put.KEPT
    assert (len(queue), queue.size) == (2, 6)
    assert contents(queue) == [("a", "one", b""), ("b", None, b"gone"), ("a", b"two", b"")]
    assert (len(queue), queue.size) == (0, 0)
    assert contents(queue) == []


def test_backpressure_keeps_what_was_taken_and_says_when_to_stop_reading():
    queue = EventQueue[str](2, 1000, "backpressure")
    assert [queue.put_message("a", str(n)) for n in range(4)] == [Put.KEPT, Put.FULL, Put.FULL, Put.FULL]
    assert [message for _, message, _ in contents(queue)] == ["0", "1", "2", "3"]
    assert queue._counters["queue_dropped"] == 0


def test_backpressure_by_bytes():
    queue = EventQueue[str](100, 10, "backpressure")
    assert queue.put_message("a", "12345") is Put.KEPT
    assert queue.put_message("a", "12345") is Put.FULL


def test_drop_oldest_drops_messages_and_never_lifecycle_events():
    queue = EventQueue[str](2, 1000, "drop-oldest")
    queue.put_message("a", "1")
    queue.put_lifecycle("a", b"gone")
    for text in ("2", "3", "4"):
        assert queue.put_message("b", text) is Put.KEPT
    assert queue._counters["queue_dropped"] == 2
    assert contents(queue) == [("a", None, b"gone"), ("b", "3", b""), ("b", "4", b"")]


def test_drop_oldest_by_bytes_keeps_at_least_the_newest():
    queue = EventQueue[str](100, 10, "drop-oldest")
    queue.put_message("a", "12345")
    queue.put_message("a", "12345")
    assert queue.put_message("a", "x" * 50) is Put.KEPT
    assert contents(queue) == [("a", "x" * 50, b"")]
    assert queue._counters["queue_dropped"] == 2


def test_disconnect_refuses_when_full():
    queue = EventQueue[str](2, 1000, "disconnect")
    assert [queue.put_message("a", "x") for _ in range(3)] == [Put.KEPT, Put.KEPT, Put.REFUSED]
    queue.put_lifecycle("a", b"gone")
    assert len(contents(queue)) == 3
    assert queue._counters["queue_dropped"] == 1


def test_zero_turns_messages_off_and_keeps_lifecycle_events():
    for policy in POLICIES:
        queue = EventQueue[str](0, 1000, policy)
        assert queue.put_message("a", "x") is Put.DROPPED
        queue.put_lifecycle("a", b"gone")
        assert contents(queue) == [("a", None, b"gone")]
        assert queue._counters["queue_dropped"] == 1


@given(
    st.sampled_from(POLICIES),
    st.integers(1, 5),
    st.integers(1, 30),
    st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.text("x", max_size=12))),
)
def test_bounds_and_order_hold_for_any_sequence(policy, max_messages, max_bytes, puts):
    queue = EventQueue[str](max_messages, max_bytes, policy)
    put: list[tuple[str, str | bytes | None, bytes]] = []
    refused = lifecycle = 0
    for number, (owner, message) in enumerate(puts):
        if message is None:
            queue.put_lifecycle(owner, b"%d" % number)
            put.append((owner, None, b"%d" % number))
            lifecycle += 1
            continue
        was_full = queue.is_full
        outcome = queue.put_message(owner, message)
        assert (outcome is Put.REFUSED) == (policy == "disconnect" and was_full)
        assert (outcome is Put.FULL) == (policy == "backpressure" and queue.is_full)
        if outcome is Put.REFUSED:
            refused += 1
        else:
            put.append((owner, message, b""))
        if policy != "backpressure":
            assert len(queue) <= max_messages
            assert policy == "disconnect" or queue.size <= max_bytes or len(queue) == 1
    waiting = len(queue)
    out = contents(queue)
    assert len(out) == waiting + lifecycle
    assert len(put) - len(out) + refused == queue._counters["queue_dropped"]
    iterator = iter(put)  # what comes out is a subsequence of what went in
    assert all(event in iterator for event in out)
