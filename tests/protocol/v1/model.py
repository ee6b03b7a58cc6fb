"""A broker, a network and backends for random schedules: all that may go wrong between them, and what must hold.

The clients are the real core; the broker is made of the real states, rings, numbers and frames, without its sockets.
"""

import random
from collections import deque

from pystrands.protocol.v1 import actions
from pystrands.protocol.v1.core import ClientCore
from pystrands.protocol.v1.envelope import client_header, json_text, split
from pystrands.protocol.v1.numbers import Numbers
from pystrands.protocol.v1.offer import SessionIds, name_of, parse_offer
from pystrands.protocol.v1.rings import Ring, Rings
from pystrands.protocol.v1.session import Receipt, SessionState, Tombstones

ROOMS = ("a", "b")
WINDOW = 60.0
PART = 60
"""Bytes of a part of a replay: a few frames."""


class Pipe:
    """A connection: two queues, and who knows whether it is open."""

    def __init__(self, owner):
        self.owner = owner
        self.up = deque()
        self.down = deque()
        self.at_client = self.at_broker = True
        self.session = None


class Event:
    """A message on its way to a handler."""

    def __init__(self, client, k, name, body, redelivered, asks):
        self.client = client
        self.k = k
        self.name = name
        self.body = body
        self.redelivered = redelivered
        self.asks = asks


class BrokerClient:
    """A session at the broker."""

    def __init__(self, state, pipe):
        self.state = state
        self.pipe = pipe
        self.events = deque()
        self.in_flight = deque()
        self.has_said_bye = False
        self.until = 0.0
        self.expected = []
        """(number, room, body) of all that its client is to get."""
        self.left = set()
        """Those of them that were sent to rooms before it left them: they come, or not (promise 4)."""
        self.questions = {}
        """By number: what it was asked."""
        self.answers = {}


