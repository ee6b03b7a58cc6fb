"""Groups in which some take frames with numbers: each member gets its own frames, in order, whatever happens."""

import random

import pytest

from pystrands.broker.fanout.groups import CLOSED, NUMBERED, Group
from pystrands.broker.fanout.outbox import Outbox

from .test_outbox import Client, Loop

BITS = 9


def encode(frame, encoding):
    """Stand in for a compressor."""
    return b"<%d:%b>" % (encoding, frame)


def seen_by(client, number, *, numbered):
    """Return the frame that a client gets."""
    frame = b"[n%d]" % number if client.encoding >= NUMBERED and numbered else b"[p%d]" % number
    bits = client.encoding % NUMBERED
    return encode(frame, bits) if bits else frame


@pytest.mark.parametrize("seed", range(40))
def test_each_member_gets_its_own_frames_in_order(seed):
    chance = random.Random(seed)
    loop = Loop()
    outbox = Outbox(loop, encode=encode, limit=1 << 20)
    groups = [Group("a"), Group("b"), Group("c")]
    clients = []
    for encoding in (0, 0, BITS, NUMBERED, NUMBERED, NUMBERED + BITS):
        client = Client(1 << 20)
        client.encoding = encoding
        clients.append(client)
    expected = {client: [] for client in clients}
    for number in range(300):
        client, group = chance.choice(clients), chance.choice(groups)
        what = chance.random()
        if what < 0.15 and client not in group.members:
            outbox.join(client, group)
        elif what < 0.25 and client in group.members:
            outbox.leave(client, group)
        elif what < 0.3:
            outbox.block(client)
        elif what < 0.4:
            outbox.unblock(client)
        elif what < 0.5:
            loop.drain()
        elif what < 0.6:
            outbox.send(client, b"(own)")
            expected[client].append(b"(own)")
        else:
            numbered = any(each.encoding >= NUMBERED for each in group.members)
            frame, with_number = b"[p%d]" % number, b"[n%d]" % number if numbered else None
            members = {each for each in clients if each in group.members}
            if what < 0.9:
                outbox.publish(group, frame, with_number)
            else:
                members.discard(client)
                for some, encoded in outbox.alike(members, frame, with_number):
                    outbox.fan_out(some, encoded, group)
            for each in members:
                expected[each].append(seen_by(each, number, numbered=numbered))
    for client in clients:
        outbox.unblock(client)
    loop.drain()
    for client in clients:
        assert client.received == b"".join(expected[client])
    assert all(group.numbered is None and not group.frames for group in groups)


def test_who_is_suspended_stays_a_member_and_who_replaces_it_gets_what_comes_then():
    loop = Loop()
    outbox = Outbox(loop)
    group = Group("a")
    old, new = Client(), Client()
    old.encoding = new.encoding = NUMBERED
    outbox.join(old, group)
    outbox.publish(group, b"p1", b"n1")
    loop.drain()
    old.flags |= CLOSED
    outbox.suspend(old)
    assert outbox.publish(group, b"p2", b"n2") == 1
    loop.drain()
    outbox.publish(group, b"p3", b"n3")
    outbox.replace(old, new)
    outbox.publish(group, b"p4", b"n4")
    loop.drain()
    assert (old.received, new.received) == (b"n1", b"n4")
    assert group.members == {new}
    assert old.groups == ()
    assert new.groups == (group,)
