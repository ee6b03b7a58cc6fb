import asyncio
import socket
import sys
import threading

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from pystrands.broker.ws.frames import binary_frame, ping_frame, text_frame
from pystrands.broker.ws.incoming import BACKPRESSURE, TOO_FAST
from pystrands.broker.ws.keepalive import MessageWatch
from tests.broker.ws.support import (
    BINARY,
    CLOSE,
    CONT,
    KINDS,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    AcceptAll,
    Echo,
    Front,
    close,
    frame,
)

LIMIT = 100_000
EURO = "\N{EURO SIGN}"
MIXED = "k\u00f6\u20ac\U0001f600\u0000\uffff\U0010ffff"  # every length of UTF-8, and its ends


@pytest.fixture(scope="module", params=KINDS)
def echo(request):
    with Front(request.param, max_message_size=LIMIT) as front:
        yield front


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def client(echo):
    with echo.connect() as client:
        yield client
    echo.until(lambda: echo.receiver.count >= echo.decider.count)  # nothing of this test's client is left for the next
    for waiting in (echo.receiver.closed, echo.receiver.messages, echo.decider.websockets):
        while not waiting.empty():
            waiting.get()


# Messages.


def test_a_message_of_any_size_comes_whole(client):
    for size in (0, 1, 125, 126, 127, 128, 4095, 4096, 65535, 65536, LIMIT):
        for opcode in (TEXT, BINARY):
            payload = (b"0123456789" * (size // 10 + 1))[:size]
            client.send_frame(opcode, payload)
            assert client.frame() == (opcode, payload)


def test_text_is_str_and_binary_is_bytes(echo, client):
    client.send(frame(TEXT, MIXED) + frame(BINARY, b"\xff\x00"))
    assert client.frame() == (TEXT, MIXED.encode())
    assert client.frame() == (BINARY, b"\xff\x00")
    assert echo.receiver.messages.get(timeout=PATIENCE) == MIXED
    assert echo.receiver.messages.get(timeout=PATIENCE) == b"\xff\x00"


def test_many_messages_in_one_segment_come_in_order(client):
    client.send(b"".join(frame(TEXT, str(n)) for n in range(2000)))
    assert [client.frame() for _ in range(2000)] == [(TEXT, str(n).encode()) for n in range(2000)]


def test_frames_may_come_octet_by_octet(client):
    for octet in frame(TEXT, MIXED) + frame(PING, b"p") + frame(BINARY, b"x" * 130) + close(1000):
        client.send(bytes([octet]))
    assert client.frames_to_end() == [
        (TEXT, MIXED.encode()),
        (PONG, b"p"),
        (BINARY, b"x" * 130),
        (CLOSE, b"\x03\xe8"),
    ]


# Errors and control frames: each kind once; all of them are in test_incoming.py and tests/conformance.


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(3, b"x"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"", fin=False) + frame(CONT, b"\xc3", fin=False) + frame(CONT, b"a"), 1007),
        (frame(BINARY, b"x" * (LIMIT + 1)), 1009),
        (frame(TEXT, b"x" * LIMIT, fin=False) + frame(CONT, b"y", fin=False), 1009),
    ],
)
def test_what_is_wrong_is_refused(echo, client, wrong, code):
    client.send(frame(TEXT, "before") + wrong + frame(TEXT, "after") * 50)
    assert client.closing() == ([(TEXT, b"before")], code)
    assert echo.closed()[0] == code
    assert echo.receiver.messages.get(timeout=PATIENCE) == "before"
    assert echo.receiver.messages.empty()


def test_a_parser_error_in_a_later_segment_is_refused(echo, client):
    client.send_frame(TEXT, "one")
    assert client.frame() == (TEXT, b"one")
    client.send_frame(3)
    assert client.closing() == ([], 1002)


def test_ten_pings_get_ten_pongs(client):
    client.send(b"".join(frame(PING, bytes([n])) for n in range(10)))
    assert [client.frame() for _ in range(10)] == [(PONG, bytes([n])) for n in range(10)]


