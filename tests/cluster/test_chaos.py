"""Brokers, backends and NATS, all killed and stopped at random, while clients send and come back.

A plain WebSocket that is closed loses what was under way; what stays open loses nothing, and hears nothing out of
order. The short version runs with the other tests, the minute with ``make chaos``; ``CHAOS_SEED`` repeats a schedule.
"""

import asyncio
import os
import random
import secrets
import time
from collections import Counter

import pytest

from tests.chaos.checks import History, Problems, check_ownership

from .world import ClusterWorld, Roamer, replies_to_others

pytestmark = pytest.mark.skipif(os.name != "posix", reason="it needs SIGKILL, SIGSTOP and SIGTERM")


@pytest.fixture
def seed():
    chosen = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
    print(f"CHAOS_SEED={chosen}")
    return chosen


class Storm:
    """What is done to the cluster. A broker and a backend never die in one wave: then nobody would know of clients."""

    OF_PARTS = ("kill_broker", "stop_broker", "pause_broker", "kill_backend", "stop_backend", "pause_backend")
    OF_NATS = ("kill_nats", "pause_nats", "flap_nats")
    SETTLE = 0.7

    def __init__(self, world):
        self.world = world
        self.random = world.random
        self.done = Counter()

    async def run(self, seconds, deck):
        """Go on in waves for so long, and until all of the deck has happened."""
        end = time.monotonic() + seconds
        cards, first = [], set(deck)
        while time.monotonic() < end or first:
            if not cards:
                cards = self.random.sample(deck, len(deck))
            kinds = [cards.pop()]
            other = next((card for card in cards if (card in self.OF_NATS) != (kinds[0] in self.OF_NATS)), None)
            if other is not None and self.random.random() < 0.6:
                cards.remove(other)
                kinds.append(other)
            async with asyncio.TaskGroup() as group:
                for kind in kinds:
                    group.create_task(getattr(self, kind)())
            await self.world.well()
            self.done.update(kinds)
            first.difference_update(kinds)
            await asyncio.sleep(self.SETTLE)

    async def _wait(self, least, most):
        await asyncio.sleep(self.random.uniform(least, most))

    # --- brokers ---

    async def kill_broker(self):
        broker = self.random.choice(self.world.brokers)
        self.world.killed.add(broker.process)
        broker.process.close()
        await self._wait(0, 1)
        broker.start()
        await broker.listening()

    async def stop_broker(self):
        broker = self.random.choice(self.world.brokers)
        broker.process.signal(15)
        assert await broker.process.ended(20) == 0, broker.process.text()[-4000:]
        if "this broker ends while NATS is away" in broker.process.text():  # what it sent last has gone with it
            self.world.killed.add(broker.process)
        await self._wait(0, 1)
        broker.start()
        await broker.listening()

    async def pause_broker(self):
        broker = self.random.choice(self.world.brokers)
        broker.process.stop()
        await self._wait(0.1, 0.8)
        broker.process.cont()

    # --- backends ---

    async def kill_backend(self):
        backend = self.random.choice(self.world.backends)
        backend.killed()
        await self._wait(0, 1.5)
        backend.start()

    async def stop_backend(self):
        backend = self.random.choice(self.world.backends)
        await backend.left()
        await self._wait(0, 1)
        backend.start()

    async def pause_backend(self):
        backend = self.random.choice(self.world.backends)
        backend.child.stop()
        await self._wait(0.1, 4)
        backend.child.cont()

    # --- NATS ---

    async def kill_nats(self):
        self.world.nats.kill()
        await self._wait(0, 2)
        self.world.nats.start()

    async def pause_nats(self):
        self.world.nats.pause()
        await self._wait(0.1, 2)
        self.world.nats.resume()

    async def flap_nats(self):
        for _ in range(3):
            self.world.nats.kill()
            await self._wait(0, 0.2)
            self.world.nats.start()
            await self._wait(0, 0.3)


