"""The messages of the wire: one JSON object a line, ``{"action", "request_id", "params"}``.

*Events* go from the broker to a backend, *commands* from a backend to the broker. Decoding gives a Struct for each
action; unknown actions give None, unknown params are ignored. :mod:`pystrands.protocol.wire` writes what is read here.

What is decoded for every message has its fields in the order of the wire, where they are found sooner, and the garbage
collector leaves it alone (``gc=False``): it can't be part of a cycle.
"""

from base64 import b64decode
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, final

import msgspec
from msgspec import Raw, Struct

from pystrands.context import Context
from pystrands.errors import MalformedLine
from pystrands.presence import Member
from pystrands.protocol.close_codes import NORMAL_CLOSURE
from pystrands.protocol.printable import printable
from pystrands.protocol.remains import OVERLONG, remains_of

__all__ = [
    "COMMANDS",
    "EVENTS",
    "NOT_KNOWN",
    "PROTOCOL",
    "SENDER",
    "TOOL",
    "AskedParams",
    "Broadcast",
    "Broken",
    "Bye",
    "ClientAdopted",
    "ClientContext",
    "ClientError",
    "ClientResumed",
    "ClientSuspended",
    "Command",
    "ConnectionRequest",
    "Decoder",
    "DisconnectClient",
    "DisconnectUser",
    "Disconnected",
    "Done",
    "Event",
    "Full",
    "GetPresence",
    "Heartbeat",
    "Hello",
    "HelloParams",
    "JoinRequest",
    "JoinRequestParams",
    "JoinResponse",
    "JoinResponseParams",
    "JoinRoom",
    "KeepHistory",
    "KeptMessage",
    "Leave",
    "LeaveRoom",
    "Leaving",
    "LinkRefused",
    "MessageToConnection",
    "MessageToRoom",
    "MessageToUser",
    "NewConnection",
    "NewMessage",
    "PeerParams",
    "Peers",
    "PeersParams",
    "Ready",
    "Received",
    "RecipientParams",
    "RefusedParams",
    "Released",
    "Reply",
    "Request",
    "RequestClient",
    "RequestClientParams",
    "Response",
    "ResponseParams",
    "Result",
    "ResultParams",
    "RoomHistory",
    "RoomMembers",
    "SessionCommand",
    "SetPresence",
    "Status",
    "TokenRequest",
    "TokenRequestParams",
    "TokenResponse",
    "TokenResponseParams",
    "Unknown",
    "Unwatch",
    "UpdateMetadata",
    "Watch",
    "Watched",
    "WatchedParams",
    "Welcome",
    "WelcomeParams",
    "line_limit",
    "message_content",
]

PROTOCOL = 2
"""The highest version of the protocol that this library speaks."""

TOOL = "tool"
"""The ``role`` in the hello of a link that is no backend's: it may send commands, and gets no clients and no events."""

SENDER = "sender"
"""The ``role`` in the hello of protocol 2 from a program that only sends: it gets no clients and no events."""


def line_limit(max_message_size: int) -> int:
    r"""Return the longest line, in bytes, that a link has to take for messages of ``max_message_size`` bytes.

    JSON may write one byte as six (``\u0000``); 64 KiB are for the rest of the line. (LINK rule 5.)
    """
    return 6 * max_message_size + 65536


# --- both directions ---------------------------------------------------------------------------------------------


class PeerParams(Struct, omit_defaults=True):
    """Another broker of the cluster; ``draining``: it takes no new clients, and is about to end."""

    broker_id: str
    address: str = ""
    """Where its port for backends is reached: ``host:port``; without a host, at that of whoever tells it."""
    draining: bool = False


