import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pystrands.broker.ws.reassembly import BadMessageError, Reassembly

LIMIT = 10


def add(assembly, *parts):
    """Add parts, of which none is the last."""
    for part in parts:
        assert assembly.add(part, last=False) is None


def code_of(assembly, part, *, last=False):
    with pytest.raises(BadMessageError) as error:
        assembly.add(part, last=last)
    return error.value.code


def test_the_parts_of_a_message_are_joined():
    text, binary = Reassembly(text=True, limit=LIMIT), Reassembly(text=False, limit=LIMIT)
    for assembly in (text, binary):
        add(assembly, b"", b"one ", b"")
    assert text.add(b"two", last=True) == "one two"
    assert binary.add(b"two", last=True) == b"one two"
    assert Reassembly(text=True, limit=LIMIT).add(b"", last=True) == ""


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_a_message_may_have_its_limit_and_not_a_byte_more(text, last):
    assembly = Reassembly(text=text, limit=LIMIT)
    add(assembly, b"x" * 9, b"y", b"")
    assert code_of(assembly, b"z", last=last) == 1009
    assembly = Reassembly(text=text, limit=LIMIT)
    add(assembly, b"x" * 9)
    assert assembly.add(b"y", last=True) == ("x" * 9 + "y" if text else b"x" * 9 + b"y")


def test_text_is_refused_at_the_part_that_breaks_it():
    assembly = Reassembly(text=True, limit=LIMIT)
    add(assembly, b"\xe2", b"\x82")
    assert code_of(assembly, b"x") == 1007
    assembly = Reassembly(text=True, limit=LIMIT)
    add(assembly, b"\xe2\x82")
    assert code_of(assembly, b"", last=True) == 1007
    assembly = Reassembly(text=False, limit=LIMIT)
    add(assembly, b"\xe2\x82")
    assert assembly.add(b"", last=True) == b"\xe2\x82"


@given(st.binary(max_size=20) | st.text(max_size=8).map(str.encode), st.lists(st.integers(0, 20), max_size=5))
def test_wherever_text_is_cut_it_is_taken_exactly_if_it_is_utf8(raw, cuts):
    assembly = Reassembly(text=True, limit=100)
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    parts = [raw[start:end] for start, end in itertools.pairwise(edges)]
    try:
        got = str([assembly.add(part, last=index == len(parts) - 1) for index, part in enumerate(parts)][-1])
    except BadMessageError as error:
        got = f"closed with {error.code}"
    try:
        expected = raw.decode()
    except UnicodeDecodeError:
        expected = "closed with 1007"
    assert got == expected


def can_become_text(raw):
    """Tell whether something can be added to make it UTF-8."""
    for byte in (b"\x80", b"\xbf"):
        for count in range(4):
            try:
                (raw + byte * count).decode()
            except UnicodeDecodeError:
                continue
            return True
    return False


@given(
    st.lists(
        st.sampled_from([b"a", b"\x80", b"\x8f", b"\x90", b"\x9f", b"\xa0", b"\xbf", b"\xc2", b"\xe0", b"\xed"])
        | st.sampled_from([b"\xef", b"\xf0", b"\xf4", b"\xf5", b"\xff", b"\xc0"]),
        max_size=8,
    )
)
@example([b"\xed", b"\xa0"])
def test_text_is_refused_at_the_first_byte_that_can_not_be_there(octets):
    assembly = Reassembly(text=True, limit=100)
    taken = b""
    for octet in octets:
        if not can_become_text(taken + octet):
            assert code_of(assembly, octet) == 1007
            return
        add(assembly, octet)
        taken += octet