@pytest.mark.parametrize("code", [1000, 4999])
def test_a_close_is_answered_with_its_code(echo, client, code):
    client.send(close(code, b"because"))
    assert client.frames_to_end() == [(CLOSE, code.to_bytes(2, "big"))]
    assert echo.receiver.closed.get(timeout=PATIENCE) == (code, "because", False)


def test_an_empty_close_is_answered_by_one(echo, client):
    client.send(close())
    assert client.frames_to_end() == [(CLOSE, b"")]
    assert echo.closed() == (1005, "")


# Endings.


@pytest.mark.parametrize("way", ["close", "shutdown", "reset"])
def test_a_connection_that_vanishes_is_a_1006(echo, client, way):
    client.send_frame(TEXT, "x")
    assert client.frame() == (TEXT, b"x")
    if way == "reset":
        client.reset()
    elif way == "close":
        client.close()
    else:
        client.socket.shutdown(socket.SHUT_WR)
        assert client.frames_to_end() == []
    assert echo.closed() == (1006, "")
    ws = echo.websocket()
    assert not ws.is_open
    assert not echo.call(ws.send, text_frame("late"))


def test_a_reset_just_after_something_was_sent_is_a_1006(echo, client):
    # An epoll tells of both at once that there is something to read, and of the second perhaps never again.
    client.send_frame(TEXT, "x")
    assert client.frame() == (TEXT, b"x")
    with echo.standing():
        client.send_frame(TEXT, "half of a message, which nobody answers", fin=False)
        client.reset()
    assert echo.closed() == (1006, "")


def test_our_close_comes_after_what_was_sent(echo, client):
    ws = echo.websocket()

    def end():
        ws.send(text_frame("last words"))
        ws.close(4001, "enough")
        ws.close(4002)
        assert not ws.is_open
        assert not ws.send(text_frame("too late"))
        return echo.receiver.closed.get_nowait()

    assert echo.call(end) == (4001, "enough", True)
    assert client.frame() == (TEXT, b"last words")
    client.send(frame(TEXT, "crossing") + close(4001))
    assert client.frames_to_end() == [(CLOSE, (4001).to_bytes(2, "big") + b"enough")]
    client.close()
    echo.turn()
    assert echo.receiver.closed.empty()
    assert echo.receiver.messages.empty()


def test_a_code_that_must_not_be_sent_becomes_1011(echo, client):
    echo.call(echo.websocket().close, 1006)
    assert client.closing() == ([], 1011)


def test_an_abort_is_a_1006_and_happens_once(echo, client):
    ws = echo.websocket()
    echo.call(ws.abort)
    echo.call(ws.abort)
    assert echo.closed() == (1006, "")
    with pytest.raises(ConnectionResetError):
        client.frame()


def test_our_close_arrives_though_we_left_much_unread(kind):
    with Front(kind, close_timeout=30) as front, front.connect() as client:
        ws = front.websocket()
        front.call(ws.pause_reading)
        client.send(frame(TEXT, "x" * 50_000) * 4)
        front.call(ws.close, 1012)
        frames, code = client.closing()
        assert code == 1012
        assert frames in ([], [(TEXT, b"x" * 50_000)])


def test_a_peer_that_does_not_answer_our_close_is_cut_off(kind):
    with Front(kind, close_timeout=0.05) as front, front.connect() as client:
        ws = front.websocket()
        front.call(ws.close, 1001)
        assert client.closing() == ([], 1001)
        front.until(lambda: ws.transport is None)  # the peer never closes its side


def test_a_peer_that_does_not_read_is_cut_off(kind):
    with Front(kind, close_timeout=0.05, send_limit=1 << 30) as front:
        client = front.connect(receive_buffer=4096)
        ws = front.websocket()
        front.call(fill, ws)
        front.call(ws.close, 1001)
        front.until(lambda: ws.transport is None)
        with pytest.raises(ConnectionResetError):
            client.to_end()
        client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what the peer has acknowledged")
