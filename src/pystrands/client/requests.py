"""The lines that a client's methods send, and what is checked before. No I/O."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from pystrands.client.connection.broker_info import BrokerInfo
from pystrands.context import Context, check_json
from pystrands.errors import (
    BinaryNotSupported,
    ClientGone,
    MessageError,
    MessageTooBig,
    NotSupported,
    PyStrandsError,
    RequestFailed,
)
from pystrands.protocol import wire
from pystrands.protocol.close_codes import close_code_is_valid
from pystrands.protocol.messages import RecipientParams, ResultParams
from pystrands.protocol.plain import text
from pystrands.protocol.v1.rings import RING_MESSAGES

__all__ = [
    "AT_ONCE",
    "TO_EVERYONE",
    "Encode",
    "broadcast",
    "check_message",
    "check_users",
    "disconnect_client",
    "disconnect_user",
    "is_client",
    "join_room",
    "keep_history",
    "leave_room",
    "presence",
    "private_message",
    "recipient",
    "request_client",
    "result_error",
    "room_history",
    "room_members",
    "room_message",
    "set_presence",
    "to_client",
    "to_recipient",
    "to_room",
    "to_user",
    "update_metadata",
    "user_message",
    "volatile_key",
]

logger = logging.getLogger(__name__)

TO_EVERYONE: Final = "*"
"""Names everyone as the recipient of a message; see :func:`to_client`."""
AT_ONCE: Final = "!"
"""Stands in the place of a recipient for a volatile message, which waits for nobody and nothing."""

MAX_REQUEST_TIMEOUT: Final = 3600.0
"""Seconds for which the broker waits for a client's answer, at most."""
_LONGEST_TTL: Final = 366 * 86_400.0
Encode = Callable[[str], bytes]
"""Gives the line of a command that asks for an answer, from its request id."""


def check_message(message: Any, broker: BrokerInfo | None) -> str | bytes:
    """Return a message as ``str`` or ``bytes``. Raises what one that can't be sent to ``broker`` deserves.

    A broker of None is not connected.

    TypeError: neither str nor bytes. MessageTooBig: more bytes (a str's in UTF-8) than the broker takes.
    BinaryNotSupported: bytes, to a broker that only knows text.
    """
    content: str | bytes
    if isinstance(message, str):
        content = message if type(message) is str else text(message)
        if broker is None or not broker.max_message_size or len(content) * 4 <= broker.max_message_size:
            return content
        try:
            size = len(content) if content.isascii() else len(content.encode())
        except UnicodeEncodeError:
            return content  # the encoder says it better
    elif isinstance(message, bytes | bytearray | memoryview):
        content = bytes(message)
        if broker is None:
            return content
        if not broker.binary:
            raise BinaryNotSupported(
                "the message is bytes, and this broker only knows text: send a str, or use the broker of PyStrands 2"
            )
        size = len(content)
    else:
        raise TypeError(
            f"a message is str or bytes, not {type(message).__name__}; json.dumps() makes a str of most values"
        )
    if broker.max_message_size and size > broker.max_message_size:
        raise MessageTooBig(
            f"the message has {size} bytes and the broker takes {broker.max_message_size}: "
            "send less, or raise the broker's --max-message-size"
        )
    return content


def check_id(parameter: str, value: Any) -> str:
    """Return ``value``, the argument ``parameter``, as a str. Raises TypeError if it is none."""
    if not isinstance(value, str):
        has = "room_id" if parameter == "room_id" else "client_id"
        hint = f": its {has} is one" if isinstance(value, Context) else ""
        raise TypeError(f"{parameter} must be a str, not {type(value).__name__}{hint}")
    return value if type(value) is str else text(value)


def check_length(parameter: str, value: str, broker: BrokerInfo | None) -> None:
    """Raise ValueError on an id that is longer than the broker takes; a broker of None is not connected."""
    limit = broker.max_id if broker is not None else 0
    if not limit or len(value) * 4 <= limit:
        return
    size = len(value.encode(errors="surrogatepass"))
    if size > limit:
        raise ValueError(f"{parameter} has {size} bytes in UTF-8 and the broker takes {limit}: choose a shorter one")


