"""What a handler is told about a client, and about a client that wants to come in."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qs
from uuid import uuid4

import msgspec

from pystrands.cookies import parse_cookies
from pystrands.headers import Headers, field_problem
from pystrands.protocol.limits import MAX_DEPTH, MAX_REASON
from pystrands.protocol.plain import plain, text

__all__ = ["ConnectionRequestContext", "Context"]

FORBIDDEN: Final = 403


class Context(msgspec.Struct, dict=True):
    """One client, as its backend knows it.

    ``client_id``: what names the client, chosen in ``on_connection_request`` or a fresh UUID4.
    ``room_id``: the room that ``on_connection_request`` chose; by default the path of the client's URL.
    ``user``: who that is, as ``request.accept(user=...)`` said, at however many devices; None where nobody has said.
    ``metadata``: exactly what ``on_connection_request`` put there; JSON values only.
    ``event_id``: names the event that this context came with, the same in every delivery; empty where the link to the
    broker speaks protocol 1. ``redelivered``: True when the event may have been handled before, by a backend that died.

    ``message_id``: in ``on_message``, what names the message of a client of the subprotocol `pystrands.v1`, whenever it
    is sent again; empty for others. ``suspended``: whether such a client has lost its connection and may come back; in
    ``on_client_suspended``, and of those whom ``room_members`` returns.

    ``close_code``, ``reason``: in ``on_disconnect``, why the WebSocket was closed; 1006 when it just vanished, None
    where the broker does not say. ``exception``: in ``on_error``, what the handler raised; None for an error that the
    broker tells of.

    Each event has a ``Context`` of its own: what a handler changes in it stays with that object.
    """

    client_id: str = ""
    room_id: str = ""
    metadata: Any = msgspec.field(default_factory=dict)
    redelivered: bool = False
    close_code: int | None = None
    reason: str = ""
    message_id: str = ""
    suspended: bool = False
    user: str | None = None
    _rooms: tuple[str, ...] | None = msgspec.field(default=None, name="rooms")
    _event: tuple[str, int | str] | None = None

    def __repr__(self) -> str:
        shown = [f"{name}={getattr(self, name)!r}" for name in ("client_id", "room_id", "metadata")]
        if self.user is not None:
            shown.append(f"user={self.user!r}")
        if self._rooms is not None:
            shown.append(f"rooms={self._rooms!r}")
        others = ("event_id", "redelivered", "close_code", "reason", "message_id", "suspended")
        shown += [f"{name}={value!r}" for name in others if (value := getattr(self, name))]
        return f"Context({', '.join(shown)})"

    @property
    def event_id(self) -> str:
        """The name of the event, made when it is asked for."""
        return "" if self._event is None else f"{self._event[0]}-{self._event[1]}"

    @property
    def exception(self) -> BaseException | None:
        """What the handler of this event raised."""
        error: BaseException | None = self.__dict__.get("exception")  # no field: it is never compared or sent
        return error

    @property
    def rooms(self) -> tuple[str, ...]:
        """All rooms that the client was in when the event was sent; at first only ``room_id``."""
        return (self.room_id,) if self._rooms is None else self._rooms

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Context":
        """Make a context from ``data``, which :meth:`to_json` gave; unknown keys are ignored.

        Raises TypeError when a value has the wrong type.
        """
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise TypeError(f"not a context: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Return ``client_id``, ``room_id``, ``metadata``, and ``user`` if there is one, as a dictionary for JSON."""
        shown = {"client_id": self.client_id, "room_id": self.room_id, "metadata": self.metadata}
        return shown if self.user is None else {**shown, "user": self.user}