def test_a_peer_that_reads_what_is_before_our_close_gets_all(kind):
    with Front(kind, close_timeout=PATIENCE, send_limit=1 << 30) as front:
        with front.connect(receive_buffer=65_536) as client:
            ws = front.websocket()
            front.call(lambda: [ws.send(binary_frame(bytes(1 << 20))) for _ in range(12)])
            front.call(ws.close, 4000)
            for _ in range(9):
                assert client.frame() == (BINARY, bytes(1 << 20))
                front.call(ws._on_timer)
            frames, code = client.closing()
            assert (len(frames), code) == (3, 4000)
        with front.connect(receive_buffer=65_536) as client:
            ws = front.websocket()
            front.call(lambda: [ws.send(binary_frame(bytes(1 << 20))) for _ in range(12)])
            front.call(ws.close, 4000)
            while front.call(lambda: ws.transport) is not None:  # it does not read
                front.call(ws._on_timer)


def test_an_exception_of_the_receiver_closes_with_1011(kind):
    class Broken(Echo):
        def client_message(self, ws, message):
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "the receiver's own")

    with Front(kind, receiver=Broken()) as front:
        for opcode in (TEXT, BINARY):
            with front.connect() as client:
                client.send(frame(opcode, "a") + frame(opcode, "b"))
                assert client.closing() == ([], 1011)
                assert front.closed()[0] == 1011
        assert front.counters["internal_error"] == 2


def test_an_exception_in_client_closed_is_contained(kind):
    class Broken(Echo):
        def client_closed(self, ws, code, reason):
            super().client_closed(ws, code, reason)
            raise RuntimeError

    with Front(kind, receiver=Broken()) as front, front.connect() as client:
        client.send(close(1000))
        assert client.closing() == ([], 1000)
        assert front.closed()[0] == 1000


def test_the_receiver_may_close_in_the_middle(kind):
    class Closer(Echo):
        def client_message(self, ws, message):
            super().client_message(ws, message)
            ws.close(4000)

    with Front(kind, receiver=Closer()) as front:
        for stream in (frame(TEXT, "a") + frame(TEXT, "b"), frame(TEXT, "a") + frame(3), frame(TEXT, "a" * 5000)):
            with front.connect() as client:
                client.send(stream)
                frames, code = client.closing()
                assert code == 4000
                assert len(frames) == 1
                assert front.closed()[0] == 4000


# Backpressure.


def fill(ws):
    """Send until the transport holds back."""
    big = text_frame("x" * 50_000)
    while not ws.flags & 4:
        assert ws.send(big)
        ws._shared.outbox._flush()


def test_a_client_that_does_not_read_is_held_back_and_then_gets_all(kind):
    with Front(kind) as front, front.connect(receive_buffer=4096) as client:
        ws = front.websocket()
        front.call(fill, ws)
        for n in range(100):
            assert front.call(ws.send, text_frame(str(n)))
        front.turn()
        assert front.call(lambda: (len(ws.out), ws.queued)) == (100, sum(2 + len(str(n)) for n in range(100)))
        seen = []
        while len(seen) < 100:
            _, payload = client.frame()
            if len(payload) < 50_000:
                seen.append(payload.decode())
        assert seen == [str(n) for n in range(100)]
        front.turn()
        assert front.call(lambda: (len(ws.out), ws.queued, ws.flags)) == (0, 0, 0)


def test_a_client_that_is_too_slow_is_closed(kind):
    with Front(kind, send_limit=10_000, close_timeout=0.05) as front:
        client = front.connect(receive_buffer=4096)
        ws = front.websocket()
        front.call(fill, ws)
        assert all(front.call(ws.send, text_frame("x" * 996)) for _ in range(20)), "who is behind is waited for"
        front.call(front.shared.outbox.pressure.give_up, ws)
        assert not front.call(ws.send, text_frame("x"))
        assert front.closed() == (1013, "too slow")
        assert front.counters["slow_consumer_closed"] == 1
        assert ws.queued == 0
        client.close()


