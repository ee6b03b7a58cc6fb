"""The broker: makes the parts, wires them together, and ends them in order."""

import asyncio
import logging
import math
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import TracebackType
from typing import Final, Self

from pystrands.broker.accounts import Accounts
from pystrands.broker.admission.handshake import Admission
from pystrands.broker.admission.origins import AllowedOrigins
from pystrands.broker.admission.policy import AdmissionPolicy
from pystrands.broker.admission.proxies import TrustedProxies
from pystrands.broker.backends.authenticator import LinkAuthenticator, read_tokens
from pystrands.broker.backends.lifecycle import SessionLifecycle
from pystrands.broker.backends.link import LinkShared, link_factory
from pystrands.broker.backends.registry import SessionRegistry
from pystrands.broker.backends.session import SessionShared
from pystrands.broker.budget import Budget, MemoryHolder, backend_bytes
from pystrands.broker.config import BrokerConfig
from pystrands.broker.counters import new_counters
from pystrands.broker.events.ending import EndingStreams
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.compressed_outbox import CompressedOutbox
from pystrands.broker.hub.delivery import Delivery
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.hub.taps import Taps
from pystrands.broker.meter import Meter
from pystrands.broker.net.listening import hosts, on_one_port
from pystrands.broker.net.ports import Ports
from pystrands.broker.net.tls import Tls, refuse_pipe
from pystrands.broker.net.tls_server import TlsServer
from pystrands.broker.ops.admin import AdminServer
from pystrands.broker.ops.status import StatusReport
from pystrands.broker.ops.timing import Parts, Timings, timed_parts
from pystrands.broker.routing.commands import Commands
from pystrands.broker.routing.handlers import command_table
from pystrands.broker.routing.router import Router
from pystrands.broker.ws.deflate import Compressor
from pystrands.broker.ws.expiry import Expiries
from pystrands.broker.ws.keepalive import KeepAlive, MessageWatch
from pystrands.broker.ws.throttle import IdleLimited, RateLimited
from pystrands.broker.ws.websocket import Receiver, WebSocket, WebSocketShared, WebSocketWatch
from pystrands.engine.base import Engine
from pystrands.engine.memory import MemoryEngine
from pystrands.errors import ConfigError
from pystrands.protocol import messages, wire
from pystrands.protocol.address import is_loopback
from pystrands.protocol.close_codes import SERVICE_RESTART
from pystrands.protocol.limits import MAX_ID, Limits, context_limit

__all__ = ["Broker"]

logger = logging.getLogger(__name__)

_BACKLOG: Final = 4096
_TLS_HANDSHAKES: Final = 1000
"""TLS handshakes in flight, at most: each takes about 50 KB."""
_POLL: Final = 0.02
"""Seconds between two steps of the stopping."""
_ANSWERED_WITHIN: Final = 0.2
"""Seconds for those to take their answer who asked for something else than a WebSocket."""
_WAVE: Final = 20
"""So many clients at least are closed in one step: that they come back together does no harm."""


