r"""Writing the messages of the wire; :mod:`pystrands.protocol.messages` reads them.

Short functions that join constant pieces, since one of them runs for every message. Each returns a whole line with its
``\n``. A binary message travels as base64 with ``"binary": true`` beside it.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from pystrands.protocol.messages import (
    ConnectionRequestParams,
    HelloParams,
    PeersParams,
    RecipientParams,
    WatchedParams,
    WelcomeParams,
)
from pystrands.protocol.plain import plain

__all__ = [
    "BYE",
    "HEARTBEAT",
    "LEAVE",
    "LEAVING",
    "NOBODY",
    "WAITING",
    "broadcast",
    "client_adopted",
    "client_resumed",
    "client_suspended",
    "connection_request",
    "context",
    "context_json",
    "disconnected",
    "done",
    "error",
    "full",
    "heartbeat_answer",
    "heartbeat_ask",
    "hello",
    "join_request",
    "join_response",
    "json",
    "known_context",
    "message_to_connection",
    "message_to_room",
    "message_to_user",
    "new_connection",
    "new_message",
    "numbered_message",
    "peers",
    "ready",
    "received",
    "refused",
    "released",
    "reply",
    "reply_error",
    "request",
    "request_client",
    "response",
    "result",
    "token_request",
    "token_response",
    "watched",
    "welcome",
]

_json: Final = msgspec.json.Encoder(enc_hook=plain).encode


def json(value: Any) -> bytes:
    """Encode a value that is made of JSON values."""
    return _json(value)


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


def welcome(session_id: str, resumed: bool, received: int | None) -> bytes:
    """Encode the broker's answer to a hello of protocol 2."""
    params = WelcomeParams(session_id, resumed, received)
    return b'{"action":"welcome","request_id":"","params":' + _json(params) + b"}\n"


def refused(reason: str, final: bool) -> bytes:
    """Encode that the broker does not accept a link, why, in words for people, and whether it never will."""
    params = b'{"reason":%b,"final":%b}' % (_json(reason), b"true" if final else b"false")
    return b'{"action":"refused","request_id":"","params":' + params + b"}\n"


def peers(params: PeersParams) -> bytes:
    """Encode which brokers there are now."""
    return b'{"action":"peers","request_id":"","params":' + _json(params) + b"}\n"


def received(seq: int) -> bytes:
    """Encode that all up to that number has arrived."""
    return b'{"action":"received","request_id":"","params":{"seq":%d}}\n' % seq


def done(ranges: list[tuple[int, int]]) -> bytes:
    """Encode that events are finished."""
    return b'{"action":"done","request_id":"","params":{"events":' + _json(ranges) + b"}}\n"


def released(ranges: list[tuple[int, int]]) -> bytes:
    """Encode that events were not started and will not be."""
    return b'{"action":"released","request_id":"","params":{"events":' + _json(ranges) + b"}}\n"


LEAVE = b'{"action":"leave","request_id":"","params":{}}\n'
LEAVING = b'{"action":"leaving","request_id":"","params":{}}\n'
BYE = b'{"action":"bye","request_id":"","params":{}}\n'


HEARTBEAT = b'{"action":"heartbeat","request_id":"","params":{}}\n'
WAITING = b'{"action":"heartbeat","request_id":"","params":{"waiting":true}}\n'


def heartbeat_ask(number: float) -> bytes:
    """Encode a heartbeat that asks whether the session lives."""
    return b'{"action":"heartbeat","request_id":"","params":{"ask":' + _json(number) + b"}}\n"


def heartbeat_answer(number: float) -> bytes:
    """Encode that the session lived when the broker read the question with that number."""
    return b'{"action":"heartbeat","request_id":"","params":{"answer":' + _json(number) + b"}}\n"


