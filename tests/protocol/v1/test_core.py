"""The client's core: the promises that schedules alone do not show, each by its number."""

import math

from pystrands.protocol.v1.actions import (
    Abandon,
    AskToken,
    Close,
    Deliver,
    Dial,
    Resumed,
    Settle,
    StateChanged,
    Write,
)
from pystrands.protocol.v1.core import ClientCore
from pystrands.protocol.v1.envelope import json_text
from pystrands.protocol.v1.numbers import Numbers
from pystrands.protocol.v1.outbox import Outbox
from pystrands.protocol.v1.rings import RING_BYTES, Ring, Rings
from pystrands.protocol.v1.session import PRIVATE_BYTES, SessionState, Tombstones

SESSION = "b1-1~proof"


def welcome(**others):
    return json_text(
        {"t": "welcome", "session": SESSION, "client": "ada", "resumed": False, "n": 100, "epoch": "e", "max": 1000}
        | others
    )


def opened(**options):
    """Return a core that is welcome."""
    core = ClientCore(lambda: 0.5, **options)
    core.start(0.0)
    core.received(welcome(), 0.0)
    return core


def of(kind, todo):
    return [action for action in todo if isinstance(action, kind)]


def test_promise_02_a_number_that_was_seen_is_dropped():
    core = opened()
    assert of(Deliver, core.received('{"n":101,"r":"a"}\nx', 1.0)) == [Deliver("x", "a", 101)]
    assert core.received('{"n":101,"r":"a"}\nx', 1.0) == []
    assert core.received('{"n":90}\ny', 1.0) == []


def test_promise_02_an_unknown_frame_with_a_number_is_seen():
    core = opened()
    assert core.received('{"n":150,"t":"later"}', 1.0) == []
    assert core.seen == 150


def test_promise_05_who_has_received_nothing_resumes_from_its_welcome():
    core = opened()
    core.closed(1006, "", 1.0)
    assert of(Dial, core.tick(10.0)) == [Dial(["pystrands.v1", f"resume.{SESSION}.1.100"])]


def test_promise_14_no_more_is_under_way_than_may_be():
    core = opened()
    written = [action for ident in range(300) for action in core.send(ident, "x")]
    assert len(of(Write, written)) == 256
    todo = core.received('{"done":10}', 1.0)
    assert of(Settle, todo) == [Settle(ident) for ident in range(10)]
    assert len(of(Write, todo)) == 10


def test_promise_14_the_queue_is_bounded_and_what_is_too_big_has_no_number():
    core = ClientCore(lambda: 0.5, outbox=Outbox(2, 10))
    core.start(0.0)
    assert core.send(1, "12345") == core.send(2, "12345") == []
    assert core.send(3, "")[0].code == "queue_full"
    core.received(welcome(max=3), 0.0)
    core.received('{"done":2}', 0.0)
    assert core.send(4, "1234")[0].code == "too_big"
    assert of(Write, core.send(5, "123")) == [Write('{"k":3}\n123')]


def test_promise_15_only_what_was_never_written_is_withdrawn():
    core = opened()
    core.send(1, "x")
    assert not core.withdraw(1)
    core.closed(1006, "", 0.0)
    core.send(2, "y")
    assert core.withdraw(2)
    assert len(core.outbox) == 1


def test_promise_07_what_the_broker_keeps_is_acknowledged_in_time():
    core = opened()
    assert core.received('{"n":101,"r":"a"}\nx', 1.0) == [Deliver("x", "a", 101)]
    assert core.deadline > 2.0
    core.received('{"n":102}\nx', 1.0)
    assert core.deadline == 2.0
    assert core.tick(2.0) == [Write('{"seen":102}')]
    todo = [action for n in range(200, 264) for action in core.received(f'{{"n":{n}}}\nx', 3.0)]
    assert of(Write, todo) == [Write('{"seen":263}')]
    assert of(Write, core.received('{"n":300}\n' + "x" * 70_000, 3.0)) == [Write('{"seen":300}')]


def test_promise_11_what_is_dropped_is_settled_with_the_reason():
    core = opened()
    core.send(1, "x")
    todo = core.received('{"n":101,"re":1,"err":{"code":"given_up","message":"why"}}', 1.0)
    assert of(Settle, todo) == [Settle(1, "given_up", "why")]


def test_promise_12_what_a_lost_session_had_is_sent_again_under_its_name():
    core = opened()
    core.send(1, "x", room="a")
    core.closed(1006, "", 0.0)
    core.send(2, "y")
    core.tick(10.0)
    todo = core.received(welcome(session="b2-9~p", n=500), 10.0)
    assert of(Resumed, todo) == [Resumed(False, 0, [None])]
    assert of(Write, todo) == [
        Write('{"seen":500}'),
        Write('{"k":1,"r":"a","id":"b1-1-1"}\nx'),
        Write('{"k":2}\ny'),
    ]