class ModelBroker:
    """What the broker does with frames and connections."""

    def __init__(self, world, name):
        self.world = world
        self.numbers = world.numbers
        self.ids = SessionIds(name, b"key")
        self.rings = Rings(self.numbers, 100_000, WINDOW, messages=world.ring_messages)
        self.tombstones = Tombstones(WINDOW)
        self.rooms = {}
        self.clients = {}
        self.count = 0

    # connections

    def handshake(self, pipe, subprotocols):
        offer = parse_offer(subprotocols)
        number = self.ids.number(offer.resume.session) if offer.resume is not None else None
        client = self.clients.get(number)
        if client is None:
            found = None if number is None else self.tombstones.find(number, self.world.now)
            if found is not None:
                pipe.down.append(("close", *found))
            else:
                self.admit(pipe)
        elif not self.attempt_is_newer(client, offer.resume.attempt):
            pipe.down.append(("close", 4408, ""))
        else:
            self.take_back(client, pipe, offer.resume)

    @staticmethod
    def attempt_is_newer(client, attempt):
        return client.state.attempt_is_newer(attempt)

    def admit(self, pipe):
        self.count += 1
        state = SessionState(self.ids.make(self.count), self.count, most_private=self.world.most_private)
        client = self.clients[self.count] = BrokerClient(state, pipe)
        pipe.session = client
        self.world.sessions.append(client)
        self.join(client, None)
        self.join(client, "a")
        self.welcome(client, False)

    def welcome(self, client, resumed):
        state = client.state
        rooms = [ring.name for ring in state.joined if ring.name is not None]
        client.pipe.down.append(json_text({
            "t": "welcome", "session": state.session, "client": str(state.number), "resumed": resumed,
            "n": self.numbers.last, "epoch": "", "received": state.received, "done": state.done, "rooms": rooms,
        }))  # fmt: skip

    def take_back(self, client, pipe, resume):
        state, old = client.state, client.pipe
        if old is not None:
            self.end_pipe(old)
        state.attempt = resume.attempt
        state.seen(resume.seen)
        pipe.session, client.pipe = client, pipe
        self.welcome(client, True)
        for room in state.gaps(resume.seen):
            pipe.down.append('{"t":"gap","r":' + json_text(room) + "}")
        position, is_all = resume.seen, False
        while not is_all:
            entries, is_all = self.missed(client, position)
            for entry in entries:
                pipe.down.append(entry.frame.decode())
                position = entry.number
        pipe.down.append('{"t":"live"}')

    @staticmethod
    def missed(client, position):
        return client.state.missed(position, PART)

    def end_pipe(self, pipe):
        pipe.at_broker = False
        pipe.down.append(("close", 1006, ""))

    def lost(self, pipe, code=1006):
        """The broker notices that a connection is gone."""
        client = pipe.session
        pipe.at_broker = False
        if client is None or client.pipe is not pipe:
            return
        client.pipe = None
        if not self.is_kept(client) or client.has_said_bye or code == 1000:
            self.end(client)
        else:
            client.until = self.world.now + WINDOW

    @staticmethod
    def is_kept(client):
        return client.state.is_confirmed

    def end(self, client):
        if self.clients.pop(client.state.number, None) is None:
            return
        for ring in list(client.state.joined):
            del client.state.joined[ring]
            if self.rings.leave(ring):
                self.rooms.pop(ring.name, None)

    def disconnect(self, client, code):
        """A backend disconnects a client."""
        if client.pipe is None:
            self.tombstones.add(client.state.number, code, "", self.world.now)
        else:
            client.pipe.down.append(("close", code, ""))
            client.pipe.at_broker = False
            client.pipe = None
        self.end(client)

    # frames

    def frame(self, pipe, frame):
        client = pipe.session
        if not self.is_current(client, pipe):
            return
        client.state.is_confirmed = True
        if frame == "{}":
            pipe.down.append("{}")
            return
        header, body = split(frame)
        read = client_header(header)
        if read.k:
            receipt = self.receipt(client.state, read.k)
            assert receipt is not Receipt.GAP, "a number is missing"
            if receipt is Receipt.NEW:
                client.state.take(read.k)
                name = read.id or f"{client.state.name}-{read.k}"
                if read.re:
                    self.answered(client, read.re, body)
                    client.state.finish(read.k)
                else:
                    client.events.append(Event(client, read.k, name, body, bool(read.id), bool(read.q)))
        elif read.seen >= 0:
            client.state.seen(read.seen)
        elif read.t == "bye":
            client.has_said_bye = True

    @staticmethod
    def is_current(client, pipe):
        return client is not None and client.pipe is pipe

    @staticmethod
    def receipt(state, k):
        return state.receipt(k)

    @staticmethod
    def answered(client, number, body):
        assert number in client.questions, "an answer to another session"
        assert number not in client.answers, "answered twice"
        client.answers[number] = body

    # rooms and messages

    def join(self, client, room):
        ring = self.rooms.get(room)
        if ring is None:
            ring = self.rooms[room] = Ring(room)
        if ring not in client.state.joined:
            self.rings.enter(ring)
            client.state.joined[ring] = self.numbers.next(self.world.now)
            if room is not None and client.pipe is not None and client.pipe.down:
                self.private(client, f',"t":"joined","r":"{room}"', None)

    def leave(self, client, room):
        ring = self.rooms.get(room)
        if ring is not None and ring in client.state.joined:
            del client.state.joined[ring]
            client.left.update(each for each in client.expected if each[1] == room)
            if self.rings.leave(ring):
                del self.rooms[room]
            self.private(client, f',"t":"left","r":"{room}"', None)

    def members(self, room):
        ring = self.rooms.get(room)
        return [client for client in self.clients.values() if ring in client.state.joined]

    def publish(self, room, body, excluded=()):
        ring = self.rooms.get(room)
        if ring is None:
            return
        number = self.numbers.next(self.world.now)
        frame = f'{{"n":{number}{ring.suffix.decode()}{body}'
        members = [client for client in self.members(room) if client not in excluded]
        self.rings.add(ring, number, frame.encode(), frozenset(each.state.number for each in excluded) or None)
        for client in members:
            client.expected.append((number, room, body))
            if client.pipe is not None:
                client.pipe.down.append(frame)

    def private(self, client, header, body):
        number = self.numbers.next(self.world.now)
        frame = f'{{"n":{number}{header}}}' + ("" if body is None else "\n" + body)
        if header.startswith(',"q"'):
            client.questions[number] = body
        elif body is not None and not header:
            client.expected.append((number, None, body))
        client.state.retain(number, frame.encode())
        if client.pipe is not None:
            client.pipe.down.append(frame)

    # backends

    def finished(self, event):
        state = event.client.state
        if event.asks and not event.client.has_said_bye:
            self.private(event.client, f',"re":{event.k}', f"re:{event.body}")
        state.finish(event.k)
        if event.client.pipe is not None and state.untold:
            state.told_done = state.done
            event.client.pipe.down.append(f'{{"done":{state.done}}}')

    def dropped(self, event):
        self.private(event.client, f',"re":{event.k},"err":{{"code":"dropped"}}', None)
        event.asks = False
        self.finished(event)


