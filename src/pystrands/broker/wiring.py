"""Makes the parts of a broker, each whole when it is there: in the order in which they need each other."""

import asyncio
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from operator import attrgetter
from typing import Final

from pystrands.broker.accounts import Accounts
from pystrands.broker.admission.handshake import JAVASCRIPT, Admission
from pystrands.broker.admission.origins import AllowedOrigins
from pystrands.broker.admission.policy import AdmissionPolicy
from pystrands.broker.admission.proxies import TrustedProxies
from pystrands.broker.backends.authenticator import LinkAuthenticator
from pystrands.broker.backends.greeting import Greeting
from pystrands.broker.backends.lifecycle import SessionLifecycle
from pystrands.broker.backends.link import LinkShared, link_factory
from pystrands.broker.backends.registry import SessionRegistry
from pystrands.broker.backends.session import SessionShared
from pystrands.broker.bounds import BOUNDS, Bounds
from pystrands.broker.budget import Budget, MemoryHolder, backend_bytes
from pystrands.broker.config import BrokerConfig
from pystrands.broker.counters import Counters
from pystrands.broker.events.assignments import Assignments
from pystrands.broker.events.ending import EndingStreams
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.fanout.groups import Encode, as_it_is
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.delivery import Delivery
from pystrands.broker.hub.numbered import NumberedFrames
from pystrands.broker.hub.presence import Presence
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.hub.taps import Taps
from pystrands.broker.hub.users import Users
from pystrands.broker.meter import Meter
from pystrands.broker.net.ports import Ports
from pystrands.broker.net.tls import Tls
from pystrands.broker.observer import Observer
from pystrands.broker.ops.admin import AdminServer
from pystrands.broker.ops.status import StatusReport
from pystrands.broker.ops.timed import Timings
from pystrands.broker.routing.claimed_ids import ClaimedIds
from pystrands.broker.routing.client_commands import ClientCommands
from pystrands.broker.routing.client_sessions import SessionOptions
from pystrands.broker.routing.commands import Commands
from pystrands.broker.routing.handlers import command_table
from pystrands.broker.routing.histories import Histories
from pystrands.broker.routing.node import BrokerNode
from pystrands.broker.routing.other_brokers import OtherBrokers
from pystrands.broker.routing.router import Router
from pystrands.broker.routing.shared_presence import SharedPresence
from pystrands.broker.ws.deflate import Compressor
from pystrands.broker.ws.expiry import Expiries
from pystrands.broker.ws.keepalive import Heartbeats, KeepAlive, MessageWatch
from pystrands.broker.ws.reading import ReadShared
from pystrands.broker.ws.throttle import IdleLimited, RateLimited
from pystrands.broker.ws.websocket import Receiver, WebSocketShared
from pystrands.engine.base import Engine
from pystrands.engine.memory import MemoryEngine
from pystrands.protocol import messages
from pystrands.protocol.address import is_loopback
from pystrands.protocol.limits import MAX_ID, Limits, context_limit
from pystrands.protocol.v1.envelope import MAX_HEADER, is_control
from pystrands.protocol.v1.numbers import Numbers
from pystrands.protocol.v1.rings import Rings

__all__ = ["BrokerParts", "Given", "make_admin", "make_budget", "make_engine", "make_parts", "sdk"]

SDK_PATH: Final = "/pystrands.js"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What there is before the parts."""

    loop: asyncio.AbstractEventLoop
    config: BrokerConfig
    broker_id: str
    counters: Counters
    engine: Engine
    authenticator: LinkAuthenticator
    pages: Mapping[str, tuple[str, bytes]]
    ports: Ports
    tls: Tls | None
    backend_tls: Tls | None
    bounds: Bounds = BOUNDS


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerParts:
    """The parts of a broker. None of them does anything before it is started, or somebody connects.

    ``node`` and ``others`` are there where the engine has a cluster.
    """

    rooms: Rooms
    outbox: Outbox
    delivery: Delivery
    queue: EventQueue
    sessions: SessionRegistry
    assignments: Assignments
    router: Router
    lifecycle: SessionLifecycle
    links: LinkShared
    make_link: Callable[[], asyncio.Protocol]
    keepalive: KeepAlive
    heartbeats: KeepAlive
    message_watch: MessageWatch
    idle: Sequence[IdleLimited]
    websockets: WebSocketShared
    numbered: WebSocketShared
    admission: Admission
    meter: Meter
    timings: Timings
    node: BrokerNode | None
    others: OtherBrokers | None


def make_engine(config: BrokerConfig, broker_id: str, counters: Counters) -> Engine:
    """Return the engine that the options ask for, on the running loop. Raises ConfigError for what can't be used."""
    if not config.nats_url:
        return MemoryEngine()
    from pystrands.engine.nats.engine import NatsEngine  # noqa: PLC0415 - most brokers are alone
    from pystrands.engine.nats.options import NatsOptions  # noqa: PLC0415

    options = NatsOptions(
        urls=config.nats_url,
        credentials=config.nats_credentials,
        tls_ca=config.nats_tls_ca,
        tls_cert=config.nats_tls_cert,
        tls_key=config.nats_tls_key,
        name=f"pystrands {broker_id}",
    )
    return NatsEngine(options, cluster=config.cluster, broker_id=broker_id, counters=counters)