def _excluded(exclude: str | Iterable[str]) -> tuple[str, ...]:
    """Return the client ids to leave out. Raises TypeError on what is no str."""
    given: Any = exclude  # whatever it is: compiled code would look first, and say less
    ids: Any = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else given
    return tuple([check_id("exclude", each) for each in ids])


def to_client(client_id: str) -> str:
    """Name a client as the recipient of a message; no room has the same name."""
    if type(client_id) is not str:  # to what template engines derive from it a plus means something else
        client_id = check_id("client_id", client_id)
    return "c" + client_id


def is_client(to: str) -> bool:
    """Whether a recipient is a client."""
    return to.startswith("c")


def to_room(room_id: str) -> str:
    """Name a room as the recipient of a message."""
    if type(room_id) is not str:
        room_id = check_id("room_id", room_id)
    return "r" + room_id


def to_user(user: str) -> str:
    """Name a user as the recipient of a message."""
    return "u" + check_id("user", user)


def to_recipient(params: RecipientParams) -> str:
    """Name the recipient that the broker speaks of."""
    if params.client_id is not None:
        return to_client(params.client_id)
    if params.user is not None:
        return to_user(params.user)
    return TO_EVERYONE if params.room_id is None else to_room(params.room_id)


def volatile_key(volatile: bool, key: Any) -> str | None:
    """Return what :mod:`pystrands.protocol.wire` takes as the key: None for a message that is not volatile.

    Raises TypeError on a key that is no str, and ValueError on an empty one.
    """
    if key is None:
        return "" if volatile else None
    name = check_id("key", key)
    if not name:
        raise ValueError("key must not be empty: leave it out where a message replaces no other")
    return name


def broadcast(
    message: Any,
    broker: BrokerInfo | None,
    exclude: str | Iterable[str] = (),
    confirm_as: str = "",
    key: str | None = None,
) -> bytes:
    """Return the line of a broadcast; raises as :func:`check_message` does. ``key``: see :func:`volatile_key`."""
    message = check_message(message, broker)
    try:
        return wire.broadcast(message, _excluded(exclude), confirm_as, key)
    except UnicodeEncodeError as error:
        raise _not_text(error) from None


def room_message(
    room_id: Any,
    message: Any,
    broker: BrokerInfo | None,
    exclude: str | Iterable[str] = (),
    confirm_as: str = "",
    key: str | None = None,
    history: bool = True,
) -> bytes:
    """Return the line of a message to a room; as :func:`broadcast` otherwise. ``history``: whether that has it."""
    if type(room_id) is not str or type(message) is not str or broker is None or len(message) > broker.fits:
        room_id, message = check_id("room_id", room_id), check_message(message, broker)
    to: str = room_id
    if to.startswith("{"):
        _swapped("room_id", room_id, message)
    try:
        return wire.message_to_room(room_id, message, _excluded(exclude) if exclude else (), confirm_as, key, history)
    except UnicodeEncodeError as error:
        raise _not_text(error) from None


def private_message(
    client_id: Any, message: Any, broker: BrokerInfo | None, confirm_as: str = "", key: str | None = None
) -> bytes:
    """Return the line of a message to one client; as :func:`broadcast` otherwise."""
    if type(client_id) is not str or type(message) is not str or broker is None or len(message) > broker.fits:
        client_id, message = check_id("client_id", client_id), check_message(message, broker)
    to: str = client_id
    if to.startswith("{"):
        _swapped("client_id", client_id, message)
    try:
        return wire.message_to_connection(client_id, message, confirm_as, key)
    except UnicodeEncodeError as error:
        raise _not_text(error) from None