class Page:
    """A client: the real core, with what its user sees."""

    def __init__(self, world, core, name):
        self.world = world
        self.name = name
        self.core = core
        self.pipe = None
        self.got = {}
        """By session: what was delivered."""
        self.gaps = {}
        self.settled = {}
        self.sent = 0
        self.requests = set()
        self.asked = []
        """What it was asked and has not answered: its session then, the number, the question."""
        self.heard = []
        """All of that."""

    def do(self, todo):
        for action in todo:
            if isinstance(action, actions.Dial):
                self.pipe = Pipe(self)
                self.world.dials.append((self.pipe, action.subprotocols))
            elif isinstance(action, actions.Write):
                self.pipe.up.append(action.frame)
            elif isinstance(action, actions.Close | actions.Abandon):
                if isinstance(action, actions.Close):
                    self.pipe.up.append(("close", action.code))
                self.pipe.at_client = False
            elif isinstance(action, actions.Deliver):
                self.got.setdefault(self.core.session, []).append((action.number, action.room, action.body))
            elif isinstance(action, actions.Resumed):
                self.gaps.setdefault(self.core.session, set()).update(action.gaps)
            elif isinstance(action, actions.Settle):
                assert action.ident not in self.settled, "settled twice"
                assert action.code or action.ident not in self.requests, "settled without its reply"
                self.settled[action.ident] = action.code
            elif isinstance(action, actions.Replied):
                assert action.ident not in self.settled, "settled twice"
                assert action.body == f"re:{self.name}:{action.ident}", "the reply to another request"
                self.settled[action.ident] = ""
            elif isinstance(action, actions.Ask):
                self.asked.append((self.core.session, action.number, action.body))
                self.heard.append(self.asked[-1])

    def send(self):
        self.sent += 1
        asks = self.world.random.random() < 0.4
        if asks:
            self.requests.add(self.sent)
        self.do(self.core.send(self.sent, f"{self.name}:{self.sent}", asks=asks))

    def answer(self):
        """Answer something that it was asked, in whatever session that was."""
        _, number, body = self.asked.pop(self.world.random.randrange(len(self.asked)))
        self.do(self.core.answer(number, f"a:{body}"))


