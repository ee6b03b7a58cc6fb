r"""The messages of the wire: one JSON object a line, ``{"action", "request_id", "params"}``.

*Events* go from the broker to a backend, *commands* from a backend to the broker. Decoding gives a Struct for each
action; unknown actions give None, unknown params are ignored. Encoding is by short functions that join constant pieces,
since one of them runs for every message; each returns a whole line with its ``\n``.

A binary message travels as base64 with ``"binary": true`` beside it.
"""

from base64 import b64decode, b64encode
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from pystrands.context import Context
from pystrands.errors import MalformedLine

__all__ = [
    "COMMANDS",
    "EVENTS",
    "HEARTBEAT",
    "PROTOCOL",
    "Broadcast",
    "ClientError",
    "Command",
    "ConnectionRequest",
    "Decoder",
    "Disconnected",
    "Event",
    "Heartbeat",
    "Hello",
    "MessageToConnection",
    "MessageToRoom",
    "NewConnection",
    "NewMessage",
    "Response",
    "broadcast",
    "connection_request",
    "context_json",
    "disconnected",
    "error",
    "hello",
    "line_limit",
    "message_content",
    "message_to_connection",
    "message_to_room",
    "new_connection",
    "new_message",
    "response",
]

PROTOCOL = 1
"""The highest version of the protocol that this library speaks."""

_json = msgspec.json.Encoder().encode


def line_limit(max_message_size: int) -> int:
    r"""Return the longest line, in bytes, that a link has to take for messages of ``max_message_size`` bytes.

    JSON may write one byte as six (``\u0000``); 64 KiB are for the rest of the line. (LINK rule 5.)
    """
    return 6 * max_message_size + 65536


# --- both directions ---------------------------------------------------------------------------------------------


class HelloParams(Struct):
    """``protocol``: the highest version the sender speaks; the link uses the lower of both."""

    protocol: int = 1
    binary: bool = False
    broker_id: str = ""
    """New for every broker process; empty from a backend."""
    max_line: int = 0
    """The longest line, in bytes, that the sender takes; 0 where it does not say."""
    max_message_size: int = 0
    """The longest message, in bytes, that the broker takes; 0 where it does not say."""
    name: str = ""
    """What names a backend in the broker's log."""


class Hello(Struct, tag="hello", tag_field="action"):
    """The first line of each side, from those that know it."""

    params: HelloParams
    request_id: str | None = None


class Heartbeat(Struct, tag="heartbeat", tag_field="action"):
    """Says only that the peer is alive."""

    params: Any = None
    request_id: str | None = None


# --- events: broker to backend -----------------------------------------------------------------------------------


class ConnectionRequestParams(Struct):
    """``url`` is the path, ``query_string`` what came after the ``?``."""

    url: str = "/"
    headers: dict[str, list[str]] = msgspec.field(default_factory=dict)
    remote_addr: str = ""
    query_string: str = ""


class ConnectionRequest(Struct, tag="connection_request", tag_field="action"):
    """A client wants to come in; the answer is a :class:`Response` with the same ``request_id``."""

    params: ConnectionRequestParams
    request_id: str | None = None


class ContextParams(Struct):
    """The params of an event that only tells which client."""

    context: Context


class NewConnection(Struct, tag="new_connection", tag_field="action"):
    """A client is in."""

    params: ContextParams
    request_id: str | None = None


class Disconnected(Struct, tag="disconnected", tag_field="action"):
    """A client is gone."""

    params: ContextParams
    request_id: str | None = None


class NewMessageParams(Struct):
    """``message`` is base64 where ``binary`` is true."""

    message: str
    context: Context
    binary: bool = False


class NewMessage(Struct, tag="new_message", tag_field="action"):
    """A client sent a message."""

    params: NewMessageParams
    request_id: str | None = None


class ClientErrorParams(Struct):
    """``context`` is there whether or not the error is about one client."""

    error: str = ""
    context: Context = msgspec.field(default_factory=Context)


class ClientError(Struct, tag="error", tag_field="action"):
    """Something went wrong with a client, such as a message that was too big."""

    params: ClientErrorParams
    request_id: str | None = None


Event = ConnectionRequest | NewConnection | NewMessage | Disconnected | ClientError | Heartbeat | Hello


# --- commands: backend to broker ---------------------------------------------------------------------------------


class ResponseParams(Struct):
    """What is None is left to the broker: a fresh ``client_id``, the path as ``room_id``, no metadata."""

    accepted: bool = False
    client_id: str | None = None
    room_id: str | None = None
    metadata: Raw = Raw(b"{}")


class Response(Struct, tag="response", tag_field="action"):
    """The answer to a :class:`ConnectionRequest`."""

    params: ResponseParams
    request_id: str


class MessageToRoomParams(Struct):
    """``message`` is base64 where ``binary`` is true."""

    room_id: str
    message: str
    binary: bool = False


class MessageToRoom(Struct, tag="message_to_room", tag_field="action"):
    """To every client in a room."""

    params: MessageToRoomParams
    request_id: str | None = None


class MessageToConnectionParams(Struct):
    """``conn_id`` is the client's ``client_id``."""

    conn_id: str
    message: str
    binary: bool = False


class MessageToConnection(Struct, tag="message_to_connection", tag_field="action"):
    """To one client."""

    params: MessageToConnectionParams
    request_id: str | None = None


