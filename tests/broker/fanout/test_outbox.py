from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.fanout.groups import BLOCKED, CLOSED, FEW, Group, Recipient
from pystrands.broker.fanout.outbox import Outbox
from tests.broker.ws.support import Double


class Loop(Double):
    """Runs one turn when told to."""

    def __init__(self):
        self.ready = []

    def call_soon(self, function, *args):
        self.ready.append((function, args))

    def call_later(self, delay, function, *args):
        return None

    def turn(self):
        ready, self.ready = self.ready, []
        for function, args in ready:
            function(*args)
        return len(ready)

    def drain(self):
        turns = 0
        while self.ready:
            self.turn()
            turns += 1
        return turns


class Transport(Double):
    def __init__(self, journal=None):
        self.writes = []
        self.closing = False
        self.error = None
        self.after_write = None
        self.journal = journal

    def is_closing(self):
        return self.closing

    def get_write_buffer_size(self):
        return 0

    def set_write_buffer_limits(self, high, low):
        self.limits = high, low

    def write(self, data):
        if self.error is not None:
            raise self.error
        self.writes.append(data)
        if self.journal is not None:
            self.journal.append((self, data))
        if self.after_write is not None:
            self.after_write()


class Client(Recipient):
    transport: Any

    def __init__(self, limit=1000, journal=None):
        super().__init__(Transport(journal), limit)
        self.closed = None
        self.aborted = False
        self.on_close = None
        self.on_abort = None

    def close(self, code, reason):
        self.flags |= CLOSED
        self.closed = (code, reason, list(self.out))
        if self.on_close is not None:
            self.on_close()

    def abort(self):
        self.aborted = True
        self.flags |= CLOSED
        if self.on_abort is not None:
            self.on_abort()

    @property
    def received(self):
        return b"".join(self.transport.writes)

    @property
    def is_clean(self):
        return not self.out and self.queued == 0


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def counters():
    return Counter()


@pytest.fixture
def outbox(loop, counters):
    return Outbox(loop, counters=counters)


def test_a_turn_has_one_write_per_client(loop, outbox):
    one, other = Client(), Client()
    assert outbox.send(one, b"a")
    assert outbox.send(other, b"b")
    assert outbox.fan_out([one, other], b"c") == 2
    assert outbox.send(one, b"d")
    assert len(loop.ready) == 1
    assert one.queued == 3
    loop.drain()
    assert one.transport.writes == [b"acd"]
    assert other.transport.writes == [b"bc"]
    assert one.is_clean
    assert other.is_clean
    assert not one.flags


def test_a_single_frame_is_written_without_a_copy(loop, outbox):
    clients = [Client() for _ in range(200)]
    frame = b"x" * 100
    assert outbox.fan_out(clients, frame) == 200
    loop.drain()
    assert all(len(client.transport.writes) == 1 and client.transport.writes[0] is frame for client in clients)


def test_recipients_may_come_from_anywhere(loop, outbox):
    clients = [Client() for _ in range(5)]
    assert outbox.fan_out(dict.fromkeys(clients), b"a") == 5
    assert outbox.fan_out(set(clients), b"b") == 5
    assert outbox.fan_out([], b"c") == 0
    loop.drain()
    assert [client.received for client in clients] == [b"ab"] * 5


def test_the_order_is_that_of_sending_whichever_way(loop, outbox):
    clients = [Client() for _ in range(100)]
    outbox.fan_out(clients, b"1")
    outbox.send(clients[99], b"2")
    outbox.fan_out(clients[95:], b"3")
    outbox.fan_out(clients, b"4")
    loop.drain()
    assert clients[99].received == b"1234"
    assert clients[95].received == b"134"
    assert clients[0].received == b"14"


