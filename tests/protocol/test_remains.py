"""Lines that can't be decoded: what is told of them is right all the same, above all their number."""

import json
import sys
import time
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.protocol import wire
from pystrands.protocol.framing import LineSplitter
from pystrands.protocol.link import LinkSession
from pystrands.protocol.messages import COMMANDS, EVENTS, Broken, Unknown
from pystrands.protocol.remains import Remains, remains_of

DEEP = b"[" * 5000 + b"]" * 5000
CONTENT = [
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'{"\\ud800":1}',
    b"1e999",
    b"-1e999",
    b"9" * 5000,
    b'"\xff"',
    b'{"\xc3":1}',
    DEEP,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"nope",
    b"{,}",
    b'"\x01"',
    b"7",
    b'{"client_id":7,"room_id":[],"seq":3}',
    b'[{"a":1,"seq":4}]',
    b'"\\",\\"seq\\":9}"',
]


def told(line, decoder=COMMANDS):
    """Return action, request_id and seq of a broken line."""
    broken = decoder.read(line)
    assert isinstance(broken, Broken), broken
    return broken.action, broken.request_id, broken.seq


@pytest.mark.parametrize("content", CONTENT)
def test_the_number_of_what_we_write_is_found_whatever_the_content_is(content):
    sender = LinkSession("s")
    sender.sent = 41
    context = b'{"client_id":"c","room_id":"r","metadata":' + content + b"}"
    lines = [
        sender.number(wire.new_message(context, "hello")),
        sender.number_event(wire.client_adopted(context), 70000, redelivered=False),
        sender.number_event(wire.new_connection(context), 70001, redelivered=True),
    ]
    assert [EVENTS.read(line).seq for line in lines] == [42, 43, 44]
    command = b'{"action":"message_to_room","request_id":"q","params":{"room_id":"r","message":' + content + b"}}\n"
    command = COMMANDS.read(sender.number(command))
    assert command.seq == 45


@pytest.mark.parametrize("content", [each for each in CONTENT if each[:1] != b"n"])
@pytest.mark.parametrize(
    "form",
    [
        b'{"action":"broadcast","request_id":"q","params":{"message":[%b]},"seq":5}',
        b'{"seq": 5, "action": "broadcast", "request_id": "q", "params": {"message": [%b]}}',
        b'{ "action" : "broadcast" , "params" : {"message": [%b]} , "seq" : 5 , "request_id" : "q" } ',
        b'\t{"params":{"message":{"seq":6,"action":"no","x":%b}},"seq":5,"action":"broadcast","request_id":"q","new":[]}',
        b'{"action":"broadcast","seq":4,"request_id":"q","params":[%b],"seq":5}',
        b'{"action":"broadcast","seq":5,"request_id":"\\u0071","params":{"message":[7,"}{",%b]},"event":8}',
    ],
)
def test_other_writers_may_put_the_number_elsewhere(form, content):
    assert told(form % content) == ("broadcast", "q", 5)


@pytest.mark.parametrize(
    ("line", "remains"),
    [
        (b"", Remains()),
        (b"[]", Remains()),
        (b'"seq"', Remains()),
        (b'[{"action":"bye","seq":4}]', Remains()),
        (b'{"action":"bye","seq":-4}', Remains("bye")),
        (b'{"action":"bye","seq":4.5}', Remains("bye")),
        (b'{"action":"bye","seq":"4"}', Remains("bye")),
        (b'{"action":"bye","seq":true}', Remains("bye")),
        (b'{"action":7,"request_id":8,"seq":4}', Remains(seq=4)),
        (b'{"action":"bye","params":{"a":1,"seq":4}}', Remains("bye")),
        (b'{"action":"bye","seq":4,"params":{"a":', Remains("bye", seq=4)),
        (b'{"action":"bye","seq":4,"params":{"a":1,"seq":9}', Remains("bye", seq=4)),
        (b'{"action":"\\ud800","params":"\xff","seq":4}', Remains(seq=4)),
        (b'{"seq":4', Remains()),
        (b'{"seq":' + b"4" * 30 + b',"a":}', Remains()),
    ],
)
def test_what_can_be_told(line, remains):
    assert remains_of(line) == remains


def test_an_unknown_action_is_no_fault_however_its_params_are():
    assert COMMANDS.read(b'{"action":"dance","params":1e999,"seq":5}') == Unknown(5)
    assert COMMANDS.read(b'{"action":"dance","params":1e999}') is None


def test_it_does_not_matter_how_deep_the_callers_are():
    def call(depth):
        return call(depth - 1) if depth else remains_of(b'{"action":"bye","params":' + DEEP + b',"seq":4}')

    assert call(sys.getrecursionlimit() - len(traceback.extract_stack()) - 20) == Remains("bye", seq=4)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just("\ud800") | st.just(float("inf")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("seq"), inner, max_size=3),
)


@given(
    json_values, st.permutations(["action", "request_id", "params", "seq"]), st.integers(1, 10**18 - 1), st.booleans()
)
def test_a_line_that_hangs_together_keeps_its_number(value, order, number, spaced):
    members = {"action": "broadcast", "request_id": "q", "params": {"x": value}, "seq": number}
    separators = (", ", ": ") if spaced else (",", ":")
    line = json.dumps({name: members[name] for name in order}, separators=separators).encode()
    assert told(line) == ("broadcast", "q", number)  # it has no message, to begin with
    assert EVENTS.read(line) == Unknown(number) or told(line, EVENTS)[2] == number


@given(st.binary() | st.text(alphabet='{}[]",:\\ 19seqaction').map(str.encode))
def test_any_bytes_give_an_answer(line):
    for decoder in (COMMANDS, EVENTS):
        decoder.read(line)
    remains_of(b'{"' + line)
    if not remains_of(line).seq:
        assert remains_of(b"\0" + line + b',"seq":77}\n').seq == 77


@pytest.mark.parametrize(
    "piece",
    [
        b"[]",
        b"[",
        b'"',
        b'\\"',
        b'"\\',
        b'"",',
        b'"a" ',
        b'"seq":1,',
        b',"seq":',
        b" ",
        b"1",
        b"\\",
        b'"a":',
        b"{",
        b"}",
    ],
)
def test_the_time_is_linear(piece):
    def seconds(size):
        line = b'{"a":\xff' + piece * (size // len(piece))
        start = time.process_time()
        remains_of(line)
        return time.process_time() - start

    assert min(seconds(4_000_000) for _ in range(2)) < 2  # what is quadratic would take hours


def test_a_line_that_is_too_long_keeps_its_number_and_its_place():
    sender = LinkSession("s")
    lines = [sender.number(wire.broadcast("x" * size)) for size in (1, 5000, 2)]
    for size in (1, 7, 64, 1000, 100_000):
        splitter = LineSplitter(1000)
        stream, read = b"".join(lines), []
        for start in range(0, len(stream), size):
            read += [COMMANDS.read(line) for line in splitter.feed(stream[start : start + size])]
        assert [line.seq for line in read] == [1, 2, 3]
        assert isinstance(read[1], Broken) and "longer" in read[1].problem
        assert splitter.overlong == 1
    splitter = LineSplitter(100)
    (line,) = splitter.feed(b'{"seq":7,"request_id":"q","action":"broadcast","params":"' + b"x" * 200 + b'"}\n')
    assert told(line) == ("broadcast", "q", 7)
    unnumbered = LineSplitter(100)
    assert unnumbered.feed(b"x" * 200 + b"\n" + b"y" * 20 + b"\n") == [b"y" * 20 + b"\n"]
