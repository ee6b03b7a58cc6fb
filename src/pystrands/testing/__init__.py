"""Test a backend against a real broker in the test's own process.

::

    async with testing.broker() as broker, testing.backend(broker, Chat):
        async with testing.connect(broker, "/lobby") as ada, testing.connect(broker, "/lobby") as bob:
            await ada.send("hello")
            await bob.expect("hello")

===================  ================================  ==========================================
to have              in async tests                    in plain and threaded tests
===================  ================================  ==========================================
a broker             ``async with broker()``           ``with broker_thread()``
a backend            ``async with backend(b, Chat)``   ``with backend_thread(b, Chat)``
a WebSocket client   ``async with connect(b, "/x")``   ``with connect_sync(b, "/x")``
another process      ``async with backend_process()``  ``with backend_process()``
a faulty link        ``async with LinkProxy(b)``       ``with LinkProxy(b)``
to wait              ``await until(condition)``        ``until_sync(condition)``
===================  ================================  ==========================================

pytest finds the fixtures ``pystrands_broker``, ``pystrands_backend``, ``pystrands_connect`` and ``pystrands_link`` by
itself. Every wait here is bounded: ``timeout`` is in seconds.
"""

from pystrands.testing.backends import backend, backend_thread
from pystrands.testing.brokers import BrokerThread, LocalBroker, broker, broker_thread
from pystrands.testing.client import Client, connect
from pystrands.testing.connection import Closed, Rejected
from pystrands.testing.link_proxy import LinkProxy
from pystrands.testing.processes import BackendProcess, backend_process
from pystrands.testing.sync_client import SyncClient, connect_sync
from pystrands.testing.waiting import until, until_sync

__all__ = [
    "BackendProcess",
    "BrokerThread",
    "Client",
    "Closed",
    "LinkProxy",
    "LocalBroker",
    "Rejected",
    "SyncClient",
    "backend",
    "backend_process",
    "backend_thread",
    "broker",
    "broker_thread",
    "connect",
    "connect_sync",
    "until",
    "until_sync",
]
