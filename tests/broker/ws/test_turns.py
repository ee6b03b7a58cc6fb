"""What clients send takes a slice of a turn; what is put off comes in order, and all of it."""

from functools import partial

from pystrands.broker.ws.turns import ReadTurns
from pystrands.testing import frames
from tests.broker.ws.recording import FakeLoop, Recorder, fake_websocket, feed

MANY = frames.frame(frames.TEXT, b"x") * 250


def put_off():
    """Return a WebSocket that was sent much in a turn that is over, and what it is made of."""
    loop, receiver = FakeLoop(), Recorder()
    ws, transport = fake_websocket(loop, receiver)
    ws._reads.turns.busy = 1.0
    feed(transport, MANY, at_once=False)
    return loop, receiver, ws, transport


def test_reads_of_much_are_put_off_and_handled_in_order_in_later_turns():
    loop, receiver, ws, transport = put_off()
    assert receiver.messages == []
    assert transport.calls[-1] == "pause_reading"
    assert ws.held_bytes >= len(MANY), "it counts meanwhile"
    loop.run()
    assert receiver.messages == ["x"] * 250
    assert transport.calls[-1] == "resume_reading"
    feed(transport, MANY, at_once=False)
    assert len(receiver.messages) == 500, "a new turn has its own slice"


def test_little_is_handled_at_once_and_so_is_what_came_with_the_handshake():
    receiver = Recorder()
    ws, transport = fake_websocket(FakeLoop(), receiver)
    ws._reads.turns.busy = 1.0
    feed(transport, frames.frame(frames.TEXT, b"y") * 10)
    assert receiver.messages == ["y"] * 10
    ws._feed(MANY)
    assert len(receiver.messages) == 260


def test_what_is_put_off_waits_on_while_reading_is_paused_and_is_not_lost():
    loop, receiver, ws, transport = put_off()
    ws.pause_reading()
    ws.resume_reading()
    assert transport.calls[-1] == "pause_reading", "it would be overwritten"
    ws.pause_reading()
    loop.run()
    assert receiver.messages == []
    ws.resume_reading()
    loop.run()
    assert receiver.messages == ["x"] * 250
    assert transport.calls[-1] == "resume_reading"


def test_who_is_closed_while_it_waits_is_not_handled():
    loop, receiver, ws, _transport = put_off()
    ws.close()
    loop.run()
    assert (receiver.messages, receiver.closed) == ([], [1000])


def test_a_turn_has_a_slice_and_the_others_follow():
    loop = FakeLoop()
    reads = ReadTurns(loop)
    done = []

    def handle(number):
        done.append(number)
        reads.busy += 0.006

    for number in range(5):
        reads.put_off(partial(handle, number))
    sizes = []
    while len(done) < 5:
        before = len(done)
        ready, loop.ready = loop.ready, []
        for function, arguments in ready:
            function(*arguments)
        sizes.append(len(done) - before)
    assert done == [0, 1, 2, 3, 4]
    assert sizes == [2, 2, 1]
