"""Signals that come when a server, or one of its workers, is at its end anyway."""

import asyncio
import contextlib
import signal
import socket
import sys

import pytest

from pystrands.broker.net.listening import GivenSockets
from pystrands.cli.signals import stop_event
from pystrands.cli.workers.place import WorkerPlace

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


@pytest.fixture
def handlers():
    """What pytest does on signals is as it was, afterwards."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_after_the_loop_of_a_server_has_ended_raises_nothing():
    async def serve():
        return stop_event(with_hangup=False)

    stop = asyncio.run(serve())
    signal.raise_signal(signal.SIGTERM)
    assert not stop.is_set()


@pytest.mark.usefixtures("handlers")
def test_a_signal_after_the_loop_of_a_worker_has_ended_raises_nothing():
    async def work(place):
        with place.stop_event() as stop:
            return stop

    channel, parents = socket.socketpair()
    with contextlib.closing(channel), contextlib.closing(parents):
        place = WorkerPlace(number=1, sockets=GivenSockets(ws=[], tcp=[]), channel=channel)
        stop = asyncio.run(work(place))
        signal.raise_signal(signal.SIGTERM)
        assert not stop.is_set()