def test_pings_of_a_client_that_does_not_read_grow_nothing(kind):
    settings = {"send_limit": 10_000, "max_controls": 10_000}
    with Front(kind, **settings) as front, front.connect(receive_buffer=4096) as client:
        ws = front.websocket()
        front.call(fill, ws)
        client.send(frame(PING, b"x" * 100) * 3000 + frame(PING, b"last") + frame(TEXT, "end"))
        assert front.receiver.messages.get(timeout=PATIENCE) == "end"
        assert front.call(lambda: (ws.queued, len(ws.out))) == (6 + 5, 2)
        opcode, payload = client.frame()
        while opcode != PONG:
            opcode, payload = client.frame()
        assert payload == b"last"


def test_pausing_stops_reading_and_resuming_goes_on(kind):
    with Front(kind) as front, front.connect() as client:
        ws = front.websocket()
        for _ in range(2):
            front.call(ws.pause_reading)
        client.send_frame(TEXT, "later")
        front.turn()
        assert front.receiver.messages.empty()
        assert ws.paused
        for _ in range(2):
            front.call(ws.resume_reading)
        assert client.frame() == (TEXT, b"later")


def test_reading_goes_on_when_nobody_has_a_reason_left_not_to(kind):
    with Front(kind) as front, front.connect() as client:
        ws = front.websocket()
        front.call(ws.pause_reading, BACKPRESSURE)
        front.call(ws.pause_reading, TOO_FAST)
        client.send_frame(TEXT, "later")
        front.call(ws.resume_reading, BACKPRESSURE)
        front.call(ws.resume_reading, BACKPRESSURE)
        front.turn()
        assert front.receiver.messages.empty()
        assert ws.paused == TOO_FAST
        front.call(ws.pause_reading)
        front.call(ws.resume_reading, TOO_FAST)
        front.turn()
        assert front.receiver.messages.empty()
        front.call(ws.resume_reading)
        assert client.frame() == (TEXT, b"later")
        assert ws.paused == 0


class Pausing(Echo):
    """Takes one message at a time."""

    def client_message(self, ws, message):
        super().client_message(ws, message)
        assert not ws.paused & BACKPRESSURE
        ws.pause_reading()


def test_what_was_read_waits_while_reading_is_paused(kind):
    with Front(kind, receiver=Pausing()) as front, front.connect() as client:
        ws = front.websocket()
        messages = [str(number) * 5 for number in range(50)]
        client.send(b"".join(frame(TEXT, message) for message in messages) + frame(PING, b"at once"))
        assert client.frame() == (TEXT, messages[0].encode())
        assert client.frame() == (PONG, b"at once")
        assert front.receiver.messages.get(timeout=PATIENCE) == messages[0]
        for message in messages[1:]:
            front.turn()
            assert front.receiver.messages.empty()
            front.call(ws.resume_reading)
            assert client.frame() == (TEXT, message.encode())
            assert front.receiver.messages.get(timeout=PATIENCE) == message
        front.call(ws.resume_reading)
        client.send_frame(TEXT, "next")
        assert client.frame() == (TEXT, b"next")
        assert front.call(lambda: ws.has_backlog) is False


@pytest.mark.parametrize("way", ["close frame", "close", "reset", "wrong frame"])
def test_what_was_read_before_the_client_went_is_handled_before_its_end(kind, way):
    with Front(kind, receiver=Pausing()) as front:
        client = front.connect()
        ws = front.websocket()
        last = {"close frame": close(1000, b"bye"), "wrong frame": frame(3)}.get(way, b"")
        client.send(b"".join(frame(TEXT, str(number)) for number in range(5)) + last)
        front.until(lambda: ws.has_backlog)
        if not last:
            getattr(client, way)()
        code, reason = front.closed()
        assert code == {"close frame": 1000, "wrong frame": 1002}.get(way, 1006)
        front.turn()
        for number in range(5):
            assert front.receiver.messages.get(timeout=PATIENCE) == str(number)
            assert front.receiver.messages.empty()
            if number < 4:
                assert front.receiver.over.empty()
                front.call(ws.resume_reading)
        assert front.receiver.over.get(timeout=PATIENCE) == (code, reason)
        assert not front.shared.leaving
        if last:
            assert client.closing()[1] == code
            client.close()
        assert not len(front.shared.hangups)


