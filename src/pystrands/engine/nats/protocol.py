"""NATS' protocol between client and server, from bytes to calls and back. No I/O, and no clock."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from mypy_extensions import mypyc_attr

from pystrands.engine.nats.transport import TransportOwner

__all__ = [
    "MAX_CONTROL_LINE",
    "MAX_INFO",
    "MAX_PAYLOAD",
    "NO_RESPONDERS",
    "PING",
    "PONG",
    "Control",
    "NatsParser",
    "NatsProtocolError",
    "connect",
    "hpub",
    "pub",
    "sub",
    "unsub",
]

MAX_CONTROL_LINE: Final = 4096
"""Bytes of a line without its end, but for INFO."""
MAX_INFO: Final = 1 << 20
"""Bytes of INFO, which names all servers of a cluster."""
MAX_PAYLOAD: Final = 64 << 20
"""Bytes of a message with its headers: the most that nats-server can be configured to."""
NO_RESPONDERS: Final = 503
"""The status of what comes back where nobody has subscribed to the subject of a request."""

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"

_VERSION: Final = b"NATS/1.0"
_END: Final = b"\r\n"
_INFO: Final = b"INFO "
_LARGE: Final = 16_384
"""Bytes of a payload that is not copied into one piece with its line."""


class NatsProtocolError(ValueError):
    """What came is not NATS' protocol, or longer than it may be: the connection is to be closed."""


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have doubles
class Control(ABC):
    """Takes what is said about the connection."""

    @abstractmethod
    def on_info(self, text: bytes) -> None:
        """Take what the server says of itself, in JSON: first of all, and after a change."""

    @abstractmethod
    def on_ping(self) -> None:
        """Answer with PONG."""

    @abstractmethod
    def on_pong(self) -> None:
        """Take the answer to the oldest PING that has none."""

    @abstractmethod
    def on_err(self, problem: str) -> None:
        """Take what the server complains about."""


class NatsParser:
    """Makes calls of a stream of bytes, wherever its reads happen to end.

    After a NatsProtocolError, or whatever else a call raised, it is of no more use.
    """

    __slots__ = ("_control", "_held", "_missing", "held_bytes", "receiver")

    def __init__(self, control: Control) -> None:
        self.receiver: TransportOwner | None = None
        """Who gets messages from now on, if anybody does; may be changed by a call."""
        self.held_bytes = 0
        """How many bytes are kept of what is not whole."""
        self._control: Control = control
        self._held: list[bytes] = []  # in pieces: joining once keeps what is long linear
        self._missing = 0
        """How many bytes a payload lacks; 0 where it is the end of a line that is missing."""

    def feed(self, data: bytes) -> None:
        """Make the calls for all that is whole now."""
        if self._held:
            self._held.append(data)
            self.held_bytes += len(data)
            if self._missing > 0:
                self._missing -= len(data)
                if self._missing > 0:
                    return
                self._missing = 0
            elif data.find(b"\n") < 0:
                self._check_line()
                return
            data = b"".join(self._held)
            self._held.clear()
            self.held_bytes = 0
        rest = self._parse(data)
        if rest < len(data):
            self._held.append(data[rest:] if rest else data)
            self.held_bytes = len(data) - rest
            if not self._missing:
                self._check_line()

    def _check_line(self) -> None:
        """Refuse a line that has no end yet and is too long already."""
        if self.held_bytes <= MAX_CONTROL_LINE + 1:
            return
        if len(self._held[0]) < len(_INFO):  # so that what it is can be seen
            self._held = [b"".join(self._held)]
        _check_length(self._held[0], self.held_bytes - 1)

    def _parse(self, data: bytes) -> int:
        """Make calls; return where that begins which is not whole."""
        at = 0
        size = len(data)
        while at < size:
            end = data.find(b"\n", at) - 1
            if end < -1:
                return at
            if end < at or data[end] != 13:
                raise _malformed(data[at : at + MAX_CONTROL_LINE])
            if data[at] == 77:  # M
                line = data[at:end]
                if len(line) > MAX_CONTROL_LINE:
                    raise _too_long()
                fields = line.split(b" ")
                count = len(fields)
                if fields[0] != b"MSG" or not 4 <= count <= 5:
                    raise _malformed(line)
                begin = end + 2
                end = begin + _payload_size(fields[count - 1])
                if end + 2 > size:
                    self._missing = end + 2 - size
                    return at
                if data[end] != 13 or data[end + 1] != 10:
                    raise NatsProtocolError("a payload is not as long as was said")
                at = end + 2
                receiver = self.receiver
                if receiver is not None:
                    reply = fields[3] if count == 5 else b""
                    receiver.on_message(_number(fields[2]), fields[1], reply, 0, data[begin:end])
            elif data[at] == 72:  # H
                at = self._headers(data, at, end)
                if self._missing:
                    return at
            else:
                self._say(data[at:end])
                at = end + 2
        return at

    def _headers(self, data: bytes, at: int, end: int) -> int:
        """Give the receiver one message with headers, whose line ends at ``end``; return where the next one begins."""
        line = data[at:end]
        _check_length(line, len(line))
        fields = line.split(b" ")
        count = len(fields)
        if fields[0] != b"HMSG" or not 5 <= count <= 6:
            raise _malformed(line)
        begin = end + 2
        middle = begin + _number(fields[count - 2])
        end = begin + _payload_size(fields[count - 1])
        if middle > end:
            raise _malformed(line)
        if end + 2 > len(data):
            self._missing = end + 2 - len(data)
            return at
        if data[end : end + 2] != _END:
            raise NatsProtocolError("a payload is not as long as was said")
        status = _status(data[begin:middle])
        reply = fields[3] if count == 6 else b""
        receiver = self.receiver
        if receiver is not None:
            receiver.on_message(_number(fields[2]), fields[1], reply, status, data[middle:end])
        return end + 2

    def _say(self, line: bytes) -> None:
        """Make the call for what has no payload."""
        _check_length(line, len(line))
        if line == b"PING":
            self._control.on_ping()
        elif line == b"PONG":
            self._control.on_pong()
        elif line.startswith(_INFO):
            self._control.on_info(line[5:].strip())
        elif line.startswith(b"-ERR"):
            self._control.on_err(line[4:].strip(b" '").decode(errors="replace"))
        elif line != b"+OK":
            raise _malformed(line)