def connection_request(
    request_id: str,
    url: str,
    query_string: str,
    headers: dict[str, list[str]],
    remote_addr: str,
    token: str | None = None,
    resumes: str | None = None,
) -> bytes:
    """Encode the question whether a client may come in."""
    params = _json(
        ConnectionRequestParams(url=url, headers=headers, remote_addr=remote_addr, query_string=query_string)
    )
    if token is not None:
        params = params[:-1] + b',"token":' + _json(token) + b"}"
    if resumes is not None:
        params = params[:-1] + b',"resumes":' + _json(resumes) + b"}"
    return b'{"action":"connection_request","request_id":' + _json(request_id) + b',"params":' + params + b"}\n"


def context_json(
    client_id: str, room_id: str, metadata: bytes, rooms: Sequence[str] | None = None, user: str | None = None
) -> bytes:
    """Encode the constant part of all of a client's events; ``metadata`` is JSON already.

    ``rooms`` is only given where it is something else than ``room_id`` alone.
    """
    return (
        b'{"client_id":'
        + _json(client_id)
        + b',"room_id":'
        + _json(room_id)
        + (b"" if rooms is None else b',"rooms":' + _json(rooms))
        + (b"" if user is None else b',"user":' + _json(user))
        + b',"metadata":'
        + metadata
        + b"}"
    )


NOBODY = context_json("", "", b"{}")
"""The context of what is about no client."""


def known_context(client_id: str) -> bytes:
    """Encode what stands for a context that the session has been told of, and a param that says so."""
    return b'{"client_id":' + _json(client_id) + b'},"known":true'


def context(context: bytes) -> bytes:
    """Encode a client's context, for a session that keeps it for the events that follow."""
    return b'{"action":"context","request_id":"","params":{"context":' + context + b"}}\n"


def new_connection(context: bytes) -> bytes:
    """Encode that a client is in."""
    return b'{"action":"new_connection","request_id":"","params":{"context":' + context + b"}}\n"


def new_message(context: bytes, message: str | bytes) -> bytes:
    """Encode what a client sent."""
    return b'{"action":"new_message","request_id":"","params":{"context":%b,%b}}\n' % (context, _content(message))


def numbered_message(
    context: bytes, message: str | bytes, message_id: str, room_id: str | None, wants_reply: bool = False
) -> bytes:
    """Encode what a client sent, with what it is called, and with the room that it was sent to, if it was to one."""
    more = b',"message_id":' + _json(message_id) if message_id else b""
    if room_id is not None:
        more += b',"room_id":' + _json(room_id)
    if wants_reply:
        more += b',"reply":true'
    params = b'{"context":%b%b,%b}' % (context, more, _content(message))
    return b'{"action":"new_message","request_id":"","params":' + params + b"}\n"


def join_request(context: bytes, room_id: str, data: str | bytes | None, message_id: str) -> bytes:
    """Encode that a client wants to be in one more room, with what it says beside that, if it says anything."""
    more = b"" if data is None else b"," + _content(data)
    params = b'{"context":%b,"room_id":%b,"message_id":%b%b}' % (context, _json(room_id), _json(message_id), more)
    return b'{"action":"join_request","request_id":"","params":' + params + b"}\n"


def client_suspended(context: bytes) -> bytes:
    """Encode that a client has lost its connection, and may come back."""
    return b'{"action":"client_suspended","request_id":"","params":{"context":' + context + b"}}\n"


def client_resumed(context: bytes) -> bytes:
    """Encode that it is back."""
    return b'{"action":"client_resumed","request_id":"","params":{"context":' + context + b"}}\n"


def token_request(context: bytes, token: str) -> bytes:
    """Encode that a client shows a new token."""
    params = b'{"context":%b,"token":%b}' % (context, _json(token))
    return b'{"action":"token_request","request_id":"","params":' + params + b"}\n"


def token_response(to: int, accepted: bool, expires_at: float | None = None, reason: str = "") -> bytes:
    """Encode whether a token is taken, which came in the line of that number."""
    params: dict[str, Any] = {"to": to, "accepted": accepted}
    if accepted and expires_at is not None:
        params["expires_at"] = expires_at
    elif not accepted and reason:
        params["reason"] = reason
    return b'{"action":"token_response","request_id":"","params":' + _json(params) + b"}\n"


