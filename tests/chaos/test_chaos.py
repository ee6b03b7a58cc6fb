"""The promise of the link with real processes: nothing lost, nothing out of order, nothing twice without a mark.

The short versions run with the other tests, the long ones with ``make chaos``. ``CHAOS_SEED`` in the environment
repeats a schedule, as far as the machine's timing lets it.
"""

import asyncio
import contextlib
import os
import random
import secrets
import time
from collections import Counter

import pytest

from pystrands.testing import Closed, Rejected, until

from .checks import (
    History,
    Problems,
    check_control,
    check_life,
    check_messages,
    check_ownership,
    check_quiet,
    check_replies,
    untold,
)
from .harness import Chaos, World

pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.skipif(os.name != "posix", reason="it needs SIGKILL, SIGSTOP and SIGTERM"),
]


@pytest.fixture
def seed():
    chosen = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
    print(f"CHAOS_SEED={chosen}")
    return chosen


def report(**figures):
    print(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in figures.items()))


class Crowd:
    """Guests: clients that come and go, and come back under the same ``client_id``."""

    def __init__(self, world, seed):
        self.world = world
        self.random = random.Random(f"{seed} crowd")
        self.is_over = False
        self.rejected = Counter()
        self.left = []

    async def come_and_go(self, name):
        while not self.is_over:
            await asyncio.sleep(self.random.uniform(0.1, 0.6))
            try:
                guest = await self.world.add(f"guest-{name}")
            except Rejected as rejected:  # no backend was there for so long
                self.rejected[rejected.status] += 1
                continue
            for _ in range(self.random.randrange(6)):
                await guest.send()
                await asyncio.sleep(self.random.uniform(0, 0.1))
            await guest.answered(60)
            self.world.senders.remove(guest)
            await guest.close()
            self.left.append(guest)


