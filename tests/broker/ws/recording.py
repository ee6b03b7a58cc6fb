"""A WebSocket on a transport that records, in a loop whose turns the test takes: no sockets, no time."""

import asyncio

from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.ws.incoming import BACKPRESSURE
from pystrands.broker.ws.reading import ReadShared
from pystrands.broker.ws.websocket import Receiver, WebSocket, WebSocketShared
from tests.broker.ws.support import Double


class FakeLoop(Double):
    """Runs what is called soon when told to; its clock stands still."""

    def __init__(self):
        self.ready = []
        self.now = 0.0

    def call_soon(self, function, *args):
        self.ready.append((function, args))

    def call_later(self, delay, function, *args):
        return asyncio.TimerHandle(delay, function, args, self)

    def get_debug(self):
        return False

    def _timer_handle_cancelled(self, handle):
        pass

    def create_future(self):
        return asyncio.Future(loop=self)

    def time(self):
        return self.now

    def run(self):
        while self.ready:
            ready, self.ready = self.ready, []
            for function, args in ready:
                function(*args)


class FakeTransport(Double):
    def __init__(self):
        self.calls = []
        self.written = b""
        self.protocol = None

    def write(self, data):
        self.calls.append("write")
        self.written += data

    def set_protocol(self, protocol):
        self.protocol = protocol

    def set_write_buffer_limits(self, high, low):
        self.limits = (high, low)

    def get_extra_info(self, name, default=None):
        return default

    def is_closing(self):
        return False

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.calls.append("write_eof")

    def get_write_buffer_size(self):
        return 0

    def pause_reading(self):
        self.calls.append("pause_reading")

    def resume_reading(self):
        self.calls.append("resume_reading")

    def abort(self):
        self.calls.append("abort")


class Recorder(Receiver):
    def __init__(self):
        self.messages = []
        self.closed = []

    def client_message(self, ws, message):
        assert not self.closed
        self.messages.append(message)

    def client_closed(self, ws, code, reason):
        self.closed.append(code)


def frames_in(data):
    """Return what a server wrote as (opcode, payload) of each frame; none may be longer than 65,535 bytes."""
    frames = []
    while data:
        start = 4 if data[1] == 126 else 2
        end = start + (int.from_bytes(data[2:4], "big") if start == 4 else data[1])
        frames.append((data[0] & 15, data[start:end]))
        data = data[end:]
    return frames


def fake_websocket(loop, receiver, **settings):
    asyncio._set_running_loop(loop)
    try:
        transport = FakeTransport()
        shared = WebSocketShared(loop=loop, receiver=receiver, outbox=Outbox(loop), reads=ReadShared(loop), **settings)
        ws = WebSocket(shared, transport, "192.0.2.1:5000")
        ws.attach(b"")
    finally:
        asyncio._set_running_loop(None)
    return ws, transport


def feed(transport, data, *, at_once=True):
    """Have a parser get data as from a transport, which reads no more while a read is put off: unless ``at_once``."""
    asyncio._set_running_loop(transport.protocol)
    try:
        while data:
            buffer = transport.protocol.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            parser = transport.protocol
            parser.buffer_updated(size)
            data = data[size:]
            ws = getattr(parser, "_ws", None)
            if at_once and ws is not None and ws.put_off:
                ws._parse_put_off()
    finally:
        asyncio._set_running_loop(None)


class Stepping(Receiver):
    """Takes so many messages before it pauses, and writes all down in the order in which it is told."""

    def __init__(self, step):
        self.step = self.left = step
        self.told = []

    def client_message(self, ws, message):
        assert not ws.paused & BACKPRESSURE
        self.told.append(message)
        self.left -= 1
        if not self.left:
            ws.pause_reading()

    def client_closed(self, ws, code, reason):
        self.told.append(code)

    def client_over(self, ws, code, reason):
        self.told.append("over")

    def go_on(self, loop, ws):
        """Let it take as many more, as often as it will."""
        while True:
            self.left = self.step
            before = len(self.told)
            ws.resume_reading()
            loop.run()
            if len(self.told) == before:
                return
