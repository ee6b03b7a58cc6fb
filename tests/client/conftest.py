import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from pystrands.client.handlers.dispatch import EAGER
from tests.client.fake_broker import BrokerThread, FakeBroker

if sys.platform != "win32":
    import uvloop

    LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
else:
    LOOPS = [asyncio.new_event_loop]

collect_ignore = [] if EAGER else ["handlers/test_dispatch_at_once.py"]


def pytest_asyncio_loop_factories(config, item):
    return {factory.__module__.split(".")[0]: factory for factory in LOOPS}


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    async with FakeBroker() as fake:
        yield fake


@pytest.fixture
async def old_broker() -> AsyncIterator[FakeBroker]:
    """A broker that says no hello."""
    async with FakeBroker(hello=False) as fake:
        yield fake


@pytest.fixture
def broker_thread() -> Iterator[BrokerThread]:
    with BrokerThread() as fake:
        yield fake
