"""Compression: RFC 7692, with every offer that a client may make, and messages of every size."""

import json

import pytest

from tests.broker.ws.support import BINARY, CONT, PING, PONG, TEXT, frame
from tests.conformance.support import cut, deflated, fragments, inflated

OFFERS = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; client_no_context_takeover; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9; client_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=15; client_max_window_bits=15",
    "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
    "permessage-deflate; server_no_context_takeover; server_max_window_bits=15",
    "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=12, permessage-deflate",
]
SIZES = [16, 64, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072]
JSON = json.dumps([{"number": n, "name": f"item {n * 7919 % 1000}", "tags": ["a", "b"][: n % 3]} for n in range(6000)])
assert len(JSON) > 2 * SIZES[-1]


def window_of(peer):
    line = next(line for line in peer.answer.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Extensions: "))
    assert b"; server_no_context_takeover; client_no_context_takeover" in line
    return int(line.partition(b"server_max_window_bits=")[2] or b"15")


def check(peer, wbits, opcode, message):
    """Check that the next message is this one, compressed when it is long enough, within its window."""
    got_opcode, payload, rsv = peer.any_frame()
    assert got_opcode == opcode
    if len(message) < 64:
        assert (rsv, payload) == (0, message)
    else:
        assert rsv == 4
        assert len(payload) < len(message)
        assert inflated(payload, wbits) == message


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_of_every_size_come_back(connect, offer, opcode):
    with connect(offer) as peer:
        wbits = window_of(peer)
        for size in SIZES:
            for start in (0, 1000, size // 2):
                message = JSON[start : start + size].encode()
                peer.send(frame(opcode, deflated(message, wbits=9 if start else 15), rsv=4))
                check(peer, wbits, opcode, message)
        peer.closes()


@pytest.mark.parametrize("offer", OFFERS[::4])
@pytest.mark.parametrize(
    ("size", "part"), [(8192, 256), (16_384, 256), (131_072, 256), (131_072, 1024), (131_072, 32_768)]
)
def test_messages_may_come_in_parts(connect, offer, size, part):
    with connect(offer) as peer:
        wbits = window_of(peer)
        message = JSON[:size].encode()
        for _ in range(3):
            parts = fragments(TEXT, *cut(deflated(message), part), rsv=4)
            peer.send(parts[0] + frame(PING, b"between") + b"".join(parts[1:]))
            peer.gets((PONG, b"between"))
            check(peer, wbits, TEXT, message)
        peer.closes()


def test_many_messages_come_back_in_order(connect):
    with connect(OFFERS[1]) as peer:
        messages = [b"%d " % n + JSON[n : n + n * 3].encode() for n in range(300)]
        peer.send(b"".join(
            frame(TEXT, deflated(each), rsv=4) if n % 3 else frame(TEXT, each) for n, each in enumerate(messages)
        ))  # fmt: skip
        for each in messages:
            check(peer, 15, TEXT, each)
        peer.closes()


@pytest.mark.parametrize("level", range(10))
def test_it_does_not_matter_how_hard_the_client_compresses(connect, level):
    with connect(OFFERS[0]) as peer:
        message = JSON[:20_000].encode()
        peer.send(frame(TEXT, deflated(message, level=level), rsv=4))
        check(peer, 15, TEXT, message)
        peer.closes()


@pytest.mark.parametrize(
    "offer", [None, "permessage-deflate; server_max_window_bits=8", "permessage-deflate; x", "foo"]
)
def test_without_an_agreement_the_bit_is_an_error_and_nothing_is_compressed(connect, offer):
    with connect(offer) as peer:
        assert b"Extensions" not in peer.answer
        peer.send(frame(TEXT, JSON[:1000]))
        peer.gets((TEXT, JSON[:1000].encode()))
        peer.send(frame(TEXT, deflated(b"Hello"), rsv=4))
        peer.is_closed_with(1002)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(TEXT, deflated(b"Hello"), fin=False, rsv=4) + frame(CONT, b"\x00", rsv=4), 1002),
        (frame(PING, deflated(b"Hello"), rsv=4), 1002),
        (frame(PONG, deflated(b"Hello"), rsv=4), 1002),
        (frame(8, b"\x03\xe8", rsv=4), 1002),
        (frame(TEXT, deflated(b"Hello"), rsv=6), 1002),
        (frame(TEXT, deflated(b"Hello"), rsv=5), 1002),
        (frame(CONT, deflated(b"Hello"), rsv=4), 1002),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, deflated(b"Hello"), rsv=4), 1002),
        (frame(TEXT, b"no DEFLATE", rsv=4), 1007),
        (frame(TEXT, deflated(JSON.encode())[:-5], rsv=4), 1007),
        (frame(TEXT, deflated(b"\xce\xba\xe1"), rsv=4), 1007),
        (frame(TEXT, deflated(b"\xff") + b"\x00\x00\xff\xff", rsv=4, fin=False), 1007),
        (frame(BINARY, deflated(bytes(4_194_305)), rsv=4), 1009),
        (frame(BINARY, deflated(bytes(64_000_000)), rsv=4), 1009),
    ],
)
def test_what_must_not_be_ends_the_connection(connect, neighbour, stream, code):
    with connect(OFFERS[1]) as peer:
        peer.send(stream + frame(PING))
        peer.is_closed_with(code)
    neighbour.is_alive()


def test_a_message_may_have_its_limit(connect):
    with connect(OFFERS[1]) as peer:
        peer.send(frame(BINARY, deflated(bytes(4_194_304)), rsv=4))
        check(peer, 15, BINARY, bytes(4_194_304))
        peer.closes()
