import itertools
import random
import tracemalloc
import zlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.net.http import BadRequestError
from pystrands.broker.ws.deflate import Compressor, DeflatedReassembly, negotiate, wire_limit
from pystrands.broker.ws.frames import binary_frame, close_frame, payload_of, ping_frame, text_frame
from pystrands.broker.ws.reassembly import BadMessageError

LIMIT = 1000
TEXT = "The quick brown fox jumps over the lazy dog. " * 20
NOISE = random.Random(7).randbytes(300)
SYNC = b"\x00\x00\xff\xff"
PLAIN_ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def deflated(data, *, wbits=15, level=6):
    deflate = zlib.compressobj(level, zlib.DEFLATED, -wbits)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(data, *, wbits=15):
    inflate = zlib.decompressobj(-wbits)
    return inflate.decompress(data + SYNC)


def assemble(*parts, text=False, limit=LIMIT):
    assembly = DeflatedReassembly(text=text, limit=limit)
    for part in parts[:-1]:
        assert assembly.add(part, last=False) is None
    return assembly.add(parts[-1], last=True)


def refusal(*parts, text=False, limit=LIMIT):
    """Return the code and the counter, and how many parts it took."""
    assembly = DeflatedReassembly(text=text, limit=limit)
    for index, part in enumerate(parts):
        try:
            assembly.add(part, last=index == len(parts) - 1)
        except BadMessageError as error:
            return error.code, error.counter, index + 1
    raise AssertionError("it was taken")


# Negotiation.