def check_connection(history, sender, killed, problems):
    """What was handled is the beginning of what was sent, in order, repeats marked; it joined once, and left once."""
    key = sender.key
    handled = sorted(n for k, n in history.handlings if k == key)
    problems.check(handled == list(range(len(handled))), f"{key}: handled {handled} of {sender.sent}")
    answered = {reply["n"] for reply in sender.replies if reply["key"] == key and "telling" not in reply}
    problems.check(not answered - set(handled), f"{key}: answered what was never handled: {answered - set(handled)}")
    if sender.until is None:  # closed by itself, in the end
        problems.check(len(handled) == sender.sent, f"{key}: {len(handled)} of {sender.sent} were handled")
    for number in handled:
        lines = history.handlings[key, number]
        problems.check(len({line["event"] for line in lines}) == 1, "one message has several event_ids", *lines)
        problems.check(all(line["again"] for line in lines[1:]), "a repeat is not marked", *lines)
    first = [history.handlings[key, n][0]["t"] for n in handled]
    problems.check(first == sorted(first), f"{key}: first handlings are not in order")
    for what in ("new", "gone"):
        lines = history.life[what, key]
        unmarked = [line for line in lines if not line["again"]]
        # Of a broker that was killed its backends tell the end themselves; nobody else has heard of that one.
        problems.check(lines and len(unmarked) <= 1, f"{key}: {len(lines)} times {what}", *lines)
        problems.check(what == "gone" or len({line["event"] for line in lines}) == 1, "several events", *lines)
    if sender.process not in killed:
        problems.check(len({line["event"] for line in history.life["gone", key]}) == 1, f"{key} left more than once")


def check_member(member, history, senders, killed, problems):
    """Each connection's messages came to a member of the room in order, none missing between, each telling once."""
    twice = [each for each, n in Counter((r["by"], r["x"]) for r in member.replies if "telling" in r).items() if n > 1]
    problems.check(not twice, f"{member.key} was told twice: {twice}")
    heard = replies_to_others(member)
    for key, replies in heard.items():
        numbers = list(dict.fromkeys(reply["n"] for reply in replies))
        expected = list(range(numbers[0], numbers[0] + len(numbers)))
        problems.check(numbers == expected, f"{member.key} was told by {key}: {numbers}")
    if member.until is not None:
        return
    for sender in senders:  # that began after it, and whose broker has not died
        if sender.since > member.since + 0.5 and sender.process not in killed:
            handled = {n for k, n in history.handlings if k == sender.key}
            missing = handled - {reply["n"] for reply in heard.get(sender.key, ())}
            problems.check(not missing, f"{member.key} was not told {sorted(missing)} of {sender.key}")


async def chaos(directory, seed, *, seconds, deck, clients, rate):
    async with ClusterWorld(directory, random.Random(seed)) as world:
        members = [Roamer(world, f"member-{n}", "control", rate, world.brokers[n % 3]) for n in range(6)]
        world.roamers = [*members, *(Roamer(world, f"client-{n}", "room", rate) for n in range(clients))]
        storm = Storm(world)
        async with asyncio.TaskGroup() as group:
            for roamer in world.roamers:
                group.create_task(roamer.run())
            try:
                await storm.run(seconds, deck)
            finally:
                world.is_over = True
        await world.answered()
        await asyncio.sleep(1)  # what members are still to be told
        for sender in world.senders():
            sender.take()
        statuses = [broker.process.status() for broker in world.brokers]
        for roamer in world.roamers:
            if roamer.now is not None and roamer.now.client.closed is None:
                await roamer.now.close()
        missing = await world.recorded_gone()
        history = History(world.events(), world.senders())
        problems = Problems()
        problems.check(not missing, f"the end of {sorted(missing)} was never told")
        for sender in world.senders():
            check_connection(history, sender, world.killed, problems)
        for member in (sender for sender in world.senders() if sender.room == "control"):
            check_member(member, history, world.senders(), world.killed, problems)
        check_ownership(history, problems)
        counters = Counter()
        for status in statuses:
            counters.update({name: n for name, n in status["counters"].items() if name.startswith("engine_")})
        figures = {
            "done": dict(storm.done),
            "connections": len(world.senders()),
            "messages": sum(sender.sent for sender in world.senders()),
            "handled_again": history.repeats,
            "told": sum("telling" in reply for sender in world.senders() for reply in sender.replies),
            "counters": dict(counters),
        }
        print(figures)
        problems.none()
        assert set(storm.done) == set(deck)
        assert figures["told"] > figures["messages"]  # by each to several members, and at other brokers than its own
        return figures


@pytest.mark.timeout(120)
async def test_brokers_backends_and_nats_die_while_clients_send(tmp_path, seed):
    deck = ("kill_broker", "stop_backend", "kill_nats", "stop_broker", "kill_backend")
    await chaos(tmp_path, seed, seconds=1, deck=deck, clients=20, rate=5)


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_a_minute_of_chaos_in_a_cluster(tmp_path, seed):
    deck = Storm.OF_PARTS + Storm.OF_NATS
    figures = await chaos(tmp_path, seed, seconds=60, deck=deck, clients=40, rate=5)
    assert figures["counters"]["engine_repairs"] > 0
