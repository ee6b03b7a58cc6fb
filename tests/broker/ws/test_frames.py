import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.ws.frames import binary_frame, close_frame, ping_frame, pong_frame, text_frame
from pystrands.protocol.close_codes import ABNORMAL_CLOSURE, NO_STATUS


def test_short_frames_byte_by_byte():
    assert text_frame("Hello") == b"\x81\x05Hello"
    assert binary_frame(b"\x00\xff") == b"\x82\x02\x00\xff"
    assert ping_frame() == b"\x89\x00"
    assert ping_frame(b"a") == b"\x89\x01a"
    assert pong_frame(b"a") == b"\x8a\x01a"
    assert close_frame() == b"\x88\x00"
    assert close_frame(None, "ignored") == b"\x88\x00"
    assert close_frame(1000, "bye") == b"\x88\x05\x03\xe8bye"


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f" + struct.pack("!Q", 65536)),
    ],
)
def test_the_length_takes_as_few_bytes_as_it_can(size, head):
    assert binary_frame(bytes(size)) == head + bytes(size)


def test_the_length_is_in_bytes():
    assert text_frame("\N{EURO SIGN}") == b"\x81\x03\xe2\x82\xac"


def test_a_lone_surrogate_does_not_raise():
    assert text_frame("a\ud800b") == b"\x81\x03a?b"
    assert close_frame(1000, "\udfff") == b"\x88\x03\x03\xe8?"


@pytest.mark.parametrize("make", [ping_frame, pong_frame])
def test_control_payloads_are_limited(make):
    assert len(make(bytes(125))) == 127
    with pytest.raises(ValueError, match="125"):
        make(bytes(126))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300))
def test_a_close_reason_is_cut_between_characters(reason):
    payload = close_frame(1000, reason)[2:]
    assert len(payload) <= 125
    kept = payload[2:].decode()
    assert reason.startswith(kept)
    if kept != reason:
        assert len(kept.encode()) + len(reason[len(kept)].encode()) > 123


@pytest.mark.parametrize("code", [0, NO_STATUS, ABNORMAL_CLOSURE, 1015, 5000])
def test_a_close_frame_has_a_valid_code(code):
    with pytest.raises(ValueError, match=str(code)):
        close_frame(code)
