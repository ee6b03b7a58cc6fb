"""One link, on a loop and a transport without a server: what a server could do to it."""

import pytest
from fuzz.doubles import Loop, Transport

from pystrands.engine.nats.link import NatsLink, NatsLinkOwner
from pystrands.engine.nats.protocol import NatsProtocolError
from tests.engine.nats.support import Owner


class Links(NatsLinkOwner):
    def __init__(self):
        self.told = []

    def link_informed(self, link):
        self.told.append(("informed", link.info.ldm, link.max_payload))

    def link_complained(self, link, problem):
        self.told.append(("complained", problem))

    def link_lost(self, link):
        self.told.append(("lost", link.problem))


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def owner():
    return Links()


@pytest.fixture
def link(loop, owner):
    return NatsLink(loop, owner, write_buffer=1000, ping_interval=10)


@pytest.fixture
def transport(link):
    transport = Transport(link)
    transport.receive(b'INFO {"max_payload":1000}\r\n')
    return transport


def test_what_a_server_says_of_itself_may_change(link, transport, owner):
    link.begin(Owner())
    assert link.max_payload == 1000
    transport.receive(b'INFO {"max_payload":2000,"ldm":true}\r\n')
    assert link.max_payload == 2000
    assert owner.told == [("informed", True, 2000)]


@pytest.mark.parametrize(
    "info",
    [b"{", b"[]", b"\xff", b'{"max_payload":"x"}', b'{"max_payload":0}', b'{"connect_urls":[1]}', b"[" * 100_000],
    ids=range(7),
)
def test_nonsense_about_itself_ends_the_link(link, transport, owner, info):
    link.begin(Owner())
    transport.receive(b"INFO " + info + b"\r\n")
    assert transport.is_closed
    transport.lose()
    ((what, problem),) = owner.told
    assert what == "lost"
    assert problem.startswith("does not speak the protocol of NATS: ")
    assert len(problem) < 500


def test_what_is_sent_in_the_clear_where_tls_begins_is_refused(loop, owner):
    for text in (b"PING", b"MSG s 1 2\r\nhi\r", b"\x16\x03\x01"):
        link = NatsLink(loop, owner, write_buffer=1000, ping_interval=10)
        transport = Transport(link)
        transport.receive(b"INFO {}\r\n" + text)
        with pytest.raises(NatsProtocolError, match="in the clear"):
            link.check_silence()


def test_messages_before_it_begins_are_dropped(link, transport):
    messages = Owner()
    transport.receive(b"MSG s 1 2\r\nhi\r\n")
    link.begin(messages)
    transport.receive(b"MSG s 1 2\r\nho\r\n")
    link.mute()
    transport.receive(b"MSG s 1 2\r\nhu\r\n")
    assert messages.payloads == [b"ho"]


def test_all_of_a_turn_is_one_write(link, transport, loop):
    writes = []
    transport.write = writes.append
    for number in range(10):
        link.write(b"%d" % number)
    assert writes == []
    loop.advance()
    assert writes == [b"0123456789"]
    link.write(b"x")
    loop.advance()
    assert writes[1:] == [b"x"]
    loop.advance()
    assert len(writes) == 2


def test_pings_are_answered(link, transport, loop):
    link.begin(Owner())
    transport.receive(b"PING\r\nPING\r\n")
    loop.advance()
    assert bytes(transport.written) == b"PONG\r\nPONG\r\n"


def test_answers_belong_to_pings_in_their_order(link, transport, loop):
    answered = []
    link.begin(Owner())
    link.ping(lambda: answered.append(1))
    loop.advance(10)  # one of its own, between
    link.ping(lambda: answered.append(2))
    loop.advance()
    assert bytes(transport.written) == b"PING\r\n" * 3
    for expected in ([1], [1], [1, 2], [1, 2]):
        transport.receive(b"PONG\r\n")
        assert answered == expected


def test_two_pings_may_miss_their_answer(link, transport, loop, owner):
    link.begin(Owner())
    loop.advance(25)
    transport.receive(b"MSG s 1 ")  # whatever it is, somebody is there
    loop.advance(20)
    assert not transport.is_closed
    loop.advance(10)
    assert transport.is_closed
    transport.lose()
    assert owner.told == [("lost", "does not answer")]
    loop.advance(1000)
    assert bytes(transport.written).count(b"PING") == 4


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("Authorization Violation", True),
        ("User Authentication Expired", True),
        ("Authentication Timeout", True),
        ("Stale Connection", False),
        ("Slow Consumer", False),
        ("maximum connections exceeded", False),
        ("Something New", False),
    ],
)
def test_errors_that_end_a_link(link, transport, owner, said, refused):
    link.begin(Owner())
    transport.receive(b"-ERR '%b'\r\n" % said.encode())
    assert transport.is_closed
    transport.lose()
    assert owner.told == [("lost", f"says: {said}")]
    assert link.is_refused is refused


@pytest.mark.parametrize(
    "said", ['Permissions Violation for Publish to "a"', "Invalid Subject", "maximum subscriptions exceeded"]
)
def test_errors_that_do_not(link, transport, owner, said):
    link.begin(Owner())
    transport.receive(b"-ERR '%b'\r\n" % said.encode())
    assert not transport.is_closed
    assert owner.told == [("complained", said)]


def test_what_a_server_says_does_not_steer_terminals(link, transport, owner):
    link.begin(Owner())
    transport.receive(b"-ERR 'Invalid Subject \x1b[2J\xff\xe2\x80\xae'\r\n")
    ((_, problem),) = owner.told
    assert problem.isprintable()


def test_the_end_is_told_once(link, transport, owner, loop):
    messages = Owner()
    link.begin(messages)
    link.ping(pytest.fail)
    expected = link.answer()
    transport.lose()
    assert owner.told == [("lost", "closed the connection")]
    assert expected.done()
    assert link.closed.done()
    link.write(b"x")
    link.close()
    link.abort("again")
    loop.advance(1000)
    assert link.problem == "closed the connection"
    assert (len(owner.told), link.held_bytes) == (1, 0)


def test_an_end_before_it_began_is_told_to_whoever_waits(loop, owner):
    link = NatsLink(loop, owner, write_buffer=1000, ping_interval=10)
    transport = Transport(link)
    expected = link.expect()
    link.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
    assert expected.done()
    assert link.problem == "broke the connection: [Errno 104] Connection reset by peer"
    assert owner.told == []
    assert transport.written == b""


def test_what_it_holds_is_counted(link, transport, loop):
    link.write(b"x" * 100)
    assert link.held_bytes == 100
    loop.advance()
    assert link.held_bytes == 0
    transport.receive(b"MSG s 1 1000\r\n" + b"x" * 50)
    assert link.held_bytes == 64
    transport.get_write_buffer_size = lambda: 7
    assert link.held_bytes == 71


def test_exposed_is_what_others_might_read(link, transport):
    assert not link.is_exposed
    peers: dict[str, object] = {"peername": ("192.0.2.1", 4222), "sockname": ("192.0.2.2", 1), "sslcontext": None}
    transport.get_extra_info = lambda name, default=None: peers.get(name, default)
    assert link.is_exposed
    assert link.host("sockname") == "192.0.2.2"
    peers["sslcontext"] = object()
    assert link.is_tls
    assert not link.is_exposed