class HelloParams(Struct, omit_defaults=True):
    """``protocol``: the highest version the sender speaks; the link uses the lower of both."""

    protocol: int = 1
    binary: bool = False
    broker_id: str = ""
    """New for every broker process; empty from a backend."""
    max_line: int = 0
    """The longest line, in bytes, that the sender takes; 0 where it does not say."""
    max_message_size: int = 0
    """The longest message, in bytes, that the broker takes; 0 where it does not say."""
    heartbeat: float = 15.0
    """Seconds between heartbeats, each way; the broker's counts."""
    resume_window: float = 0.0
    """Seconds for which the broker keeps a session without a link, at least; 0 where it does not say."""
    name: str = ""
    """What names a backend in the broker's log."""
    session_id: str = ""
    """Of a backend of protocol 2: the session that it begins, or resumes."""
    resume: bool = False
    next_session_id: str = ""
    """With ``resume``: the session to begin should the other one be gone."""
    received: int = 0
    """With ``resume``: the last number of the broker's that the backend has received."""
    role: str = ""
    """What the link is for, where that is not to be a backend: :data:`TOOL` or :data:`SENDER`."""
    contexts: bool = False
    """Of a backend of protocol 2: whether it keeps the contexts that come in lines of their own."""
    max_id: int = 0
    """Bytes of UTF-8 that the broker takes for a client's or a room's id; 0 where it does not say."""
    max_context: int = 0
    """Bytes of JSON that the broker takes for a client's ids, rooms and metadata together; 0 where it does not say."""
    token: str = ""
    """Of a backend: what shows a broker that asks for it that it may be one."""
    flow: bool = False
    """Of a backend of protocol 2: it wants to hear who is :class:`Full`, and waits then (LINK rule 25)."""
    requests: bool = False
    """Of a backend of protocol 2: it answers what clients of `pystrands.v1` ask, shown tokens and joins included."""
    address: str = ""
    """Of a broker in a cluster: where its port for backends is reached, as of a peer."""
    draining: bool = False
    """Of a broker in a cluster: it takes no new clients, and is about to end."""
    peers: list[PeerParams] | None = None
    """Of a broker in a cluster: the others; None where it has no cluster."""

    def __repr__(self) -> str:
        """Return what may be logged: all but the token."""
        shown = (name for name in self.__struct_fields__ if name != "token")
        return f"HelloParams({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


@final
class Hello(Struct, tag="hello", tag_field="action"):
    """The first line of each side, from those that know it."""

    params: HelloParams
    request_id: str | None = None


class WelcomeParams(Struct):
    """``received``: the last number of the session that the backend named; None when the broker does not know it."""

    session_id: str
    resumed: bool = False
    received: int | None = 0


class Welcome(Struct, tag="welcome", tag_field="action"):
    """The broker's answer to a hello of protocol 2: the session is as it says, and events may come."""

    params: WelcomeParams


class RefusedParams(Struct):
    """``reason`` is for people. ``final``: whether it would be the same the next time; None where it is not said."""

    reason: str = ""
    final: bool | None = None


class LinkRefused(Struct, tag="refused", tag_field="action"):
    """The broker's answer to a first line that it does not accept; the link's last line."""

    params: RefusedParams


class ReceivedParams(Struct):
    """``seq``: the last number that arrived."""

    seq: int


@final
class Received(Struct, tag="received", tag_field="action"):
    """All of the peer's lines up to that number have arrived (LINK rule 2)."""

    params: ReceivedParams


@final
class Heartbeat(Struct, tag="heartbeat", tag_field="action"):
    """Says that the peer is alive. A backend may ask whether its session is, too.

    ``params`` has ``ask``, any number, and the broker's answer has the same number as ``answer``; see :meth:`number`.
    With ``waiting`` a backend says that it has not heard the broker's hello: :attr:`is_waiting`.
    """

    params: Any = None
    request_id: str | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it tells nothing of what the backend speaks."""
        return type(self.params) is dict and self.params.get("waiting") is True

    def number(self, name: str) -> float | None:
        """Return the number of that name in ``params``; None when there is none."""
        value = self.params.get(name) if type(self.params) is dict else None
        if type(value) is int and -(1 << 63) <= value < 1 << 63:  # a larger one could not be sent back
            return value
        return value if type(value) is float else None


# --- events: broker to backend -----------------------------------------------------------------------------------


class ConnectionRequestParams(Struct):
    """``url`` is the path, ``query_string`` what came after the ``?``."""

    url: str = "/"
    headers: dict[str, list[str]] = msgspec.field(default_factory=dict)
    remote_addr: str = ""
    query_string: str = ""


class AskedParams(ConnectionRequestParams):
    """``token``: what a client of `pystrands.v1` shows. ``resumes``: whose session it goes on with, a ``client_id``.

    The latter is there where that client's time was over when it came back.
    """

    token: str | None = None
    resumes: str | None = None

    def __repr__(self) -> str:
        """Return what may be logged: all but the token."""
        shown = (name for name in self.__struct_fields__ if name != "token")
        return f"AskedParams({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


class ConnectionRequest(Struct, tag="connection_request", tag_field="action"):
    """A client wants to come in; the answer is a :class:`Response` with the same ``request_id``."""

    params: AskedParams
    request_id: str | None = None
    seq: int = 0


class ContextParams(Struct):
    """The params of an event that only tells which client.

    ``known``, here as in other events: the context has only a ``client_id``, and is the one that the last
    :class:`ClientContext` of that client had.
    """

    context: Context
    known: bool = False


class ClientContext(Struct, tag="context", tag_field="action"):
    """A context that the backend keeps: later events of the client refer to it. No event that anybody finishes."""

    params: ContextParams
    request_id: str | None = None
    seq: int = 0


class NewConnection(Struct, tag="new_connection", tag_field="action"):
    """A client is in."""

    params: ContextParams
    request_id: str | None = None
    seq: int = 0
    event: int = 0
    redelivered: bool = False


class DisconnectedParams(Struct):
    """``code`` and ``reason`` are those of the WebSocket's close; 1006 when there was none."""

    context: Context
    code: int | None = None
    reason: str = ""
    known: bool = False


