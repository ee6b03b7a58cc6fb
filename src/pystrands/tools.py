"""A small blocking client for tools: it looks at a running broker and sends messages, and is no backend."""

import contextlib
import itertools
import socket
from collections import deque
from collections.abc import Callable, Iterator
from ssl import SSLContext
from types import TracebackType
from typing import Annotated, Any, Final, Self, TypeVar

import msgspec
from msgspec import Meta, Struct

from pystrands.client.connection import dial
from pystrands.errors import MalformedLine, PyStrandsError
from pystrands.protocol import messages, wire
from pystrands.protocol.address import about_http, bare
from pystrands.protocol.framing import LineSplitter
from pystrands.protocol.messages import (
    Decoder,
    Heartbeat,
    Hello,
    HelloParams,
    LinkRefused,
    PeerParams,
    Peers,
    Watched,
    WatchedParams,
)
from pystrands.protocol.printable import printable

__all__ = ["Sent", "Tool", "ToolError"]

_READ: Final = 65536
_MAX_LINE: Final = 1 << 28
"""Bytes; the broker bounds its lines by its own options. This one is against what is no broker."""
_PATIENCE: Final = 0.5
"""Seconds for the broker's hello, before it is asked for."""
_SILENT_BEATS: Final = 3
"""Heartbeats that may be missing before a broker counts as gone."""
_T = TypeVar("_T", bound=Struct)
_EVERYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared only


class ToolError(PyStrandsError):
    """The broker can't be reached, is gone, or refuses; the message is one line for people."""


class _Result(Struct, tag="result", tag_field="action"):
    """The answer to a command; each has params of its own."""

    params: dict[str, Any]
    request_id: str


_Line = Hello | Heartbeat | Watched | _Result | LinkRefused | Peers
_LINES: Final[Decoder[_Line]] = Decoder(_Line)


class Sent(Struct):
    """For how many clients a message was, and how many of them did not take it: they read too slowly.

    ``complete``: whether all brokers have told.
    """

    matched: int
    skipped: int
    complete: bool = True


_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Backend(Struct):
    name: str
    clients: _Count
    in_flight: _Count | None
    protocol: int
    leaving: bool
    linked: bool


class _Waiting(Struct):
    messages: _Count
    bytes: _Count


class _Report(Struct):
    """What is shown of a broker's answer to ``status``; whatever else is in it is passed on."""

    version: str
    uptime: Annotated[float, Meta(ge=0)]
    clients: _Count
    rooms: _Count
    backends: list[_Backend]
    queue: _Waiting
    counters: dict[str, _Count]
    broker_id: str = ""


class _ClusterReport(Struct):
    """What is shown of its answer to ``status`` about all brokers."""

    brokers: list[_Report]
    silent: list[str]
    connected: bool = True


