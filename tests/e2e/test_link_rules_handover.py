"""Rules 14 to 21 and 24 of the link: sessions that resume, leave, die and are given up. Whole clients and brokers."""

import asyncio
import contextlib
from typing import Any

import pytest

from pystrands import testing
from pystrands.broker.bounds import Bounds
from tests.bounded import BoundedBroker
from tests.client.fake_broker import request, soon, until
from tests.inside import core_of, parts_of

from .raw_backend import RawBackend, told
from .raw_broker import Noting, unlinked


def sessions(broker):
    return list(parts_of(broker).sessions.sessions)


def streams(broker):
    return sum(len(session.streams) for session in sessions(broker))


# --- rule 14 ---


async def test_rule_14_within_the_window_events_wait_for_the_session():
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        ws = await one.admit("ann")
        await ws.send("before")
        await one.hear_message("before")
        async with RawBackend(broker, "two") as two:
            one.cut()
            await testing.until(lambda: broker.backend_count == 1)
            for text in ("x", "y"):
                await ws.send(text)
            await testing.until(lambda: broker.queued_messages == 1)  # after which its client is read no further
            assert (await one.resume())["resumed"]
            for text in ("x", "y"):
                await one.hear_message(text)
            assert await two.so_far() == []
        await ws.close()


async def test_rule_14_after_the_window_another_backend_gets_the_clients():
    async with testing.broker(resume_window=0.02) as broker, RawBackend(broker, "one") as one:
        ws = await one.admit("ann")
        await ws.send("a")
        await one.hear_message("a")
        async with RawBackend(broker, "two") as two:
            one.cut()
            adopted, event = await two.finish(2)
            assert adopted["action"] == "client_adopted"
            assert event["params"]["message"] == "a"
            assert event["redelivered"]
            await ws.send("b")
            assert "redelivered" not in await two.hear_message("b")
            assert not (await one.resume())["resumed"]
            assert await one.so_far() == []
        await ws.close()


async def test_rule_14_with_nobody_else_a_session_may_resume_at_any_time():
    async with testing.broker(resume_window=0.01) as broker, RawBackend(broker, "one") as one:
        ws = await one.admit("ann")
        one.cut()
        await testing.until(lambda: sessions(broker)[0].is_expired)
        await ws.send("a")
        await testing.until(lambda: broker.queued_messages == 1)
        assert (await one.resume())["resumed"]
        assert await one.messages_so_far() == ["a"]
        await ws.close()


@pytest.mark.parametrize("leaving", [False, True])
async def test_rule_14_an_expired_session_dies_when_another_backend_comes(leaving):
    async with testing.broker(resume_window=0.01) as broker, RawBackend(broker, "one") as one:
        ws = await one.admit("ann")
        await ws.send("a")
        await one.hear_message("a")
        if leaving:
            one.say("leave")
            await one.hear("leaving")
        one.cut()
        await testing.until(lambda: sessions(broker)[0].is_expired)
        async with RawBackend(broker, "two") as two:
            assert [told(each) for each in await two.finish(2)] == ["client_adopted", "a*"]
            assert not (await one.resume())["resumed"]
        await ws.close()


@pytest.mark.parametrize("cuts", [1, 5])
async def test_rule_14_whole_clients_lose_and_repeat_nothing_over_cuts(cuts):
    class Echo(Noting):
        async def on_message(self, message, context):
            await super().on_message(message, context)
            await self.send_private_message(context.client_id, message)

    async with testing.broker() as broker, testing.LinkProxy(broker) as proxy:
        async with testing.backend(proxy, Echo) as echo, testing.connect(broker) as ws:
            for cut in range(cuts):
                for direction in ("to_broker", "to_backend"):
                    proxy.cut_after(1000 + 37 * cut, direction)
                    before = proxy.cuts
                    for number in range(50):
                        await ws.send(f"{cut} {direction} {number}")
                    for number in range(50):
                        await ws.expect(f"{cut} {direction} {number}")
                    assert proxy.cuts == before + 1
            handled = [what for what, _ in echo.notes]
            assert handled == ["new", *(f"{c} {d} {n}" for c in range(cuts) for d in ("to_broker", "to_backend")
                               for n in range(50))]  # fmt: skip
            assert len(set(echo.ids)) == len(echo.ids)


