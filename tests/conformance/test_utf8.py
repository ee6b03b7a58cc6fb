"""Text is UTF-8, wherever it is cut: RFC 6455, sections 5.6 and 8.1; RFC 3629."""

import itertools

import pytest

from tests.broker.ws.support import BINARY, CLOSE, CONT, PING, TEXT, frame
from tests.conformance.support import OCTETS, WHOLE, cut, fragments

# The first and last characters of each length, the neighbours of the surrogates, non-characters, and Greek.
EDGES = "\0\x7f\u0080\u07ff\u0800\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff"
NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF)) + "\ufdd0\ufdef"
GREEK = "\u03ba\u1f79\u03c3\u03bc\u03b5"
VALID = [
    *EDGES,
    EDGES,
    NONCHARACTERS,
    GREEK,
    "Hello-\u00b5@\u00df\u00f6\u00e4\u00fc\u00e0\u00e1-UTF-8!!",
    "\U0001f600\u0301" * 50,
]

INVALID = {
    "a continuation byte alone": [b"\x80", b"\xbf", b"\x80" * 2, b"\xbf" * 7, bytes(range(0x80, 0xC0))],
    "a first byte alone": [bytes([first]) for first in range(0xC0, 0xF8)],
    "a first byte and a space": [bytes([first, 0x20]) for first in (0xC3, 0xDF, 0xE1, 0xEF, 0xF1, 0xF4)],
    "the last byte missing": [char.encode()[:-1] for char in EDGES[2:]],
    "several of those": [b"".join(char.encode()[:-1] for char in EDGES[2:])],
    "bytes that UTF-8 does not use": [bytes([first]) + b"\x80" * 5 for first in (0xC0, 0xC1, *range(0xF5, 0x100))],
    "longer than it has to be": [
        b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf",
        b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80",
    ],
    "a surrogate": [
        b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80", b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xaf\xbf\xed\xbf\xbf",
    ],
    "beyond the last character": [
        b"\xf4\x90\x80\x80", b"\xf7\xbf\xbf\xbf", b"\xf8\x88\x80\x80\x80", b"\xfd\xbf\xbf\xbf\xbf\xbf",
    ],
}  # fmt: skip
BROKEN = [pytest.param(raw, id=f"{why}: {raw[:6].hex()}") for why, all_of_it in INVALID.items() for raw in all_of_it]
SOME_BROKEN = [pytest.param(all_of_it[0], id=why) for why, all_of_it in INVALID.items()]


@pytest.mark.parametrize("text", VALID)
def test_text_comes_back(peer, text):
    peer.send(frame(TEXT, text))
    peer.send_as(WHOLE, *fragments(TEXT, *cut(text.encode(), 1)))
    peer.send_as(OCTETS, frame(TEXT, text))
    peer.gets(*[(TEXT, text.encode())] * 3)
    peer.closes()


def test_text_may_be_cut_anywhere(peer):
    raw = (EDGES + GREEK).encode()
    for first, second in itertools.combinations_with_replacement(range(len(raw) + 1), 2):
        peer.send(b"".join(fragments(TEXT, raw[:first], raw[first:second], raw[second:])))
    for _ in itertools.combinations_with_replacement(range(len(raw) + 1), 2):
        peer.gets((TEXT, raw))


@pytest.mark.parametrize("raw", BROKEN)
def test_what_is_not_utf8_ends_the_connection(connect, raw):
    for before, after in ((b"", b""), (GREEK.encode(), b"after")):
        with connect() as peer:
            peer.send(frame(TEXT, before + raw + after))
            peer.is_closed_with(1007)
        with connect() as peer:
            peer.send(b"".join(fragments(TEXT, *cut(before + raw + after, 1))))
            peer.is_closed_with(1007)


@pytest.mark.parametrize("raw", SOME_BROKEN)
def test_it_does_so_however_it_is_cut(connect, raw):
    whole = GREEK.encode() + raw + b"after"
    for size in (1, 2, 3, 5):
        with connect() as peer:
            peer.send_as(OCTETS, *fragments(TEXT, *cut(whole, size)))
            peer.is_closed_with(1007)


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0", b"\xed\xa0", b"\xf4\x90", b"\xce\xce", b"\xf5"])
def test_the_message_need_not_be_over_for_that(peer, raw):
    peer.send(frame(TEXT, GREEK, fin=False) + frame(CONT, raw, fin=False))  # and nothing more
    peer.is_closed_with(1007)


@pytest.mark.parametrize("raw", [char.encode()[:-1] for char in EDGES[2:]])
def test_a_character_that_may_go_on_is_waited_for_to_the_last_part(peer, raw):
    peer.send(frame(TEXT, raw, fin=False) + frame(PING))
    assert peer.frame() == (10, b"")
    peer.send(frame(CONT, b""))
    peer.is_closed_with(1007)


def test_a_bad_text_after_a_good_one_lets_nothing_after_it_pass(peer):
    peer.send(frame(TEXT, GREEK) + frame(TEXT, b"\xff") + frame(PING) + frame(TEXT, "after"))
    peer.is_closed_with(1007, maybe=[(TEXT, GREEK.encode())])


@pytest.mark.parametrize("raw", SOME_BROKEN)
def test_binary_may_be_anything(peer, raw):
    peer.send_as(WHOLE, frame(BINARY, raw), *fragments(BINARY, *cut(raw, 1)))
    peer.gets((BINARY, raw), (BINARY, raw))


@pytest.mark.parametrize("raw", SOME_BROKEN)
def test_a_close_reason_is_text_too(peer, raw):
    peer.send(frame(CLOSE, b"\x03\xe8" + raw[:100]))
    peer.is_closed_with(1007)
