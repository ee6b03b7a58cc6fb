"""Rules 6 to 12 of the link: who speaks which protocol, credit, and bounds. Whole clients and brokers."""

import asyncio
import contextlib
import json
from collections import Counter

import pytest

from pystrands import PyStrandsError, testing
from pystrands.protocol import wire
from pystrands.testing import frames
from tests.client.fake_broker import FakeBroker, context, line, message, soon, until
from tests.inside import core_of, limited, parts_of

from .raw_backend import RawBackend, told
from .raw_backend import line as raw_line
from .raw_broker import Noting, RawBroker, unlinked


async def _connect(broker):
    return await testing.connect(broker)


# --- rules 6 and 7 ---


async def test_rule_06_an_undecided_link_does_not_count_and_gets_nothing():
    async with testing.broker(hold_time=0) as broker, RawBackend(broker, begin=False) as raw:
        assert raw.hello["protocol"] == 2
        with pytest.raises(testing.Rejected) as rejected:
            await testing.connect(broker)
        assert rejected.value.status == 503
        assert broker.backend_count == 0
        welcome = await raw.begin()
        assert welcome == {"session_id": raw.session_id, "resumed": False, "received": 0}
        ws = await raw.admit("ann")
        await ws.close()


@pytest.mark.parametrize("first", ["heartbeat", "broadcast", None])
async def test_rule_06_another_first_line_or_silence_means_protocol_1(first):
    async with testing.broker() as broker, RawBackend(broker, begin=False) as raw:
        if first is not None:
            raw.raw(raw_line(first, {"message": "x"}))
        await testing.until(lambda: broker.backend_count == 1)
        connecting = asyncio.ensure_future(_connect(broker))
        asked = await raw.next_line()
        assert (asked["action"], "seq" in asked) == ("connection_request", False)
        raw.raw(raw_line("response", {"accepted": True, "client_id": "ann"}, request_id=asked["request_id"]))
        ws = await connecting
        assert "seq" not in await raw.next_line()
        raw.raw(raw_line("broadcast", {"message": "hi"}))
        await ws.expect("hi")
        await ws.close()


async def test_rule_06_a_backend_takes_a_silent_broker_for_protocol_1():
    async with FakeBroker(hello=False) as old:
        client = Noting(**old.where)
        assert await client.connect()
        link = await old.link()
        assert await client.broadcast_message("x")
        assert "seq" not in await link.receive()
        link.cut()
        await client.disconnect(0)


async def test_rule_07_a_late_hello_counts_only_when_nothing_was_exchanged():
    async with testing.broker() as broker, RawBackend(broker, begin=False) as raw:
        raw.raw(raw_line("heartbeat"))
        await testing.until(lambda: broker.backend_count == 1)
        await raw.begin()
        ws = await raw.admit("ann")
        async with RawBackend(broker, begin=False) as late:
            late.raw(raw_line("heartbeat"))
            await testing.until(lambda: broker.backend_count == 2)
            connecting = asyncio.ensure_future(_connect(broker))
            asked = await late.next_line()
            late.greet()
            late.raw(raw_line("response", {"accepted": True}, request_id=asked["request_id"]))
            await (await connecting).close()
            assert (await late.next_line())["action"] == "new_connection"
            assert broker.counters["hellos_late"] == 1
        await ws.close()


async def test_rule_07_who_has_seen_the_brokers_hello_never_falls_back(raw_broker):
    client = limited(Noting(), connect=0.1)
    link = await raw_broker.connected(client)
    raw_broker.says_hello = False
    link.cut()
    silent = await raw_broker.link()
    assert await soon(silent.reader.read()) == wire.WAITING, "nothing else was sent, and the link was given up"
    raw_broker.says_hello = True
    again = await raw_broker.linked()
    await again.go_on(link)
    assert await again.so_far(client) == []
    again.cut()
    await client.disconnect(0)


# --- rule 8 ---


async def test_rule_08_silence_ends_a_link_of_protocol_2_and_not_its_session():
    async with testing.broker(heartbeat_interval=0.02) as broker, RawBackend(broker) as raw:
        assert raw.hello["heartbeat"] == 0.02
        await raw.so_far()
        assert await raw.is_closed()
        assert (await raw.resume())["resumed"]


async def test_rule_08_silence_does_not_end_a_link_of_protocol_1():
    async with testing.broker(heartbeat_interval=0.02) as broker, RawBackend(broker, begin=False) as raw:
        raw.raw(raw_line("heartbeat"))
        for _ in range(10):
            assert (await raw.next_line())["action"] == "heartbeat"
        assert broker.backend_count == 1


