"""What the tests of the WebSocket side share: a front door with no broker behind it, and a raw client.

The front door has its event loop on a thread of its own, so that the tests are straight lines over blocking sockets.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import socket
import ssl
import struct
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from pystrands.broker.admission.handshake import Admission, Handshake
from pystrands.broker.admission.origins import AllowedOrigins
from pystrands.broker.admission.policy import AdmissionPolicy
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.client import ConnectedClient
from pystrands.broker.net.tls import Tls
from pystrands.broker.net.tls_server import TlsServer
from pystrands.broker.ws.frames import binary_frame, text_frame
from pystrands.broker.ws.reading import ReadShared
from pystrands.broker.ws.websocket import Receiver, WebSocketShared
from pystrands.testing import until_sync
from tests.certificates import Authority

PATIENCE = 20  # seconds after which a test gives up waiting for what must come

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KINDS = ["uvloop", "asyncio", "tls-uvloop", "tls-asyncio"]
"""The transports that a broker has: asyncio's where there is no uvloop."""


if TYPE_CHECKING:

    class Double(Any):  # type: ignore[misc]  # so that a double passes for what it stands in for
        pass
else:
    Double = object


class Echo(Receiver):
    """A receiver that sends everything back."""

    def __init__(self):
        self.messages = queue.Queue()
        self.closed = queue.Queue()
        self.over = queue.Queue()
        self.count = 0

    def client_message(self, ws, message):
        assert ws.client.client_id == "set by the decider"
        self.messages.put(message)
        ws.send(text_frame(message) if isinstance(message, str) else binary_frame(message))

    def client_closed(self, ws, code, reason):
        self.closed.put((code, reason, ws.closed_by_us))
        self.count += 1

    def client_over(self, ws, code, reason):
        self.over.put((code, reason))


class AcceptAll:
    """A decider that lets everyone in."""

    ready = True

    def __init__(self):
        self.handshakes = queue.Queue()
        self.gone = queue.Queue()
        self.websockets = queue.Queue()
        self.count = 0

    def connection_request(self, handshake):
        self.handshakes.put(handshake)
        self.decide(handshake)

    def decide(self, handshake):
        self.accept(handshake)

    def accept(self, handshake, *args, **kwargs):
        ws = handshake.accept(*args, **kwargs)
        if ws is not None:
            ws.client = ConnectedClient(1, "set by the decider", "room", b"{}", ws)
            self.count += 1
        self.websockets.put(ws)
        return ws

    def connection_gone(self, handshake):
        self.gone.put(handshake)

    def is_ready(self):
        return self.ready


class Hold(AcceptAll):
    """A decider that leaves the verdict to the test."""

    def decide(self, handshake):
        pass


class Front:
    """Admission and WebSockets on a loopback port, on a thread of their own. Use it as a context manager."""

    def __init__(
        self, kind="uvloop", *, receiver=None, decider=None, host="127.0.0.1", slow_policy="disconnect", **settings
    ):
        self.kind = kind
        self.tls = None
        self.receiver = receiver or Echo()
        self.decider = decider or AcceptAll()
        self.host = host
        self.counters = Counter()
        self._slow_policy = slow_policy
        names = ("max_head_size", "handshake_timeout", "pages", "policy", "compression")
        self._admission_settings = {name: settings.pop(name) for name in names if name in settings}
        if "policy" in self._admission_settings:
            options = {"origins": AllowedOrigins()} | self._admission_settings["policy"]
            self._admission_settings["policy"] = AdmissionPolicy(**options, counters=self.counters)
        self._settings = settings
        self.problems = []

    def __enter__(self):
        started = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(started,))
        self._thread.start()
        self.address = started.result(PATIENCE)
        return self

    def __exit__(self, *exc):
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if exc[0] is None:
            assert not self.problems, self.problems

    def call(self, function, *args, **kwargs):
        """Call `function` on the loop's thread, and return what it returns."""
        done = concurrent.futures.Future()

        def run():
            try:
                done.set_result(function(*args, **kwargs))
            except BaseException as error:
                done.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return done.result(PATIENCE)

    @contextlib.contextmanager
    def standing(self):
        """Have the loop stand still meanwhile: it will find all that was done at once."""
        stands, goes_on = threading.Event(), threading.Event()

        def stand():
            stands.set()
            goes_on.wait(PATIENCE)

        self.loop.call_soon_threadsafe(stand)
        assert stands.wait(PATIENCE)
        yield
        goes_on.set()

    def turn(self):
        """Wait until the loop has gone round twice: what was scheduled has run."""
        for _ in range(2):
            self.call(lambda: None)

    def until(self, condition):
        """Wait until `condition()`, called on the loop's thread, is true."""
        until_sync(lambda: self.call(condition), PATIENCE)

    def connect(self, path="/", *, extensions=None, **kwargs):
        """Return a client whose handshake is done; its `answer` is the response's head."""
        client = self.raw(**kwargs)
        client.send(upgrade(path, sec_websocket_extensions=extensions))
        client.answer = client.head()
        assert client.answer.startswith(b"HTTP/1.1 101 "), client.answer
        return client

    def url(self, path):
        return f"{'wss' if self.tls else 'ws'}://{self.address[0]}:{self.address[1]}{path}"

    def raw(self, **kwargs):
        return Client(self.address, tls=self.tls, **kwargs)

    def closed(self):
        """Wait for the next `client_closed`, and return its code and reason."""
        return self.receiver.closed.get(timeout=PATIENCE)[:2]

    def websocket(self):
        return self.decider.websockets.get(timeout=PATIENCE)

    def _run(self, started):
        try:
            factory = asyncio.new_event_loop if "asyncio" in self.kind else uvloop.new_event_loop
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(self._serve(started))
        except BaseException as error:
            self.problems.append(error)
            if not started.done():
                started.set_exception(error)

    async def _serve(self, started):
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self._stop = asyncio.Event()
        self.outbox = Outbox(self.loop, policy=self._slow_policy, counters=self.counters)
        self.shared = WebSocketShared(
            loop=self.loop,
            receiver=self.receiver,
            outbox=self.outbox,
            reads=ReadShared(self.loop),
            counters=self.counters,
            **self._settings,
        )
        self.admission = Admission(self.decider, self.shared, **self._admission_settings)
        transports = set()

        def factory():
            handshake = Watched(self.admission)
            handshake.transports = transports
            return handshake

        if "tls" in self.kind:
            server = await self._tls_server(factory)
        else:
            server = await self.loop.create_server(factory, self.host, 0)
        started.set_result(server.sockets[0].getsockname()[:2])
        await self._stop.wait()
        server.close()
        for transport in transports:
            transport.abort()
        for _ in range(3):  # until the transports have told their protocols, and closed
            await asyncio.sleep(0)
        self.shared.hangups.close()
        await server.wait_closed()

    async def _tls_server(self, factory):
        authority = Authority()
        self.tls = authority.trusting()
        with tempfile.TemporaryDirectory() as folder:
            tls = Tls(*authority.write(Path(folder)).values())
        server = TlsServer(
            lambda _slot, _began: factory(),
            tls,
            AdmissionPolicy(AllowedOrigins(), counters=Counter()),
            handshake_timeout=PATIENCE,
            shutdown_timeout=PATIENCE,
            max_handshakes=100,
            counters=Counter(),
        )
        await server.listen([self.host], 0, 100)
        return server


