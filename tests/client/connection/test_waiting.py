import asyncio
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.connection.session import BackendSession
from pystrands.client.requests import to_client, to_room
from tests.broker.ws.support import Double

RECIPIENTS = [to_client("a"), to_client("b"), to_room("a")]
recipients = st.sampled_from(RECIPIENTS)


MACHINES = settings(max_examples=100, stateful_step_count=30)


class FakeTransport(Double):
    """Notes what is written."""

    def __init__(self):
        self.written = b""

    def set_write_buffer_limits(self, high):
        pass

    def get_extra_info(self, name):
        return None

    def is_closing(self):
        return False

    def write(self, data):
        self.written += data


class Sending(RuleBasedStateMachine):
    """Sends of all kinds, a broker that says who is full, links that come and go; without sockets and without time.

    Whoever waits is told in the end, what was taken goes out once, and for each recipient in the order of the calls.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self):
        super().__init__()
        self.outgoing: Any = Outgoing(self.loop, lambda: 0)
        self.links: list[BrokerLink] = []
        self.transports: list[FakeTransport] = []
        self.full: set[str] = set()
        self.sends: list[tuple[str, int, asyncio.Task[bool]]] = []
        self.posted: list[tuple[str, int]] = []
        self.count = 0
        self.begin()

    def begin(self):
        self.outgoing.session = BackendSession("s", max_lines=6)
        self.outgoing.session.started()
        self.link()

    def link(self):
        link = BrokerLink(self.loop, lambda *_: None)
        transport: Any = FakeTransport()
        link.connection_made(transport)
        self.links.append(link)
        self.transports.append(transport)
        self.outgoing.attach(link)

    def turn(self):
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))

    @property
    def session(self):
        return self.outgoing.session

    @property
    def is_up(self):
        return self.outgoing.is_up

    def line(self, to):
        self.count += 1
        return b'{"action":"message_to_room","to":"%b","n":%d}\n' % (to.encode(), self.count)

    @rule(to=recipients)
    def send(self, to):
        line = self.line(to)
        task = self.loop.create_task(self.outgoing.send(line, to))
        self.sends.append((to, self.count, task))
        self.turn()
        if to in self.full and self.is_up:
            assert not task.done()

    @rule(to=recipients)
    def send_without_time(self, to):
        task = self.loop.create_task(self.outgoing.send(self.line(to), to, 0))
        self.sends.append((to, self.count, task))
        while not task.done():
            self.turn()

    @rule(to=recipients)
    def post(self, to):
        self.posted.append((to, self.count + 1))
        if not self.outgoing.write_posted(self.line(to), to):
            self.outgoing.dropped += 1
        self.turn()

    @precondition(lambda self: self.sends)
    @rule(data=st.data())
    def cancel(self, data):
        _, _, task = data.draw(st.sampled_from(self.sends))
        task.cancel()
        self.turn()
        assert task.done()

    @precondition(lambda self: self.is_up)
    @rule(to=recipients, is_full=st.booleans())
    def told(self, to, is_full):
        if is_full:
            self.full.add(to)
            self.outgoing.on_full(to)
        else:
            self.full.discard(to)
            self.outgoing.on_ready(to)
        self.turn()

    @precondition(lambda self: self.is_up)
    @rule()
    def acknowledge(self):
        self.session.session.acknowledge(self.session.session.sent)
        self.outgoing.refill()
        self.turn()

    @precondition(lambda self: self.is_up)
    @rule()
    def cut(self):
        self.turn()
        self.links[-1].connection_lost(None)
        self.outgoing.detach(self.links[-1])
        self.turn()

    @precondition(lambda self: not self.is_up)
    @rule()
    def lose_patience(self):
        if self.outgoing._losing_patience is not None:
            self.outgoing._losing_patience.cancel()
            self.outgoing._lose_patience()
        self.turn()
        assert all(task.done() for _, _, task in self.sends)

    @precondition(lambda self: not self.is_up)
    @rule()
    def resume(self):
        lines = self.session.resumed(self.session.session.sent)  # the broker has all that was written
        self.link()
        for line in lines:
            self.links[-1].write(line)
        self.outgoing.refill()
        self.turn()

    @precondition(lambda self: not self.is_up)
    @rule()
    def give_up(self):
        self.outgoing.forget_full()
        lines, lost = self.session.replaced("t", self.session.session.sent)
        assert not lost
        self.full.clear()
        self.link()
        for line in lines:
            self.links[-1].write(line)
        self.outgoing.refill()
        self.turn()

    def written(self):
        found = defaultdict(list)
        for transport in self.transports:
            for line in transport.written.splitlines():
                _, _, rest = line.partition(b'"to":"')
                to, _, rest = rest.partition(b'","n":')
                found[to.decode()].append(int(rest.partition(b",")[0].rstrip(b"}")))
        return found

    @invariant()
    def in_order_and_once(self):
        posted = {number for _, number in self.posted}
        for numbers in self.written().values():
            assert len(numbers) == len(set(numbers))
            # A thread waits for each of its sends; another thread's post may pass what waits for the link.
            for one in ([n for n in numbers if n in posted], [n for n in numbers if n not in posted]):
                assert one == sorted(one)

    @invariant()
    def only_those_wait_who_have_to(self):
        if self.is_up and self.session.has_room:
            for to, _, task in self.sends:
                assert task.done() or to in self.full

    def teardown(self):
        if not self.is_up:
            self.resume()
        for to in RECIPIENTS:
            self.told(to, False)
        while self.outgoing.congested:
            before = self.session.session.acknowledged
            self.acknowledge()
            assert self.session.session.acknowledged > before
        self.turn()
        assert all(task.done() for _, _, task in self.sends)
        written = self.written()
        for to, number, task in self.sends:
            taken = not task.cancelled() and task.exception() is None and task.result()
            assert (number in written[to]) >= taken
            if not task.cancelled():
                assert (number in written[to]) == taken
        lost = [number for to, number in self.posted if number not in written[to]]
        assert len(lost) == self.outgoing.dropped
        self.outgoing.close()
        super().teardown()


@pytest.mark.no_cover
@pytest.mark.timeout(300)  # it computes all the time, beside other tests
def test_sending():
    with asyncio.Runner() as runner:
        Sending.loop = runner.get_loop()
        run_state_machine_as_test(Sending, settings=MACHINES)