async def test_rule_08_a_backend_ends_a_silent_link_and_resumes():
    async with RawBroker(heartbeat=0.02) as broker:
        client = Noting()
        link = await broker.connected(client)
        assert await link.is_closed()
        again = await broker.linked()
        await again.go_on(link)
        assert await again.so_far(client) == []
        again.cut()
        await client.disconnect(0)


async def test_rule_08_a_link_of_protocol_1_that_does_not_answer_is_asked_no_more_until_it_speaks():
    async with testing.broker(answer_timeout=0.02, hold_time=0.02) as broker:
        async with RawBackend(broker, begin=False) as probe:
            probe.raw(raw_line("heartbeat"))
            await testing.until(lambda: broker.backend_count == 1)
            statuses = []
            for _ in range(3):
                with pytest.raises(testing.Rejected) as rejected:
                    await testing.connect(broker)
                statuses.append(rejected.value.status)
            assert statuses == [504, 503, 503]
            assert (await probe.next_line())["action"] == "connection_request"
            parts_of(broker).router.connection_requests._answer_timeout = 10.0
            probe.raw(raw_line("heartbeat"))
            connecting = asyncio.ensure_future(_connect(broker))
            asked = await probe.next_line()
            probe.raw(raw_line("response", {"accepted": True}, request_id=asked["request_id"]))
            await (await connecting).close()


# --- rule 9 ---


@pytest.mark.parametrize("says_hello", [False, True])
async def test_rule_09_only_the_original_brokers_metadata_is_unwrapped(says_hello):
    nested = {"accepted": True, "client_id": "c1", "room_id": "r1", "metadata": {"a": 1}}
    async with RawBroker(hello=says_hello) as broker:
        client = Noting(**broker.where)
        if says_hello:
            link = await broker.connected(client)
            await link.say("new_message", {"message": "x", "context": context("c1", metadata=nested)})
            connection = link.connection
        else:
            assert await client.connect()
            connection = await broker.link()
            await connection.send(line("new_message", {"message": "x", "context": context("c1", metadata=nested)}))
        await until(lambda: client.notes)
        assert client.contexts[0].metadata == (nested if says_hello else {"a": 1})
        connection.cut()
        await client.disconnect(0)


async def test_rule_09_binary_is_base64_with_a_flag_and_text_stays_text():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        await ws.send(b"\x00\xff")
        params = (await raw.hear("new_message"))["params"]
        assert (params["message"], params["binary"]) == ("AP8=", True)
        raw.say("broadcast", {"message": "AP8=", "binary": True})
        raw.say("broadcast", {"message": "AP8="})
        await ws.expect(b"\x00\xff")
        await ws.expect("AP8=")
        await ws.close()


async def test_rule_09_whose_owner_speaks_protocol_1_is_closed_with_1003_for_binary():
    async with testing.broker() as broker, RawBackend(broker, begin=False) as raw:
        raw.raw(raw_line("heartbeat"))
        await testing.until(lambda: broker.backend_count == 1)
        connecting = asyncio.ensure_future(_connect(broker))
        asked = await raw.next_line()
        raw.raw(raw_line("response", {"accepted": True}, request_id=asked["request_id"]))
        ws = await connecting
        await ws.send(b"x")
        await ws.expect_close(1003)


# --- rule 10 ---


@pytest.mark.no_cover
async def test_rule_10_a_client_has_credit_for_32_events_and_is_then_not_read_from():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        busy, idle = await raw.admit("busy"), await raw.admit("idle")
        sending = asyncio.ensure_future(send_all(busy, [f"{number} {'x' * 4000}" for number in range(5000)]))
        heard = [await raw.hear("new_message") for _ in range(32)]
        await testing.until(lambda: broker.queued_messages)
        assert await raw.so_far() == []
        assert next(iter(parts_of(broker).rooms.sockets)).paused != list(parts_of(broker).rooms.sockets)[1].paused
        await idle.send("others are not affected")
        await raw.hear_message("others are not affected")
        assert broker.queued_messages == 1, "the rest of what was read waits with its sender"
        assert not sending.done()
        count = 32
        while count < 5000:
            raw.done(*heard)
            raw.acknowledge()
            heard = [await raw.hear("new_message")]
            assert heard[0]["params"]["message"].startswith(f"{count} ")
            count += 1
        await sending
        raw.done(*heard)
        await busy.close()
        await idle.close()


async def send_all(ws, messages):
    for each in messages:
        await ws.send(each, timeout=30)


