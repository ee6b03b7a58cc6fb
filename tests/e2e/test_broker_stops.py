"""A broker that is told to stop: backends finish what they have, before they lose their links."""

import asyncio
import logging

from pystrands import testing
from tests.client.fake_broker import soon

from .raw_backend import RawBackend
from .raw_broker import Noting, unlinked

LONG = 60.0
"""Seconds that nothing here takes: a wait in vain would end in a failure."""


class Farewell(Noting):
    """Its on_disconnect takes until ``go_on`` is set, then asks and sends."""

    def __init__(self, **options):
        super().__init__(**options)
        self.go_on = asyncio.Event()
        self.answers = []

    async def on_disconnect(self, context):
        await self.go_on.wait()
        members = await self.room_members(context.room_id)
        self.answers.append((members, await self.broadcast_message("bye", confirm=True)))
        await super().on_disconnect(context)


async def test_goodbyes_are_handled_before_the_links_go(caplog):
    caplog.set_level(logging.INFO)
    async with testing.broker(close_timeout=LONG) as broker, testing.backend(broker, Farewell) as client:
        sockets = [await testing.connect(broker, "/room") for _ in range(3)]
        await testing.until(lambda: len(client.notes) == 3)
        stopping = asyncio.create_task(broker.stop())
        for ws in sockets:
            await ws.expect_close(1012)
        assert client.connected and not stopping.done()
        client.go_on.set()
        await soon(stopping)
        async with testing.broker(tcp_port=client.port):
            await testing.until(lambda: client.connected)
            await client.broadcast_message("up", confirm=True)
        assert [what for what, _ in client.notes] == ["new"] * 3 + ["gone"] * 3, "once each, and unmarked"
        assert client.answers == [([], (0, 0))] * 3
    assert client.errors == []
    assert "given up" not in caplog.text
    assert "has not finished" not in caplog.text


async def test_a_handler_that_never_ends_is_not_waited_for_beyond_the_timeout(caplog):
    async with testing.broker(close_timeout=0.3) as broker, testing.backend(broker, Farewell) as client:
        async with testing.connect(broker, "/room") as ws:
            await testing.until(lambda: len(client.notes) == 1)
            stopping = asyncio.create_task(broker.stop())
            await ws.expect_close(1012)
            await soon(stopping)
        await unlinked(client)
        assert "has not finished 1 events in time" in caplog.text
        assert "given up" not in caplog.text
        async with testing.broker(tcp_port=client.port):
            await testing.until(lambda: client.connected)
            client.go_on.set()
            await testing.until(lambda: ("gone", client.notes[0][1]) in client.notes)
        assert [what for what, _ in client.notes] == ["new", "gone"], "it was told, though late"


async def test_nobody_waits_for_a_backend_that_has_no_link():
    async with testing.broker(close_timeout=LONG) as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann", done=False)
        raw.cut()
        await testing.until(lambda: broker.backend_count == 0)
        async with RawBackend(broker, "other") as other:
            stopping = asyncio.create_task(broker.stop())
            await ws.expect_close(1012)
            await other.is_closed()
            assert other.received == 0, "the first one tells of its client itself, at the next broker"
            await soon(stopping)


async def test_what_a_backend_gives_back_while_the_broker_stops_is_another_ones():
    """All are told to stop at once, as by "docker compose down"."""
    async with testing.broker(close_timeout=LONG) as broker, RawBackend(broker) as raw:
        ws = await raw.admit("ann")
        async with RawBackend(broker, "heir") as heir:
            stopping = asyncio.create_task(broker.stop())
            await ws.expect_close(1012)
            gone = await raw.hear("disconnected")
            raw.say("leave")
            raw.released(gone)
            raw.say("bye")
            for _ in range(2):
                assert not stopping.done()
                heir.done(await heir.hear())
            await soon(stopping)


async def test_without_clients_and_backends_it_ends_at_once():
    async with testing.broker(close_timeout=LONG) as broker:
        await soon(broker.stop())