# --- rules 15 and 16 ---


async def test_rule_15_the_next_owner_waits_until_the_last_one_has_nothing_unfinished():
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        ws = await one.admit("ann")
        await ws.send("a")
        running = await one.hear_message("a")
        async with RawBackend(broker, "two") as two:
            one.say("leave")
            await one.hear("leaving")
            await ws.send("b")
            await testing.until(lambda: broker.queued_messages == 1)
            assert await one.so_far() == await two.so_far() == []
            one.done(running)
            assert [told(await two.hear()) for _ in range(2)] == ["client_adopted", "b"]
        await ws.close()


async def test_rule_16_what_a_leaving_backend_releases_goes_elsewhere_unmarked_and_the_rest_marked():
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        ann, bob = await one.admit("ann"), await one.admit("bob")
        for text in ("a1", "a2", "a3"):
            await ann.send(text)
        running, *waiting = [await one.hear_message(text) for text in ("a1", "a2", "a3")]
        await bob.send("b1")
        finished = await one.hear_message("b1")
        async with RawBackend(broker, "two") as two:
            one.say("leave")
            one.released(*waiting)
            one.done(finished)
            await one.hear("leaving")
            assert await two.so_far() == []
            await bob.send("b2")
            assert [told(await two.hear()) for _ in range(2)] == ["client_adopted", "b2"]
            one.say("bye")  # without having finished
            heard = await two.finish(4)
            assert [told(each) for each in heard] == ["client_adopted", "a1*", "a2", "a3"]
            assert [each["event"] for each in heard[1:]] == [each["event"] for each in (running, *waiting)]
            connecting = asyncio.ensure_future(_connect(broker))
            two.accept(await two.hear("connection_request"), "cay")  # the one that leaves is not asked
            await (await connecting).close()
        await ann.close()
        await bob.close()


async def test_rule_16_what_is_released_bit_by_bit_stays_in_order():
    """Events that crossed the leave come back after those that were waiting."""
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        ws = await one.admit("ann")
        texts = [str(number) for number in range(6)]
        for text in texts:
            await ws.send(text)
        heard = [await one.hear_message(text) for text in texts]
        async with RawBackend(broker, "two") as two:
            one.say("leave")
            one.released(heard[2])
            one.released(heard[5])
            one.released(heard[3])
            one.say("bye")  # with three unfinished
            assert [told(each) for each in await two.finish(7)] == ["client_adopted", "0*", "1*", "2", "3", "4*", "5"]
        await ws.close()


async def test_rule_16_who_releases_is_leaving_said_or_not():
    """Or else the events would come back at once, and be released again, for ever."""
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        ws = await one.admit("ann")
        for text in ("a1", "a2"):
            await ws.send(text)
        events = [await one.hear_message(text) for text in ("a1", "a2")]
        one.released(events[1])
        await one.hear("leaving")
        one.say("leave")
        one.released(events[0])
        await ws.send("a3")
        assert await one.so_far() == []
        await testing.until(lambda: broker.queued_messages == 3)
        connecting = asyncio.ensure_future(_connect(broker))
        async with RawBackend(broker, "two") as two:
            assert [told(await two.hear()) for _ in range(4)] == ["client_adopted", "a1", "a2", "a3"]
            two.accept(await two.hear("connection_request"), "bob")
            await (await connecting).close()
        await ws.close()


async def test_rule_16_an_adoption_that_is_released_is_not_told_twice():
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        ws = await one.admit("ann")
        async with RawBackend(broker, "two") as two:
            one.say("bye")
            await testing.until(lambda: len(sessions(broker)) == 1)
            await ws.send("x")
            heard = [await two.hear() for _ in range(2)]
            async with RawBackend(broker, "three") as three:
                two.say("leave")
                two.released(*heard)
                two.say("bye")
                assert await three.messages_so_far() == ["client_adopted", "x"]
        await ws.close()


async def _connect(broker):
    return await testing.connect(broker)


