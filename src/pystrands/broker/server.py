"""The broker: starts its parts, reads files again, and ends the parts in order."""

import asyncio
import logging
import math
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from pystrands.broker.backends.authenticator import LinkAuthenticator, read_tokens
from pystrands.broker.bounds import BOUNDS
from pystrands.broker.config import BrokerConfig
from pystrands.broker.counters import new_counters
from pystrands.broker.net.listening import GivenSockets, ServerGroup, hosts, listen_on, on_one_port
from pystrands.broker.net.ports import Ports
from pystrands.broker.net.tls import Tls, refuse_pipe
from pystrands.broker.net.tls_server import TlsServer
from pystrands.broker.ops.admin import AdminServer
from pystrands.broker.wiring import BrokerParts, Given, make_admin, make_budget, make_engine, make_parts
from pystrands.broker.ws.websocket import WebSocket
from pystrands.engine.base import Engine
from pystrands.engine.cluster import Cluster
from pystrands.errors import ConfigError
from pystrands.protocol.address import is_loopback, is_wildcard
from pystrands.protocol.close_codes import SERVICE_RESTART

__all__ = ["Broker"]

logger = logging.getLogger(__name__)

_BACKLOG: Final = 4096
_POLL: Final = 0.02
"""Seconds between two steps of the stopping."""
_ANSWERED_WITHIN: Final = 0.2
"""Seconds for those to take their answer who asked for something else than a WebSocket."""
_HANDSHAKES_END_WITHIN: Final = 1.0
"""Seconds for those who were on their way in when this broker leaves its ports to another one."""
_WAVE: Final = 20
"""So many clients at least are closed in one step: that they come back together does no harm."""


