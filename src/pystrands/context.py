"""What a handler is told about a client, and about a client that wants to come in."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs
from uuid import uuid4

import msgspec

__all__ = ["ConnectionRequestContext", "Context", "Headers"]


class Context(msgspec.Struct, dict=True):
    """One client, as its backend knows it.

    ``client_id``: what names the client, chosen in ``on_connection_request`` or a fresh UUID4.
    ``room_id``: the room that ``on_connection_request`` chose; by default the path of the client's URL.
    ``metadata``: exactly what ``on_connection_request`` put there; JSON values only.
    ``event_id``: names the event that this context came with, the same in every delivery; empty where the link to the
    broker speaks protocol 1. ``redelivered``: True when the event may have been handled before, by a backend that died.

    ``close_code``, ``reason``: in ``on_disconnect``, why the WebSocket was closed; 1006 when it just vanished, None
    where the broker does not say.

    Each event has a ``Context`` of its own: what a handler changes in it stays with that object.
    """

    client_id: str = ""
    room_id: str = ""
    metadata: Any = msgspec.field(default_factory=dict)
    redelivered: bool = False
    close_code: int | None = None
    reason: str = ""
    _rooms: tuple[str, ...] | None = msgspec.field(default=None, name="rooms")
    _event: tuple[str, int] | None = None

    @property
    def event_id(self) -> str:
        """The name of the event, made when it is asked for."""
        return "" if self._event is None else f"{self._event[0]}-{self._event[1]}"

    @property
    def rooms(self) -> tuple[str, ...]:
        """All rooms that the client was in when the event was sent; at first only ``room_id``."""
        return (self.room_id,) if self._rooms is None else self._rooms

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Context":
        """Make a context from what :meth:`to_json` gave; unknown keys are ignored.

        Raises TypeError when a value has the wrong type.
        """
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise TypeError(f"not a context: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Return ``client_id``, ``room_id`` and ``metadata`` as a dictionary for JSON."""
        return {"client_id": self.client_id, "room_id": self.room_id, "metadata": self.metadata}


class Headers(dict[str, list[str]]):
    """HTTP headers: canonical names (``X-Token``) to the list of their values; look-up ignores case."""

    __slots__ = ()
    _missing: ClassVar[object] = object()

    def __init__(self, headers: Mapping[str, Iterable[str]] | None = None) -> None:
        super().__init__()
        for name, values in (headers or {}).items():
            self.setdefault(name, []).extend(values)

    @staticmethod
    def canonical(name: str) -> str:
        """Return ``name`` with a capital at the start and after each hyphen, the rest in lower case."""
        return "-".join(part.capitalize() for part in name.split("-"))

    def __getitem__(self, name: str) -> list[str]:
        return super().__getitem__(self.canonical(name))

    def __setitem__(self, name: str, values: list[str]) -> None:
        super().__setitem__(self.canonical(name), values)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(self.canonical(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(self.canonical(name))

    def get(self, name: str, default: Any = None) -> Any:
        """Return the values of ``name``, or ``default``."""
        return super().get(self.canonical(name), default)

    def setdefault(self, name: str, default: list[str] | None = None) -> list[str]:
        """Return the values of ``name``, after setting them to ``default`` where there are none."""
        return super().setdefault(self.canonical(name), [] if default is None else default)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove ``name`` and return its values, or ``default``. Raises KeyError without one."""
        return super().pop(self.canonical(name), *default)


class ConnectionRequestContext:
    """A client that wants to come in; the argument of ``on_connection_request``.

    ``headers``: those of the client's HTTP request, ``dict[str, list[str]]`` with canonical names, case-insensitive.
    ``url``: the path; ``query_string``: what follows the ``?``; ``query``: the same as ``dict[str, list[str]]``.
    ``remote_addr``: ``ip:port``. ``context``: the :class:`Context` that the client will have; change it freely.
    ``accepted``: decides when the callback returns neither True nor False; True at first.
    ``subprotocol``: None, or the one that the client gets of those that it offered in ``Sec-WebSocket-Protocol``.
    Browsers fail a connection for which they offered some and got none.
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
        self.accepted = accepted
        self.subprotocol = subprotocol

    @property
    def query(self) -> dict[str, list[str]]:
        """The query string, percent-decoded: each name with the list of its values."""
        return parse_qs(self.query_string, keep_blank_values=True)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ConnectionRequestContext":
        """Make one from what :meth:`to_json` gave; unknown keys are ignored."""
        context = data.get("context")
        return cls(
            headers=data.get("headers"),
            url=data.get("url", "/"),
            remote_addr=data.get("remote_addr", ""),
            context=Context.from_json(context) if isinstance(context, Mapping) else context,
            accepted=data.get("accepted", True),
            query_string=data.get("query_string", ""),
            subprotocol=data.get("subprotocol"),
        )

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
        }

    def __repr__(self) -> str:
        return f"ConnectionRequestContext(url={self.url!r}, remote_addr={self.remote_addr!r}, context={self.context!r})"
