import contextlib
import re
import ssl
from collections import Counter

import pytest

from pystrands.broker.admission.handshake import Admission, Handshake
from pystrands.broker.admission.upgrade import switching_protocols
from pystrands.broker.net.http import HttpResponse
from tests.broker.ws.support import (
    CLOSE,
    KINDS,
    PATIENCE,
    TEXT,
    AcceptAll,
    Double,
    Front,
    Hold,
    close,
    frame,
    upgrade,
)

PAGES = {"/": ("text/html", b"<p>hello</p>")}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def front():
    with Front(pages=PAGES) as front:
        yield front


def ask(front, request):
    """Send a request, and return the status, the headers and the body of an answer after which the stream ends."""
    with front.raw() as client:
        client.send(request)
        head = client.head().decode()
        body = client.to_end()
    status, *lines = head.strip().split("\r\n")
    return int(status.split()[1]), {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}, body


# The request.


def test_the_answer_is_that_of_the_rfc(front):
    with front.raw() as client:
        client.send(upgrade())
        assert client.head() == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"connection": "keep-alive, Upgrade"},
        {"connection": ["keep-alive", "UPGRADE"]},
        {"upgrade": "WebSocket"},
        {"upgrade": "h2c, websocket"},
        {"content_length": "0"},
        {"host": ""},
        {"sec_websocket_extensions": "permessage-deflate; client_max_window_bits"},
        {"sec_websocket_key": "AAAAAAAAAAAAAAAAAAAAAA=="},
        {"x_long": "x" * 15_000},
    ],
)
def test_valid_upgrades(front, changes):
    with front.raw() as client:
        client.send(upgrade(**changes))
        head = client.head()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Extensions" not in head


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"host": None}, 400),
        ({"host": ["a", "b"]}, 400),
        ({"sec_websocket_key": None}, 400),
        ({"sec_websocket_key": "short"}, 400),
        ({"sec_websocket_key": "c2hvcnQ="}, 400),
        ({"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==x"}, 400),
        ({"sec_websocket_key": "dGhl IHNhbXBsZSBub25jZQ=="}, 400),
        ({"sec_websocket_key": "\xe9" * 24}, 400),
        ({"sec_websocket_key": ["dGhlIHNhbXBsZSBub25jZQ=="] * 2}, 400),
        ({"content_length": "5"}, 400),
        ({"content_length": "x"}, 400),
        ({"transfer_encoding": "chunked"}, 400),
        ({"x ": "space in a name"}, 400),
        ({"version": "HTTP/2.0"}, 400),
        ({"version": "HTTP/3.7"}, 400),
        ({"version": "HTTP/1.0"}, 426),
        ({"sec_websocket_version": None}, 426),
        ({"sec_websocket_version": "8"}, 426),
        ({"sec_websocket_version": ["13", "8"]}, 426),
        ({"upgrade": None}, 426),
        ({"upgrade": "h2c"}, 426),
        ({"connection": None}, 426),
        ({"connection": "keep-alive"}, 426),
        ({"method": "POST"}, 405),
        ({"method": "HEAD"}, 405),
        ({"method": "CONNECT"}, 405),
        ({"method": "NONSENSE"}, 400),
    ],
)
def test_invalid_upgrades(front, changes, status):
    got, headers, body = ask(front, upgrade("/ws", **changes))
    assert got == status
    assert headers["Connection"] == ("Upgrade, close" if status == 426 else "close")
    assert headers["Content-Length"] == str(len(body))
    assert body.endswith(b"\n")
    if status == 426:
        assert headers["Upgrade"] == "websocket"
        assert headers["Sec-WebSocket-Version"] == "13"
    if status == 405:
        assert headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/room/1?a=b&c=%20", "/room/1", "a=b&c=%20"),
        ("/a%2Fb/%E2%82%AC?x?y", "/a%2Fb/%E2%82%AC", "x?y"),
        ("//double/../dots", "//double/../dots", ""),
        ("/?", "/", ""),
        ("http://example.org/x?y", "/x", "y"),
        ("ws://example.org", "/", ""),
        ("http://example.org?q=1", "/", "q=1"),
    ],
)
def test_what_the_decider_gets_to_know(front, target, path, query):
    request = upgrade(
        target,
        x_token=["one", " two "],
        X_TOKEN="\xfc",
        sec_websocket_protocol=["chat, superchat", "last"],
    )
    with front.raw() as client:
        client.send(request)
        assert client.head().startswith(b"HTTP/1.1 101 ")
        host, port = client.socket.getsockname()
    handshake = front.decider.handshakes.queue[-1]
    assert (handshake.path, handshake.query_string) == (path, query)
    assert handshake.headers["X-Token"] == ["one", "two", "\xfc"]
    assert handshake.headers["Sec-Websocket-Key"] == ["dGhlIHNhbXBsZSBub25jZQ=="]
    assert handshake.subprotocols == ["chat", "superchat", "last"]
    assert handshake.remote_addr == f"{host}:{port}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_may_come_octet_by_octet(kind):
    with Front(kind) as front, front.raw() as client:
        for octet in b"\r\n" + upgrade() + frame(TEXT, "x"):
            client.send(bytes([octet]))
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert client.frame() == (TEXT, b"x")


