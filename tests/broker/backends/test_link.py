"""What one link may take of the loop's time, and how often its lines are kept."""

import json
from typing import Any

import pytest

from pystrands.broker.backends.authenticator import LinkAuthenticator
from pystrands.broker.backends.greeting import Greeting
from pystrands.broker.backends.link import LinkShared, link_factory
from pystrands.protocol.messages import HelloParams
from tests.broker.doubles import FakeTransport

pytestmark = pytest.mark.interpreted  # its owner of links is a double


class Loop:
    """Its time passes with each command that is carried out; it runs a turn when told to."""

    def __init__(self):
        self.now = 0.0
        self.ready = []

    def time(self):
        return self.now

    def call_soon(self, function, *args):
        self.ready.append((function, args))

    def call_later(self, delay, function, *args):
        return Timer()

    def turn(self):
        ready, self.ready = self.ready, []
        for function, args in ready:
            function(*args)


class Timer:
    def cancel(self):
        pass


class Owner:
    """Carries out commands, of which each takes a millisecond; notes what comes."""

    def __init__(self, loop):
        self.loop = loop
        self.taken = []
        self.is_closed = False

    def link_opened(self, link):
        pass

    def link_decided(self, link, hello):
        pass

    def link_flow(self, link):
        pass

    def link_received(self, link, commands):
        assert not self.is_closed
        self.taken += [command.params.message for command in commands]
        self.loop.now += 0.001 * len(commands)

    def link_closed(self, link):
        self.is_closed = True


class Transport(FakeTransport):
    def __init__(self):
        super().__init__()
        self.reading = True
        self.pieces = []

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def write(self, data):
        self.pieces.append(data)

    def writelines(self, lines):
        self.pieces += lines

    def get_write_buffer_size(self):
        return sum(map(len, self.pieces))


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def owner(loop):
    return Owner(loop)


@pytest.fixture
def transport():
    return Transport()


@pytest.fixture
def link(loop, owner, transport):
    clock: Any = loop.time
    some: Any = {"loop": loop, "owner": owner, "authenticator": LinkAuthenticator(clock=clock, counters={})}
    made: Any = link_factory(LinkShared(**some, greeting=Greeting(HelloParams()), max_line=10**6, link_buffer=10**6))()
    made.connection_made(transport)
    made.data_received(b'{"action":"heartbeat","request_id":"","params":{}}\n')
    loop.turn()
    return made


def commands(*numbers, size=0):
    params = [{"room_id": "r", "message": f"{number}".rjust(size)} for number in numbers]
    lines = [json.dumps({"action": "message_to_room", "request_id": "", "params": each}) for each in params]
    return "".join(f"{line}\n" for line in lines).encode()


def test_few_commands_are_carried_out_at_once(link, owner, transport):
    link.data_received(commands(1, 2, 3))
    assert owner.taken == ["1", "2", "3"]
    assert transport.reading


def test_many_commands_leave_the_loop_to_others_in_between_and_keep_their_order(link, loop, owner, transport):
    link.data_received(commands(*range(1000)))
    turns = 0
    while loop.ready:
        assert not transport.reading
        assert len(owner.taken) <= (turns + 1) * 32 or len(owner.taken) == 1000
        loop.turn()
        turns += 1
    assert turns > 20
    assert owner.taken == [f"{number}" for number in range(1000)]
    assert transport.reading


def test_what_is_read_meanwhile_waits_for_its_turn(link, loop, owner, transport):
    link.data_received(commands(*range(100)))
    link.data_received(commands(100))  # a transport may have had it already
    assert len(owner.taken) < 100
    while loop.ready:
        loop.turn()
    assert owner.taken == [f"{number}" for number in range(101)]
    assert transport.reading


def test_a_read_of_much_is_followed_by_a_turn_of_others(link, loop, owner, transport):
    link.data_received(commands(1, size=200_000))
    assert len(owner.taken) == 1
    assert not transport.reading
    loop.turn()
    assert transport.reading


def test_what_was_read_of_a_link_that_is_gone_is_carried_out(link, owner):
    link.data_received(commands(*range(100)))
    link.connection_lost(None)
    assert owner.taken == [f"{number}" for number in range(100)]
    assert owner.is_closed


def test_what_was_read_of_a_link_that_the_broker_has_ended_is_not(link, loop, owner):
    link.data_received(commands(*range(100)))
    before = list(owner.taken)
    link.abort()
    loop.turn()
    link.connection_lost(None)
    assert owner.taken == before
    assert owner.is_closed


def test_many_lines_are_not_copied_for_their_writing(link, loop, transport):
    transport.pieces.clear()
    lines = [b"x" * 40_000 + b"\n" for _ in range(10)]
    for line in lines:
        link.write(line)
    loop.turn()
    assert [id(piece) for piece in transport.pieces] == [id(line) for line in lines]
    assert link.unsent_bytes == 400_010  # no session keeps them
    transport.pieces.clear()
    assert link.unsent_bytes == 0