def test_small_sends_go_between_the_slices_of_a_fan_out(loop, counters):
    now = iter(range(1, 10_000))
    journal = []
    outbox = Outbox(loop, slice_seconds=4, clock=lambda: next(now))
    many = [Client(journal=journal) for _ in range(100)]
    quick = Client(journal=journal)
    outbox.fan_out(many, b"bulk")
    loop.turn()
    slice_size = len(journal)
    assert 0 < slice_size < 10
    outbox.send(quick, b"quick")
    outbox.fan_out([many[-1]], b"few")  # one that waits in bulk is not made to wait for the rest of it
    loop.turn()
    assert journal[slice_size] == (quick.transport, b"quick")
    assert journal[slice_size + 1] == (many[-1].transport, b"bulkfew")
    assert loop.drain() > 10
    assert all(client.received.startswith(b"bulk") for client in many)
    assert not any(client.flags for client in many)


def test_a_slice_is_bounded_in_sends_where_the_clock_sees_nothing(loop):
    outbox = Outbox(loop, slice_seconds=0.00007, clock=lambda: 0.0)
    clients = [Client() for _ in range(100)]
    outbox.fan_out(clients, b"x")
    assert loop.drain() >= 10
    assert all(client.received == b"x" for client in clients)


def test_a_blocked_client_is_skipped_until_it_is_unblocked(loop, outbox):
    client = Client()
    outbox.block(client)
    assert outbox.send(client, b"a")
    assert outbox.fan_out([client], b"b") == 1
    loop.drain()
    assert client.transport.writes == []
    assert client.queued == 2
    outbox.unblock(client)
    loop.drain()
    assert client.transport.writes == [b"ab"]
    assert client.is_clean
    assert not client.flags


def test_a_client_that_is_blocked_while_it_waits_keeps_its_frames(loop, outbox):
    small, bulk = Client(), [Client() for _ in range(70)]
    outbox.send(small, b"a")
    outbox.fan_out(bulk, b"b")
    for client in (small, bulk[3]):
        outbox.block(client)
    loop.drain()
    assert (small.received, bulk[3].received, bulk[4].received) == (b"", b"", b"b")
    assert small.flags == bulk[3].flags == BLOCKED
    for client in (small, bulk[3]):
        outbox.unblock(client)
    loop.drain()
    assert (small.received, bulk[3].received) == (b"a", b"b")


def test_unblocking_an_empty_client_does_nothing(loop, outbox):
    client = Client()
    outbox.block(client)
    outbox.unblock(client)
    assert not client.flags
    assert not loop.ready


def test_a_long_queue_is_written_until_the_transport_blocks(loop, outbox):
    client = Client(limit=1 << 30)
    client.transport.after_write = lambda: outbox.block(client)
    frames = [bytes([n]) * 50_000 for n in range(10)]
    for frame in frames:
        outbox.send(client, frame)
    loop.drain()
    assert client.transport.writes == [b"".join(frames[:2])]
    assert client.queued == 400_000
    while client.out:
        outbox.unblock(client)
        loop.drain()
    assert client.received == b"".join(frames)
    assert client.is_clean


def test_a_frame_longer_than_a_part_is_written_whole(loop, outbox):
    client = Client(limit=1 << 30)
    outbox.send(client, b"a")
    outbox.send(client, b"x" * 1_000_000)
    outbox.send(client, b"b")
    loop.drain()
    assert client.received == b"a" + b"x" * 1_000_000 + b"b"
    assert client.is_clean


@pytest.mark.parametrize("way", ["send", "fan_out"])
def test_a_slow_client_is_closed_later_and_without_its_queue(loop, outbox, counters, way):
    clients = {Client() for _ in range(100)}
    slow = next(iter(clients))
    slow.on_close = lambda: clients.discard(slow)
    outbox.block(slow)
    assert outbox.send(slow, b"12345678")
    outbox.pressure.give_up(slow)
    outbox.pressure.give_up(slow)
    if way == "send":
        assert not outbox.send(slow, b"abc")
    else:
        assert outbox.fan_out(clients, b"abc") == 99
        assert outbox.fan_out(clients, b"def") == 99
    assert slow in clients
    assert not outbox.send(slow, b"more")
    loop.drain()
    assert slow not in clients
    assert slow.closed == (1013, "too slow", [])
    assert slow.is_clean
    assert counters == {"slow_consumer_closed": 1}


