"""What every client decides, once: options, which event calls which handler, what a result answers. No I/O."""

import logging
import math
import os
import ssl
import sys
from collections.abc import Callable
from types import UnionType
from typing import Any, Final

import msgspec

from pystrands.context import ConnectionRequestContext, Context, check_headers, check_rejection, check_time
from pystrands.errors import ConfigError, MessageTooBig
from pystrands.protocol import messages, wire
from pystrands.protocol.messages import (
    ClientAdopted,
    ClientError,
    ConnectionRequest,
    Disconnected,
    Event,
    HelloParams,
    NewConnection,
    NewMessage,
)

__all__ = [
    "HANDLERS",
    "TOKEN_VARIABLE",
    "BaseClient",
    "Call",
    "Options",
    "Ownership",
    "Peer",
    "answer",
    "call_for",
    "call_for_message",
    "lost_messages",
    "synthesised_disconnect",
    "synthesised_release",
]

logger = logging.getLogger(__name__)

HANDLERS: Final = {
    "on_connection_request": 1,
    "on_new_connection": 1,
    "on_message": 2,
    "on_disconnect": 1,
    "on_error": 2,
    "on_client_adopted": 1,
    "on_client_released": 1,
}
"""The callbacks of a client, each with the number of its arguments."""


TOKEN_VARIABLE: Final = "PYSTRANDS_TOKEN"  # noqa: S105 - its name
"""The environment's name of the token of a client that is given none."""


# --- options -----------------------------------------------------------------------------------------------------


class Options(msgspec.Struct, frozen=True):
    """The values of a client's constructor, checked. Raises ConfigError naming the parameter that can't work."""

    host: str
    port: int
    auto_reconnect: bool
    reconnect_delay: float
    max_reconnect_delay: float
    reconnect_backoff: float
    max_concurrency: int
    handler_timeout: float | None
    send_only: bool
    name: str
    token: str
    tls: ssl.SSLContext | bool

    def __repr__(self) -> str:
        """Return what may be logged."""
        return f"<Options for {self.host}:{self.port}>"

    def __post_init__(self) -> None:
        _check_type("host", self.host, str, "a host name or an IP address")
        if not self.host:
            raise ConfigError("host", "must be a host name or an IP address, not empty")
        check_whole("port", self.port, 1, 65535)
        _check_type("auto_reconnect", self.auto_reconnect, bool, "True or False")
        _check_number("reconnect_delay", self.reconnect_delay, 0, "seconds")
        _check_number("max_reconnect_delay", self.max_reconnect_delay, 0, "seconds")
        _check_number("reconnect_backoff", self.reconnect_backoff, 1, "times the delay before")
        check_whole("max_concurrency", self.max_concurrency, 1)
        if self.handler_timeout is not None:
            _check_number("handler_timeout", self.handler_timeout, 0, "seconds")
        _check_type("send_only", self.send_only, bool, "True or False")
        _check_type("name", self.name, str, "a str or None")
        _check_token(self.token)
        _check_type("ssl", self.tls, ssl.SSLContext | bool, "an ssl.SSLContext, True or None")


def _check_token(token: Any) -> None:
    """Raise ConfigError, which never shows the token."""
    if not isinstance(token, str):
        raise ConfigError("token", f"must be a str or None, not {type(token).__name__}")
    if token != token.strip():
        raise ConfigError("token", "begins or ends with white space, such as the line end of a file: strip() it")
    try:
        token.encode()
    except UnicodeError:
        raise ConfigError("token", "is no Unicode text") from None


def _check_type(option: str, value: Any, expected: type | UnionType, description: str) -> None:
    if not isinstance(value, expected):
        raise ConfigError(option, f"must be {description}, not {value!r}")


