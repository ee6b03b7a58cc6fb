"""Rules 1 to 5 of the link: numbered streams, acknowledgements, finished events, results. Whole clients and brokers."""

import asyncio
import contextlib
import json
import logging

import pytest

from pystrands import MessageTooBig, OutcomeUnknown, testing
from pystrands.client.confirmation import Confirmation
from tests.client.fake_broker import soon

from .raw_backend import RawBackend, line
from .raw_broker import Noting, line_with, unlinked

# --- rule 1 ---


async def test_rule_01_the_broker_numbers_every_line_but_four_kinds():
    async with testing.broker(heartbeat_interval=0.02) as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        await ws.send("hi")
        await raw.hear_message("hi")
        raw.say("broadcast", {"message": "x", "confirm": True}, request_id="r")
        assert (await raw.hear("result"))["seq"] == raw.received == 4
        while not (raw.heartbeats and raw.acknowledged):  # these are asserted to have no number as they are heard
            raw.raw(line("heartbeat"))
            assert await raw.so_far() == []
        await ws.close()


async def test_rule_01_the_backend_numbers_every_line_but_four_kinds(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.say("connection_request", {"url": "/"}, request_id="q")
    assert (await link.hear("response"))["seq"] == 1
    await link.message("hi")
    assert (await link.hear("done"))["seq"] == 2
    assert await client.broadcast_message("x")
    assert (await link.hear("broadcast"))["seq"] == 3
    while not link.acknowledged:
        await asyncio.sleep(0.01)
        await link.so_far(client)
    leaving = asyncio.ensure_future(client.disconnect())
    assert (await link.hear("leave"))["action"] == "leave"
    await link.say("leaving")
    assert (await link.hear("bye"))["action"] == "bye"
    await link.acknowledge()
    link.connection.close()
    await soon(leaving)


# --- rule 2: the broker ---


async def test_rule_02_lines_are_acknowledged_in_batches():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        for _ in range(1000):
            raw.say("no_such_action")
        await raw.so_far()
        while not raw.acknowledged or raw.acknowledged[-1] < 1001:
            if (heard := await raw.next_line())["action"] == "received":
                raw.acknowledged.append(heard["params"]["seq"])
        assert raw.acknowledged == sorted(set(raw.acknowledged))
        assert len(raw.acknowledged) < 10


async def test_rule_02_a_number_seen_before_is_dropped():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        first = raw.say("broadcast", {"message": "one"})
        raw.say("broadcast", {"message": "one again"}, seq=first)
        raw.say("broadcast", {"message": "the first"}, seq=1)
        raw.say("broadcast", {"message": "two"})
        await raw.so_far()
        await ws.expect("one")
        await ws.expect("two")
        await ws.close()


@pytest.mark.parametrize("ahead", [2, 10**6, 2**62, -5, None])
async def test_rule_02_a_gap_closes_the_link_and_the_session_goes_on(ahead):
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        if ahead is None:
            raw.raw(line("broadcast", {"message": "without a number"}))
        else:
            raw.say("broadcast", {"message": "ahead"}, seq=raw.sent + ahead if ahead > 0 else ahead)
        raw.say("broadcast", {"message": "behind"}, seq=raw.sent + 1)  # in the same read: dropped with the link
        assert await raw.is_closed()
        welcome = await raw.resume()
        assert welcome["resumed"] and welcome["received"] == raw.sent
        raw.say("broadcast", {"message": "next"})
        await ws.expect("next")
        assert broker.counters["links_broken"] == 1
        await ws.close()


async def test_rule_02_half_a_line_before_a_cut_is_discarded():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        whole = line("broadcast", {"message": "half"}, seq=raw.sent + 2)
        raw.say("broadcast", {"message": "whole"})
        raw.raw(whole[: len(whole) // 2])
        await ws.expect("whole")
        assert (await raw.resume())["received"] == raw.sent
        raw.raw(whole)
        raw.sent += 1
        await ws.expect("half")
        await raw.so_far()
        await ws.expect_nothing()
        await ws.close()


@pytest.mark.parametrize("size", [1, 0])
async def test_rule_02_a_line_whose_end_is_missing_is_not_carried_out(size):
    """All of the line but its newline, or a byte more: no whole line."""
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        data = line("broadcast", {"message": "x"}, seq=raw.sent + 1)
        raw.raw(data[: -1 - size])
        await raw.flushed()
        assert (await raw.resume())["received"] == raw.sent
        await raw.so_far()
        await ws.expect_nothing()
        await ws.close()


@pytest.mark.parametrize("missing", [0, 1, 3, 5])
async def test_rule_02_a_resume_begins_with_what_was_not_received(missing):
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        first = [await hear_next(raw, ws, str(number)) for number in range(5)]
        raw.acknowledge(raw.received - 5)
        assert (await raw.resume(raw.received - missing))["resumed"]
        assert [await raw.hear_message(str(number)) for number in range(5 - missing, 5)] == first[5 - missing :]
        assert await raw.so_far() == []
        await ws.close()


async def hear_next(raw, ws, text):
    await ws.send(text)
    return await raw.hear_message(text)


async def test_rule_02_wrong_numbers_in_a_resume_close_the_link_and_the_session_stays():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        raw.acknowledge()
        await raw.so_far()
        right = raw.received
        for wrong in (right + 1, 10**15, 0, -1):  # what was never sent, and what was acknowledged and freed
            raw.cut()
            await raw.open()
            raw.greet(resume=True, received=wrong, next_session_id="other")
            assert await raw.is_closed()
        assert (await raw.resume(right))["resumed"]
        await ws.send("hi")
        await raw.hear_message("hi")
        await ws.close()


async def test_rule_02_to_acknowledge_what_was_never_sent_closes_the_link():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        await raw.so_far()
        raw.acknowledge(raw.received + 1)
        assert await raw.is_closed()
        assert (await raw.resume())["resumed"]


async def test_rule_02_an_old_acknowledgement_says_nothing_new():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        await raw.so_far()
        await raw.so_far()
        raw.acknowledge(2)
        raw.acknowledge(1)
        raw.acknowledge(-7)
        assert await raw.so_far() == []


@pytest.mark.parametrize(
    "bad",
    [
        b'"action":"a_later_version_of_this","params":{}',
        b'"action":"broadcast","params":{}',
        b'"action":"broadcast"',
        b'"action":"done","params":{"events":"all"}',
        b'"action":"broadcast","params":{"message":"!","binary":true}',
        b'"action":"message_to_room","params":{"room_id":5,"message":"x"}',
    ],
)
async def test_rule_02_numbered_lines_that_nobody_understands_count_and_come_once(bad):
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        raw.sent += 1
        raw.raw(b'{"seq":%d,%b}\n' % (raw.sent, bad))
        raw.say("broadcast", {"message": "next"})
        await ws.expect("next")
        assert (await raw.resume())["received"] == raw.sent
        told = [line["action"] for line in await raw.so_far()]
        assert told == ([] if b"later_version" in bad else ["error"])
        await ws.close()


@pytest.mark.parametrize("garbage", [b"\n", b"{\n", b"null\n", b"\xff\xfe\n", b'{"action":"broadcast","seq":1e99}\n'])
async def test_rule_02_garbage_without_a_number_is_skipped(garbage):
    async with testing.broker() as broker, RawBackend(broker) as raw:
        await raw.so_far()
        raw.raw(garbage)
        assert await raw.so_far() == []


# --- rule 2: the backend ---


async def test_rule_02_the_backend_drops_what_it_has_seen_and_half_a_line(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    first = await link.message("one")
    await link.message("one again", seq=first)
    half = line_with({"seq": 2}, "new_message", {"message": "two", "context": {"client_id": "c1"}})
    await link.raw(half[:-10])
    await link.hear_done(1)
    link.cut()
    again = await raw_broker.linked()
    assert (again.hello["resume"], again.hello["received"]) == (True, 1)
    await again.go_on(link)
    await again.raw(half)
    again.sent = 2
    await again.message("three")
    await again.hear_done(2, 3)
    assert [what for what, _ in client.notes] == ["one", "two", "three"]
    again.cut()
    await client.disconnect(0)


@pytest.mark.parametrize("seq", [3, 10**9, 0, -1])
async def test_rule_02_the_backend_closes_a_link_with_a_gap_and_resumes(raw_broker, seq):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.message("one")
    await link.message("ahead", seq=seq)
    await link.message("behind", seq=2)
    assert await link.is_closed()
    again = await raw_broker.linked()
    assert again.hello["received"] == 1
    await again.go_on(link, received=0, sent=1)
    await again.message("two")
    await again.hear_done(1, 2)
    assert [what for what, _ in client.notes] == ["one", "two"]
    again.cut()
    await client.disconnect(0)


async def test_rule_02_a_lost_welcome_costs_nothing(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    assert await client.broadcast_message("one")
    assert await link.hear_text() == "one"
    link.cut()
    await unlinked(client)
    assert await client.broadcast_message("two")
    for _ in range(3):  # the hello is heard, the welcome never comes
        (await raw_broker.linked()).cut()
    again = await raw_broker.linked()
    assert again.hello["session_id"] == link.hello["session_id"]
    await again.go_on(link)
    assert await again.hear_text() == "two"
    assert await again.so_far(client) == []
    again.cut()
    await client.disconnect(0)


async def test_rule_02_a_lost_acknowledgement_costs_nothing(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    for number in range(5):
        assert await client.broadcast_message(str(number))
    for number in range(5):
        assert await link.hear_text() == str(number)
    await link.acknowledge(2)
    link.cut()
    again = await raw_broker.linked()
    await again.go_on(link, received=3)
    assert [await again.hear_text() for _ in range(2)] == ["3", "4"]
    assert await again.so_far(client) == []
    again.cut()
    await client.disconnect(0)


async def test_rule_02_to_acknowledge_what_the_backend_never_sent_closes_the_link(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.acknowledge(1)
    assert await link.is_closed()
    wrong = await raw_broker.linked()
    await wrong.welcome(resumed=True, received=1)
    assert await wrong.is_closed()
    again = await raw_broker.linked()
    await again.go_on(link)
    assert await again.so_far(client) == []
    again.cut()
    await client.disconnect(0)


@pytest.mark.parametrize(
    "bad",
    [
        b'"action":"a_later_version_of_this","params":{}',
        b'"action":"new_message","params":{"message":5}',
        b'"action":"new_message","params":{"message":"!","binary":true,"context":{"client_id":"c1"}}',
        b'"action":"new_connection"',
    ],
)
async def test_rule_02_events_that_the_backend_does_not_understand_count_and_are_done(raw_broker, bad):
    """Or else the broker would keep them as unfinished, and with them the client's credit."""
    client = Noting()
    link = await raw_broker.connected(client)
    await link.raw(b'{"seq":1,"event":7,%b}\n' % bad)
    link.sent = 1
    await link.hear_done(1)
    await link.message("next")
    await link.hear_done(2)
    assert [what for what, _ in client.notes] == ["next"]
    link.cut()
    await client.disconnect(0)


# --- rule 3 ---


async def test_rule_03_done_follows_what_the_handler_sent(raw_broker):
    class Answers(Noting):
        async def on_message(self, message, context):
            await super().on_message(message, context)
            for number in range(3):
                await self.send_private_message(context.client_id, f"{message} {number}")

    client = Answers()
    link = await raw_broker.connected(client)
    release = client.hold("slow")
    await link.message("slow", "slow client")
    await link.message("a")
    assert [await link.hear_text() for _ in range(3)] == ["a 0", "a 1", "a 2"]
    await link.hear_done(2)
    link.cut()
    await unlinked(client)
    release.set()  # the handler sends and ends while there is no link
    again = await raw_broker.linked()
    await again.go_on(link)
    assert [await again.hear_text() for _ in range(3)] == ["slow 0", "slow 1", "slow 2"]
    await again.hear_done(1)
    again.cut()
    await client.disconnect(0)


async def test_rule_03_a_done_that_was_lost_comes_again(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.message("a")
    await link.hear_done(1)
    link.cut()
    again = await raw_broker.linked()
    await again.go_on(link, received=0)
    await again.hear_done(1)
    again.cut()
    await client.disconnect(0)


async def test_rule_03_until_done_the_broker_keeps_the_event():
    async with testing.broker() as broker, RawBackend(broker) as one:
        ws = await one.admit("ann")
        events = []
        for text in "abc":
            await ws.send(text)
            events.append(await one.hear_message(text))
        one.done(events[1])  # in any order
        async with RawBackend(broker, "two") as two:
            one.say("bye")
            heard = await two.finish(3)
            assert [each["action"] for each in heard] == ["client_adopted", "new_message", "new_message"]
            assert [(each["params"]["message"], each["redelivered"]) for each in heard[1:]] == [
                ("a", True),
                ("c", True),
            ]
            assert [each["event"] for each in heard[1:]] == [events[0]["event"], events[2]["event"]]
            await ws.close()


@pytest.mark.parametrize("ranges", [[[5, 1]], [[-(10**15), 0]], [[10**6, 10**15]], [], [[2**62, 2**63 - 1], [0, 0]]])
async def test_rule_03_ranges_that_mean_nothing_finish_nothing(ranges):
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        await ws.send("a")
        await raw.hear_message("a")
        raw.say("done", {"events": ranges})
        assert await raw.so_far() == []
        raw.say("bye")
        async with RawBackend(broker) as other:
            assert (await other.finish(2))[1]["params"]["message"] == "a"
        await ws.close()


# --- rule 4 ---


async def test_rule_04_a_result_is_not_lost_with_its_link():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        before = raw.received
        raw.say("broadcast", {"message": "x", "confirm": True}, request_id="r")
        await ws.expect("x")
        assert (await raw.resume(before))["received"] == raw.sent
        result = await raw.hear("result")
        assert (result["request_id"], result["params"]) == ("r", {"matched": 1, "skipped": 0})
        await ws.expect_nothing()
        await ws.close()


@pytest.mark.parametrize("direction", ["to_broker", "to_backend"])
async def test_rule_04_confirm_over_a_cut(direction):
    async with testing.broker() as broker, testing.LinkProxy(broker) as proxy, testing.backend(proxy) as client:
        async with testing.connect(broker) as ws:
            await ws.ping()
            proxy.cut_after(10, direction)
            confirmations = [asyncio.ensure_future(client.broadcast_message(str(n), confirm=True)) for n in range(5)]
            assert [await soon(each) for each in confirmations] == [Confirmation(1, 0)] * 5
            for number in range(5):
                await ws.expect(str(number))
            await ws.expect_nothing()
            assert proxy.cuts == 1


async def test_rule_04_a_time_out_does_not_withdraw_the_command(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    with pytest.raises(TimeoutError):
        await client.broadcast_message("x", confirm=True, timeout=0.01)
    command = await link.hear("broadcast")
    await link.say("result", {"matched": 1, "skipped": 0}, request_id=command["request_id"])  # nobody waits for it
    assert await link.so_far(client) == []
    assert client.connected
    link.cut()
    await client.disconnect(0)


async def test_rule_04_the_outcome_is_unknown_when_the_broker_was_replaced(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    asked = [
        asyncio.ensure_future(client.broadcast_message("x", confirm=True)),
        asyncio.ensure_future(client.room_members("r")),
    ]
    await link.hear("broadcast")
    await link.hear("room_members")
    raw_broker.broker_id = "broker-2"
    link.cut()
    again = await raw_broker.begin()
    for each in asked:
        with pytest.raises(OutcomeUnknown):
            await soon(each)
    again.cut()
    await client.disconnect(0)


async def test_rule_04_the_outcome_is_unknown_when_the_session_was_given_up_with_the_result(raw_broker):
    """What was carried out in the session that is gone was answered in it; what was not is sent again."""
    client = Noting()
    link = await raw_broker.connected(client)
    carried_out = asyncio.ensure_future(client.broadcast_message("x", confirm=True))
    await link.hear("broadcast")
    lost = asyncio.ensure_future(client.broadcast_message("y", confirm=True))
    joining = asyncio.ensure_future(client.join_room("c1", "r"))
    await link.hear("broadcast")
    await link.hear("join_room")
    link.cut()
    again = await raw_broker.linked()
    await again.give_up(1)
    with pytest.raises(OutcomeUnknown):
        await soon(carried_out)
    command = await again.hear("broadcast")
    await again.say("result", {"matched": 3}, request_id=command["request_id"])
    assert await soon(lost) == (3, 0)
    command = await again.hear("join_room")
    await again.say("result", {"found": True}, request_id=command["request_id"])
    assert await soon(joining)
    again.cut()
    await client.disconnect(0)


async def test_rule_04_the_outcome_is_unknown_when_the_broker_forgot_the_session(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    asked = asyncio.ensure_future(client.room_members("r"))
    await link.hear("room_members")
    link.cut()
    again = await raw_broker.linked()
    await again.give_up(None)
    with pytest.raises(OutcomeUnknown):
        await soon(asked)
    assert await again.so_far(client) == []
    again.cut()
    await client.disconnect(0)


# --- rule 5 ---


async def test_rule_05_both_hellos_announce_the_longest_line(raw_broker):
    async with testing.broker(max_message_size=1000) as broker, RawBackend(broker, begin=False) as raw:
        assert raw.hello["max_line"] == 6 * 1000 + 65536
    client = Noting()
    link = await raw_broker.connected(client)
    assert link.hello["max_line"] >= 6 * raw_broker.hello_params["max_message_size"] + 65536
    link.cut()
    await client.disconnect(0)


async def test_rule_05_a_line_of_any_length_is_sent_whole_or_refused():
    """Around the limit: the number that a line gets must not make it too long, or the stream would never go on."""
    async with testing.broker(max_message_size=100) as broker, testing.backend(broker) as client:
        limit = 6 * 100 + 65536
        empty = len(json.dumps({"action": "broadcast", "request_id": "", "params": {"exclude": [""], "message": "x"}}))
        sent = 0
        async with testing.connect(broker) as ws:
            for length in range(limit - empty - 60, limit - empty + 60):
                with contextlib.suppress(MessageTooBig):
                    sent += bool(await client.broadcast_message("x", exclude="e" * length))
            assert 0 < sent < 120
            for _ in range(sent):
                await ws.expect("x")
            assert broker.counters["lines_overlong"] == broker.counters["links_broken"] == 0


async def test_rule_05_an_answer_around_the_limit_goes_out_or_rejects(raw_broker, caplog):
    caplog.set_level(logging.CRITICAL, "pystrands")
    raw_broker.hello_params["max_line"] = 2000

    class Big(Noting):
        size = 0

        async def on_connection_request(self, request):
            request.context.metadata = "x" * self.size

    client = Big()
    link = await raw_broker.connected(client)
    accepted = []
    for size in range(1600, 2000, 7):
        client.size = size
        await link.say("connection_request", {"url": "/"}, request_id="q")
        raw = await soon(link.connection.reader.readline())
        if b'"response"' in raw:
            accepted.append(json.loads(raw)["params"]["accepted"])
            assert len(raw) <= 2000
    assert True in accepted and False in accepted
    link.cut()
    await client.disconnect(0)