async def test_rule_16_a_backend_that_leaves_finishes_what_runs_and_releases_the_rest(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    release = client.hold("a1")
    for text in ("a1", "a2", "a3"):
        await link.message(text, "ann")
    await link.message("b1", "bob")
    await link.hear_done(4)
    assert [what for what, _ in client.notes] == ["a1", "b1"]
    leaving = asyncio.ensure_future(client.disconnect())
    await link.hear("leave")
    assert (await link.hear("released"))["params"]["events"] == [[2, 3]]
    await link.message("crossed the leave", "bob")
    assert (await link.hear("released"))["params"]["events"] == [[5, 5]]
    await link.say("leaving")
    assert not leaving.done()
    release.set()
    await link.hear_done(1)
    await link.hear("bye")
    await link.acknowledge()
    link.connection.close()
    await soon(leaving)
    assert [what for what, _ in client.notes] == ["a1", "b1"]


async def test_rule_16_whole_backends_take_over_in_order_and_nothing_is_marked():
    async with testing.broker() as broker:
        one = Noting()
        one.host, one.port = "127.0.0.1", broker.tcp_port
        assert await one.connect()
        ws = await testing.connect(broker)
        release = one.hold("0")
        for number in range(100):
            await ws.send(str(number))
        await testing.until(lambda: len(one.notes) == 2)
        async with testing.backend(broker, Noting) as two:
            leaving = asyncio.ensure_future(one.disconnect())
            await testing.until(lambda: sessions(broker)[0].is_leaving)
            assert two.notes == []
            release.set()
            await leaving
            await testing.until(lambda: len(two.notes) == 100)
            assert [what for what, _ in one.notes] == ["new", "0"]
            assert [what for what, _ in two.notes] == ["adopted", *map(str, range(1, 100))]
            assert broker.counters["events_redelivered"] == 0
            await ws.close()


@pytest.mark.parametrize("crossed", [False, True])
async def test_rule_16_a_connection_request_that_a_leaving_backend_has_goes_to_another_one_at_once(crossed):
    """It may have dropped it, as events that it has not started; the first answer wins anyway."""
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        connecting = asyncio.ensure_future(_connect(broker))
        await one.hear("connection_request")
        two = RawBackend(broker, "two")
        if not crossed:
            await two.__aenter__()
        one.say("leave")
        await one.hear("leaving")
        if crossed:
            await two.__aenter__()
        two.accept(await two.hear("connection_request"), "ann")
        await (await connecting).close()
        two.cut()


# --- rule 17 ---


async def test_rule_17_orphans_are_spread_at_their_next_event_and_adopted_first():
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        sockets = [await one.admit(str(number)) for number in range(4)]
        await one.so_far()
        async with RawBackend(broker, "two") as two, RawBackend(broker, "three") as three:
            one.say("bye")
            await testing.until(lambda: len(sessions(broker)) == 2)
            assert await two.so_far() == await three.so_far() == []
            for number, ws in enumerate(sockets):
                await ws.send("x")
                await testing.until(lambda: streams(broker) > number)  # noqa: B023 - called here and now
            for raw in (two, three):
                assert await raw.messages_so_far() == ["client_adopted", "x"] * 2
            for ws in sockets:
                await ws.close()


# --- rule 18 ---


async def test_rule_18_a_dead_session_is_remembered_with_its_last_command():
    async with testing.broker(resume_window=0.01) as broker, RawBackend(broker, "one") as one:
        ws = await one.admit("ann")
        last = one.say("broadcast", {"message": "x"})
        await ws.expect("x")
        async with RawBackend(broker, "two"):
            one.cut()
            await testing.until(lambda: len(sessions(broker)) == 1)
            for _ in range(2):  # the welcome of the first may have been lost
                session_id = one.session_id
                welcome = await one.resume()
                assert (welcome["resumed"], welcome["received"]) == (False, last)
                assert welcome["session_id"] != session_id
                one.session_id = session_id
            one.session_id = "never heard of"
            welcome = await one.resume()
            assert (welcome["resumed"], welcome.get("received")) == (False, None)
        await ws.close()


async def test_rule_18_a_session_that_was_given_up(raw_broker):
    """Events not started are dropped, old handlers send in vain, other commands go out once, clients are released."""

    class Answers(Noting):
        sent: list[Any]

        async def on_message(self, message, context):
            await super().on_message(message, context)
            self.sent = [
                await self.send_private_message(context.client_id, "too late"),
                await self.broadcast_message("too late"),
            ]
            with contextlib.suppress(ConnectionError):
                await self.join_room(context.client_id, "too late")

    client = Answers()
    link = await raw_broker.connected(client)
    release = client.hold("a1")
    await link.happens("new_connection", "ann")
    await link.happens("new_connection", "bob")
    await link.happens("new_connection", "cay")
    await link.hear_done(1, 2, 3)
    await link.message("a1", "ann", event=4)
    await link.message("a2", "ann")
    await link.happens("disconnected", "ann")
    await link.happens("disconnected", "bob")
    await link.hear_done(7)
    for text in ("carried out", "lost on the way"):
        assert await client.broadcast_message(text)
        assert await link.hear_text() == text
    carried_out = link.received - 1
    link.cut()
    await unlinked(client)
    assert await client.send_private_message("cay", "not written")
    again = await raw_broker.linked()
    assert (again.hello["resume"], again.hello["received"]) == (True, link.sent)
    assert again.hello["next_session_id"] not in {"", again.hello["session_id"]}
    await again.give_up(carried_out)
    assert await again.hear_text() == "lost on the way"
    assert await again.hear_text() == "not written"
    await until(lambda: ("released", "cay") in client.notes)
    assert ("released", "ann") not in client.notes, "a handler of its own still runs"
    release.set()
    await until(lambda: ("released", "ann") in client.notes)
    assert client.sent == [False, False]
    assert core_of(client).lifetime.connection.outgoing.discarded == 3
    assert await again.so_far(client) == []  # and nothing is done: those events are others'
    await again.message("new", "dan")
    assert (await again.hear("message_to_connection"))["params"]["message"] == "too late"  # by another handler
    await again.hear("broadcast")
    joining = await again.hear("join_room")
    await again.say("result", {"found": True}, request_id=joining["request_id"])
    await again.hear_done(1)
    for what in ("gone", "a2"):
        assert what not in {note for note, client_id in client.notes if client_id == "ann"}
    assert sorted(note for note in client.notes if note[0] == "released") == [("released", "ann"), ("released", "cay")]
    again.cut()
    await client.disconnect(0)


async def test_rule_18_a_client_whose_disconnect_was_not_started_is_released(raw_broker):
    """It was announced here, and nobody else would tell this backend of its end."""
    client = Noting()
    link = await raw_broker.connected(client)
    release = client.hold("a1")
    await link.happens("new_connection", "ann")
    await link.message("a1", "ann")
    await link.happens("disconnected", "ann")
    await until(lambda: len(client.notes) == 2)
    link.cut()
    again = await raw_broker.linked()
    await again.give_up(0)
    release.set()
    await until(lambda: len(client.notes) == 3)
    assert client.notes[2] == ("released", "ann")
    assert client.ids[2] == ""
    again.cut()
    await client.disconnect(0)


async def test_rule_18_the_release_shows_the_client_as_its_last_event_did(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.happens("new_connection", "ann")
    about = {"client_id": "ann", "room_id": "r1", "metadata": {"name": "ann"}, "rooms": ["r2"]}
    await link.say("new_message", {"message": "a1", "context": about}, event=77)
    await link.hear_done(1, 2)
    link.cut()
    await (await raw_broker.linked()).give_up(0)
    await until(lambda: client.notes[-1][0] == "released")
    released = client.contexts[-1]
    assert (released.metadata, released.rooms, released.event_id) == ({"name": "ann"}, ("r2",), "")
    await client.disconnect(0)


async def test_rule_18_a_broker_that_forgot_the_session_costs_what_was_written(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    for text in ("one", "two", "three"):
        assert await client.broadcast_message(text)
        assert await link.hear_text() == text
    await link.acknowledge(1)
    await until(lambda: core_of(client).lifetime.connection.outgoing.session.session.acknowledged == 1)
    link.cut()
    await unlinked(client)
    assert await client.broadcast_message("not written")
    again = await raw_broker.linked()
    await again.give_up(None)
    assert await again.hear_text() == "not written"
    await until(lambda: client.errors)
    assert client.errors[0].startswith("2 messages were lost")
    assert await again.so_far(client) == []
    again.cut()
    await client.disconnect(0)


async def test_rule_18_after_a_lost_welcome_it_is_told_again(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.happens("new_connection", "ann")
    assert await client.broadcast_message("one")
    await link.hear("done", "broadcast")
    await link.hear("done", "broadcast")
    link.cut()
    (await raw_broker.linked()).cut()
    again = await raw_broker.linked()
    assert again.hello["session_id"] == link.hello["session_id"]
    await again.give_up(0)
    assert await again.hear_text() == "one"
    await until(lambda: ("released", "ann") in client.notes)
    assert await again.so_far(client) == []
    again.cut()
    await client.disconnect(0)


async def test_rule_18_a_paused_backend_comes_back_too_late():
    """The whole of it: silence on both ends, other hands, and the first backend's return."""
    async with testing.broker(heartbeat_interval=0.04, resume_window=0.04) as broker:
        async with testing.LinkProxy(broker) as proxy, testing.backend(proxy, Noting) as one:
            ws = await testing.connect(broker)
            await ws.send("a")
            await testing.until(lambda: len(one.notes) == 2)
            client_id = one.notes[0][1]
            release = one.hold("b")
            await ws.send("b")
            await testing.until(lambda: len(one.notes) == 3)
            await ws.send("c")
            async with testing.backend(broker, Noting) as two:
                proxy.pause()
                await testing.until(lambda: len(two.notes) == 3)
                assert two.notes == [("adopted", client_id), ("b*", client_id), ("c*", client_id)]
                assert two.ids[1] == one.ids[2]
                await testing.until(lambda: not one.connected)  # it has noticed the silence
                proxy.resume()
                await testing.until(lambda: one.connected)
                release.set()
                await testing.until(lambda: one.notes[-1][0] == "released")
                assert [what for what, _ in one.notes] == ["new", "a", "b", "released"]
                await ws.send("d")
                await testing.until(lambda: len(two.notes) == 4)
                await ws.close()
                await testing.until(lambda: two.notes[-1][0] == "gone")
                assert "gone" not in [what for what, _ in one.notes]


# --- rule 19 ---


async def test_rule_19_the_last_of_two_links_that_resume_a_session_has_it():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        await ws.send("a")
        await raw.hear_message("a")
        links = [RawBackend(broker) for _ in range(3)]
        for link in links:
            await link.open()
            link.session_id, link.sent, link.received = raw.session_id, raw.sent, raw.received
        for link in links:  # in parallel: nobody waits for the welcome
            link.greet(resume=True, received=link.received, next_session_id="another")
            await link.flushed()
        last = []
        for link in links:
            try:
                assert (await link.welcomed())["resumed"]
                await ws.send("b")
                last.append((link, [told(one) for one in await link.so_far()]))
            except (EOFError, ConnectionError):
                link.cut()
        assert await raw.is_closed()
        assert len(last) == 1
        (winner, _) = last[0]
        assert broker.backend_count == 1
        assert broker.counters["links_broken"] == 0
        winner.say("broadcast", {"message": "x"})
        await ws.expect("x")
        winner.cut()
        await ws.close()


async def test_rule_19_the_older_link_is_closed_and_what_it_still_says_is_ignored():
    async with testing.broker() as broker, RawBackend(broker) as raw, RawBackend(broker, begin=False) as other:
        ws = await raw.admit("ann")
        await raw.so_far()
        other.session_id, other.sent, other.received = raw.session_id, raw.sent, raw.received
        assert (await other.begin(resume=True, received=raw.received, next_session_id="n"))["resumed"]
        with contextlib.suppress(ConnectionError):
            raw.say("broadcast", {"message": "of the older"})
        assert await raw.is_closed()
        other.say("broadcast", {"message": "of the newer"})
        await ws.expect("of the newer")
        await ws.expect_nothing()
        await ws.close()


async def test_rule_19_each_connect_is_a_session_of_128_random_bits(raw_broker):
    client = Noting()
    names = set()
    for _ in range(3):
        link = await raw_broker.connected(client)
        assert not link.hello.get("resume")
        names.add(link.hello["session_id"])
        link.cut()
        await client.disconnect(0)
    assert len(names) == 3
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


# --- rule 20 ---


SOON = Bounds(without_link=0.02)


@pytest.mark.parametrize("first", ["one", "two"])
async def test_rule_20_a_backend_without_link_is_not_waited_for(first):
    async with BoundedBroker(SOON) as broker, RawBackend(broker, "one") as one:
        connecting = asyncio.ensure_future(_connect(broker))
        asked = await one.hear("connection_request")
        async with RawBackend(broker, "two") as two:
            one.cut()
            also_asked = await two.hear("connection_request")
            assert also_asked["request_id"] != asked["request_id"]
            assert also_asked["params"] == asked["params"]
            assert (await one.resume())["resumed"]
            (one if first == "one" else two).accept(asked if first == "one" else also_asked, first)
            ws = await connecting
            winner, loser = (one, two) if first == "one" else (two, one)
            assert (await winner.hear("new_connection"))["params"]["context"]["client_id"] == first
            loser.accept(also_asked if first == "one" else asked, "late")
            assert await loser.so_far() == []
            assert broker.counters["responses_unexpected"] == 1
            assert broker.client_count == 1
            await ws.close()


async def test_rule_20_a_backend_that_comes_later_is_asked():
    """The second without link is over, nobody else was there; then somebody comes."""
    async with BoundedBroker(SOON) as broker, RawBackend(broker, "one") as one:
        connecting = asyncio.ensure_future(_connect(broker))
        await one.hear("connection_request")
        one.cut()
        await testing.until(lambda: not broker.backend_count)
        await asyncio.sleep(0.1)  # five times as long as it takes
        async with RawBackend(broker, "two") as two:
            two.accept(await two.hear("connection_request"), "ann")
            await (await connecting).close()


async def test_rule_20_a_backend_that_is_soon_back_is_not_doubled():
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        connecting = asyncio.ensure_future(_connect(broker))
        asked = await one.hear("connection_request")
        async with RawBackend(broker, "two") as two:
            assert (await one.resume())["resumed"]
            one.accept(asked, "ann")
            ws = await connecting
            assert await two.so_far() == []
            await ws.close()


async def test_rule_20_one_deadline_over_all_backends_that_are_asked():
    async with BoundedBroker(SOON, answer_timeout=0.3) as broker, RawBackend(broker, "one") as one:
        connecting = asyncio.ensure_future(_connect(broker))
        await one.hear("connection_request")
        async with RawBackend(broker, "two") as two:
            one.cut()
            asked = await two.hear("connection_request")
            with pytest.raises(testing.Rejected) as rejected:
                await connecting
            assert rejected.value.status == 504
            two.accept(asked, "too late")
            assert await two.so_far() == []
            assert broker.client_count == 0


async def test_rule_20_answers_for_clients_that_left_are_ignored():
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        connecting = asyncio.ensure_future(_connect(broker))
        asked = await one.hear("connection_request")
        connecting.cancel()
        await testing.until(lambda: broker.counters["handshakes_abandoned"])
        one.accept(asked, "ann")
        assert await one.so_far() == []
        assert broker.client_count == 0


async def test_rule_20_a_late_answer_is_not_another_brokers(raw_broker):
    """Each broker counts its requests from 1: an answer that outlives its broker would let in somebody else."""

    class Slow(Noting):
        def __init__(self) -> None:
            super().__init__()
            self.release = asyncio.Event()
            self.asked: list[str] = []

        async def on_connection_request(self, context):
            self.asked.append(context.url)
            if context.url == "/old":
                await self.release.wait()
                context.context.client_id = "old"
            return context.url == "/old"

    client = Slow()
    link = await raw_broker.connected(client)
    await link.say("connection_request", {"url": "/old"}, request_id="1")
    await until(lambda: client.asked)
    raw_broker.broker_id = "broker-2"
    link.cut()
    again = await raw_broker.begin()
    await again.raw(request("1", url="/new").replace(b'{"', b'{"seq":1,"', 1))
    again.sent = 1
    answer = await again.hear("response")
    assert not answer["params"]["accepted"]
    client.release.set()
    await again.message("next")
    await again.hear_done(2)
    assert await again.so_far(client) == []
    again.cut()
    await client.disconnect(0)


# --- rule 21 ---


async def test_rule_21_a_message_that_three_backends_died_of_is_dropped(caplog):
    async with testing.broker() as broker, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(RawBackend(broker, "one"))
        ws = await one.admit("ann")
        await ws.send("poison")
        await one.hear_message("poison")
        dying = one
        for name in ("two", "three", "four"):
            heir = await stack.enter_async_context(RawBackend(broker, name))
            dying.say("bye")
            if name != "four":
                assert [told(each) for each in await heir.finish(1)] == ["client_adopted"]
                assert told(await heir.hear()) == "poison*"
            dying = heir
        await testing.until(lambda: broker.counters["events_given_up"] == 1)
        await ws.send("after")
        assert [told(await heir.hear()) for _ in range(2)] == ["client_adopted", "after"]
        assert "ann" in caplog.text
        await ws.close()
        assert (await heir.hear())["action"] == "disconnected"


async def test_rule_21_what_waits_behind_it_is_not_dropped_with_it():
    async with testing.broker() as broker, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(RawBackend(broker, "one"))
        ws = await one.admit("ann")
        texts = ["before", "poison", *(f"after {number}" for number in range(100))]
        for text in texts:
            await ws.send(text)
        assert [(await one.hear_message(text))["params"]["message"] for text in texts[:32]] == texts[:32]
        await testing.until(lambda: broker.counters["messages_received"] >= 33)
        heir = one
        for name in ("two", "three", "four"):
            dying, heir = heir, await stack.enter_async_context(RawBackend(broker, name))
            dying.say("bye")
            if name == "two":
                assert [told(each) for each in await heir.finish(2)] == ["client_adopted", "before*"]
            else:
                await heir.finish(1)
            assert told(await heir.hear()) == "poison*"
        last = await stack.enter_async_context(RawBackend(broker, "five"))
        heir.say("bye")
        heard = [told(each) for each in await last.finish(101)]
        assert heard[0] == "client_adopted"
        assert [text.rstrip("*") for text in heard[1:]] == texts[2:]
        assert broker.counters["events_given_up"] == 1
        await ws.close()


# --- rule 24 ---


async def test_rule_24_a_client_id_in_use_ends_the_older_connection_first():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        older = await raw.admit("ann")
        connecting = asyncio.ensure_future(_connect(broker))
        raw.accept(await raw.hear("connection_request"), "ann")
        newer = await connecting
        gone = await raw.hear("disconnected")
        raw.done(gone)
        await raw.hear("new_connection")
        await older.expect_close(1008)
        await newer.send("hi")
        await raw.hear_message("hi")
        await newer.close()


async def test_rule_24_the_older_connection_may_be_another_backends():
    async with testing.broker() as broker, RawBackend(broker, "one") as one:
        older = await one.admit("ann")
        await older.send("a")
        unfinished = await one.hear_message("a")
        async with RawBackend(broker, "two") as two:
            connecting = asyncio.ensure_future(_connect(broker))
            two.accept(await two.hear("connection_request"), "ann")
            newer = await connecting
            await newer.send("hi")
            gone = await one.hear("disconnected")
            await older.expect_close(1008)
            assert await two.so_far() == [], "the older one's disconnect is not finished"
            one.done(unfinished)
            assert await two.so_far() == []
            one.done(gone)
            assert [told(await two.hear()) for _ in range(2)] == ["new_connection", "hi"]
            await newer.close()


@pytest.mark.parametrize("times", [3])
async def test_rule_24_a_client_id_that_comes_again_and_again(times):
    """The disconnect of each connection is finished before the next one's begin, whoever has them."""
    async with testing.broker(resume_window=0.02) as broker, RawBackend(broker, "one") as one:
        sockets = [await one.admit("ann")]
        for _ in range(times):
            connecting = asyncio.ensure_future(_connect(broker))
            one.accept(await one.hear("connection_request", "disconnected"), "ann") if not sockets[1:] else None
            if sockets[1:]:
                one.accept(await one.hear("connection_request"), "ann")
            sockets.append(await connecting)
            if not sockets[2:]:
                gone = await one.hear("disconnected")
        async with RawBackend(broker, "two") as two:
            one.cut()  # with the first disconnect unfinished
            heard = [await two.hear("client_adopted", "disconnected")]
            heard.append(await two.hear("disconnected"))
            assert heard[1]["event"] == gone["event"]
            assert await two.so_far() == []
            two.done(*heard)
            for number in range(times):
                event = await two.hear("client_adopted", "new_connection")
                while event["action"] == "client_adopted":
                    two.done(event)
                    event = await two.hear("client_adopted", "new_connection")
                two.done(event)
                if number < times - 1:
                    two.done(await two.hear("disconnected"))
            assert await two.so_far() == []
            await sockets[-1].send("hi")
            await two.hear_message("hi")
            for ws in sockets:
                await ws.close()
