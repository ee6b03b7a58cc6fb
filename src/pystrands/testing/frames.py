"""A WebSocket client's side of RFC 6455 as pure logic. It writes what it is told to, right or wrong."""

import os
import struct
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha1
from typing import Final, NamedTuple

from pystrands.headers import Headers

__all__ = ["Frame", "FrameReader", "ProtocolError", "accept_for", "frame", "parse_head", "upgrade_request"]

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class ProtocolError(Exception):
    """The broker sent what a WebSocket server must not send."""


class Frame(NamedTuple):
    """One frame as it came."""

    opcode: int
    payload: bytes
    fin: bool


def upgrade_request(
    host: str, target: str, key: str, headers: Mapping[str, str | Iterable[str]], subprotocols: Iterable[str]
) -> bytes:
    """Return the HTTP request that asks for a WebSocket; one of ``headers`` replaces the one we would send."""
    lines: dict[str, tuple[str, Iterable[str]]] = {
        "host": ("Host", [host]),
        "upgrade": ("Upgrade", ["websocket"]),
        "connection": ("Connection", ["Upgrade"]),
        "sec-websocket-version": ("Sec-WebSocket-Version", ["13"]),
        "sec-websocket-key": ("Sec-WebSocket-Key", [key]),
    }
    offered = ", ".join(subprotocols)
    if offered:
        lines["sec-websocket-protocol"] = ("Sec-WebSocket-Protocol", [offered])
    for name, value in headers.items():
        lines[name.lower()] = (name, [value] if isinstance(value, str) else value)
    head = [f"GET {target} HTTP/1.1"] + [f"{name}: {value}" for name, values in lines.values() for value in values]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


def parse_head(head: bytes) -> tuple[int, Headers]:
    """Return the status and the headers of an HTTP response. Raises ProtocolError when it is none."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise ProtocolError(f"this is no HTTP response: {first[:80]!r}")
    headers = Headers()
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip()).append(value.strip())
    return int(rest[:3]), headers


def accept_for(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` that answers ``key``."""
    return b64encode(sha1(key.encode() + _GUID).digest()).decode()  # noqa: S324 - what RFC 6455 says


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """Return a client's frame; ``length`` is what its head announces where that should not be the payload's."""
    size = len(payload) if length is None else length
    flag = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", fin << 7 | rsv << 4 | opcode, flag | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", fin << 7 | rsv << 4 | opcode, flag | 126, size)
    else:
        head = struct.pack("!BBQ", fin << 7 | rsv << 4 | opcode, flag | 127, size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + _xor(payload, key)


def _xor(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


class FrameReader:
    """Turns what a server sends into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are whole now. Raises ProtocolError on one that a server must not send."""
        self._buffer += data
        while (found := self._next()) is not None:
            yield found

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, size, start = buffer[0], buffer[1] & 0x7F, 2
        if first & 0x70 or buffer[1] & 0x80:
            raise ProtocolError("the broker sent a frame that is masked, or has reserved bits set")
        if size > 125:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start], "big")
        opcode = first & 0x0F
        if opcode not in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG} or (opcode >= CLOSE and size > 125):
            raise ProtocolError(f"the broker sent a frame with opcode {opcode} and {size} bytes")
        if len(buffer) < start + size:
            return None
        payload = bytes(buffer[start : start + size])
        del buffer[: start + size]
        return Frame(opcode, payload, bool(first & 0x80))