def test_a_read_into_a_buffer_that_has_grown_is_bounded(kind):
    """One of all of it would bring 150,000 small messages at once."""
    with Front(kind, receiver=Pausing(), max_message_size=1 << 20) as front, front.connect() as client:
        ws = front.websocket()
        big, small = frame(BINARY, bytes(1_000_000)), frame(TEXT, "x")
        client.send(big[:-1])
        front.until(lambda: ws.held == len(big) - 1)
        assert front.call(lambda: len(ws._parser.get_buffer(-1))) <= 65_536
        sending = threading.Thread(target=client.send, args=(big[-1:] + small * 100_000,))
        sending.start()
        front.until(lambda: ws.has_backlog)
        front.turn()
        assert front.call(lambda: len(ws._backlog)) <= 65_536 // len(small) * 3
        front.receiver.client_message = lambda ws, message: None
        front.call(ws.resume_reading)
        sending.join(PATIENCE)
        assert not sending.is_alive()


@pytest.mark.parametrize("way", ["close", "reset"])
def test_the_leaving_of_a_paused_client_is_noticed(kind, way):
    with Front(kind) as front:
        for _ in range(3):
            client = front.connect()
            ws = front.websocket()
            front.call(ws.pause_reading)
            if way == "reset":
                client.send_frame(TEXT, "unread")
            getattr(client, way)()
            assert front.closed()[0] == 1006
        assert not len(front.shared.hangups)


def test_what_a_client_sent_before_it_left_is_read_though_it_was_paused(kind):
    with Front(kind) as front:
        client = front.connect()
        ws = front.websocket()
        front.call(ws.pause_reading)
        client.send_frame(TEXT, "sent in time")
        client.close()
        front.call(lambda: None)
        front.call(ws.resume_reading)
        assert front.closed()[0] == 1006
        assert front.receiver.messages.get_nowait() == "sent in time"
        assert not len(front.shared.hangups)


def test_a_paused_client_that_left_something_unread_is_gone_when_it_is_sent_to(kind):
    with Front(kind) as front:
        client = front.connect()
        ws = front.websocket()
        front.call(ws.pause_reading)
        client.send_frame(TEXT, "unread")
        client.close()
        while front.receiver.closed.empty():  # the kernel answers the first with a reset
            front.call(ws.send, text_frame("anybody there?"))
        assert front.closed()[0] == 1006
        assert not len(front.shared.hangups)


def test_a_client_that_was_paused_and_resumed_is_not_watched(kind):
    with Front(kind) as front:
        with front.connect() as client:
            ws = front.websocket()
            front.call(ws.pause_reading)
            front.call(ws.resume_reading)
            client.send(close(1000))
            assert client.closing() == ([], 1000)
        assert front.closed()[0] == 1000
        assert not len(front.shared.hangups)


def test_a_paused_client_can_be_closed(kind):
    with Front(kind) as front, front.connect() as client:
        ws = front.websocket()
        front.call(ws.pause_reading)
        front.call(ws.close, 1012)
        assert client.closing() == ([], 1012)
        assert not len(front.shared.hangups)


# Memory.


def test_a_big_message_gets_the_client_a_fresh_parser(kind):
    with Front(kind) as front, front.connect() as client:
        ws = front.websocket()
        first = front.call(lambda: ws._parser)
        small = front.call(lambda: len(ws._parser.get_buffer(-1)))
        client.send_frame(BINARY, b"x" * 60_000)
        assert client.frame() == (BINARY, b"x" * 60_000)
        second = front.call(lambda: ws._parser)
        assert second is not first
        assert front.call(lambda: len(ws._parser.get_buffer(-1))) == small
        for _ in range(3):  # too soon for another
            client.send_frame(BINARY, b"y" * 60_000)
            assert client.frame() == (BINARY, b"y" * 60_000)
        assert front.call(lambda: ws._parser) is second
        front.call(setattr, ws, "_slimmed", 0.0)
        client.send_frame(PING)
        assert client.frame() == (PONG, b"")
        assert front.call(lambda: ws._parser) is not second
        client.send(frame(TEXT, "a", fin=False) + frame(CONT, "b") + frame(3))
        assert client.closing() == ([(TEXT, b"ab")], 1002)


