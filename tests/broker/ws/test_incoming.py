"""What a WebSocket makes of the bytes of its peer, on a transport that records.

What RFC 6455 asks for is in tests/conformance, through a whole broker; here is what the receiver is told of it, and the
contract with picows.
"""

import itertools

import picows
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.ws.frames import text_frame
from pystrands.broker.ws.incoming import TOO_FAST
from pystrands.broker.ws.reading import ReadShared
from pystrands.broker.ws.websocket import WebSocket, WebSocketShared
from tests.broker.ws.recording import FakeLoop, FakeTransport, Recorder, Stepping, fake_websocket, feed, frames_in
from tests.broker.ws.support import BINARY, CLOSE, CONT, PING, PONG, TEXT, close, frame

LIMIT = 100_000
MIXED = "k\u00f6\u20ac\U0001f600\u0000\uffff\U0010ffff"  # every length of UTF-8, and its ends


def read(stream, *, octets=False):
    """Have a WebSocket read this; return its receiver, what it wrote, and its counters."""
    loop, receiver = FakeLoop(), Recorder()
    ws, transport = fake_websocket(loop, receiver, max_message_size=LIMIT)
    for part in (stream[at : at + 1] for at in range(len(stream))) if octets else [stream]:
        feed(transport, part)
        loop.run()
    return receiver, frames_in(transport.written), ws._shared.counters


# Messages.


@pytest.mark.parametrize("octets", [False, True])
def test_text_is_str_and_binary_is_bytes(octets):
    stream = frame(TEXT, MIXED) + frame(PING, b"p") + frame(BINARY, b"\xff\x00") + close(1000)
    receiver, written, _ = read(stream, octets=octets)
    assert receiver.messages == [MIXED, b"\xff\x00"]
    assert receiver.closed == [1000]
    assert written == [(PONG, b"p"), (CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_fragments_are_joined(opcode):
    stream = frame(opcode, b"", fin=False) + frame(CONT, b"one ", fin=False) + frame(CONT, b"", fin=False)
    stream += frame(PING, b"1") + frame(CONT, b"two", fin=False) + frame(PONG, b"unasked for") + frame(CONT, b"")
    receiver, written, _ = read(stream + frame(TEXT, "next"))
    assert receiver.messages == ["one two" if opcode == TEXT else b"one two", "next"]
    assert written == [(PONG, b"1")]


def test_a_message_may_have_many_fragments():
    receiver, _, _ = read(frame(BINARY, b"x", fin=False) + frame(CONT, b"y", fin=False) * 5000 + frame(CONT, b"z"))
    assert receiver.messages == [b"x" + b"y" * 5000 + b"z"]


def test_a_character_may_be_split_at_every_byte():
    raw = MIXED.encode()
    for cut in range(len(raw) + 1):
        receiver, _, _ = read(frame(TEXT, raw[:cut], fin=False) + frame(CONT, raw[cut:]))
        assert receiver.messages == [MIXED]


MESSAGES = st.one_of(st.text(max_size=40), st.integers(0, 5000).map(lambda size: b"\xff\x00x" * (size // 3)))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_split_of_the_stream_gives_the_same_messages(data):
    messages = data.draw(st.lists(MESSAGES, min_size=1, max_size=8))
    stream = b""
    for message in messages:
        raw = message.encode() if isinstance(message, str) else message
        cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=3)))
        edges = [0, *cuts, len(raw)]
        parts = [raw[a:b] for a, b in itertools.pairwise(edges)]
        for index, part in enumerate(parts):
            opcode = CONT if index else (TEXT if isinstance(message, str) else BINARY)
            stream += frame(opcode, part, fin=index == len(parts) - 1)
            if data.draw(st.booleans()):
                stream += frame(PING, b"between")
    loop, receiver = FakeLoop(), Recorder()
    ws, transport = fake_websocket(loop, receiver)
    edges = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))
    for start, end in itertools.pairwise([0, *sorted(edges), len(stream)]):
        feed(transport, stream[start:end])
        loop.run()
    assert receiver.messages == messages
    assert ws.is_open


# What is wrong.