def client_adopted(context: bytes) -> bytes:
    """Encode that a client has a new backend."""
    return b'{"action":"client_adopted","request_id":"","params":{"context":' + context + b"}}\n"


def result(request_id: str, params: dict[str, Any]) -> bytes:
    """Encode the answer to a command."""
    return b'{"action":"result","request_id":' + _json(request_id) + b',"params":' + _json(params) + b"}\n"


def full(recipient: RecipientParams) -> bytes:
    """Encode that enough waits for a recipient."""
    return b'{"action":"full","request_id":"","params":' + _json(recipient) + b"}\n"


def ready(recipient: RecipientParams) -> bytes:
    """Encode that a recipient takes more again."""
    return b'{"action":"ready","request_id":"","params":' + _json(recipient) + b"}\n"


def watched(
    kind: str,
    time: float,
    room_id: str | None = None,
    client_id: str | None = None,
    message: str | bytes | None = None,
    *,
    clients: int | None = None,
    elsewhere: bool = False,
    dropped: int = 0,
    user: str | None = None,
) -> bytes:
    """Encode for a tool what flowed in a room."""
    binary = isinstance(message, bytes)
    text = b64encode(message).decode() if isinstance(message, bytes) else message
    params = WatchedParams(kind, time, room_id, client_id, text, binary, clients, dropped, elsewhere, user)
    return b'{"action":"watched","request_id":"","params":' + _json(params) + b"}\n"


def disconnected(context: bytes, code: int, reason: str) -> bytes:
    """Encode that a client is gone, and why."""
    why = b',"code":%d,"reason":%b' % (code, _json(reason))
    return b'{"action":"disconnected","request_id":"","params":{"context":' + context + why + b"}}\n"


def error(context: bytes, text: str) -> bytes:
    """Encode that something went wrong with a client."""
    return b'{"action":"error","request_id":"","params":{"context":' + context + b',"error":' + _json(text) + b"}}\n"


def response(
    request_id: str,
    accepted: bool,
    client_id: str = "",
    room_id: str = "",
    metadata: Any = None,
    subprotocol: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    expires_at: float | None = None,
    status: int = 403,
    reason: str = "",
    user: str | None = None,
    rooms: Sequence[str] = (),
) -> bytes:
    """Encode the answer to a connection request. Raises TypeError when ``metadata`` is not made of JSON values.

    ``status`` and ``reason`` are for a client that is not accepted, all others for one that is.
    """
    params: dict[str, Any] = {"accepted": accepted}
    if accepted:
        params |= {"client_id": client_id, "room_id": room_id, "metadata": metadata}
        if subprotocol is not None:
            params["subprotocol"] = subprotocol
        if headers:
            params["headers"] = headers
        if expires_at is not None:
            params["expires_at"] = expires_at
        if user is not None:
            params["user"] = user
        if rooms:
            params["rooms"] = rooms
    else:
        if status != 403:
            params["status"] = status
        if reason:
            params["reason"] = reason
    return b'{"action":"response","request_id":' + _json(request_id) + b',"params":' + _json(params) + b"}\n"


def request(action: str, request_id: str, params: dict[str, Any]) -> bytes:
    """Encode a command that wants an answer. Raises TypeError when ``params`` is not made of JSON values."""
    return _json({"action": action, "request_id": request_id, "params": params}) + b"\n"


def reply(to: int, message: str | bytes) -> bytes:
    """Encode the answer to a client's request, which came in the line of that number."""
    return b'{"action":"reply","request_id":"","params":{"to":%d,%b}}\n' % (to, _content(message))


def reply_error(to: int, code: str, error: str) -> bytes:
    """Encode that there is none, and why: for programs, and for people."""
    params = b'{"to":%d,"code":%b,"error":%b}' % (to, _json(code), _json(error))
    return b'{"action":"reply","request_id":"","params":' + params + b"}\n"


