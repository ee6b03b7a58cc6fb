import asyncio
import random
import zlib
from collections import Counter

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from pystrands.broker.fanout.groups import Group
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.ws.compressed import CompressedWebSocket
from pystrands.broker.ws.deflate import Compressor
from pystrands.broker.ws.frames import binary_frame, close_frame, payload_of, text_frame
from pystrands.broker.ws.reading import ReadShared
from pystrands.broker.ws.websocket import WebSocket, WebSocketShared
from tests.broker.ws.recording import FakeLoop, FakeTransport, Recorder, Stepping, feed
from tests.broker.ws.support import (
    BINARY,
    CLOSE,
    CONT,
    KINDS,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    Echo,
    Front,
    close,
    frame,
    upgrade,
)

LIMIT = 100_000
THRESHOLD = 100
OFFER = "permessage-deflate; client_max_window_bits"
LONG = "The quick brown fox jumps over the lazy dog. " * 20
NOISE = random.Random(7).randbytes(LIMIT)


def deflated(data, wbits=15):
    deflate = zlib.compressobj(6, zlib.DEFLATED, -wbits)
    return (deflate.compress(data.encode() if isinstance(data, str) else data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(data, wbits=15):
    return zlib.decompressobj(-wbits).decompress(data + b"\x00\x00\xff\xff")


class CompressedEcho(Echo):
    """A receiver that sends everything back, compressed if it can be."""

    def client_message(self, ws, message):
        self.messages.put(message)
        plain = text_frame(message) if isinstance(message, str) else binary_frame(message)
        outbox = ws._shared.outbox
        outbox.encode = Compressor(6, THRESHOLD, Counter()).compress
        outbox.send(ws, outbox.encoded(ws, plain))


def compressing_front(kind="uvloop", **settings):
    return Front(kind, receiver=CompressedEcho(), compression=True, max_message_size=LIMIT, **settings)


@pytest.fixture(scope="module")
def echo():
    with compressing_front() as front:
        yield front


@pytest.fixture
def client(echo):
    with echo.connect(extensions=OFFER) as client:
        yield client
    echo.until(lambda: echo.receiver.count >= echo.decider.count)
    for waiting in (echo.receiver.closed, echo.receiver.messages, echo.decider.websockets):
        while not waiting.empty():
            waiting.get()


# The handshake.


def test_what_was_agreed_is_in_the_answer(client):
    line = b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
    assert line in client.answer


def test_who_offers_nothing_is_not_compressed_for(echo):
    with echo.connect() as client:
        assert b"Extensions" not in client.answer
        client.send_frame(TEXT, LONG)
        assert client.frame() == (TEXT, LONG.encode())
        client.send_frame(TEXT, deflated("x"), rsv=4)
        assert client.closing() == ([], 1002)


def test_an_offer_is_passed_over_while_compression_is_off():
    with Front() as front, front.connect(extensions=[OFFER, "malformed;;"]) as client:
        assert b"Extensions" not in client.answer
        client.send_frame(TEXT, LONG)
        assert client.frame() == (TEXT, LONG.encode())
        client.send_frame(TEXT, deflated("x"), rsv=4)
        assert client.closing() == ([], 1002)


def test_a_malformed_offer_is_a_bad_request():
    with compressing_front() as front, front.raw() as client:
        client.send(upgrade(sec_websocket_extensions="permessage-deflate;;"))
        assert client.to_end().startswith(b"HTTP/1.1 400 ")
        assert front.counters["handshake_bad_request"] == 1


# Messages.


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 99, 100, 125, 126, 65536, LIMIT])
def test_a_message_is_inflated_and_a_long_one_comes_back_compressed(client, opcode, size):
    payload = (LONG.encode() * (size // len(LONG) + 1))[:size]
    for data, rsv in ((payload, 0), (deflated(payload), 4)):
        client.send_frame(opcode, data, rsv=rsv)
        got_opcode, got, got_rsv = client.any_frame()
        assert got_opcode == opcode
        if size < THRESHOLD:
            assert (got, got_rsv) == (payload, 0)
        else:
            assert got_rsv == 4
            assert len(got) < size
            assert inflated(got) == payload


def test_text_is_str_and_binary_is_bytes(echo, client):
    client.send(frame(TEXT, deflated("k\u00f6\u20ac"), rsv=4) + frame(BINARY, deflated(b"\xff\x00"), rsv=4))
    assert echo.receiver.messages.get(timeout=PATIENCE) == "k\u00f6\u20ac"
    assert echo.receiver.messages.get(timeout=PATIENCE) == b"\xff\x00"


def test_compressed_and_plain_messages_come_in_order(client):
    sent = [LONG + str(n) if n % 3 == 0 else str(n) for n in range(300)]
    client.send(b"".join(frame(TEXT, deflated(m), rsv=4) if n % 2 else frame(TEXT, m) for n, m in enumerate(sent)))
    got = []
    for _ in sent:
        _, payload, rsv = client.any_frame()
        got.append((inflated(payload) if rsv else payload).decode())
    assert got == sent


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_compressed_message_may_come_in_fragments_with_pings_between(client, size):
    data = deflated(LONG)
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        client.send(frame(CONT if index else TEXT, part, fin=last, rsv=0 if index else 4))
        client.send(frame(PING, str(index)) if not last else b"")
    assert [client.frame() for _ in parts[1:]] == [(PONG, str(n).encode()) for n in range(len(parts) - 1)]
    opcode, payload, rsv = client.any_frame()
    assert (opcode, rsv, inflated(payload)) == (TEXT, 4, LONG.encode())


def test_it_may_come_octet_by_octet(client):
    for octet in frame(TEXT, deflated(LONG), rsv=4) + frame(PING, b"p") + close(1000):
        client.send(bytes([octet]))
    opcode, payload, rsv = client.any_frame()
    assert (opcode, rsv, inflated(payload)) == (TEXT, 4, LONG.encode())
    assert client.frames_to_end() == [(PONG, b"p"), (CLOSE, b"\x03\xe8")]


def test_pongs_and_close_frames_are_never_compressed(client):
    client.send(frame(PING, b"x" * 125) + close(1000, b"y" * 123))
    assert client.frames_to_end() == [(PONG, b"x" * 125), (CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("bits", range(9, 16))
def test_the_window_that_a_client_asks_for_is_kept(echo, bits):
    text = LONG + NOISE.hex()[:3000] + LONG + NOISE.hex()[:3000]
    with echo.connect(extensions=f"permessage-deflate; server_max_window_bits={bits}") as client:
        assert f"; server_max_window_bits={bits}\r\n".encode() in client.answer
        client.send_frame(TEXT, deflated(text), rsv=4)
        _, payload, rsv = client.any_frame()
        assert rsv == 4
        assert inflated(payload, bits) == text.encode()


# What the protocol forbids.

BAD_BITS = [
    *[(opcode, rsv) for opcode in (TEXT, BINARY) for rsv in (1, 2, 3, 5, 6, 7)],
    *[(opcode, rsv) for opcode in (CONT, CLOSE, PING, PONG) for rsv in range(1, 8)],
]


@pytest.mark.parametrize(("opcode", "rsv"), BAD_BITS)
def test_only_the_first_bit_of_the_first_frame_of_a_message_means_something(echo, client, opcode, rsv):
    client.send_frame(TEXT, "before")
    if opcode == CONT:
        client.send(frame(TEXT, b"", fin=False, rsv=4))
    client.send_frame(opcode, b"\x00" if opcode < CLOSE else b"", rsv=rsv)
    assert client.closing() == ([(TEXT, b"before")], 1002)


def test_a_compressed_message_inside_a_message_is_refused(client):
    client.send(frame(TEXT, "a", fin=False) + frame(TEXT, deflated("b"), rsv=4))
    assert client.closing() == ([], 1002)


@pytest.mark.parametrize(
    ("stream", "code", "counter"),
    [
        (frame(TEXT, b"\xff\xff", rsv=4), 1007, "bad_deflate"),
        (frame(TEXT, b"\x07", rsv=4, fin=False), 1007, "bad_deflate"),
        (frame(TEXT, deflated(LONG)[:-3], rsv=4), 1007, "bad_deflate"),
        (frame(TEXT, deflated(b"\xff"), rsv=4), 1007, "bad_utf8"),
        (frame(BINARY, deflated(b"x" * (LIMIT + 1)), rsv=4), 1009, "message_too_big"),
        (frame(TEXT, b"x" * (LIMIT + 1)), 1009, "message_too_big"),
        (frame(BINARY, b"x" * (LIMIT + 1)), 1009, "message_too_big"),
        (frame(BINARY, b"x" * (LIMIT + 1), fin=False), 1009, "message_too_big"),
        (frame(BINARY, b"x", fin=False) + frame(CONT, b"x" * LIMIT), 1009, "message_too_big"),
        (frame(BINARY, b"x" * (2 * LIMIT), rsv=4)[:14], 1009, "message_too_big"),
    ],
)
def test_a_bad_message_closes_with_its_code_and_is_counted(echo, client, stream, code, counter):
    before = echo.counters[counter]
    client.send(stream + (frame(TEXT, "after") if len(stream) > 14 else b""))
    assert client.closing() == ([], code)
    assert echo.closed()[0] == code
    assert echo.counters[counter] == before + 1
    assert echo.receiver.messages.empty()


def test_a_bomb_closes_its_sender_and_nobody_else(echo, client):
    with echo.connect(extensions=OFFER) as good:
        client.send_frame(BINARY, deflated(bytes(50_000_000)), rsv=4)
        assert client.closing() == ([], 1009)
        good.send_frame(TEXT, deflated("still here"), rsv=4)
        assert good.frame() == (TEXT, b"still here")


def test_noise_of_the_full_size_is_taken_though_it_gets_longer(client):
    data = deflated(NOISE)
    assert len(data) > LIMIT
    client.send_frame(BINARY, data, rsv=4)
    assert client.frame() == (BINARY, NOISE)  # plain: it would not be shorter
    client.send_frame(BINARY, NOISE)
    assert client.frame() == (BINARY, NOISE)


# Everybody gets it.


def make_websockets(loop, bits, compressor=None):
    outbox = Outbox(loop) if compressor is None else Outbox(loop, encode=compressor.compress)
    shared = WebSocketShared(loop=loop, receiver=Recorder(), outbox=outbox, reads=ReadShared(loop))
    made = []
    for each in bits:
        transport = FakeTransport()
        asyncio._set_running_loop(loop)
        try:
            ws = CompressedWebSocket(shared, transport, "", None, each) if each else WebSocket(shared, transport, "")
            ws.attach(b"")
        finally:
            asyncio._set_running_loop(None)
        made.append((ws, transport, each))
    return shared.outbox, made


def fan_out(outbox, recipients, plain):
    return sum(outbox.fan_out(some, encoded) for some, encoded in outbox.alike(recipients, plain))


def send(outbox, ws, plain):
    return outbox.send(ws, outbox.encoded(ws, plain))


def test_a_message_is_compressed_once_for_all_who_take_it_so():
    loop, counters = FakeLoop(), Counter()
    compressor = Compressor(6, THRESHOLD, counters)
    outbox, made = make_websockets(loop, [0, 15, 15, 9, 0, 15] * 30, compressor)
    everyone = [ws for ws, _, _ in made]
    plain = text_frame(LONG)
    assert fan_out(outbox, everyone, plain) == 180
    assert counters == {"messages_compressed": 2}
    queued = {bits: {id(ws.out[-1]) for ws, _, of in made if of == bits} for bits in (0, 9, 15)}
    assert [len(frames) for frames in queued.values()] == [1, 1, 1], "one frame for each kind of client"
    loop.run()
    for _, transport, bits in made:
        if bits:
            assert len(transport.written) < len(plain) // 4
            assert inflated(payload_of(transport.written), bits) == LONG.encode()
        else:
            assert transport.written == plain


def test_private_and_room_messages_keep_their_order():
    loop = FakeLoop()
    compressor = Compressor(6, THRESHOLD, Counter())
    outbox, made = make_websockets(loop, [15, 0] * 40, compressor)
    everyone = [ws for ws, _, _ in made]
    frames = [text_frame(str(n) + (LONG if n % 2 else "")) for n in range(8)]
    for number, each in enumerate(frames):
        if number % 3:
            assert fan_out(outbox, everyone, each) == 80
        else:
            for ws in everyone:
                assert send(outbox, ws, each)
    loop.run()
    expected = b"".join(compressor.compress(each, 15) for each in frames)
    for _, transport, bits in made:
        assert transport.written == (expected if bits else b"".join(frames))


def test_what_is_short_is_not_looked_at_twice():
    loop, counters = FakeLoop(), Counter()
    compressor = Compressor(6, THRESHOLD, counters)
    outbox, made = make_websockets(loop, [15, 0, 15], compressor)
    everyone = {ws for ws, _, _ in made}
    short = binary_frame(b"x" * 99)
    assert fan_out(outbox, everyone, short) == 3
    made[0][0].close()
    assert fan_out(outbox, everyone, text_frame(LONG)) == 2
    assert not send(outbox, made[0][0], text_frame(LONG))
    assert counters == {"messages_compressed": 1}
    assert made[1][0].out == [short, text_frame(LONG)]


# A peer that others wrote.


@pytest.mark.parametrize(
    "offer",
    [
        ClientPerMessageDeflateFactory(),
        ClientPerMessageDeflateFactory(client_max_window_bits=True),
        ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=9),
        ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_websockets_library_is_content(kind, offer):
    with compressing_front(kind) as front:
        # Its client for threads may read from TLS before it has sent its request, and then waits for ever.
        async with (
            connect(
                front.url("/"),
                extensions=[offer],
                compression=None,
                open_timeout=PATIENCE,
                max_size=None,
                ssl=front.tls,
            ) as peer,
            asyncio.timeout(PATIENCE),
        ):
            assert [extension.name for extension in peer.protocol.extensions] == ["permessage-deflate"]
            for message in ("", "short", LONG, LONG * 20, b"", b"\xff" * 5000, NOISE, LONG):
                await peer.send(message)
                assert await peer.recv() == message
            await peer.send([LONG, "", "short", LONG])
            assert await peer.recv() == LONG + "short" + LONG
            await (await peer.ping(b"x"))
        assert front.closed() == (1000, "")


async def test_the_websockets_library_hears_of_a_bad_offer():
    with compressing_front() as front:
        headers = {"Sec-WebSocket-Extensions": "a; =b"}
        with pytest.raises(InvalidStatus):
            await connect(front.url("/"), compression=None, additional_headers=headers, open_timeout=PATIENCE)


def test_a_group_gets_one_compressed_frame_and_its_order_is_kept():
    loop, counters = FakeLoop(), Counter()
    compressor = Compressor(6, THRESHOLD, counters)
    outbox, made = make_websockets(loop, [15, 0, 15, 0], compressor)
    group = Group()
    for ws, _, _ in made:
        outbox.join(ws, group)
    frames = [text_frame("1"), text_frame("2" + LONG), text_frame("3")]
    assert [outbox.publish(group, each) for each in frames] == [4, 4, 4]
    assert not any(ws.out for ws, _, _ in made), "a frame costs no member anything"
    loop.run()
    assert counters == {"messages_compressed": 1}
    expected = b"".join(compressor.compress(each, 15) for each in frames)
    assert [transport.written for _, transport, _ in made] == [expected, b"".join(frames)] * 2


def test_what_was_published_before_a_close_goes_before_it():
    loop = FakeLoop()
    outbox, made = make_websockets(loop, [0, 0])
    group = Group()
    for ws, _, _ in made:
        outbox.join(ws, group)
    outbox.publish(group, text_frame("1"))
    (ws, closed, _), (_, other, _) = made
    ws.close(1000, "enough")
    outbox.leave(ws, group)
    outbox.publish(group, text_frame("2"))
    loop.run()
    assert closed.written == text_frame("1") + close_frame(1000, "enough")
    assert other.written == text_frame("1") + text_frame("2")


def test_what_waits_with_its_sender_is_not_inflated():
    """A frame of a hundred bytes may become one of a hundred kilobytes."""
    loop, receiver = FakeLoop(), Stepping(1)
    shared = WebSocketShared(
        loop=loop, receiver=receiver, outbox=Outbox(loop), reads=ReadShared(loop), max_message_size=LIMIT
    )
    transport = FakeTransport()
    asyncio._set_running_loop(loop)
    try:
        ws = CompressedWebSocket(shared, transport, "", None, 15)
        ws.attach(b"")
    finally:
        asyncio._set_running_loop(None)
    bomb = frame(TEXT, deflated("x" * LIMIT), rsv=4)
    assert len(bomb) < 200
    feed(transport, bomb * 50)
    assert receiver.told == ["x" * LIMIT]
    assert ws.held_bytes < 50 * len(bomb)
    receiver.go_on(loop, ws)
    assert receiver.told == ["x" * LIMIT] * 50
    assert not ws.held_bytes