BROKEN = [
    b"\xff",
    b"\x80",
    b"\xc0\xaf",
    b"\xc3",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf0\x9f\x98",
    b"\xf5",
]
OPCODES = [TEXT, BINARY, CONT, CLOSE, PING, PONG]
WRONG = {
    (1002, "protocol_error"): [
        *(frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        *(frame(opcode, b"", rsv=rsv) for opcode in OPCODES for rsv in range(1, 8)),
        *(frame(TEXT, "part", fin=False) + frame(CONT, b"", rsv=rsv) for rsv in range(1, 8)),
        frame(CONT, "nothing to continue"),
        frame(CONT, "nothing to continue", fin=False),
        frame(TEXT, "a", fin=False) + frame(TEXT, "b"),
        frame(TEXT, "a", fin=False) + frame(BINARY, "b", fin=False),
        frame(PING, b"x", fin=False),
        frame(PONG, b"x", fin=False),
        frame(CLOSE, b"", fin=False),
        frame(PING, b"x" * 126),
        frame(PONG, b"x" * 126),
        frame(CLOSE, b"\x03\xe8" + b"x" * 124),
        frame(TEXT, "unmasked", mask=False),
        frame(CLOSE, b"", mask=False),
        b"\x81\xfe\x00\x05",  # a 16-bit length for 5 bytes
        b"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05",
        b"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x05",
        frame(CLOSE, b"\x03"),
        *(close(code) for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)),
    ],
    (1007, "bad_utf8"): [
        *(frame(TEXT, broken) for broken in BROKEN),
        *(frame(TEXT, MIXED.encode() + broken) for broken in BROKEN),
        *(frame(TEXT, broken, fin=False) + frame(CONT, b"a") for broken in BROKEN),
        frame(TEXT, b"\xe2", fin=False) + frame(CONT, b"\xff", fin=False),
        *(close(1000, b"x" + broken) for broken in BROKEN),
    ],
    (1009, "message_too_big"): [
        frame(BINARY, b"x" * (LIMIT + 1))[:14],  # before it is read
        frame(TEXT, b"x" * LIMIT, fin=False) + frame(CONT, b"y", fin=False),
    ],
}


@pytest.mark.parametrize(
    ("wrong", "code", "counter"), [(each, *told) for told, all_of_it in WRONG.items() for each in all_of_it]
)
def test_what_is_wrong_ends_it_with_its_code_after_what_came_before(wrong, code, counter):
    receiver, written, counters = read(frame(TEXT, "before") + wrong + frame(TEXT, "after") + frame(PING))
    assert receiver.messages == ["before"]
    assert receiver.closed == [code]
    assert [(opcode, payload[:2]) for opcode, payload in written] == [(CLOSE, code.to_bytes(2, "big"))]
    assert counters[counter] == 1


def test_more_after_a_message_in_parts_continues_nothing():
    receiver, _, _ = read(frame(TEXT, "a", fin=False) + frame(CONT, "b") + frame(CONT, "c"))
    assert (receiver.messages, receiver.closed) == (["ab"], [1002])


# Closes.


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(TEXT, "a") + close(4000) + frame(TEXT, "b") + frame(PING) + close(4001), 4000),
        (frame(TEXT, "a") + close(4000) + frame(3), 4000),
        (frame(TEXT, "a") + frame(TEXT, "b", fin=False) + close(1001), 1001),
        (frame(TEXT, "a") + close(), 1005),
    ],
)
def test_what_follows_a_close_is_ignored_and_what_is_unfinished_dropped(stream, code):
    receiver, written, _ = read(stream)
    assert (receiver.messages, receiver.closed) == (["a"], [code])
    assert written == [(CLOSE, b"" if code == 1005 else code.to_bytes(2, "big"))]


# The contract with picows, on a transport that records.


@pytest.mark.parametrize("kind", picows.WSMsgType)
def test_frames_have_the_kinds_that_picows_exports(kind):
    frame = picows.picows._make_test_ws_frame(kind, b"", True, False)
    assert frame.msg_type is kind
    assert f"WSFrame({kind.name}, " in str(frame)


def test_a_kind_is_looked_up_without_a_detour():
    assert not hasattr(type(picows.picows.WSMsgType), "__getattr__")


def test_the_frame_before_a_parser_error_is_delivered_before_the_close_frame():
    loop, receiver = FakeLoop(), Recorder()
    ws, transport = fake_websocket(loop, receiver)
    assert transport.limits == (65536, 16384)
    assert not transport.written, "picows' own 101 is not sent"
    parser = transport.protocol
    feed(transport, frame(TEXT, "one") + frame(11, b"reserved") + frame(TEXT, "never"))
    assert transport.protocol is not parser, "nothing is parsed after the error"
    assert receiver.messages == ["one"]
    assert not receiver.closed
    assert ws.send(text_frame("answer"))
    assert not transport.written
    loop.run()
    assert receiver.closed == [1002]
    assert receiver.messages == ["one"]
    assert transport.written.startswith(text_frame("answer") + b"\x88")
    assert transport.written[len(text_frame("answer")) + 2 :][:2] == b"\x03\xea"
    assert transport.calls == ["resume_reading", "write", "resume_reading", "write_eof"]
    transport.protocol.connection_lost(None)
    assert ws.transport is None
    assert receiver.closed == [1002]


def test_a_close_before_the_close_frame_of_a_parser_error_does_not_replace_it():
    """picows calls its transport's close() ten milliseconds after an error, which may be in the very next turn."""
    loop, receiver = FakeLoop(), Recorder()
    ws, transport = fake_websocket(loop, receiver)
    feed(transport, frame(TEXT, "one") + frame(11, b"x"))
    ws._parser.transport.disconnect()
    loop.run()
    assert receiver.messages == ["one"]
    assert receiver.closed == [1002]
    assert ws._shared.counters["protocol_error"] == 1
    assert transport.written.count(b"\x03\xea") == 1