class Disconnected(Struct, tag="disconnected", tag_field="action"):
    """A client is gone."""

    params: DisconnectedParams
    request_id: str | None = None
    seq: int = 0
    event: int = 0
    redelivered: bool = False


class NewMessageParams(Struct, gc=False):
    """``message`` is base64 where ``binary`` is true.

    ``message_id`` and ``room_id`` come with messages of clients of `pystrands.v1`: what it is called whenever it is
    sent again, and the room that it was sent to, if it was to one.
    """

    context: Context
    message: str
    binary: bool = False
    known: bool = False
    message_id: str = ""
    room_id: str | None = None
    reply: bool = False
    """Whether its client wants a :class:`Reply`."""


class NewMessage(Struct, tag="new_message", tag_field="action", kw_only=True, gc=False):
    """A client sent a message."""

    seq: int = 0
    event: int = 0
    redelivered: bool = False
    request_id: str | None = None
    params: NewMessageParams


class JoinRequestParams(Struct):
    """``message``, what the client says beside it, is None where it says nothing, base64 where ``binary`` is true."""

    context: Context
    room_id: str
    message: str | None = None
    binary: bool = False
    known: bool = False
    message_id: str = ""


class JoinRequest(Struct, tag="join_request", tag_field="action"):
    """A client of `pystrands.v1` wants to be in one more room; a :class:`JoinResponse` comes before it is done."""

    params: JoinRequestParams
    request_id: str | None = None
    seq: int = 0
    event: int = 0
    redelivered: bool = False


class ClientErrorParams(Struct):
    """``context`` is there whether or not the error is about one client."""

    error: str = ""
    context: Context = msgspec.field(default_factory=Context)
    known: bool = False


class ClientError(Struct, tag="error", tag_field="action"):
    """Something went wrong with a client, such as a message that was too big."""

    params: ClientErrorParams
    request_id: str | None = None
    seq: int = 0
    event: int = 0
    redelivered: bool = False


class ClientAdopted(Struct, tag="client_adopted", tag_field="action"):
    """A client whose backend is gone has this one now (LINK rule 17)."""

    params: ContextParams
    request_id: str | None = None
    seq: int = 0
    event: int = 0
    redelivered: bool = False


class ClientSuspended(Struct, tag="client_suspended", tag_field="action"):
    """A client has lost its connection, and may come back."""

    params: ContextParams
    request_id: str | None = None
    seq: int = 0
    event: int = 0
    redelivered: bool = False


class ClientResumed(Struct, tag="client_resumed", tag_field="action"):
    """A client is back that had lost its connection."""

    params: ContextParams
    request_id: str | None = None
    seq: int = 0
    event: int = 0
    redelivered: bool = False


class TokenRequestParams(Struct):
    """``token``: what the client shows."""

    token: str
    context: Context
    known: bool = False

    def __repr__(self) -> str:
        """Return what may be logged: all but the token."""
        return f"TokenRequestParams(context={self.context!r}, known={self.known!r})"


class TokenRequest(Struct, tag="token_request", tag_field="action"):
    """A client of `pystrands.v1` shows a new token; a :class:`TokenResponse` comes before it is done."""

    params: TokenRequestParams
    request_id: str | None = None
    seq: int = 0
    event: int = 0
    redelivered: bool = False