def test_a_slow_client_that_left_first_is_not_closed(loop, outbox, counters):
    client = Client()
    outbox.block(client)
    outbox.send(client, b"a")
    outbox.pressure.give_up(client)
    client.flags |= CLOSED
    loop.drain()
    assert client.closed is None
    assert not counters


def test_a_client_may_miss_messages_instead(loop, counters):
    outbox = Outbox(loop, policy="drop", counters=counters)
    client, other = Client(limit=10), Client(limit=10)
    outbox.block(client)
    assert outbox.send(client, b"12345678")
    assert outbox.send(client, b"90a")
    outbox.pressure.give_up(client)
    assert not outbox.send(client, b"b")
    assert outbox.fan_out([client, other], b"bc") == 1
    outbox.unblock(client)
    loop.drain()
    assert client.received == b"1234567890a"
    assert other.received == b"bc"
    assert counters == {"slow_consumer_dropped": 2}
    assert client.closed is None
    assert outbox.send(client, b"it has caught up")


@pytest.mark.parametrize("way", ["send", "fan_out"])
def test_one_message_above_the_limit_passes_into_an_empty_queue(loop, outbox, way):
    client = Client(limit=10)
    outbox.block(client)
    assert outbox.send(client, b"x" * 100) if way == "send" else outbox.fan_out([client], b"x" * 100)
    assert client.closed is None
    outbox.unblock(client)
    loop.drain()
    assert client.received == b"x" * 100


def test_a_closed_client_takes_nothing(loop, outbox):
    closed, one = Client(), Client()
    closed.flags |= CLOSED
    assert not outbox.send(closed, b"a")
    assert outbox.fan_out([closed, one], b"b") == 1
    loop.drain()
    assert closed.received == b""


def break_by_closing(client):
    client.transport.closing = True


def break_by_error(client):
    client.transport.error = RuntimeError("the handle is closed")


def break_by_leaving(client):
    client.transport = None


@pytest.mark.parametrize("break_it", [break_by_closing, break_by_error, break_by_leaving])
@pytest.mark.parametrize("size", [3, 100])
def test_a_dead_client_harms_nobody_else(loop, outbox, break_it, size):
    clients = [Client() for _ in range(size)]
    outbox.fan_out(clients, b"x")
    break_it(clients[1])
    loop.drain()
    assert [client.received for client in clients if client is not clients[1]] == [b"x"] * (size - 1)
    assert clients[1].is_clean
    assert clients[1].aborted is (break_it is break_by_error)


def test_a_close_that_fails_harms_nobody_else(loop, outbox):
    def fail():
        raise RuntimeError

    clients = [Client() for _ in range(3)]
    clients[0].on_close = fail
    for client in clients:
        outbox.pressure.give_up(client)
    loop.drain()
    assert [client.closed and client.closed[0] for client in clients] == [1013] * 3


# ---- groups


def make_group(outbox, clients):
    group = Group()
    for client in clients:
        outbox.join(client, group)
    return group


def test_the_members_of_a_group_share_the_bytes_of_all_that_was_published(loop, outbox):
    clients = [Client() for _ in range(5)]
    group = make_group(outbox, clients)
    for frame in (b"a", b"b", b"c"):
        assert outbox.publish(group, frame) == 5
    assert not any(client.out for client in clients)
    loop.drain()
    assert [client.transport.writes for client in clients] == [[b"abc"]] * 5
    assert len({id(client.transport.writes[0]) for client in clients}) == 1
    assert not group.frames
    assert outbox.publish(Group(), b"d") == 0
    assert not loop.ready


def test_a_single_published_frame_is_written_without_a_copy(loop, outbox):
    clients = [Client() for _ in range(200)]
    frame = b"x" * 100
    outbox.publish(make_group(outbox, clients), frame)
    loop.drain()
    assert all(len(client.transport.writes) == 1 and client.transport.writes[0] is frame for client in clients)


