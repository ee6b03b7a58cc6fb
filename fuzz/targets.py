"""What is fuzzed: functions that take any bytes, and raise only when there is something to be mended.

Each lets the documented errors of what it tests pass, and checks what holds whatever comes.
"""

import contextlib
import json
import zlib
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
from tests.broker.doubles import FakeHandshake

from fuzz.doubles import Broker, Input, Loop, Transport, nothing_logged, pieces
from pystrands.broker.admission.handshake import Admission, Handshake
from pystrands.broker.admission.origins import AllowedOrigins
from pystrands.broker.admission.policy import AdmissionPolicy
from pystrands.broker.admission.proxies import TrustedProxies
from pystrands.broker.admission.upgrade import check_upgrade
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.net.http import BadRequestError, parse_request
from pystrands.broker.ws.deflate import Compressor, DeflatedReassembly, negotiate
from pystrands.broker.ws.frames import binary_frame, payload_of, text_frame
from pystrands.broker.ws.incoming import IncomingFrames
from pystrands.broker.ws.reading import ReadShared
from pystrands.broker.ws.reassembly import BadMessageError, Reassembly
from pystrands.broker.ws.websocket import Receiver, WebSocket, WebSocketShared
from pystrands.client.connection.session import BackendSession
from pystrands.engine.nats.link import NatsLink, NatsLinkOwner
from pystrands.engine.nats.protocol import Control, NatsParser, NatsProtocolError
from pystrands.engine.nats.transport import TransportOwner
from pystrands.errors import MalformedLine
from pystrands.protocol import wire
from pystrands.protocol.close_codes import close_code_is_valid
from pystrands.protocol.framing import LineSplitter
from pystrands.protocol.link import LinkSession, Receipt
from pystrands.protocol.messages import COMMANDS, EVENTS, Broken, Heartbeat, HelloParams, Unknown, message_content
from pystrands.protocol.remains import OVERLONG, remains_of
from pystrands.protocol.v1 import actions
from pystrands.protocol.v1.core import ClientCore
from pystrands.protocol.v1.envelope import BadFrameError, client_header, split

MAX_LINE: Final = 2000
MAX_MESSAGE: Final = 1000

