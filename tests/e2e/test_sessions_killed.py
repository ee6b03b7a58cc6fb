"""Numbered messages of a client that comes back, while backends and brokers are killed: handled, or marked."""

import asyncio
import json
import random
import sys
from collections import defaultdict

from pystrands import AsyncPyStrandsClient, testing

from .broker_process import BrokerProcess
from .session_client import SessionClient

COUNT = 3000
PROGRAM = """
import asyncio, json, os, sys
from pystrands import AsyncPyStrandsClient

class Backend(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        line = json.dumps([message, context.message_id, context.redelivered]) + "\\n"
        os.write(record, line.encode())

record = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
asyncio.run(Backend(port=int(os.environ["PYSTRANDS_TCP_PORT"])).run_forever())
"""


async def send_all(client, count, disturb):
    """Send numbered messages, a few at a time, with something that goes wrong now and then; return their idents."""
    idents = []
    for number in range(count):
        while len(client.core.outbox) > 200:
            await asyncio.sleep(0.001)
        idents.append(client.send(str(number)))
        await disturb(number)
        if not number % 20:
            await asyncio.sleep(0)
    for ident in idents:
        await client.done(ident, timeout=60.0)
    return idents


def check(handled, count):
    """Check that all were handled, in order, and that what came again was marked and called the same."""
    names, times = {}, defaultdict(int)
    first = []
    for body, name, redelivered in handled:
        assert names.setdefault(body, name) == name
        times[body] += 1
        if not redelivered:
            assert times[body] == 1, f"{body} came again, and was not marked"
        if times[body] == 1:
            first.append(int(body))
    assert first == list(range(count))


async def test_backends_that_are_killed_lose_nothing_and_repeat_only_what_is_marked(tmp_path):
    record, chance = tmp_path / "record", random.Random(19)
    async with testing.broker(resume_window=0.1) as broker:

        def program():
            return testing.backend_process(broker, [sys.executable, "-c", PROGRAM, str(record)])

        async with program() as one, program() as two, SessionClient(broker) as client:
            backends = {500: one, 1500: two}

            async def disturb(number):
                if number in backends:
                    backends[number].kill()
                if chance.random() < 0.005 and client.core.state == "open":
                    client.cut()

            async with program():
                idents = await send_all(client, COUNT, disturb)
                assert {client.settled[ident] for ident in idents} == {""}
                assert all(each.resumed for each in client.resumed)
    check([json.loads(line) for line in record.read_text().splitlines()], COUNT)


class Broker:
    """Where the client finds the broker that there is now."""

    process: BrokerProcess

    def ws_url(self, path="/"):
        return self.process.ws_url(path)


class Backend(AsyncPyStrandsClient):
    handled: list[list[object]]

    async def on_message(self, message, context):
        self.handled.append([message, context.message_id, context.redelivered])


async def test_a_broker_that_is_killed_loses_no_message_and_what_is_sent_again_is_marked():
    handled, broker = [], Broker()
    async with BrokerProcess() as one, BrokerProcess() as two:
        broker.process = one
        backends = [Backend(port=each.tcp_port) for each in (one, two)]
        for backend in backends:
            backend.handled = handled
            await backend.connect()
        async with SessionClient(broker) as client:

            async def disturb(number):
                if number == COUNT // 2:
                    broker.process = two
                    one.process.kill()

            idents = await send_all(client, COUNT, disturb)
            assert {client.settled[ident] for ident in idents} == {""}
            assert [each.resumed for each in client.resumed] == [False]
        for backend in backends:
            await backend.disconnect()
    check(handled, COUNT)
