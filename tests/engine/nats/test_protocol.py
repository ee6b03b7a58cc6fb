"""The protocol of NATS; the parser of NATS' own client is the judge."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.protocol.parser import Parser as Judge

from pystrands.engine.nats import protocol
from pystrands.engine.nats.protocol import MAX_CONTROL_LINE, MAX_INFO, Control, NatsParser, NatsProtocolError
from pystrands.engine.nats.transport import TransportOwner

Calls = list[tuple[object, ...]]


class Heard(Control):
    """Keeps the calls of a parser, in order."""

    def __init__(self) -> None:
        self.calls: Calls = []
        self.parser = NatsParser(self)
        self.parser.receiver = _Receiver(self.calls)

    def on_info(self, text):
        self.calls.append(("INFO", text))

    def on_ping(self):
        self.calls.append(("PING",))

    def on_pong(self):
        self.calls.append(("PONG",))

    def on_err(self, problem):
        self.calls.append(("-ERR", problem))

    def feed(self, data, sizes=(1 << 30,)):
        """Feed in reads of these sizes, over and over; a NatsProtocolError is the last call."""
        at, turn = 0, 0
        try:
            while at < len(data):
                size = sizes[turn % len(sizes)]
                self.parser.feed(data[at : at + size])
                at, turn = at + size, turn + 1
        except NatsProtocolError as error:
            self.calls.append(("error", str(error)))
        return self.calls


class _Receiver(TransportOwner):
    def __init__(self, calls):
        self.calls = calls

    def on_connected(self):
        raise AssertionError

    def on_disconnected(self):
        raise AssertionError

    def on_message(self, sid, subject, reply, status, payload):
        self.calls.append(("MSG", sid, subject, reply, status, payload))


subjects = st.from_regex(rb"\A[!-)+-~]{1,20}\Z")  # no white space
replies = st.one_of(st.just(b""), subjects)
payloads = st.binary(max_size=30)
cuts = st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=6)
sids = st.integers(min_value=0, max_value=10**9)


def written(call):
    """What a server writes for a call."""
    kind, *rest = call
    if kind == "MSG":
        sid, subject, reply, status, payload = rest
        head = b" ".join(filter(None, (subject, b"%d" % sid, reply)))
        if status:
            headers = b"NATS/1.0 %d\r\nA: b\r\n\r\n" % status
            sizes = len(headers), len(headers) + len(payload)
            return b"HMSG %b %d %d\r\n%b%b\r\n" % (head, *sizes, headers, payload)
        return b"MSG %b %d\r\n%b\r\n" % (head, len(payload), payload)
    if kind == "-ERR":
        return b"-ERR '%b'\r\n" % rest[0].encode()
    if kind == "INFO":
        return b"INFO %b\r\n" % rest[0]
    return kind.encode() + b"\r\n"


calls = st.one_of(
    st.tuples(st.just("MSG"), sids, subjects, replies, st.sampled_from([0, 0, 0, 100, 503]), payloads),
    st.just(("PING",)),
    st.just(("PONG",)),
    st.tuples(st.just("-ERR"), st.from_regex(r"\A[A-Za-z][A-Za-z ]{0,20}[a-z]\Z")),
    st.tuples(st.just("INFO"), st.text(max_size=20).map(lambda text: json.dumps({"a": text}).encode())),
)


@given(st.lists(calls, max_size=6), cuts)
def test_a_stream_means_the_same_wherever_it_is_cut(sent, sizes):
    stream = b"".join(map(written, sent))
    assert Heard().feed(stream) == sent
    heard = Heard()
    assert heard.feed(stream, sizes) == sent
    assert heard.parser.held_bytes == 0


@given(st.lists(calls, max_size=3), st.binary(max_size=30), cuts)
def test_nonsense_is_an_error_wherever_it_is_cut(sent, nonsense, sizes):
    stream = b"".join(map(written, sent)) + nonsense
    whole = Heard()
    assert whole.feed(stream)[: len(sent)] == sent
    in_pieces = Heard()
    in_pieces.feed(stream, sizes)
    kinds = [[call[0] if call[0] == "error" else call for call in heard.calls] for heard in (whole, in_pieces)]
    assert kinds[0] == kinds[1]


class Told:
    """What the judge calls."""

    def __init__(self):
        self.calls: Calls = []

    async def _process_msg(self, sid, subject, reply, payload, headers):
        status = int(headers[9:12]) if headers else 0
        self.calls.append(("MSG", sid, bytes(subject), bytes(reply), status, payload))

    async def _process_ping(self):
        self.calls.append(("PING",))

    async def _process_pong(self):
        self.calls.append(("PONG",))

    async def _process_info(self, info):
        self.calls.append(("INFO", json.dumps(info).encode()))

    async def _process_err(self, problem):
        self.calls.append(("-ERR", problem.strip("'")))


@given(st.lists(calls, max_size=6))
def test_the_judge_reads_the_same(sent):
    stream = b"".join(map(written, sent))
    told = Told()
    asyncio.run(Judge(told).parse(stream))
    heard = [(call[0], call[1].lower()) if call[0] == "-ERR" else call for call in Heard().feed(stream)]
    assert heard == told.calls


def test_ok_says_nothing():
    assert Heard().feed(b"+OK\r\n+OK\r\nPING\r\n") == [("PING",)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"NATS/1.0 503\r\n\r\n", 503),
        (b"NATS/1.0 503 No Responders\r\nA: b\r\n\r\n", 503),
        (b"NATS/1.0\r\nNats-Status: 503\r\n\r\n", 0),
        (b"NATS/1.0 5x3\r\n\r\n", 0),
        (b"NATS/1.0 50", 0),
        (b"HTTP/1.1 503\r\n\r\n", 0),
        (b"", 0),
    ],
)
def test_headers_are_anybodys_and_break_nothing(headers, status):
    stream = b"HMSG s 1 %d %d\r\n%bhi\r\n" % (len(headers), len(headers) + 2, headers)
    assert Heard().feed(stream) == [("MSG", 1, b"s", b"", status, b"hi")]


@pytest.mark.parametrize(
    "stream",
    [
        b"msg s 1 2\r\nhi\r\n",
        b"MSG s 2\r\nhi\r\n",
        b"MSG s 1 r 2 2\r\nhi\r\n",
        b"MSG  s 1 2\r\nhi\r\n",
        b"MSG s 1 -2\r\nhi\r\n",
        b"MSG s 1 +2\r\nhi\r\n",
        b"MSG s 1 1_0\r\n0123456789\r\n",
        b"MSG s 1 2 \r\nhi\r\n",
        b"MSG s x 2\r\nhi\r\n",
        b"MSG s 1 " + b"9" * 4000 + b"\r\nhi\r\n",
        b"MSG s 1 67108865\r\n",
        b"MSG s 1 2\r\nhi!!",
        b"MSG s 1 2\nhi\r\n",
        b"MESSAGE s 1 2\r\nhi\r\n",
        b"HMSG s 1 2\r\nhi\r\n",
        b"HMSG s 1 3 2\r\nhi\r\n",
        b"HMSG s 1 1 2\r\nhi!!",
        b"HELLO\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"PINGS\r\n",
        b"\r\n",
        b"\n",
        b"INFO\r\n",
    ],
)
@pytest.mark.parametrize("sizes", [(1 << 20,), (1,)], ids=["whole", "bytes"])
def test_malformed_is_an_error(stream, sizes):
    (call,) = Heard().feed(stream, sizes)
    assert call[0] == "error", call
    assert len(call[1]) < 500


@pytest.mark.parametrize("sizes", [(1 << 30,), (1,), (3,), (1000,)], ids=["whole", "bytes", "threes", "thousands"])
def test_lines_have_a_bound(sizes):
    longest = MAX_CONTROL_LINE - len(b"MSG  1 0")
    assert Heard().feed(b"MSG %b 1 0\r\n\r\n" % (b"s" * longest), sizes) == [("MSG", 1, b"s" * longest, b"", 0, b"")]
    assert Heard().feed(b"MSG %b 1 0\r\n\r\n" % (b"s" * (longest + 1)), sizes) == [("error", "a line is too long")]
    heard = Heard()
    assert heard.feed(b"s" * (MAX_CONTROL_LINE * 3), sizes) == [("error", "a line is too long")]
    assert heard.parser.held_bytes <= MAX_CONTROL_LINE + min(sizes[0], MAX_CONTROL_LINE * 3) + 1


@pytest.mark.parametrize("sizes", [(1 << 30,), (1, 10_000), (3, 10_000)], ids=["whole", "one first", "three first"])
def test_what_a_server_says_of_itself_may_be_longer(sizes):
    text = b"{%b}" % (b"x" * (MAX_INFO - len(b"INFO {}")))
    assert Heard().feed(b"INFO " + text + b"\r\n", sizes) == [("INFO", text)]
    assert Heard().feed(b"INFO x" + text + b"\r\n", sizes) == [("error", "a line is too long")]


def test_a_long_payload_in_small_reads_is_joined_once():
    payload = bytes(range(256)) * 4096
    heard = Heard()
    stream = b"MSG s 1 %d\r\n%b\r\n" % (len(payload), payload)
    heard.feed(stream, (1 << 10,))
    assert heard.calls == [("MSG", 1, b"s", b"", 0, payload)]


def test_without_a_receiver_messages_are_dropped():
    heard = Heard()
    heard.parser.receiver = None
    assert heard.feed(b"MSG s 1 2\r\nhi\r\nHMSG s 1 0 2\r\nhi\r\nPING\r\n") == [("PING",)]


# --- what a client says ---


def test_what_a_client_says():
    assert protocol.pub(b"s", b"hi") == b"PUB s 2\r\nhi\r\n"
    assert protocol.pub(b"s", b"hi", b"r") == b"PUB s r 2\r\nhi\r\n"
    assert protocol.pub(b"s", b"") == b"PUB s 0\r\n\r\n"
    assert protocol.hpub(b"s", b"hi", {"A": "b"}) == b"HPUB s 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n"
    assert protocol.hpub(b"s", b"hi", {}, b"r") == b"HPUB s r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
    assert protocol.sub(b"s", 17) == b"SUB s 17\r\n"
    assert protocol.unsub(17) == b"UNSUB 17\r\n"
    assert protocol.connect({"echo": False, "name": "ä\r\n"}) == b'CONNECT {"echo":false,"name":"\xc3\xa4\\r\\n"}\r\n'


@given(subjects, replies, payloads, st.booleans())
def test_what_is_published_is_read_as_it_was(subject, reply, payload, has_headers):
    """A server puts the subscription's number into it, and is done."""
    line = protocol.hpub(subject, payload, {"A": "b"}, reply) if has_headers else protocol.pub(subject, payload, reply)
    line = line.replace(b"PUB %b" % subject, b"MSG %b 7" % subject, 1)
    assert Heard().feed(line) == [("MSG", 7, subject, reply, 0, payload)]
