from typing import Any

import picows
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.ws.backlog import Backlog
from pystrands.broker.ws.parser import BINARY, CONTINUATION, TEXT
from tests.broker.ws.support import frame

_make: Any = picows.picows._make_test_ws_frame

frames = st.tuples(
    st.sampled_from([TEXT, BINARY, CONTINUATION]),
    st.one_of(st.binary(max_size=300), st.integers(254, 70_000).map(bytes)),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(st.one_of(frames, st.none()), max_size=40))
def test_frames_come_out_as_they_went_in(steps):
    """None takes one out."""
    backlog = Backlog()
    kept = []
    for step in [*steps, *[None] * len(steps)]:
        if step is not None:
            backlog.add(_make(*step))
            kept.append(step)
        elif kept:
            kind, payload, fin, rsv1 = kept.pop(0)
            assert not backlog.is_empty
            taken = backlog.take()
            assert taken.msg_type is kind
            assert (taken.fin, taken.rsv1, taken.rsv2, taken.rsv3) == (fin, rsv1, 0, 0)
            assert taken.payload_size == len(payload)
            assert taken.get_payload_as_bytes() == bytes(taken.get_payload_as_memoryview()) == payload
            assert (taken.tail_size, taken.last_in_buffer) == (0, 0)
    assert backlog.is_empty


def test_the_other_reserved_bits_stay():
    backlog = Backlog()
    for rsv2, rsv3 in [(True, False), (False, True)]:
        made = _make(TEXT, b"", True, False)

        class Odd:
            msg_type, fin, rsv1, payload_size = made.msg_type, made.fin, made.rsv1, made.payload_size
            get_payload_as_memoryview = made.get_payload_as_memoryview

        Odd.rsv2, Odd.rsv3 = rsv2, rsv3  # type: ignore[attr-defined]
        backlog.add(Odd())  # type: ignore[arg-type]
        taken = backlog.take()
        assert (taken.rsv2, taken.rsv3) == (rsv2, rsv3)


def test_text_is_checked_when_it_is_taken():
    backlog = Backlog()
    backlog.add(_make(TEXT, "k\u00f6".encode(), True, False))
    backlog.add(_make(TEXT, b"\xff", True, False))
    assert backlog.take().get_payload_as_utf8_text() == "k\u00f6"
    with pytest.raises(UnicodeDecodeError):
        backlog.take().get_payload_as_utf8_text()


@given(st.lists(st.binary(max_size=400), max_size=30))
def test_it_takes_no_more_than_the_frames_took_on_the_wire(payloads):
    backlog = Backlog()
    for payload in payloads:
        backlog.add(_make(BINARY, payload, True, False))
    assert len(backlog) <= sum(len(frame(2, payload)) for payload in payloads)


def test_what_is_taken_from_a_long_one_is_given_back():
    backlog = Backlog()
    for _ in range(1000):
        backlog.add(_make(BINARY, bytes(1000), True, False))
    for left in range(999, -1, -1):
        backlog.take()
        assert len(backlog) < left * 1010 + 70_000