class KeptMessage(Struct):
    """A message of a room's history; base64 where ``binary`` is true. ``number``: about microseconds since 1970."""

    number: int
    message: str
    binary: bool = False


class ResultParams(Struct):
    """What became of a command; each has its own."""

    found: bool = False
    matched: int = 0
    skipped: int = 0
    members: list[Context] = msgspec.field(default_factory=list)
    error: str = ""
    complete: bool = True
    """Whether all brokers have told their part."""
    message: str = ""
    """What a client has answered; base64 where ``binary`` is true."""
    binary: bool = False
    code: str = ""
    """With ``error``, of a client that was asked: why there is no answer, for programs."""
    present: list[Member] = msgspec.field(default_factory=list)
    history: list[KeptMessage] = msgspec.field(default_factory=list)
    """Of a room that was asked for, the oldest first. ``complete``: whether there are no older ones."""


class Result(Struct, tag="result", tag_field="action"):
    """The answer to a command that asked for one, with its ``request_id``."""

    params: ResultParams
    request_id: str
    seq: int = 0


class Leaving(Struct, tag="leaving", tag_field="action"):
    """The answer to a :class:`Leave`: no event comes after this."""

    params: Any = None
    seq: int = 0


class RecipientParams(Struct, omit_defaults=True):
    """A client, a room, or a user; none of them stands for everyone."""

    client_id: str | None = None
    room_id: str | None = None
    user: str | None = None


class Full(Struct, tag="full", tag_field="action"):
    """Enough waits for a recipient: what is sent to it should wait for the :class:`Ready` (LINK rule 25)."""

    params: RecipientParams
    seq: int = 0


class Ready(Struct, tag="ready", tag_field="action"):
    """A recipient that was full takes more again, or is gone."""

    params: RecipientParams
    seq: int = 0


class PeersParams(Struct):
    """What a hello says of the cluster, as it is now: of the broker itself, and of the others."""

    address: str = ""
    draining: bool = False
    peers: list[PeerParams] = msgspec.field(default_factory=list)


class Peers(Struct, tag="peers", tag_field="action"):
    """The brokers of the cluster, whenever they have changed. It is about the link, and has no number."""

    params: PeersParams


Event = (
    ConnectionRequest
    | NewConnection
    | NewMessage
    | JoinRequest
    | Disconnected
    | ClientError
    | ClientAdopted
    | ClientSuspended
    | ClientResumed
    | TokenRequest
    | ClientContext
    | Result
    | Leaving
    | Full
    | Ready
    | Heartbeat
    | Hello
    | Welcome
    | LinkRefused
    | Received
    | Peers
)


# --- broker to tool ----------------------------------------------------------------------------------------------


class WatchedParams(Struct, omit_defaults=True):
    """``kind``: ``message_in``, ``message_out``, ``joined``, ``left`` or ``dropped``; ``time`` in seconds since 1970.

    ``message`` is base64 where ``binary`` is true.
    """

    kind: str
    time: float
    room_id: str | None = None
    """The room; of a client's messages the one that it was let into. None for what goes to everyone."""
    client_id: str | None = None
    """Whom it comes from, or, of a private message, whom it is for."""
    message: str | None = None
    binary: bool = False
    clients: int | None = None
    """Of ``message_out``: for how many clients it was."""
    dropped: int = 0
    """Of ``dropped``: how many lines the tool missed here, since it did not read fast enough."""
    elsewhere: bool = False
    """Of ``message_out``: whether it went to other brokers as well, whose clients are not counted."""
    user: str | None = None
    """Of a message to all clients of a user: who that is."""


class Watched(Struct, tag="watched", tag_field="action"):
    """Something flowed in a room that a tool watches. Backends never get it."""

    params: WatchedParams


# --- commands: backend to broker ---------------------------------------------------------------------------------