def join_response(
    to: int, accepted: bool, *, history: int = 0, reason: str = "", presence: Any = None, signals: bool = False
) -> bytes:
    """Encode whether a client may be in a room; ``to``: the number of the line that asked."""
    params: dict[str, Any] = {"to": to, "accepted": accepted}
    if accepted and history:
        params["history"] = history
    if accepted and presence is not None:
        params["presence"] = presence
    if accepted and signals:
        params["signals"] = True
    if not accepted and reason:
        params["reason"] = reason
    return b'{"action":"join_response","request_id":"","params":' + _json(params) + b"}\n"


def request_client(client_id: str, message: str | bytes, request_id: str, timeout: float) -> bytes:
    """Encode a question to a client, which has ``timeout`` seconds for its answer."""
    params = b'{"client_id":%b,"timeout":%b,%b}' % (_json(client_id), _json(timeout), _content(message))
    return b'{"action":"request_client","request_id":' + _json(request_id) + b',"params":' + params + b"}\n"


def message_to_room(
    room_id: str,
    message: str | bytes,
    exclude: Sequence[str] = (),
    confirm_as: str = "",
    key: str | None = None,
    history: bool = True,
) -> bytes:
    """Encode a message to every client in a room; ``key`` as :func:`_with_options` says.

    ``history``: whether the room's history is to have it, where that is kept.

    Raises TypeError and ValueError as any message does.
    """
    to = b'"room_id":' + _json(room_id) + b"," if history else b'"room_id":' + _json(room_id) + b',"history":false,'
    if exclude or confirm_as or key is not None:
        return _with_options("message_to_room", to + _content(message), exclude, confirm_as, key)
    return b'{"action":"message_to_room","request_id":"","params":{' + to + _content(message) + b"}}\n"


def message_to_connection(client_id: str, message: str | bytes, confirm_as: str = "", key: str | None = None) -> bytes:
    """Encode a message to one client; as :func:`message_to_room` otherwise."""
    is_plain = not confirm_as and key is None
    if type(message) is str and is_plain:  # the ordinary case
        return b'{"action":"message_to_connection","request_id":"","params":{"conn_id":%b,"message":%b}}\n' % (
            _json(client_id),
            _json(message),
        )
    to = b'"conn_id":' + _json(client_id) + b","
    if not is_plain:
        return _with_options("message_to_connection", to + _content(message), (), confirm_as, key)
    return b'{"action":"message_to_connection","request_id":"","params":{' + to + _content(message) + b"}}\n"


def message_to_user(
    user: str, message: str | bytes, exclude: Sequence[str] = (), confirm_as: str = "", key: str | None = None
) -> bytes:
    """Encode a message to all clients of a user; as :func:`message_to_room` otherwise."""
    return _with_options(
        "message_to_user", b'"user":' + _json(user) + b"," + _content(message), exclude, confirm_as, key
    )


def broadcast(message: str | bytes, exclude: Sequence[str] = (), confirm_as: str = "", key: str | None = None) -> bytes:
    """Encode a message to every client; as :func:`message_to_room` otherwise."""
    if exclude or confirm_as or key is not None:
        return _with_options("broadcast", _content(message), exclude, confirm_as, key)
    return b'{"action":"broadcast","request_id":"","params":{' + _content(message) + b"}}\n"


def _with_options(action: str, params: bytes, exclude: Sequence[str], confirm_as: str, key: str | None) -> bytes:
    """Encode a message that leaves clients out, wants to be confirmed, or is volatile.

    ``key``: None for a message that is not volatile, empty for one that has no key.
    """
    options = b',"exclude":' + _json(exclude) if exclude else b""
    if confirm_as:
        options += b',"confirm":true'
    if key is not None:
        options += b',"volatile":true'
        if key:
            options += b',"key":' + _json(key)
    return (
        b'{"action":'
        + _json(action)
        + b',"request_id":'
        + _json(confirm_as)
        + b',"params":{'
        + params
        + options
        + b"}}\n"
    )