def user_message(
    user: Any,
    message: Any,
    broker: BrokerInfo | None,
    exclude: str | Iterable[str] = (),
    confirm_as: str = "",
    key: str | None = None,
) -> bytes:
    """Return the line of a message to all clients of a user; as :func:`broadcast` otherwise.

    Raises NotSupported where the broker knows no users.
    """
    user, message = check_id("user", user), check_message(message, broker)
    check_users(broker)
    to: str = user
    if to.startswith("{"):
        _swapped("user", user, message)
    try:
        return wire.message_to_user(user, message, _excluded(exclude), confirm_as, key)
    except UnicodeEncodeError as error:
        raise _not_text(error) from None


def check_users(broker: BrokerInfo | None) -> None:
    """Raise NotSupported where the broker is one that knows no users."""
    if broker is not None and not broker.said_hello:
        raise NotSupported("the broker at the other end is the original one, which knows no users")


_told_swapped: Final[set[str]] = set()


def _swapped(parameter: str, value: str, message: Any) -> None:
    """Log a warning, once for each parameter, when an id is a JSON object and the message beside it is none."""
    if parameter in _told_swapped or (isinstance(message, str) and message[:1] == "{"):
        return
    try:
        msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return
    _told_swapped.add(parameter)
    logger.warning("a message was sent with the %s %.100r: are %s and message swapped?", parameter, value, parameter)


def _not_text(error: UnicodeEncodeError) -> MessageError:
    return MessageError(f"the text can't be written in UTF-8 ({error.reason} at position {error.start})")


def _request(action: str, params: dict[str, Any]) -> Encode:
    for name in ("client_id", "room_id", "user", "reason"):
        if name in params:
            params[name] = check_id(name, params[name])

    return _encoded(lambda request_id: wire.request(action, request_id, params))


def _encoded(write: Encode) -> Encode:
    """Return what writes a line, and raises MessageError where a text is none in UTF-8."""

    def encode(request_id: str) -> bytes:
        try:
            return write(request_id)
        except UnicodeEncodeError as error:
            raise _not_text(error) from None

    return encode


def recipient(**named: str | None) -> str:
    """Return which parameter names the recipient. Raises TypeError unless one does, which is a str."""
    given = [name for name, value in named.items() if value is not None]
    if len(given) != 1:
        raise TypeError(f"say whom it is for: one of {', '.join(named)}, not {' and '.join(given) or 'none of them'}")
    check_id(given[0], named[given[0]])
    return given[0]


def request_client(client_id: Any, message: Any, broker: BrokerInfo | None, timeout: Any) -> Encode:
    """Return what asks a client. Raises as :func:`check_message` does, and on a ``timeout`` that is no time to wait."""
    client_id, message = check_id("client_id", client_id), check_message(message, broker)
    if not isinstance(timeout, int | float):
        raise TypeError(f"timeout is a number of seconds, not {type(timeout).__name__}")
    if not 0 < timeout <= MAX_REQUEST_TIMEOUT:
        raise ValueError(f"timeout must be more than 0 and at most {MAX_REQUEST_TIMEOUT:g} seconds, not {timeout:g}")

    return _encoded(lambda request_id: wire.request_client(client_id, message, request_id, float(timeout)))


def result_error(params: ResultParams) -> Exception:
    """Return what is raised where the broker says that nothing came of a command."""
    code, text = params.code, params.error
    if not code:
        return PyStrandsError(text)
    if code == "gone":
        return ClientGone(text)
    if code == "not_supported":
        return NotSupported(text)
    return TimeoutError(text) if code == "timeout" else RequestFailed(code, text)


def join_room(client_id: Any, room_id: Any, broker: BrokerInfo | None, signals: bool = False) -> Encode:
    """Return what puts a client into a room. Raises TypeError on what is no str, ValueError on what is too long."""
    check_id("room_id", room_id)
    check_length("room_id", room_id, broker)
    params = {"client_id": client_id, "room_id": room_id}
    return _request("join_room", {**params, "signals": True} if signals else params)


def leave_room(client_id: Any, room_id: Any) -> Encode:
    """Return what takes a client out of a room. Raises TypeError on what is no str."""
    return _request("leave_room", {"client_id": client_id, "room_id": room_id})


def room_members(room_id: Any, partial: bool) -> Encode:
    """Return what asks who is in a room. Raises TypeError on what is no str."""
    params: dict[str, Any] = {"room_id": room_id}
    if partial:
        params["partial"] = True
    return _request("room_members", params)