class ResponseParams(Struct):
    """What is None is left to the broker: a fresh ``client_id``, the path as ``room_id``, no metadata."""

    accepted: bool = False
    client_id: str | None = None
    room_id: str | None = None
    metadata: Raw = Raw(b"{}")
    subprotocol: str | None = None
    """The one of those that the client offered which the 101 names."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """What the 101 has besides."""
    expires_at: float | None = None
    """When the client is to be closed, in seconds since 1970."""
    status: int = 403
    """What a client that is not accepted gets, and ``reason``, the text with it."""
    reason: str = ""
    user: str | None = None
    """Who the client is."""
    rooms: tuple[str, ...] = ()
    """The rooms that it is in besides ``room_id``."""


class Response(Struct, tag="response", tag_field="action"):
    """The answer to a :class:`ConnectionRequest`."""

    params: ResponseParams
    request_id: str
    seq: int = 0


class MessageToRoomParams(Struct, gc=False):
    """``message`` is base64 where ``binary`` is true."""

    room_id: str
    message: str
    binary: bool = False
    exclude: tuple[str, ...] = ()
    """The ``client_id`` of those in the room who don't get it."""
    confirm: bool = False
    volatile: bool = False
    """Whether who is not up to date may miss it (LINK rule 28)."""
    key: str = ""
    """With ``volatile``: it replaces the one of the same key that still waits, instead of being missed."""
    history: bool = True
    """Whether it is for the room's history, where that is kept."""


class MessageToRoom(Struct, tag="message_to_room", tag_field="action", kw_only=True, gc=False):
    """To every client in a room."""

    seq: int = 0
    request_id: str | None = None
    params: MessageToRoomParams


class MessageToConnectionParams(Struct, gc=False):
    """``conn_id`` is the client's ``client_id``."""

    conn_id: str
    message: str
    binary: bool = False
    confirm: bool = False
    volatile: bool = False
    key: str = ""


class MessageToConnection(Struct, tag="message_to_connection", tag_field="action", kw_only=True, gc=False):
    """To one client."""

    seq: int = 0
    request_id: str | None = None
    params: MessageToConnectionParams


class BroadcastParams(Struct):
    """``message`` is base64 where ``binary`` is true."""

    message: str
    binary: bool = False
    exclude: tuple[str, ...] = ()
    confirm: bool = False
    volatile: bool = False
    key: str = ""


class Broadcast(Struct, tag="broadcast", tag_field="action"):
    """To every client of the broker."""

    params: BroadcastParams
    request_id: str | None = None
    seq: int = 0


class MessageToUserParams(Struct, gc=False):
    """``message`` is base64 where ``binary`` is true."""

    user: str
    message: str
    binary: bool = False
    exclude: tuple[str, ...] = ()
    confirm: bool = False
    volatile: bool = False
    key: str = ""


class MessageToUser(Struct, tag="message_to_user", tag_field="action", kw_only=True, gc=False):
    """To all clients of one user."""

    seq: int = 0
    request_id: str | None = None
    params: MessageToUserParams


class ReplyParams(Struct):
    """``to``: the number of the line that asked. ``message`` is base64 where ``binary`` is true.

    ``code``, where it is not empty, says to programs why there is no reply, and ``error`` to people.
    """

    to: int
    message: str = ""
    binary: bool = False
    code: str = ""
    error: str = ""


class Reply(Struct, tag="reply", tag_field="action"):
    """The answer to a :class:`NewMessage` that wants one; it comes before that is :class:`Done`."""

    params: ReplyParams
    request_id: str | None = None
    seq: int = 0


class TokenResponseParams(Struct):
    """``to``: the number of the line that asked. ``expires_at``, of what is accepted: seconds since 1970; None: never.

    ``reason``, of what is not, is for people.
    """

    to: int
    accepted: bool = False
    expires_at: float | None = None
    reason: str = ""


class TokenResponse(Struct, tag="token_response", tag_field="action"):
    """The answer to a :class:`TokenRequest`."""

    params: TokenResponseParams
    request_id: str | None = None
    seq: int = 0


class JoinResponseParams(Struct):
    """``to``: the number of the line that asked. ``history``: how many older messages the client may read.

    ``reason``, of one that is not accepted, is for people. ``presence``: what members are told of it; null: it is not
    present. ``signals``: that it may send signals.
    """

    to: int
    accepted: bool = False
    history: int = 0
    signals: bool = False
    reason: str = ""
    presence: Raw = Raw(b"null")


class JoinResponse(Struct, tag="join_response", tag_field="action"):
    """The answer to a :class:`JoinRequest`."""

    params: JoinResponseParams
    request_id: str | None = None
    seq: int = 0


class RequestClientParams(Struct):
    """Which client, and what it is asked. ``timeout``: seconds for its answer."""

    client_id: str
    message: str
    binary: bool = False
    timeout: float = 10.0


class RequestClient(Struct, tag="request_client", tag_field="action"):
    """Ask a client of `pystrands.v1`. The :class:`Result` has its answer, or why there is none."""

    params: RequestClientParams
    request_id: str | None = None
    seq: int = 0