UPGRADE: Final = (
    b"GET /room HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
DEFLATE: Final = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


# --- the link ----------------------------------------------------------------------------------------------------


def framing(data: bytes) -> None:
    """Lines are the same however reads cut them, and what is held is bounded."""
    source = Input(data)
    max_line, sizes, stream = source.byte(), source.take(source.byte() % 8), source.rest()
    splitter = LineSplitter(max_line)
    lines = []
    for piece in pieces(stream, sizes):
        lines += splitter.feed(piece)
        assert sum(map(len, splitter._held)) == splitter._held_size <= max_line
    *whole, rest = stream.split(b"\n")
    lines = [line for line in lines if not line.endswith(OVERLONG)]
    whole = [line for line in whole if not (line + b"\n").endswith(OVERLONG) or len(line) > max_line]
    assert lines == [line + b"\n" for line in whole if 0 < len(line) <= max_line]
    assert splitter.overlong == sum(len(line) > max_line for line in (*whole, rest))


def messages(data: bytes) -> None:
    """A line is a message, is unknown, or is broken; a message can be written, and is read as the same again.

    With a number at its end it keeps that, however broken the rest is.
    """
    for decoder in (EVENTS, COMMANDS):
        message = decoder.read(data)
        if isinstance(message, Broken):
            head = data.rstrip(b"}\n")
            numbered = decoder.read(head + b',"seq":987}\n')
            assert not isinstance(numbered, Broken) or numbered.seq in {987, remains_of(head).seq}
            continue
        if message is None or isinstance(message, Unknown):
            continue
        repr(message)
        if isinstance(message, Heartbeat):
            message.number("ask")
        params: Any = message.params
        if isinstance(getattr(params, "message", None), str):
            with contextlib.suppress(MalformedLine):
                message_content(params.message, params.binary)
        assert decoder.decode(msgspec.json.encode(message)) == message


def writing(data: bytes) -> None:
    """What one end writes is one line, and the other end reads what was meant."""
    source = Input(data)
    name = source.take(source.byte() % 32).decode("utf-8", "replace")
    content = source.rest()
    text = content.decode("utf-8", "replace")
    for message in (text, content):
        for line in (
            wire.message_to_room(name, message, exclude=[name] if name else ()),
            wire.message_to_connection(name, message),
            wire.broadcast(message, confirm_as=name),
        ):
            command = _one_line(COMMANDS, line)
            assert message_content(command.params.message, command.params.binary) == message
        context = wire.context_json(name, text, b"{}")
        event = _one_line(EVENTS, wire.new_message(context, message))
        assert message_content(event.params.message, event.params.binary) == message
        assert (event.params.context.client_id, event.params.context.room_id) == (name, text)
    assert _one_line(EVENTS, wire.disconnected(context, 1000, text)).params.reason == text
    asked = _one_line(EVENTS, wire.connection_request(name, text, text, {name: [text]}, name)).params
    assert (asked.url, asked.query_string, asked.headers) == (text, text, {name: [text]})
    said = _one_line(COMMANDS, wire.response(name, True, name, text, {name: text}, text, headers={name: text})).params
    assert (said.client_id, said.room_id, said.headers) == (name, text, {name: text})
    assert json.loads(bytes(said.metadata)) == {name: text}
    with contextlib.suppress(ValueError):  # a lone surrogate
        _one_line(COMMANDS, wire.broadcast(content.decode("utf-8", "surrogatepass")))


def _one_line(decoder: Any, line: bytes) -> Any:
    assert line.index(b"\n") == len(line) - 1
    message = decoder.decode(line)
    assert message is not None
    return message


def session(data: bytes) -> None:
    """A backend's session and the broker's, over links that fail: all arrives once and in order; nonsense is told."""
    source = Input(data)
    backend, broker = BackendSession("s", max_lines=8, max_bytes=500), LinkSession("s")
    pipe: deque[bytes] = deque()
    put: list[bytes] = []
    heard: list[bytes] = []
    backend.started()
    while source:
        operation = source.byte() % 8
        number = source.byte()
        if operation == 0 and backend.has_room:
            put.append(wire.message_to_connection("c", f"{len(put)} {number}"))
            _send(pipe, backend.put(put[-1]))
        elif operation == 1:
            _hear(broker, [pipe.popleft() for _ in range(min(number % 8, len(pipe)))], heard)
        elif operation == 2 and backend.is_up and (said := broker.acknowledgement()) is not None:
            assert backend.session.acknowledge(said)
        elif operation == 3:
            _try_nonsense(backend, broker, number)
        elif operation == 4:
            backend.lost()
            pipe.clear()
        elif operation == 5 and not backend.is_up:
            lines = backend.resumed(broker.received)
            assert lines is not None
            pipe.extend(lines)
        elif operation == 6:
            backend.finished(number)
            backend.collect_done()  # its line is lost with the link, or goes unread; its number must not be
            backend.lost()
            pipe.clear()
        elif operation == 7 and number == 7:
            backend.replaced("t", broker.received)
            broker = LinkSession("t")
            pipe.clear()
            backend.lost()
        kept = backend.session._kept
        assert backend.session.kept_bytes == sum(map(len, kept))
        assert backend.session.sent - backend.session.acknowledged == len(kept)
        sends = [line for line in heard if line.startswith(b'{"action":"message')]
        assert sends == put[: len(sends)], "not in order, or not once"
    backend.lost()
    lines = backend.resumed(broker.received)
    assert lines is not None
    _hear(broker, lines, heard)
    assert [line for line in heard if line.startswith(b'{"action":"message')] == put


def _send(pipe: deque[bytes], line: bytes) -> None:
    if line:
        pipe.append(line)


def _hear(broker: LinkSession, lines: list[bytes], heard: list[bytes]) -> None:
    for line in lines:
        rest, _, number = line.removesuffix(b"}\n").rpartition(b',"seq":')
        if broker.accept(int(number)) is Receipt.NEW:
            heard.append(rest + b"}\n")


def _try_nonsense(backend: BackendSession, broker: LinkSession, number: int) -> None:
    """Numbers from who knows whom change nothing, unless they are what could have come."""
    stream, received = backend.session, broker.received
    before = stream.acknowledged
    if number > stream.sent:
        assert not stream.acknowledge(number)
        assert backend.resumed(number) is None
    elif number < before:
        assert stream.acknowledge(number), "an old acknowledgement says nothing"
    if number != received + 1:
        assert broker.accept(number) is (Receipt.SEEN if 0 < number <= received else Receipt.GAP)
    assert (stream.acknowledged, broker.received) == (before, received)


def link(data: bytes) -> None:
    """Whatever a backend sends, and whenever, the broker answers in lines of the protocol, and fails on none of it."""
    source = Input(data)
    with Loop() as loop, nothing_logged():
        broker = Broker(loop, max_line=MAX_LINE)
        transports = [Transport(broker.make_link())]
        clients: list[FakeHandshake] = []
        while source:
            operation = source.byte()
            if operation == ord("+"):
                clients.append(FakeHandshake(broker.router))
                broker.router.connection_requests.connection_request(clients[-1])  # type: ignore[arg-type]
            elif operation == ord("-") and clients and (ws := clients.pop(0).ws) is not None:
                ws.gone()
            elif operation == ord("!") and clients and (ws := clients[-1].ws) is not None and ws.is_open:
                broker.router.client_message(ws, "m")
            elif operation == ord("~"):
                transports[-1].lose()
                transports.append(Transport(broker.make_link()))
            elif operation == ord("."):
                loop.advance(source.byte() / 10)
            elif operation == ord("<"):
                transports[-1].fill()
            elif operation == ord(">"):
                transports[-1].empty()
            elif operation == ord("\n"):  # a link beside the others
                transports.append(Transport(broker.make_link()))
            else:
                line = source.take(operation * 8 if operation else 1)
                transports[-1].receive(line)
            loop.advance()
            for transport in transports:
                if transport.is_closed:
                    transport.lose()
        for transport in transports:
            transport.lose()
            assert bytes(transport.written[-1:]) in (b"", b"\n")
            for line in bytes(transport.written).splitlines():
                assert isinstance(json.loads(line), dict)
        for client in clients:
            if client.ws is not None:
                client.ws.gone()
        loop.advance(3600)
        assert len(broker.rooms) == broker.rooms.room_count == len(broker.router.connection_requests) == 0
        assert all(each.is_expired for each in broker.backends.sessions)  # they wait for who takes their clients over
        last = Transport(broker.make_link())
        last.receive(wire.hello(HelloParams(protocol=2, session_id="the last one")))
        loop.advance()
        assert len(list(broker.backends.sessions)) == 1
        last.receive(LinkSession("").number(wire.BYE))
        assert not list(broker.backends.sessions)


# --- NATS --------------------------------------------------------------------------------------------------------


class _Nats(Control):
    """Keeps the calls of a parser."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.parser = NatsParser(self)
        self.parser.receiver = _NatsMessages(self.calls)

    def on_info(self, text: bytes) -> None:
        self.calls.append(("INFO", text))

    def on_ping(self) -> None:
        self.calls.append(("PING",))

    def on_pong(self) -> None:
        self.calls.append(("PONG",))

    def on_err(self, problem: str) -> None:
        self.calls.append(("-ERR", problem))


class _NatsMessages(TransportOwner):
    def __init__(self, calls: list[tuple[object, ...]]) -> None:
        self.calls = calls

    def on_connected(self) -> None:
        raise AssertionError

    def on_disconnected(self) -> None:
        raise AssertionError

    def on_message(self, sid: int, subject: bytes, reply: bytes, status: int, payload: bytes) -> None:
        assert b"\n" not in subject + reply
        assert 0 <= status <= 999
        self.calls.append((sid, subject, reply, status, payload))


class _NatsLinks(NatsLinkOwner):
    """Counts what is told of a link."""

    def __init__(self) -> None:
        self.lost = 0

    def link_informed(self, link: NatsLink) -> None:
        assert not self.lost
        assert link.max_payload > 0

    def link_complained(self, link: NatsLink, problem: str) -> None:  # noqa: ARG002 - an owner's
        assert not self.lost
        assert problem.isprintable()

    def link_lost(self, link: NatsLink) -> None:
        assert link.problem.isprintable()
        self.lost += 1


def nats(data: bytes) -> None:
    """What NATS says means the same however reads cut it, and is told of a link once; its silence ends the link."""
    source = Input(data)
    sizes, stream = source.take(source.byte() % 8), source.rest()
    whole, calls = _nats_calls(stream, b""), _nats_calls(stream, sizes or b"\x01")
    assert whole == calls
    with Loop() as loop, nothing_logged():
        some_loop: Any = loop
        owner = _NatsLinks()
        link = NatsLink(some_loop, owner, write_buffer=MAX_MESSAGE, ping_interval=10)
        transport = Transport(link)
        transport.receive(b"INFO {}\r\n")
        heard: list[tuple[object, ...]] = []
        link.begin(_NatsMessages(heard))
        for piece in pieces(stream, sizes):
            transport.receive(piece)
        loop.advance()
        if not transport.is_closed:
            assert transport.written == b"PONG\r\n" * calls.count(("PING",))
        loop.advance(40)
        assert transport.is_closed
        transport.lose()
        assert owner.lost == 1
        assert heard == [call for call in calls if isinstance(call[0], int)][: len(heard)]


def _nats_calls(stream: bytes, sizes: bytes) -> list[tuple[object, ...]]:
    heard = _Nats()
    try:
        for piece in pieces(stream, sizes):
            heard.parser.feed(piece)
    except NatsProtocolError:
        heard.calls.append(("error",))
    assert heard.parser.held_bytes <= len(stream)
    return heard.calls


# --- WebSocket clients -------------------------------------------------------------------------------------------


class _Receiver(Receiver):
    """The decider that lets everybody in, and who gets the messages. Text is sent back, binary messages are not."""

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.closed: list[int] = []
        self.waiting: set[Handshake] = set()

    def is_ready(self) -> bool:
        return True

    def connection_request(self, handshake: Handshake) -> None:
        self.waiting.add(handshake)
        assert handshake.path
        if handshake.query_string == "refuse":
            handshake.refuse(418, handshake.path)
        elif handshake.query_string != "wait":
            subprotocol = handshake.subprotocols[0] if handshake.subprotocols else None
            assert handshake.accept(subprotocol, [("X-Path", handshake.path)]) is not None

    def connection_gone(self, handshake: Handshake) -> None:
        self.waiting.remove(handshake)

    def client_message(self, ws: IncomingFrames, message: str | bytes) -> None:
        assert not self.closed
        assert len(message if isinstance(message, bytes) else message.encode()) <= MAX_MESSAGE
        self.messages.append(message)
        if isinstance(message, str):
            assert ws.send(text_frame(message)) or not ws.is_open or ws.queued

    def client_closed(self, ws: WebSocket, code: int, reason: str) -> None:  # noqa: ARG002 - a receiver's
        assert len(reason.encode()) <= 123
        self.closed.append(code)


def _admission(loop: Loop, receiver: _Receiver) -> Admission:
    some_loop: Any = loop
    shared = WebSocketShared(
        loop=some_loop,
        receiver=receiver,
        outbox=Outbox(some_loop, clock=loop.time),
        reads=ReadShared(some_loop),
        max_message_size=MAX_MESSAGE,
        max_controls=20,
    )
    policy = AdmissionPolicy(
        AllowedOrigins(local=True),
        TrustedProxies(["127.0.0.0/8", "::1"]),
        max_clients=1,
        max_per_address=1,
        counters=shared.counters,
    )
    return Admission(receiver, shared, max_head_size=MAX_LINE, policy=policy, compression=True)


def admission(data: bytes) -> None:
    """Whatever is said before a WebSocket is answered with HTTP, or not at all, and leaves nothing behind."""
    source = Input(data)
    sizes, stream = source.take(source.byte() % 8), source.rest()
    with contextlib.suppress(BadRequestError):
        request = parse_request(stream)
        check_upgrade(request)
        AllowedOrigins(["https://*.example.com", "http://example.com:8080"]).allow(request.headers)
        host, port = TrustedProxies(["127.0.0.1", "::/0"]).client(("127.0.0.1", 1), request.headers)
        assert host
        assert 0 <= port <= 65535
        negotiate(request.headers.get("Sec-Websocket-Extensions", ()))
    with Loop() as loop, nothing_logged():
        receiver = _Receiver()
        door = _admission(loop, receiver)
        transport = Transport(door.protocol_factory())
        for piece in pieces(stream, sizes):
            transport.receive(piece)
        loop.advance(3600)
        transport.lose()
        loop.advance(3600)
        assert not transport.written or transport.written.startswith(b"HTTP/1.1 ")
        assert not len(door)
        assert len(receiver.closed) == transport.written.startswith(b"HTTP/1.1 101 ")


def frames(data: bytes) -> None:
    """Frames mean the same however reads cut them; what is answered are frames, and the last of them is a close."""
    source = Input(data)
    options, sizes, stream = source.byte(), source.take(source.byte() % 8), source.rest()
    head = UPGRADE + DEFLATE * (options & 1) + b"\r\n"
    says_its_end = bool(options & 2)
    assert _talk(head, stream, b"", says_its_end) == _talk(head, stream, sizes or b"\x01", says_its_end)


def _talk(head: bytes, stream: bytes, sizes: bytes, says_its_end: bool) -> tuple[list[str | bytes], list[int]]:
    with Loop() as loop, nothing_logged():
        receiver = _Receiver()
        door = _admission(loop, receiver)
        transport = Transport(door.protocol_factory())
        transport.receive(head)
        loop.advance()
        assert transport.written.startswith(b"HTTP/1.1 101 ")
        del transport.written[: transport.written.index(b"\r\n\r\n") + 4]
        for piece in pieces(stream, sizes):
            transport.receive(piece)
        loop.advance()  # all that was read came in one turn, so that both ways write as much
        if says_its_end:
            transport.protocol.eof_received()
            assert len(receiver.closed) == 1
            loop.advance(3600)
            assert transport.is_closed, "nobody would have ended it"
        transport.lose()
        loop.advance(3600)
        assert len(receiver.closed) == 1
        assert not door.shared.lingering
        _check_answers(bytes(transport.written), receiver.closed[0])
        return receiver.messages, receiver.closed


def _check_answers(written: bytes, code: int) -> None:
    opcode = 0
    while written:
        assert opcode != 8, "something follows the close frame"
        assert written[0] & 0xF0 == 0x80, "a frame is not whole, or has reserved bits"
        opcode = written[0] & 0x0F
        assert opcode in (1, 2, 8, 10)
        size, at = written[1], 2
        assert size < 127
        if size == 126:
            size, at = int.from_bytes(written[2:4], "big"), 4
        payload, written = written[at : at + size], written[at + size :]
        assert len(payload) == size
        if opcode == 8 and payload:
            assert close_code_is_valid(int.from_bytes(payload[:2], "big"))
    assert (opcode == 8) == (code != 1006)


def assembly(data: bytes) -> None:
    """Fragments are the message, or what is wrong with it is found."""
    source = Input(data)
    text, limit, sizes, content = source.byte() % 2 == 1, source.number(), source.take(source.byte() % 8), source.rest()
    parts = [*pieces(content, sizes), b""]
    whole = Reassembly(text=text, limit=limit)
    result = _assembled(whole, parts)
    expected: str | bytes | int = content
    if text:
        try:
            expected = content.decode()
        except UnicodeDecodeError:
            expected = 1007
    if result != expected:
        assert (result, len(content) > limit) == (1009, True), "it is too long, or it is right"
    else:
        assert len(content) <= limit or result == 1007
    assert whole.size <= limit


def deflate(data: bytes) -> None:
    """Nothing inflates to more than the limit; what zlib makes of a message is read as that message."""
    source = Input(data)
    text, limit, sizes, content = source.byte() % 2 == 1, source.number(), source.take(source.byte() % 8), source.rest()
    result = _assembled(DeflatedReassembly(text=text, limit=limit), [*pieces(content, sizes), b""])
    if isinstance(result, str | bytes):
        assert len(result if isinstance(result, bytes) else result.encode()) <= limit
        if not text:
            inflater = zlib.decompressobj(-15)
            assert isinstance(result, bytes)
            assert result.startswith(inflater.decompress(content + b"\x00\x00\xff\xff"))
    counters: Counter[str] = Counter()
    frame = binary_frame(content)
    sent = Compressor(1 + limit % 9, limit % 100, counters).compress(frame, 9 + limit % 7)
    assert len(sent) <= len(frame)
    if sent[0] & 0x40:
        inflating = DeflatedReassembly(text=False, limit=len(content))
        assert _assembled(inflating, [*pieces(payload_of(sent), sizes), b""]) == content
    else:
        assert sent == frame
    at = limit % (len(content) + 1)
    blocks = _last_block(content[:at]) + _last_block(content[at:], content[:at][-32768:]) + b"\x00"
    assert _assembled(DeflatedReassembly(text=False, limit=len(content)), [*pieces(blocks, sizes), b""]) == content


def _last_block(data: bytes, before: bytes = b"") -> bytes:
    """Compress data to what says that nothing follows, and refers to what was before."""
    options = (9, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY)
    deflating = zlib.compressobj(*options, before) if before else zlib.compressobj(*options)
    return deflating.compress(data) + deflating.flush()


def _assembled(message: Reassembly, parts: list[bytes]) -> str | bytes | int | None:
    """Return the message, or the code with which its sender is closed."""
    for part in parts[:-1]:
        try:
            assert message.add(part, last=False) is None
        except BadMessageError as error:
            return error.code
    try:
        result = message.add(parts[-1], last=True)
    except BadMessageError as error:
        return error.code
    assert result is not None
    return result


# --- clients that come back ----------------------------------------------------------------------------------------


def headers(data: bytes) -> None:
    """A client takes whatever frames come, says only what a broker can read, and tells of each message once."""
    source = Input(data)
    core = ClientCore(lambda: 0.5)
    told: Counter[int] = Counter()
    now = 0.0
    _carry_out(core.start(now), told)
    for ident, line in enumerate(source.rest().split(b"\0"), 1):
        now += 1.0
        if core.state == "closed":
            _carry_out(core.start(now), told)
        _carry_out(core.send(ident, "x"), told)
        frame: str | bytes = line[1:]
        if line[:1] != b"b":
            frame = line[1:].decode(errors="replace")
        _carry_out(core.received(frame, now), told)
        with contextlib.suppress(BadFrameError):
            client_header(split(frame)[0])
        _carry_out(core.tick(now), told)
    _carry_out(core.close(), told)
    assert not len(core.outbox)
    assert set(told.values()) <= {1}


def _carry_out(todo: list[actions.Action], told: Counter[int]) -> None:
    for action in todo:
        if isinstance(action, actions.Write):
            client_header(split(action.frame)[0])
        elif isinstance(action, actions.Settle):
            told[action.ident] += 1


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (framing, messages, writing, session, link, nats, admission, frames, assembly, deflate, headers)
}