def test_a_part_of_a_frame_counts_as_life_and_for_the_budget(kind):
    with Front(kind) as front, front.connect() as client:
        ws = front.websocket()
        assert front.call(lambda: (ws.held_bytes, ws.has_unfinished)) == (0, False)
        front.call(setattr, ws, "silent", 1)
        data = frame(BINARY, b"x" * 100_000)
        client.send(data[:5])
        front.until(lambda: ws.held_bytes == 5)
        assert front.call(lambda: (ws.silent, ws.has_unfinished)) == (0, True)
        client.send(data[5:90_000])
        front.until(lambda: ws.held == 90_000)
        assert front.call(lambda: ws.held_bytes) == 90_000 + 65_536, "and room for the next read"
        client.send(data[90_000:] + b"\x81")  # and the beginning of another
        assert client.frame() == (BINARY, b"x" * 100_000)
        front.until(lambda: ws.held == 1)
        assert front.call(lambda: ws.held_bytes) >= 90_000, "the parser's buffer has grown"
        client.send(frame(TEXT, "a")[1:])
        assert client.frame() == (TEXT, b"a")
        front.until(lambda: (ws.held_bytes, ws.has_unfinished) == (0, False))


def test_a_buffer_that_has_grown_is_given_back_when_it_holds_nothing(kind):
    with Front(kind) as front, front.connect() as client:
        ws = front.websocket()
        for _ in range(2):  # the second one is too soon for a fresh parser
            client.send_frame(BINARY, bytes(60_000))
            assert client.frame() == (BINARY, bytes(60_000))
        assert front.call(lambda: ws.held_bytes) >= 50_000
        client.send(b"\x81")
        front.until(lambda: ws.held == 1)
        front.call(ws.trim)
        assert front.call(lambda: ws in front.shared.reads.fat), "it holds something"
        client.send(frame(TEXT, "a")[1:])
        assert client.frame() == (TEXT, b"a")
        front.call(ws.trim)
        assert front.call(lambda: (ws.held_bytes, len(front.shared.reads.fat))) == (0, 0)
        client.send_frame(TEXT, "b")
        assert client.frame() == (TEXT, b"b")


def test_fragments_count_for_the_budget_until_their_message_is_whole_or_its_client_closed(kind):
    with Front(kind) as front, front.connect() as client:
        ws = front.websocket()
        client.send(frame(TEXT, "x" * 50_000, fin=False) + frame(CONT, "y" * 10_000, fin=False) + frame(PING))
        assert client.frame() == (PONG, b"")
        assert front.call(lambda: (ws.held_bytes, ws.has_unfinished)) == (60_000, True)
        client.send_frame(CONT, "z")
        assert len(client.frame()[1]) == 60_001
        assert front.call(lambda: (ws.held_bytes, ws.has_unfinished)) == (0, False)
        client.send(frame(TEXT, "x" * 50_000, fin=False) + frame(PING))
        assert client.frame() == (PONG, b"")
        front.call(ws.give_up)
        assert client.closing() == ([], 1013)
        assert front.call(lambda: ws.held_bytes) == 0


def test_what_a_closed_client_does_not_read_counts_until_it_is_gone(kind):
    with Front(kind, close_timeout=PATIENCE, send_limit=1 << 30) as front:
        client = front.connect(receive_buffer=4096)
        ws = front.websocket()
        front.call(fill, ws)
        front.call(ws.close, 1001)
        assert front.call(lambda: (ws in front.shared.lingering, ws.held_bytes > 1000)) == (True, True)
        front.call(ws.give_up)
        front.until(lambda: not front.shared.lingering)
        assert front.call(lambda: ws.held_bytes) == 0
        client.close()


# Floods.