class ConnectionRequestContext:
    """A client that wants to come in; the argument of ``on_connection_request``.

    ``headers``: those of the client's HTTP request, ``dict[str, list[str]]`` with canonical names, case-insensitive.
    ``cookies``: those among them, ``dict[str, str]``; one that is malformed loses no other.
    ``url``: the path; ``query_string``: what follows the ``?``; ``query``: the same as ``dict[str, list[str]]``.
    ``remote_addr``: ``ip:port``. ``context``: the :class:`Context` that the client will have; change it freely.
    ``accepted``: decides when the callback returns None; True at first.
    ``subprotocol``: None, or the one that the client gets of those that it offered in ``Sec-WebSocket-Protocol``.
    Browsers fail a connection for which they offered some and got none.
    ``token``: what a client of the subprotocol `pystrands.v1` shows; None for others. ``resumes``: the ``client_id`` of
    the session that such a client wants to go on with, where its ``expires_at`` was over meanwhile; let in with the
    same ``client_id`` it goes on with it. None where there is none.

    ``status``, ``reason``: what a rejected client gets, 403 at first. ``response_headers``, ``expires_at``: what one
    that is let in has besides. ``user``: who it is, None where nobody says. ``rooms``: a list of the rooms that it is
    in from the first moment on, beside ``context.room_id``. :meth:`reject` and :meth:`accept` set all of these,
    checked.
    """

    def __init__(
        self,
        headers: Mapping[str, Iterable[str]] | None = None,
        url: str = "/",
        remote_addr: str = "",
        context: Context | None = None,
        accepted: bool = True,
        *,
        query_string: str = "",
        subprotocol: str | None = None,
    ) -> None:
        if not query_string and "?" in url:  # a broker that sends both as one
            url, _, query_string = url.partition("?")
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.url = url
        self.query_string = query_string
        self.remote_addr = remote_addr
        self.context = context if context is not None else Context(client_id=str(uuid4()), room_id=url)
        self._accepted: Any = accepted  # what a handler has put there, whatever that is
        self._touched = False
        self._made = (self.context, self.context.client_id, self.context.room_id)
        self.subprotocol = subprotocol
        self.status = FORBIDDEN
        self.reason = ""
        self.response_headers: dict[str, str] = {}
        self.expires_at: float | None = None
        self.token: str | None = None
        self.resumes: str | None = None
        self.rooms: list[str] = []

    @property
    def user(self) -> str | None:
        """Who the client is: that of ``context``."""
        return self.context.user

    @user.setter
    def user(self, user: str | None) -> None:
        self.context.user = user

    @property
    def accepted(self) -> bool:
        """Whether the client is let in when the callback returns None."""
        accepted: bool = self._accepted
        return accepted

    @accepted.setter
    def accepted(self, accepted: bool) -> None:
        self._accepted = accepted
        self._touched = True

    @property
    def _is_untouched(self) -> bool:
        """Whether the handler neither decided anything nor set anything of the client's."""
        context, client_id, room_id = self._made
        return (
            not self._touched
            and self.context is context
            and (context.client_id, context.room_id) == (client_id, room_id)
            and not context.metadata
            and not self.subprotocol
            and not self.response_headers
            and self.expires_at is None
            and context.user is None
            and not self.rooms
        )

    def reject(self, status: int = FORBIDDEN, reason: str = "") -> Literal[False]:
        """Reject the client; return False, for ``return``.

        ``status`` (int): an HTTP status from 400 to 599. ``reason`` (str): the text of the answer, for people. Of
        several calls of this and :meth:`accept` the last one counts; True and False that the callback returns win over
        both.

        Raises TypeError or ValueError on what can't be sent, and has then changed nothing.
        """
        check_rejection(status, reason)
        self.accepted, self.status, self.reason = False, status, reason
        return False

    def accept(
        self,
        subprotocol: str | None = None,
        headers: Mapping[str, str] | None = None,
        expires_at: float | datetime | None = None,
        *,
        user: str | None = None,
        rooms: Iterable[str] | None = None,
    ) -> Literal[True]:
        """Let the client in; return True, for ``return``.

        ``subprotocol`` (str): one that the client has offered; None leaves the attribute as it is. ``headers`` (dict of
        str): additional ones of the answer, such as ``Set-Cookie``. ``expires_at``: seconds since 1970, or a datetime
        with a time zone: the broker closes the client then, with code 4401. ``user`` (str): who it is, for
        ``send_user_message`` and the like: all clients with the same one are one user's. ``rooms`` (list of str): rooms
        that it is in besides ``context.room_id``. None leaves these two attributes as they are. Of several calls of
        this and :meth:`reject` the last one counts; True and False that the callback returns win over both.

        Raises TypeError or ValueError on what can't be sent, and has then changed nothing.
        """
        checked_headers, timestamp = check_headers(headers or {}), check_time(expires_at)
        checked_user = check_user(self.user if user is None else user)
        self.rooms = check_rooms(self.rooms if rooms is None else rooms)
        self.user = checked_user
        if subprotocol is not None:
            self.subprotocol = subprotocol
        self.accepted, self.status, self.reason = True, FORBIDDEN, ""
        self.response_headers, self.expires_at = checked_headers, timestamp
        return True

    @property
    def query(self) -> dict[str, list[str]]:
        """The query string, percent-decoded: each name with the list of its values."""
        return parse_qs(self.query_string, keep_blank_values=True)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that the client sent, by name; of several with one name the first, whose path is the longest.

        Quotes around a value are taken off. Nothing else is decoded, such as percent signs.
        """
        return parse_cookies(self.headers.get("Cookie", ()))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ConnectionRequestContext":
        """Make one from ``data``, which :meth:`to_json` gave; unknown keys are ignored.

        Raises TypeError when a value of its context has the wrong type.
        """
        context = data.get("context")
        request = cls(
            headers=data.get("headers"),
            url=data.get("url", "/"),
            remote_addr=data.get("remote_addr", ""),
            context=Context.from_json(context) if isinstance(context, Mapping) else context,
            accepted=data.get("accepted", True),
            query_string=data.get("query_string", ""),
            subprotocol=data.get("subprotocol"),
        )
        request.status = data.get("status", FORBIDDEN)
        request.reason = data.get("reason", "")
        request.response_headers = dict(data.get("response_headers", {}))
        request.expires_at = data.get("expires_at")
        request.rooms = list(data.get("rooms", ()))
        return request

    def to_json(self) -> dict[str, Any]:
        """Return everything as a dictionary for JSON."""
        return {
            "headers": dict(self.headers),
            "url": self.url,
            "query_string": self.query_string,
            "remote_addr": self.remote_addr,
            "context": self.context.to_json(),
            "accepted": self.accepted,
            "subprotocol": self.subprotocol,
            "status": self.status,
            "reason": self.reason,
            "response_headers": dict(self.response_headers),
            "expires_at": self.expires_at,
            "rooms": list(self.rooms),
        }

    def __repr__(self) -> str:
        return f"ConnectionRequestContext(url={self.url!r}, remote_addr={self.remote_addr!r}, context={self.context!r})"


def check_rejection(status: Any, reason: Any) -> None:
    """Raise TypeError or ValueError unless a client can be rejected with these."""
    if not isinstance(status, int) or isinstance(status, bool):
        hint = "; reason= takes the text" if isinstance(status, str) else ""
        raise TypeError(f"a client is rejected with an HTTP status as an int, not {type(status).__name__}{hint}")
    if not 400 <= status <= 599:
        raise ValueError(f"a client is rejected with an HTTP status from 400 to 599, not {status}")
    if not isinstance(reason, str):
        raise TypeError(f"the reason of a rejection is a str, not {type(reason).__name__}")
    if len(reason) > MAX_REASON:
        raise ValueError(f"the reason of a rejection has at most {MAX_REASON} characters, not {len(reason)}")
    reason.encode()  # a ValueError where UTF-8 can't say it


def check_headers(headers: Any) -> dict[str, str]:
    """Return additional headers as a dict. Raises TypeError or ValueError on what can't be one."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers are a dict of str to str, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers are a dict of str to str; there is {type(name).__name__}: {type(value).__name__}")
        if problem := field_problem(name, value):
            raise ValueError(f"the header {name!r} {problem}")
    return {text(name): text(value) for name, value in headers.items()}