class Tool:
    """A link to the broker. Everything blocks, for ``timeout`` seconds at most unless it says otherwise.

    ``token`` is for a broker that wants one, ``ssl`` for one that has TLS on the port for backends. Every method raises
    ToolError. Use it in a ``with``, from one thread.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8081,
        *,
        timeout: float = 10.0,
        token: str = "",
        ssl: SSLContext | None = None,
    ) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._timeout = timeout
        self._host, self._token, self._ssl = host, token, ssl
        self.peers: list[PeerParams] = []
        """The other brokers, as this one has told last."""
        self.peers_changed: Callable[[list[PeerParams]], None] | None = None
        """Called with them when the broker tells of a change, which is read by whatever method reads."""
        try:
            self._introduction = wire.hello(HelloParams(name="tool", role=messages.TOOL, token=token))
        except ValueError:
            raise ToolError("the token is not valid Unicode text") from None
        self.hello = HelloParams()
        """What the broker has said of itself."""
        self._requests = itertools.count(1)
        self._splitter = LineSplitter(_MAX_LINE)
        self._lines: deque[bytes] = deque()
        self._watched: deque[WatchedParams] = deque()
        host = _EVERYWHERE.get(host, host)
        try:
            self._socket = dial.connect_blocking(host, port, timeout)
            self._socket.settimeout(timeout)
            if ssl is not None:
                self._socket = ssl.wrap_socket(self._socket, server_hostname=host)
        except (OSError, ValueError) as error:  # ValueError: a name that no certificate can have
            reason = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
            reason = reason.removeprefix(f"{host}: ") or "it does not answer"
            raise ToolError(f"no broker at {self.address}: {reason}") from None
        try:
            self.hello = self._greet()
            self.peers = self.hello.peers or []
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the link."""
        self.close()

    def close(self) -> None:
        """End the link; may be called twice. Who reads it on another thread gets a ToolError."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def to_peer(self, address: str) -> "Tool":
        """Return a link to another broker, with the same token and TLS; ``address`` as a broker tells it."""
        host, _, port = address.rpartition(":")
        try:
            return Tool(bare(host) or self._host, int(port), timeout=self._timeout, token=self._token, ssl=self._ssl)
        except ValueError:
            raise ToolError(f"a broker tells of another one at {printable(address)!r}, which is no address") from None

    # --- what tools do ---

    def send_to_room(self, room_id: str, message: str | bytes) -> Sent:
        """Send a message to every client in a room."""
        return self._send(wire.message_to_room, room_id, message)

    def send_to_client(self, client_id: str, message: str | bytes) -> Sent:
        """Send a message to one client."""
        return self._send(wire.message_to_connection, client_id, message)

    def send_to_all(self, message: str | bytes) -> Sent:
        """Send a message to every client."""
        return self._send(wire.broadcast, message)

    def status(self) -> dict[str, Any]:
        """Return what the broker has now: see the documentation of the command line for the keys."""
        answer = self._request("status", {})
        self._convert(answer, _Report)
        return answer

    def status_of_all(self) -> dict[str, Any]:
        """Return what all brokers of the cluster have: a list, ``brokers``, and the ids of those that are ``silent``.

        One that has no cluster, or an older one, tells of itself only.
        """
        answer = self._request("status", {"cluster": True})
        if "brokers" not in answer:
            answer = {"brokers": [answer], "silent": [], "connected": True}
        self._convert(answer, _ClusterReport)
        return answer

    def watch(self, room_id: str | None = None) -> None:
        """Ask for what flows in a room from now on, or in every room; :meth:`watched` returns it."""
        self._request("watch", {"room_id": room_id})

    def watched(self) -> Iterator[WatchedParams]:
        """Yield what flows in the watched rooms, for ever: it waits as long as the broker is there."""
        self._socket.settimeout(max(1.0, self.hello.heartbeat) * _SILENT_BEATS)
        while True:
            while self._watched:
                yield self._watched.popleft()
            self._take(self._read())

    # --- the link ---

    def _greet(self) -> HelloParams:
        """Wait for the broker's hello: one that says none (the original) would take a tool for a backend."""
        problem = "is no PyStrands broker of version 2 or newer"
        with contextlib.suppress(ToolError, OSError):
            self._ask()
            if self._lines and self._lines[0].startswith(b"HTTP/"):
                problem += f"; it {about_http(self._lines[-1])}"
            line = self._read()
            if type(line) is Hello:
                self._write(self._introduction)
                return line.params
        raise ToolError(f"what listens at {self.address} {problem}")

    def _ask(self) -> None:
        """Read what comes at once; if nothing does, ask for a hello: what is no broker answers to that, or hangs up."""
        self._socket.settimeout(min(_PATIENCE, self._timeout))
        try:
            data = self._socket.recv(_READ)
        except TimeoutError:
            self._socket.settimeout(self._timeout)
            self._write(wire.WAITING)
            data = self._socket.recv(_READ)
        self._socket.settimeout(self._timeout)
        self._lines.extend(self._splitter.feed(data))

    def _send(self, encode: Callable[..., bytes], *values: str | bytes) -> Sent:
        """Send a message, the last of ``values``, and return what became of it."""
        name = self._next_name()
        message = values[-1]
        try:
            line = encode(*values, confirm_as=name)
            size = len(message.encode() if isinstance(message, str) else message)
        except ValueError:
            raise ToolError("what is to be sent is not valid Unicode text") from None
        limit = self.hello.max_message_size
        if limit and size > limit:
            raise ToolError(f"the message has {size} bytes, and the broker takes {limit} (its --max-message-size)")
        self._write(line)
        return self._convert(self._answer(name), Sent)

    def _request(self, action: str, params: dict[str, Any]) -> dict[str, Any]:
        name = self._next_name()
        try:
            line = wire.request(action, name, params)
        except ValueError:
            raise ToolError("the name of the room is not valid Unicode text") from None
        self._write(line)
        return self._answer(name)

    def _convert(self, answer: dict[str, Any], kind: type[_T]) -> _T:
        try:
            return msgspec.convert(answer, kind)
        except msgspec.ValidationError:
            raise self._no_broker() from None

    def _next_name(self) -> str:
        return str(next(self._requests))

    def _answer(self, name: str) -> dict[str, Any]:
        self._socket.settimeout(self._timeout)
        while True:
            line = self._read()
            if type(line) is _Result and line.request_id == name:
                if problem := line.params.get("error"):
                    raise ToolError(printable(str(problem)))
                return line.params
            self._take(line)

    def _take(self, line: _Line) -> None:
        if type(line) is Watched:
            self._watched.append(line.params)
        elif type(line) is Peers:
            self.peers = line.params.peers
            if self.peers_changed is not None:
                self.peers_changed(self.peers)

    def _write(self, line: bytes) -> None:
        if 0 < self.hello.max_line < len(line):
            raise ToolError("the name of the room or client is too long for the broker")
        try:
            self._socket.sendall(line)
        except OSError as error:
            raise self._gone(error) from None

    def _read(self) -> _Line:
        """Return the next line that is known."""
        while True:
            while self._lines:
                try:
                    line = _LINES.decode(self._lines.popleft())
                except MalformedLine:
                    raise self._no_broker() from None
                if type(line) is LinkRefused:
                    reason = printable(" ".join(line.params.reason.split()))
                    raise ToolError(f"the broker at {self.address} refuses: {reason}")
                if isinstance(line, _Line):
                    return line
            try:
                data = self._socket.recv(_READ)
            except OSError as error:
                raise self._gone(error) from None
            if not data:
                raise self._gone(None)
            self._lines.extend(self._splitter.feed(data))

    def _no_broker(self) -> ToolError:
        return ToolError(f"what listens at {self.address} does not speak as a broker does")

    def _gone(self, error: OSError | None) -> ToolError:
        if isinstance(error, TimeoutError):
            return ToolError(f"the broker at {self.address} does not answer")
        reason = f": {error.strerror or error}" if error is not None else ""
        return ToolError(f"the broker at {self.address} has closed the connection{reason}")
