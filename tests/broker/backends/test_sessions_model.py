"""The broker's end of sessions joined to backends' ends by links that fail at any moment, against the promise.

Client to handler: at least once, each client's in order, repeats marked with the same number. Handler to client:
exactly once and in order while the session lives. One disconnect for each connection, after its last message.
No handler begins in a session that the broker has given up. Time is made up.
"""

import heapq
import itertools
import json
import math
from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pystrands.broker.backends.authenticator import LinkAuthenticator
from pystrands.broker.backends.greeting import Greeting
from pystrands.broker.backends.link import LinkShared, link_factory
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.events.stream import Kind
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.rooms import Rooms
from pystrands.client.connection.session import BackendSession
from pystrands.protocol import messages, wire
from pystrands.protocol.framing import LineSplitter
from pystrands.protocol.link import Receipt, lease_end, ranges
from tests.broker.doubles import FakeHandshake, make_router

pytestmark = pytest.mark.interpreted

RESUME_WINDOW = 5.0
NEVER = 1e12
RARELY = st.integers(0, 7).map(lambda number: number == 7)


class FakeLoop:
    """An event loop without I/O, whose time passes when a test says so."""

    def __init__(self):
        self.now = 0.0
        self.count = itertools.count()
        self.calls: list[tuple[float, int, Any]] = []

    def time(self):
        return self.now

    def call_later(self, delay, callback, *args):
        handle = Handle(callback, args)
        heapq.heappush(self.calls, (self.now + delay, next(self.count), handle))
        return handle

    def call_soon(self, callback, *args):
        return self.call_later(0, callback, *args)

    def advance(self, seconds):
        end = self.now + seconds
        while self.calls and self.calls[0][0] <= end:
            self.now, _, handle = heapq.heappop(self.calls)
            handle.run()
        self.now = end


class Handle:
    def __init__(self, callback, args):
        self.callback, self.args = callback, args

    def cancel(self):
        self.callback = None

    def run(self):
        if self.callback is not None:
            self.callback(*self.args)


class Engine:
    """Keeps what is published, with the broker that did."""

    def __init__(self):
        self.published: list[str] = []

    def subscribe(self, room_id):
        pass

    unsubscribe = subscribe

    def publish(self, publication):
        self.published.append(publication.message)
        return 1, 1


class Broker:
    """The real router and sessions on a fake loop."""

    def __init__(self, loop, engine, number):
        self.broker_id = f"broker {number}"
        counters: Counter[str] = Counter()
        self.counters = counters
        rooms = Rooms(Outbox(loop), engine.subscribe, engine.unsubscribe)
        queue = EventQueue(10**6, 10**9, "backpressure", counters)
        others: dict[str, Any] = {"hold_time": NEVER, "answer_timeout": NEVER}
        others["max_deliveries"] = 10**9  # rule 21 has tests of its own
        self.router: Any
        self.router, lifecycle, self.backends = make_router(
            loop, engine, rooms, queue, counters, **others, resume_window=RESUME_WINDOW
        )
        greeting = Greeting(
            messages.HelloParams(protocol=2, binary=True, broker_id=self.broker_id, resume_window=RESUME_WINDOW)
        )
        self.make_link = link_factory(
            LinkShared(loop=loop, owner=lifecycle,
                       authenticator=LinkAuthenticator(clock=loop.time, counters=counters),
                       greeting=greeting, max_line=10**6, link_buffer=10**6,
                       decision_time=NEVER, counters=counters)
        )  # fmt: skip


class Pipe:
    """A TCP connection; the broker's transport. Bytes move when a test says so; each side hears of its end apart."""

    def __init__(self, broker, backend):
        self.backend = backend
        self.to_broker = bytearray()
        self.to_backend = bytearray()
        self.is_cut = False
        self.is_closed = False
        self.broker_knows = False
        self.splitter = LineSplitter(10**6)
        self.link = broker.make_link()
        self.link.connection_made(self)

    def set_write_buffer_limits(self, high, low):
        pass

    def get_extra_info(self, name):
        return None

    def is_closing(self):
        return self.broker_knows or self.is_cut or self.is_closed

    def write(self, data):
        if not self.is_cut:
            self.to_backend += data

    def writelines(self, lines):
        self.write(b"".join(lines))

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def abort(self):
        """The broker ends it."""
        self.cut()

    def close(self):
        """The broker ends it when all has arrived."""
        self.is_closed = True
        self.arrived()

    def arrived(self):
        if self.is_closed and not self.to_backend:
            self.cut()

    def cut(self):
        """Lose all that is on its way."""
        self.is_cut = True
        self.to_broker.clear()
        self.to_backend.clear()

    def tell_broker(self):
        if not self.broker_knows:
            self.broker_knows = True
            self.link.connection_lost(None)


