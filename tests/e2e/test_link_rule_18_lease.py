"""Rule 18 of the link: nothing begins in a session that may be gone, whoever has noticed that it is."""

import asyncio
import itertools
import json
import os
from collections import defaultdict

import pytest

from pystrands import testing
from pystrands.protocol import messages
from tests.client.fake_broker import line, soon, until
from tests.inside import core_of, limited, parts_of

from .raw_backend import RawBackend
from .raw_broker import Noting, RawBroker, unlinked

WINDOW = 1.0


class Clock:
    """Time passes when a test says so; until then it stands still."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def raw_broker():
    async with RawBroker(resume_window=WINDOW) as broker:
        yield broker


async def asked(link):
    """Return the number of the next question."""
    while (heard := await link.next_line())["action"] != "heartbeat":
        pass
    return heard["params"]["ask"]


async def answer(link, number):
    await link.raw(line("heartbeat", {"answer": number}))


async def held(client):
    await until(lambda: core_of(client).lifetime.connection.calls.is_held)


async def turns():
    """Let the loop turn so often that whatever may happen has happened."""
    for _ in range(50):
        await asyncio.sleep(0)


def told(client):
    return [what for what, _ in client.notes]


# --- the backend, with a broker and a clock of the test's ---


async def test_rule_18_after_standing_still_a_backend_asks_before_another_handler_begins(raw_broker, clock, caplog):
    client = limited(Noting(), clock=clock)
    link = await raw_broker.connected(client)
    assert await asked(link) == clock.now
    await link.message("before")
    await until(lambda: told(client) == ["before"])
    clock.now += WINDOW
    for text in ("a", "b"):
        await link.message(text)
    await held(client)
    assert await asked(link) == clock.now
    for useless in (clock.now - WINDOW, "x", None, True, [clock.now]):
        await answer(link, useless)
    await link.raw(line("heartbeat"))
    await turns()
    assert told(client) == ["before"]
    await answer(link, clock.now)
    await until(lambda: told(client) == ["before", "a", "b"])
    warnings = [record.getMessage() for record in caplog.records if "wait until" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("this process stood still for 0.8 s")
    assert len(raw_broker.connections) == 1
    link.cut()
    await client.disconnect(0)


async def test_rule_18_the_warning_tells_how_long_a_backend_stood_still(raw_broker, clock, caplog):
    """Also where the heartbeat was the first to go on."""
    client = limited(Noting(), clock=clock)
    link = await raw_broker.connected(client)
    await asked(link)
    clock.now += 7
    assert await asked(link) == clock.now
    await link.message("a")
    await held(client)
    assert "this process stood still for 6.8 s" in caplog.text
    await answer(link, clock.now)
    await until(lambda: told(client) == ["a"])
    for _ in range(3):
        clock.now += 0.35
        while await asked(link) != clock.now:
            pass
    await link.message("b")
    await held(client)
    assert "the broker has not answered for too long" in caplog.text
    link.cut()
    await client.disconnect(0)


async def test_rule_18_a_handler_that_takes_too_long_keeps_the_next_one_back(raw_broker, clock):
    class Slow(Noting):
        async def on_message(self, message, context):
            await super().on_message(message, context)
            if message == "slow":
                clock.now += WINDOW

    client = limited(Slow(), clock=clock)
    link = await raw_broker.connected(client)
    await asked(link)
    for text, client_id in (("slow", "c1"), ("next", "c1"), ("other", "c2")):
        await link.message(text, client_id)
    await held(client)
    await turns()
    assert told(client) == ["slow"]
    await answer(link, await asked(link))
    await until(lambda: told(client) == ["slow", "other", "next"])
    link.cut()
    await client.disconnect(0)


async def test_rule_18_short_of_the_window_nothing_is_held(raw_broker, clock):
    client = limited(Noting(), clock=clock)
    link = await raw_broker.connected(client)
    await asked(link)
    clock.now += 0.85 * WINDOW
    await link.message("a")
    await until(lambda: told(client) == ["a"])
    link.cut()
    await client.disconnect(0)


async def test_rule_18_a_backend_asks_by_itself_often_enough(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    numbers = [await asked(link) for _ in range(3)]
    assert numbers == sorted(numbers)
    assert numbers[2] - numbers[0] >= WINDOW / 2 - 0.01
    await answer(link, numbers[2])
    lease = core_of(client).lifetime.connection.calls
    await until(lambda: lease.lease == pytest.approx(numbers[2] + 0.9 * WINDOW))
    link.cut()
    await client.disconnect(0)


@pytest.mark.parametrize("hello", [{}, {"resume_window": 0.2}])
async def test_rule_18_a_broker_without_a_window_or_with_a_tiny_one_gives_no_lease(clock, hello):
    async with RawBroker(**hello) as broker:
        client = limited(Noting(), clock=clock)
        link = await broker.connected(client)
        clock.now += 1000
        await link.message("a")
        await until(lambda: told(client) == ["a"])
        link.cut()
        await client.disconnect(0)


@pytest.fixture
async def waiting(raw_broker, clock):
    """A backend whose link has been gone for longer than the window, and its events: one that has begun, and others."""
    client = limited(Noting(), clock=clock)
    link = await raw_broker.connected(client)
    begun = client.hold("begun")
    await link.happens("new_connection")
    await link.message("begun")
    await link.message("c1")
    await link.message("c2", "c2")
    client.max_concurrency = 1
    await until(lambda: set(told(client)) == {"new", "begun", "c2"})
    raw_broker.refuse = True
    link.cut()
    await unlinked(client)
    clock.now += WINDOW
    begun.set()
    await held(client)
    yield client, link
    await client.disconnect(0)


async def next_link(raw_broker):
    raw_broker.refuse = False
    return await raw_broker.linked()


async def test_rule_18_what_waited_for_the_link_begins_when_the_session_is_resumed(raw_broker, waiting):
    client, link = waiting
    again = await next_link(raw_broker)
    await turns()
    assert "c1" not in told(client)
    await again.go_on(link)
    await until(lambda: told(client)[-1] == "c1")
    again.cut()


async def test_rule_18_what_waited_for_the_link_is_dropped_when_the_session_is_gone(raw_broker, waiting):
    client, _ = waiting
    again = await next_link(raw_broker)
    await again.give_up(0)
    await again.message("c1", redelivered=True, event=7)
    await until(lambda: "c1*" in told(client))
    assert "c1" not in told(client)
    assert told(client).count("released") == 2
    again.cut()


async def test_rule_22_what_waited_for_the_link_begins_marked_when_the_broker_is_a_new_one(raw_broker, waiting):
    """Another backend may have been given it, and the clients, before the old broker died."""
    client, _ = waiting
    raw_broker.broker_id = "broker-2"
    again = await next_link(raw_broker)
    await until(lambda: told(client)[-1] == "c1*")
    await again.welcome()
    await until(lambda: told(client)[-2:] == ["gone*", "gone*"])
    assert sorted(client.ids[-2:]) == ["broker-1-gone-c1", "broker-1-gone-c2"]
    again.cut()


async def test_rule_22_within_the_lease_nobody_else_can_have_told_of_the_end(raw_broker, clock):
    client = limited(Noting(), clock=clock)
    link = await raw_broker.connected(client)
    await link.happens("new_connection")
    await until(lambda: told(client) == ["new"])
    clock.now += 0.85 * WINDOW
    raw_broker.broker_id = "broker-2"
    link.cut()
    again = await raw_broker.begin()
    await until(lambda: told(client) == ["new", "gone"])
    again.cut()
    await client.disconnect(0)


async def goodbye(link):
    """Hear a backend out; return the numbers that it gives back."""
    numbers = []
    await link.say("leaving")
    while (heard := await link.hear())["action"] != "bye":
        if heard["action"] == "released":
            numbers += heard["params"]["events"]
    await link.acknowledge()
    link.connection.close()
    return numbers


async def test_rule_18_disconnecting_without_a_link_gives_back_what_waits(raw_broker, waiting):
    client, link = waiting
    ending = asyncio.ensure_future(client.disconnect(timeout=60))
    await turns()
    assert "c1" not in told(client)
    again = await next_link(raw_broker)
    await again.go_on(link)
    assert await goodbye(again) == [[3, 3]]
    await soon(ending)
    assert "c1" not in told(client)


async def test_rule_18_disconnecting_first_and_losing_the_lease_then(raw_broker, clock):
    """What the client has to tell itself is told; what its handlers send is sent, as the session lives."""

    class Answering(Noting):
        async def on_message(self, message, context):
            await super().on_message(message, context)
            assert await self.broadcast_message(f"re: {message}")

    client = limited(Answering(), clock=clock)
    link = await raw_broker.connected(client)
    begun = client.hold("a")
    await link.message("a")
    await link.message("b")
    await until(lambda: told(client) == ["a"])
    raw_broker.refuse = True
    link.cut()
    await unlinked(client)
    ending = asyncio.ensure_future(client.disconnect(timeout=60))
    await turns()
    clock.now += WINDOW
    begun.set()
    await until(lambda: core_of(client).lifetime.dispatcher.idle)
    again = await next_link(raw_broker)
    await again.go_on(link)
    await again.hear("leave")
    assert (await again.hear("released"))["params"]["events"] == [[2, 2]]
    assert await again.hear_text() == "re: a"
    assert await goodbye(again) == []
    await soon(ending)
    assert told(client) == ["a"]


async def test_rule_18_what_was_not_delivered_is_told_without_a_lease(raw_broker, clock):
    client = limited(Noting(), clock=clock)
    link = await raw_broker.connected(client)
    raw_broker.refuse = True
    link.cut()
    await unlinked(client)
    assert await client.broadcast_message("x")
    clock.now += WINDOW
    await soon(client.disconnect(0))
    assert [error[:22] for error in client.errors] == ["1 messages were lost: "]


async def test_rule_18_disconnecting_while_held_with_a_link_releases_what_waits(raw_broker, clock):
    client = limited(Noting(), clock=clock)
    link = await raw_broker.connected(client)
    clock.now += WINDOW
    seq = await link.message("a")
    await held(client)
    ending = asyncio.ensure_future(client.disconnect(timeout=60))
    await link.hear("leave")
    assert (await link.hear("released"))["params"]["events"] == [[seq, seq]]
    assert await goodbye(link) == []
    await soon(ending)
    assert told(client) == []


# --- the broker ---


async def answers(raw):
    """Return the answers to what was asked until now: a result comes after all of them."""
    raw.say("room_members", {"room_id": "none"}, request_id="end")
    numbers = []
    while (heard := await raw.next_line())["action"] != "result":
        if heard["action"] == "heartbeat" and heard["params"]:
            numbers.append(heard["params"]["answer"])
    return numbers


async def test_rule_18_the_broker_says_its_window_and_answers_who_has_a_session():
    async with testing.broker(resume_window=7) as broker, RawBackend(broker) as raw:
        assert raw.hello["resume_window"] == 7
        for number in (1, 2.5, 2**40):
            raw.raw(line("heartbeat", {"ask": number}))
        for strange in ("1", None, True, [1], {}):
            raw.raw(line("heartbeat", {"ask": strange}))
        raw.raw(json.dumps({"action": "heartbeat", "params": ["ask"]}).encode() + b"\n")
        raw.raw(line("heartbeat"))
        assert await answers(raw) == [1, 2.5, 2**40]
        assert not broker.counters["lines_malformed"]


async def test_rule_18_the_broker_does_not_answer_who_speaks_protocol_1():
    async with testing.broker() as broker, RawBackend(broker, begin=False) as raw:
        for _ in range(2):
            raw.raw(line("heartbeat", {"ask": 1}))
        assert await answers(raw) == []


async def test_rule_18_the_broker_does_not_answer_on_a_link_that_another_has_replaced():
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        newer = RawBackend(broker)
        newer.session_id = one.session_id
        await newer.open()
        assert (await newer.begin(resume=True, received=0, next_session_id="another"))["resumed"]
        one.raw(line("heartbeat", {"ask": 1}))
        assert await one.is_closed()
        newer.cut()


def test_the_number_of_a_heartbeat():
    heartbeat = messages.Heartbeat({"ask": 1, "answer": 2.0})
    assert (heartbeat.number("ask"), heartbeat.number("answer"), heartbeat.number("x")) == (1, 2.0, None)
    assert messages.Heartbeat().number("ask") is None


# --- processes ---

PROGRAM = """
import asyncio, json, os, sys, time

