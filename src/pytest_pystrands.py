"""The fixtures of PyStrands for pytest, which finds them by itself.

pytest imports this module at every start, before coverage is measured. So it lives outside the package, and imports
nothing of it until a fixture is used.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pystrands.testing import BrokerThread, LinkProxy, SyncClient

__all__ = ["pystrands_backend", "pystrands_broker", "pystrands_connect", "pystrands_link", "pystrands_options"]


@pytest.fixture
def pystrands_options() -> dict[str, Any]:
    """The broker's options for ``pystrands_broker``: override it to return others, e.g. ``{"hold_time": 1.0}``."""
    return {}


@pytest.fixture
def pystrands_broker(pystrands_options: dict[str, Any]) -> "Iterator[BrokerThread]":
    """A broker on free ports, on a thread of its own: ``ws_url(path)``, ``ws_port``, ``tcp_port``, ``client_count``."""
    from pystrands import testing  # noqa: PLC0415 - see the module

    with testing.broker_thread(**pystrands_options) as broker:
        yield broker


@pytest.fixture
def pystrands_backend(pystrands_broker: "BrokerThread") -> Iterator[Callable[..., Any]]:
    """A function that connects a backend, a client's class or an instance, until the test has ended.

    For example ``chat = pystrands_backend(Chat)``, or ``pystrands_backend(Chat, "a database", name="chat")`` with
    arguments for the class. Handlers run on threads: those of async backends on an event loop
    in the background. ``on=pystrands_link`` connects it through that link; other arguments go to the class.
    """
    from pystrands import testing  # noqa: PLC0415 - see the module

    with contextlib.ExitStack() as stack:

        def connect(*kind: Any, on: Any = None, **options: Any) -> Any:
            """Connect a class, made with the arguments after it, or an instance."""
            return stack.enter_context(testing.backend_thread(on or pystrands_broker, *kind, **options))

        yield connect


@pytest.fixture
def pystrands_connect(pystrands_broker: "BrokerThread") -> "Iterator[Callable[..., SyncClient]]":
    """A function that connects a WebSocket client to a path, and gives it when it is in; it is closed in the end.

    For example ``client = pystrands_connect("/room")``. Its methods block, too: ``send``, ``expect``, ``close``. Takes
    what ``pystrands.testing.connect_sync`` takes. In an async test use
    ``async with pystrands.testing.connect(pystrands_broker, "/room") as client:``.
    """
    from pystrands import testing  # noqa: PLC0415 - see the module

    with contextlib.ExitStack() as stack:

        def connect(path: str = "/", **options: Any) -> "SyncClient":
            client = testing.connect_sync(pystrands_broker, path, **options)
            stack.callback(client.close)
            return client

        yield connect


@pytest.fixture
def pystrands_link(pystrands_broker: "BrokerThread") -> "Iterator[LinkProxy]":
    """A link to the broker that fails on demand: ``pystrands_backend(Chat, on=pystrands_link)``, then ``.cut()``.

    Also ``cut_after(bytes)``, ``pause()`` and ``resume()``, ``refuse()`` and ``accept()``.
    """
    from pystrands import testing  # noqa: PLC0415 - see the module

    with testing.LinkProxy(pystrands_broker) as link:
        yield link