async def heard_all(world, members):
    """Wait until the control room has heard all it is to hear. What does not come in time is found by the checks."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for member in members:
            member.take()
        if not untold(members, History(world.events(), []), world.exits()):
            return
        await asyncio.sleep(0.1)


async def chaos(directory, seed, *, seconds, deck, rate, beat, window):
    async with World(
        directory, resume_window=window, heartbeat_interval=beat, hold_time=20.0, answer_timeout=20.0
    ) as world:
        await world.start_backends("a", "b", "c")
        control = await world.add_all(["control-1", "control-2"], "control")
        crowd = Crowd(world, seed)
        stayers = await world.add_all([f"client-{n}" for n in range(100)])
        storm = Chaos(world, seed, beat=beat, window=window)
        async with asyncio.TaskGroup() as group:
            for sender in stayers:
                group.create_task(sender.run(rate, crowd.random, lambda: crowd.is_over))
            for name in "xyz":
                group.create_task(crowd.come_and_go(name))
            try:
                await storm.run(seconds, deck)
            finally:
                crowd.is_over = True
        await world.answered(60)
        await heard_all(world, control)  # also from a backend that had been given up, and handled what was not its own
        await world.close_clients()
        await world.recorded("gone", [guest.key for guest in crowd.left])
        status = await world.leave()

        history = History(world.events(), stayers + crowd.left)
        exits = world.exits()
        problems = Problems()
        counters = status["counters"]
        problems.check(not counters.get("events_given_up"), "a message was dropped after three deliveries (rule 21)")
        check_messages(history, problems)
        history.senders.extend(control)
        check_life(history, problems)
        history.senders = stayers + crowd.left
        check_ownership(history, problems)
        check_replies(history, exits, problems, crowd.left)
        check_control(control, history, exits, problems)
        check_quiet(history, problems)
        figures = {
            "messages": sum(sender.sent for sender in history.senders),
            "clients": len(history.senders),
            "processes": len(exits),
            "done": dict(storm.done),
            "cuts": sum(backend.proxy.cuts for backend in world.backends),
            "resumed": counters.get("sessions_resumed", 0),
            "adopted": history.count("adopted"),
            "released": history.count("released"),
            "redelivered": counters.get("events_redelivered", 0),
            "handled_again": history.repeats,
            "rejected": dict(crowd.rejected),
            "counters": counters,
        }
        report(**figures)
        problems.none()
        assert set(storm.done) == set(deck)
        assert figures["messages"] > 100 * rate * seconds * 0.3
        assert figures["resumed"] > 0 and figures["adopted"] > 0 and figures["cuts"] > 0
        assert "killed" in exits.values() and "left" in exits.values()
        return figures


@pytest.mark.timeout(120)
async def test_backends_that_die_leave_pause_and_lose_their_links(tmp_path, seed):
    deck = ("kill", "terminate", "pause_long", "cut", "half_up", "half_down", "outage_short", "silence_short")
    await chaos(tmp_path, seed, seconds=3, deck=deck, rate=4, beat=0.3, window=0.6)


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_minute_of_chaos(tmp_path, seed):
    figures = await chaos(tmp_path, seed, seconds=60, deck=Chaos.LETHAL + Chaos.OTHERS, rate=5, beat=0.4, window=1.0)
    assert figures["redelivered"] > 0 and figures["handled_again"] > 0 and figures["released"] > 0
    assert figures["done"]["kill"] >= 2


async def room_direction(directory, seed, *, numbers, pace):
    """One backend's messages to a room, through a link that fails and a process that pauses: once, in order."""
    rng = random.Random(seed)
    async with World(directory, resume_window=20.0, heartbeat_interval=0.3) as world:
        await world.start_backends("a")
        (backend,) = world.backends
        members = await world.add_all([f"member-{n}" for n in range(8)], "stage")
        stranger = await world.add("stranger", "elsewhere")
        await members[0].client.send_json({"numbers": numbers, "pace": pace})
        storm = Chaos(world, seed, beat=0.3, window=1.0)
        kinds = ("cut", "half_up", "half_down", "cut_often", "silence_short", "pause_short", "outage_short",
                 "pause_silent", "silent_and_cut")  # fmt: skip
        cards = []
        end = time.monotonic() + 120

        def is_streamed():
            told = {line["what"]: line for line in world.events()}
            assert "error" not in told, told
            return "streamed" in told

        while not is_streamed():
            assert time.monotonic() < end
            if not cards:
                cards = rng.sample(kinds, len(kinds))
            kind = cards.pop()
            if kind == "silent_and_cut":
                await storm.silence_short(backend)
                backend.proxy.cut()
            else:
                await getattr(storm, kind)(backend)
            storm.done[kind] += 1
            await asyncio.sleep(rng.uniform(0, 0.2))
        expected = [str(number) for number in range(numbers)]
        await until(lambda: all(len(member.client.pending) >= numbers for member in members), 30)
        for member in members:
            assert member.client.pending == expected
            member.client._connection.inbox.clear()
        await stranger.client.expect_nothing()
        sent = [line for line in world.events() if line["what"] == "sent"]
        assert [line["number"] for line in sent] == list(range(numbers))
        assert all(line["taken"] for line in sent)
        confirmed = [line for line in sent if "matched" in line]
        assert confirmed and all((line["matched"], line["skipped"]) == (len(members), 0) for line in confirmed)
        counters = world.broker.status()["counters"]
        await world.close_clients()
        await world.leave()
        report(numbers=numbers, done=dict(storm.done), cuts=backend.proxy.cuts, counters=counters)
        assert backend.proxy.cuts >= 3 and counters["sessions_resumed"] >= 3
        assert backend.generation == 1
        return storm.done


@pytest.mark.timeout(120)
async def test_room_messages_through_link_cuts(tmp_path, seed):
    await room_direction(tmp_path, seed, numbers=350, pace=0.003)


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_many_room_messages_through_link_cuts(tmp_path, seed):
    done = await room_direction(tmp_path, seed, numbers=8000, pace=0.002)
    assert len(done) == 9


