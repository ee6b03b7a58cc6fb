from hypothesis import given
from hypothesis import strategies as st

from pystrands.protocol.framing import LineSplitter

lines = st.lists(st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")), max_size=20)
cuts = st.lists(st.integers(min_value=1, max_value=30), min_size=1, max_size=40)


def feed(splitter, data, sizes):
    out, start, turn = [], 0, 0
    while start < len(data):
        size = sizes[turn % len(sizes)]
        out += splitter.feed(data[start : start + size])
        start, turn = start + size, turn + 1
    return out


@given(lines, cuts)
def test_any_split_gives_the_same_lines(sent, sizes):
    splitter = LineSplitter(1000)
    data = b"".join(line + b"\n" for line in sent)
    assert feed(splitter, data, sizes) == [line + b"\n" for line in sent if line]
    assert splitter.overlong == 0


@given(lines, cuts, st.integers(min_value=1, max_value=30))
def test_overlong_lines_are_dropped_whole_and_counted(sent, sizes, limit):
    """Those without a quote: what is left of one that has a number or a request's id is in test_remains.py."""
    sent = [line.replace(b'"', b"") for line in sent]
    splitter = LineSplitter(limit)
    data = b"".join(line + b"\n" for line in sent)
    assert feed(splitter, data, sizes) == [line + b"\n" for line in sent if 0 < len(line) <= limit]
    assert splitter.overlong == sum(len(line) > limit for line in sent)


@given(st.text(min_size=1).filter(lambda text: "\n" not in text))
def test_characters_are_never_split(text):
    splitter = LineSplitter(1000)
    assert feed(splitter, text.encode() + b"\n", [1]) == [text.encode() + b"\n"]


def test_memory_stays_bounded_while_a_line_never_ends():
    splitter = LineSplitter(100)
    for _ in range(1000):
        assert splitter.feed(b"x" * 64) == []
        assert sum(map(len, splitter._held)) <= 100
    assert splitter.overlong == 1
    assert splitter.feed(b"end\nnext\n") == [b"next\n"]


def test_a_line_of_exactly_the_limit_passes():
    splitter = LineSplitter(3)
    assert splitter.feed(b"abc\nabcd\nabc\n") == [b"abc\n", b"abc\n"]


def test_half_a_line_is_held():
    splitter = LineSplitter(10)
    assert splitter.feed(b"one\ntw") == [b"one\n"]
    assert splitter.feed(b"o\n") == [b"two\n"]
