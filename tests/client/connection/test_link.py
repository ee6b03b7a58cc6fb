import asyncio

from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.outgoing import Outgoing
from tests.client.fake_broker import soon, until


class FakeTransport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.written = []
        self.closing = False
        self.reading = True
        self.eof = False

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def write(self, data):
        assert not self.eof
        assert not self.closing, "uvloop raises"
        self.written.append(bytes(data))

    def is_closing(self):
        return self.closing

    def can_write_eof(self):
        return True

    def write_eof(self):
        assert not self.closing, "uvloop raises"
        self.eof = True

    def pause_reading(self):
        assert self.reading
        self.reading = False

    def resume_reading(self):
        assert not self.reading
        self.reading = True

    def abort(self):
        self.closing = True


def make(**options):
    received = []
    link = BrokerLink(asyncio.get_running_loop(), lambda link, lines: received.extend(lines), **options)
    transport = FakeTransport()
    link.connection_made(transport)
    return link, transport, received


def attached(**options):
    """A link, its transport, and what sends on it, in protocol 1."""
    link, transport, _ = make(**options)
    outgoing = Outgoing(asyncio.get_running_loop(), lambda: 0)
    outgoing.attach(link)
    link.closed.add_done_callback(lambda _: outgoing.detach(link))
    return link, transport, outgoing


async def test_one_write_for_each_turn():
    _, transport, outgoing = attached()
    for n in range(5):
        assert await outgoing.send(b"%d\n" % n) is True
    assert transport.written == []
    await until(lambda: transport.written)
    assert transport.written == [b"0\n1\n2\n3\n4\n"]


async def test_waiting_sends_keep_their_order_and_can_be_withdrawn():
    link, transport, outgoing = attached(write_limit=10)
    link.pause_writing()
    sends = [asyncio.create_task(outgoing.send(b"%d\n" % n)) for n in range(4)]
    await until(lambda: len(outgoing._waiting) == 4)
    sends[1].cancel()
    await asyncio.wait([sends[1]])
    link.resume_writing()
    sends[3].cancel()  # it was handed on already; only the waiting ends
    assert await sends[0] is True
    assert await sends[2] is True
    await asyncio.wait([sends[3]])
    await until(lambda: b"".join(transport.written) == b"0\n2\n3\n")
    assert sends[1].cancelled()
    assert sends[3].cancelled()


async def test_the_limit_counts_what_this_turn_wrote():
    _, transport, outgoing = attached(write_limit=10)
    assert await outgoing.send(b"x" * 10) is True
    waiting = asyncio.create_task(outgoing.send(b"y"))
    assert await soon(waiting) is True
    await until(lambda: transport.written == [b"x" * 10, b"y"])


async def test_a_lost_link_answers_those_that_wait():
    link, _, outgoing = attached()
    link.pause_writing()
    waiting = asyncio.create_task(outgoing.send(b"x"))
    await until(lambda: outgoing._waiting)
    link.connection_lost(OSError("reset"))
    assert await waiting is False
    assert await outgoing.send(b"x") is False


async def test_a_lost_link_is_silent():
    link, _, received = make()
    link.connection_lost(OSError("reset"))
    assert link.write(b"x") is False
    link.data_received(b"late\n")
    assert received == []
    assert link.abort() is False
    link.resume_reading()
    link.pause_reading()
    assert await link.finish(0) is True


async def test_a_closing_link_takes_nothing():
    link, transport, outgoing = attached()
    transport.closing = True
    assert await outgoing.send(b"x") is False
    link.pause_writing()
    assert await outgoing.send(b"x") is False


async def test_pause_and_resume_reading_twice():
    link, transport, received = make()
    link.pause_reading()
    link.pause_reading()
    assert not transport.reading
    link.stop_receiving()
    assert transport.reading
    link.pause_reading()
    assert transport.reading
    link.data_received(b"x\n")
    assert received == []


async def test_finish_flushes_then_half_closes_then_waits():
    link, transport, outgoing = attached(write_limit=4)
    link.pause_writing()
    waiting = asyncio.create_task(outgoing.send(b"waiting\n"))
    await until(lambda: outgoing._waiting)
    emptying = asyncio.create_task(outgoing.emptied(1000))
    await asyncio.sleep(0)
    assert not emptying.done()
    link.resume_writing()
    assert await soon(waiting) is True
    await soon(emptying)
    finishing = asyncio.create_task(link.finish(1000))
    await until(lambda: transport.eof)
    assert transport.written == [b"waiting\n"]
    assert not link.is_open
    assert link.write(b"x") is False
    link.connection_lost(None)
    assert await soon(finishing) is True


async def test_finish_when_the_broker_has_just_closed():
    link, transport, _ = make()
    link.write(b"x\n")
    transport.closing = True
    finishing = asyncio.create_task(link.finish(1000))
    await asyncio.sleep(0)
    link.connection_lost(None)
    assert await soon(finishing) is True
    assert transport.written == []


async def test_finish_when_connecting_was_cancelled():
    """uvloop has closed the transport, and neither says so nor calls connection_lost()."""
    link, transport, _ = make()

    def write_eof():
        raise RuntimeError("the handler is closed")

    transport.write_eof = write_eof
    assert await soon(link.finish(1000)) is True
    assert link.closed.done()


async def test_finish_gives_up():
    link, transport, _ = make()
    assert await link.finish(0) is False
    assert transport.closing