def test_promise_28_delays_grow_and_begin_again_only_after_a_connection_that_worked():
    core = opened()
    delays = []
    for now in (0.0, 100.0, 200.0, 300.0):
        [changed] = of(StateChanged, core.closed(1006, "", now))
        delays.append(changed.retry_in)
        core.tick(now + 50.0)
    assert delays == [0.25, 0.5, 1.0, 2.0]
    core.received(welcome(resumed=True), 400.0)
    assert of(StateChanged, core.closed(1006, "", 499.0))[0].retry_in == 4.0  # nothing came behind the welcome
    core.tick(550.0)
    core.received(welcome(resumed=True), 550.0)
    core.received('{"t":"live"}', 550.0)
    assert of(StateChanged, core.closed(1006, "", 554.0))[0].retry_in == 8.0  # too short
    core.tick(600.0)
    core.received(welcome(resumed=True), 600.0)
    core.received('{"t":"live"}', 600.0)
    assert of(StateChanged, core.closed(1006, "", 606.0))[0].retry_in == 0.25


def test_promise_28_delays_have_a_bound():
    core = ClientCore(lambda: 1.0)
    core.start(0.0)
    for attempt in range(2000):
        [changed] = of(StateChanged, core.closed(1006, "", attempt * 100.0))
        core.tick(attempt * 100.0 + 50.0)
    assert changed.retry_in == 30.0


def test_promise_29_silence_is_probed_and_then_the_connection_is_let_go():
    core = opened()
    assert core.deadline == 25.0
    assert core.tick(25.0) == [Write("{}")]
    assert core.deadline == 35.0
    assert core.tick(35.0)[0] == Abandon()
    assert core.state == "waiting"


def test_promise_29_any_frame_is_life_and_each_heartbeat_has_one_answer():
    core = opened()
    core.tick(25.0)
    core.received('{"n":101,"r":"a"}\nx', 30.0)  # it lives, but that is no answer
    assert core.deadline == 40.0
    assert core.received("{}", 31.0) == []
    assert core.received("{}", 32.0) == [Write("{}")]


def test_promise_30_a_page_that_is_shown_dials_at_once_or_asks_whether_it_is_connected():
    core = opened()
    assert core.wake(1.0) == [Write("{}")]
    assert core.wake(2.0) == []
    assert core.deadline == 6.0
    core.closed(1006, "", 3.0)
    assert of(Dial, core.wake(3.0))
    core.closed(1006, "", 3.0)
    core.closed(1006, "", 3.0)
    assert core.wake(3.0, is_online=True) == []
    assert core.deadline <= 4.0


def test_promise_31_a_dial_has_a_token_unless_it_resumes_before_the_end():
    core = ClientCore(lambda: 0.5, has_token=True)
    assert core.start(0.0)[-1] == AskToken()
    assert core.token("secret", 0.0) == [Dial(["pystrands.v1", "token.c2VjcmV0"])]
    core.received(welcome(expires=1000.0), 0.0)
    core.closed(1006, "", 1.0)
    assert of(Dial, core.tick(10.0))
    core.received(welcome(resumed=True, expires=1000.0), 10.0)
    core.closed(1006, "", 999.0)
    assert of(AskToken, core.tick(1001.0))


def test_promise_31_an_expired_token_is_replaced_once_and_at_once():
    core = ClientCore(lambda: 0.5, has_token=True)
    core.start(0.0)
    core.token("old", 0.0)
    assert of(AskToken, core.closed(4401, "", 0.0))
    core.token("new", 0.0)
    assert core.closed(4401, "", 0.0)[-1].state == "closed"


def test_close_codes_are_final_or_not():
    for code in (1000, 1002, 4400, 4403, 4409, 3000, 4000, 4999):
        core = opened()
        core.send(1, "x")
        todo = core.closed(code, "why", 1.0)
        assert todo == [Settle(1, "closed", "the connection is closed"), StateChanged("closed", code, "why")]
        assert core.deadline == math.inf
        assert core.send(2, "y")[0].code == "closed"
    for code in (1001, 1006, 1011, 1012, 1013, 4408, 4425, 4429, 4500, 4503, 4599):
        core = opened()
        assert core.closed(code, "", 1.0)[-1].state == "waiting"
    core = opened(should_retry=lambda code, reason: code == 4000)
    assert core.closed(4000, "", 1.0)[-1].state == "waiting"