class Backend:
    """A backend's end, with handlers that begin and end when a test says so."""

    def __init__(self, machine, name):
        self.machine = machine
        self.name = name
        self.ids = itertools.count()
        self.core = BackendSession(self.new_id())
        self.broker_id = ""
        self.resuming = ""
        self.pipe: Pipe | None = None
        self.lanes: dict[str, deque[tuple[Any, Any]]] = {}  # by client_id: what was received and has not ended
        self.running: set[str] = set()
        self.put: list[str] = []
        """What was given to the session, in order."""
        self.owned: set[str] = set()
        self.is_leaving = False
        self.heard_leaving = False
        self.is_dead = False
        self.greeted = 0.0
        self.window = 0.0
        self.lease = math.inf
        """Until when handlers may begin (rule 18)."""

    def new_id(self):
        return f"{self.name}, session {next(self.ids)}"

    def __repr__(self):
        return self.name

    # --- out ---

    def write(self, data):
        if data and self.pipe is not None and not self.pipe.is_cut:
            self.pipe.to_broker += data

    def send(self, to_one):
        text = f"{self.name} {'one' if to_one else 'all'} {len(self.put)}"
        if not self.core.has_room or self.core.ended:
            return
        self.put.append(text)
        self.write(self.core.put(wire.message_to_connection("c", text) if to_one else wire.broadcast(text)))

    def ask(self):
        """Send the heartbeat that asks for the lease."""
        if self.core.is_up:
            self.write(wire.heartbeat_ask(self.machine.loop.now))

    # --- in ---

    def hear(self, data):
        pipe = self.pipe
        for line in pipe.splitter.feed(data):
            self.take(messages.EVENTS.decode(line))
            if self.pipe is not pipe:
                return

    def take(self, event):
        kind = type(event)
        if kind is messages.Hello:
            self.greet(event.params)
        elif kind is messages.Welcome:
            self.welcome(event.params)
        elif kind is messages.Received:
            assert self.core.session.acknowledge(event.params.seq)
        elif kind is messages.Heartbeat:
            asked = event.number("answer")
            if asked is not None:
                self.lease = max(self.lease, lease_end(asked, self.window))
        else:
            receipt = self.core.session.accept(event.seq)
            assert receipt is not Receipt.GAP
            if receipt is Receipt.NEW:
                self.handle(event)

    def handle(self, event):
        if isinstance(event, messages.Leaving):
            self.heard_leaving = True
        elif isinstance(event, messages.ConnectionRequest):
            client_id = self.machine.client_id()
            self.write(self.core.put(wire.response(event.request_id or "", True, client_id, "room", {})))
        elif self.is_leaving:
            self.release([event.seq])
        else:
            client_id = event.params.context.client_id
            self.lanes.setdefault(client_id, deque()).append((self.core.session, event))

    def greet(self, params):
        answer = messages.HelloParams(protocol=2, binary=True, role=messages.SENDER if self.is_leaving else "")
        self.resuming = ""
        if not self.broker_id:
            pass
        elif params.broker_id == self.broker_id:
            self.resuming = self.new_id()
            answer.resume, answer.next_session_id = True, self.resuming
            answer.received = self.core.session.received
        else:
            self.machine.lost(self, self.core.new_broker(self.new_id()))
            self.owned.clear()
            self.lease = math.inf
        self.greeted, self.window = self.machine.loop.now, params.resume_window
        self.broker_id = params.broker_id
        answer.session_id = self.core.session.session_id
        self.write(wire.hello(answer))

    def welcome(self, params):
        if params.resumed:
            lines = self.core.resumed(params.received or 0)
            assert lines is not None
        elif self.resuming:
            for client_id, lane in self.lanes.items():
                while len(lane) > (client_id in self.running):
                    lane.pop()
            self.owned.clear()
            lines, lost = self.core.replaced(self.resuming, params.received)
            self.machine.lost(self, lost)
        else:
            lines, _ = self.core.started()
        if not params.resumed:
            self.heard_leaving = False
        for line in lines:
            self.write(line)
        self.lease = lease_end(self.greeted, self.window)

    # --- handlers ---

    def startable(self):
        if self.machine.loop.now >= self.lease:
            return []
        return sorted(client_id for client_id, lane in self.lanes.items() if lane and client_id not in self.running)

    def start(self, client_id):
        self.running.add(client_id)
        session, event = self.lanes[client_id][0]
        if session is self.core.session:
            self.machine.handled(self, event)

    def end(self, client_id, *, sends):
        session, event = self.lanes[client_id].popleft()
        self.running.discard(client_id)
        if session is self.core.session:  # others are stale: what they send is discarded
            for number in range(sends):
                self.send(to_one=number % 2 == 0)
            self.core.finished(event.seq)

    def release(self, numbers):
        if numbers:
            self.write(self.core.put(wire.released(ranges(numbers))))

    def leave(self):
        self.is_leaving = True
        self.write(self.core.leave())
        numbers = []
        for client_id, lane in self.lanes.items():
            while len(lane) > (client_id in self.running):
                session, event = lane.pop()
                if session is self.core.session:
                    numbers.append(event.seq)
        self.release(numbers)

    def flush(self):
        self.write(self.core.collect_done())
        number = self.core.session.acknowledgement()
        if number is not None and self.core.is_up:
            self.write(wire.received(number))

    def lose(self):
        self.pipe = None
        self.core.lost()


