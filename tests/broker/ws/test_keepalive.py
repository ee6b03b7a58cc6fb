import asyncio
import sys
from collections import Counter
from typing import Any

import pytest

from pystrands.broker.fanout.groups import Recipient
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.ws.frames import binary_frame
from pystrands.broker.ws.keepalive import KeepAlive, MessageWatch
from pystrands.testing import until
from tests.broker.ws.support import BINARY, KINDS, PATIENCE, PING, PONG, Double, Echo, Front, frame

INTERVAL = 50.0


class Loop(Double):
    def call_soon(self, function, *args):
        pass


class Session(Recipient, Double):
    def __init__(self):
        super().__init__(None, 1000)
        self.silent = 0
        self.paused = False
        self.aborted: Any = 0
        self.on_abort = None

    def close(self, code, reason):
        raise AssertionError

    def abort(self):
        self.aborted += 1
        if self.on_abort is not None:
            self.on_abort()


@pytest.fixture
def counters():
    return Counter()


@pytest.fixture
def keepalive(counters):
    return KeepAlive(Outbox(Loop()), interval=INTERVAL, missed=2, counters=counters)


def sweep(keepalive, start, intervals=1.0):
    """Tick every second over so many intervals, and return the time after."""
    end = start + INTERVAL * intervals
    while start < end:
        keepalive.tick(start)
        start += 1
    return start


def test_a_silent_client_is_pinged_and_then_dropped(keepalive, counters):
    ws = Session()
    keepalive.add(ws)
    ws.on_abort = lambda: keepalive.discard(ws)
    now = sweep(keepalive, 0)
    assert ws.out == []
    now = sweep(keepalive, now)
    assert ws.out == [b"\x89\x00"]
    now = sweep(keepalive, now)
    assert ws.out == [b"\x89\x00"] * 2
    assert not ws.aborted
    now = sweep(keepalive, now)
    assert ws.aborted == 1
    assert counters == {"keepalive_timeout": 1}
    sweep(keepalive, now)
    assert ws.aborted == 1


def test_whoever_is_heard_is_left_alone(keepalive):
    ws = Session()
    keepalive.add(ws)
    now = 0.0
    for _ in range(10):
        now = sweep(keepalive, now)
        ws.silent = 0
    assert ws.out == []
    assert not ws.aborted


def test_an_answer_in_time_saves_a_client(keepalive):
    ws = Session()
    keepalive.add(ws)
    now = sweep(keepalive, 0, 3)
    assert len(ws.out) == 2
    ws.silent = 0
    now = sweep(keepalive, now, 3)
    assert len(ws.out) == 4
    assert not ws.aborted


def test_a_paused_client_is_exempt(keepalive):
    ws = Session()
    keepalive.add(ws)
    now = sweep(keepalive, 0, 3)
    ws.paused = True
    now = sweep(keepalive, now, 10)
    assert not ws.aborted
    assert len(ws.out) == 2
    ws.paused = False
    now = sweep(keepalive, now, 3)
    assert not ws.aborted
    sweep(keepalive, now)
    assert ws.aborted


class Peer(Double):
    """A transport, and the system at its other end: the bytes that it is given, and those that it acknowledges."""

    def __init__(self, given=0):
        self.given = given
        self.taken = 0

    def get_write_buffer_size(self):
        return self.given - self.taken

    def get_extra_info(self, _):
        return self

    def fileno(self):
        raise OSError  # all that it holds is in the transport

    def getsockopt(self, _level, _option, size):
        return bytes(size - 8) + self.taken.to_bytes(8, sys.byteorder)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what the peer has acknowledged")


def behind(keepalive, given):
    """Return a client before which so much is, at its last ping, and the time."""
    ws = Session()
    ws.transport = Peer(given)
    keepalive.add(ws)
    ws.on_abort = lambda: keepalive.discard(ws)
    now = sweep(keepalive, 0, 3)
    assert ws.silent == 3
    return ws, now