@pytest.mark.parametrize(
    ("offers", "bits", "answer"),
    [
        (["permessage-deflate"], 15, PLAIN_ANSWER),
        (["permessage-deflate; client_max_window_bits"], 15, PLAIN_ANSWER),
        (["permessage-deflate; client_max_window_bits=8"], 15, PLAIN_ANSWER),
        (['permessage-deflate; client_max_window_bits="10"'], 15, PLAIN_ANSWER),
        (["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], 15, PLAIN_ANSWER),
        (["permessage-deflate; server_max_window_bits=15"], 15, PLAIN_ANSWER + "; server_max_window_bits=15"),
        (["permessage-deflate;server_max_window_bits=9"], 9, PLAIN_ANSWER + "; server_max_window_bits=9"),
        (['permessage-deflate ;\tserver_max_window_bits = "1\\2"'], 12, PLAIN_ANSWER + "; server_max_window_bits=12"),
        (["x-webkit-deflate-frame, permessage-deflate"], 15, PLAIN_ANSWER),
        (['permessage-foo; x="10", permessage-bar; y; z=1,, permessage-deflate ,'], 15, PLAIN_ANSWER),
        (["permessage-bar", "permessage-deflate"], 15, PLAIN_ANSWER),
        (
            ["permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=10"],
            10,
            PLAIN_ANSWER + "; server_max_window_bits=10",
        ),
        (["permessage-deflate; server_max_window_bits=99", "permessage-deflate"], 15, PLAIN_ANSWER),
        (["permessage-deflate; server_max_window_bits=11, permessage-deflate"], 11, None),
    ],
)
def test_the_first_offer_that_can_be_kept_counts(offers, bits, answer):
    agreement = negotiate(offers)
    assert agreement is not None
    assert agreement.window_bits == bits
    assert agreement.answer == (answer or PLAIN_ANSWER + f"; server_max_window_bits={bits}")


@pytest.mark.parametrize(
    "parameters",
    [
        "unknown",
        "unknown=1",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits; client_max_window_bits=10",
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=8",  # zlib can't
        "server_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits=+10",
        "server_max_window_bits=ten",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=08",
        "Server_Max_Window_Bits=10",
    ],
)
def test_an_offer_that_is_not_valid_or_not_known_is_declined(parameters):
    assert negotiate([f"permessage-deflate; {parameters}"]) is None
    assert negotiate([f"permessage-deflate; {parameters}, permessage-deflate"]) is not None


@pytest.mark.parametrize("offers", [[], [""], [" , ,"], ["deflate-frame"], ["permessage-deflate-2; x"]])
def test_without_an_offer_of_it_there_is_no_agreement(offers):
    assert negotiate(offers) is None


@pytest.mark.parametrize(
    "value",
    [
        ";",
        "=",
        "permessage-deflate;",
        "permessage-deflate; =1",
        "permessage-deflate; server_max_window_bits=",
        'permessage-deflate; server_max_window_bits="1',
        'permessage-deflate; server_max_window_bits=""',
        'permessage-deflate; server_max_window_bits="1 0"',
        'permessage-deflate; server_max_window_bits="1,0"',
        "permessage-deflate permessage-deflate",
        "permessage-deflate; a b",
        "a/b",
        "x, \xe9",
    ],
)
def test_a_header_that_is_not_what_the_rfc_describes_is_refused(value):
    with pytest.raises(BadRequestError, match="Sec-WebSocket-Extensions"):
        negotiate([value])
    with pytest.raises(BadRequestError):
        negotiate(["foo", value])


@given(st.text(alphabet=' \t,;="\\adeflt-permsg10', max_size=40))
def test_any_header_is_judged_or_refused(value):
    for text in (value, "permessage-deflate" + value):
        try:
            agreement = negotiate([text])
        except BadRequestError:
            continue
        assert agreement is None or "permessage-deflate" in text


def test_a_long_header_is_judged_quickly():
    assert negotiate(["permessage-deflate; a, " * 1000 + 'b; c="' + "\\x" * 4000 + '"']) is None
    for end in ("\x00", '"', "; =", "\\"):
        with pytest.raises(BadRequestError):
            negotiate([" \t" * 4000 + "a; b=" + "x" * 4000 + " \t" * 4000 + end])


# What we send.


@pytest.fixture
def counters():
    return Counter()


@pytest.fixture
def compressor(counters):
    return Compressor(6, 100, counters)


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("size", [100, 125, 126, 5000, 65535, 65536, 200_000])
def test_a_compressed_frame_has_rsv1_and_the_same_message(compressor, counters, bits, size):
    payload = (TEXT.encode() * (size // len(TEXT) + 1))[:size]
    for plain, first in ((text_frame(payload.decode()), 0xC1), (binary_frame(payload), 0xC2)):
        frame = compressor.compress(plain, bits)
        assert frame[0] == first
        assert len(frame) < len(plain)
        assert not payload_of(frame).endswith(SYNC)
        assert inflated(payload_of(frame), wbits=bits) == payload
    assert counters["messages_compressed"] == 2


def test_nothing_refers_further_back_than_was_agreed(compressor):
    payload = NOISE[:200] + random.Random(8).randbytes(1000) + NOISE[:200]
    assert len(compressor.compress(binary_frame(payload), 9)) > len(compressor.compress(binary_frame(payload), 15))


def test_each_message_stands_for_itself(compressor):
    frames = {compressor.compress(text_frame(TEXT), 15) for _ in range(3)}
    assert len(frames) == 1


@pytest.mark.parametrize(
    "frame",
    [
        text_frame("x" * 99),
        text_frame(""),
        binary_frame(NOISE),
        ping_frame(b"x" * 125),
        close_frame(1000, "x" * 123),
    ],
)
def test_what_is_short_or_noise_or_control_is_sent_as_it_is(compressor, counters, frame):
    assert compressor.compress(frame, 15) is frame
    assert not counters


def test_the_threshold_is_in_bytes_of_payload(compressor):
    assert compressor.compress(text_frame("x" * 100), 15)[0] == 0xC1
    assert compressor.compress(text_frame("\N{EURO SIGN}" * 34), 15)[0] == 0xC1


def test_an_empty_message_is_never_compressed():
    empty = text_frame("")
    assert Compressor(9, 1, Counter()).compress(empty, 15) is empty


# What we get.


@pytest.mark.parametrize(
    "parts",
    [
        ["f248cdc9c90700"],
        ["f248cd", "c9c90700"],
        ["000500faff48656c6c6f00"],
        ["f348cdc9c9070000"],
        ["f2480500", "0000ffffcac9c90700"],
        ["f348cdc9c907", "00", "00"],
        ["f348cdc9c90700"],  # a last block, and nothing after it
        ["", "f248cdc9c90700", ""],
    ],
)
@pytest.mark.parametrize("text", [True, False])
def test_the_examples_of_the_rfc(parts, text):
    got = assemble(*(bytes.fromhex(part) for part in parts), text=text)
    assert got == ("Hello" if text else b"Hello")


def test_a_message_that_needs_the_one_before_it_is_refused():
    assert refusal(bytes.fromhex("f200110000"))[:2] == (1007, "bad_deflate")


@pytest.mark.parametrize("empty", [b"\x00", b"\x02\x00", b"\x03\x00", b"\x01\x00\x00\xff\xff"])
def test_an_empty_message_has_several_forms(empty):
    assert assemble(empty, text=True) == ""
    assert assemble(b"", empty, b"") == b""


def test_no_data_at_all_is_no_message():  # RFC 7692, section 7.2.3.6: there is at least one byte
    assert refusal(b"")[:2] == (1007, "bad_deflate")


@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode), st.sampled_from([TEXT.encode(), NOISE])),
    st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_FINISH]),
    st.integers(0, 9),
    st.integers(9, 15),
    st.lists(st.integers(0, 400), max_size=4),
)
def test_however_it_is_compressed_and_cut_the_message_is_the_same(message, flush, level, wbits, cuts):
    edges = [0, *sorted(min(cut, len(message)) for cut in cuts), len(message)]
    deflate = zlib.compressobj(level, zlib.DEFLATED, -wbits)
    stream = b""
    for start, end in itertools.pairwise(edges):  # several blocks, and with Z_FINISH several that are the last
        stream += deflate.compress(message[start:end])
        stream += deflate.flush(flush)
        if flush == zlib.Z_FINISH:
            deflate = zlib.compressobj(level, zlib.DEFLATED, -wbits)
    stream += deflate.flush(zlib.Z_SYNC_FLUSH)
    stream = stream[:-4] if stream.endswith(SYNC) else stream
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert assemble(*(stream[start:end] for start, end in itertools.pairwise(edges))) == message