@pytest.mark.parametrize("way", ["close", "abort"])
async def test_rule_10_what_was_read_before_a_client_left_is_handled_before_its_end(way):
    """However little credit there is: it was taken. Meanwhile its id is free, and whoever takes it comes after it."""
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        last = frames.frame(frames.CLOSE, b"\x03\xe8") if way == "close" else b""
        await ws.send_raw(b"".join(frames.frame(frames.TEXT, b"%d" % number) for number in range(100)) + last)
        await testing.until(lambda: broker.counters["messages_received"] == 33)
        if way == "close":
            await ws.expect_close(1000)
        else:
            ws.abort()
        await testing.until(lambda: not broker.client_count)
        heard = [await raw.hear("new_message") for _ in range(32)]
        assert await raw.so_far() == []
        again = asyncio.ensure_future(_connect(broker))
        raw.accept(await raw.hear("connection_request"), "ann")
        newer = await again
        for event in heard:
            raw.done(event)
            if len(heard) < 101:
                heard.append(await raw.hear())
        assert [told(event) for event in heard] == [*map(str, range(100)), "disconnected"]
        await raw.hear("new_connection")
        await newer.close()


async def test_rule_10_a_client_has_credit_for_256_kib_and_one_message_always_passes():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        await ws.send("x" * 500_000)
        await ws.send("y" * 200_000)
        await ws.send("z" * 50_000)
        big = await raw.hear("new_message")
        await testing.until(lambda: broker.queued_messages)
        assert await raw.so_far() == []
        raw.done(big)
        assert [len((await raw.hear("new_message"))["params"]["message"]) for _ in range(2)] == [200_000, 50_000]
        await ws.close()


async def test_rule_10_a_backend_has_credit_for_1000_events_and_lifecycle_needs_none():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        sockets = [await raw.admit(str(number)) for number in range(36)]
        for ws in sockets:
            for number in range(30):
                await ws.send(str(number))
        first = [await raw.hear("new_message") for _ in range(1000)]
        await testing.until(lambda: broker.queued_messages)  # the rest may not have been read
        assert await raw.so_far() == []
        late = await raw.admit("late")  # neither the handshake nor the event that it is in
        counts = Counter(each["params"]["context"]["client_id"] for each in first)
        served = next(number for number in range(36) if counts[str(number)] == 30)  # nothing of it waits
        await sockets[served].close()
        assert (await raw.hear())["action"] == "disconnected"
        raw.done(*first[:50])
        assert [(await raw.hear())["action"] for _ in range(50)] == ["new_message"] * 50
        assert await raw.so_far() == []
        raw.done(*first[50:])
        rest = [told(await raw.hear("new_message")) for _ in range(30)]
        assert len(rest) == 30
        assert await raw.so_far() == []
        for ws in (*sockets, late):
            ws.abort()


# --- rule 11 ---


async def test_rule_11_what_is_no_event_needs_no_credit():
    async with testing.broker(heartbeat_interval=0.05) as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        for number in range(40):
            await ws.send(str(number))
        for _ in range(32):
            await raw.hear("new_message")
        before = raw.heartbeats
        while raw.heartbeats < before + 2:
            raw.raw(raw_line("heartbeat"))
            raw.say("broadcast", {"message": "x", "confirm": True}, request_id="r")
            assert (await raw.hear())["action"] == "result"
            await ws.expect("x")
        ws.abort()  # a close frame would not be read before the backend has caught up