class BroadcastParams(Struct):
    """``message`` is base64 where ``binary`` is true."""

    message: str
    binary: bool = False


class Broadcast(Struct, tag="broadcast", tag_field="action"):
    """To every client of the broker."""

    params: BroadcastParams
    request_id: str | None = None


Command = Response | MessageToRoom | MessageToConnection | Broadcast | Heartbeat | Hello


# --- decoding ----------------------------------------------------------------------------------------------------

M = TypeVar("M")


class _Envelope(Struct):
    action: str


class Decoder(Generic[M]):
    """Turns a line into one message of a union of tagged Structs."""

    __slots__ = ("_actions", "_decode", "_envelope")

    def __init__(self, union: Any) -> None:
        self._decode = msgspec.json.Decoder(union).decode
        self._envelope = msgspec.json.Decoder(_Envelope).decode
        self._actions = {struct.__struct_config__.tag for struct in union.__args__}

    def decode(self, line: bytes) -> M | None:
        """Return the message, or None when its action is unknown.

        Raises MalformedLine, and nothing else, when the line is no JSON object, or has wrong or missing params.
        """
        try:
            message: M = self._decode(line)
        except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
            if isinstance(error, msgspec.ValidationError) and self._is_unknown(line):
                return None
            raise MalformedLine(str(error)) from None
        return message

    def _is_unknown(self, line: bytes) -> bool:
        try:
            return self._envelope(line).action not in self._actions
        except (ValueError, RecursionError):
            return False


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


# --- encoding ----------------------------------------------------------------------------------------------------


def _content(message: str | bytes) -> bytes:
    r"""Return ``"message":...`` with its flag, to be put at the end of the params.

    Raises TypeError when ``message`` is neither str nor bytes, and ValueError on a str that UTF-8 can't say.
    """
    if isinstance(message, str):
        return b'"message":' + _json(message)
    if isinstance(message, bytes | bytearray | memoryview):
        return b'"binary":true,"message":"' + b64encode(message) + b'"'
    raise TypeError(f"a message is str or bytes, not {type(message).__name__}; json.dumps() makes a str of most values")


def hello(params: HelloParams) -> bytes:
    """Encode the first line of either side."""
    return b'{"action":"hello","request_id":"","params":' + _json(params) + b"}\n"


HEARTBEAT = b'{"action":"heartbeat","request_id":"","params":{}}\n'


def connection_request(
    request_id: str, url: str, query_string: str, headers: dict[str, list[str]], remote_addr: str
) -> bytes:
    """Encode the question whether a client may come in."""
    params = ConnectionRequestParams(url=url, headers=headers, remote_addr=remote_addr, query_string=query_string)
    return b'{"action":"connection_request","request_id":' + _json(request_id) + b',"params":' + _json(params) + b"}\n"


def context_json(client_id: str, room_id: str, metadata: bytes) -> bytes:
    """Encode the constant part of all of a client's events; ``metadata`` is JSON already."""
    return b'{"client_id":' + _json(client_id) + b',"room_id":' + _json(room_id) + b',"metadata":' + metadata + b"}"


def new_connection(context: bytes) -> bytes:
    """Encode that a client is in."""
    return b'{"action":"new_connection","request_id":"","params":{"context":' + context + b"}}\n"


def new_message(context: bytes, message: str | bytes) -> bytes:
    """Encode what a client sent."""
    return (
        b'{"action":"new_message","request_id":"","params":{"context":' + context + b"," + _content(message) + b"}}\n"
    )


def disconnected(context: bytes) -> bytes:
    """Encode that a client is gone."""
    return b'{"action":"disconnected","request_id":"","params":{"context":' + context + b"}}\n"


def error(context: bytes, text: str) -> bytes:
    """Encode that something went wrong with a client."""
    return b'{"action":"error","request_id":"","params":{"context":' + context + b',"error":' + _json(text) + b"}}\n"


def response(request_id: str, accepted: bool, client_id: str = "", room_id: str = "", metadata: Any = None) -> bytes:
    """Encode the answer to a connection request. Raises TypeError when ``metadata`` is not made of JSON values."""
    params: dict[str, Any] = {"accepted": accepted}
    if accepted:
        params |= {"client_id": client_id, "room_id": room_id, "metadata": metadata}
    return b'{"action":"response","request_id":' + _json(request_id) + b',"params":' + _json(params) + b"}\n"


def message_to_room(room_id: str, message: str | bytes) -> bytes:
    """Encode a message to every client in a room. Raises TypeError and ValueError as any message does."""
    return (
        b'{"action":"message_to_room","request_id":"","params":{"room_id":'
        + _json(room_id)
        + b","
        + _content(message)
        + b"}}\n"
    )


def message_to_connection(client_id: str, message: str | bytes) -> bytes:
    """Encode a message to one client. Raises TypeError and ValueError as any message does."""
    return (
        b'{"action":"message_to_connection","request_id":"","params":{"conn_id":'
        + _json(client_id)
        + b","
        + _content(message)
        + b"}}\n"
    )


def broadcast(message: str | bytes) -> bytes:
    """Encode a message to every client. Raises TypeError and ValueError as any message does."""
    return b'{"action":"broadcast","request_id":"","params":{' + _content(message) + b"}}\n"
