"""Subjects, envelopes and the ring: pure."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.engine.nats import talk
from pystrands.engine.nats.envelope import (
    HEAD_SIZE,
    MESSAGE,
    Malformed,
    address_of,
    flags_of,
    pack_head,
    pack_rest,
    prefix_of,
    publication_of,
    unpack_head,
    unpack_part,
)
from pystrands.engine.nats.ring import ENTRY_BYTES, PublicationRing
from pystrands.engine.nats.subjects import Subjects, token
from pystrands.engine.publication import Audience, Publication

IDS = st.text(max_size=80) | st.sampled_from(
    ("", "*", ">", "a.b", "a b", "\r\n", "=a", "#a", "😀", "\ud800", "x" * 10_000)
)


@given(IDS)
def test_an_id_never_stands_in_a_subject_as_it_is_unless_it_is_harmless(name):
    part = token(name)
    assert re.fullmatch(rb"=[A-Za-z0-9_/:@~-]{1,64}|#[A-Za-z0-9_-]{22}", part)
    assert part[:1] == b"#" or part[1:] == name.encode()


@given(st.lists(IDS, min_size=2, max_size=20, unique=True))
def test_different_ids_have_different_subjects(names):
    subjects = Subjects("c")
    made = [make(name) for make in (subjects.room, subjects.client, subjects.broker) for name in names]
    assert len({*made, subjects.everyone}) == len(made) + 1
    assert all(each.startswith(b"ps.c.") for each in made)


PUBLICATIONS = st.builds(
    Publication,
    st.sampled_from(Audience),
    IDS,
    st.text(st.characters(codec="utf-8")) | st.binary(),
    st.lists(IDS, max_size=4).map(tuple),
    st.none() | IDS,
    st.booleans(),
)


def as_tuple(publication):
    return tuple(getattr(publication, name) for name in Publication.__slots__)


@given(PUBLICATIONS)
def test_a_message_is_read_as_it_was_written(publication):
    flags = flags_of(publication)
    envelope = pack_head(MESSAGE, flags, 1, 2, 3, 4) + prefix_of(publication.address) + pack_rest(publication)
    assert unpack_head(envelope)[2] == flags
    address, at = address_of(envelope)
    assert as_tuple(publication_of(flags, address, envelope, at)) == as_tuple(publication)


def test_a_lone_surrogate_in_a_text_is_replaced_as_in_a_frame():
    assert pack_rest(Publication(Audience.EVERYONE, "", "a\ud800")) == b"a?"


@given(st.binary(max_size=120), st.integers(0, 255), st.integers(0, 255))
def test_bytes_of_others_are_read_or_refused(data, flags, kind):
    envelope = pack_head(kind, flags, 1, 2, 3, 4) + data
    for read in (
        lambda: publication_of(flags, *address_of(envelope)[:1], envelope, address_of(envelope)[1]),
        lambda: unpack_part(envelope, HEAD_SIZE),
        lambda: talk.unpack(kind, envelope),
    ):
        with contextlib.suppress(Malformed):
            read()


@given(st.lists(st.integers(0, 400), max_size=200), st.integers(0, 1000))
def test_the_ring_has_the_newest(sizes, limit):
    ring = PublicationRing(limit, first=7)
    every = []
    for number, size in enumerate(sizes):
        every.append(bytes(size))
        ring.append(every[-1], float(number))
        kept = [ring.get(seq) or b"" for seq in range(ring.first, ring.next)]
        assert kept == every[len(every) - len(kept) :] and kept
        assert ring.next == 7 + len(every)
        assert ring.bytes == sum(len(each) + ENTRY_BYTES for each in kept)
        assert ring.bytes <= limit or len(kept) == 1
        assert ring.time(ring.next - 1) == number
    assert ring.get(6) is None and ring.get(ring.next) is None


def test_the_ring_lets_go_of_what_has_gone():
    ring = PublicationRing(10 * (ENTRY_BYTES + 1))
    for number in range(50_000):
        ring.append(b"x", float(number))
    assert (ring.first, ring.next, ring.get(49_991), ring.get(49_990)) == (49_991, 50_001, b"x", None)
    ring.clear(9)
    assert (ring.first, ring.next, ring.bytes) == (9, 9, 0)


@pytest.mark.parametrize("kind", sorted(talk._KINDS))
def test_what_brokers_say_may_get_more_fields(kind):
    """A newer broker's line has fields that this one does not know."""
    import msgspec

    wanted = talk._KINDS[kind]
    values: dict[object, object] = {
        int: 1, str: "a", bytes: b"a", bool: True, tuple[str, ...]: ("a",), tuple[int, ...]: (1,),
        tuple[bytes, ...]: (b"a",), tuple[bytes | int, ...]: (b"a", 1), tuple[talk.Chain, ...]: ((b"a", 1, 1),),
        talk.Beat: ("a", 1, 1, "a", False, 1, 1, True, ()),
    }  # fmt: skip
    fields = [values[field.type] for field in msgspec.structs.fields(wanted)]
    packed = bytes(HEAD_SIZE) + msgspec.msgpack.encode([*fields, "new"])
    assert isinstance(talk.unpack(kind, packed), wanted)
