"""Signals: what members of a room say to each other, past the backend."""

import pytest

from pystrands import testing
from pystrands.protocol.v1.actions import Signal
from tests.cluster.together import brokers

from .session_client import SessionClient
from .test_users import Named, lose

LOBBY = "lobby"


class Open(Named):
    """Lets all send signals in the lobby whose device is not "mute"."""

    async def on_new_connection(self, context):
        if context.metadata["device"] != "mute":
            await self.join_room(context.client_id, LOBBY, signals=True)
        await super().on_new_connection(context)

    async def on_message(self, message, context):
        await self.send_room_message(LOBBY, message)


async def ready(backend, count):
    await testing.until(lambda: len(backend.contexts) == count)


async def test_other_members_hear_a_signal_and_nobody_else():
    async with testing.broker() as broker, testing.backend(broker, Open) as backend:
        async with (
            SessionClient(broker, "/?user=ada") as ada,
            SessionClient(broker, "/?user=ada&device=mute") as tab,
            SessionClient(broker, "/?id=ben") as ben,
            testing.connect(broker, "/?user=cem") as plain,
            SessionClient(broker, "/?user=dan") as dan,
        ):
            await ready(backend, 5)
            await backend.leave_room(dan.name, LOBBY)
            ada.signal(LOBBY, "cursor", '{"x":1}\n')
            ben.signal(LOBBY, "raw", b"\x00\n\xff")
            await testing.until(lambda: len(tab.signals) == 2)
            assert sorted(tab.signals) == [
                Signal(LOBBY, "cursor", "ada", '{"x":1}\n'),
                Signal(LOBBY, "raw", "ben", b"\x00\n\xff"),
            ]
            await testing.until(lambda: ada.signals and ben.signals)
            assert [each.name for each in ada.signals] == ["raw"]  # nobody hears himself
            assert [each.name for each in ben.signals] == ["cursor"]
            await backend.broadcast_message("end")
            assert await plain.receive() == "end"
            await testing.until(lambda: dan.messages == ["end"])
            assert dan.signals == []
            assert backend.errors == []


@pytest.mark.parametrize(
    "frame",
    [
        '{"t":"signal","r":"elsewhere","e":"x"}\nbody',
        '{"t":"signal","r":"lobby","e":""}\nbody',
        '{"t":"signal","r":"lobby"}\nbody',
        '{"t":"signal","e":"x"}\nbody',
        '{"t":"signal","r":"lobby","e":"x"}',
        '{"t":"signal","r":"lobby","e":"%s"}\nbody' % ("x" * 201),
    ],
)
async def test_what_is_no_signal_goes_nowhere(frame):
    async with testing.broker() as broker, testing.backend(broker, Open) as backend:
        async with SessionClient(broker, "/") as one, SessionClient(broker, "/") as other:
            await ready(backend, 2)
            await one.connection.send(frame)
            one.signal(LOBBY, "last", "x")
            await testing.until(lambda: other.signals)
            assert [each.name for each in other.signals] == ["last"]


async def test_only_whom_the_backend_lets_may_send_and_only_while_it_is_in_the_room():
    async with testing.broker() as broker, testing.backend(broker, Open) as backend:
        async with (
            SessionClient(broker, "/?device=mute") as mute,
            SessionClient(broker, "/") as one,
            SessionClient(broker, "/") as other,
        ):
            await ready(backend, 3)
            mute.signal(LOBBY, "refused", "x")
            await mute.connection.ping()
            await backend.join_room(mute.name, LOBBY, signals=True)
            mute.signal(LOBBY, "allowed", "x")
            await testing.until(lambda: other.signals)
            assert [each.name for each in other.signals] == ["allowed"]
            await backend.leave_room(mute.name, LOBBY)
            await backend.join_room(mute.name, LOBBY)
            await mute.connection.send('{"t":"signal","r":"lobby","e":"no more"}\nx')
            await mute.connection.ping()
            one.signal(LOBBY, "last", "x")
            await testing.until(lambda: other.signals[-1].name == "last")
            assert [each.name for each in other.signals] == ["allowed", "last"]


async def test_who_is_away_misses_signals_and_who_comes_back_may_send_them():
    async with testing.broker() as broker, testing.backend(broker, Open) as backend:
        async with SessionClient(broker, "/") as one, SessionClient(broker, "/") as other:
            await ready(backend, 2)
            await lose(other, broker)
            one.signal(LOBBY, "missed", "x")
            await one.done(one.send("kept"))
            other.release()
            await testing.until(lambda: other.messages == ["kept"])
            assert other.signals == []
            other.signal(LOBBY, "back", "x")
            await testing.until(lambda: one.signals)


async def test_who_is_behind_gets_the_newest_of_each_sender():
    async with testing.broker(client_buffer=131_072, max_message_size=65_536, slow_client_time=30) as broker:
        async with testing.backend(broker, Open) as backend:
            async with (
                SessionClient(broker, "/") as one,
                SessionClient(broker, "/", receive_buffer=16_384) as slow,
            ):
                await ready(backend, 2)
                slow.connection.stop_reading()
                for number in range(300):
                    one.signal(LOBBY, "cursor", f"{number:03}" * 1000)
                    await one.connection.ping()
                assert broker.counters["slow_consumer_closed"] == 0
                slow.connection.resume_reading()
                await testing.until(lambda: slow.signals and str(slow.signals[-1].body).startswith("299"))
                assert len(slow.signals) < 300


async def test_across_brokers():
    async with brokers(3) as (one, two, three):
        async with (
            testing.backend(one, Open) as here,
            testing.backend(two, Open) as there,
            testing.backend(three, Open) as third,
        ):
            async with (
                SessionClient(one, "/?user=ada") as ada,
                SessionClient(two, "/?user=ben") as ben,
                testing.connect(three, "/?user=cem") as plain,
            ):
                await testing.until(lambda: len(here.contexts) + len(there.contexts) + len(third.contexts) == 3)
                ada.signal(LOBBY, "x", "text")
                ada.signal(LOBBY, "y", b"\xff")
                await testing.until(lambda: len(ben.signals) == 2)
                assert ben.signals == [Signal(LOBBY, "x", "ada", "text"), Signal(LOBBY, "y", "ada", b"\xff")]
                assert ada.signals == []
                two.engine.node.on_told(LOBBY, b"\xc1")  # of another version, perhaps
                await here.broadcast_message("end")
                assert await plain.receive() == "end"
