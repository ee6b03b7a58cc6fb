"""Server-side WebSocket frames (RFC 6455, section 5): unmasked and whole, ready for the socket. Pure."""

import struct
from typing import Final

from pystrands.protocol.close_codes import close_code_is_valid

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

MAX_CONTROL_PAYLOAD: Final = 125
MAX_CLOSE_REASON: Final = MAX_CONTROL_PAYLOAD - 2

_FIN: Final = 0x80
_COMPRESSED: Final = 0x40  # RSV1, which permessage-deflate gives this meaning
_SHORT_TEXT: Final = tuple(bytes((_FIN | TEXT, size)) for size in range(126))  # the heads of most frames
_pack_16 = struct.Struct("!BBH").pack
_pack_64 = struct.Struct("!BBQ").pack


def text_frame(message: str) -> bytes:
    """Frame `message` as UTF-8. A lone surrogate, which UTF-8 can't carry, becomes `?`: this never raises."""
    try:
        payload = message.encode()
    except UnicodeEncodeError:
        payload = message.encode(errors="replace")
    size = len(payload)
    return _SHORT_TEXT[size] + payload if size < 126 else _frame(TEXT, payload)


def binary_frame(message: bytes) -> bytes:
    """Frame `message` as it is."""
    return _frame(BINARY, message)


def data_frame(opcode: int, payload: bytes, *, compressed: bool) -> bytes:
    """Frame a message's payload; `compressed` says that it is DEFLATE, of a peer that has agreed to that (RFC 7692)."""
    return _frame(opcode | _COMPRESSED if compressed else opcode, payload)


def payload_of(frame: bytes) -> bytes:
    """Return the payload of a frame that was made here."""
    size = frame[1]
    return frame[2 if size < 126 else 4 if size == 126 else 10 :]


def ping_frame(payload: bytes = b"") -> bytes:
    """Frame a ping. Raises ValueError when `payload` is longer than 125 bytes."""
    return _control_frame(PING, payload)


def pong_frame(payload: bytes = b"") -> bytes:
    """Frame the answer to a ping that carried `payload`. Raises ValueError when it is longer than 125 bytes."""
    return _control_frame(PONG, payload)


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    """Frame a close. Without a code it is empty, and `reason` is ignored.

    `reason` is cut to 123 bytes, never inside a character. Raises ValueError when `code` must not be on the wire.
    """
    if code is None:
        return _frame(CLOSE, b"")
    if not close_code_is_valid(code):
        raise ValueError(f"close code {code} must not be sent")
    text = reason.encode(errors="replace")
    if len(text) > MAX_CLOSE_REASON:
        text = text[:MAX_CLOSE_REASON].decode(errors="ignore").encode()
    return _frame(CLOSE, code.to_bytes(2, "big") + text)


def _control_frame(opcode: int, payload: bytes) -> bytes:
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"a control frame carries at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}")
    return _frame(opcode, payload)


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, size)) + payload
    if size < 65536:
        return _pack_16(_FIN | opcode, 126, size) + payload
    return _pack_64(_FIN | opcode, 127, size) + payload