def test_what_is_sent_to_a_member_alone_keeps_its_place(loop, outbox):
    clients = [Client() for _ in range(3)]
    group = make_group(outbox, clients)
    outbox.send(clients[0], b"1")
    outbox.publish(group, b"2")
    outbox.send(clients[1], b"3")
    outbox.publish(group, b"4")
    outbox.fan_out(clients[1:], b"5")
    loop.drain()
    assert [client.transport.writes for client in clients] == [[b"124"], [b"2345"], [b"245"]]
    assert all(client.is_clean and not client.flags for client in clients)


@pytest.mark.parametrize("size", [3, 100])
def test_who_is_in_several_groups_gets_all_in_order(loop, outbox, size):
    one, both, other = Client(), Client(), Client()
    first = make_group(outbox, [one, both, *(Client() for _ in range(size))])
    second = make_group(outbox, [both, other, *(Client() for _ in range(size))])
    for number in range(6):
        outbox.publish(second if number % 2 else first, b"%d" % number)
    loop.drain()
    assert [client.received for client in (one, both, other)] == [b"024", b"012345", b"135"]


def test_members_get_what_was_published_while_they_were_members(loop, outbox):
    early, late, leaver = Client(), Client(), Client()
    group = make_group(outbox, [early, leaver])
    outbox.publish(group, b"1")
    outbox.join(late, group)
    outbox.leave(leaver, group)
    assert outbox.publish(group, b"2") == 2
    outbox.leave(late, group)
    outbox.publish(group, b"3")
    outbox.join(late, group)
    outbox.publish(group, b"4")
    loop.drain()
    assert [client.received for client in (early, late, leaver)] == [b"1234", b"24", b"1"]
    assert leaver.groups == ()


def sliced(**options):
    """An outbox that makes ten writes in a slice."""
    return Outbox(Loop(), slice_seconds=0.00007, clock=lambda: 0.0, **options)


def test_a_large_group_is_gone_around_in_slices_and_each_write_has_all_there_is():
    outbox, journal = sliced(), []
    loop = outbox._loop
    clients = [Client(journal=journal) for _ in range(100)]
    group = make_group(outbox, clients)
    outbox.publish(group, b"1")
    loop.turn()
    assert len(journal) == 10
    done = [transport for transport, _ in journal]
    early = next(client for client in clients if client.transport is done[0])
    late, leaver, stranger = [client for client in clients if client.transport not in done][:3]
    joiner = Client(journal=journal)
    outbox.join(joiner, group)
    outbox.publish(group, b"2")
    outbox.send(late, b"3")
    outbox.leave(leaver, group)
    outbox.leave(stranger, group)
    outbox.publish(group, b"4")
    outbox.leave(early, group)
    loop.turn()
    assert (late.transport, b"1234") in journal[10:30], "small sends go between the slices"
    assert loop.drain() >= 9
    assert late.received == b"1234"
    assert leaver.received == stranger.received == b"12"
    assert early.received == b"124"
    assert joiner.received == b"24"
    others = [each for each in clients if each not in (early, late, leaver, stranger)]
    assert {each.received for each in others} == {b"124"}
    assert sum(len(each.transport.writes) == 2 for each in others) == 9, "of those who had been written to"
    assert not group.frames
    assert not outbox._many
    assert not any(each.flags for each in clients)


def test_what_is_published_to_a_group_of_thousands_touches_no_member():
    outbox = sliced()
    clients = [Client() for _ in range(1000)]
    group = make_group(outbox, clients)
    before = [(each.flags, each.queued, each.seen) for each in clients]
    assert outbox.publish(group, b"x") == 1000
    assert [(each.flags, each.queued, each.seen) for each in clients] == before


def test_a_blocked_member_is_held_back_and_gets_all_when_it_reads(loop, outbox):
    client, other = Client(), Client()
    group = make_group(outbox, [client, other])
    outbox.publish(group, b"1")
    outbox.block(client)
    assert outbox.publish(group, b"2") == 2
    loop.drain()
    assert (client.received, other.received) == (b"", b"12")
    outbox.unblock(client)
    outbox.publish(group, b"3")
    loop.drain()
    assert client.received == b"123"
    assert client.is_clean
    assert not outbox._blocked