def _number(field: bytes) -> int:
    """Return a size, or the number of a subscription: not what is no number, and nothing absurd."""
    size = len(field)
    if not 0 < size < 16:
        raise NatsProtocolError(f"{field[:20]!r} is no number")
    number = 0
    for index in range(size):  # faster than its digits when compiled
        digit = field[index]
        if not 48 <= digit <= 57:
            raise NatsProtocolError(f"{field!r} is no number")
        number = number * 10 + digit - 48
    return number


def _payload_size(field: bytes) -> int:
    size = _number(field)
    if size > MAX_PAYLOAD:
        raise NatsProtocolError(f"a payload of {size} bytes is too big")
    return size


def _status(headers: bytes) -> int:
    """Return the status in the first line of headers. Anybody makes them: where they are nonsense there is none."""
    status = headers[len(_VERSION) + 1 : len(_VERSION) + 4]
    return int(status) if headers.startswith(_VERSION) and len(status) == 3 and status.isdigit() else 0


def _check_length(line: bytes, size: int) -> None:
    """Refuse a line that begins like that, and has that size without its end, if it is too long."""
    if size > MAX_CONTROL_LINE and (size > MAX_INFO or not line.startswith(_INFO)):
        raise _too_long()


def _too_long() -> NatsProtocolError:
    return NatsProtocolError("a line is too long")


def _malformed(line: bytes) -> NatsProtocolError:
    return NatsProtocolError(f"malformed: {line[:100]!r}")


# --- what a client says ---


def connect(options: Mapping[str, Any]) -> bytes:
    """Return the line that begins a connection."""
    return b"CONNECT %b\r\n" % msgspec.json.encode(options)


def pub(subject: bytes, payload: bytes, reply: bytes = b"") -> bytes:
    """Return a message to a subject; answers to it go to ``reply``."""
    if reply:
        return b"PUB %b %b %b\r\n%b\r\n" % (subject, reply, str(len(payload)).encode(), payload)
    return b"PUB %b %b\r\n%b\r\n" % (subject, str(len(payload)).encode(), payload)


def hpub(subject: bytes, payload: bytes, headers: Mapping[str, str], reply: bytes = b"") -> bytes:
    """Return a message with headers, whose names and values have no line ends; answers go to ``reply``."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = b"NATS/1.0\r\n%b\r\n" % "".join(lines).encode()
    sizes = b"%d %d" % (len(head), len(head) + len(payload))
    return b"HPUB %b %b\r\n%b%b\r\n" % (b"%b %b" % (subject, reply) if reply else subject, sizes, head, payload)


def sub(subject: bytes, sid: int) -> bytes:
    """Return what subscribes to a subject; its messages come with that number."""
    return b"SUB %b %b\r\n" % (subject, str(sid).encode())


def unsub(sid: int) -> bytes:
    """Return what ends a subscription."""
    return b"UNSUB %b\r\n" % str(sid).encode()
