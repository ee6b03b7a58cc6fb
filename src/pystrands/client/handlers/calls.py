"""Which event calls which handler, and what its result answers. No I/O."""

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any, Final

from pystrands.client.connection.broker_info import BrokerInfo
from pystrands.client.handlers.lanes import Laned
from pystrands.client.requests import check_length
from pystrands.context import (
    ConnectionRequestContext,
    Context,
    check_headers,
    check_json,
    check_rejection,
    check_rooms,
    check_time,
    check_user,
)
from pystrands.errors import MessageTooBig
from pystrands.headers import Headers
from pystrands.join_request import JoinRequestContext
from pystrands.protocol import messages, wire
from pystrands.protocol.messages import (
    ClientAdopted,
    ClientError,
    ClientResumed,
    ClientSuspended,
    ConnectionRequest,
    Disconnected,
    Event,
    JoinRequest,
    NewConnection,
    NewMessage,
    TokenRequest,
)
from pystrands.token_request import TokenRequestContext

__all__ = [
    "HandlerCall",
    "answer",
    "call_for",
    "call_for_message",
    "is_undecided",
    "lost_messages",
    "methods_of",
    "misplaced",
    "refusal",
    "synthesised_disconnect",
    "synthesised_release",
    "unoffered_subprotocol",
    "unreadable",
    "verdict",
]


class HandlerCall(Laned):
    """A handler to be called: its name, its arguments, and whom it is about."""

    __slots__ = (
        "args",
        "broker",
        "context",
        "done",
        "join",
        "max_line",
        "name",
        "reply",
        "request",
        "request_id",
        "seq",
        "size",
        "token",
    )

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...],
        context: Context,
        lane: str | None,
        size: int = 0,
        seq: int = 0,
        done: list[int] | None = None,
    ) -> None:
        super().__init__(lane)
        self.name = name
        self.args = args
        self.context = context
        self.size = size
        """Bytes of the event's line, for the bound on what waits."""
        self.seq = seq
        """The event's number in the session's stream; 0 in protocol 1."""
        self.done = done
        """Where the number goes when the handler has ended: its stream's own list; None in protocol 1."""
        self.request: ConnectionRequestContext | None = None
        self.request_id = ""
        self.token: TokenRequestContext | None = None
        self.join: JoinRequestContext | None = None
        self.reply: Callable[[bytes], object] | None = None
        """Takes the answer to a connection request, or to a client's request."""
        self.max_line = 0
        """The longest answer that the broker takes, in bytes; 0 where it does not say."""
        self.broker: BrokerInfo | None = None
        """The broker that asks, with what has an answer."""


_LIFE: Final[dict[type, str]] = {
    NewConnection: "on_new_connection",
    Disconnected: "on_disconnect",
    ClientAdopted: "on_client_adopted",
    ClientSuspended: "on_client_suspended",
    ClientResumed: "on_client_resumed",
}
_CLIENTS: Final = ("client_id", "room_id", "metadata")
_NESTED = frozenset({"accepted", "client_id", "room_id", "metadata"})


def _unwrap(context: Context) -> None:
    """Undo what the original broker does: it gives the backend's whole reply back as metadata."""
    metadata = context.metadata
    if type(metadata) is dict and len(metadata) == len(_NESTED) and metadata.keys() == _NESTED:
        context.metadata = metadata["metadata"]


def _named(
    context: Context,
    event: NewMessage
    | NewConnection
    | TokenRequest
    | JoinRequest
    | Disconnected
    | ClientAdopted
    | ClientSuspended
    | ClientResumed
    | ClientError,
    broker: BrokerInfo,
) -> Context:
    """Return the context that an event came with, which then names the event, where that has a name."""
    if not broker.said_hello:
        _unwrap(context)
    number = event.event
    if number:
        context._event = (broker.broker_id, number)  # noqa: SLF001 - the library's own
        if event.redelivered:
            context.redelivered = True
    return context


def methods_of(owner: Any) -> Callable[[str, tuple[Any, ...]], Any]:
    """Return what calls the method of a name of ``owner`` as a handler."""

    def invoke(name: str, args: tuple[Any, ...]) -> Any:
        return getattr(owner, name)(*args)

    return invoke


