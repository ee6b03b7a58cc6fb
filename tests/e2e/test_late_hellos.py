"""Hellos that are late, on either side: only one that was read and judged is refused for good (LINK rules 6 and 7)."""

import asyncio

import pytest

from pystrands import AsyncPyStrandsClient, Refused, testing
from pystrands.broker.backends.authenticator import LATE, WRONG
from pystrands.protocol import wire
from tests.client.fake_broker import Connection, line, soon, until
from tests.inside import core_of, parts_of

from .raw_backend import RawBackend
from .raw_backend import line as raw_line
from .raw_broker import Noting, RawBroker, RawLink
from .raw_peer import TOKEN, knocking, peer

# --- what the broker hears ---


async def test_a_broker_with_a_token_waits_for_a_hello():
    async with testing.broker(backend_token=[TOKEN]) as broker:
        parts_of(broker).links.decision_time = 0.01
        async with RawBackend(broker, begin=False) as slow, peer(broker) as silent:
            slow.raw(b'{"action":"hello",')
            assert await silent.hear() == ("hello", slow.hello)
            await silent.hears_nothing()  # twenty times as long as silence would have to be without a token
            slow.raw(b'"params":{"protocol":2,"session_id":"s","token":"%s"}}\n' % TOKEN.encode())
            assert not (await slow.welcomed())["resumed"]
        assert broker.counters["link_without_token"] == 0


async def test_a_refusal_says_whether_it_is_final():
    async with testing.broker(backend_token=[TOKEN]) as broker:
        parts_of(broker).links.hello_time = 0.1
        for said, reason, final in (
            (b"", LATE, False),
            (raw_line("broadcast", {"message": "x"}), "protocol 1", False),
            (b"x" * 70_000, "longer", False),
            (raw_line("hello", {"protocol": 2, "session_id": "s", "token": "no"}), WRONG, True),
            (raw_line("hello", {"protocol": 1}), "protocol 1", True),
            (raw_line("hello", {"protocol": 2, "session_id": "s"}), "none was given", True),
        ):
            async with peer(broker) as stranger:
                await stranger.hear()
                stranger.writer.write(said)
                action, params = await stranger.hear()
                assert action == "refused"
                assert reason in params["reason"]
                assert params["final"] is final


@pytest.mark.parametrize("token", [(), [TOKEN]])
async def test_a_backend_that_waits_for_the_hello_has_decided_nothing(token):
    async with testing.broker(backend_token=token) as broker, knocking(broker):
        async with RawBackend(broker, begin=False) as raw, peer(broker) as first:
            raw.raw(wire.WAITING * 1300 + b"\n" + wire.WAITING[:20])  # as much as a first line may have
            raw.raw(wire.WAITING[20:])
            first.writer.write(wire.WAITING)
            assert (await first.hear())[0] == "hello"
            assert not (await raw.begin(token=TOKEN))["resumed"]
            raw.raw(wire.WAITING)  # later it is a heartbeat like any other
            asked = await raw.hear("connection_request")
            raw.say("response", {"accepted": False}, request_id=asked["request_id"])
            assert await raw.so_far() == []
            if not token:
                first.writer.write(wire.WAITING + wire.HEARTBEAT + raw_line("status", request_id="q"))
                assert (await first.hear())[0] == "result"
        assert broker.counters["lines_malformed"] == broker.counters["link_without_token"] == 0


# --- what a client hears ---


@pytest.fixture
async def quiet_broker():
    """One whose hello is the test's own."""
    async with RawBroker() as broker:
        broker.says_hello = False
        yield broker


async def hello(broker, link: Connection) -> RawLink:
    """Say the hello that was due, and hear the client's."""
    await link.send(line("hello", {"broker_id": broker.broker_id} | broker.hello_params))
    while True:
        link.hello = await link.receive()
        if link.hello["action"] == "hello":
            return RawLink(link)


