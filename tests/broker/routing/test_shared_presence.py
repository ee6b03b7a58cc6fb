"""Brokers that tell each other who is present, over a line that loses much: in the end all of them see the same."""

import heapq
import itertools
import random
from typing import Any

import pytest

from pystrands.broker.bounds import Bounds
from pystrands.broker.hub.presence import Presence
from pystrands.broker.meter import Meter
from pystrands.broker.routing.questions import PresenceChanged, WatchPresence, encode, read_question
from pystrands.broker.routing.shared_presence import SharedPresence
from pystrands.engine.cluster import Peer

ROOMS = ["a", "b"]
BOUNDS = Bounds(presence_grace=15.0, presence_renewal=10.0, others=7.0)


class Stub:
    """Has what it is given."""

    def __init__(self, **members):
        self.__dict__.update(members)


class Loop:
    """A loop whose time passes when told."""

    def __init__(self):
        self.now = 0.0
        self.due = []
        self.order = itertools.count()

    def time(self):
        return self.now

    def call_later(self, delay, callback, *args):
        timer: Any = Stub(is_off=False)
        timer.cancel = lambda: setattr(timer, "is_off", True)
        heapq.heappush(self.due, (self.now + delay, next(self.order), timer, callback, args))
        return timer

    def run(self, seconds):
        end = self.now + seconds
        while self.due and self.due[0][0] <= end:
            self.now, _, timer, callback, args = heapq.heappop(self.due)
            if not timer.is_off:
                callback(*args)
        self.now = end


class Outbox:
    """Nobody reads here."""

    def alike(self, recipients, *_):
        assert not list(recipients)
        return ()


class Broker:
    """One of them; ``cluster`` is itself."""

    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.is_up = True
        loop: Any = world.loop
        outbox: Any = Outbox()
        cluster: Any = self
        self.presence = Presence(outbox, loop, Meter(), bounds=BOUNDS, clock=loop.time)
        self.shared = world.make(name, cluster, self.presence, loop, BOUNDS)
        self.clients = {}

    @property
    def is_connected(self):
        return self.is_up

    def survey(self, question, timeout, surveyed):
        """Ask the others: a question may be lost to some, and so may answers, of those that live."""
        world = self.world
        others = [each for each in world.brokers if each is not self and each.is_up]
        if not self.is_up or not others:
            surveyed((), ())
            return
        answers: list[tuple[str, bytes]] = []
        for other in others:
            if world.random.random() >= world.loss:
                world.loop.call_later(world.delay(), world.answer, other, question, answers)
        world.loop.call_later(timeout / 2, lambda: surveyed(answers, ()))

    def client(self, number):
        return Stub(number=number, client_id=f"{self.name}{number}", user=f"user{number % 3}", is_live=False)


class World:
    def __init__(self, seed, make=SharedPresence):
        self.random = random.Random(seed)
        self.loop = Loop()
        self.make = make
        self.loss = 0.0
        self.brokers: list[Broker] = []
        self.brokers += [Broker(self, name) for name in "xyz"]
        self.tell_peers()

    def delay(self):
        return self.random.random() * 0.3

    def answer(self, broker, question, answers):
        if not broker.is_up:
            return
        asked = read_question(question)
        if isinstance(asked, WatchPresence):
            answer = encode(broker.shared.on_watch(asked))
        else:
            assert isinstance(asked, PresenceChanged)
            broker.shared.on_changed(asked)
            answer = b"{}"
        if self.random.random() >= self.loss:
            answers.append((broker.name, answer))

    def tell_peers(self):
        for broker in self.brokers:
            if broker.is_up:
                others = [Peer(each.name, "x:1") for each in self.brokers if each is not broker and each.is_up]
                broker.shared.on_peers(others)

    def step(self):
        draw, broker, room = self.random.random(), self.random.choice(self.brokers), self.random.choice(ROOMS)
        number = self.random.randrange(5)
        if draw < 0.45:
            broker.presence.enter(broker.client(number), room, b"%d" % self.random.randrange(3))
            broker.clients[number, room] = broker.client(number)
        elif draw < 0.7:
            client = broker.clients.pop((number, room), None)
            if client is not None:
                broker.presence.left(client, room)
        elif draw < 0.8:
            watcher: Any = Stub(is_live=False)
            broker.presence.watch(watcher, room, 0)
        elif draw < 0.84:
            broker.is_up = not broker.is_up
            self.tell_peers()
        self.loop.run(self.random.choice([0.0, 0.05, 0.3, 2.0, 20.0]))

    def settle(self):
        """Nothing is lost any more, and time passes."""
        self.loss = 0.0
        for broker in self.brokers:
            broker.is_up = True
        self.tell_peers()
        self.loop.run(60)

    def check(self):
        for room in ROOMS:
            there: dict[str, int] = {}
            for broker in self.brokers:
                for entry in broker.presence.own(room):
                    there[entry.user] = there.get(entry.user, 0) + entry.connections
            for broker in self.brokers:
                seen = broker.presence.watched(room)
                if seen is not None:
                    assert {each.user: each.connections for each in seen.shown} == there
                    infos = [{each.user: bytes(each.info) for each in other.shown}
                             for one in self.brokers if (other := one.presence.watched(room)) is not None]  # fmt: skip
                    assert all(each == infos[0] for each in infos)


def run(seed, **parts):
    world = World(seed, **parts)
    for _ in range(60):
        world.loss = world.random.choice([0.0, 0.0, 0.3, 0.8])
        world.step()
    world.settle()
    world.check()


@pytest.mark.parametrize("seed", range(40))
def test_promise_27_brokers_agree_in_the_end_whatever_is_lost(seed):
    run(seed)


class TakesHoles(SharedPresence):
    """Takes a change though one before it is missing."""

    def on_changed(self, told):
        for change in told.changes:
            known = self._watched.get(change.room_id)
            if known is not None:
                known[told.broker_id] = change.before
        super().on_changed(told)


class NeverAsksAgain(SharedPresence):
    """Takes the renewals of others as they are."""

    def _is_up_to_date(self, broker_id, room_id, number):
        del broker_id, room_id, number
        return True


class ForgetsNobody(SharedPresence):
    """Leaves those in who were present at a broker that is gone."""

    def _forget(self, brokers):
        """Do nothing."""


@pytest.mark.parametrize("mutant", [TakesHoles, NeverAsksAgain])
def test_a_mutant_is_found_out(mutant):
    found = 0
    for seed in range(40):
        try:
            run(seed, make=mutant)
        except AssertionError:
            found += 1
    assert found >= 3


@pytest.mark.parametrize("make", [SharedPresence, ForgetsNobody])
def test_promise_27_who_was_present_at_a_broker_that_is_gone_leaves(make):
    world = World(0, make)
    one, two, _ = world.brokers
    watcher: Any = Stub(is_live=False)
    one.presence.watch(watcher, "a", 0)
    client: Any = two.client(1)
    two.presence.enter(client, "a", b"1")
    world.loop.run(5)
    seen = one.presence.watched("a")
    assert seen is not None
    assert len(seen.shown) == 1
    two.is_up = False
    world.tell_peers()
    world.loop.run(14)
    assert len(seen.shown) == 1
    world.loop.run(3)
    assert len(seen.shown) == (0 if make is SharedPresence else 1)