def make_parts(given: Given) -> BrokerParts:
    """Make all of them. Where there is no admin port nobody looks, and nothing is timed."""
    loop, config, counters = given.loop, given.config, given.counters
    cluster = given.engine.cluster
    meter = Meter()
    timings = Timings()
    observer = timings if config.admin_port >= 0 else None

    outbox = Outbox(
        loop,
        policy=config.slow_client_policy,
        limit=config.client_buffer,
        slow_time=config.slow_client_time,
        counters=counters,
        meter=meter,
        encode=_encode(given),
        observer=observer,
    )
    limits = Limits(config.max_rooms_per_client, context_limit(config.max_message_size))
    ending = EndingStreams(config.memory_budget // 4 or sys.maxsize)
    numbers = Numbers()
    rings = Rings(numbers, config.history_bytes, config.client_resume_window)
    numbered = NumberedFrames(outbox, rings, numbers, counters, meter)
    users = Users(given.engine.subscribe_user, given.engine.unsubscribe_user)
    presence = Presence(outbox, loop, meter, bounds=given.bounds)
    rooms = Rooms(
        outbox,
        given.engine.subscribe,
        given.engine.unsubscribe,
        Taps(counters, given.bounds.watched_rooms),
        limits,
        ending,
        numbered,
        users,
        presence,
    )
    queue = EventQueue(config.queue_size, config.queue_bytes, config.queue_policy, counters, meter)
    sessions = SessionRegistry()
    assignments = Assignments(
        queue,
        sessions.choose_owner,
        counters,
        backend_bytes(config.memory_budget),
        ending,
        observer,
    )
    of_sessions = SessionShared(loop=loop, counters=counters, expiries=Expiries(loop, counters))
    claimed_ids = None if cluster is None else ClaimedIds(cluster, rooms)
    others = None if cluster is None else OtherBrokers(cluster, counters, given.bounds)
    histories = Histories(rooms, given.broker_id, others, loop)
    router = Router(
        rooms,
        queue,
        assignments,
        sessions,
        of_sessions,
        hold_time=config.hold_time,
        answer_timeout=config.answer_timeout,
        claimed_ids=claimed_ids,
        bounds=given.bounds,
        client_sessions=SessionOptions(
            broker_id=given.broker_id,
            key=secrets.token_bytes(32),
            window=config.client_resume_window,
            ping=config.ping_interval,
            max_message_size=config.max_message_size,
        ),
        histories=histories,
    )
    status = StatusReport(
        given.broker_id, rooms, sessions, queue, counters, loop.time, cluster, config.cluster, given.ports
    )
    clients = ClientCommands(rooms, meter, router.client_sessions.requests)
    if cluster is not None:
        router.client_sessions.signals.tell = cluster.tell
    commands = Commands(given.engine, rooms, counters, status.make, meter, clients, others, histories)
    shared = None if cluster is None else SharedPresence(given.broker_id, cluster, presence, loop, given.bounds)
    greeting = _greeting(given)
    lifecycle = SessionLifecycle(
        sessions,
        router,
        command_table(commands, router),
        of_sessions,
        resume_window=config.resume_window,
        heartbeat=config.heartbeat_interval,
        greeting=greeting,
    )
    links = _make_links(given, lifecycle, meter, greeting)
    keepalive = KeepAlive(outbox, interval=config.ping_interval, missed=config.ping_missed, counters=counters)
    message_watch = MessageWatch(config.message_timeout, counters)
    receiver, idle = _limited(given, router)
    websockets = WebSocketShared(
        loop=loop,
        receiver=receiver,
        outbox=outbox,
        watches=[keepalive, message_watch, *([] if idle is None else [idle])],
        reads=ReadShared(loop, meter),
        counters=counters,
        max_message_size=config.max_message_size,
        send_limit=config.client_buffer,
        close_timeout=config.close_timeout,
    )
    of_sessions_ws, heartbeats, idle_sessions = _make_numbered(given, router, websockets, message_watch)
    return BrokerParts(
        rooms=rooms,
        outbox=outbox,
        delivery=Delivery(rooms, outbox, counters, tells_all=cluster is None),
        queue=queue,
        sessions=sessions,
        assignments=assignments,
        router=router,
        lifecycle=lifecycle,
        links=links,
        make_link=link_factory(links),
        keepalive=keepalive,
        heartbeats=heartbeats,
        message_watch=message_watch,
        idle=[each for each in (idle, idle_sessions) if each is not None],
        websockets=websockets,
        numbered=of_sessions_ws,
        admission=_make_admission(given, router, websockets, of_sessions_ws, observer),
        meter=meter,
        timings=timings,
        node=None
        if claimed_ids is None or shared is None
        else BrokerNode(
            given.broker_id,
            rooms,
            clients,
            claimed_ids,
            sessions,
            status.make,
            lifecycle.peers_changed,
            presence,
            shared,
            router.client_sessions.signals,
            histories,
        ),
        others=others,
    )


def sdk() -> bytes:
    """Return the client for web pages, which `sdk/js` makes."""
    return (files("pystrands.broker") / "pystrands.js").read_bytes()


def _encode(given: Given) -> Encode:
    """Return what makes the frames of clients that take others than the plain ones."""
    config = given.config
    if not config.compression:
        return as_it_is
    return Compressor(config.compression_level, config.compression_threshold, given.counters).compress


def _make_numbered(
    given: Given, router: Router, websockets: WebSocketShared, message_watch: MessageWatch
) -> tuple[WebSocketShared, KeepAlive, IdleLimited | None]:
    """Make what the WebSockets of clients of `pystrands.v1` have in common, and what looks after them."""
    config, sessions = given.config, router.client_sessions
    heartbeats = Heartbeats(
        websockets.outbox,
        sessions.pinged,
        interval=config.ping_interval,
        missed=config.ping_missed,
        counters=given.counters,
    )
    receiver, idle = _limited(given, sessions, is_control)
    numbered = replace(
        websockets,
        receiver=receiver,
        watches=[heartbeats, message_watch, *([] if idle is None else [idle])],
        max_message_size=config.max_message_size + MAX_HEADER,
    )
    return numbered, heartbeats, idle


def _limited(
    given: Given, receiver: Receiver, is_free: Callable[[str | bytes], bool] | None = None
) -> tuple[Receiver, IdleLimited | None]:
    """Put before a receiver what the options ask for; what is off is not there and costs no message anything.

    ``is_free``: which messages count for no limit.
    """
    config = given.config
    if config.client_message_rate or config.client_byte_rate:
        receiver = RateLimited(
            receiver,
            given.loop,
            messages=config.client_message_rate,
            size=config.client_byte_rate,
            largest=config.max_message_size,
            policy=config.client_rate_policy,
            counters=given.counters,
            is_free=is_free,
        )
    if not config.idle_timeout:
        return receiver, None
    idle = IdleLimited(receiver, given.loop, timeout=config.idle_timeout, counters=given.counters, is_free=is_free)
    return idle, idle


def _greeting(given: Given) -> Greeting:
    config = given.config
    return Greeting(
        messages.HelloParams(
            protocol=messages.PROTOCOL,
            binary=True,
            broker_id=given.broker_id,
            max_line=messages.line_limit(config.max_message_size),
            max_message_size=config.max_message_size,
            max_id=MAX_ID,
            max_context=context_limit(config.max_message_size),
            heartbeat=config.heartbeat_interval,
            resume_window=config.resume_window,
        )
    )


def _make_links(given: Given, lifecycle: SessionLifecycle, meter: Meter, greeting: Greeting) -> LinkShared:
    config = given.config
    return LinkShared(
        loop=given.loop,
        owner=lifecycle,
        authenticator=given.authenticator,
        tls=given.backend_tls,
        greeting=greeting,
        meter=meter,
        max_line=messages.line_limit(config.max_message_size),
        link_buffer=config.link_buffer,
        counters=given.counters,
        ports=given.ports,
    )


def _make_admission(
    given: Given, router: Router, websockets: WebSocketShared, numbered: WebSocketShared, observer: Observer | None
) -> Admission:
    config = given.config
    return Admission(
        router.client_sessions,
        websockets,
        max_head_size=config.max_head_size,
        handshake_timeout=config.handshake_timeout,
        pages={**({} if config.no_sdk else {SDK_PATH: (JAVASCRIPT, sdk())}), **given.pages},
        policy=AdmissionPolicy(
            AllowedOrigins(config.allowed_origins, local=is_loopback(config.ws_host)),
            TrustedProxies(config.trusted_proxies) if config.trusted_proxies else None,
            max_handshakes=config.max_handshakes,
            max_clients=config.max_connections,
            max_per_address=config.max_connections_per_address,
            counters=given.counters,
        ),
        silence=given.bounds.silent,
        compression=config.compression,
        ports=given.ports,
        observer=observer,
        remark=_remark(given),
        numbered=numbered,
    )


def _remark(given: Given) -> Callable[[], str]:
    """Return what tells of brokers that are apart, for who asks whether this one is ready."""
    cluster = given.engine.cluster
    if cluster is None:
        return lambda: ""

    def remark() -> str:
        if not given.ports.ws:
            return f"waiting for {'other brokers' if cluster.is_connected else 'NATS'}"
        return "" if cluster.is_connected else "degraded: NATS can't be reached, and with it no other broker"

    return remark


def make_budget(given: Given, parts: BrokerParts) -> Budget:
    """Return what bounds the memory that peers cause."""
    rooms, websockets, admission, lifecycle = parts.rooms, parts.websockets, parts.admission, parts.lifecycle
    cluster = given.engine.cluster

    def holders() -> tuple[MemoryHolder, ...]:
        """Return all that bytes are kept for: on the way in, on the way out, and to and from backends."""
        return (
            *rooms.sockets,
            *rooms.clients,
            *(websockets.lingering | websockets.leaving),
            *admission.handshakes,
            *parts.sessions.sessions,
            *lifecycle.tools,
        )

    def others() -> int:
        """Return what is kept for nobody in particular."""
        size = parts.queue.size + parts.assignments.ending.bytes + rooms.numbered.rings.size
        if rooms.presence is not None:
            size += rooms.presence.held_bytes
        if cluster is not None and parts.others is not None:
            size += cluster.held_bytes + parts.others.held_bytes
        return size

    def trim(count: int, size: int) -> None:
        """Replace at most so many parsers' buffers that have grown and hold nothing, until ``size`` bytes are free."""
        fat = [ws for ws in websockets.reads.fat if not ws.held]
        if len(fat) > count:
            del fat[count:]
        else:
            fat.sort(key=attrgetter("grown"), reverse=True)
        for ws in fat:
            if size <= 0:
                break
            size -= ws.grown
            ws.trim()

    accounts = Accounts(
        sockets=lambda: [*rooms.sockets, *websockets.leaving],
        closed=lambda: websockets.lingering,
        handshakes=lambda: admission.handshakes,
        sessions=lambda: parts.sessions.sessions,
        tools=lambda: lifecycle.tools,
        orphans=lambda: parts.assignments.orphans,
        give_up_client=parts.router.give_up,
        give_up_session=lifecycle.give_up,
    )
    return Budget(
        given.loop,
        given.config.memory_budget,
        parts.meter,
        holders=holders,
        others=others,
        accounts=accounts.take,
        trim=trim,
        counters=given.counters,
    )


def make_admin(given: Given, parts: BrokerParts, budget: Budget) -> AdminServer | None:
    """Return the admin port's server, where there is to be one."""
    if given.config.admin_port < 0:
        return None
    from pystrands.broker.ops.prometheus import CONTENT_TYPE, Exposition  # noqa: PLC0415 - its library is an extra

    admission, sessions, timings, cluster = parts.admission, parts.sessions, parts.timings, given.engine.cluster
    exposition = Exposition(
        given.counters,
        {
            "clients": lambda: len(parts.rooms),
            "rooms": lambda: parts.rooms.room_count,
            "backends": lambda: len(sessions),
            "ready": admission.is_ready,
            "handshakes": lambda: len(admission.handshakes),
            "queue_messages": lambda: len(parts.queue),
            "queue_bytes": lambda: parts.queue.size,
            "events_in_flight": lambda: sum(len(session.unfinished) for session in sessions.sessions),
            "waiting_bytes": lambda: budget.total,
            "engine_connected": lambda: cluster is not None and cluster.is_connected,
            "engine_peers": lambda: 0 if cluster is None else len(cluster.peers),
            "engine_held_bytes": lambda: 0 if cluster is None else cluster.held_bytes,
            "engine_heartbeat_lag_seconds": lambda: 0 if cluster is None else cluster.heartbeat_lag,
        },
        {
            "handshake_seconds": timings.handshake,
            "handling_seconds": timings.handling,
            "flush_seconds": timings.flush,
        },
    )
    return AdminServer(
        given.loop, admission.is_ready, exposition.render, CONTENT_TYPE, given.ports, remark=admission.remark
    )