@on_linux
def test_whoever_reads_what_is_before_a_ping_is_left_alone(keepalive, counters):
    ws, now = behind(keepalive, 1_000_000)
    for _ in range(10):
        ws.transport.taken += 100
        now = sweep(keepalive, now)
    assert not ws.aborted
    sweep(keepalive, now)
    assert ws.aborted, "it has stopped"
    assert counters == {"keepalive_timeout": 1}
    assert not keepalive._last_pings


@on_linux
def test_a_ping_that_came_late_may_be_answered_late(keepalive):
    ws, now = behind(keepalive, 1_000_000)
    ws.transport.taken = ws.transport.given = 1_000_004
    ws.out.clear()
    ws.queued = 0
    now = sweep(keepalive, now)
    assert not ws.aborted
    ws.silent = 0  # the answer
    now = sweep(keepalive, now, 3)
    assert not ws.aborted
    sweep(keepalive, now)
    assert ws.aborted


@on_linux
def test_a_system_that_takes_pings_is_no_client_that_answers_them(keepalive):
    ws, now = behind(keepalive, 100)
    ws.transport.taken = ws.transport.given = 1000
    ws.out.clear()
    ws.queued = 0
    sweep(keepalive, now)
    assert ws.aborted


@on_linux
@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_is_kept_and_one_that_stops_is_not(kind):
    watches: list[KeepAlive] = []
    with Front(kind, send_limit=1 << 24, watches=watches) as front:
        keepalive = front.call(lambda: KeepAlive(front.outbox, interval=INTERVAL, counters=front.counters))
        watches.append(keepalive)
        with front.connect(receive_buffer=65_536) as client:
            ws = front.websocket()
            front.call(lambda: [ws.send(binary_frame(bytes(1 << 20))) for _ in range(12)])
            now = front.call(sweep, keepalive, 0, 3)
            for _ in range(3):
                assert client.frame() == (BINARY, bytes(1 << 20))
                front.turn()
                now = front.call(sweep, keepalive, now)
            assert not front.counters["keepalive_timeout"]
            while not front.counters["keepalive_timeout"]:  # nothing is read from here on
                now = front.call(sweep, keepalive, now)
            assert front.closed() == (1006, "")


def test_visits_are_spread_over_the_interval(keepalive):
    sessions = [Session() for _ in range(500)]
    for ws in sessions:
        keepalive.add(ws)
    visited = []
    before = 0
    for second in range(int(INTERVAL)):
        keepalive.tick(second)
        now = sum(ws.silent for ws in sessions)
        visited.append(now - before)
        before = now
    assert before == 500
    assert max(visited) < 100
    assert all(ws.silent == 1 for ws in sessions)


def test_after_a_long_gap_everyone_is_visited_once(keepalive):
    sessions = [Session() for _ in range(100)]
    for ws in sessions:
        keepalive.add(ws)
    keepalive.tick(0)
    keepalive.tick(INTERVAL * 1000)
    assert {ws.silent for ws in sessions} <= {1, 2}
    assert not any(ws.aborted for ws in sessions)


def test_a_client_may_leave_twice_or_without_having_come(keepalive):
    ws = Session()
    keepalive.discard(ws)
    keepalive.add(ws)
    keepalive.add(ws)
    keepalive.discard(ws)
    keepalive.discard(ws)
    sweep(keepalive, 0, 5)
    assert ws.silent == 0


def test_clients_may_leave_and_one_may_fail_while_the_dead_are_dropped(keepalive):
    sessions = [Session() for _ in range(200)]

    def everyone_leaves():
        for ws in sessions:
            keepalive.discard(ws)
        raise RuntimeError

    for ws in sessions:
        keepalive.add(ws)
        ws.on_abort = everyone_leaves
    sweep(keepalive, 0, 6)
    assert 0 < sum(ws.aborted for ws in sessions) < 200


def test_interval_0_is_off(counters):
    keepalive = KeepAlive(Outbox(Loop()), interval=0, counters=counters)
    ws = Session()
    keepalive.add(ws)
    keepalive.tick(0)
    keepalive.start(Loop())
    keepalive.stop()
    assert ws.silent == 0