# What is no upgrade.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "status", "kind_of_body", "body"),
    [
        ("/healthz", 200, "text/plain; charset=utf-8", b"ok\n"),
        ("/readyz", 200, "text/plain; charset=utf-8", b"ready\n"),
        ("/readyz?x", 200, "text/plain; charset=utf-8", b"ready\n"),
        ("/", 200, "text/html", b"<p>hello</p>"),
        ("/?x", 200, "text/html", b"<p>hello</p>"),
        (
            "/other",
            426,
            "text/plain; charset=utf-8",
            b"this is a WebSocket endpoint: connect with a WebSocket client\n",
        ),
    ],
)
def test_plain_requests(front, method, path, status, kind_of_body, body):
    got, headers, got_body = ask(front, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert got == status
    assert headers["Content-Type"] == kind_of_body
    assert headers["Content-Length"] == str(len(body))
    assert headers["Cache-Control"] == "no-store"
    assert headers["Connection"] == ("Upgrade, close" if status == 426 else "close")
    assert got_body == (body if method == "GET" else b"")


def test_a_health_check_may_be_old(front):
    assert ask(front, b"GET /healthz HTTP/1.0\r\n\r\n")[0] == 200


def test_a_page_path_is_a_websocket_path_too(front):
    front.connect("/").close()


def test_other_methods_are_told_what_this_is(front):
    assert ask(front, b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")[0] == 426


def test_not_being_ready(kind):
    with Front(kind) as front:
        front.decider.ready = False
        assert ask(front, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")[::2] == (503, b"not ready\n")
        assert ask(front, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200


def test_a_decider_that_cannot_tell_is_not_ready():
    class Broken(AcceptAll):
        def is_ready(self):
            raise RuntimeError

    with Front(decider=Broken()) as front:
        assert ask(front, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 503


# Attacks and accidents.


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x00\x01\x02", 400),
        (b"hello\r\n\r\n", 400),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 16_384, 431),
        (upgrade(x="x" * 16_384), 431),
        (b"A" * 100_000, 431),
    ],
)
def test_garbage(front, garbage, status):
    assert ask(front, garbage)[0] == status


def test_tls_on_a_plain_port_is_just_closed(kind):
    with Front(kind) as front, front.raw() as client:
        client.send(b"\x16\x03\x01\x02\x00\x01")
        with contextlib.suppress(ConnectionResetError):
            assert client.to_end() == b""
        assert front.counters["handshake_bad_request"] == 1


def test_a_slow_head_is_answered_with_408(kind):
    with Front(kind, handshake_timeout=0.01) as front:
        assert ask(front, b"GET / HTTP/1.1\r\n")[0] == 408
        assert ask(front, b"")[0] == 408
        assert front.counters["handshake_timeout"] == 2


def test_refusals_are_counted():
    with Front() as front:
        for request in (b"?", b"A" * 20_000, b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"):
            ask(front, request)
        assert front.counters == {
            "handshake_bad_request": 1,
            "handshake_head_too_large": 1,
            "handshake_not_websocket": 1,
        }


@pytest.mark.parametrize(
    "request_head", [b"A" * 20_000, b"GET /x HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n"]
)
def test_the_answer_arrives_though_the_peer_sends_on(kind, request_head):
    with Front(kind, close_timeout=30) as front:
        status, _, body = ask(front, request_head + b"x" * 500_000)
        assert status in (426, 431)
        assert body.endswith(b"\n")


def test_a_peer_that_does_not_close_is_cut_off(kind):
    with Front(kind, close_timeout=0.01) as front, front.raw() as client:
        client.send(b"?")
        assert client.head().startswith(b"HTTP/1.1 400 ")
        client.to_end()
        front.until(lambda: not len(front.admission))


@pytest.mark.parametrize("data", [b"", b"GET / HT"])
def test_a_peer_that_leaves_early_leaves_nothing(kind, data):
    with Front(kind, handshake_timeout=10 * PATIENCE) as front:
        client = front.raw()
        front.until(lambda: len(front.admission.handshakes))
        with front.standing():
            client.send(data + b" ")
            client.reset()
        front.until(lambda: not len(front.admission.handshakes))
        assert front.decider.gone.empty()


# The verdict.


def test_a_verdict_may_come_later_and_counts_once(kind):
    with Front(kind, decider=Hold()) as front, front.raw() as client:
        client.send(upgrade())
        handshake = front.decider.handshakes.get(timeout=PATIENCE)
        ws = front.call(front.decider.accept, handshake)
        assert ws.remote_addr == handshake.remote_addr
        assert front.call(handshake.accept) is None
        front.call(handshake.refuse, 403)
        assert client.head().startswith(b"HTTP/1.1 101 ")
        client.send_frame(TEXT, "x")
        assert client.frame() == (TEXT, b"x")
        assert not front.admission.handshakes


@pytest.mark.parametrize("decider", [AcceptAll, Hold])
def test_what_a_client_sends_early_comes_after_the_decider_knows_the_websocket(kind, decider):
    with Front(kind, decider=decider()) as front, front.raw() as client:
        client.send(upgrade() + frame(TEXT, "one") + frame(TEXT, "two")[:3])
        if decider is Hold:
            front.call(front.decider.accept, front.decider.handshakes.get(timeout=PATIENCE))
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert client.frame() == (TEXT, b"one")  # the double's receiver checks ws.client


def test_early_data_is_limited_and_not_lost(kind):
    with Front(kind, decider=Hold(), send_limit=1 << 30) as front, front.raw() as client:
        client.send(upgrade())
        handshake = front.decider.handshakes.get(timeout=PATIENCE)
        client.socket.setblocking(False)
        stream = b"".join(frame(TEXT, b"x" * 1000) for _ in range(20_000))
        sent = 0
        blocked = 0
        while blocked < 20:  # until the kernel has all it takes, and we no more
            try:
                sent += client.socket.send(stream[sent : sent + 65536])
                blocked = 0
            except (BlockingIOError, ssl.SSLWantWriteError):
                front.turn()
                blocked += 1
        assert front.call(lambda: len(handshake._buffer)) < 1_000_000
        client.socket.settimeout(PATIENCE)
        front.call(front.decider.accept, handshake)
        assert client.head().startswith(b"HTTP/1.1 101 ")
        for _ in range(sent // 1008):
            assert client.frame() == (TEXT, b"x" * 1000)


def test_a_websocket_that_is_closed_at_once_says_so(kind):
    class Closer(AcceptAll):
        def decide(self, handshake):
            ws = self.accept(handshake)
            ws.send(b"\x81\x02hi")
            ws.pause_reading()
            ws.close(4000)

    with Front(kind, decider=Closer()) as front, front.raw() as client:
        client.send(upgrade() + frame(TEXT, "never read") + close(1000))
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert client.frames_to_end() == [(TEXT, b"hi"), (CLOSE, b"\x0f\xa0")]
        assert front.closed()[0] == 4000
        assert front.receiver.messages.empty()


def test_a_websocket_that_is_aborted_at_once(kind):
    class Aborter(AcceptAll):
        def decide(self, handshake):
            self.accept(handshake).abort()

    with Front(kind, decider=Aborter()) as front, front.raw() as client:
        client.send(upgrade())
        assert front.closed()[0] == 1006
        with pytest.raises((ConnectionResetError, AssertionError)):
            client.frame()
        ws = front.websocket()
        front.until(lambda: ws.transport is None and not front.shared.lingering)


def test_a_websocket_that_is_closed_at_once_as_its_peer_leaves(kind):
    class Closer(AcceptAll):
        def decide(self, handshake):
            self.accept(handshake).close(4000)
            handshake._transport.close()  # as the loop does at the peer's end of stream

    with Front(kind, decider=Closer(), close_timeout=0.05) as front, front.raw() as client:
        client.send(upgrade())
        assert front.closed()[0] == 4000
        ws = front.websocket()
        front.until(lambda: ws.transport is None and not front.shared.lingering)


def test_much_that_is_sent_at_once_arrives(kind):
    class Sender(AcceptAll):
        def decide(self, handshake):
            ws = self.accept(handshake)
            for _ in range(100):
                ws.send(b"\x82\x7e\x27\x10" + b"x" * 10_000)

    with Front(kind, decider=Sender(), send_limit=1 << 30) as front, front.raw(receive_buffer=4096) as client:
        client.send(upgrade())
        client.head()
        for _ in range(100):
            assert client.frame() == (2, b"x" * 10_000)


@pytest.mark.parametrize(("offered", "chosen"), [("a, b", "b"), ("a", None), (None, None)])
def test_a_subprotocol_is_named_if_it_was_offered(offered, chosen):
    with Front(decider=Hold()) as front, front.raw() as client:
        client.send(upgrade(sec_websocket_protocol=offered))
        front.call(front.decider.accept, front.decider.handshakes.get(timeout=PATIENCE), "b", [("X-Node", "7")])
        head = client.head().decode()
        assert re.findall("Sec-WebSocket-Protocol: (.*)\r\n", head) == ([chosen] if chosen else [])
        assert "X-Node: 7\r\n" in head


@pytest.mark.parametrize(
    ("args", "status", "body"),
    [
        ((403,), 403, b"Forbidden\n"),
        ((403, "not today \N{SNOWMAN}"), 403, "not today \N{SNOWMAN}\n".encode()),
        ((503, "busy", [("Retry-After", "2")]), 503, b"busy\n"),
        ((302, "", [("Location", "/elsewhere")]), 302, b"Found\n"),
        ((599, ""), 599, b"\n"),
        ((304, "x"), 304, b""),
        ((101, ""), 403, b"\n"),
        ((200, "x"), 403, b"x\n"),
        ((1000, "x"), 403, b"x\n"),
    ],
)
def test_refusals(args, status, body):
    class Refuser(AcceptAll):
        def decide(self, handshake):
            handshake.refuse(*args)
            handshake.refuse(500)
            assert handshake.accept() is None

    with Front(decider=Refuser()) as front:
        got, headers, got_body = ask(front, upgrade())
        assert got == status
        assert got_body == body or status == 403
        for name, value in args[2] if len(args) > 2 else ():
            assert headers[name] == value
        assert front.counters["handshake_refused"] == 1


def test_a_refusal_may_come_later(kind):
    with Front(kind, decider=Hold()) as front, front.raw() as client:
        client.send(upgrade() + b"x" * 100_000)
        front.call(front.decider.handshakes.get(timeout=PATIENCE).refuse, 403, "no")
        assert client.head().startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert client.to_end() == b"no\n"
        assert front.decider.gone.empty()


@pytest.mark.parametrize("name", ["Bad Name", "", "X\r\nY", "Connection", "content-length", "Upgrade", "\u20ac"])
def test_headers_that_would_contradict_are_left_out(name):
    for answer in (
        HttpResponse(403, b"", headers=[(name, "v"), ("Good", "1")]).render(),
        switching_protocols("x", None, [(name, "v")]),
    ):
        assert f"\r\n{name}: v\r\n".encode() not in answer
    assert b"\r\nGood: 1\r\n" in HttpResponse(403, b"", headers=[(name, "v"), ("Good", "1")]).render()


def test_a_decider_that_raises_refuses(kind):
    class Broken(AcceptAll):
        def decide(self, handshake):
            raise RuntimeError

    with Front(kind, decider=Broken()) as front:
        assert ask(front, upgrade())[0] == 500


@pytest.mark.parametrize("way", ["close", "reset"])
def test_the_decider_hears_of_a_client_that_does_not_wait(kind, way):
    with Front(kind, decider=Hold()) as front:
        client = front.raw()
        client.send(upgrade())
        handshake = front.decider.handshakes.get(timeout=PATIENCE)
        getattr(client, way)()
        assert front.decider.gone.get(timeout=PATIENCE) is handshake
        assert front.call(handshake.accept) is None
        front.call(handshake.refuse, 403)
        assert not front.admission.handshakes


def test_an_error_of_the_decider_about_one_that_left_is_contained():
    class Broken(Hold):
        def connection_gone(self, handshake):
            super().connection_gone(handshake)
            raise RuntimeError

    with Front(decider=Broken()) as front:
        client = front.raw()
        client.send(upgrade())
        front.decider.handshakes.get(timeout=PATIENCE)
        client.reset()
        front.decider.gone.get(timeout=PATIENCE)


# Stopping.


def test_stopping_answers_all_that_wait(kind):
    with Front(kind, decider=Hold()) as front, front.raw() as reading, front.raw() as deciding, front.raw() as late:
        reading.send(b"GET / HT")
        deciding.send(upgrade())
        handshake = front.decider.handshakes.get(timeout=PATIENCE)
        while front.call(lambda: len(front.admission.handshakes)) < 3:
            front.turn()
        front.call(front.admission.close)
        for client in (reading, deciding, late):
            assert client.head().startswith(b"HTTP/1.1 503 ")
            assert client.to_end() == b"the server is going down\n"
        assert front.decider.gone.get(timeout=PATIENCE) is handshake
        assert front.decider.gone.empty()
        assert front.counters["handshake_stopping"] == 3
        assert ask(front, upgrade())[0] == 503
        assert ask(front, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 503


# What can't be brought about from outside.


class DeadTransport(Double):
    def __init__(self):
        self.closing = False
        self.aborted = False

    def get_extra_info(self, name, default=None):
        return default

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return self.closing

    def abort(self):
        self.aborted = True

    def write(self, data):
        raise RuntimeError("the handle is closed")


class Shared(Double):
    def __init__(self):
        self.loop = self
        self.close_timeout = 5.0
        self.counters = Counter()

    def time(self):
        return 0.0

    def call_at(self, *args):
        return self

    call_later = call_at

    def cancel(self):
        pass


def test_a_client_that_left_before_the_loop_says_so_is_not_accepted():
    decider = Hold()
    handshake = Handshake(Admission(decider, Shared()))
    transport = DeadTransport()
    handshake.connection_made(transport)
    handshake.data_received(upgrade())
    transport.closing = True
    assert handshake.accept() is None
    handshake.connection_lost(None)
    assert decider.gone.empty(), "accept() has said so"


def test_a_transport_that_fails_is_dropped():
    handshake = Handshake(Admission(Hold(), Shared()))
    transport = DeadTransport()
    handshake.connection_made(transport)
    handshake.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.aborted
    handshake.data_received(b"more")
    handshake.connection_lost(None)


# Too many.


def test_one_too_many_is_turned_away_on_every_transport(kind):
    with Front(kind, policy={"max_handshakes": 2}) as front:
        good = front.connect()
        with front.raw(), front.raw() as second:
            while front.call(lambda: len(front.admission.handshakes)) < 2:
                front.turn()
            with front.raw() as third:
                third.send(upgrade())
                assert third.head().startswith(b"HTTP/1.1 503 ")
                assert third.to_end().endswith(b"try again soon\n")
            second.send(upgrade())
            assert second.head().startswith(b"HTTP/1.1 101 ")
        good.send_frame(TEXT, "x")
        assert good.frame() == (TEXT, b"x")
        good.close()


def test_an_address_is_turned_away_on_every_transport(kind):
    with Front(kind, policy={"max_per_address": 2}) as front, front.connect() as good:
        with front.connect() as second, front.raw() as third:
            assert third.head().startswith(b"HTTP/1.1 429 ")
            third.to_end()
            second.send_frame(CLOSE)
            second.to_end()
        while front.call(lambda: sum(front.admission.policy.limits.addresses.values())) > 1:
            front.turn()
        front.connect().close()
        good.send_frame(TEXT, "x")
        assert good.frame() == (TEXT, b"x")
