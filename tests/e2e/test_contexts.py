"""What a client's context may hold, and that what is sent once is there in every event."""

import asyncio
from typing import Any

import pytest

from pystrands import AsyncPyStrandsClient, MessageTooBig, PyStrandsClient, PyStrandsError, testing
from tests.client.fake_broker import soon, until

BIG = {"history": ["x" * 3000]}


class Noting(AsyncPyStrandsClient):
    """Notes the contexts that it sees, and then spoils them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"reconnect_delay": 0.01} | kwargs))
        self.notes: list[tuple[str, Any]] = []
        self.answer: dict[str, Any] = {"metadata": BIG}

    def note(self, what, context):
        self.notes.append((what, (context.client_id, context.room_id, context.rooms, str(context.metadata))))
        if isinstance(context.metadata, dict):
            context.metadata.setdefault("history", []).append("spoilt")
        context.room_id = "spoilt"

    async def on_connection_request(self, request):
        for name, value in self.answer.items():
            setattr(request.context, name, value)

    async def on_new_connection(self, context):
        self.note("new", context)

    async def on_client_adopted(self, context):
        self.note("adopted", context)

    async def on_client_released(self, context):
        self.note("released", context)

    async def on_message(self, message, context):
        if message.startswith("join "):
            await self.join_room(context.client_id, message[5:])
        self.note(message, context)

    async def on_disconnect(self, context):
        self.note("gone", context)

    async def on_error(self, error, context):
        self.notes.append(("error", error))


async def test_a_context_that_is_sent_once_is_there_in_each_event():
    async with testing.broker() as broker, testing.backend(broker, Noting) as noting:
        async with testing.connect(broker, "/r") as ws:
            for text in ("one", "two", "join kitchen"):
                await ws.send(text)
            await testing.until(lambda: len(noting.notes) == 4)
            await ws.send("three")
            await testing.until(lambda: len(noting.notes) == 5)
            client_id = noting.notes[0][1][0]
            assert await noting.update_metadata(client_id, {"name": "ann"})
            await ws.send("four")
            await testing.until(lambda: len(noting.notes) == 6)
        await testing.until(lambda: len(noting.notes) == 7)
    changed = str(BIG | {"name": "ann"})
    assert noting.notes == [
        (what, (client_id, "/r", rooms, metadata))
        for what, rooms, metadata in [
            *[(what, ("/r",), str(BIG)) for what in ("new", "one", "two", "join kitchen")],
            ("three", ("/r", "kitchen"), str(BIG)),
            ("four", ("/r", "kitchen"), changed),
            ("gone", ("/r", "kitchen"), changed),
        ]
    ]


async def test_a_backend_keeps_what_it_is_told_for_the_events_that_refer_to_it(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    assert link.hello["contexts"] is True
    big = {"client_id": "c1", "room_id": "r1", "rooms": ["r1", "r2"], "metadata": BIG}
    known = {"context": {"client_id": "c1"}, "known": True}
    whole = await link.say("context", {"context": big})
    seqs = [await link.say("new_connection", known)]
    seqs += [await link.say("new_message", known | {"message": "m", "binary": False}) for _ in range(2)]
    seqs.append(await link.say("error", known | {"error": "e"}))
    await link.hear_done(*seqs)
    as_told = ("c1", "r1", ("r1", "r2"), str(BIG))
    assert client.notes == [("new", as_told), ("m", as_told), ("m", as_told), ("error", "e")]
    assert whole not in seqs, "it is no event, and is not finished"

    link.cut()
    again = await raw_broker.linked()
    await again.go_on(link)
    seqs = [await again.say("new_message", known | {"message": "after"})]
    await again.hear_done(*seqs)
    assert client.notes[-1] == ("after", as_told), "the session goes on, and what it was told with it"

    raw_broker.broker_id = "broker-2"
    again.cut()
    await raw_broker.begin()
    await until(lambda: client.notes[-1][0] == "gone")
    assert client.notes[-1] == ("gone", as_told)
    await client.disconnect(0)


@pytest.mark.parametrize("how", ["never", "gone", "smaller"])
async def test_an_event_that_refers_to_nothing_is_told_and_finished(raw_broker, how, caplog):
    client = Noting()
    link = await raw_broker.connected(client)
    big = {"client_id": "c1", "room_id": "r1", "metadata": BIG}
    known = {"context": {"client_id": "c1"}, "known": True}
    seqs = []
    if how != "never":
        await link.say("context", {"context": big})
    if how == "gone":
        seqs = [await link.say("disconnected", known)]
    elif how == "smaller":
        seqs = [await link.message("small")]
    seqs += [await link.say("new_message", known | {"message": "m"}), await link.say("new_connection", known)]
    seqs.append(await link.message("fine", "c2"))
    await link.hear_done(*seqs)
    before = {"never": [], "gone": ["gone"], "smaller": ["small"]}[how]
    assert [what for what, _ in client.notes] == [*before, "error", "error", "fine"]
    assert "refers to a context that has not come" in caplog.text
    await client.disconnect(0)


async def test_a_session_that_was_given_up_knows_nothing_more(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.say("context", {"context": {"client_id": "c1", "room_id": "r1", "metadata": BIG}})
    seq = await link.say("new_connection", {"context": {"client_id": "c1"}, "known": True})
    await link.hear_done(seq)
    link.cut()
    again = await raw_broker.linked()
    await again.give_up(link.received)
    seq = await again.say("new_message", {"context": {"client_id": "c1"}, "known": True, "message": "m"})
    await again.hear_done(seq)
    assert [what for what, _ in client.notes] == ["new", "released", "error"]
    await client.disconnect(0)


async def test_a_client_that_another_backend_takes_over_comes_with_its_context():
    async with testing.broker() as broker:
        one, two = Noting("127.0.0.1", broker.tcp_port), Noting("127.0.0.1", broker.tcp_port)
        await one.connect()
        async with testing.connect(broker, "/r") as ws:
            await ws.send("one")
            await testing.until(lambda: len(one.notes) == 2)
            await two.connect()
            await one.disconnect()
            await ws.send("two")
            await testing.until(lambda: len(two.notes) == 2)
        await testing.until(lambda: len(two.notes) == 3)
        await two.disconnect()
    assert [what for what, _ in two.notes] == ["adopted", "two", "gone"]
    assert {context for _, context in one.notes + two.notes} == {one.notes[0][1]}


async def test_names_of_rooms_and_their_number_have_bounds_that_are_told():
    async with testing.broker(max_rooms_per_client=5) as broker, testing.backend(broker, Noting) as noting:
        async with testing.connect(broker, "/r") as ws:
            await testing.until(lambda: noting.notes)
            client_id = noting.notes[0][1][0]
            with pytest.raises(ValueError, match="room_id has 513 bytes in UTF-8 and the broker takes 512"):
                await noting.join_room(client_id, "x" * 513)
            for number in range(4):
                assert await noting.join_room(client_id, "é" * 250 + str(number))
            with pytest.raises(PyStrandsError, match="is in 5 rooms"):
                await noting.join_room(client_id, "one more")
            await ws.send("still there")
            await testing.until(lambda: len(noting.notes) == 2)
        await testing.until(lambda: noting.notes[-1][0] == "gone")
    assert len(noting.notes[-1][1][2]) == 5
    assert broker.counters["events_too_long"] == 0


async def test_metadata_that_grows_is_refused_before_its_events_are_too_long():
    async with testing.broker(max_message_size=1000) as broker, testing.backend(broker, Noting) as noting:
        async with testing.connect(broker, "/r"):
            await testing.until(lambda: noting.notes)
            client_id = noting.notes[0][1][0]
            with pytest.raises(MessageTooBig, match="the broker takes 33768"):
                await noting.update_metadata(client_id, {"x": "x" * 34_000})
            for number in range(3):
                assert await noting.update_metadata(client_id, {f"x{number}": "x" * 9000})
            with pytest.raises(PyStrandsError, match="put less into metadata"):
                await noting.update_metadata(client_id, {"x3": "x" * 9000})
            deep: Any = "x"
            for _ in range(100):
                deep = [deep]
            with pytest.raises(TypeError, match="deeper than 100 levels"):
                await noting.update_metadata(client_id, {"x": deep})
        await testing.until(lambda: noting.notes[-1][0] == "gone")
    assert [what for what, _ in noting.notes] == ["new", "gone"]
    assert noting.notes[-1][1][3].count("x" * 9000) == 3
    assert broker.counters["events_too_long"] == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"client_id": "x" * 513}, "request.context.client_id has 513 bytes"),
        ({"room_id": "é" * 257}, "request.context.room_id has 514 bytes"),
        ({"metadata": {"x": "x" * 34_000}}, "the broker takes 33768"),
    ],
)
async def test_an_answer_with_too_much_rejects_and_tells_the_backend(answer, why):
    async with testing.broker(max_message_size=1000) as broker, testing.backend(broker, Noting) as noting:
        noting.answer = answer
        with pytest.raises(testing.Rejected):
            await testing.connect(broker, "/r")
        await testing.until(lambda: noting.notes)
        assert why in noting.notes[0][1]


async def test_a_path_that_is_too_long_for_a_room_is_told_to_its_client():
    async with testing.broker() as broker, testing.backend(broker, Noting) as noting:
        with pytest.raises(testing.Rejected) as rejected:
            await testing.connect(broker, "/" + "x" * 5000)
        assert rejected.value.status == 414
        noting.answer = {"room_id": "short"}
        async with testing.connect(broker, "/" + "x" * 5000) as ws:
            await ws.send("fine")
            await testing.until(lambda: len(noting.notes) == 2)
    assert "error" not in dict(noting.notes)


async def test_the_threaded_client_checks_the_same():
    async with testing.broker() as broker:
        client = PyStrandsClient("127.0.0.1", broker.tcp_port)
        await asyncio.to_thread(client.connect)
        with pytest.raises(ValueError, match="the broker takes 512"):
            await asyncio.to_thread(client.join_room, "c", "x" * 513)
        with pytest.raises(MessageTooBig, match="for all of a client's ids, rooms and metadata"):
            await asyncio.to_thread(client.update_metadata, "c", {"x": "x" * 1_200_000})
        await soon(asyncio.to_thread(client.disconnect))