def call_for_message(
    event: NewMessage, broker: BrokerInfo, size: int = 0, seq: int = 0, done: list[int] | None = None
) -> HandlerCall:
    """Return the call that a message means, the ordinary event; ``size``, ``seq`` and ``done`` are the call's."""
    params = event.params
    context = _named(params.context, event, broker)
    if params.message_id:
        context.message_id = params.message_id
    if params.room_id is not None:
        context = copy(context)  # the other one stays the client's
        context.room_id = params.room_id
    content = messages.message_content(params.message, params.binary) if params.binary else params.message
    name = "on_request" if params.reply else "on_message"
    return HandlerCall(name, (content, context), context, context.client_id, size, seq, done)


def call_for(event: Event, broker: BrokerInfo) -> HandlerCall | None:
    """Return the call that ``event`` means, or None when it means none.

    Raises MalformedLine when the event holds what can't be read.
    """
    if isinstance(event, NewMessage):
        return call_for_message(event, broker)
    if isinstance(event, ConnectionRequest):
        asked = event.params
        request = ConnectionRequestContext(
            headers=asked.headers, url=asked.url, remote_addr=asked.remote_addr, query_string=asked.query_string
        )
        request.token, request.resumes = asked.token, asked.resumes
        call = HandlerCall("on_connection_request", (request,), request.context, None)
        call.request, call.request_id = request, event.request_id or ""
        return call
    if isinstance(event, NewConnection | Disconnected | ClientAdopted | ClientSuspended | ClientResumed):
        context = _named(event.params.context, event, broker)
        if isinstance(event, Disconnected):
            context.close_code, context.reason = event.params.code, event.params.reason
        elif isinstance(event, ClientSuspended):
            context.suspended = True
        name = _LIFE[type(event)]
        return HandlerCall(name, (context,), context, context.client_id)
    if isinstance(event, TokenRequest):
        context = _named(event.params.context, event, broker)
        token = TokenRequestContext(event.params.token, context)
        call = HandlerCall("on_token", (token,), context, context.client_id)
        call.token = token
        return call
    if isinstance(event, JoinRequest):
        context = _named(event.params.context, event, broker)
        context.message_id = event.params.message_id
        said: str | None = event.params.message
        data: str | bytes | None = None
        if said is not None:
            data = messages.message_content(said, event.params.binary)
        join = JoinRequestContext(event.params.room_id, data, context)
        call = HandlerCall("on_join_request", (join,), context, context.client_id)
        call.join = join
        return call
    if isinstance(event, ClientError):
        context = _named(event.params.context, event, broker)
        return HandlerCall("on_error", (event.params.error, context), context, context.client_id or None)
    return None


def synthesised_disconnect(context: Context) -> HandlerCall:
    """Return the call that tells of a client that died with its broker."""
    return HandlerCall("on_disconnect", (context,), context, context.client_id)


def synthesised_release(context: Context) -> HandlerCall:
    """Return the call that tells of a client that was given to another backend meanwhile."""
    return HandlerCall("on_client_released", (context,), context, context.client_id)


def lost_messages(
    count: int, why: str = "they were on their way when the broker, or its session with it, ended"
) -> HandlerCall:
    """Return the call that tells of messages that were lost with a broker or a session (LINK rule 23)."""
    context = Context()
    return HandlerCall("on_error", (f"{count} messages were lost: {why}", context), context, None)


def unreadable(action: str, problem: str) -> HandlerCall:
    """Return the call that tells of an event that can't be read, and so is handled by nobody."""
    context = Context()
    what = f"the event {action[:40]!r}" if action else "an event"
    text = f"{what} of the broker could not be read and was skipped: {problem}"
    return HandlerCall("on_error", (text, context), context, None)


