"""Lines that can't be read: their number is taken, who sent them hears of it, and nobody else is hurt (LINK rule 2)."""

import asyncio
import json

import pytest

from pystrands import AsyncPyStrandsClient, PyStrandsError, testing
from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from pystrands.engine.base import Engine

from .raw_backend import RawBackend
from .raw_broker import Noting
from .test_bad_input import a_good_pair

DEEP = b"[" * 5000 + b"]" * 5000
BROKEN = [b'"\\ud800"', b"1e999", DEEP, b"7", b'"\xff"', b"{,}", b'{"\\udfff":[]}']


def command(action, params, number, request_id=b""):
    return b'{"action":"%b","request_id":"%b","params":%b,"seq":%d}\n' % (action, request_id, params, number)


@pytest.mark.parametrize("content", BROKEN)
async def test_a_command_that_can_t_be_read_is_answered_and_the_stream_goes_on(content):
    async with a_good_pair() as broker, RawBackend(broker) as raw:
        raw.raw(
            command(b"broadcast", b'{"message":[%b]}' % content, 1)
            + command(b"update_metadata", b'{"client_id":"c","metadata":[%b]}' % content, 2, b"asked")
            + command(b"message_to_room", b'{"room_id":"r","message":[%b],"confirm":true}' % content, 3, b"sure")
            + command(b"room_members", b'{"room_id":"none"}', 4, b"after")
        )
        raw.sent = 4
        told = await raw.hear("error")
        assert "could not be read" in told["params"]["error"]
        assert told["params"]["context"] == {"client_id": "", "room_id": "", "metadata": {}}
        for request_id in ("asked", "sure"):
            answer = await raw.hear("result")
            assert answer["request_id"] == request_id
            assert "could not be read" in answer["params"]["error"]
        assert (await raw.hear("result"))["params"] == {"members": []}
        assert broker.counters["lines_malformed"] == 3
        assert broker.counters["links_broken"] == broker.counters["sessions_resumed"] == 0


async def test_a_line_that_is_too_long_is_answered_and_the_stream_goes_on():
    async with a_good_pair(max_message_size=1000) as broker, RawBackend(broker) as raw:
        raw.say("broadcast", {"message": "x" * 100_000})  # its number stands in front
        raw.raw(command(b"broadcast", b'{"message":"' + b"x" * 200_000 + b'"}', 2))
        raw.raw(command(b"update_metadata", b'{"metadata":{"a":"' + b"x" * 200_000 + b'"}}', 3, b"q"))
        raw.sent = 3
        for action in ("error", "error", "result"):
            assert "longer" in (await raw.hear(action))["params"]["error"]
        assert await raw.so_far() == []
        assert broker.counters["lines_overlong"] == 3
        assert broker.counters["links_broken"] == 0


@pytest.mark.parametrize("content", [DEEP, b'{"a":"\xff"}', b'{"a":01}', b'"\\ud800"', b"9" * 5000])
async def test_an_answer_that_can_t_be_read_lets_nobody_in_and_its_client_need_not_wait(content):
    async with testing.broker() as broker, RawBackend(broker) as raw:
        connecting = asyncio.ensure_future(testing.connect(broker))
        asked = await raw.hear("connection_request")
        params = b'{"accepted":true,"metadata":%b}' % content
        raw.raw(command(b"response", params, 1, asked["request_id"].encode()))
        raw.sent = 1
        with pytest.raises(testing.Rejected) as rejected:
            await connecting
        assert rejected.value.status == 502
        assert "could not be read" in (await raw.hear("error"))["params"]["error"]
        assert broker.counters["refused_bad_answer"] == broker.counters["lines_malformed"] == 1
        await (await raw.admit("next")).close()


async def test_numbers_that_no_double_can_hold_become_the_largest_one():
    """What one backend gives a client others have to read: such a number raised in them, and in the broker."""
    async with testing.broker() as broker, RawBackend(broker) as raw:
        connecting = asyncio.ensure_future(testing.connect(broker, "/r"))
        asked = await raw.hear("connection_request")
        metadata = b'{"a":1e999,"b":[-1e999,2.5],"c":123456789012345678901234567890}'
        params = b'{"accepted":true,"client_id":"poor","metadata":%b}' % metadata
        raw.raw(command(b"response", params, 1, asked["request_id"].encode()))
        raw.sent = 1
        async with await connecting, testing.backend(broker) as other:
            largest = 1.7976931348623157e308
            (member,) = await other.room_members("/r")
            expected = {"a": largest, "b": [-largest, 2.5], "c": 123456789012345678901234567890}
            assert member.metadata == expected
            assert await other.update_metadata("poor", {"x": 1})
            (member,) = await other.room_members("/r")
            assert member.metadata == expected | {"x": 1}


class Defective(Engine):
    """Fails at every message."""

    async def start(self, sink): ...

    async def stop(self): ...

    def subscribe(self, room_id): ...

    def unsubscribe(self, room_id): ...

    def publish(self, publication):
        raise RuntimeError("a defect")