def check_user(value: Any) -> str | None:
    """Return who a client is; None for None. Raises TypeError on what is no str, ValueError on an empty one."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"user is a str or None, not {type(value).__name__}: an id as a str, such as str(user.pk)")
    if not value:
        raise ValueError("user must not be empty: None stands for nobody")
    return text(value)


def check_rooms(value: Any) -> list[str]:
    """Return rooms as a list. Raises TypeError on what is none: a single str would be one room for each letter."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"rooms is a list of str, not {type(value).__name__}")
    rooms = list(value)
    for room_id in rooms:
        if not isinstance(room_id, str):
            raise TypeError(f"rooms is a list of str; there is {type(room_id).__name__}")
    return [text(room_id) for room_id in rooms]


def check_time(value: Any) -> float | None:
    """Return a time in seconds since 1970, None for None. Raises TypeError or ValueError on what is no time."""
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError("expires_at is a datetime without a time zone; datetime.now(UTC) has one")
        return value.timestamp()
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"expires_at is a number of seconds since 1970 or a datetime, not {type(value).__name__}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise ValueError(f"expires_at is no time: {value!r}" if isinstance(value, float) else "expires_at is too big")
    return seconds


def check_json(
    value: Any, path: str = "request.context.metadata", depth: int = 0, caller: str = "on_connection_request"
) -> Any:
    """Return ``value`` as it comes back from JSON: tuples as lists, what derives from ``str`` or a number as that.

    Raises TypeError, naming ``path`` and the type, on what would come back as something else: the encoder alone would
    turn dates, UUIDs and bytes into strings that handlers would not recognise.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | int | float):
        if isinstance(value, float) and not math.isfinite(value):
            raise TypeError(f"{caller} put {value!r} into {path}; JSON has no such number")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            raise TypeError(f"{caller} put an int of more than 64 bits into {path}; a str of its digits can have any")
        return plain(value)
    if depth >= MAX_DEPTH and isinstance(value, dict | list | tuple):
        raise TypeError(f"{caller} nested {path} deeper than {MAX_DEPTH} levels (does it contain itself?)")
    if isinstance(value, dict):
        members = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{caller} put a key of type {type(key).__name__} into {path}; JSON keys are str")
            members[text(key)] = check_json(inner, f"{path}[{key!r}]", depth + 1, caller)
        return members
    if isinstance(value, list | tuple):
        return [check_json(inner, f"{path}[{index}]", depth + 1, caller) for index, inner in enumerate(value)]
    raise TypeError(
        f"{caller} put a {type(value).__name__} into {path}; use JSON values: dict, list, str, int, float, bool, None"
    )