def test_a_block_after_the_last_one_may_refer_to_what_was_before_it():
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = first.compress(NOISE) + first.flush(zlib.Z_FINISH)
    second = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=NOISE)
    more = second.compress(NOISE) + second.flush(zlib.Z_SYNC_FLUSH)
    assert len(more) < 20
    assert assemble(stream + more[:-4]) == NOISE * 2
    assert assemble(stream, more[:-4]) == NOISE * 2
    long = NOISE * 150  # more than the window
    assert assemble(deflated(long) + SYNC, stream, more[:-4], limit=100_000) == long + NOISE * 2


def test_blocks_that_say_they_are_the_last_are_limited():
    assert assemble(b"\x03\x00" * 64, b"\x00") == b""
    assert refusal(b"\x03\x00" * 66, b"\x00") == (1007, "bad_deflate", 1)
    assert refusal(*[b"\x03\x00"] * 66) == (1007, "bad_deflate", 66)


@pytest.mark.parametrize("size", range(1, 12))
def test_what_is_cut_off_is_refused(size):
    whole = deflated(TEXT.encode())
    assert refusal(whole[:-size])[:2] == (1007, "bad_deflate")


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x07", b"\xf2\x48\xcd\xc9\xc9\x07\x00\x07", b"Hello", b"\x00\x05\x00\xff\xff"]
)
def test_what_is_no_deflate_is_refused(data):
    assert refusal(data)[:2] == (1007, "bad_deflate")
    assert refusal(data, b"")[:2] == (1007, "bad_deflate")


def test_bad_data_is_refused_where_it_is_met():
    assert refusal(b"\x07", b"", b"")[2] == 1
    assert refusal(deflated(b"x" * 10) + SYNC, b"\x07", b"", b"")[2] == 2


def test_a_message_may_have_its_limit_and_not_a_byte_more():
    for message in (b"x" * LIMIT, NOISE * 3 + NOISE[:100]):
        data = deflated(message)
        assert assemble(data) == message
        assert assemble(*(bytes([octet]) for octet in data)) == message
        assert refusal(deflated(message + b"x"))[:2] == (1009, "message_too_big")
        assert refusal(*(bytes([octet]) for octet in deflated(message + b"x")))[:2] == (1009, "message_too_big")
        parts = deflated(message), SYNC + deflated(b"y"), b""
        assert refusal(*parts)[0::2] == (1009, 2)


def test_a_bomb_is_not_inflated():
    bomb = deflated(bytes(100_000_000), level=9)
    assert len(bomb) < wire_limit(1_000_000)
    tracemalloc.start()
    try:
        assert refusal(bomb, limit=1_000_000) == (1009, "message_too_big", 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000  # several copies of what may come out


def test_data_from_which_nothing_comes_out_is_limited():
    empty = b"\x00\x00\x00\xff\xff" * 100  # blocks without content
    code, counter, parts = refusal(*[empty] * 100)
    assert (code, counter) == (1009, "message_too_big")
    assert parts == wire_limit(LIMIT) // len(empty) + 1


def test_noise_of_the_full_size_fits():
    noise = random.Random(9).randbytes(100_000)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -9, 1)
    parts = [
        deflate.compress(noise[start : start + 256]) + deflate.flush(zlib.Z_SYNC_FLUSH)
        for start in range(0, len(noise), 256)
    ]
    assert assemble(*parts[:-1], parts[-1][:-4], limit=len(noise)) == noise


@pytest.mark.parametrize("broken", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
def test_text_is_checked_as_it_is_inflated(broken):
    start = deflated(b"good ") + SYNC
    assert refusal(start, deflated(broken), b"", text=True) == (1007, "bad_utf8", 2)
    assert assemble(start, deflated(broken)) == b"good " + broken
    assert refusal(deflated(b"\xe2\x82"), text=True)[:2] == (1007, "bad_utf8")
    assert assemble(deflated(b"\xe2") + SYNC, deflated(b"\x82\xac"), text=True) == "\N{EURO SIGN}"