async def test_what_fails_inside_the_broker_ends_with_its_command(caplog):
    async with Broker(BrokerConfig(ws_port=0, tcp_port=0), engine=Defective()) as broker:
        client = AsyncPyStrandsClient("127.0.0.1", broker.tcp_port)
        async with RawBackend(broker) as raw:
            raw.say("broadcast", {"message": "x"})
            raw.say("message_to_room", {"room_id": "r", "message": "x", "confirm": True}, request_id="q")
            raw.say("room_members", {"room_id": "r"}, request_id="after")
            told = (await raw.hear("error"))["params"]["error"]
            assert "broadcast" in told and "RuntimeError" in told
            answer = await raw.hear("result")
            assert (answer["request_id"], "RuntimeError" in answer["params"]["error"]) == ("q", True)
            assert (await raw.hear("result"))["params"] == {"members": []}
            assert await client.connect()
            with pytest.raises(PyStrandsError, match="RuntimeError"):
                await client.send_private_message("c", "x", confirm=True)
            assert await client.room_members("r") == []
            assert broker.counters["commands_failed"] == 3
            assert broker.counters["links_broken"] == broker.counters["sessions_resumed"] == 0
        await client.disconnect()
    assert "a defect" in caplog.text


async def test_a_binary_message_that_is_none_is_answered():
    async with a_good_pair() as broker, RawBackend(broker) as raw:
        raw.say("broadcast", {"message": "!", "binary": True})
        raw.say("broadcast", {"message": "!", "binary": True, "confirm": True}, request_id="q")
        assert "base64" in (await raw.hear("error"))["params"]["error"]
        assert "base64" in (await raw.hear("result"))["params"]["error"]
        assert broker.counters["lines_malformed"] == 2


async def test_a_backend_of_protocol_1_hears_of_it_too():
    async with a_good_pair() as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.tcp_port)
        await reader.readline()
        writer.write(
            b'{"action":"heartbeat"}\n{"action":"room_members","request_id":"q","params":{"room_id":"\\ud800"}}\n'
        )
        writer.write(b"rubbish\n" * 100)
        said = [json.loads(await reader.readline()) for _ in range(10)]
        assert [line["action"] for line in said] == ["result"] + ["error"] * 9
        assert broker.counters["lines_malformed"] <= 101
        writer.close()
        await reader.read()  # no more than the first ten: who writes rubbish is not sent as much
        await testing.until(lambda: broker.backend_count == 1)


async def test_a_question_with_a_number_that_can_t_be_sent_back_has_no_answer():
    async with a_good_pair() as broker, RawBackend(broker) as raw:
        raw.raw(b'{"action":"heartbeat","params":{"ask":%d}}\n' % 10**30)
        raw.raw(b'{"action":"heartbeat","params":{"ask":1e999}}\n')
        assert await raw.so_far() == []
        assert broker.counters["links_broken"] == broker.counters["sessions_resumed"] == 0


# --- what a backend reads ---


@pytest.mark.parametrize("content", BROKEN)
async def test_an_event_that_can_t_be_read_is_told_finished_and_skipped(raw_broker, content, caplog):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.message("one")
    context = b'{"client_id":"c1","room_id":[%b],"metadata":{}}' % content
    await link.raw(command(b"new_message", b'{"context":%b,"message":"lost"}' % context, 2))
    link.sent = 2
    await link.message("two")
    await link.hear_done(1, 2, 3)
    assert [what for what, _ in client.notes] == ["one", "two"]
    (error,) = client.errors
    assert "new_message" in error and "could not be read" in error
    link.cut()
    await client.disconnect(0)


@pytest.mark.parametrize("content", BROKEN)
async def test_who_waits_for_an_answer_that_can_t_be_read_hears_so(raw_broker, content):
    client = Noting()
    link = await raw_broker.connected(client)
    asking = asyncio.ensure_future(client.room_members("r"))
    request_id = (await link.hear("room_members"))["request_id"].encode()
    await link.raw(command(b"result", b'{"members":[[%b]]}' % content, 1, request_id))
    link.sent = 1
    with pytest.raises(PyStrandsError, match="could not be read"):
        await asking
    await link.message("next")
    await link.hear_done(2)
    link.cut()
    await client.disconnect(0)


@pytest.mark.parametrize("content", BROKEN)
async def test_a_question_that_can_t_be_read_is_answered_with_no(raw_broker, content):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.raw(command(b"connection_request", b'{"url":[%b]}' % content, 1, b"q"))
    answer = await link.hear("response")
    assert (answer["request_id"], answer["params"]["accepted"], answer["params"]["status"]) == ("q", False, 500)
    link.cut()
    await client.disconnect(0)


async def test_what_a_backend_gives_a_client_is_read_by_the_next_one():
    """Text that a client sends, and metadata, with every character that Python's own encoder writes."""
    text = "".join(map(chr, range(0xD800))) + "\U0001f600\U0010ffff"
    heard = []

    class Echo(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            heard.append((message, context.metadata))

    async with testing.broker() as broker, RawBackend(broker) as raw:
        ws = await raw.admit("c1")
        await ws.send(text)
        await raw.hear_message(text)
        raw.say("update_metadata", {"client_id": "c1", "metadata": {"t": text}}, request_id="q")
        assert (await raw.hear("result"))["params"] == {"found": True}
        async with testing.backend(broker, Echo):
            raw.say("leave")
            raw.say("bye")
            await testing.until(lambda: heard == [(text, {"t": text})])
        await ws.close()