def test_a_blocked_client_that_joins_and_leaves_is_held_back_too(loop, outbox):
    client, group = Client(), Group()
    outbox.block(client)
    outbox.join(client, group)
    outbox.publish(group, b"1")
    loop.drain()
    assert client.queued == 1
    outbox.leave(client, group)
    outbox.publish(group, b"2")
    outbox.unblock(client)
    loop.drain()
    assert client.received == b"1"


def test_a_member_that_is_about_to_be_closed_is_not_counted(loop, outbox, counters):
    slow, other = Client(), Client()
    group = make_group(outbox, [slow, other])
    outbox.block(slow)
    assert outbox.publish(group, b"12345678") == 2
    outbox.pressure.give_up(slow)
    assert outbox.publish(group, b"abc") == 1
    assert outbox.publish(group, b"def") == 1
    loop.drain()
    assert slow.closed == (1013, "too slow", [])
    assert other.received == b"12345678abcdef"
    assert counters == {"slow_consumer_closed": 1}


def test_a_member_that_is_too_slow_may_miss_messages_instead(loop, counters):
    outbox = Outbox(loop, policy="drop", counters=counters)
    slow, other = Client(limit=10), Client(limit=10)
    group = make_group(outbox, [slow, other])
    outbox.block(slow)
    assert [outbox.publish(group, frame) for frame in (b"12345678", b"90a")] == [2, 2]
    outbox.pressure.give_up(slow)
    assert [outbox.publish(group, frame) for frame in (b"b", b"c")] == [1, 1]
    outbox.unblock(slow)
    loop.drain()
    assert slow.received == b"1234567890a"
    assert other.received == b"1234567890abc"
    assert counters == {"slow_consumer_dropped": 2}
    assert outbox.publish(group, b"it has caught up") == 2


def test_a_member_that_blocks_while_it_is_written_to_keeps_the_rest_up_to_its_limit(loop, outbox):
    client = Client(limit=1 << 20)
    group = make_group(outbox, [client])
    client.transport.after_write = lambda: outbox.block(client)
    frames = [bytes([n]) * 50_000 for n in range(10)]
    for frame in frames:
        assert outbox.publish(group, frame) == 1
    loop.drain()
    assert client.transport.writes == [b"".join(frames[:2])]
    assert client.queued == 400_000
    while client.out:
        outbox.unblock(client)
        loop.drain()
    assert client.received == b"".join(frames)


@pytest.mark.parametrize("break_it", [break_by_closing, break_by_error, break_by_leaving])
@pytest.mark.parametrize("size", [3, 100])
def test_a_dead_member_harms_nobody_else(loop, outbox, break_it, size):
    clients = [Client() for _ in range(size)]
    group = make_group(outbox, clients)
    outbox.publish(group, b"x")
    break_it(clients[1])
    if size == 3:
        clients[1].on_abort = lambda: outbox.leave(clients[1], group)
    loop.drain()
    assert [client.received for client in clients if client is not clients[1]] == [b"x"] * (size - 1)
    assert clients[1].is_clean


def test_a_closed_member_gets_nothing(loop, outbox):
    clients = [Client(), Client()]
    group = make_group(outbox, clients)
    outbox.publish(group, b"x")
    clients[0].flags |= CLOSED
    outbox.catch_up(clients[0])
    loop.drain()
    assert [client.received for client in clients] == [b"", b"x"]
    assert clients[0].is_clean


def test_those_in_the_same_groups_share_what_says_so(outbox):
    everybody = Group()
    clients = [Client() for _ in range(3)]
    for client in clients:
        outbox.join(client, everybody)
    room = make_group(outbox, clients)
    assert clients[0].groups == (everybody, room)
    assert len({id(client.groups) for client in clients}) == 1
    for client in clients:
        outbox.leave(client, room)
    assert not room.shared, "nothing of it refers to itself"


class NotGoneThrough(dict[Group, None]):
    """What costs as much as there is in it is not done."""

    def __iter__(self):
        raise AssertionError

    keys = values = items = __iter__