from pystrands import AsyncPyStrandsClient, PyStrandsClient


def note(what, context, message):
    line = {"t": time.monotonic(), "by": os.environ["LABEL"], "what": what, "message": message,
            "id": context.client_id, "event": context.event_id, "again": context.redelivered}
    os.write(record, json.dumps(line).encode() + b"\\n")


record = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
is_one = os.environ["LABEL"] == "one"
pause = 0.02 if is_one else 0  # the other one overtakes it


def waits(message):
    # The test says when the first backend goes on.
    return is_one and int(message.split()[1]) >= 3 and not os.path.exists(os.environ["RECORD"] + ".go")


options = {"port": int(os.environ["PYSTRANDS_TCP_PORT"]), "reconnect_delay": 0.05, "max_reconnect_delay": 0.1}


class Async(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        note("message", context, message)
        await asyncio.sleep(pause)
        while waits(message):
            await asyncio.sleep(0.01)

    async def on_client_released(self, context):
        note("released", context, "")


class Sync(PyStrandsClient):
    def on_message(self, message, context):
        note("message", context, message)
        time.sleep(pause)
        while waits(message):
            time.sleep(0.01)

    def on_client_released(self, context):
        note("released", context, "")


if sys.argv[1] == "sync":
    Sync(max_workers=4, **options).run_forever()
else:
    asyncio.run(Async(**options).run_forever())
"""

CLIENTS = 6
EACH = 25
BEAT = 0.15


class Records:
    """What the processes have recorded, in the order of time; their clocks are one."""

    def __init__(self, path):
        self.path = path

    def all(self):
        data = self.path.read_bytes() if self.path.exists() else b""
        lines = data[: data.rfind(b"\n") + 1].splitlines()  # the last one may be half there
        return sorted(map(json.loads, lines), key=lambda each: each["t"])

    def go_on(self):
        """Let the first backend go on."""
        self.path.with_name(self.path.name + ".go").touch()

    def handled(self):
        handlings = defaultdict(list)
        for each in self.all():
            if each["what"] == "message":
                handlings[each["message"]].append(each)
        return handlings

    def by(self, label, what="message"):
        return [each for each in self.all() if (each["by"], each["what"]) == (label, what)]

    def check(self, expected):
        """All is handled; what is handled again is marked; each client's messages are first handled in order."""
        handlings = self.handled()
        assert sorted(handlings) == sorted(expected)
        unmarked = [each for lines in handlings.values() for each in lines[1:] if not each["again"]]
        assert not unmarked
        assert all(len({each["event"] for each in lines}) == 1 for lines in handlings.values())
        for _, group in itertools.groupby(sorted(handlings, key=key), key=lambda text: text.split()[0]):
            first = [handlings[text][0]["t"] for text in group]
            assert first == sorted(first)


def key(text):
    client, number = text.split()
    return client, int(number)


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "record.jsonl")