def keep_history(room_id: Any, limit: Any, ttl: Any, broker: BrokerInfo | None) -> Encode:
    """Return what has a room's history kept. Raises TypeError or ValueError on what can't be."""
    check_id("room_id", room_id)
    check_length("room_id", room_id, broker)
    check_count("limit", limit)
    if not isinstance(ttl, int | float) or isinstance(ttl, bool):
        raise TypeError(f"ttl is a number of seconds, not {type(ttl).__name__}")
    if not 0 < ttl <= _LONGEST_TTL:
        raise ValueError(f"ttl is a number of seconds, more than 0 and at most a year, not {ttl!r}")
    return _request("keep_history", {"room_id": room_id, "limit": limit, "ttl": float(ttl)})


def room_history(room_id: Any, limit: Any, before: Any) -> Encode:
    """Return what reads a room's history. Raises TypeError or ValueError on what can't be."""
    check_count("limit", limit)
    number = 0
    if before is not None:
        number = getattr(before, "number", None)  # type: ignore[assignment]  # looked at below
        if not isinstance(number, int):
            raise TypeError(f"before is a HistoryMessage, not {type(before).__name__}")
    return _request("room_history", {"room_id": room_id, "limit": limit, "before": number})


def check_count(parameter: str, value: Any) -> None:
    """Raise TypeError or ValueError unless this is a number of messages that a history may have."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{parameter} is a number of messages, not {type(value).__name__}")
    if not 0 <= value <= RING_MESSAGES:
        raise ValueError(f"{parameter} is a number of messages from 0 to {RING_MESSAGES}, not {value}")


def _check_code(code: Any) -> None:
    if not isinstance(code, int) or not close_code_is_valid(code):
        raise ValueError(
            f"code must be 1000, or 3000 to 4999, or another that RFC 6455 lets a server send, not {code!r}"
        )


def disconnect_client(client_id: Any, code: Any, reason: Any) -> Encode:
    """Return what closes a client's WebSocket. Raises ValueError on a code that a close frame can't have."""
    _check_code(code)
    return _request("disconnect_client", {"client_id": client_id, "code": code, "reason": reason})


def presence(room_id: Any, partial: bool) -> Encode:
    """Return what asks who is present in a room. Raises TypeError on what is no str."""
    params: dict[str, Any] = {"room_id": room_id}
    if partial:
        params["partial"] = True
    return _request("presence", params)


def set_presence(client_id: Any, room_id: Any, info: Any) -> Encode:
    """Return what has a client be present in a room. Raises TypeError on what is not made of JSON values."""
    shown = check_json(info, "info", caller="set_presence")
    return _request("set_presence", {"client_id": client_id, "room_id": room_id, "info": shown})


def disconnect_user(user: Any, code: Any, reason: Any) -> Encode:
    """Return what closes all clients of a user. Raises ValueError on a code that a close frame can't have."""
    check_id("user", user)
    _check_code(code)
    return _request("disconnect_user", {"user": user, "code": code, "reason": reason})


def update_metadata(client_id: Any, metadata: Any, broker: BrokerInfo | None) -> Encode:
    """Return what sets keys of a client's metadata. Raises TypeError on what is no dict, or not made of JSON values.

    What it returns raises MessageTooBig on what no client's metadata can hold.
    """
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a dict of the keys to set, not {type(metadata).__name__}")
    changes = check_json(dict(metadata), "metadata", caller="update_metadata")
    encode = _request("update_metadata", {"client_id": client_id, "metadata": changes})
    limit = broker.max_context if broker is not None else 0

    def encode_within(request_id: str) -> bytes:
        line = encode(request_id)
        if 0 < limit < len(line) and (size := len(wire.json(changes))) > limit:
            raise MessageTooBig(
                f"the metadata has {size} bytes as JSON, and the broker takes {limit} for all of a client's ids, rooms "
                "and metadata: keep less in it"
            )
        return line

    return encode_within
