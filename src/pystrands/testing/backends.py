"""Backends that are connected for as long as a test needs them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, Protocol, TypeVar, overload

from pystrands import AsyncPyStrandsClient, PyStrands, PyStrandsClient
from pystrands.errors import Refused
from pystrands.testing import threads
from pystrands.testing.waiting import until, until_sync

__all__ = ["Arrival", "HasBackends", "backend", "backend_thread"]

AnyClient = AsyncPyStrandsClient | PyStrandsClient | PyStrands
B = TypeVar("B", bound=AnyClient)

HOST: Final = "127.0.0.1"
CONNECT_TIMEOUT: Final = 10.0
RECONNECT_DELAY: Final = 0.02


class HasBackends(Protocol):
    """What backends can connect to: any broker of this package, and a :class:`pystrands.testing.LinkProxy`."""

    @property
    def tcp_port(self) -> int:
        """The port for backends."""
        ...

    @property
    def backend_count(self) -> int:
        """How many backends are connected."""
        ...


class Arrival:
    """Whether the broker has one backend more than it had."""

    def __init__(self, broker: HasBackends) -> None:
        self._broker = broker
        self._lowest = broker.backend_count

    def __call__(self) -> bool:
        """Tell whether the backend is there; others may have left meanwhile."""
        count = self._broker.backend_count
        self._lowest = min(self._lowest, count)
        return count > self._lowest

    def __repr__(self) -> str:
        return f"the broker has more than {self._lowest} backends"


def _arrival(broker: HasBackends, client: AnyClient) -> Callable[[], bool]:
    """Return what tells whether the broker has this backend."""
    if client.send_only:  # a broker does not count these, and they are connected only when it has said so
        return lambda: client.connected
    return Arrival(broker)


@overload
def backend(broker: HasBackends, /, **options: Any) -> AbstractAsyncContextManager[AsyncPyStrandsClient]: ...
@overload
def backend(
    broker: HasBackends, /, kind: Callable[..., B], *args: Any, **options: Any
) -> AbstractAsyncContextManager[B]: ...
@overload
def backend(broker: HasBackends, /, kind: B) -> AbstractAsyncContextManager[B]: ...
def backend(
    broker: HasBackends, /, kind: Any = AsyncPyStrandsClient, *args: Any, **options: Any
) -> AbstractAsyncContextManager[Any]:
    """Connect a backend: ``async with testing.backend(broker, Chat) as chat:``; it is disconnected at the end.

    ``broker``: any broker of this package, or a :class:`LinkProxy`. ``kind``: a subclass of AsyncPyStrandsClient,
    PyStrandsClient or PyStrands, or a function that gives one of these, which is called with ``args`` and ``options``;
    or an instance, with its own attributes but for ``host``, ``port`` and ``reconnect_delay``, which it gets back in
    the end. Without a ``kind`` it accepts everybody, and the test itself can send through it.

    It reconnects after 20 ms unless ``options`` have a ``reconnect_delay``. The block begins when the broker has the
    backend; AssertionError when that takes more than 10 s. Handlers that run at the end have 5 s to finish.
    """
    return _backend(broker, kind, args, options)


@contextlib.asynccontextmanager
async def _backend(
    broker: HasBackends, kind: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> AsyncIterator[Any]:
    with _prepared(kind, args, options, broker) as client:
        arrived = _arrival(broker, client)
        running: asyncio.Task[None] | None = None
        try:
            if isinstance(client, PyStrands):
                running = asyncio.create_task(client.run_async())
                await until(lambda: (arrived() and client.connected) or running.done(), CONNECT_TIMEOUT)
                connected = not running.done()
            elif isinstance(client, PyStrandsClient):
                connected = await asyncio.to_thread(client.connect)
            else:
                connected = await client.connect()
            if not connected:
                raise AssertionError(_no_connection(client)) from (None if running is None else running.exception())
            if running is None:
                await until(arrived, CONNECT_TIMEOUT)
            yield client
        finally:
            if isinstance(client, PyStrandsClient):
                await asyncio.to_thread(client.disconnect)
            else:
                await client.disconnect()
            if running is not None:
                with contextlib.suppress(Refused):  # it was the reason, or it is logged
                    await running


@overload
def backend_thread(broker: HasBackends, /, **options: Any) -> AbstractContextManager[PyStrandsClient]: ...
@overload
def backend_thread(
    broker: HasBackends, /, kind: Callable[..., B], *args: Any, **options: Any
) -> AbstractContextManager[B]: ...
@overload
def backend_thread(broker: HasBackends, /, kind: B) -> AbstractContextManager[B]: ...
def backend_thread(
    broker: HasBackends, /, kind: Any = PyStrandsClient, *args: Any, **options: Any
) -> AbstractContextManager[Any]:
    """Connect a backend from a test without an event loop: ``with testing.backend_thread(broker, Chat) as chat:``.

    ``broker``: any broker of this package, or a :class:`LinkProxy`. ``kind``: a subclass of AsyncPyStrandsClient,
    PyStrandsClient or PyStrands, or a function that gives one of these, which is called with ``args`` and ``options``;
    or an instance, with its own attributes but for ``host``, ``port`` and ``reconnect_delay``, which it gets back in
    the end. Without a ``kind`` it accepts everybody, and the test itself can send through it.

    It reconnects after 20 ms unless ``options`` have a ``reconnect_delay``. The block begins when the broker has the
    backend; AssertionError when that takes more than 10 s. Handlers that run at the end have 5 s to finish. The
    handlers of a PyStrandsClient run on its own threads, those of the others on an event loop in the background.
    """
    return _backend_thread(broker, kind, args, options)


@contextlib.contextmanager
def _backend_thread(broker: HasBackends, kind: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Any]:
    with _prepared(kind, args, options, broker) as client:
        if isinstance(client, PyStrandsClient):
            arrived = _arrival(broker, client)
            try:
                if not client.connect():
                    raise AssertionError(_no_connection(client))
                until_sync(arrived, CONNECT_TIMEOUT)
                yield client
            finally:
                client.disconnect()
            return
        thread = threads.borrow()
        try:
            stack = contextlib.AsyncExitStack()
            # Without options: the client is made, and has its address and its delay.
            thread.run(stack.enter_async_context, _backend(broker, client, (), {}))
            try:
                yield client
            finally:
                thread.run(stack.aclose)
        finally:
            threads.give_back()


@contextlib.contextmanager
def _prepared(kind: Any, args: tuple[Any, ...], options: dict[str, Any], broker: HasBackends) -> Iterator[AnyClient]:
    """Give a client that will find the broker; an instance gets its attributes back in the end."""
    is_instance = isinstance(kind, AnyClient)
    if is_instance and (args or options):
        given = ", ".join([*map(repr, args), *options])
        raise TypeError(f"options are for a class; set them on the instance: {given}")
    if not is_instance and not callable(kind):
        raise TypeError(f"a backend is a client or its class, not {type(kind).__name__}")
    client: AnyClient = kind if is_instance else kind(*args, **options)
    if client.connected:
        raise RuntimeError("this backend is connected already; disconnect() it first")
    before = client.host, client.port, client.reconnect_delay
    client.host, client.port = HOST, broker.tcp_port
    if "reconnect_delay" not in options:
        client.reconnect_delay = min(client.reconnect_delay, RECONNECT_DELAY)
    try:
        yield client
    finally:
        client.host, client.port, client.reconnect_delay = before


def _no_connection(client: AnyClient) -> str:
    return f"the backend {type(client).__name__} could not connect to {client.host}:{client.port}"