def test_a_connection_lost_before_the_close_frame_of_a_parser_error_is_a_1006():
    loop, receiver = FakeLoop(), Recorder()
    _, transport = fake_websocket(loop, receiver)
    feed(transport, frame(11))
    transport.protocol.connection_lost(None)
    loop.run()
    assert receiver.closed == [1006]
    assert not transport.written


def test_a_connection_lost_before_the_parser_was_there_is_a_1006():
    loop, receiver = FakeLoop(), Recorder()
    transport = FakeTransport()
    ws = WebSocket(
        WebSocketShared(loop=loop, receiver=receiver, outbox=Outbox(loop), reads=ReadShared(loop)), transport, ""
    )
    ws.connection_lost()
    ws.attach(b"early")
    assert receiver.closed == [1006]
    assert transport.protocol is None


# What waits with its sender, on a transport that records.


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 4), st.data())
def test_whatever_the_pauses_messages_come_in_order_and_the_end_after_them(kinds, step, data):
    loop, receiver = FakeLoop(), Stepping(step)
    ws, transport = fake_websocket(loop, receiver)
    stream = b""
    expected: list[str | bytes] = []
    for number, kind in enumerate(kinds):
        if kind < 3:
            stream += frame(TEXT, str(number))
            expected.append(str(number))
        elif kind < 5:
            stream += frame(BINARY, b"a", fin=False) + frame(PING) + frame(CONT, b"%d" % number)
            expected.append(b"a%d" % number)
        else:
            stream += frame(PONG)
    stream += data.draw(st.sampled_from([b"", close(1000), frame(3)]))
    parts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    for start, end in itertools.pairwise([0, *parts, len(stream)]):
        while ws.paused and transport.protocol is ws._parser:  # a transport would not be read from
            receiver.left = step
            ws.resume_reading()
            loop.run()
        feed(transport, stream[start:end])
    if data.draw(st.booleans()):
        loop.run()
    if ws.is_open:
        ws.connection_lost()
    loop.run()
    receiver.go_on(loop, ws)
    (code,) = [each for each in receiver.told if isinstance(each, int)]
    assert receiver.told[-1] == "over"
    assert [each for each in receiver.told[:-1] if each != code] == expected
    assert not ws._shared.leaving


@pytest.mark.parametrize("is_gone", [False, True])
def test_an_error_in_what_waited_ends_it(is_gone):
    loop, receiver = FakeLoop(), Stepping(1)
    ws, transport = fake_websocket(loop, receiver)
    feed(transport, frame(TEXT, "a") + frame(TEXT, "b") + frame(TEXT, b"\xff") + frame(TEXT, "never"))
    if is_gone:
        ws.connection_lost()
    receiver.go_on(loop, ws)
    assert receiver.told == (["a", 1006, "b", "over"] if is_gone else ["a", "b", 1007, "over"])
    assert ws._shared.counters["bad_utf8"] == (not is_gone)
    assert not ws.held_bytes


def test_a_receiver_that_closes_at_what_waited_gets_no_more():
    class Closing(Stepping):
        def client_message(self, ws, message):
            super().client_message(ws, message)
            if message == "b":
                ws.close(1008)

    loop, receiver = FakeLoop(), Closing(1)
    ws, transport = fake_websocket(loop, receiver)
    feed(transport, frame(TEXT, "a") + frame(TEXT, "b") + frame(TEXT, "never"))
    receiver.go_on(loop, ws)
    assert receiver.told == ["a", "b", 1008, "over"]


def test_a_close_from_elsewhere_loses_nothing_that_was_read():
    loop, receiver = FakeLoop(), Stepping(1)
    ws, transport = fake_websocket(loop, receiver)
    feed(transport, frame(TEXT, "a") + frame(TEXT, "b") + frame(TEXT, "c"))
    ws.close(1012)
    assert ws in ws._shared.leaving
    receiver.go_on(loop, ws)
    assert receiver.told == ["a", 1012, "b", "c", "over"]


@pytest.mark.parametrize("is_gone", [False, True])
def test_what_waits_can_be_dropped_and_is_by_who_is_short_of_memory(is_gone):
    loop, receiver = FakeLoop(), Stepping(1)
    ws, transport = fake_websocket(loop, receiver)
    feed(transport, frame(TEXT, "a") + frame(TEXT, "b" * 10_000))
    if is_gone:
        ws.connection_lost()
    assert ws.held_bytes > 10_000
    ws.give_up()
    assert receiver.told == ["a", 1006 if is_gone else 1013, "over"]
    assert not ws.held_bytes
    assert not ws._shared.leaving


def test_who_is_gone_is_not_paused_for_its_speed():
    loop, receiver = FakeLoop(), Stepping(100)
    ws, transport = fake_websocket(loop, receiver)
    ws.pause_reading(TOO_FAST)
    feed(transport, frame(TEXT, "a") + close(1000))
    assert receiver.told == [1000]
    loop.run()
    assert receiver.told == [1000, "a", "over"]
