"""What the log says of a broker that can't be reached: once what is wrong, now and then that it still is."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from pystrands import AsyncPyStrandsClient
from tests.client.fake_broker import FakeBroker, soon, until
from tests.client.test_async_client import QUICK, free_port
from tests.inside import core_of, limited


@pytest.fixture(autouse=True)
def everything(caplog):
    caplog.set_level(logging.DEBUG, "pystrands")


def said(caplog, level, words):
    """Return how the supervisor's entries go on after these words."""
    entries = [record for record in caplog.records if record.name == "pystrands.client.connection.supervisor"]
    texts = [record.getMessage() for record in entries if record.levelname == level]
    return [text.partition(words)[2] for text in texts if words in text]


@asynccontextmanager
async def trying(port, *, reminder=60.0, **options):
    """A client that keeps trying."""
    client = limited(AsyncPyStrandsClient("127.0.0.1", port, **(QUICK | options)), reminder=reminder)
    running = asyncio.create_task(client.run_forever())
    await until(lambda: core_of(client).lifetime)
    yield client
    await client.disconnect()
    await soon(running)


async def test_a_broker_that_is_gone_is_told_once_and_so_is_its_return(caplog):
    fake = FakeBroker()
    fake.port = free_port()
    async with trying(fake.port) as client:
        await until(lambda: len(said(caplog, "DEBUG", "could not connect")) >= 5)
        (told,) = said(caplog, "WARNING", "could not connect")
        assert "attempts" not in told
        assert said(caplog, "DEBUG", "could not connect")[4].endswith("(6 attempts so far)")
        async with fake:
            connection = await fake.link()
            await until(lambda: client.connected)
            (back,) = said(caplog, "INFO", f"connected to the broker at 127.0.0.1:{fake.port}")
            assert back.endswith(" attempts failed)")
            connection.cut()
        await until(lambda: len(said(caplog, "WARNING", "could not connect")) == 2)
        assert "attempts" not in said(caplog, "WARNING", "could not connect")[1], "it counts anew"


async def test_what_goes_on_is_told_again_after_a_while(caplog):
    async with trying(free_port(), reminder=0.1):
        await until(lambda: len(said(caplog, "WARNING", "could not connect")) == 3)
    assert said(caplog, "WARNING", "could not connect")[2].endswith("attempts so far)")
    assert said(caplog, "DEBUG", "could not connect")


async def test_another_kind_of_failure_is_told_at_once(caplog):
    fake = FakeBroker()
    fake.port = free_port()
    fake.refuse = True
    async with trying(fake.port):
        await until(lambda: said(caplog, "DEBUG", "could not connect"))
        async with fake:
            await until(lambda: said(caplog, "DEBUG", "closed the connection at once"))
    for words in ("could not connect", "closed the connection at once"):
        assert len(said(caplog, "WARNING", words)) == 1


async def test_a_percent_sign_in_a_reason_stays_one(caplog):
    assert not await AsyncPyStrandsClient("%d.invalid", 1).connect()
    assert said(caplog, "WARNING", "could not connect")[0].startswith(" to the broker at %d.invalid:1: ")


async def test_a_broker_without_a_hello_is_told_of_with_what_it_may_mean(old_broker, caplog):
    async with trying(old_broker.port) as client:
        connection = await old_broker.link()
        await until(lambda: client.connected)
        assert said(caplog, "INFO", "which says no hello") == ["; does it want TLS? Then give ssl="]
        connection.cut()
        await until(lambda: said(caplog, "WARNING", "which said nothing"))
        assert said(caplog, "WARNING", "which said nothing") == ["; does it want TLS? Then give ssl=; reconnecting"]