def test_a_flood_of_pings_is_closed_and_counted(kind):
    with Front(kind, max_controls=100) as front, front.connect() as good, front.connect() as bad:
        for _ in range(2):
            good.send(frame(PING) * 50)
            assert [good.frame() for _ in range(50)] == [(PONG, b"")] * 50
            good.send_frame(TEXT, "hello")
            assert good.frame() == (TEXT, b"hello")
        bad.send(frame(PING) * 60 + frame(PONG) * 100)
        frames, code = bad.closing()
        assert (len(frames), code) == (60, 1008)
        assert front.counters["control_flood"] == 1
        good.send_frame(TEXT, "hello")
        assert good.frame() == (TEXT, b"hello")


def test_fragments_without_end_are_closed_and_counted(kind):
    with Front(kind, max_fragments=1000) as front, front.connect() as good, front.connect() as bad:
        for opcode in (TEXT, BINARY):
            good.send(frame(opcode, b"", fin=False) + frame(CONT, b"", fin=False) * 998 + frame(CONT, b"x"))
            assert good.frame() == (opcode, b"x")
        bad.send(frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 1000)
        assert bad.closing() == ([], 1008)
        assert front.counters["too_many_fragments"] == 1


def test_a_message_that_takes_too_long_is_closed_and_counted(kind):
    watches: list[MessageWatch] = []
    with Front(kind, watches=watches) as front:
        watch = MessageWatch(8, front.counters)
        watches.append(watch)

        def pass_time(start):
            for second in range(start, start + 4):
                watch.tick(second)

        with front.connect() as good, front.connect() as drip, front.connect() as parts:
            good.send_frame(TEXT, "a", fin=False)
            data = frame(TEXT, "x" * 100)
            drip.send(data[:1])
            parts.send_frame(TEXT, "", fin=False)
            for turn in range(4):
                good.send(frame(CONT, "b") + frame(TEXT, "a", fin=False))
                assert good.frame() == (TEXT, b"ab")
                drip.send(data[turn + 1 : turn + 2])
                parts.send(frame(CONT, "", fin=False) + frame(PING))
                if turn < 2:
                    assert parts.frame() == (PONG, b"")
                front.call(pass_time, 4 * turn)
            assert drip.closing() == ([], 1008)
            assert parts.closing()[1] == 1008
            good.send(frame(CONT, "b"))
            assert good.frame() == (TEXT, b"ab")
        assert front.counters["message_timeout"] == 2


# A peer that others wrote.


async def test_the_websockets_library_is_content(kind):
    class OneProtocol(AcceptAll):
        def decide(self, handshake):
            self.accept(handshake, "chat")

    with Front(kind, decider=OneProtocol()) as front:
        # Its client for threads may read from TLS before it has sent its request, and then waits for ever.
        async with (
            connect(
                front.url("/room"),
                subprotocols=[Subprotocol("other"), Subprotocol("chat")],
                compression=None,
                open_timeout=PATIENCE,
                ssl=front.tls,
            ) as peer,
            asyncio.timeout(PATIENCE),
        ):
            assert peer.subprotocol == "chat"
            await peer.send(MIXED)
            assert await peer.recv() == MIXED
            await peer.send([b"in ", b"parts"])
            assert await peer.recv() == b"in parts"
            await (await peer.ping(b"x"))
            front.call(front.websocket().send, ping_frame(b"ours"))
        assert front.closed() == (1000, "")


async def test_the_websockets_library_hears_our_close(kind):
    with Front(kind) as front:
        # It offers compression, which we pass over.
        async with (
            connect(front.url("/"), open_timeout=PATIENCE, ssl=front.tls) as peer,
            asyncio.timeout(PATIENCE),
        ):
            front.call(front.websocket().close, 4321, "gr\u00fc\u00df")
            with pytest.raises(ConnectionClosed) as closed:
                await peer.recv()
        assert closed.value.rcvd.code == 4321
        assert closed.value.rcvd.reason == "gr\u00fc\u00df"
        assert closed.value.rcvd_then_sent