def check_whole(option: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise ConfigError unless ``value`` is an int between ``least`` and ``most``."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigError(option, f"must be a whole number {span}, not {value!r}")


def _check_number(option: str, value: Any, least: float, unit: str) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least:
        return
    raise ConfigError(option, f"must be a number of at least {least} ({unit}), not {value!r}")


class BaseClient:
    """The constructor and the attributes that all clients share.

    The attributes may be changed; what they say counts from the next ``connect()``, which checks them again.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8081,
        auto_reconnect: bool = True,
        reconnect_delay: float = 1.0,
        max_reconnect_delay: float = 30.0,
        reconnect_backoff: float = 2.0,
        *,
        max_concurrency: int = 1000,
        handler_timeout: float | None = None,
        send_only: bool = False,
        name: str | None = None,
        token: str | None = None,
        ssl: ssl.SSLContext | bool | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.auto_reconnect = auto_reconnect
        self.reconnect_delay = reconnect_delay
        self.max_reconnect_delay = max_reconnect_delay
        self.reconnect_backoff = reconnect_backoff
        self.max_concurrency = max_concurrency
        self.handler_timeout = handler_timeout
        self.send_only = send_only
        self.name = name
        self.token = token
        self.ssl = ssl
        self._options()

    def _options(self) -> Options:
        return Options(
            host=self.host,
            port=self.port,
            auto_reconnect=self.auto_reconnect,
            reconnect_delay=self.reconnect_delay,
            max_reconnect_delay=self.max_reconnect_delay,
            reconnect_backoff=self.reconnect_backoff,
            max_concurrency=self.max_concurrency,
            handler_timeout=self.handler_timeout,
            send_only=self.send_only,
            name="" if self.name is None else self.name,
            token=os.environ.get(TOKEN_VARIABLE, "").strip() if self.token is None else self.token,
            tls=False if self.ssl is None else self.ssl,
        )


# --- what the broker at the other end is like --------------------------------------------------------------------


class Peer(msgspec.Struct):
    """What the broker of one link said of itself in its hello; the defaults are for one that says none."""

    said_hello: bool = False
    binary: bool = False
    broker_id: str = ""
    max_message_size: int = 0
    """In bytes; 0 where the broker does not say."""
    max_line: int = 0
    """The same for a whole line."""
    fits: int = sys.maxsize
    """Characters of a text that is surely not too long, whichever they are."""

    def hear(self, params: HelloParams) -> None:
        """Take in the broker's hello."""
        self.said_hello = True
        self.binary = params.binary
        self.broker_id = params.broker_id
        self.max_message_size = params.max_message_size
        self.max_line = params.max_line
        if params.max_message_size:
            self.fits = params.max_message_size // 4


_OWNED: Final = (NewMessage, NewConnection, ClientAdopted)
_KEPT_LINE: Final = 1024
"""Bytes of the longest line that is kept for its context; of a longer one the context alone is."""


class Ownership:
    """The clients that this backend owns at one broker, so that each is told of when that broker or session dies.

    Only kept for brokers that say hello. A client is owned from the first event of it until it is told as disconnected.
    In protocol 1 a link that comes back to the *same* broker process starts with none: that broker gave its clients to
    other backends meanwhile, which hear of their end; those that come back here are owned again from their next event.
    """

    __slots__ = ("_broker_id", "_lines")

    def __init__(self) -> None:
        self._broker_id = ""
        # Each client's last line, which has its latest context. A handler may change the Context that it was given, and
        # to keep the line costs less than to see whether anything is new.
        self._lines: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def hello(self, broker_id: str, *, keeps_sessions: bool = False) -> list[Context]:
        """A link is up to the broker process ``broker_id``; return the clients that died with the one before."""
        if broker_id == self._broker_id and keeps_sessions:
            return []
        lost = self.take_all()
        if broker_id == self._broker_id:
            return []
        self._broker_id = broker_id
        return lost

    def take_all(self) -> list[Context]:
        """Return the clients that are owned, each as its last event showed it, which are no longer."""
        lines = list(self._lines.values())
        self._lines.clear()
        return [msgspec.json.decode(line, type=_OfClient).params.context for line in lines]

    def saw(self, event: Event, line: bytes) -> None:
        """Note whose event came, in which line."""
        if isinstance(event, _OWNED):
            context = event.params.context
            self._lines[context.client_id] = line if len(line) <= _KEPT_LINE else _shortened(context)
        elif isinstance(event, Disconnected):
            self._lines.pop(event.params.context.client_id, None)


class _WithContext(msgspec.Struct):
    context: Context


class _OfClient(msgspec.Struct):
    """What the lines of a client's events have in common."""

    params: _WithContext


def _shortened(context: Context) -> bytes:
    """Return a line with that context and nothing else."""
    return msgspec.json.encode(_OfClient(_WithContext(context)))


# --- event to call -----------------------------------------------------------------------------------------------


class Call(msgspec.Struct):
    """A handler to be called: its name, its arguments, and whom it is about."""

    name: str
    args: tuple[Any, ...]
    context: Context
    lane: str | None
    """Calls of one lane run one after the other; None: no order."""
    request: ConnectionRequestContext | None = None
    request_id: str = ""
    size: int = 0
    """Bytes of the event's line, for the bound on what waits."""
    reply: Callable[[bytes], object] | None = None
    """Takes the answer to a connection request."""
    max_line: int = 0
    """The longest answer that the broker takes, in bytes; 0 where it does not say."""
    seq: int = 0
    """The event's number in the session's stream; 0 in protocol 1."""
    done: list[int] | None = None
    """Where the number goes when the handler has ended: its stream's own list; None in protocol 1."""


_LIFE: Final[dict[type, str]] = {
    NewConnection: "on_new_connection",
    Disconnected: "on_disconnect",
    ClientAdopted: "on_client_adopted",
}
_NESTED = frozenset({"accepted", "client_id", "room_id", "metadata"})


def _unwrapped(context: Context) -> Context:
    """Undo what the original broker does: it gives the backend's whole reply back as metadata."""
    metadata = context.metadata
    if type(metadata) is dict and len(metadata) == len(_NESTED) and metadata.keys() == _NESTED:
        context.metadata = metadata["metadata"]
    return context


def call_for_message(event: NewMessage, peer: Peer, size: int = 0, done: list[int] | None = None) -> Call:
    """Do what :func:`call_for` does for the ordinary event; ``size`` and ``done`` are the call's."""
    params = event.params
    context = params.context if peer.said_hello else _unwrapped(params.context)
    if event.event:
        context._event = (peer.broker_id, event.event)  # noqa: SLF001 - the library's own
        context.redelivered = event.redelivered
    content = messages.message_content(params.message, params.binary) if params.binary else params.message
    return Call("on_message", (content, context), context, context.client_id, None, "", size, None, 0, event.seq, done)


def call_for(event: Event, peer: Peer) -> Call | None:
    """Return the call that ``event`` means, or None when it means none.

    Raises MalformedLine when the event holds what can't be read.
    """
    if isinstance(event, NewMessage):
        return call_for_message(event, peer)
    if isinstance(event, ConnectionRequest):
        asked = event.params
        request = ConnectionRequestContext(
            headers=asked.headers, url=asked.url, remote_addr=asked.remote_addr, query_string=asked.query_string
        )
        return Call("on_connection_request", (request,), request.context, None, request, event.request_id or "")
    if isinstance(event, NewConnection | Disconnected | ClientAdopted):
        context = event.params.context if peer.said_hello else _unwrapped(event.params.context)
        if event.event:
            context._event = (peer.broker_id, event.event)  # noqa: SLF001 - the library's own
            context.redelivered = event.redelivered
        if isinstance(event, Disconnected):
            context.close_code, context.reason = event.params.code, event.params.reason
        name = _LIFE[type(event)]
        return Call(name, (context,), context, context.client_id)
    if isinstance(event, ClientError):
        context = event.params.context if peer.said_hello else _unwrapped(event.params.context)
        if event.event:
            context._event = (peer.broker_id, event.event)  # noqa: SLF001 - the library's own
            context.redelivered = event.redelivered
        return Call("on_error", (event.params.error, context), context, context.client_id or None)
    return None


def synthesised_disconnect(context: Context) -> Call:
    """Return the call that tells of a client that died with its broker."""
    return Call("on_disconnect", (context,), context, context.client_id)


def synthesised_release(context: Context) -> Call:
    """Return the call that tells of a client that was given to another backend meanwhile."""
    return Call("on_client_released", (context,), context, context.client_id)


def lost_messages(
    count: int, why: str = "they were on their way when the broker, or its session with it, ended"
) -> Call:
    """Return the call that tells of messages that were lost with a broker or a session (LINK rule 23)."""
    context = Context()
    return Call("on_error", (f"{count} messages were lost: {why}", context), context, None)


# --- result to reply ---------------------------------------------------------------------------------------------


def answer(call: Call, result: Any) -> bytes:
    """Return the line that answers a connection request whose handler returned ``result``.

    True and False decide; anything else leaves it to ``request.accepted``. Raises TypeError, ValueError or
    MessageTooBig, with what to change, when ``request`` holds what can't be sent.
    """
    request = call.request
    assert request is not None
    accepted = result if result is True or result is False else bool(request.accepted)
    if not accepted:
        check_rejection(request.status, request.reason)
        return wire.response(call.request_id, False, status=request.status, reason=request.reason)
    context = request.context
    for field in ("client_id", "room_id"):
        value = getattr(context, field, None)
        if not isinstance(value, str):
            raise TypeError(
                f"on_connection_request left request.context.{field} as {type(value).__name__}; it must be a str"
            )
    if request.subprotocol is not None and not isinstance(request.subprotocol, str):
        raise TypeError(
            f"on_connection_request left request.subprotocol as {type(request.subprotocol).__name__}; "
            "it must be a str or None"
        )
    check_json(context.metadata)
    headers, expires_at = check_headers(request.response_headers), check_time(request.expires_at)
    try:
        line = wire.response(
            call.request_id,
            True,
            context.client_id,
            context.room_id,
            context.metadata,
            request.subprotocol,
            headers=headers,
            expires_at=expires_at,
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"on_connection_request left what JSON can't hold in request.context: {error}") from None
    if call.max_line and len(line) > call.max_line:
        raise MessageTooBig(
            f"on_connection_request made an answer of {len(line)} bytes and the broker takes {call.max_line}: "
            "put less into request.context.metadata"
        )
    return line


def refusal(call: Call) -> bytes:
    """Return the line that rejects a connection request whose handler failed."""
    return wire.response(call.request_id, False)


def check_json(
    value: Any, path: str = "request.context.metadata", depth: int = 0, caller: str = "on_connection_request"
) -> None:
    """Raise TypeError, naming ``path`` and the type, unless ``value`` comes back from JSON as it was (tuples as lists).

    The encoder alone would turn dates, UUIDs and bytes into strings that handlers would not recognise.
    """
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{caller} put {value!r} into {path}; JSON has no such number")
    elif depth > 100:
        raise TypeError(f"{caller} nested {path} deeper than 100 levels (does it contain itself?)")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{caller} put a key of type {type(key).__name__} into {path}; JSON keys are str")
            check_json(inner, f"{path}[{key!r}]", depth + 1, caller)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            check_json(inner, f"{path}[{index}]", depth + 1, caller)
    else:
        raise TypeError(
            f"{caller} put a {type(value).__name__} into {path}; "
            "use JSON values: dict, list, str, int, float, bool, None"
        )
