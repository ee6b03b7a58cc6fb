"""Reserved bits and opcodes, masks, lengths: RFC 6455, sections 5.1 and 5.2."""

import pytest

from tests.broker.ws.support import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame
from tests.conformance.support import OCTETS, WAYS, WHOLE

OPCODES = [CONT, TEXT, BINARY, CLOSE, PING, PONG]
RESERVED = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", OPCODES)
def test_a_reserved_bit_ends_the_connection(peer, opcode, rsv):
    peer.is_alive()
    if opcode == CONT:
        peer.send(frame(TEXT, "part", fin=False))
    payload = b"\x03\xe8" if opcode == CLOSE else b"payload"
    peer.send(frame(opcode, payload, rsv=rsv) + frame(PING))
    peer.is_closed_with(1002)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rsv", range(1, 8))
def test_a_reserved_bit_between_good_messages_lets_nothing_after_it_pass(peer, rsv, way):
    peer.send_as(way, frame(TEXT, "before"), frame(TEXT, "bad", rsv=rsv), frame(PING, b"after"), frame(TEXT, "after"))
    peer.is_closed_with(1002, maybe=[(TEXT, b"before")])


@pytest.mark.parametrize("payload", [b"", b"payload", b"x" * 200])
@pytest.mark.parametrize("opcode", RESERVED)
def test_a_reserved_opcode_ends_the_connection(peer, opcode, payload):
    peer.is_alive()
    peer.send(frame(opcode, payload) + frame(PING))
    peer.is_closed_with(1002)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("opcode", RESERVED)
def test_a_reserved_opcode_between_good_messages_lets_nothing_after_it_pass(peer, opcode, way):
    peer.send_as(way, frame(TEXT, "before"), frame(opcode, b"bad"), frame(PING, b"after"), frame(TEXT, "after"))
    peer.is_closed_with(1002, maybe=[(TEXT, b"before")])


@pytest.mark.parametrize("opcode", RESERVED)
def test_a_reserved_opcode_within_a_message_ends_the_connection(peer, opcode):
    peer.send(frame(TEXT, "part", fin=False) + frame(opcode, b"bad") + frame(CONT, "part"))
    peer.is_closed_with(1002)


@pytest.mark.parametrize("way", [WHOLE, OCTETS])
@pytest.mark.parametrize("opcode", OPCODES)
def test_a_frame_without_a_mask_ends_the_connection(peer, opcode, way):
    peer.send_as(way, frame(opcode, b"", mask=False))
    peer.is_closed_with(1002)


@pytest.mark.parametrize(
    "head",
    [b"\x81\xfe\x00\x05", b"\x82\xfe\x00\x7d", b"\x81\xff" + (65535).to_bytes(8, "big"), b"\x81\xff\x80" + bytes(7)],
    ids=["16 bits for 5", "16 bits for 125", "64 bits for 65535", "64 bits with the first one set"],
)
def test_a_length_in_more_bits_than_it_needs_ends_the_connection(peer, head):
    peer.send(head + bytes(4))
    peer.is_closed_with(1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [4_194_305, 1 << 40, (1 << 63) - 1])
def test_a_length_above_the_limit_ends_the_connection_before_it_comes(peer, opcode, size):
    peer.send(bytes([0x80 | opcode, 0xFF]) + size.to_bytes(8, "big") + bytes(4))
    peer.is_closed_with(1009)