def process(broker, kind, records, label):
    program = records.path.with_name("program.py")
    program.write_text(PROGRAM)
    return testing.backend_process(broker, program, kind, env={"RECORD": str(records.path), "LABEL": label})


async def clients_of(broker, records, label):
    """Clients whose messages are all on their way to the only backend, which has begun with some of them."""
    sockets = [await testing.connect(broker) for _ in range(CLIENTS)]
    texts = [f"{number} {each}" for each in range(EACH) for number in range(CLIENTS)]
    for text in texts:
        await sockets[int(text.split()[0])].send(text)
    await testing.until(lambda: len(records.by(label)) >= 2 * CLIENTS)
    return sockets, texts


def consumer(broker):
    (session,) = [each for each in parts_of(broker).sessions.sessions if each.streams]
    return session


needs_signals = pytest.mark.skipif(os.name != "posix", reason="it needs SIGSTOP")


@needs_signals
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_rule_18_a_backend_that_was_frozen_begins_nothing_that_another_has(kind, records):
    async with testing.broker(heartbeat_interval=BEAT, resume_window=0.3) as broker:
        async with process(broker, kind, records, "one") as one:
            sockets, texts = await clients_of(broker, records, "one")
            one.stop()
            records.go_on()
            begun = len(records.by("one"))
            assert len(texts) - begun > EACH
            async with process(broker, kind, records, "two"):
                await testing.until(lambda: len(records.handled()) == len(texts), 20)
                one.cont()
                await testing.until(lambda: len(records.by("one", "released")) == CLIENTS, 20)
                await testing.until(lambda: len(consumer(broker).unfinished) == 0, 20)
                records.check(texts)
                assert len(records.by("one")) == begun
                assert "stood still" in one.output or kind == "sync"
                for ws in sockets:
                    await ws.close()