def test_a_broker_that_restarts_says_when_to_come_back():
    core = opened()
    core.received('{"t":"bye","retry":[10,20]}', 0.0)
    assert core.closed(1012, "", 0.0)[-1].retry_in == 15.0


def test_what_can_not_be_read_ends_the_connection_and_it_is_tried_again():
    for frame in ("x", '{"n":"1"}', b"\xff", '{"t":"welcome"}x'):
        core = opened()
        todo = core.received(frame, 1.0)
        assert of(Close, todo)
        assert core.state == "waiting"
    core = ClientCore(lambda: 0.5)
    core.start(0.0)
    assert of(Close, core.received('{"n":1}\nx', 0.0))  # no welcome


def test_a_welcome_that_does_not_come_is_given_up():
    core = ClientCore(lambda: 0.5)
    core.start(0.0)
    assert core.tick(core.deadline)[0] == Abandon()


def test_what_became_of_messages_is_not_known_where_that_was_lost():
    core = opened()
    core.send(1, "x")
    core.closed(1006, "", 1.0)
    core.tick(10.0)
    core.received(welcome(resumed=True, received=1, done=1), 10.0)
    core.received('{"t":"gap","r":null}', 10.0)
    todo = core.received('{"t":"live"}', 10.0)
    assert of(Settle, todo)[0].code == "unknown"
    assert of(Resumed, todo) == [Resumed(True, 0, [None])]


def test_volatile_messages_go_at_once_or_never():
    core = opened()
    assert core.send(1, "x", room="a", volatile=True) == [Write('{"v":1,"r":"a"}\nx'), Settle(1)]
    core.closed(1006, "", 1.0)
    assert core.send(2, "x", volatile=True) == [Settle(2)]


def test_closing_says_so():
    core = opened()
    core.send(1, "x")
    todo = core.close()
    assert todo[:2] == [Write('{"t":"bye"}'), Close(1000)]
    assert of(Settle, todo)[0].code == "closed"
    assert core.close() == []


# --- the broker's side ---


def test_promise_01_numbers_ascend_whatever_the_clock_does():
    numbers = Numbers()
    assert [numbers.next(now) for now in (5.0, 5.0, 4.0, 6.0)] == [5_000_000, 5_000_001, 5_000_002, 6_000_000]


def test_promise_06_a_ring_and_all_rings_together_have_bounds():
    numbers = Numbers()
    rings = Rings(numbers, RING_BYTES * 3, 10.0)
    some = [Ring(name) for name in "abcd"]
    for ring in some:
        rings.enter(ring)
    for _ in range(30):
        rings.add(some[0], numbers.next(1.0), b"x" * 100_000)
    assert some[0].size <= RING_BYTES
    assert not some[0].is_complete(1)
    for ring in some * 20:
        rings.add(ring, numbers.next(1.0), b"x" * 100_000)
    assert rings.size == sum(ring.size for ring in some) <= RING_BYTES * 3
    for _ in range(1500):
        rings.add(some[0], numbers.next(2.0), b"")
    assert len(some[0].entries) == 1000
    rings.expire(20.0)
    assert rings.size == 0
    assert all(rings.leave(ring) for ring in some)
    assert len(rings) == 0


def test_promise_07_private_frames_have_bounds_and_the_gap_is_told():
    state = SessionState(SESSION, 1)
    for number in range(1, 1102):
        state.retain(number, b"x")
    assert len(state.retained or ()) == 1000
    assert state.gaps(100) == [None]
    assert state.gaps(101) == []
    state.seen(1101)
    assert state.retained_bytes == 0
    for number in range(2000, 2010):
        state.retain(number, b"x" * 100_000)
    assert state.retained_bytes <= PRIVATE_BYTES


def test_promise_10_finished_messages_are_told_in_order_however_they_end():
    state = SessionState(SESSION, 1)
    for k in range(1, 5):
        state.take(k)
    state.finish(3)
    state.finish(2)
    assert state.done == 0
    state.finish(1)
    assert state.done == 3
    state.finish(2)
    state.finish(4)
    assert state.done == 4


def test_a_dial_that_was_held_up_is_not_newer():
    state = SessionState(SESSION, 1)
    state.attempt = 3
    assert not state.attempt_is_newer(3)
    assert state.attempt_is_newer(4)


def test_tombstones_are_few_and_not_for_ever():
    tombstones = Tombstones(10.0, most=2)
    for number in (1, 2, 3):
        tombstones.add(number, 4000 + number, "why", 0.0)
    assert [tombstones.find(number, 5.0) for number in (1, 2, 3)] == [None, (4002, "why"), (4003, "why")]
    assert tombstones.find(3, 10.0) is None
    tombstones.add(4, 1000, "", 11.0)
    assert len(tombstones) == 1