def in_many_groups(outbox, client, count=1000):
    rooms = [make_group(outbox, [client]) for _ in range(count)]
    client.groups = NotGoneThrough(client.groups)
    return rooms


def test_the_thousandth_group_costs_what_the_first_does(loop, outbox):
    client, other = Client(), Client()
    rooms = in_many_groups(outbox, client)
    assert sum(len(room.shared) for room in rooms) <= FEW * FEW, "no group knows of all others"
    outbox.join(other, rooms[3])
    outbox.publish(rooms[700], b"1")
    outbox.publish(rooms[3], b"2")
    outbox.send(client, b"3")
    outbox.publish(rooms[701], b"4")
    outbox.join(client, Group())
    outbox.publish(rooms[702], b"5")
    loop.drain()
    assert (client.received, other.received) == (b"12345", b"2")
    outbox.leave(client, rooms[3])
    outbox.publish(rooms[3], b"6")
    outbox.publish(rooms[4], b"7")
    loop.drain()
    assert (client.received, other.received) == (b"123457", b"26")


def test_who_is_in_many_groups_is_blocked_and_unblocked_at_no_cost(loop, outbox):
    client = Client()
    rooms = in_many_groups(outbox, client)
    outbox.block(client)
    assert outbox.publish(rooms[1], b"1") == 1
    assert outbox.publish(rooms[999], b"2") == 1
    outbox.unblock(client)
    outbox.publish(rooms[500], b"3")
    loop.drain()
    assert client.received == b"123"


@pytest.mark.parametrize("size", [1, 70])
def test_who_blocks_while_others_groups_are_gone_around_misses_nothing(loop, outbox, size):
    client = Client(limit=1 << 20)
    rooms = [make_group(outbox, [client, *(Client() for _ in range(size))]) for _ in range(20)]
    client.transport.after_write = lambda: outbox.block(client)
    for number, room in enumerate(rooms):
        outbox.publish(room, bytes([number]) * 20_000)
    loop.drain()
    assert client.queued == 20 * 20_000 - len(client.received) > 0
    client.transport.after_write = None
    outbox.unblock(client)
    loop.drain()
    assert client.received == b"".join(bytes([number]) * 20_000 for number in range(20))


@pytest.mark.parametrize("count", [3, FEW + 1, 100])
def test_who_leaves_all_groups_is_in_none(loop, outbox, count):
    client, other = Client(), Client()
    rooms = [make_group(outbox, [client, other]) for _ in range(count)]
    outbox.block(client)
    client.flags |= CLOSED
    assert list(outbox.leave_all(client)) == rooms
    outbox.block(client)
    assert client.groups == ()
    assert not outbox._blocked
    assert [room.members for room in rooms] == [{other}] * count
    for room in rooms[2:]:
        outbox.leave(other, room)
    assert other.groups == (rooms[0], rooms[1]), "one tuple again"
    for room in rooms:
        outbox.publish(room, b"x")
    loop.drain()
    assert (client.received, other.received) == (b"", b"xx")


# ---- encodings


def encode(frame, encoding):
    return b"<%d %b>" % (encoding, frame)


def test_a_group_makes_each_encoding_once_when_its_first_member_needs_it(loop):
    made = []

    def noting(frame, encoding):
        made.append((frame, encoding))
        return encode(frame, encoding)

    outbox = Outbox(loop, encode=noting)
    clients = [Client() for _ in range(90)]
    for index, client in enumerate(clients):
        client.encoding = (0, 9, 15)[index % 3]
    group = make_group(outbox, clients)
    for frame in (b"1", b"2"):
        assert outbox.publish(group, frame) == 90
    assert not made and not any(client.out for client in clients)
    loop.drain()
    assert sorted(made) == [(b"1", 9), (b"1", 15), (b"2", 9), (b"2", 15)]
    for encoding, expected in ((0, b"12"), (9, b"<9 1><9 2>"), (15, b"<15 1><15 2>")):
        writes = [client.transport.writes for client in clients if client.encoding == encoding]
        assert writes == [[expected]] * 30
        assert len({id(data) for (data,) in writes}) == 1, "all of them share the bytes"
    assert not group._encoded