@needs_signals
async def test_rule_18_a_backend_that_was_frozen_for_a_moment_notices_nothing(records):
    async with testing.broker(resume_window=30) as broker, process(broker, "async", records, "one") as one:
        sockets, texts = await clients_of(broker, records, "one")
        async with process(broker, "async", records, "two"):
            one.stop()
            records.go_on()
            await asyncio.sleep(0.1)
            one.cont()
            await testing.until(lambda: len(records.by("one")) == len(texts), 20)
            records.check(texts)
            assert not any(each["again"] for each in records.all())
            assert not broker.counters["sessions_resumed"] and "lost the link" not in one.output
            assert "wait until" not in one.output
            for ws in sockets:
                await ws.close()


@needs_signals
async def test_rule_18_a_backend_that_was_frozen_alone_goes_on(records):
    async with testing.broker(heartbeat_interval=BEAT, resume_window=0.3) as broker:
        async with process(broker, "async", records, "one") as one:
            sockets, texts = await clients_of(broker, records, "one")
            one.stop()
            records.go_on()
            await testing.until(lambda: any(each.is_expired for each in parts_of(broker).sessions.sessions), 20)
            one.cont()
            await testing.until(lambda: len(records.by("one")) == len(texts), 20)
            records.check(texts)
            assert not any(each["again"] for each in records.all())
            for ws in sockets:
                await ws.close()