def answer(call: HandlerCall, result: Any) -> bytes:
    """Return the line that answers a connection request whose handler returned ``result``.

    True and False decide, None leaves it to ``request.accepted``. What is falsy rejects, too. Raises TypeError,
    ValueError or MessageTooBig, with what to change, when there is another result, or ``request`` holds what can't be
    sent.
    """
    request = call.request
    assert request is not None
    if result is None:
        accepted = verdict(call.name, request._accepted, "left request.accepted as")  # noqa: SLF001 - it may be anything
    else:
        accepted = verdict(call.name, result, "returned")
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
    metadata = check_json(context.metadata)
    headers, expires_at = check_headers(request.response_headers), check_time(request.expires_at)
    user, rooms = check_user(request.user), check_rooms(request.rooms)
    try:
        line = wire.response(
            call.request_id,
            True,
            context.client_id,
            context.room_id,
            metadata,
            request.subprotocol,
            headers=headers,
            expires_at=expires_at,
            user=user,
            rooms=rooms,
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"on_connection_request left what JSON can't hold in request.context: {error}") from None
    if call.max_line and len(line) > call.max_line:
        raise MessageTooBig(
            f"on_connection_request made an answer of {len(line)} bytes and the broker takes {call.max_line}: "
            "put less into request.context.metadata"
        )
    if call.broker is not None:
        if user is not None:
            check_length("request.user", user, call.broker)
        for room_id in rooms:
            check_length("request.rooms", room_id, call.broker)
        _check_limits(request, metadata, call.broker, len(line))
    return line


def _check_limits(request: ConnectionRequestContext, metadata: Any, broker: BrokerInfo, size: int) -> None:
    """Raise ValueError or MessageTooBig on more than the broker takes; ``size``: of the answer's line, in bytes.

    A path that is too long to be a room is the client's doing: the broker tells it.
    """
    context = request.context
    check_length("request.context.client_id", context.client_id, broker)
    if context.room_id != request.url:
        check_length("request.context.room_id", context.room_id, broker)
    if 0 < broker.max_context < size:
        rooms, user = request.rooms or None, request.user
        size = len(wire.context_json(context.client_id, context.room_id, wire.json(metadata), rooms, user))
        if size > broker.max_context:
            raise MessageTooBig(
                f"on_connection_request made a context of {size} bytes as JSON and the broker takes "
                f"{broker.max_context}: put less into request.context.metadata"
            )


def verdict(name: str, value: Any, how: str) -> bool:
    """Return whether this lets a client in. Raises TypeError on what is truthy and not True: it is no decision.

    ``name``: that of the handler that ``how`` led to the value.
    """
    if value is True or value is False:
        return bool(value)
    if not inspect.iscoroutine(value) and not inspect.isgenerator(value) and not value:
        return False
    hint = "True lets a client in, False rejects it"
    if inspect.iscoroutine(value):
        value.close()  # the error says what its warning would
        hint = "write await before the call"
    elif inspect.isgenerator(value) or inspect.isasyncgen(value):
        hint = "a function with yield decides nothing; return True or False"
    what = getattr(value, "__qualname__", None)
    named = f" ({what})" if isinstance(what, str) else ""
    raise TypeError(f"{name} {how} a value of type {type(value).__name__}{named}, and the client is rejected: {hint}")


def is_undecided(call: HandlerCall, result: Any) -> bool:
    """Whether a client is let in by a handler that returned None and touched nothing: it may have lost its return."""
    return result is None and call.request is not None and call.request._is_untouched  # noqa: SLF001 - as above


def misplaced(call: HandlerCall) -> str:
    """Return what is the matter with attributes that a handler has set and that nothing reads; mostly nothing."""
    request = call.request
    if request is None:
        return ""
    for name in _CLIENTS:
        if name in request.__dict__:
            return f"request.{name}, which nothing reads: request.context.{name} is the client's"
    for name in getattr(request.context, "__dict__", ()):
        return (
            f"request.context.{name}, which no other callback gets: client_id, room_id, user and metadata are kept, "
            f"so it could be request.context.metadata[{name!r}]"
        )
    return ""


def unoffered_subprotocol(call: HandlerCall) -> str:
    """Return the subprotocol that a request got and did not offer, which the broker leaves out; mostly empty."""
    request = call.request
    if request is None or not request.subprotocol:
        return ""
    headers: Any = request.headers  # compiled code would take a Headers for a dict, whose look-up minds case
    if not isinstance(headers, Headers):
        return ""
    lines: Any = getattr(headers, "get")("Sec-WebSocket-Protocol", ())  # noqa: B009 - as above
    offered = [each.strip() for line in lines for each in line.split(",")]
    return "" if request.subprotocol in offered else str(request.subprotocol)


def refusal(call: HandlerCall) -> bytes:
    """Return the line that rejects a connection request whose handler failed."""
    return wire.response(call.request_id, False)
