"""Frames of every size, pings and pongs, messages in parts: RFC 6455, sections 5.2, 5.4, 5.5.2 and 5.5.3."""

import itertools

import pytest

from tests.broker.ws.support import BINARY, CONT, PING, PONG, TEXT, frame
from tests.conformance.support import FRAMES, OCTETS, WAYS, WHOLE, cut, fragments

SIZES = [0, 1, 125, 126, 127, 128, 65535, 65536]
PATTERN = bytes(range(32, 127)) * 50_000


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", SIZES)
def test_a_message_of_any_size_comes_back(peer, opcode, size):
    peer.send(frame(opcode, PATTERN[:size]))
    peer.gets((opcode, PATTERN[:size]))
    peer.closes()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 1000])
def test_a_frame_may_come_octet_by_octet(peer, opcode, size):
    peer.send_as(OCTETS, frame(opcode, PATTERN[:size]))
    peer.gets((opcode, PATTERN[:size]))
    peer.closes()


@pytest.mark.parametrize("chop", [997, 16_384])
def test_a_big_frame_may_come_in_segments(peer, chop):
    for part in cut(frame(BINARY, PATTERN[:65536]), chop):
        peer.send(part)
    peer.gets((BINARY, PATTERN[:65536]))
    peer.closes()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [262_144, 1_048_576, 4_194_304])
def test_a_big_message_comes_back(peer, opcode, size):
    peer.send(frame(opcode, PATTERN[:size]))
    peer.gets((opcode, PATTERN[:size]))


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(
    ("size", "part"), [(65_536, 64), (65_536, 256), (262_144, 1024), (1_048_576, 65_536), (4_194_304, 262_144)]
)
def test_a_message_may_have_many_parts(peer, opcode, size, part):
    peer.send(b"".join(fragments(opcode, *cut(PATTERN[:size], part))))
    peer.gets((opcode, PATTERN[:size]))


def test_what_a_library_fragments_by_itself_comes_back_whole(peer):
    peer.send_as(FRAMES, *fragments(TEXT, *cut(PATTERN[:65536], 1300)))
    peer.gets((TEXT, PATTERN[:65536]))
    peer.closes()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 16, 256, 4096])
def test_many_messages_come_back_in_order(peer, opcode, size):
    messages = [b"%d " % n + PATTERN[:size] for n in range(300)]
    peer.send(b"".join(frame(opcode, each) for each in messages))
    peer.gets(*((opcode, each) for each in messages))


# Pings and pongs.


@pytest.mark.parametrize("way", [WHOLE, OCTETS])
@pytest.mark.parametrize(
    "payload", [b"", b"Hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", *(b"\xfe" * n for n in (1, 124, 125))]
)
def test_a_ping_is_answered_with_what_it_carried(peer, payload, way):
    peer.send_as(way, frame(PING, payload))
    peer.gets((PONG, payload))
    peer.closes()


def test_a_ping_of_every_size_is_answered(peer):
    peer.send(b"".join(frame(PING, PATTERN[:size]) for size in range(126)))
    peer.gets(*((PONG, PATTERN[:size]) for size in range(126)))


@pytest.mark.parametrize("size", [126, 127, 128, 65536])
@pytest.mark.parametrize("opcode", [PING, PONG])
def test_a_ping_that_is_too_long_is_refused(peer, opcode, size):
    peer.send(frame(opcode, PATTERN[:size]))
    peer.is_closed_with(1002)


@pytest.mark.parametrize("payload", [b"", b"unasked for"])
def test_a_pong_that_nobody_asked_for_is_ignored(peer, payload):
    peer.send(frame(PONG, payload) + frame(PING, b"asked") + frame(PONG, payload))
    peer.gets((PONG, b"asked"))
    peer.is_alive()


@pytest.mark.parametrize("way", WAYS)
def test_ten_pings_have_ten_pongs_in_order(peer, way):
    peer.send_as(way, *(frame(PING, b"payload-%d" % n) for n in range(10)))
    peer.gets(*((PONG, b"payload-%d" % n) for n in range(10)))
    peer.closes()


# Fragments.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_two_parts_are_one_message(peer, opcode, way):
    peer.send_as(way, *fragments(opcode, b"fragment1", b"fragment2"))
    peer.gets((opcode, b"fragment1fragment2"))
    peer.closes()


@pytest.mark.parametrize("way", WAYS)
def test_a_ping_between_parts_is_answered_before_the_message(peer, way):
    first, second = fragments(TEXT, b"fragment1", b"fragment2")
    peer.send_as(way, first, frame(PING, b"between"))
    peer.gets((PONG, b"between"))
    peer.send_as(way, second)
    peer.gets((TEXT, b"fragment1fragment2"))
    peer.closes()


@pytest.mark.parametrize("way", WAYS)
def test_pings_may_come_between_any_parts(peer, way):
    parts = fragments(TEXT, *(b"fragment%d" % n for n in range(5)))
    pings = [frame(PING, b"%d" % n) for n in range(4)]
    peer.send_as(way, *itertools.chain.from_iterable(zip(parts, pings, strict=False)), parts[4])
    peer.gets(*((PONG, b"%d" % n) for n in range(4)), (TEXT, b"".join(b"fragment%d" % n for n in range(5))))
    peer.closes()


@pytest.mark.parametrize("parts", [[b"", b""], [b"", b"", b""], [b"", b"middle", b""], [b"start", b""], [b"", b"end"]])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_parts_may_be_empty(peer, opcode, parts):
    peer.send(b"".join(fragments(opcode, *parts)))
    peer.gets((opcode, b"".join(parts)))
    peer.closes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "frames",
    [
        [frame(PING, b"f1", fin=False), frame(CONT, b"f2")],
        [frame(PONG, b"f1", fin=False), frame(CONT, b"f2")],
        [frame(CONT, b"nothing to continue"), frame(TEXT, "good")],
        [frame(CONT, b"nothing to continue", fin=False), frame(TEXT, "good")],
        [*fragments(TEXT, b"fragment1", b"fragment2"), frame(CONT, b"over", fin=False), frame(TEXT, "good")],
        [frame(CONT, b"1", fin=False), *fragments(TEXT, b"2", b"3"), frame(CONT, b"4", fin=False)],
        [frame(CONT, b"1"), *fragments(TEXT, b"2", b"3"), frame(CONT, b"4")],
        [frame(TEXT, b"fragment1", fin=False), frame(TEXT, b"fragment2")],
        [frame(TEXT, b"fragment1", fin=False), frame(BINARY, b"fragment2", fin=False), frame(CONT, b"3")],
        [frame(BINARY, b"fragment1", fin=False), frame(PING), frame(BINARY, b"fragment2", fin=False)],
    ],
)
def test_parts_in_a_wrong_order_are_refused(peer, frames, way):
    peer.send_as(way, *frames)
    frames, code = peer.closing()
    assert code == 1002
    assert frames in ([], [(TEXT, b"fragment1fragment2")], [(PONG, b"")])