async def another_takes_over(broker, proxy, records, lose, find):
    """Have the link of a backend whose handlers wait be lost, and found again when another backend is done."""
    async with process(proxy, "async", records, "one"):
        sockets, texts = await clients_of(broker, records, "one")
        async with process(broker, "async", records, "two"):
            lose()
            records.go_on()
            await testing.until(lambda: len(records.handled()) == len(texts), 20)
            find()
            await testing.until(lambda: len(records.by("one", "released")) == CLIENTS, 20)
            records.check(texts)
            for ws in sockets:
                await ws.close()


async def test_rule_18_a_backend_whose_link_is_cut_for_long_begins_nothing_that_another_has(records):
    async with testing.broker(resume_window=0.3) as broker, testing.LinkProxy(broker) as proxy:

        def lose():
            proxy.refuse()
            proxy.cut()

        await another_takes_over(broker, proxy, records, lose, proxy.accept)


async def test_rule_18_a_backend_whose_link_is_silent_begins_nothing_that_another_has(records):
    """It never hears of the end of its link, and what was on its way arrives when another backend has it."""
    async with testing.broker(heartbeat_interval=BEAT, resume_window=0.3) as broker, testing.LinkProxy(broker) as proxy:
        await another_takes_over(broker, proxy, records, proxy.pause, proxy.resume)


ENDS = """
import asyncio, os

from pystrands import AsyncPyStrandsClient


class Backend(AsyncPyStrandsClient):
    async def on_disconnect(self, context):
        print("gone", context.client_id, context.redelivered, context.event_id, flush=True)


asyncio.run(Backend(port=int(os.environ["PYSTRANDS_TCP_PORT"]), reconnect_delay=0.05).run_forever())
"""


@needs_signals
async def test_rule_22_a_frozen_backend_marks_the_ends_of_which_another_may_have_told(tmp_path):
    """It was frozen beyond the window, another one got its clients, and then the broker died."""
    program = tmp_path / "program.py"
    program.write_text(ENDS)
    other = Noting()
    async with (
        testing.broker(heartbeat_interval=0.5, resume_window=2) as first,
        testing.broker() as second,
        testing.LinkProxy(first) as proxy,
        testing.backend_process(proxy, program) as one,
    ):
        sockets = [await testing.connect(first) for _ in range(5)]
        other.host, other.port = "127.0.0.1", proxy.tcp_port
        assert await other.connect()
        one.stop()
        for ws in sockets:
            await ws.send("text")
        await testing.until(lambda: sum(what.startswith("text") for what, _ in other.notes) == 5, 20)
        proxy._relay._target = second.tcp_port  # to backends, a broker that was killed and started again
        proxy.cut()
        await testing.until(lambda: told(other).count("gone") == 5)
        one.cont()
        await testing.until(lambda: len(ends_of(one)) == 5, 20)
        assert {marked for _, marked, _ in ends_of(one)} == {"True"}
        names = {each.event_id for (what, _), each in zip(other.notes, other.contexts, strict=True) if what == "gone"}
        assert names == {name for _, _, name in ends_of(one)}, "who keeps them knows the second"
        assert "gone*" not in told(other)
        await other.disconnect()
        for ws in sockets:
            await ws.close()


def ends_of(process):
    return [line.split()[1:] for line in process.output.splitlines() if line.startswith("gone ")]