class Broker:
    """A broker in this process, on the running event loop.

    ``async with Broker(BrokerConfig(ws_port=0, tcp_port=0)) as broker:`` starts and stops it; ``broker.ws_port`` and
    ``broker.tcp_port`` are the ports it got. ``pages`` maps paths to ``(content type, body)`` for plain GET requests;
    ``engine`` carries messages between brokers. A broker is started once; make a new one to start again.
    """

    def __init__(
        self,
        config: BrokerConfig | None = None,
        *,
        engine: Engine | None = None,
        pages: Mapping[str, tuple[str, bytes]] | None = None,
    ) -> None:
        self.config = config or BrokerConfig()
        self.broker_id = secrets.token_hex(16)
        """New for every broker; backends tell by it that their clients are gone."""
        self.counters = new_counters()
        """What happened how often: see the docs for the names."""
        self._engine: Engine = engine or MemoryEngine()
        self._pages = dict(pages or {})
        self._authenticator = LinkAuthenticator(clock=time.monotonic, counters=self.counters)
        self._stop: asyncio.Task[None] | None = None
        self._ports = Ports()
        self._servers: list[asyncio.Server | TlsServer] = []
        self._tls: Tls | None = None
        self._idle: IdleLimited | None = None
        self._backend_tls: Tls | None = None
        self._admin: AdminServer | None = None
        self._is_started = False
        self._engine_runs = False

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        await self.stop()

    @property
    def scheme(self) -> str:
        """What the URLs of clients begin with: ``ws``, or ``wss`` with a certificate."""
        return "wss" if self.config.tls_cert else "ws"

    @property
    def ws_port(self) -> int:
        """The port for WebSocket clients, once it has started."""
        return self._port(0)

    @property
    def tcp_port(self) -> int:
        """The port for backends, once it has started."""
        return self._port(1)

    @property
    def admin_port(self) -> int:
        """The port for metrics and health checks, once it has started; -1 where there is none."""
        return -1 if self._admin is None else self._admin.port

    def _port(self, index: int) -> int:
        if len(self._servers) <= index:
            raise RuntimeError("the broker has not been started")
        port: int = self._servers[index].sockets[0].getsockname()[1]
        return port

    @property
    def client_count(self) -> int:
        """How many WebSocket clients are connected."""
        return len(self._rooms)

    @property
    def backend_count(self) -> int:
        """How many backends are connected."""
        return len(self._backends)

    @property
    def queued_messages(self) -> int:
        """How many messages wait for a backend."""
        return len(self._queue)

    # --- files ---

    @property
    def has_files(self) -> bool:
        """Whether there is anything to :meth:`reload`."""
        return bool(self.config.backend_token_file or self.config.backend_tls_cert or self.config.tls_cert)

    def reload(self) -> None:
        """Read the files of certificates and tokens again, for connections from now on; those that there are live on.

        The log tells which, or that there are none. Raises ConfigError for the first that can't be used: that one stays
        as it was.
        """
        files = [name for name in ("tls_cert", "backend_tls_cert", "backend_token_file") if getattr(self.config, name)]
        if not files:
            logger.warning("there is nothing to read again: this broker has no files of certificates or tokens")
            return
        problem: ConfigError | None = None
        reads = [self._read_tokens_again, *(each.reload for each in (self._tls, self._backend_tls) if each is not None)]
        for read in reads:
            try:
                read()
            except ConfigError as error:
                problem = problem or error
        if problem is not None:
            raise problem
        names = ", ".join("--" + name.replace("_", "-") for name in files)
        logger.info("the files of certificates and tokens were read again: %s", names)

    def _read_files(self) -> None:
        config = self.config
        self._read_tokens()
        if config.tls_cert:
            self._tls = Tls(config.tls_cert, config.tls_key)
        if config.backend_tls_cert:
            self._backend_tls = Tls(
                config.backend_tls_cert, config.backend_tls_key, config.backend_tls_ca, prefix="backend_"
            )

    def _read_tokens(self) -> None:
        path = self.config.backend_token_file
        self._authenticator.take((*self.config.backend_token, *(read_tokens(path) if path else ())))

    def _read_tokens_again(self) -> None:
        refuse_pipe("backend_token_file", self.config.backend_token_file)
        self._read_tokens()

    # --- starting ---

    async def start(self) -> None:
        """Start the engine, and listen on its ports.

        Raises OSError when one can't be had, ConfigError when a file that the configuration names can't be used, and
        what the engine raises. After that, and after a cancelled start, nothing is left of it.
        """
        if self._is_started:
            raise RuntimeError("a broker is started once: make a new one")
        self._read_files()
        loop = asyncio.get_running_loop()
        self._wire(loop)
        self._is_started = True
        try:
            await self._start_parts(loop)
            await self._listen(loop)
        except BaseException:
            try:
                await self.stop()
            except Exception:
                logger.exception("what had started could not be stopped")  # what is raised is why it did not start
            raise
        config = self.config
        logger.info("listening for clients on %s://%s:%d", self.scheme, config.ws_host, self.ws_port)
        logger.info("listening for backends on %s:%d", config.tcp_host, self.tcp_port)
        if not config.backends_are_checked and not is_loopback(config.tcp_host):
            logger.warning(
                "whoever reaches %s:%d may be a backend: allow-insecure-backends is set", config.tcp_host, self.tcp_port
            )

    async def _start_parts(self, loop: asyncio.AbstractEventLoop) -> None:
        await self._engine.start(Delivery(self._rooms, self._compressed(), self.counters))
        self._engine_runs = True
        self._lifecycle.start()
        self._keepalive.start(loop)
        self._message_watch.start(loop)
        if self._idle is not None:
            self._idle.start()
        self._budget.start()

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the world in, which is last: whoever comes finds everything there."""
        config = self.config
        ws_hosts, tcp_hosts = hosts(config.ws_host), hosts(config.tcp_host)
        self._servers.append(
            await on_one_port(lambda port: self._listen_for_clients(loop, ws_hosts, port), config.ws_port)
        )
        self._servers.append(
            await on_one_port(lambda port: loop.create_server(self._make_link, tcp_hosts, port), config.tcp_port)
        )
        self._ports.ws, self._ports.tcp = self.ws_port, self.tcp_port
        if self._admin is not None:
            await self._admin.start(config.admin_host, config.admin_port)

    async def _listen_for_clients(
        self, loop: asyncio.AbstractEventLoop, hosts: Sequence[str], port: int
    ) -> asyncio.Server | TlsServer:
        config = self.config
        if self._tls is None:
            return await loop.create_server(self._admission.protocol_factory, hosts, port, backlog=_BACKLOG)
        server = TlsServer(
            self._admission.after_tls,
            self._tls,
            self._admission.policy,
            handshake_timeout=config.handshake_timeout,
            shutdown_timeout=config.close_timeout,
            max_handshakes=min(config.max_handshakes or _TLS_HANDSHAKES, _TLS_HANDSHAKES),
            counters=self.counters,
        )
        await server.listen(hosts, port, _BACKLOG)
        return server

    def _wire(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self.config
        self._meter = Meter()
        timings = Timings()
        parts = timed_parts(timings) if config.admin_port >= 0 else Parts()
        self._wire_router(loop, parts)
        self._wire_backends(loop)
        self._wire_clients(loop, parts)
        self._wire_budget(loop)
        if config.admin_port >= 0:
            self._admin = self._make_admin(loop, timings)

    def _wire_budget(self, loop: asyncio.AbstractEventLoop) -> None:
        shared = self._shared
        accounts = Accounts(
            sockets=lambda: [*self._rooms.sockets, *shared.leaving],
            closed=lambda: shared.lingering,
            handshakes=lambda: self._admission.handshakes,
            sessions=lambda: self._backends.sessions,
            tools=lambda: self._lifecycle.tools,
            orphans=lambda: self._assignments.orphans,
            give_up_client=self._router.give_up,
            give_up_session=self._lifecycle.give_up,
        )
        self._budget = Budget(
            loop,
            self.config.memory_budget,
            self._meter,
            holders=self._holders,
            others=lambda: self._queue.size + self._assignments.ending.bytes,
            accounts=accounts.take,
            trim=self._trim,
            counters=self.counters,
        )

    def _wire_router(self, loop: asyncio.AbstractEventLoop, parts: Parts) -> None:
        config = self.config
        self._outbox = parts.outbox(
            loop,
            policy=config.slow_client_policy,
            limit=config.client_buffer,
            slow_time=config.slow_client_time,
            counters=self.counters,
            meter=self._meter,
        )
        self._rooms = Rooms(
            self._outbox,
            self._engine.subscribe,
            self._engine.unsubscribe,
            Taps(self.counters),
            Limits(self.config.max_rooms_per_client, context_limit(self.config.max_message_size)),
        )
        self._queue = EventQueue(config.queue_size, config.queue_bytes, config.queue_policy, self.counters, self._meter)
        self._backends = SessionRegistry()
        self._assignments = parts.assignments(
            self._queue,
            self._backends.choose_owner,
            self.counters,
            backend_bytes(config.memory_budget),
            EndingStreams(config.memory_budget // 4 or sys.maxsize),
        )
        status = StatusReport(self.broker_id, self._rooms, self._backends, self._queue, self.counters, loop.time)
        self._session_shared = SessionShared(loop=loop, counters=self.counters, expiries=Expiries(loop, self.counters))
        self._commands = Commands(self._engine, self._rooms, self.counters, status.make, self._meter)
        self._router = Router(
            self._rooms,
            self._queue,
            self._assignments,
            self._backends,
            self._session_shared,
            hold_time=config.hold_time,
            answer_timeout=config.answer_timeout,
        )

    def _wire_backends(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self.config
        self._lifecycle = SessionLifecycle(
            self._backends,
            self._router,
            command_table(self._commands, self._router),
            self._session_shared,
            resume_window=config.resume_window,
            heartbeat=config.heartbeat_interval,
        )
        self._link_shared = LinkShared(
            loop=loop,
            owner=self._lifecycle,
            authenticator=self._authenticator,
            tls=self._backend_tls,
            hello=self._hello(),
            meter=self._meter,
            max_line=messages.line_limit(config.max_message_size),
            link_buffer=config.link_buffer,
            counters=self.counters,
            ports=self._ports,
        )
        self._make_link = link_factory(self._link_shared)

    def _wire_clients(self, loop: asyncio.AbstractEventLoop, parts: Parts) -> None:
        config = self.config
        self._keepalive = KeepAlive(
            self._outbox, interval=config.ping_interval, missed=config.ping_missed, counters=self.counters
        )
        self._message_watch = MessageWatch(config.message_timeout, self.counters)
        receiver, watches = self._restrain(loop, self._router, [self._keepalive, self._message_watch])
        self._shared = WebSocketShared(
            loop=loop,
            receiver=receiver,
            outbox=self._outbox,
            watches=watches,
            meter=self._meter,
            counters=self.counters,
            max_message_size=config.max_message_size,
            send_limit=config.client_buffer,
            close_timeout=config.close_timeout,
        )
        self._admission = Admission(
            self._router.connection_requests,
            self._shared,
            max_head_size=config.max_head_size,
            handshake_timeout=config.handshake_timeout,
            pages=self._pages,
            policy=AdmissionPolicy(
                AllowedOrigins(config.allowed_origins, local=is_loopback(config.ws_host)),
                TrustedProxies(config.trusted_proxies) if config.trusted_proxies else None,
                max_handshakes=config.max_handshakes,
                max_clients=config.max_connections,
                max_per_address=config.max_connections_per_address,
                counters=self.counters,
            ),
            compression=config.compression,
            handshake=parts.handshake,
            ports=self._ports,
        )

    def _restrain(
        self, loop: asyncio.AbstractEventLoop, receiver: Receiver, watches: list[WebSocketWatch]
    ) -> tuple[Receiver, list[WebSocketWatch]]:
        """Put before a receiver what the options ask for; what is off is not there and costs no message anything."""
        config = self.config
        if config.client_message_rate or config.client_byte_rate:
            receiver = RateLimited(
                receiver,
                loop,
                messages=config.client_message_rate,
                size=config.client_byte_rate,
                largest=config.max_message_size,
                policy=config.client_rate_policy,
                counters=self.counters,
            )
        if config.idle_timeout:
            receiver = self._idle = IdleLimited(receiver, loop, timeout=config.idle_timeout, counters=self.counters)
            watches.append(self._idle)
        return receiver, watches

    def _trim(self, count: int, size: int) -> None:
        """Replace at most so many parsers' buffers that have grown and hold nothing, until ``size`` bytes are free."""
        fat = [ws for ws in self._shared.fat if not ws.held]
        if len(fat) > count:
            del fat[count:]
        else:
            fat.sort(key=attrgetter("grown"), reverse=True)
        for ws in fat:
            if size <= 0:
                break
            size -= ws.grown
            ws.trim()

    def _holders(self) -> tuple[MemoryHolder, ...]:
        """Return all that bytes are kept for: on the way in, on the way out, and to and from backends."""
        return (
            *self._rooms.sockets,
            *self._rooms.clients,
            *(self._shared.lingering | self._shared.leaving),
            *self._admission.handshakes,
            *self._backends.sessions,
            *self._lifecycle.tools,
        )

    def _make_admin(self, loop: asyncio.AbstractEventLoop, timings: Timings) -> AdminServer:
        from pystrands.broker.ops.prometheus import CONTENT_TYPE, Exposition  # noqa: PLC0415 - its library is an extra

        exposition = Exposition(
            self.counters,
            {
                "clients": lambda: len(self._rooms),
                "rooms": lambda: self._rooms.room_count,
                "backends": lambda: len(self._backends),
                "ready": self._admission.is_ready,
                "handshakes": lambda: len(self._admission.handshakes),
                "queue_messages": lambda: len(self._queue),
                "queue_bytes": lambda: self._queue.size,
                "events_in_flight": lambda: sum(len(session.unfinished) for session in self._backends.sessions),
                "waiting_bytes": lambda: self._budget.total,
            },
            {
                "handshake_seconds": timings.handshake,
                "handling_seconds": timings.handling,
                "flush_seconds": timings.flush,
            },
        )
        return AdminServer(loop, self._admission.is_ready, exposition.render, CONTENT_TYPE, self._ports)

    def _compressed(self) -> Outbox | CompressedOutbox:
        """Return the way that messages go out."""
        config = self.config
        if not config.compression:
            return self._outbox
        compressor = Compressor(config.compression_level, config.compression_threshold, self.counters)
        return CompressedOutbox(self._outbox, compressor)

    def _hello(self) -> bytes:
        return wire.hello(
            messages.HelloParams(
                protocol=messages.PROTOCOL,
                binary=True,
                broker_id=self.broker_id,
                max_line=messages.line_limit(self.config.max_message_size),
                max_message_size=self.config.max_message_size,
                max_id=MAX_ID,
                max_context=context_limit(self.config.max_message_size),
                heartbeat=self.config.heartbeat_interval,
                resume_window=self.config.resume_window,
            )
        )

    # --- stopping ---

    async def stop(self) -> None:
        """Stop in order: let nobody in, close the clients with 1012 over the drain time, then the links.

        Backends have ``close_timeout`` to tell their handlers of the clients' end, and to send what these send.
        While clients are closed, those that come get a 503, and who asks ``/readyz`` hears no; the admin port lives
        until all else is over.
        May be called more than once; each call returns when it is done. Cancelling a call does not cancel the stopping.
        """
        if not self._is_started:
            return
        if self._stop is None:
            self._stop = asyncio.get_running_loop().create_task(self._stop_in_order())
        await asyncio.shield(self._stop)

    async def _stop_in_order(self) -> None:
        self._router.connection_requests.stop()
        self._admission.close()
        for server in self._servers[1:]:
            server.close()
        sockets = list(self._rooms.sockets)
        lingering = list(self._shared.lingering)
        await self._close_clients(sockets)
        for server in self._servers[:1]:
            server.close()
        self._authenticator.close()
        await self._lifecycle.stop(self.config.close_timeout)
        if self._engine_runs:
            try:
                await self._engine.stop()
            except Exception:
                logger.exception("the engine could not be stopped in order")
        self._keepalive.stop()
        self._message_watch.stop()
        if self._idle is not None:
            self._idle.stop()
        self._budget.stop()
        await self._wait_for([*sockets, *lingering])
        self._shared.hangups.close()
        for server in self._servers:
            await server.wait_closed()
        if self._admin is not None:
            await self._admin.close()
        logger.info("stopped")

    async def _close_clients(self, sockets: Sequence[WebSocket]) -> None:
        """Close them in waves, so that they don't all come back in the same instant."""
        if not sockets:
            return
        logger.info("closing %d clients over at most %g s", len(sockets), self.config.drain_time)
        waves = max(1, round(self.config.drain_time / _POLL))
        size = max(_WAVE, math.ceil(len(sockets) / waves))
        for first in range(0, len(sockets), size):
            if first:
                await asyncio.sleep(_POLL)
            for ws in sockets[first : first + size]:
                ws.close(SERVICE_RESTART, "the server is restarting")

    async def _wait_for(self, sockets: Sequence[WebSocket]) -> None:
        """Wait until clients have taken their close frames, and others their 503; the close time-out bounds it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        end, end_of_answers = now + self.config.close_timeout, now + _ANSWERED_WITHIN
        while True:
            now = loop.time()
            if now >= end or not (
                any(ws.transport for ws in sockets) or (len(self._admission) and now < end_of_answers)
            ):
                break
            await asyncio.sleep(_POLL)
        for ws in sockets:
            ws.abort()