async def test_rule_11_the_command_window_bounds_what_is_kept_without_a_link(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    core_of(client).lifetime.connection.outgoing.session.max_lines = 5
    assert await client.broadcast_message("0")
    assert await link.hear_text() == "0"
    link.cut()
    await unlinked(client)
    taken = [await client.broadcast_message(str(number)) for number in range(1, 8)]
    assert taken == [True] * 4 + [False] * 3, "one was written and not acknowledged"
    again = await raw_broker.linked()
    await again.go_on(link)
    assert [await again.hear_text() for _ in range(4)] == ["1", "2", "3", "4"]
    sending = asyncio.ensure_future(client.broadcast_message("waits"))
    await again.acknowledge()
    assert await soon(sending)
    assert await again.hear_text() == "waits"
    again.cut()
    await client.disconnect(0)


async def test_rule_11_the_command_window_is_bounded_in_bytes_too(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    core_of(client).lifetime.connection.outgoing.session.max_bytes = 1000
    link.cut()
    await unlinked(client)
    taken = [await client.broadcast_message("x" * 400) for _ in range(5)]
    assert taken == [True, True, True, False, False]
    again = await raw_broker.linked()
    await again.go_on(link)
    for _ in range(3):
        assert await again.hear_text() == "x" * 400
    again.cut()
    await client.disconnect(0)


@pytest.mark.parametrize("fate", ["acknowledged", "cut"])
async def test_rule_11_send_waits_for_the_window_while_the_link_is_up(raw_broker, fate):
    client = Noting()
    link = await raw_broker.connected(client)
    core_of(client).lifetime.connection.outgoing.session.max_lines = 3
    sending = [asyncio.ensure_future(client.broadcast_message(str(number))) for number in range(6)]
    assert [await link.hear_text() for _ in range(3)] == ["0", "1", "2"]
    await until(lambda: sum(each.done() for each in sending) == 3)
    await link.acknowledge(2)
    assert [await link.hear_text() for _ in range(2)] == ["3", "4"]
    assert not sending[5].done()
    if fate == "acknowledged":
        await link.acknowledge(5)
        assert await link.hear_text() == "5"
        assert [await soon(each) for each in sending] == [True] * 6
        link.cut()
    else:
        link.cut()
        assert [await soon(each) for each in sending] == [True] * 5 + [False], "no room, and no link to wait for"
        again = await raw_broker.linked()
        await again.go_on(link, received=3)
        assert [await again.hear_text() for _ in range(2)] == ["3", "4"]
        assert await again.so_far(client) == []
        again.cut()
    await client.disconnect(0)


async def test_rule_11_a_backend_reads_on_whatever_waits_for_its_handlers(raw_broker):
    """Acknowledgements come on the same link as events."""
    client = Noting(max_concurrency=1)
    link = await raw_broker.connected(client)
    release = client.hold("0")
    for number in range(50):
        await link.message(f"{number}" if not number else "x" * 500_000)
    core_of(client).lifetime.connection.outgoing.session.max_lines = 1
    assert await client.broadcast_message("a")
    sending = asyncio.ensure_future(client.broadcast_message("b"))
    assert await link.hear_text() == "a"
    await link.acknowledge()
    assert await soon(sending)
    core_of(client).lifetime.connection.outgoing.session.max_lines = 4096
    release.set()
    link.cut()
    await client.disconnect(0)


# --- rule 12 ---


async def test_rule_12_a_queue_of_no_size_drops_messages_only_and_counts_them():
    async with testing.broker(queue_size=0, resume_window=0.05) as broker, RawBackend(broker) as raw:
        ws, other = await raw.admit("ann"), await raw.admit("bob")
        raw.cut()
        await testing.until(lambda: all(session.is_absent for session in parts_of(broker).sessions.sessions))
        await ws.send("x")
        await testing.until(lambda: broker.counters["queue_dropped"] == 1)
        await other.close()
        assert (await raw.resume())["resumed"]
        assert await raw.messages_so_far() == ["disconnected"]
        await ws.close()


async def test_rule_12_backpressure_gates_reading_and_what_was_taken_is_kept():
    async with testing.broker(queue_size=3, resume_window=0.05) as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        raw.cut()
        await testing.until(lambda: all(session.is_absent for session in parts_of(broker).sessions.sessions))
        sending = asyncio.ensure_future(send_all(ws, [f"{number} {'x' * 4000}" for number in range(3000)]))
        await testing.until(lambda: next(iter(parts_of(broker).rooms.sockets)).paused)
        assert 3 <= broker.queued_messages < 100
        assert not sending.done()
        assert (await raw.resume())["resumed"]
        for number in range(3000):
            event = await raw.hear("new_message")
            assert event["params"]["message"].startswith(f"{number} ")
            raw.done(event)
        await sending
        assert broker.counters["queue_dropped"] == 0
        await ws.close()


@pytest.mark.parametrize("policy", ["backpressure", "drop-oldest", "disconnect"])
@pytest.mark.parametrize("size", [0, 1, 1000])
async def test_rule_12_no_policy_touches_what_waits_for_a_link_that_may_come_back(size, policy):
    """The queue is for clients without a backend; one whose link is cut has one, for the resume window."""
    async with testing.broker(queue_size=size, queue_policy=policy) as broker, RawBackend(broker) as raw:
        clients = [await raw.admit(str(number)) for number in range(4)]
        async with testing.backend(broker):  # another one is there all the time
            raw.cut()
            await testing.until(lambda: broker.backend_count == 1)
            for number in range(10):
                for ws in clients:
                    await ws.send(str(number))
            await testing.until(lambda: all(each.paused for each in parts_of(broker).rooms.sockets))
            assert (await raw.resume())["resumed"]
            heard = Counter[str]()
            for _ in range(40):
                event = await raw.hear("new_message")
                client_id = event["params"]["context"]["client_id"]
                assert event["params"]["message"] == str(heard[client_id])
                heard[client_id] += 1
                raw.done(event)
            assert broker.counters["queue_dropped"] == 0
            for ws in clients:
                await ws.close()


@pytest.mark.parametrize("policy", ["drop-oldest", "disconnect"])
async def test_rule_12_no_policy_touches_what_waits_for_the_credit_of_a_backend_that_is_there(policy):
    async with (
        testing.broker(queue_size=5, queue_policy=policy, resume_window=0.05) as broker,
        RawBackend(broker, "gone") as gone,
    ):
        lost = await gone.admit("lost")
        async with RawBackend(broker, "slow") as slow:
            busy = await slow.admit("busy")
            for number in range(33):  # the last one waits for credit
                await busy.send(str(number))
            await testing.until(lambda: broker.queued_messages == 1)
            session = next(each for each in parts_of(broker).sessions.sessions if "slow" in each.name)
            session.requests.update(dict.fromkeys(map(str, range(1000))))  # so many that it takes no other clients
            gone.cut()
            await testing.until(lambda: any(session.is_absent for session in parts_of(broker).sessions.sessions))
            for number in range(20):
                with contextlib.suppress(testing.Closed):
                    await lost.send(str(number))
            if policy == "disconnect":
                await lost.expect_close(1013)
            await testing.until(lambda: broker.counters["queue_dropped"] == (15 if policy == "drop-oldest" else 1))
            session.requests.clear()
            heard = []
            for _ in range(33):
                heard.append(await slow.hear("new_message"))
                slow.done(heard[-1])
            assert [event["params"]["message"] for event in heard] == [str(number) for number in range(33)]
            await busy.close()
            lost.abort()


async def test_rule_12_who_is_not_read_from_is_not_missed_by_keep_alive():
    async with testing.broker(ping_interval=0.02, ping_missed=1) as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        for number in range(40):
            await ws.send(str(number))
        await testing.until(lambda: next(iter(parts_of(broker).rooms.sockets)).paused)
        await asyncio.sleep(0.2)  # ten pings, whose answers nobody reads
        assert ws.closed is None
        for _ in range(40):
            raw.done(await raw.hear("new_message"))
        await ws.ping()
        await ws.close()


# --- rule 5, where lines are made for credit's sake ---


async def test_rule_05_events_around_the_longest_line_that_a_backend_takes():
    """What their numbers add counts: a line too long would never get through, and nothing behind it."""
    async with testing.broker() as broker, RawBackend(broker, begin=False) as raw:
        await raw.begin(max_line=17_000)
        ws = await raw.admit("ann")
        sizes = range(16_600, 17_000, 3)
        for size in sizes:
            await ws.send("x" * size)
            await ws.send("end")
            raw.acknowledge()
            heard = await raw.hear("new_message")
            assert len(json.dumps(heard, separators=(",", ":"))) <= 17_000
            raw.done(heard)
            if heard["params"]["message"] != "end":
                raw.done(await raw.hear_message("end"))
        assert 0 < broker.counters["events_too_long"] < len(sizes)
        await ws.close()


async def test_rule_05_an_answer_that_is_too_long_is_an_error_and_not_a_line_that_never_comes(raw_broker):
    async with testing.broker() as broker, RawBackend(broker, begin=False) as raw:
        await raw.begin(max_line=17_000)
        sockets = [await raw.admit(f"{number} {'x' * 200}") for number in range(80)]
        raw.say("room_members", {"room_id": "/room"}, request_id="r")
        result = (await raw.hear("result"))["params"]
        assert "bytes" in result["error"]
        assert await raw.so_far() == []
        for ws in sockets:
            await ws.close()
    client = Noting()
    link = await raw_broker.connected(client)
    asking = asyncio.ensure_future(client.room_members("r"))
    asked = await link.hear("room_members")
    await link.say("result", result, request_id=asked["request_id"])
    with pytest.raises(PyStrandsError, match="bytes"):
        await soon(asking)
    link.cut()
    await client.disconnect(0)


async def test_rule_01_each_session_begins_with_1(raw_broker):
    client = Noting()
    for _ in range(2):
        link = await raw_broker.connected(client)
        assert await client.broadcast_message("x")
        assert (await link.hear("broadcast"))["seq"] == 1
        link.cut()
        await client.disconnect(0)


async def test_rule_09_messages_of_an_old_broker_are_handled():
    async with FakeBroker(hello=False) as old:
        client = Noting(**old.where)
        assert await client.connect()
        link = await old.link()
        await link.send(message("hi"))
        await until(lambda: client.notes == [("hi", "c1")])
        assert client.ids == [""]
        link.cut()
        await client.disconnect(0)