class World:
    """Everything, and what happens to it by a fixed random number."""

    def __init__(self, seed, broker=ModelBroker, core=ClientCore, *, ring_messages=1000, most_private=1000,
                 loses_sessions=False, backends_die=False):  # fmt: skip
        self.random = random.Random(seed)
        self.now = 1_000_000.0
        self.numbers = Numbers()
        self.ring_messages = ring_messages
        self.most_private = most_private
        self.loses_sessions = loses_sessions
        self.backends_die = backends_die
        self.make_broker = broker
        self.brokers = 1
        self.sessions = []
        self.broker = broker(self, "b1")
        self.dials = []
        self.pipes = []
        self.handled = []
        self.published = 0
        self.pages = [Page(self, core(self.random.random), name) for name in "xyz"]
        for page in self.pages:
            page.do(page.core.start(self.now))

    # what may happen

    def step(self):
        happening = self.random.choice((
            self.dial, self.dial, self.up, self.up, self.up, self.down, self.down, self.down, self.send, self.send,
            self.publish, self.publish, self.private, self.move, self.move, self.handle, self.handle, self.cut,
            self.half_open, self.half_open,
            self.ask, self.ask, self.ask, self.answer, self.broker_notices, self.tick, self.wake, self.drop,
            self.end_something,
        ))  # fmt: skip
        self.now += self.random.random()
        happening()

    def pick(self, some):
        return self.random.choice(some) if some else None

    def dial(self):
        """A handshake arrives: not always in the order of the dials, nor before its page has given it up."""
        if self.dials:
            pipe, subprotocols = self.dials.pop(self.random.randrange(len(self.dials)))
            self.pipes.append(pipe)
            self.broker.handshake(pipe, subprotocols)

    def up(self, pipe=None):
        pipe = pipe or self.pick([each for each in self.pipes if each.up])
        if pipe is not None:
            frame = pipe.up.popleft()
            if not pipe.at_broker:
                return
            if isinstance(frame, tuple):
                self.broker.lost(pipe, frame[1])
            else:
                self.broker.frame(pipe, frame)

    def down(self, pipe=None):
        pipe = pipe or self.pick([each for each in self.pipes if each.down])
        if pipe is not None:
            frame = pipe.down.popleft()
            page = pipe.owner
            if not pipe.at_client or page.pipe is not pipe:
                return
            if isinstance(frame, tuple):
                pipe.at_client = False
                page.do(page.core.closed(frame[1], frame[2], self.now))
            else:
                page.do(page.core.received(frame, self.now))

    def send(self):
        self.pick(self.pages).send()

    def publish(self):
        self.published += 1
        clients = list(self.broker.clients.values())
        excluded = [self.pick(clients)] if clients and self.random.random() < 0.3 else []
        self.broker.publish(self.random.choice((*ROOMS, None)), f"r{self.published}", excluded)

    def private(self):
        client = self.pick(list(self.broker.clients.values()))
        if client is not None:
            self.published += 1
            self.broker.private(client, "", f"p{self.published}")

    def ask(self):
        client = self.pick(list(self.broker.clients.values()))
        if client is not None:
            self.published += 1
            self.broker.private(client, ',"q":1', f"q{self.published}")

    def answer(self, likely=0.1):
        """A page answers what it was asked, mostly after a while."""
        page = self.pick([each for each in self.pages if each.asked])
        if page is not None and self.random.random() < likely:
            page.answer()

    def move(self):
        client = self.pick(list(self.broker.clients.values()))
        if client is not None:
            self.random.choice((self.broker.join, self.broker.leave))(client, self.random.choice(ROOMS))

    def handle(self, client=None):
        """A handler begins with a message, or ends."""
        client = client or self.pick([each for each in self.sessions if each.events or each.in_flight])
        if client is None:
            return
        if client.in_flight:
            self.broker.finished(client.in_flight.popleft())
        else:
            event = client.events.popleft()
            client.in_flight.append(event)
            self.handled.append((event.client, event.k, event.name, event.body, event.redelivered))

    def drop(self):
        client = self.pick([each for each in self.sessions if each.events])
        if client is not None and self.random.random() < 0.3:
            event = client.events.popleft()
            self.broker.dropped(event)

    def end_something(self):
        """A backend dies; a window is over; a broker is replaced."""
        if self.backends_die:
            for client in self.sessions:
                while client.in_flight:
                    event = client.in_flight.pop()
                    event.redelivered = True
                    client.events.appendleft(event)
        if self.loses_sessions and self.random.random() < 0.3:
            if self.random.random() < 0.5:
                for client in [each for each in self.broker.clients.values() if each.pipe is None]:
                    self.broker.end(client)
            else:
                for pipe in self.pipes:
                    pipe.at_broker = False
                    pipe.down.append(("close", 1006, ""))
                self.brokers += 1
                self.broker = self.make_broker(self, f"b{self.brokers}")

    def cut(self):
        """A connection is cut: what is on its way is lost, both sides notice."""
        pipe = self.pick([each for each in self.pipes if each.at_client and each.at_broker])
        if pipe is not None:
            pipe.up.clear()
            pipe.down.clear()
            pipe.at_client = False
            self.broker.lost(pipe)
            if pipe.owner.pipe is pipe:
                pipe.owner.do(pipe.owner.core.closed(1006, "", self.now))

    def half_open(self):
        """A page notices that its connection is gone; the broker does not, and what is on its way may arrive."""
        pipe = self.pick([each for each in self.pipes if each.at_client])
        if pipe is not None:
            pipe.at_client = False
            pipe.down.clear()
            if pipe.owner.pipe is pipe:
                pipe.owner.do(pipe.owner.core.closed(1006, "", self.now))

    def broker_notices(self):
        pipe = self.pick([each for each in self.pipes if each.at_broker and not each.at_client])
        if pipe is not None:
            self.broker.lost(pipe)

    def tick(self):
        page = self.pick(self.pages)
        if page.core.deadline < self.now + 60:
            self.now = max(self.now, page.core.deadline)
            page.do(page.core.tick(self.now))

    def wake(self):
        page = self.pick(self.pages)
        page.do(page.core.wake(self.now, is_online=self.random.random() < 0.5))

    # the end

    def settle(self):
        """Let everything that is under way come to its end, without any more failures."""
        for _ in range(2000):
            if self.dials:
                self.dial()
            elif any(pipe.up for pipe in self.pipes):
                self.up()
            elif any(pipe.down for pipe in self.pipes):
                self.down()
            elif any(client.events or client.in_flight for client in self.sessions):
                self.handle()
            elif any(page.asked for page in self.pages):
                self.answer(1)
            elif any(page.core.state == "waiting" for page in self.pages):
                for page in self.pages:
                    page.do(page.core.wake(self.now))
            elif any(page.core.state == "connecting" or page.pipe.at_broker is False for page in self.pages):
                self.now += 40.0
                for page in self.pages:
                    page.do(page.core.tick(self.now))
            else:
                return
        raise AssertionError("it does not come to an end")

    def check(self):
        """Check all promises."""
        for page in self.pages:
            assert page.core.state == "open"
            for session, got in page.got.items():
                self.check_received(page, session, got)
            self.check_asked(page)
            assert len(page.settled) == page.sent, "silence about a message"
        self.check_handled()

    def check_received(self, page, session, got):
        numbers = [number for number, _, _ in got]
        assert numbers == sorted(set(numbers)), "out of order, or twice"
        client = next(each for each in self.sessions if each.state.session == session)
        strangers = [each for each in got if each not in client.expected]
        assert not strangers, f"not for this client: {strangers}"
        if session == page.core.session:
            gaps = page.gaps.get(session, set())
            sure = [each for each in client.expected if each not in client.left]
            missing = [each for each in sure if each not in got and each[1] not in gaps]
            assert not missing, f"lost: {missing}"

    def check_asked(self, page):
        assert len(page.heard) == len(set(page.heard)), "asked twice"
        for client in self.sessions:
            heard = [(number, body) for session, number, body in page.heard if session == client.state.session]
            assert set(heard) <= client.questions.items(), "asked what nobody has asked"
            assert all(client.answers[each] == f"a:{client.questions[each]}" for each in client.answers)
            if client.state.session == page.core.session:
                if None not in page.gaps.get(page.core.session, ()):
                    assert len(heard) == len(client.questions), "not asked"
                assert {number for number, _ in heard} == client.answers.keys(), "an answer was lost"

    def check_handled(self):
        names = [name for _, _, name, _, _ in self.handled]
        for page in self.pages:
            prefix = f"{page.name}:"
            mine = [each for each in self.handled if each[3].startswith(prefix)]
            first = [int(each[3].partition(":")[2]) for each in mine if not each[4]]
            if not (self.loses_sessions or self.backends_die):
                every = [int(each[3].partition(":")[2]) for each in mine]  # marked where the session never began
                assert every == sorted(set(every)), "handled twice, or out of order"
            else:
                assert len(first) == len(set(first)), "repeated, and not marked"
                again = {each[3]: each[2] for each in mine}
                assert all(again[each[3]] == each[2] for each in mine), "two names of one message"
            handled = {int(each[3].partition(":")[2]) for each in mine}
            well = {ident for ident, code in page.settled.items() if not code}
            assert well <= handled, "settled, and never handled"
            assert set(range(1, page.sent + 1)) <= handled | {ident for ident, code in page.settled.items() if code}, (
                "lost without a word"
            )
        assert all(name_of(name) == name for name in names)


def run(seed, steps=120, **options):
    """Run a schedule, and check everything."""
    world = World(seed, **options)
    for _ in range(steps):
        world.step()
    world.settle()
    world.check()
    return world