async def test_the_loop_does_the_sweep():
    keepalive = KeepAlive(Outbox(asyncio.get_running_loop()), interval=0.05)
    ws = Session()
    keepalive.add(ws)
    keepalive.start(asyncio.get_running_loop())
    keepalive.start(asyncio.get_running_loop())
    await until(lambda: ws.silent)
    keepalive.stop()
    keepalive.stop()


async def test_an_error_does_not_end_the_sweep():
    keepalive = KeepAlive(Outbox(asyncio.get_running_loop()), interval=0.05)
    again = asyncio.Event()

    class Failing:
        count = 0

        @property
        def paused(self):
            self.count += 1
            if self.count > 1:
                again.set()
            raise RuntimeError

    keepalive.add(Failing())  # type: ignore[arg-type]
    keepalive.start(asyncio.get_running_loop())
    await asyncio.wait_for(again.wait(), PATIENCE)
    keepalive.stop()


def test_a_websocket_comes_and_goes_by_itself():
    watches: list[KeepAlive] = []
    with Front(receiver=Echo(), watches=watches) as front:
        keepalive = front.call(lambda: KeepAlive(front.outbox, interval=INTERVAL, counters=front.counters))
        watches.append(keepalive)
        with front.connect() as client:
            client.send_frame(PING)
            assert client.frame() == (PONG, b"")
            assert front.call(sweep, keepalive, 0, 2)
            assert client.frame() == (PING, b"")
            client.send(frame(PONG) + frame(PING))
            assert client.frame() == (PONG, b"")
            front.call(sweep, keepalive, 200, 4)
            assert front.closed() == (1006, "")
        assert front.counters["keepalive_timeout"] == 1
        assert not any(keepalive._buckets)


# --- messages that take too long


class Talker(Double):
    def __init__(self):
        self.stalled = 0
        self.controls = 0
        self.paused = 0
        self.has_unfinished = False
        self.closed = []

    def close(self, code, reason):
        self.closed.append(code)


def watch_for(watch, start, seconds):
    """Tick every tenth of a second for so long, and return the time after."""
    for tenth in range(round(seconds * 10)):
        watch.tick(start + tenth / 10)
    return start + seconds


@pytest.mark.parametrize("timeout", [1, 8, 60, 61, 600])
def test_a_message_has_its_time_and_not_much_more(counters, timeout):
    watch = MessageWatch(timeout, counters)
    ws = Talker()
    watch.add(ws)
    watch.tick(0)
    ws.has_unfinished = True
    now = watch_for(watch, 0, timeout)
    assert not ws.closed
    watch_for(watch, now, max(timeout / 4, 10.1))
    assert set(ws.closed) == {1008}
    assert counters["message_timeout"] == len(ws.closed)


def test_each_message_has_its_own_time_and_a_paused_client_all_of_it(counters):
    watch = MessageWatch(8, counters)
    ws = Talker()
    ws.has_unfinished = True
    watch.add(ws)
    now = 0.0
    for _ in range(5):
        now = watch_for(watch, now, 7)
        ws.stalled = 0  # as whoever takes a message does
    for _ in range(2):
        ws.paused = 1
        now = watch_for(watch, now, 30)
        ws.paused = 0
        now = watch_for(watch, now, 7)
    ws.has_unfinished = False
    now = watch_for(watch, now, 30)
    assert not ws.closed
    assert not counters


def test_control_frames_have_a_share_for_each_visit(counters):
    watch = MessageWatch(600, counters)
    ws = Talker()
    watch.add(ws)
    ws.controls = 1000
    watch_for(watch, 0, 5.1)
    assert ws.controls == 0
    assert not ws.closed


def test_a_client_that_can_not_be_closed_does_not_save_the_others(counters):
    class Failing(Talker):
        def close(self, code, reason):
            raise RuntimeError

    watch = MessageWatch(1, counters)
    clients = [Failing(), Talker(), Failing(), Talker()]
    for ws in clients:
        ws.has_unfinished = True
        watch.add(ws)
    watch_for(watch, 0, 2)
    assert clients[1].closed and clients[3].closed
