"""The closing handshake: RFC 6455, sections 5.5.1, 7.1 and 7.4."""

import pytest

from tests.broker.ws.support import CLOSE, CONT, PING, PONG, TEXT, close, frame
from tests.conformance.support import WAYS

VALID = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
INVALID = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32768, 65535]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("code", VALID)
def test_a_close_is_answered_with_its_code(peer, code, way):
    peer.send_as(way, close(code, b"reason"))
    assert peer.frames_to_end() == [(CLOSE, code.to_bytes(2, "big"))]


@pytest.mark.parametrize("code", INVALID)
def test_a_code_that_must_not_be_sent_is_a_protocol_error(peer, code):
    peer.send(close(code, b"reason"))
    peer.is_closed_with(1002)


def test_a_close_may_be_empty(peer):
    peer.send(close())
    assert peer.frames_to_end() == [(CLOSE, b"")]


def test_a_close_has_a_whole_code(peer):
    peer.send(frame(CLOSE, b"\x03"))
    peer.is_closed_with(1002)


@pytest.mark.parametrize("reason", [b"", b"x", "gr\u00fc\u00df".encode(), b"x" * 123, "\U0001f600".encode() * 30])
def test_a_reason_may_have_123_bytes(peer, reason):
    peer.send(close(1000, reason))
    peer.is_closed_with(1000)


@pytest.mark.parametrize("size", [124, 125, 65536])
def test_a_reason_may_not_have_more(peer, size):
    peer.send(close(1000, b"x" * size))
    peer.is_closed_with(1002)


def test_a_close_has_no_parts(peer):
    peer.send(frame(CLOSE, b"\x03\xe8", fin=False) + frame(CONT, b"reason"))
    peer.is_closed_with(1002)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "after",
    [frame(TEXT, "after"), frame(PING, b"after"), close(4001), frame(3), frame(TEXT, b"\xff"), frame(CONT, "x")],
)
def test_nothing_after_a_close_counts(peer, after, way):
    peer.is_alive()
    peer.send_as(way, close(1000), after, after)
    assert peer.frames_to_end() == [(CLOSE, b"\x03\xe8")]


def test_a_close_after_a_message_is_answered(peer):
    peer.send(frame(TEXT, "last words") + close(1000))
    peer.is_closed_with(1000, maybe=[(TEXT, b"last words")])


def test_a_close_after_much_is_answered(peer):
    peer.send(frame(TEXT, "x" * 262_144) + frame(PING, b"p") + close(1000))
    frames, code = peer.closing()
    assert code == 1000
    assert frames in ([(PONG, b"p")], [(PONG, b"p"), (TEXT, b"x" * 262_144)], [(TEXT, b"x" * 262_144), (PONG, b"p")])


def test_a_close_within_a_message_is_answered(peer):
    peer.send(frame(TEXT, "part", fin=False) + close(1000) + frame(CONT, "part"))
    assert peer.frames_to_end() == [(CLOSE, b"\x03\xe8")]


def test_the_backend_gets_what_came_before_a_close(broker, connect):
    before = broker.counters["messages_received"]
    with connect() as peer:
        peer.send(frame(TEXT, "one") + frame(TEXT, "two") + close(1000) + frame(TEXT, "three"))
        peer.is_closed_with(1000, maybe=[(TEXT, b"one"), (TEXT, b"two")])
    assert broker.counters["messages_received"] == before + 2
