"""Credit, order and handing over, rule by rule, with sessions that are only lists."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pystrands.broker.counters import new_counters
from pystrands.broker.events import assignments
from pystrands.broker.events.assignments import Assignments
from pystrands.broker.events.ending import EndingStreams
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.events.stream import ClientEvent, ClientStream, Consumer, Kind

pytestmark = pytest.mark.interpreted


class Backend(Consumer):
    def __init__(self, name, *, tracked=True):
        super().__init__()
        self.name = name
        self.tracked = tracked
        self.is_up = True
        self.sent: list[ClientEvent] = []
        self.numbers = 0
        self.handled: set[int] = set()

    def __repr__(self):
        return self.name

    is_absent = False

    def context_bytes(self, stream):
        return stream.context_size if stream.context_size > 2 else 0

    def send(self, event):
        self.sent.append(event)
        if not self.tracked:
            return 0
        self.numbers += 1
        return self.numbers


class Client(ClientStream):
    def __init__(self, name, world=None):
        super().__init__(name, "room")
        self.name = name
        self.world = world

    def __repr__(self):
        return self.name

    rooms = ("room",)
    context = b"{}"
    context_size = told_bytes = 2

    def read_on(self):
        self.world.caught.append(self)

    def close(self, code, reason):
        raise AssertionError("nobody closes it")


class Queue(EventQueue):
    """Notes what it is told."""

    def __init__(self, counters):
        super().__init__(10**6, 10**12, "backpressure", counters)
        self.not_waiting: list[ClientEvent] = []

    def keep(self, event):
        assert event.kind is Kind.MESSAGE
        super().keep(event)

    def taken(self, event):
        self.not_waiting.append(event)
        super().taken(event)


class Noting(Assignments):
    """Notes what it gives up."""

    def __init__(self, *args):
        super().__init__(*args)
        self.given_up: list[ClientEvent] = []

    def _gave_up(self, event):
        super()._gave_up(event)
        self.given_up.append(event)


class World:
    def __init__(self, *names):
        self.backends = [Backend(name) for name in names]
        self.caught: list[ClientStream] = []
        self.counters = new_counters()
        self.queue = Queue(self.counters)
        self.assignments = Noting(self.queue, self.choose_owner, self.counters)

    @property
    def not_waiting(self):
        return self.queue.not_waiting

    @property
    def given_up(self):
        return self.assignments.given_up

    def choose_owner(self):
        able = [backend for backend in self.backends if backend.is_up and not backend.is_leaving]
        return min(able, key=lambda backend: len(backend.streams), default=None)

    def put(self, client, content="", kind=Kind.MESSAGE):
        event = ClientEvent(client, kind, self.assignments.new_number(), content, len(content))
        sent = self.assignments.submit(event)
        if not sent:
            self.assignments.wait(event)
        return sent

    def client(self, name, backend):
        client = Client(name, self)
        self.assignments.own(client, backend)
        return client

    def drop(self, backend):
        self.backends.remove(backend)
        self.assignments.died(backend)


def seen(backend):
    """What a backend was sent: kind or content, and whether it was marked."""
    return [(event.content or event.kind.value) + ("*" if event.redelivered else "") for event in backend.sent]


def test_events_of_a_client_go_to_its_owner():
    world = World("one", "two")
    one, two = world.backends
    ann, bob = world.client("ann", one), world.client("bob", two)
    assert world.put(ann, "a1")
    assert world.put(bob, "b1")
    assert world.put(ann, "a2")
    assert (seen(one), seen(two)) == (["a1", "a2"], ["b1"])


def test_rule_3_an_event_is_kept_and_counts_until_it_is_done():
    world = World("one")
    (one,) = world.backends
    ann = world.client("ann", one)
    for content in ("x" * 10, "y" * 20, "z" * 30):
        world.put(ann, content)
    assert (one.messages_in_flight, one.bytes_in_flight, ann.in_flight) == (3, 60, 3)
    world.assignments.done(one, [(3, 3), (1, 1)])
    assert (one.messages_in_flight, one.bytes_in_flight, ann.in_flight, list(one.unfinished)) == (1, 20, 1, [2])
    world.assignments.done(one, [(1, 1), (7, 9), (1, 10**15)])
    assert (one.messages_in_flight, one.bytes_in_flight, ann.in_flight, list(one.unfinished)) == (0, 0, 0, [])


def test_big_contexts_of_what_is_no_message_wait_for_each_other_in_order():
    world = World("one")
    (one,) = world.backends
    world.assignments.consumer_bytes = 100
    ann, bob, cat, dan, eve = (world.client(name, one) for name in ("ann", "bob", "cat", "dan", "eve"))
    ann.context_size, bob.context_size, cat.context_size, dan.context_size = 60, 60, 30, 500
    for client in (ann, bob, cat, dan, eve):
        world.put(client, f"{client} fails", Kind.ERROR)
        world.put(client, f"{client} goes", Kind.GONE)
    assert seen(one) == ["ann fails", "eve fails", "eve goes"], "what is small passes, and cat is behind others"
    assert one.contexts_in_flight == 60
    world.assignments.done(one, [(1, 3)])
    assert seen(one)[3:] == ["ann goes"]
    world.assignments.done(one, [(4, 4)])
    assert seen(one)[4:] == ["bob fails", "cat fails"]
    world.assignments.done(one, [(5, 6)])
    assert seen(one)[6:] == ["dan fails"], "one passes, however large it is"
    world.assignments.done(one, [(7, 7)])
    assert seen(one)[7:] == ["bob goes", "cat goes"]
    dan.context_size = 2
    world.assignments.done(one, [(8, 8)])
    assert seen(one)[9:] == ["dan goes"]
    world.assignments.done(one, [(9, 10)])
    assert (one.contexts_in_flight, one.unfinished, list(one.crowded), list(one.streams)) == (0, {}, [], [])


def test_rule_10_a_client_has_credit_for_32_events():
    world = World("one")
    (one,) = world.backends
    ann, bob = world.client("ann", one), world.client("bob", one)
    assert [world.put(ann, str(number)) for number in range(34)] == [True] * 32 + [False] * 2
    assert world.put(bob, "b"), "one client's credit is not another one's"
    world.assignments.done(one, [(1, 1)])
    assert seen(one)[-1] == "32"
    assert world.caught == []
    world.assignments.done(one, [(2, 2)])
    assert seen(one)[-1] == "33"
    assert world.caught == [ann]
    assert world.put(ann, "34") is False
    assert [event.content for event in world.not_waiting] == ["32", "33"]


def test_rule_10_a_client_has_credit_for_256_kib_and_one_message_always_passes():
    world = World("one")
    (one,) = world.backends
    ann = world.client("ann", one)
    assert world.put(ann, "x" * 1_000_000)
    assert not world.put(ann, "y")
    world.assignments.done(one, [(1, 1)])
    assert world.put(ann, "x" * (assignments.STREAM_BYTES - 1))
    assert not world.put(ann, "y")


def test_rule_10_a_backend_has_credit_for_1000_events_and_streams_get_it_in_turn():
    world = World("one")
    (one,) = world.backends
    clients = [world.client(str(number), one) for number in range(1000)]
    assert all(world.put(client, "x") for client in clients)
    ann, bob = clients[:2]
    assert not any(world.put(client, client.name) for client in (ann, bob, ann))
    world.assignments.done(one, [(500, 500)])
    assert [event.content for event in one.sent[1000:]] == ["0"]
    world.assignments.done(one, [(501, 502)])
    assert [event.content for event in one.sent[1000:]] == ["0", "1", "0"]


def test_rule_10_a_backend_has_credit_for_16_mib():
    world = World("one")
    (one,) = world.backends
    ann, bob = world.client("ann", one), world.client("bob", one)
    assert world.put(ann, "x" * (assignments.CONSUMER_BYTES - 1))
    assert not world.put(bob, "yy")
    world.assignments.done(one, [(1, 1)])
    assert seen(one)[-1] == "yy"


def test_rule_10_lifecycle_events_have_credit_of_their_own_but_keep_their_place():
    world = World("one")
    (one,) = world.backends
    ann, bob = world.client("ann", one), world.client("bob", one)
    for number in range(33):
        world.put(ann, str(number))
    assert not world.put(ann, kind=Kind.GONE), "behind the message that waits"
    assert all(world.put(bob, kind=kind) for kind in (Kind.NEW, Kind.ERROR, Kind.GONE))
    world.assignments.done(one, [(1, 1)])
    assert seen(one)[-2:] == ["32", "disconnected"]


def test_a_backend_that_never_says_done_has_no_credit_to_run_out_of():
    world = World()
    old = Backend("old", tracked=False)
    world.backends.append(old)
    ann = world.client("ann", old)
    assert all(world.put(ann, "x") for _ in range(2000))
    old.is_up = False
    assert not world.put(ann, "y")
    old.is_up = True
    world.assignments.available(old)
    assert seen(old)[-1] == "y"
    world.put(ann, kind=Kind.GONE)
    assert not old.streams


def test_rule_12_what_waits_without_any_backend_goes_to_the_first_that_comes_in_order():
    world = World("one")
    (one,) = world.backends
    ann, bob = world.client("ann", one), world.client("bob", one)
    world.drop(one)
    for client, content in ((ann, "a1"), (bob, "b1"), (ann, "a2")):
        assert not world.put(client, content)
    world.put(bob, kind=Kind.GONE)
    two = Backend("two")
    world.backends.append(two)
    world.assignments.available(two)
    assert [event.content or event.kind.value for event in two.sent if event.stream is ann] == [
        "client_adopted", "a1", "a2"
    ]  # fmt: skip
    assert [event.content or event.kind.value for event in two.sent if event.stream is bob] == [
        "client_adopted", "b1", "disconnected"
    ]  # fmt: skip


def test_a_message_that_waits_can_be_dropped_to_make_room():
    world = World("one")
    (one,) = world.backends
    ann = world.client("ann", one)
    world.drop(one)
    dropped, kept = (ClientEvent(ann, Kind.MESSAGE, number, str(number), 1) for number in (1, 2))
    for event in (dropped, kept):
        assert not world.assignments.submit(event)
        world.assignments.wait(event)
    world.assignments.drop_waiting(dropped)
    assert world.caught == []
    world.assignments.drop_waiting(kept)
    assert world.caught == [ann]
    two = Backend("two")
    world.backends.append(two)
    world.assignments.available(two)
    assert two.sent == []


def test_rule_15_the_next_owner_waits_until_the_one_that_leaves_has_finished():
    world = World("one", "two")
    one, two = world.backends
    ann = world.client("ann", one)
    world.put(ann, "a1")
    world.assignments.leave(one)
    assert not world.put(ann, "a2")
    assert seen(two) == []
    world.assignments.done(one, [(1, 1)])
    assert seen(two) == ["client_adopted", "a2"]
    assert not one.streams


def test_rule_16_released_events_go_elsewhere_unmarked_and_in_order():
    world = World("one", "two")
    one, two = world.backends
    ann, bob = world.client("ann", one), world.client("bob", one)
    for number in range(1, 5):
        world.put(ann, f"a{number}")
    world.put(bob, "b1")
    world.assignments.leave(one)
    world.put(ann, "a5")
    world.assignments.released(one, [(3, 5)])
    assert seen(two) == ["client_adopted", "b1"], "two of ann's are still being handled"
    world.assignments.done(one, [(1, 2)])
    assert seen(two) == ["client_adopted", "b1", "client_adopted", "a3", "a4", "a5"]
    assert not one.streams
    assert not one.unfinished


def test_rule_16_whom_a_leaving_backend_has_nothing_of_goes_at_its_next_event():
    world = World("one", "two")
    one, two = world.backends
    ann = world.client("ann", one)
    world.assignments.leave(one)
    assert ann.consumer is None
    assert world.put(ann, "a1")
    assert seen(two) == ["client_adopted", "a1"]


def test_rule_14_16_what_a_dead_session_had_goes_elsewhere_marked_and_in_order():
    world = World("one", "two")
    one, two = world.backends
    ann = world.client("ann", one)
    for number in range(1, 40):
        world.put(ann, f"a{number}")
    world.assignments.done(one, [(1, 1), (3, 3)])
    world.drop(one)
    while two.unfinished:
        world.assignments.done(two, [(1, 40)])
    assert seen(two) == [
        "client_adopted", "a2*", *(f"a{n}*" for n in range(4, 35)), *(f"a{n}" for n in range(35, 40))
    ], "those that were sent are marked, credit goes on"  # fmt: skip


def test_rule_17_orphans_are_assigned_at_their_next_event_each_to_the_least_loaded():
    world = World("one", "two", "three")
    one, two, three = world.backends
    clients = [world.client(str(number), one) for number in range(4)]
    world.drop(one)
    assert (len(two.streams), len(three.streams)) == (0, 0)
    for client in clients:
        world.put(client, "x")
    assert (len(two.streams), len(three.streams)) == (2, 2)
    assert seen(two) == seen(three) == ["client_adopted", "x"] * 2


def test_rule_17_an_adoption_that_died_unfinished_is_made_anew_and_not_redelivered():
    world = World("one", "two")
    one, two = world.backends
    ann = world.client("ann", one)
    world.put(ann, "a1")
    world.drop(one)
    three = Backend("three")
    world.backends.append(three)
    world.drop(two)
    world.assignments.done(three, [(1, 1)])
    assert seen(three) == ["client_adopted", "a1*"]


def test_rule_21_a_message_that_was_in_three_dead_sessions_is_given_up():
    world = World("one", "two", "three", "four")
    ann = world.client("ann", world.backends[0])
    world.put(ann, "poison")
    for _ in range(3):
        assert world.given_up == []
        (backend,) = [backend for backend in world.backends if ann in backend.streams]
        adopted = [number for number, event in backend.unfinished.items() if event.kind is Kind.ADOPTED]
        world.assignments.done(backend, [(number, number) for number in adopted])
        world.drop(backend)
    assert [event.content for event in world.given_up] == ["poison"]
    assert world.counters["events_given_up"] == 1
    (four,) = world.backends
    assert seen(four) == []
    assert world.put(ann, "after")
    assert seen(four) == ["client_adopted", "after"]


def test_rule_21_lifecycle_events_are_never_given_up():
    world = World(*map(str, range(6)))
    ann = world.client("ann", world.backends[0])
    world.put(ann, kind=Kind.NEW)
    for _ in range(5):
        world.drop(next(backend for backend in world.backends if ann in backend.streams))
    (last,) = world.backends
    assert seen(last) == ["client_adopted", "new_connection*"]
    assert world.given_up == []


def crash(world, *, says_done):
    """Have the backends handle what they get, each its events in order, until one dies of poison; return which.

    ``says_done``: whether the broker hears of what was handled before. It does not where all happens in one loop turn.
    """
    for backend in world.backends:
        handled = []
        while (number := next((each for each in backend.unfinished if each not in handled), None)) is not None:
            if backend.unfinished[number].content == "poison":
                world.drop(backend)
                return backend
            handled.append(number)
            if says_done or number == list(backend.unfinished)[-1]:
                world.assignments.done(backend, [(each, each) for each in handled])
                handled.clear()
    return None


@pytest.mark.parametrize("says_done", [True, False])
@pytest.mark.parametrize("before", [0, 1, 10])
def test_rule_21_what_was_not_being_handled_is_not_given_up_with_the_poison(says_done, before):
    world = World(*map(str, range(5)))
    ann = world.client("ann", world.backends[0])
    texts = [*(f"before {number}" for number in range(before)), "poison", *(f"after {n}" for n in range(100))]
    for text in texts:
        world.put(ann, text)
    died = 0
    while crash(world, says_done=says_done):
        died += 1
    assert died == assignments.MAX_DELIVERIES + (before > 0 and not says_done), "the first time it may not be blamed"
    assert [event.content for event in world.given_up] == ["poison"]
    sent = [event.content for backend in world.backends for event in backend.sent if event.stream is ann]
    assert sent[-100:] == texts[-100:]
    assert not ann.waiting and not ann.in_flight


def test_rule_21_a_repeat_is_sent_when_nothing_else_of_its_client_can_be_blamed():
    world = World("one", "two")
    one, two = world.backends
    ann = world.client("ann", one)
    for number in range(3):
        world.put(ann, f"a{number}")
    world.drop(one)
    assert not world.put(ann, "a3")
    assert seen(two) == ["client_adopted"]
    for number, told in enumerate(["a0*", "a1*"], 1):
        world.assignments.done(two, [(number, number)])
        assert seen(two)[number:] == [told]
    world.assignments.done(two, [(3, 3)])
    assert seen(two)[3:] == ["a2*", "a3"], "what was sent to nobody before may follow at once"
    assert world.put(ann, "a4")


def test_rule_24_a_reused_id_begins_when_the_older_stream_is_over():
    world = World("one", "two")
    one, two = world.backends
    old, new, newer = world.client("old", one), world.client("new", two), world.client("newer", one)
    world.put(old, "o1")
    world.put(old, kind=Kind.GONE)
    world.assignments.succeed(new, old)
    assert not world.put(new, kind=Kind.NEW)
    assert not world.put(new, "n1")
    world.put(new, kind=Kind.GONE)
    world.assignments.succeed(newer, old)
    assert not world.put(newer, kind=Kind.NEW)
    world.assignments.done(one, [(1, 1)])
    assert seen(two) == []
    world.assignments.done(one, [(2, 2)])
    assert seen(two) == ["new_connection", "n1", "disconnected"]
    assert seen(one)[2:] == []
    world.assignments.done(two, [(1, 3)])
    assert seen(one)[2:] == ["new_connection"]
    assert old.consumer is new.consumer is None


def test_rule_24_who_takes_the_id_of_one_that_is_gone_waits_for_its_last_event():
    world = World("one", "two")
    one, two = world.backends
    old = world.client("ann", one)
    world.assignments.ends(old)
    new, other = world.client("ann", two), world.client("bob", two)
    assert not world.put(new, kind=Kind.NEW)
    assert world.put(other, kind=Kind.NEW)
    assert world.put(old, kind=Kind.GONE)
    assert seen(two) == ["new_connection"]
    world.assignments.done(one, [(1, 1)])
    assert [event.stream for event in two.sent] == [other, new]
    world.assignments.ends(new)
    assert world.put(new, kind=Kind.GONE)
    world.assignments.done(two, [(2, 3)])
    assert world.put(world.client("ann", one), kind=Kind.NEW), "nobody is ending any more"


def test_rule_24_an_older_stream_is_waited_for_though_its_last_event_is_not_even_put():
    """What had been read of it may have to come first."""
    world = World("one")
    (one,) = world.backends
    old, new = world.client("old", one), world.client("new", one)
    world.assignments.succeed(new, old)
    assert not world.put(new, kind=Kind.NEW)
    assert world.put(old)
    assert world.put(old, kind=Kind.GONE)
    world.assignments.done(one, [(1, 2)])
    assert [event.kind for event in one.sent] == [Kind.MESSAGE, Kind.GONE, Kind.NEW]


def test_a_session_without_link_gets_nothing_until_it_is_back():
    world = World("one", "two")
    one, two = world.backends
    ann = world.client("ann", one)
    one.is_up = False
    assert not world.put(ann, "a1")
    one.is_up = True
    world.assignments.available(one)
    assert (seen(one), seen(two)) == (["a1"], [])
    assert world.caught == [ann]


def test_messages_that_wait_can_be_dropped_and_the_rest_goes_on():
    world = World("one")
    (one,) = world.backends
    ann = world.client("ann", one)
    for number in range(assignments.STREAM_EVENTS + 2):
        world.put(ann, str(number))
    world.put(ann, kind=Kind.ERROR)
    world.put(ann, "behind it")
    assert len(ann.waiting or ()) == 4
    assert world.assignments.drop_messages(ann) == 3
    assert [event.content for event in world.not_waiting] == ["32", "33", "behind it"]
    assert seen(one)[32:] == ["error"], "it needs no credit"
    assert world.caught == [ann]
    assert world.assignments.drop_messages(ann) == 0
    world.drop(one)
    assert world.assignments.drop_messages(ann) == 32, "what a backend died with"
    assert [event.kind for event in ann.waiting or ()] == [Kind.ERROR]
    world.backends.append(Backend("two"))
    world.assignments.available(world.backends[0])
    assert seen(world.backends[0]) == ["client_adopted", "error*"]


class Handovers(RuleBasedStateMachine):
    """Clients, and backends that come, go, leave and come back, in any order.

    The promise: each client's first handlings are in order, nothing is lost but what is given up, a repeat is marked,
    and no two sessions have unfinished events of one client. Given up is what each of three sessions may have died of,
    being the first that it had not finished of a client.
    """

    def __init__(self):
        super().__init__()
        self.world = World()
        self.blamed: dict[ClientEvent, int] = {}
        self.clients: list[Client] = []
        self.put: dict[Client, list[str]] = {}
        self.handled: dict[Client, list[str]] = {}

    def able(self):
        return self.world.choose_owner()

    @rule()
    def backend_comes(self):
        backend = Backend(f"backend {self.world.assignments.new_number()}")
        self.world.backends.append(backend)
        self.world.assignments.available(backend)

    @precondition(lambda self: self.able() is not None)
    @rule(context_size=st.sampled_from([2, assignments.CONSUMER_BYTES // 3, assignments.CONSUMER_BYTES]))
    def client_comes(self, context_size):
        client = self.world.client(f"client {len(self.clients)}", self.able())
        client.context_size = context_size
        self.clients.append(client)
        self.put[client], self.handled[client] = [], []

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), count=st.integers(1, 40))
    def client_sends(self, data, count):
        client = data.draw(st.sampled_from(self.clients))
        for _ in range(count):
            content = str(len(self.put[client]))
            self.put[client].append(content)
            self.world.put(client, content)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def client_fails(self, data):
        self.world.put(data.draw(st.sampled_from(self.clients)), "it fails", Kind.ERROR)

    def not_handled(self, backend):
        return [number for number in backend.unfinished if number not in backend.handled]

    @precondition(lambda self: any(self.not_handled(backend) for backend in self.world.backends))
    @rule(data=st.data(), count=st.integers(1, 50), say=st.booleans())
    def backend_handles(self, data, count, say):
        backend = data.draw(st.sampled_from([each for each in self.world.backends if self.not_handled(each)]))
        numbers = self.not_handled(backend)[:count]
        for number in numbers:
            self.handle(backend.unfinished[number])
            backend.handled.add(number)
        if say:  # or else it is still on the way
            self.world.assignments.done(backend, [(number, number) for number in numbers])

    @precondition(lambda self: any(backend.handled for backend in self.world.backends))
    @rule(data=st.data())
    def done_arrives(self, data):
        backend = data.draw(st.sampled_from([each for each in self.world.backends if each.handled]))
        number = data.draw(st.sampled_from(sorted(backend.handled)))
        self.world.assignments.done(backend, [(number, number)])

    def handle(self, event):
        if event.kind is Kind.MESSAGE:
            handled = self.handled[event.stream]
            if event.content in handled:
                assert event.redelivered
            else:
                assert event.content == str(len(handled))
                handled.append(event.content)

    @precondition(lambda self: self.world.backends)
    @rule(data=st.data())
    def backend_dies(self, data):
        self.die(data.draw(st.sampled_from(self.world.backends)))

    @precondition(lambda self: any(backend.unfinished for backend in self.world.backends))
    @rule(data=st.data())
    def one_after_the_other_dies_of_an_event(self, data):
        busy = [backend for backend in self.world.backends if backend.unfinished]
        poison = next(iter(data.draw(st.sampled_from(busy)).unfinished.values()))
        for _ in range(assignments.MAX_DELIVERIES):
            self.backend_comes()
            consumer = poison.stream.consumer
            if consumer is not None and consumer.is_up:
                for number in self.not_handled(consumer):  # what comes before it
                    event = consumer.unfinished[number]
                    if event is poison:
                        break
                    if event.stream is poison.stream:
                        self.handle(event)
                        consumer.handled.add(number)
                        self.world.assignments.done(consumer, [(number, number)])
                self.die(consumer)

    def die(self, backend):
        first: dict[ClientStream, ClientEvent] = {}
        for event in backend.unfinished.values():
            if first.setdefault(event.stream, event) is event:
                self.blamed[event] = self.blamed.get(event, 0) + 1
        before = len(self.world.given_up)
        self.world.drop(backend)
        for event in self.world.given_up[before:]:
            assert self.blamed[event] == assignments.MAX_DELIVERIES
            self.give_up(event)

    def give_up(self, event):
        assert event.kind is Kind.MESSAGE
        handled = self.handled[event.stream]
        if event.content not in handled:
            assert event.content == str(len(handled))
            handled.append(event.content)

    @precondition(lambda self: self.world.backends)
    @rule(data=st.data())
    def link_is_lost_or_back(self, data):
        backend = data.draw(st.sampled_from(self.world.backends))
        backend.is_up = not backend.is_up
        if backend.is_up:
            self.world.assignments.available(backend)

    @precondition(lambda self: any(not backend.is_leaving for backend in self.world.backends))
    @rule(data=st.data(), started=st.integers(0, 5))
    def backend_leaves(self, data, started):
        backend = data.draw(st.sampled_from([backend for backend in self.world.backends if not backend.is_leaving]))
        self.world.assignments.leave(backend)
        running: set[ClientStream] = set()
        not_started = []
        for number in self.not_handled(backend):  # at most the first one of each client is being handled
            stream = backend.unfinished[number].stream
            if stream in running or len(running) >= started:
                not_started.append((number, number))
            running.add(stream)
        self.world.assignments.released(backend, not_started)

    @invariant()
    def no_two_sessions_have_events_of_one_client(self):
        for client in self.clients:
            having = [
                backend
                for backend in self.world.backends
                if any(e.stream is client for e in backend.unfinished.values())
            ]
            assert len(having) <= 1
            assert client.in_flight == sum(e.stream is client for b in having for e in b.unfinished.values())
            assert client.messages_in_flight <= assignments.STREAM_EVENTS

    @invariant()
    def big_contexts_are_bounded_and_only_wait_for_others_that_are_unfinished(self):
        for backend in self.world.backends:
            big = [event.size for event in backend.unfinished.values() if event.kind is not Kind.MESSAGE and event.size]
            assert backend.contexts_in_flight == sum(big) <= assignments.CONSUMER_BYTES
            assert big or not backend.crowded or not backend.is_up or backend.is_leaving
            assert all(stream.waiting and stream.consumer is backend for stream in backend.crowded)

    @invariant()
    def a_repeated_message_is_sent_when_those_before_it_are_finished(self):
        for backend in self.world.backends:
            first: set[ClientStream] = set()
            for event in backend.unfinished.values():
                assert event.stream not in first or not event.redelivered or event.kind is not Kind.MESSAGE
                first.add(event.stream)

    def teardown(self):
        """Whatever happened: with a backend that stays, all is handled in the end."""
        last = Backend("the last one")
        for backend in list(self.world.backends):
            self.die(backend)
        self.world.backends.append(last)
        self.world.assignments.available(last)
        while last.unfinished:
            number, event = next(iter(last.unfinished.items()))
            self.handle(event)
            self.world.assignments.done(last, [(number, number)])
        for client in self.clients:
            assert self.handled[client] == self.put[client]
            assert not client.waiting


TestHandovers = Handovers.TestCase
TestHandovers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(st.integers(-5, 50), st.integers(-5, 50))))
def test_done_with_any_ranges_never_fails(ranges):
    world = World("one")
    (one,) = world.backends
    ann = world.client("ann", one)
    for _ in range(10):
        world.put(ann, "x")
    world.assignments.done(one, ranges)
    finished = {number for first, last in ranges for number in range(first, last + 1)}
    assert set(one.unfinished) == set(range(1, 11)) - finished


class Counted(dict[int, int]):
    """Counts what is looked up, and what is gone through."""

    def __init__(self, numbers):
        super().__init__((number, number) for number in numbers)
        self.cost = 0

    def pop(self, *args):
        self.cost += 1
        return super().pop(*args)

    def __iter__(self):
        self.cost += len(self)
        return super().__iter__()


@given(
    st.sets(st.integers(1, 60), max_size=40),
    st.lists(st.tuples(st.integers(-5, 70), st.integers(0, 70) | st.just(1 << 70)), max_size=60),
)
def test_done_costs_what_is_there_and_what_is_said(numbers, ranges):
    unfinished: Any = Counted(sorted(numbers))
    taken = assignments._take(unfinished, ranges)
    expected = dict.fromkeys(number for first, last in ranges for number in sorted(numbers) if first <= number <= last)
    assert taken == list(expected)
    assert set(unfinished.keys()) == numbers - set(expected)
    assert unfinished.cost <= 4 * len(numbers) + 2


def test_many_wide_ranges_cost_no_more_than_they_are_long():
    unfinished: Any = Counted(range(1, 1001))
    assert len(assignments._take(unfinished, [(1 + (n % 7), 999) for n in range(200_000)])) == 999
    assert unfinished.cost < 5_000


def test_the_clients_that_are_gone_are_bounded_by_what_it_was_given():
    world = World("one")
    ending = EndingStreams(limit=1000)
    told: list[str] = []
    ending.listen(lambda: told.append("there is room"))
    assignments = Assignments(world.queue, world.choose_owner, world.counters, ending=ending)
    streams = [Client("ann", world), Client("bob", world)]
    for stream in streams:
        assignments.own(stream, world.backends[0])
        assignments.ends(stream)
    assert ending.is_behind
    assert ending.bytes > 1000
    for stream in streams:
        assert assignments.submit(ClientEvent(stream, Kind.GONE, assignments.new_number()))
    assignments.done(world.backends[0], [(1, 1)])
    assert ending.is_behind
    assert told == []
    assignments.done(world.backends[0], [(2, 2)])
    assert not ending.is_behind
    assert told == ["there is room"]
    assert (ending.bytes, len(ending)) == (0, 0)