class MembershipParams(Struct):
    """Which client, and which room; ``signals``: that who joins may send signals there."""

    client_id: str
    room_id: str
    signals: bool = False


class JoinRoom(Struct, tag="join_room", tag_field="action"):
    """Put a client into one more room."""

    params: MembershipParams
    request_id: str | None = None
    seq: int = 0


class LeaveRoom(Struct, tag="leave_room", tag_field="action"):
    """Take a client out of a room."""

    params: MembershipParams
    request_id: str | None = None
    seq: int = 0


class RoomMembersParams(Struct):
    """Which room."""

    room_id: str
    partial: bool = False
    """Whether those that are known are enough, where a broker does not answer."""


class RoomMembers(Struct, tag="room_members", tag_field="action"):
    """Ask who is in a room."""

    params: RoomMembersParams
    request_id: str | None = None
    seq: int = 0


class KeepHistoryParams(Struct):
    """Which room, how many of its messages, 0 for none, and for how many seconds each."""

    room_id: str
    limit: int = 100
    ttl: float = 300.0


class KeepHistory(Struct, tag="keep_history", tag_field="action"):
    """Keep what is sent to a room from now on, at all brokers, or no more."""

    params: KeepHistoryParams
    request_id: str | None = None
    seq: int = 0


class RoomHistoryParams(Struct):
    """Which room, how many of its messages, and before which number; 0 for the newest."""

    room_id: str
    limit: int = 100
    before: int = 0


class RoomHistory(Struct, tag="room_history", tag_field="action"):
    """Ask what was sent to a room, whose history is kept."""

    params: RoomHistoryParams
    request_id: str | None = None
    seq: int = 0


class DisconnectClientParams(Struct):
    """Which client, and what its close frame says."""

    client_id: str
    code: int = NORMAL_CLOSURE
    reason: str = ""


class DisconnectClient(Struct, tag="disconnect_client", tag_field="action"):
    """Close a client's WebSocket."""

    params: DisconnectClientParams
    request_id: str | None = None
    seq: int = 0


class SetPresenceParams(Struct):
    """Who, where, and what is told of it: any JSON value. Null: it is present there no more."""

    client_id: str
    room_id: str
    info: Raw = Raw(b"null")


class SetPresence(Struct, tag="set_presence", tag_field="action"):
    """Have a client be present in a room that it is in."""

    params: SetPresenceParams
    request_id: str | None = None
    seq: int = 0


class GetPresence(Struct, tag="presence", tag_field="action"):
    """Ask who is present in a room."""

    params: RoomMembersParams
    request_id: str | None = None
    seq: int = 0


class DisconnectUserParams(Struct):
    """Whose clients, and what their close frames say."""

    user: str
    code: int = NORMAL_CLOSURE
    reason: str = ""


class DisconnectUser(Struct, tag="disconnect_user", tag_field="action"):
    """Close the WebSockets of all clients of a user."""

    params: DisconnectUserParams
    request_id: str | None = None
    seq: int = 0


class UpdateMetadataParams(Struct):
    """Which client, and the keys to set."""

    client_id: str
    metadata: dict[str, Any]


class UpdateMetadata(Struct, tag="update_metadata", tag_field="action"):
    """Set keys of a client's metadata."""

    params: UpdateMetadataParams
    request_id: str | None = None
    seq: int = 0


class Status(Struct, tag="status", tag_field="action"):
    """Ask what the broker has: clients, rooms, backends, its queue and its counters.

    With ``cluster`` true in ``params`` it is asked of all brokers: :attr:`is_about_all`.
    """

    params: Any = None
    request_id: str | None = None
    seq: int = 0

    @property
    def is_about_all(self) -> bool:
        """Whether all brokers are to tell."""
        return type(self.params) is dict and self.params.get("cluster") is True


class WatchParams(Struct):
    """Which room; None stands for all of them."""

    room_id: str | None = None


class Watch(Struct, tag="watch", tag_field="action"):
    """A tool wants a :class:`Watched` line for what flows in a room, from now on."""

    params: WatchParams
    request_id: str | None = None
    seq: int = 0


class Unwatch(Struct, tag="unwatch", tag_field="action"):
    """A tool wants those lines no more; without a room, none at all."""

    params: WatchParams
    request_id: str | None = None
    seq: int = 0


