"""Brokers in the test's own process, on free ports."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from pystrands.engine.base import Engine
from pystrands.testing.threads import BackgroundLoop

__all__ = ["BrokerThread", "LocalBroker", "broker", "broker_thread"]

T = TypeVar("T")

HOST: Final = "127.0.0.1"
_DEFAULTS: Final[dict[str, Any]] = {"ws_host": HOST, "tcp_host": HOST, "ws_port": 0, "tcp_port": 0, "drain_time": 0.0,
                    "close_timeout": 1.0}  # fmt: skip


class LocalBroker(Broker):
    """A broker on free ports that does not take its time to stop.

    ``options`` are the fields of :class:`pystrands.broker.config.BrokerConfig`: ``LocalBroker(hold_time=1.0)``.
    ``engine``: what carries messages to other brokers, where it is not what the options name.
    """

    def __init__(self, *, engine: Engine | None = None, **options: Any) -> None:
        super().__init__(BrokerConfig(**(_DEFAULTS | options)), engine=engine)

    def ws_url(self, path: str = "/") -> str:
        """Return the URL at which WebSocket clients reach it.

        ``path``: where in the broker, with a slash at its beginning; it may have a query.
        """
        return f"{self.scheme}://{HOST}:{self.ws_port}{path}"


@asynccontextmanager
async def broker(**options: Any) -> AsyncIterator[LocalBroker]:
    """Run a broker on the running event loop: ``async with testing.broker(queue_size=10) as broker:``.

    ``options``: the fields of :class:`pystrands.broker.config.BrokerConfig`; without them it takes free ports, and does
    not take its time to stop. ``engine``, an Engine of your own, is one more. Raises ConfigError on a value that can't
    work, OSError when it can't listen.

    It has ``ws_url("/room")``, ``ws_port`` and ``tcp_port``, and tells of itself: ``client_count``, ``backend_count``,
    ``queued_messages`` and ``counters``. ``await broker.stop()`` stops it as SIGTERM would.
    """
    async with LocalBroker(**options) as running:
        yield running


class BrokerThread:
    """A broker on a thread of its own, for tests without an event loop; also good for those that have one.

    ``options`` are those of :func:`broker`. A context manager; or call :meth:`start` and :meth:`stop`, which may be
    repeated: it keeps its ports, so that backends and clients find it again.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._thread: BackgroundLoop | None = None
        self._broker: LocalBroker | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start it, and block until it listens. Raises OSError when it can't, RuntimeError when it runs already."""
        if self._thread is not None:
            raise RuntimeError("the broker runs already")
        thread = self._thread = BackgroundLoop("pystrands-broker")
        try:
            self._broker = thread.call(lambda: LocalBroker(**self._options))
            thread.run(self._broker.start)
        except BaseException:
            self._thread = None
            thread.stop()
            raise
        self._options |= {"ws_port": self.ws_port, "tcp_port": self.tcp_port}

    def stop(self) -> None:
        """Stop it as SIGTERM would, and block until that is done; does nothing when it does not run."""
        thread, self._thread = self._thread, None
        if thread is not None and self._broker is not None:
            try:
                thread.run(self._broker.stop)
            finally:
                thread.stop()

    def ask(self, function: Callable[[LocalBroker], T]) -> T:
        """Call ``function(broker)`` on the broker's thread, and return what it returns.

        ``function``: takes the :class:`LocalBroker`; what it raises is raised here. Raises RuntimeError when the broker
        does not run.
        """
        if self._thread is None or self._broker is None:
            raise RuntimeError("the broker does not run")
        return self._thread.call(function, self._broker)

    def ws_url(self, path: str = "/") -> str:
        """Return the URL at which WebSocket clients reach it.

        ``path``: where in the broker, with a slash at its beginning; it may have a query.
        """
        scheme = "wss" if self._options.get("tls_cert") else "ws"
        return f"{scheme}://{HOST}:{self.ws_port}{path}"

    @property
    def ws_port(self) -> int:
        """The port for WebSocket clients; it stays the same when it is stopped."""
        return self._port("ws_port")

    @property
    def tcp_port(self) -> int:
        """The port for backends; it stays the same when it is stopped."""
        return self._port("tcp_port")

    def _port(self, name: str) -> int:
        known = self._options.get(name)
        if known:
            return int(known)
        return self.ask(lambda broker: int(getattr(broker, name)))

    @property
    def client_count(self) -> int:
        """How many WebSocket clients are connected."""
        return self.ask(lambda broker: broker.client_count)

    @property
    def backend_count(self) -> int:
        """How many backends are connected."""
        return self.ask(lambda broker: broker.backend_count)

    @property
    def queued_messages(self) -> int:
        """How many messages wait for a backend."""
        return self.ask(lambda broker: broker.queued_messages)

    @property
    def counters(self) -> Counter[str]:
        """What happened how often, until now."""
        return self.ask(lambda broker: +Counter(broker.counters))


@contextmanager
def broker_thread(**options: Any) -> Iterator[BrokerThread]:
    """Run a broker on a thread of its own: ``with testing.broker_thread() as broker:``.

    ``options``: the fields of :class:`pystrands.broker.config.BrokerConfig`; without them it takes free ports, and does
    not take its time to stop. Raises ConfigError on a value that can't work, OSError when it can't listen.
    """
    with BrokerThread(**options) as running:
        yield running