async def asked(broker) -> Connection:
    """Return the next link, on which the client has waited long enough to ask for a hello."""
    link: Connection = await broker.link()
    assert await soon(link.reader.readline()) == wire.WAITING
    return link


@pytest.mark.parametrize("options", [{"token": TOKEN}, {"send_only": True}])
async def test_a_client_that_needs_a_hello_waits_for_it(quiet_broker, options):
    client = Noting(**quiet_broker.where, **options)
    connecting = asyncio.ensure_future(client.connect())
    connection = await asked(quiet_broker)
    await asyncio.sleep(0.4)  # more than others wait after that
    assert not connecting.done()
    link = await hello(quiet_broker, connection)
    await link.welcome()
    assert await soon(connecting)
    link.cut()
    await client.disconnect(0)


async def test_a_late_hello_makes_it_protocol_2_though_something_was_sent(quiet_broker):
    client = Noting(**quiet_broker.where)
    connecting = asyncio.ensure_future(client.connect())
    connection = await asked(quiet_broker)
    assert await soon(connecting)
    assert await client.broadcast_message("in protocol 1")
    assert (await connection.receive())["params"] == {"message": "in protocol 1"}
    link = await hello(quiet_broker, connection)
    assert await client.broadcast_message("kept")
    await link.welcome()
    assert (await link.hear("broadcast"))["params"]["message"] == "kept"
    await link.message("one")
    await link.hear_done(1)
    assert client.notes == [("one", "c1")]
    link.cut()
    await client.disconnect(0)


@pytest.mark.parametrize("how", ["an event", "silence"])
async def test_a_late_hello_that_the_broker_does_not_take_costs_one_link(quiet_broker, how):
    client = Noting(**quiet_broker.where)
    connecting = asyncio.ensure_future(client.connect())
    connection = await asked(quiet_broker)
    assert await soon(connecting)
    await hello(quiet_broker, connection)
    quiet_broker.says_hello = True
    if how == "an event":  # numbered or not: to this broker it is protocol 1
        await connection.send(line("connection_request", {"url": "/"}, "q"))
    else:
        life = core_of(client).lifetime
        life.connection.incoming._miss_welcome(life.connection.link)
    link = await quiet_broker.begin()
    assert await link.so_far(client) == []
    link.cut()
    await client.disconnect(0)


@pytest.mark.parametrize("params", [{"final": False}, {"final": True}, {}])
@pytest.mark.parametrize("greeted", [False, True])
async def test_only_a_final_refusal_ends_a_backend(quiet_broker, params, greeted):
    client = Noting(**quiet_broker.where)
    running = asyncio.ensure_future(client.run_forever())
    connection = await quiet_broker.link()
    if greeted:
        await hello(quiet_broker, connection)
    await connection.send(line("refused", {"reason": "too late"} | params))
    if params.get("final", greeted):  # an older broker does not say it: it has judged a hello if it has heard one
        with pytest.raises(Refused, match="too late"):
            await soon(running)
        return
    quiet_broker.says_hello = True
    link = await quiet_broker.begin()
    await until(lambda: client.connected)
    link.cut()
    await client.disconnect(0)
    await soon(running)


async def test_who_is_refused_for_being_late_comes_again(caplog):
    async with testing.broker(backend_token=[TOKEN]) as broker:
        parts_of(broker).links.hello_time = 0.05
        with testing.LinkProxy(broker) as proxy:
            proxy.pause()
            client = AsyncPyStrandsClient("127.0.0.1", proxy.tcp_port, token=TOKEN, reconnect_delay=0.01)
            running = asyncio.ensure_future(client.run_forever())
            await testing.until(lambda: broker.counters["link_without_token"] >= 1)
            parts_of(broker).links.hello_time = 10
            proxy.resume()
            await testing.until(lambda: broker.backend_count == 1)
            await client.disconnect()
            await running
    assert f"refuses this backend: {LATE}" in caplog.text