class RangesParams(Struct):
    """Numbers of events, as inclusive ranges."""

    events: list[tuple[int, int]]


class Done(Struct, tag="done", tag_field="action"):
    """These events are finished, and all that their handlers sent came before (LINK rule 3)."""

    params: RangesParams
    seq: int = 0


class Released(Struct, tag="released", tag_field="action"):
    """These events were not started and will not be (LINK rule 16)."""

    params: RangesParams
    seq: int = 0


class Leave(Struct, tag="leave", tag_field="action"):
    """The backend wants no more clients and events (LINK rule 16)."""

    params: Any = None
    seq: int = 0


class Bye(Struct, tag="bye", tag_field="action"):
    """The session ends here and is not to be resumed."""

    params: Any = None
    seq: int = 0


Request = (
    JoinRoom
    | LeaveRoom
    | RoomMembers
    | KeepHistory
    | RoomHistory
    | DisconnectClient
    | DisconnectUser
    | UpdateMetadata
    | RequestClient
    | SetPresence
    | GetPresence
    | Status
    | Watch
    | Unwatch
)
"""Commands that are always answered by a :class:`Result`, when they have a ``request_id``."""

SessionCommand = (
    Response
    | MessageToRoom
    | MessageToConnection
    | MessageToUser
    | Broadcast
    | Reply
    | TokenResponse
    | JoinResponse
    | RequestClient
    | JoinRoom
    | LeaveRoom
    | RoomMembers
    | SetPresence
    | GetPresence
    | KeepHistory
    | RoomHistory
    | DisconnectClient
    | DisconnectUser
    | UpdateMetadata
    | Status
    | Watch
    | Unwatch
    | Done
    | Released
    | Leave
    | Bye
)
"""Commands that are carried out in a session, each once: those that have a number in protocol 2."""

Command = SessionCommand | Heartbeat | Hello | Received


# --- decoding ----------------------------------------------------------------------------------------------------

M = TypeVar("M")

NOT_KNOWN: Final = (ValueError, RecursionError)
"""What decoding raises; msgspec's errors and UnicodeDecodeError are ValueErrors."""

_MAX_PROBLEM: Final = 300
"""Characters of what is told of a broken line; some of them are the line's own."""


class Unknown(Struct):
    """A line whose action nobody here knows: only its number counts."""

    seq: int


class Broken(Struct):
    """A line that can't be read: ``problem`` is for the one who sent it. What is empty or 0 is not known."""

    problem: str
    action: str = ""
    request_id: str = ""
    seq: int = 0


class Decoder(Generic[M]):
    """Turns a line into one message of a union of tagged Structs."""

    __slots__ = ("_actions", "known")

    def __init__(self, union: Any) -> None:
        self.known: Callable[[bytes], M] = msgspec.json.Decoder(union).decode
        """Decodes a line that is as it should be; what it raises on another one, :meth:`decode` explains."""
        self._actions = {struct.__struct_config__.tag for struct in union.__args__}

    def decode(self, line: bytes) -> M | Unknown | None:
        """Return the message. When its action is unknown: None, or what only holds its number, if it has one.

        Raises MalformedLine, and nothing else, when the line is no JSON object, or has wrong or missing params.
        """
        line_or_broken = self.read(line)
        if isinstance(line_or_broken, Broken):
            broken = line_or_broken
            raise MalformedLine(broken.problem, seq=broken.seq)
        return line_or_broken

    def read(self, line: bytes) -> M | Unknown | Broken | None:
        """Decode a line; of one that is malformed return what is known. Never raises."""
        try:
            return self.known(line)
        except NOT_KNOWN as error:
            remains = remains_of(line)
            if remains.action and remains.action not in self._actions and isinstance(error, msgspec.ValidationError):
                return Unknown(remains.seq) if remains.seq else None
            problem = (
                "it is longer than a line may be" if line.endswith(OVERLONG) else printable(str(error)[:_MAX_PROBLEM])
            )
            return Broken(problem, *remains)


EVENTS: Decoder[Event] = Decoder(Event)
COMMANDS: Decoder[Command] = Decoder(Command)


def message_content(message: str, binary: bool) -> str | bytes:
    """Return what a message's params hold: the text, or the bytes. Raises MalformedLine on bad base64."""
    if not binary:
        return message
    try:
        return b64decode(message, validate=True)
    except ValueError:
        raise MalformedLine("a binary message is not base64") from None