class Watched(Handshake):
    """A handshake that notes its transport, for the end of the test."""

    transports: set[asyncio.Transport]

    def connection_made(self, transport):
        self.transports.add(transport)
        super().connection_made(transport)


class Client:
    """A raw socket that knows frames. Every wait is bounded."""

    def __init__(self, address, *, receive_buffer=None, tls=None):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(tuple(address))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=address[0], suppress_ragged_eofs=False)
        self._read = b""
        self.answer = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def send_frame(self, *args, **kwargs):
        self.send(frame(*args, **kwargs))

    def head(self):
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def to_end(self):
        """Return everything up to the server's end of stream."""
        while self._more(required=False):
            pass
        rest, self._read = self._read, b""
        return rest

    def frame(self):
        """Return the next frame as (opcode, payload); it must be there, whole, plain and unmasked."""
        opcode, payload, rsv = self.any_frame()
        assert rsv == 0, "a server frame has no reserved bits"
        return opcode, payload

    def any_frame(self):
        """Return the next frame as (opcode, payload, reserved bits)."""
        first, second = self._take(2)
        assert first & 0x80, "a server frame is whole"
        assert second < 128, "a server frame is not masked"
        size = second
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
            assert size > 125
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
            assert size > 65535
        return first & 0xF, self._take(size), first >> 4 & 7

    def frames_to_end(self):
        frames = []
        while self._read or self._more(required=False):
            frames.append(self.frame())
        return frames

    def closing(self):
        """Return the codes of the frames up to the end of stream, with the code of the last, which must be a close."""
        frames = self.frames_to_end()
        assert frames, "there was no close frame"
        opcode, payload = frames.pop()
        assert opcode == CLOSE
        return frames, int.from_bytes(payload[:2], "big") if payload else None

    def _take(self, size):
        while len(self._read) < size:
            self._more()
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    def _more(self, *, required=True):
        try:
            data = self.socket.recv(1 << 20)
        except ssl.SSLEOFError as error:  # which is what a reset looks like through TLS
            raise ConnectionResetError from error
        assert data or not required, f"the stream ended after {self._read!r}"
        self._read += data
        return bool(data)


def frame(opcode, payload=b"", *, fin=True, rsv=0, mask=True):
    """Make a client's frame, right or wrong."""
    if isinstance(payload, str):
        payload = payload.encode(errors="surrogatepass")
    size = len(payload)
    first = fin << 7 | rsv << 4 | opcode
    flag = mask << 7
    if size < 126:
        head = struct.pack("!BB", first, flag | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, flag | 126, size)
    else:
        head = struct.pack("!BBQ", first, flag | 127, size)
    if not mask:
        return head + payload
    key = os.urandom(4)
    masked = int.from_bytes(payload, "big") ^ int.from_bytes((key * (size // 4 + 1))[:size], "big")
    return head + key + masked.to_bytes(size, "big")


def close(code=None, reason=b""):
    """Make a client's close frame."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def upgrade(path="/", **changes):
    """Make an upgrade request. Headers are given with `_` for `-`; None leaves one out, a list repeats it."""
    headers = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    method = changes.pop("method", "GET")
    version = changes.pop("version", "HTTP/1.1")
    names = {name.lower(): name for name in headers}
    for name, value in changes.items():
        dashed = name.replace("_", "-")
        headers[names.get(dashed.lower(), dashed)] = value
    lines = [f"{method} {path} {version}"]
    for name, value in headers.items():
        if value is not None:
            lines += [f"{name}: {one}" for one in (value if isinstance(value, list) else [value])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