class Broker:
    """A broker in this process, on the running event loop.

    ``async with Broker(BrokerConfig(ws_port=0, tcp_port=0)) as broker:`` starts and stops it; ``broker.ws_port`` and
    ``broker.tcp_port`` are the ports it got. ``config`` has its options; without it all have their defaults. ``pages``
    maps paths to ``(content type, body)`` for plain GET requests; ``engine`` carries messages between brokers;
    ``sockets`` are what it listens on where another process made that. A broker is started once; make a new one to
    start again.
    """

    def __init__(
        self,
        config: BrokerConfig | None = None,
        *,
        engine: Engine | None = None,
        pages: Mapping[str, tuple[str, bytes]] | None = None,
        sockets: GivenSockets | None = None,
    ) -> None:
        self.config = config or BrokerConfig()
        self.bounds = BOUNDS
        """What no option says: not the users', and read at the start."""
        self.broker_id = secrets.token_hex(16)
        """New for every broker; backends tell by it that their clients are gone."""
        self.counters = new_counters()
        """What happened how often: see the docs for the names."""
        self._engine: Engine | None = engine
        self._pages = dict(pages or {})
        self._given = sockets
        self._authenticator = LinkAuthenticator(clock=time.monotonic, counters=self.counters)
        self._stop: asyncio.Task[None] | None = None
        self._ports = Ports()
        self._servers: list[asyncio.Server | ServerGroup | TlsServer] = []
        self._tls: Tls | None = None
        self._backend_tls: Tls | None = None
        self._made: BrokerParts | None = None
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

    @property
    def _parts(self) -> BrokerParts:
        if self._made is None:
            raise RuntimeError("the broker has not been started")
        return self._made

    def _port(self, index: int) -> int:
        if len(self._servers) <= index:
            raise RuntimeError("the broker has not been started")
        port: int = self._servers[index].sockets[0].getsockname()[1]
        return port

    @property
    def client_count(self) -> int:
        """How many WebSocket clients are connected."""
        return len(self._parts.rooms)

    @property
    def backend_count(self) -> int:
        """How many backends are connected."""
        return len(self._parts.sessions)

    @property
    def queued_messages(self) -> int:
        """How many messages wait for a backend."""
        return len(self._parts.queue)

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
                config.backend_tls_cert,
                config.backend_tls_key,
                config.backend_tls_ca,
                prefix="backend_",
                handshake_timeout=self.bounds.link_tls_handshake,
            )

    def _read_tokens(self) -> None:
        path = self.config.backend_token_file
        self._authenticator.take((*self.config.backend_token, *(read_tokens(path) if path else ())))

    def _read_tokens_again(self) -> None:
        refuse_pipe("backend_token_file", self.config.backend_token_file)
        self._read_tokens()

    # --- starting ---

    async def start(self) -> None:
        """Start the engine, and listen on its ports; it waits for other brokers where the engine does.

        The admin port is the first where there may be others, so that it tells of that, and else the last.

        Raises OSError when one can't be had, ConfigError when a file that the configuration names can't be used, and
        what the engine raises. After that, and after a cancelled start, nothing is left of it.
        """
        if self._is_started:
            raise RuntimeError("a broker is started once: make a new one")
        self._read_files()
        loop = asyncio.get_running_loop()
        engine = self._wire(loop)
        self._is_started = True
        try:
            await self._start_parts(loop, engine)
            await self._listen(loop)
            self._join_others()
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

    async def _start_parts(self, loop: asyncio.AbstractEventLoop, engine: Engine) -> None:
        cluster, node = engine.cluster, self._parts.node
        if cluster is not None and node is not None:
            await self._start_admin()
            cluster.join(node)
        await engine.start(self._parts.delivery)
        self._engine_runs = True
        if cluster is not None:
            self._parts.lifecycle.peers_changed(cluster.peers)  # before the first hello
        self._parts.lifecycle.start()
        self._parts.keepalive.start(loop)
        self._parts.heartbeats.start(loop)
        self._parts.message_watch.start(loop)
        for idle in self._parts.idle:
            idle.start()
        self._budget.start()

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the world in, which is last: whoever comes finds everything there."""
        config = self.config
        if self._given is not None:
            self._servers.append(await self._listen_for_clients_on(self._given.ws))
            self._servers.append(await listen_on(self._given.tcp, self._parts.make_link))
        else:
            ws_hosts, tcp_hosts = hosts(config.ws_host), hosts(config.tcp_host)
            self._servers.append(
                await on_one_port(lambda port: self._listen_for_clients(loop, ws_hosts, port), config.ws_port)
            )
            self._servers.append(
                await on_one_port(
                    lambda port: loop.create_server(self._parts.make_link, tcp_hosts, port), config.tcp_port
                )
            )
        self._ports.ws, self._ports.tcp = self.ws_port, self.tcp_port
        if self._cluster is None:
            await self._start_admin()

    async def _start_admin(self) -> None:
        if self._admin is not None:
            config, given = self.config, self._given
            await self._admin.start(config.admin_host, config.admin_port, () if given is None else given.admin)

    def _join_others(self) -> None:
        """Tell other brokers, and backends, where this one is reached, now that it is."""
        cluster = self._cluster
        if cluster is not None:
            self._ports.advertised = address = self._advertised(cluster)
            self._parts.lifecycle.advertised(address)
            cluster.advertise(address)
            logger.info("other brokers' backends are told to link to %s (--advertise)", address)
            if is_loopback(self.config.tcp_host) and cluster.local_host and not is_loopback(cluster.local_host):
                logger.warning(
                    "NATS is on another machine, and backends there can't reach this broker: it listens for them on %s "
                    "only (--tcp-host)",
                    self.config.tcp_host,
                )

    def _advertised(self, cluster: Cluster) -> str:
        """Return the address of the port for backends; with no host where all of them are on this machine."""
        config = self.config
        if config.advertise:
            return config.advertise
        host = config.tcp_host
        if is_wildcard(host):
            host = cluster.local_host
            if is_loopback(host):
                host = ""
        return f"[{host}]:{self.tcp_port}" if ":" in host else f"{host}:{self.tcp_port}"

    async def _listen_for_clients(
        self, loop: asyncio.AbstractEventLoop, hosts: Sequence[str], port: int
    ) -> asyncio.Server | TlsServer:
        if self._tls is None:
            return await loop.create_server(self._parts.admission.protocol_factory, hosts, port, backlog=_BACKLOG)
        server = self._tls_server(self._tls)
        await server.listen(hosts, port, _BACKLOG)
        return server

    async def _listen_for_clients_on(self, sockets: Sequence[socket.socket]) -> ServerGroup | TlsServer:
        if self._tls is None:
            return await listen_on(sockets, self._parts.admission.protocol_factory, _BACKLOG)
        server = self._tls_server(self._tls)
        server.listen_on(sockets, _BACKLOG)
        return server

    def _tls_server(self, tls: Tls) -> TlsServer:
        config, bounds = self.config, self.bounds
        return TlsServer(
            self._parts.admission.after_tls,
            tls,
            self._parts.admission.policy,
            handshake_timeout=config.handshake_timeout,
            shutdown_timeout=config.close_timeout,
            max_handshakes=min(config.max_handshakes or bounds.tls_handshakes, bounds.tls_handshakes),
            counters=self.counters,
            silence=bounds.silent,
        )

    @property
    def _cluster(self) -> Cluster | None:
        return None if self._engine is None else self._engine.cluster

    def _wire(self, loop: asyncio.AbstractEventLoop) -> Engine:
        engine = self._engine
        if engine is None:
            engine = self._engine = make_engine(self.config, self.broker_id, self.counters)
        given = Given(
            loop=loop,
            config=self.config,
            broker_id=self.broker_id,
            counters=self.counters,
            engine=engine,
            authenticator=self._authenticator,
            pages=self._pages,
            ports=self._ports,
            tls=self._tls,
            backend_tls=self._backend_tls,
            bounds=self.bounds,
        )
        self._made = parts = make_parts(given)
        self._budget = make_budget(given, parts)
        self._admin = make_admin(given, parts, self._budget)
        return engine

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
        if self._given is not None and self._given.are_handed_over:
            await self._leave_the_ports()
        self._ports.are_closing = True
        if self._cluster is not None and self._engine_runs:
            self._cluster.drain()
            self._parts.lifecycle.drains()
        self._parts.router.connection_requests.stop()
        self._parts.admission.close()
        for server in self._servers[1:]:
            server.close()
        sockets = list(self._parts.rooms.sockets)
        lingering = list(self._parts.websockets.lingering)
        self._parts.router.client_sessions.stop()
        await self._close_clients(sockets)
        for server in self._servers[:1]:
            server.close()
        self._authenticator.close()
        await self._parts.lifecycle.stop(self.config.close_timeout)
        if self._engine is not None and self._engine_runs:
            try:
                await self._engine.stop()
            except Exception:
                logger.exception("the engine could not be stopped in order")
        self._parts.keepalive.stop()
        self._parts.heartbeats.stop()
        self._parts.message_watch.stop()
        for idle in self._parts.idle:
            idle.stop()
        self._budget.stop()
        await self._wait_for([*sockets, *lingering])
        self._parts.websockets.hangups.close()
        self._parts.numbered.hangups.close()
        for server in self._servers:
            await server.wait_closed()
        if self._admin is not None:
            await self._admin.close()
        logger.info("stopped")

    async def _leave_the_ports(self) -> None:
        """Accept nothing more on sockets that another process holds: what waits there is for who comes after.

        Who was accepted before that comes in still, and is closed with all others.
        """
        for server in self._servers:
            server.stop_accepting() if isinstance(server, TlsServer) else server.close()
        if self._admin is not None:
            self._admin.stop_listening()
        loop = asyncio.get_running_loop()
        end = loop.time() + _HANDSHAKES_END_WITHIN
        is_somebody_there = True  # who was accepted in this turn shows in the next one
        while is_somebody_there and loop.time() < end:
            await asyncio.sleep(_POLL)
            shaking = [server for server in self._servers if isinstance(server, TlsServer) and server.handshakes]
            is_somebody_there = bool(shaking or self._parts.admission.handshakes)

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
                any(ws.transport for ws in sockets) or (len(self._parts.admission) and now < end_of_answers)
            ):
                break
            await asyncio.sleep(_POLL)
        for ws in sockets:
            ws.abort()