def test_an_encoding_that_nobody_takes_is_not_made(loop):
    outbox = Outbox(loop, encode=lambda *_: pytest.fail("nobody needs it"))
    clients = [Client() for _ in range(3)]
    group = make_group(outbox, clients)
    assert outbox.publish(group, b"x") == 3
    loop.drain()
    assert [client.received for client in clients] == [b"x"] * 3


def test_who_is_blocked_or_has_something_else_to_get_sees_its_encoding_in_order(loop):
    outbox = Outbox(loop, encode=encode)
    blocked, busy = Client(), Client()
    blocked.encoding = busy.encoding = 7
    one, other = make_group(outbox, [blocked, busy]), make_group(outbox, [blocked, busy])
    outbox.block(blocked)
    outbox.publish(one, b"1")
    outbox.publish(other, b"2")
    outbox.send(busy, b"3")  # as it is: a pong, or what was encoded before
    outbox.publish(one, b"4")
    outbox.unblock(blocked)
    loop.drain()
    assert blocked.received == b"<7 1><7 2><7 4>"
    assert busy.received == b"<7 1><7 2>3<7 4>"


# ---- all of it


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 69)),
        st.tuples(st.just("some"), st.sets(st.integers(0, 69), max_size=10)),
        st.tuples(st.just("all"), st.none()),
        st.tuples(st.sampled_from(["publish", "join", "leave"]), st.integers(0, 2 + FEW), st.integers(0, 69)),
        st.tuples(st.just("block"), st.integers(0, 69)),
        st.tuples(st.just("unblock"), st.integers(0, 69)),
        st.tuples(st.just("turn"), st.none()),
    ),
    max_size=40,
)


@given(steps)
def test_whatever_happens_each_client_gets_its_frames_in_order(steps):
    loop = Loop()
    made = Counter()

    def encode(frame, encoding):
        made[frame, encoding] += 1
        return b"%d:%b" % (encoding, frame)

    outbox = Outbox(loop, slice_seconds=0.0001, clock=lambda: 0.0, encode=encode)
    clients = [Client(limit=1 << 20) for _ in range(70)]
    for index, client in enumerate(clients):
        client.encoding = index % 3  # plain, and two others
    expected = [b""] * 70
    published = set()
    groups = [Group() for _ in range(3 + FEW)]  # of everybody, of some, of hardly anybody, of a few that are in many
    for index, client in enumerate(clients):
        outbox.join(client, groups[0])
        if index % 10 == 0:
            outbox.join(client, groups[1])
        if index % 20 == 0:
            for group in groups[3:]:
                outbox.join(client, group)
    for number, (what, whom, *more) in enumerate(steps):
        frame = b"%d;" % number
        if what == "turn":
            loop.turn()
            continue
        if what in ("block", "unblock"):
            getattr(outbox, what)(clients[whom])
            continue
        if what in ("join", "leave"):
            client, group = clients[more[0]], groups[whom]
            if (group in client.groups) == (what == "leave"):
                getattr(outbox, what)(client, group)
            continue
        if what == "publish":
            indexes = [index for index, client in enumerate(clients) if groups[whom] in client.groups]
            assert outbox.publish(groups[whom], frame) == len(indexes)
            published.add(frame)
        elif what == "send":
            indexes = [whom]
            outbox.send(clients[whom], frame)
        else:
            indexes = list(range(70)) if what == "all" else sorted(whom)
            outbox.fan_out([clients[index] for index in indexes], frame)
        for index in indexes:
            encoding = clients[index].encoding if what == "publish" else 0
            expected[index] += b"%d:%b" % (encoding, frame) if encoding else frame
    for client in clients:
        outbox.unblock(client)
    loop.drain()
    assert [client.received for client in clients] == expected
    assert all(client.is_clean and not client.flags for client in clients)
    assert not any(group.frames or group._encoded or group._parts for group in groups)
    assert {frame for frame, _ in made} <= published and set(made.values()) <= {1}, "once for each encoding"
    assert not outbox._blocked
    assert not outbox._few
    assert not outbox._many
