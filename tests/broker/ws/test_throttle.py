"""The receivers before the router, on a loop whose clock the test moves."""

from collections import Counter
from typing import Any

import pytest

from pystrands.broker.ws.incoming import BACKPRESSURE, TOO_FAST
from pystrands.broker.ws.throttle import IdleLimited, RateLimited
from pystrands.broker.ws.websocket import Receiver
from tests.broker.ws.support import Double


class Loop(Double):
    """Time passes when the test says so."""

    def __init__(self):
        self.now = 0.0
        self.timers: list[Any] = []

    def time(self):
        return self.now

    def call_later(self, delay, function, *args):
        timer = Timer(self, self.now + delay, function, args)
        self.timers.append(timer)
        return timer

    def pass_time(self, seconds):
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.when <= end]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when)
            first.function(*first.args)
        self.now = end


class Timer(Double):
    def __init__(self, loop, when, function, args):
        self.loop, self.when, self.function, self.args = loop, when, function, args

    def cancel(self):
        if self in self.loop.timers:
            self.loop.timers.remove(self)


class Router(Receiver):
    def __init__(self):
        self.messages = []
        self.closed = []
        self.over = []

    def client_message(self, ws, message):
        self.messages.append(message)

    def client_closed(self, ws, code, reason):
        self.closed.append(code)

    def client_over(self, ws, code, reason):
        self.over.append(code)


class WebSocket(Double):
    def __init__(self, receiver=None):
        self.paused = 0
        self.receiver = receiver
        self.code: Any = None

    @property
    def is_open(self):
        return self.code is None

    def pause_reading(self, reason):
        self.paused |= reason

    def resume_reading(self, reason):
        self.paused &= ~reason

    def close(self, code, reason):
        self.code = code
        self.receiver.client_closed(self, code, reason)


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def router():
    return Router()


@pytest.fixture
def counters():
    return Counter()


def limited(loop, router, counters, **options):
    settings = {"messages": 10, "size": 0, "largest": 100, "policy": "delay", **options}
    return RateLimited(router, loop, counters=counters, **settings)


def test_a_client_within_its_rate_is_not_touched(loop, router, counters):
    receiver = limited(loop, router, counters, size=50)
    ws = WebSocket(receiver)
    for number in range(100):
        receiver.client_message(ws, str(number % 10) * 5)
        assert not ws.paused
        loop.pass_time(0.1)
    assert len(router.messages) == 100
    assert not counters


def test_a_client_past_its_rate_waits_until_it_is_within_and_loses_nothing(loop, router, counters):
    receiver = limited(loop, router, counters)
    ws = WebSocket(receiver)
    for _ in range(25):
        receiver.client_message(ws, "x")
    assert (len(router.messages), ws.paused) == (25, TOO_FAST)
    assert counters == {"rate_delayed": 1}
    loop.pass_time(0.49)
    assert ws.paused
    loop.pass_time(0.02)
    assert not ws.paused
    receiver.client_message(ws, "x")
    receiver.client_message(ws, "x")
    assert ws.paused
    receiver.client_closed(ws, 1001, "")
    assert not loop.timers
    assert router.closed == [1001]


def test_its_delay_does_not_end_one_for_another_reason(loop, router, counters):
    receiver = limited(loop, router, counters)
    ws = WebSocket(receiver)
    ws.pause_reading(BACKPRESSURE)
    for _ in range(25):
        receiver.client_message(ws, "x")
    loop.pass_time(10)
    assert ws.paused == BACKPRESSURE


def test_bytes_are_those_on_the_wire(loop, router, counters):
    receiver = limited(loop, router, counters, messages=0, size=50)
    for message in ("\N{EURO SIGN}" * 33, b"x" * 100, "x" * 100):
        ws = WebSocket(receiver)
        receiver.client_message(ws, message)
        assert not ws.paused
        receiver.client_message(ws, "xx")
        assert ws.paused, message


def test_a_client_past_its_rate_may_be_closed_instead(loop, router, counters):
    receiver = limited(loop, router, counters, policy="close")
    ws = WebSocket(receiver)
    for _ in range(20):
        receiver.client_message(ws, "x")
    assert ws.code is None
    receiver.client_message(ws, "too much")
    assert ws.code == 1008
    assert router.messages == ["x"] * 20
    assert router.closed == [1008]
    assert counters == {"rate_closed": 1}


def test_a_client_that_is_closed_for_what_it_said_is_forgotten(loop, router, counters):
    receiver = limited(loop, router, counters)
    ws = WebSocket(receiver)
    router.client_message = lambda ws, message: ws.close(1003, "")
    for _ in range(30):
        receiver.client_message(ws, "x")
    assert not loop.timers


def test_what_was_read_of_a_client_that_is_gone_is_passed_on_and_nothing_is_kept_of_it(loop, router, counters):
    for receiver in (limited(loop, router, counters), IdleLimited(router, loop, timeout=10, counters=counters)):
        ws = WebSocket(receiver)
        ws.close(1000, "")
        for _ in range(30):
            receiver.client_message(ws, "x")
        receiver.client_over(ws, 1000, "")
        assert not loop.timers
        assert not getattr(receiver, "_limits", ()) and not getattr(receiver, "_heard", ())
    assert len(router.messages) == 60
    assert router.over == [1000, 1000]
    assert not counters


def test_who_says_nothing_for_too_long_is_closed_and_nobody_else(loop, router, counters):
    receiver = IdleLimited(router, loop, timeout=20, counters=counters)
    talker, listener, paused, gone = (WebSocket(receiver) for _ in range(4))
    for ws in (talker, listener, paused, gone):
        receiver.add(ws)
    paused.paused = BACKPRESSURE
    receiver.start()
    for _ in range(3):
        loop.pass_time(6)
        receiver.client_message(talker, "x")
    receiver.discard(gone)
    assert not router.closed
    loop.pass_time(4)
    assert [ws.code for ws in (talker, listener, paused, gone)] == [None, 1001, None, None]
    assert router.closed == [1001]
    assert counters == {"idle_closed": 1}
    paused.paused = 0
    loop.pass_time(30)
    assert (talker.code, paused.code) == (1001, 1001)
    receiver.stop()
    assert not loop.timers