async def rolling_restart(directory, seed, *, rounds, clients, rate):
    """Two backends are replaced one after the other, under load, and nobody notices."""
    rng = random.Random(seed)
    async with World(directory) as world:
        await world.start_backends("a", "b")
        senders = await world.add_all([f"client-{n}" for n in range(clients)])
        control = await world.add_all(["control-1", "control-2"], "control")
        is_over = False
        async with asyncio.TaskGroup() as group:
            for sender in senders:
                group.create_task(sender.run(rate, rng, lambda: is_over))
            try:
                for _ in range(rounds):
                    for backend in world.backends:
                        await asyncio.sleep(rng.uniform(0.2, 0.5))
                        await backend.left()
                        await asyncio.sleep(rng.uniform(0, 0.2))
                        await backend.restarted()
                # Whoever was restarted last has few clients, until new ones come.
                more = await world.add_all([f"later-{n}" for n in range(clients)])
                loads = sorted(world.broker.backend(backend.label)["clients"] for backend in world.backends)
            finally:
                is_over = True
        await world.answered(30)
        await world.close_clients()
        status = await world.leave()
        history = History(world.events(), senders + more)
        exits = world.exits()
        problems = Problems()
        check_messages(history, problems)
        check_life(history, problems)
        check_ownership(history, problems)
        check_replies(history, exits, problems)
        check_control(control, history, exits, problems)
        check_quiet(history, problems)
        report(
            messages=sum(sender.sent for sender in senders),
            adopted=history.count("adopted"),
            loads=loads,
            counters=status["counters"],
        )
        problems.none()
        again = [line for line in history.events if line.get("again")]
        assert not again and not history.repeats and "events_redelivered" not in status["counters"]
        assert set(exits.values()) == {"left"} and len(exits) == 2 * rounds + 2
        assert history.count("adopted") > 0
        assert sum(loads) >= 2 * clients  # those of the control room have had no event since, and no owner
        assert loads[1] - loads[0] <= len(control) + 2


@pytest.mark.timeout(120)
async def test_a_rolling_restart_loses_and_repeats_nothing(tmp_path, seed):
    await rolling_restart(tmp_path, seed, rounds=1, clients=40, rate=20)


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_ten_rolling_restarts_lose_and_repeat_nothing(tmp_path, seed):
    await rolling_restart(tmp_path, seed, rounds=10, clients=60, rate=20)


async def broker_gone(directory, seed, *, rounds, clients):
    """The broker is killed: each client leaves once, and with the next broker all begins anew."""
    rng = random.Random(seed)
    async with World(directory, resume_window=0.4, heartbeat_interval=0.5) as world:
        await world.start_backends("a", "b", "c")
        everyone = []
        for round_ in range(rounds):
            senders = await world.add_all([f"client-{n}" for n in range(clients)])
            everyone += senders
            if round_ % 2 == 0:  # some clients are of adoptive backends
                victim = world.backends[round_ % 3]
                victim.killed()
                await world.lost(victim.label)
                await victim.restarted()
            for sender in senders:
                await sender.send()
            await world.answered(30)
            before = world.broker.status()["broker_id"]
            async with asyncio.TaskGroup() as group:
                for sender in senders:
                    group.create_task(_run_until_closed(sender, rng))
                await asyncio.sleep(rng.uniform(0.2, 0.4))
                world.broker.close()
            assert [(await sender.ended(10)).code for sender in senders] == [1006] * len(senders)
            await asyncio.sleep(rng.uniform(0, 0.5))
            await world.start_broker()
            for backend in world.backends:
                await backend.linked()
            assert world.broker.status()["broker_id"] != before
            await world.recorded("gone", [sender.key for sender in senders])
            world.senders.clear()
        again = await world.add_all([f"client-{n}" for n in range(clients)])
        for sender in again:
            await sender.send()
        await world.answered(30)
        await world.close_clients()
        await world.leave()
        history = History(world.events(), everyone + again)
        problems = Problems()
        check_ownership(history, problems)
        for sender in everyone + again:
            gone = history.life["gone", sender.key]
            problems.check(len(gone) == 1, f"{sender.key} left {len(gone)} times", *gone)
            new = history.life["new", sender.key]
            problems.check(
                new and len([line for line in new if not line["again"]]) <= 1, f"{sender.key} did not join once", *new
            )
            last = max(
                line["t"] for (key, _), lines in history.handlings.items() if key == sender.key for line in lines
            )
            problems.check(gone and gone[0]["t"] >= last, f"{sender.key} left before its last message")
        for line in history.events:
            problems.check(line["what"] != "error" or "messages were lost" in line["text"], "an error was told", line)
        report(clients=len(everyone), adopted=history.count("adopted"), gone=history.count("gone"),
               errors=history.count("error"))  # fmt: skip
        problems.none()
        assert history.count("adopted") > 0


async def _run_until_closed(sender, rng):
    with contextlib.suppress(Closed):
        await sender.run(20, rng, lambda: sender.client.closed)


@pytest.mark.timeout(120)
async def test_a_broker_that_dies(tmp_path, seed):
    await broker_gone(tmp_path, seed, rounds=1, clients=30)


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_brokers_that_die_one_after_the_other(tmp_path, seed):
    await broker_gone(tmp_path, seed, rounds=6, clients=60)