class WebSocket:
    """One connection of a client, with what the model knows of it."""

    def __init__(self, number):
        self.number = number
        self.sent: list[str] = []
        self.first: list[str] = []
        """The messages whose first handling has begun, in order."""
        self.events: dict[str, int] = {}
        self.gone: list[bool] = []
        """Each disconnect that was handled: whether it was marked."""


class Sessions(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = FakeLoop()
        self.engine = Engine()
        self.count = itertools.count(1)
        self.broker = Broker(self.loop, self.engine, 1)
        self.backends: list[Backend] = []
        self.pipes: list[Pipe] = []
        self.handshakes: list[FakeHandshake] = []
        self.clients: dict[Any, WebSocket] = {}
        """By the broker's client."""
        self.lost_count: Counter[Backend] = Counter()
        self.next_id = "1"

    # --- what happens at the ends ---

    def client_id(self):
        return self.next_id

    def lost(self, backend, count):
        self.lost_count[backend] += count

    def open_sockets(self):
        for handshake in self.handshakes:
            ws = handshake.ws
            if ws is not None and ws.stream is not None and ws.stream not in self.clients:
                self.clients[ws.stream] = WebSocket(ws.stream.number)
        return [handshake.ws for handshake in self.handshakes if handshake.ws is not None and handshake.ws.is_open]

    def handled(self, backend, event):
        """Check an event whose handler begins, in a session that its backend believes to have."""
        self.open_sockets()
        lives = backend.core.session.session_id in {each.session_id for each in self.broker.backends.sessions}
        if backend.broker_id != self.broker.broker_id:
            return  # it was the old broker's
        assert lives, "a handler begins in a session that was given up: another backend may have been faster"
        context = event.params.context
        for other in self.backends:
            if other is not backend and other.broker_id == self.broker.broker_id and not other.is_dead:
                ids = {each.session_id for each in self.broker.backends.sessions}
                lane = other.lanes.get(context.client_id)
                if context.client_id in other.running and lane and lane[0][0] is other.core.session:
                    assert other.core.session.session_id not in ids, "two backends that live handle one client's events"
        if isinstance(event, messages.ClientAdopted):
            assert context.client_id not in backend.owned
            backend.owned.add(context.client_id)
        elif isinstance(event, messages.NewConnection):
            backend.owned.add(context.client_id)
        elif isinstance(event, messages.NewMessage):
            assert context.client_id in backend.owned, "it was neither let in here nor adopted"
            self.handled_message(event)
        elif isinstance(event, messages.Disconnected):
            backend.owned.discard(context.client_id)
            client = next(each for each in self.clients.values() if event.event in self.gone_numbers(each))
            assert event.redelivered or not client.gone
            client.gone.append(event.redelivered)

    def gone_numbers(self, client):
        """The broker's number of the disconnect follows from the order: messages of a connection say which it is."""
        return {client.events["gone"]} if "gone" in client.events else set()

    def handled_message(self, event):
        number, text = event.params.message.split(" ", 1)
        client = next(each for each in self.clients.values() if each.number == int(number))
        if text in client.first:
            assert event.redelivered
            assert client.events[text] == event.event
        else:
            assert not client.gone, "a message after the disconnect"
            assert text == str(len(client.first)), "out of order"
            client.first.append(text)
            client.events[text] = event.event

    # --- clients ---

    @initialize()
    def two_backends_and_two_clients(self):
        for _ in range(2):
            self.backend_comes(linked=True)
            self.client_comes("fresh", let_in=True)

    @rule(client_id=st.sampled_from(["fresh", "1", "2"]), let_in=st.booleans())
    def client_comes(self, client_id, let_in):
        self.next_id = f"fresh {next(self.count)}" if client_id == "fresh" else client_id
        handshake = FakeHandshake(self.broker.router)
        self.handshakes.append(handshake)
        self.broker.router.connection_requests.connection_request(handshake)
        if let_in:
            self.all_bytes_move()

    @precondition(lambda self: self.open_sockets())
    @rule(data=st.data(), count=st.sampled_from([1, 2, 40]))
    def client_sends(self, data, count):
        ws = data.draw(st.sampled_from(self.open_sockets()))
        client = self.clients[ws.client]
        for _ in range(count):
            text = str(len(client.sent))
            client.sent.append(text)
            self.broker.router.client_message(ws, f"{client.number} {text}")

    @precondition(lambda self: self.open_sockets())
    @rule(data=st.data())
    def client_goes(self, data):
        data.draw(st.sampled_from(self.open_sockets())).gone(1000)

    # --- links ---

    def connectable(self):
        return [each for each in self.backends if each.pipe is None and not each.is_dead]

    def linked(self):
        return [each for each in self.backends if each.pipe is not None]

    @precondition(lambda self: len([each for each in self.backends if not each.is_dead]) < 4)
    @rule(linked=st.booleans())
    def backend_comes(self, linked):
        self.backends.append(Backend(self, f"backend {len(self.backends)}"))
        if linked:
            self.open_pipe(self.backends[-1])
            self.all_bytes_move()

    @precondition(lambda self: self.connectable())
    @rule(data=st.data(), welcome=st.booleans())
    def connect(self, data, welcome):
        self.open_pipe(data.draw(st.sampled_from(self.connectable())))
        if welcome:
            self.all_bytes_move()

    def open_pipe(self, backend):
        backend.pipe = Pipe(self.broker, backend)
        self.pipes.append(backend.pipe)
        self.loop.advance(0)

    @rule()
    def all_bytes_move(self):
        """Four times: enough for a hello, a welcome, and what follows; and heartbeats, without which nothing begins."""
        for _ in range(4):
            for backend in self.linked():
                backend.ask()
                self.deliver_to_backend(backend)
                self.deliver_to_broker(backend)

    @precondition(lambda self: self.linked())
    @rule(data=st.data(), part=st.sampled_from([1.0, 1.0, 0.5, 0.1]), way=st.sampled_from(["both", "in", "out"]))
    def bytes_move(self, data, part, way):
        backend = data.draw(st.sampled_from(self.linked()))
        if way != "out":
            self.deliver_to_backend(backend, part)
        if way != "in":
            self.deliver_to_broker(backend, part)

    def deliver_to_backend(self, backend, part=1.0):
        self.loop.advance(0)
        pipe = backend.pipe
        if pipe is None or pipe.is_cut or not pipe.to_backend:
            return
        size = max(1, int(len(pipe.to_backend) * part))
        data = bytes(pipe.to_backend[:size])
        del pipe.to_backend[:size]
        backend.hear(data)
        pipe.arrived()

    def deliver_to_broker(self, backend, part=1.0):
        pipe = backend.pipe
        if pipe is not None and not pipe.is_cut and pipe.to_broker:
            size = max(1, int(len(pipe.to_broker) * part))
            data = bytes(pipe.to_broker[:size])
            del pipe.to_broker[:size]
            pipe.link.data_received(data)
        self.loop.advance(0)
        assert not self.broker.counters["links_broken"]
        assert not self.broker.counters["lines_malformed"]

    @precondition(lambda self: self.linked())
    @rule(data=st.data(), who=st.sampled_from(["both", "broker", "backend"]))
    def link_is_cut(self, data, who):
        """Whoever does not hear of it now does so later: the broker after the backend's next link, perhaps."""
        pipe = data.draw(st.sampled_from(self.linked())).pipe
        pipe.cut()
        if who != "backend":
            pipe.tell_broker()
        if who != "broker":
            pipe.backend.lose()

    @precondition(lambda self: any(each.startable() for each in self.linked()))
    @rule(data=st.data(), knows=st.booleans(), ways=st.integers(0, 2))
    def a_backend_is_paused_with_events_that_wait(self, data, knows, ways):
        """The broker gives up on it. It goes on before its end of the link does, perhaps, or with a new link."""
        backend = data.draw(st.sampled_from([each for each in self.linked() if each.startable()]))
        backend.pipe.cut()
        backend.pipe.tell_broker()
        self.loop.advance(RESUME_WINDOW + 1)
        if knows:
            backend.lose()
            self.open_pipe(backend)
            for _ in range(ways):
                self.deliver_to_backend(backend)
                self.deliver_to_broker(backend)

    @rule()
    def ends_are_noticed(self):
        for pipe in self.pipes:
            if pipe.is_cut:
                pipe.tell_broker()
                if pipe.backend.pipe is pipe:
                    pipe.backend.lose()
        self.loop.advance(0)

    @rule(seconds=st.sampled_from([0.2, 1.1, RESUME_WINDOW + 1]))
    def time_passes(self, seconds):
        self.loop.advance(seconds)

    # --- handlers ---

    @precondition(lambda self: any(each.startable() for each in self.backends if not each.is_dead))
    @rule(data=st.data(), sends=st.integers(0, 2), count=st.sampled_from([1, 50]), flush=st.booleans())
    def handlers_run(self, data, sends, count, flush):
        backend = data.draw(st.sampled_from([each for each in self.backends if each.startable() and not each.is_dead]))
        for _ in range(count):
            if backend.startable():
                client_id = backend.startable()[0]
                backend.start(client_id)
                backend.end(client_id, sends=sends)
        if flush:
            backend.flush()

    @precondition(lambda self: any(each.startable() for each in self.backends if not each.is_dead))
    @rule(data=st.data())
    def a_handler_begins(self, data):
        backend = data.draw(st.sampled_from([each for each in self.backends if each.startable() and not each.is_dead]))
        backend.start(data.draw(st.sampled_from(backend.startable())))

    @precondition(lambda self: any(each.running for each in self.backends if not each.is_dead))
    @rule(data=st.data(), sends=st.integers(0, 2))
    def a_handler_ends(self, data, sends):
        backend = data.draw(st.sampled_from([each for each in self.backends if each.running and not each.is_dead]))
        backend.end(data.draw(st.sampled_from(sorted(backend.running))), sends=sends)

    @rule()
    def all_flush(self):
        for backend in self.backends:
            if not backend.is_dead:
                backend.flush()

    @precondition(lambda self: any(not each.is_dead for each in self.backends))
    @rule(data=st.data(), to_one=st.booleans())
    def backend_sends(self, data, to_one):
        data.draw(st.sampled_from([each for each in self.backends if not each.is_dead])).send(to_one)

    # --- the end of backends and brokers ---

    def able_to_leave(self):
        return [each for each in self.backends if each.broker_id and not each.is_leaving and not each.is_dead]

    @precondition(lambda self: self.able_to_leave())
    @rule(data=st.data())
    def backend_leaves(self, data):
        """With a link or without."""
        data.draw(st.sampled_from(self.able_to_leave())).leave()

    @rule()
    def those_that_have_left_say_bye(self):
        for backend in self.backends:
            if backend.heard_leaving and not backend.running and not any(backend.lanes.values()):
                backend.write(backend.core.end())

    @rule()
    def those_whose_bye_is_acknowledged_end(self):
        for backend in self.backends:
            if backend.core.ended and backend.core.is_delivered and not backend.is_dead:
                self.end(backend)
                self.check_delivered(backend)

    @precondition(lambda self: any(not each.is_dead for each in self.backends))
    @rule(data=st.data(), really=RARELY)
    def backend_is_killed(self, data, really):
        if not really:
            return
        self.end(data.draw(st.sampled_from([each for each in self.backends if not each.is_dead])))

    def end(self, backend):
        backend.is_dead = True
        pipe = backend.pipe
        if pipe is not None:
            pipe.cut()
            pipe.tell_broker()
            backend.lose()

    @rule(really=RARELY)
    def the_broker_is_replaced(self, really):
        if not really:
            return
        for pipe in self.pipes:
            pipe.cut()
            if pipe.backend.pipe is pipe:
                pipe.backend.lose()
        self.pipes.clear()
        self.loop.calls.clear()
        self.handshakes.clear()
        self.clients.clear()
        self.broker = Broker(self.loop, self.engine, next(self.count) + 1000)

    # --- the promise ---

    @invariant()
    def commands_are_carried_out_once_and_in_order(self):
        published = self.engine.published
        assert len(set(published)) == len(published)
        for backend in self.backends:
            numbers = [int(text.rsplit(" ", 1)[1]) for text in published if text.startswith(f"{backend.name} ")]
            assert numbers == sorted(numbers)

    @invariant()
    def the_number_of_each_disconnect_is_noted(self):
        self.open_sockets()
        for stream, client in self.clients.items():
            for event in stream.waiting or ():
                self.note_gone(client, event)
        for session in self.broker.backends.sessions:
            for event in session.unfinished.values():
                if event.stream in self.clients:
                    self.note_gone(self.clients[event.stream], event)

    @staticmethod
    def note_gone(client, event):
        if event.kind is Kind.GONE:
            assert client.events.setdefault("gone", event.number) == event.number

    def teardown(self):
        """Whatever happened: with links that stay and a backend that stays, all is handled and carried out."""
        self.settle()

    def settle(self):
        self.backends.append(Backend(self, "the last one"))
        for handshake in self.handshakes:  # those that were never let in
            if handshake.ws is None and handshake.refused is None:
                self.broker.router.connection_requests.connection_gone(handshake)
        quiet = 0
        for _ in range(200):
            if quiet == 3:
                break
            before = self.progress()
            self.settle_a_little()
            self.loop.advance(RESUME_WINDOW + 1)
            quiet = quiet + 1 if self.progress() == before else 0
        assert quiet == 3, f"still something happens: {before}, {self.progress()}"
        self.check_all()

    def settle_a_little(self):
        self.ends_are_noticed()
        for backend in self.connectable():
            self.open_pipe(backend)
        for backend in self.linked():
            self.deliver_to_backend(backend)
            backend.ask()
            self.deliver_to_broker(backend)
            self.deliver_to_backend(backend)
            self.the_number_of_each_disconnect_is_noted()
            for client_id in sorted(backend.running):
                backend.end(client_id, sends=1)
            while backend.startable():
                client_id = backend.startable()[0]
                backend.start(client_id)
                backend.end(client_id, sends=1)
            backend.flush()
            self.deliver_to_broker(backend)
        self.those_that_have_left_say_bye()
        self.those_whose_bye_is_acknowledged_end()

    def check_all(self):
        for stream, client in self.clients.items():
            assert client.first == client.sent
            assert not stream.waiting and not stream.in_flight
            is_open = any(ws.stream is stream for ws in self.open_sockets())
            assert bool(client.gone) is not is_open
        self.commands_are_carried_out_once_and_in_order()
        for backend in self.backends:
            if not backend.is_dead:
                self.check_delivered(backend)
                assert not backend.is_leaving

    def check_delivered(self, backend):
        published = set(self.engine.published)
        missing = [text for text in backend.put if text not in published]
        assert len(missing) <= self.lost_count[backend], missing

    def progress(self):
        return (
            len(self.engine.published),
            [len(client.first) + len(client.gone) for client in self.clients.values()],
            [(each.is_dead, each.core.session.received, each.core.session.sent) for each in self.backends],
        )


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)


def test_a_line_of_the_model_is_a_line_of_the_wire():
    """The model's backend says what a client says."""
    session = BackendSession("s")
    session.started()
    assert json.loads(session.put(wire.broadcast("x")))["seq"] == 1
