r"""Frames of `pystrands.v1`: one JSON object, the *header*, then ``\n`` and the body as it is. Pure.

A frame is text or binary as its message is. Frames that carry no message have no ``\n``. Members of a header that are
not known are ignored, by both sides.
"""

from typing import Any, Final, NamedTuple

import msgspec

from pystrands.protocol.v1.headers import ClientHeader, HistoryHeader, ServerHeader, Welcome

__all__ = [
    "HEARTBEAT",
    "MAX_HEADER",
    "BadFrameError",
    "ClientHeader",
    "HistoryAnswer",
    "ServerHeader",
    "Welcome",
    "client_header",
    "history_of",
    "is_control",
    "join",
    "json_text",
    "server_header",
    "split",
    "welcome_of",
]

MAX_HEADER: Final = 8192
"""Bytes, or characters, of a header at most: a room's name as JSON may write it, and what else there is."""
HEARTBEAT: Final = "{}"
"""A frame that says that its sender is there, and asks whether the other is. The answer is the same."""
_SEEN: Final = '{"seen":'
_NUMBER: Final = (1 << 53) - 1  # the largest that JavaScript has exactly


class BadFrameError(ValueError):
    """A frame that is none."""


_decode_client: Final = msgspec.json.Decoder(ClientHeader).decode
_decode_server: Final = msgspec.json.Decoder(ServerHeader).decode
_decode_welcome: Final = msgspec.json.Decoder(Welcome).decode
_decode_history: Final = msgspec.json.Decoder(HistoryHeader).decode
_encode: Final = msgspec.json.Encoder().encode


def json_text(value: Any) -> str:
    """Encode JSON."""
    return _encode(value).decode()


def split(frame: str | bytes) -> tuple[str | bytes, str | bytes | None]:
    """Return a frame's header, and its body; None where there is none. Raises BadFrameError where no header can be."""
    if isinstance(frame, str):
        end = frame.find("\n", 0, MAX_HEADER + 1)
        begins = frame.startswith("{")
    else:
        end = frame.find(b"\n", 0, MAX_HEADER + 1)
        begins = frame.startswith(b"{")
    if not begins:
        raise BadFrameError("a frame begins with a JSON object")
    if end >= 0:
        return frame[:end], frame[end + 1 :]
    if len(frame) > MAX_HEADER:
        raise BadFrameError("the header is too long")
    return frame, None


def join(header: str, body: str | bytes | None) -> str | bytes:
    """Make a frame."""
    if body is None:
        return header
    return f"{header}\n{body}" if isinstance(body, str) else header.encode() + b"\n" + body


def client_header(header: str | bytes) -> ClientHeader:
    """Read a client's header. Raises BadFrameError."""
    try:
        decoded = _decode_client(header)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise BadFrameError(f"a header can't be read: {error}") from None
    if not (0 <= decoded.k <= _NUMBER and decoded.seen >= -1 and 0 <= decoded.re <= _NUMBER):
        raise BadFrameError("a number is out of range")
    return decoded


def server_header(header: str | bytes) -> ServerHeader:
    """Read a header of the broker's. Raises BadFrameError."""
    try:
        decoded = _decode_server(header)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise BadFrameError(f"a header can't be read: {error}") from None
    if decoded.n is not None and not 0 <= decoded.n <= _NUMBER:
        raise BadFrameError("a number is out of range")
    return decoded


def welcome_of(header: str | bytes) -> Welcome:
    """Read a welcome. Raises BadFrameError."""
    try:
        return _decode_welcome(header)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise BadFrameError(f"a welcome can't be read: {error}") from None


class HistoryAnswer(NamedTuple):
    """A part of a room's history: numbers and bodies, the oldest first; or, with ``code``, why there is none."""

    id: str
    messages: list[tuple[int, str | bytes]]
    complete: bool
    more: bool
    code: str
    text: str


def history_of(header: str | bytes, body: str | bytes | None) -> HistoryAnswer:
    """Read a part of a history. Raises BadFrameError."""
    try:
        read = _decode_history(header)
        data = body.encode() if isinstance(body, str) else body or b""
        bins, start, messages = set(read.bins), 0, []
        for index, (number, size) in enumerate(zip(read.ns, read.sizes, strict=True)):
            content = data[start : start + size]
            start += size
            if size < 0 or start > len(data):
                raise BadFrameError("a history is shorter than it says")
            messages.append((number, content if index in bins else content.decode()))
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise BadFrameError(f"a history can't be read: {error}") from None
    failure = read.err
    code, text = ("", "") if failure is None else (failure.code or "failed", failure.message)
    return HistoryAnswer(read.id, messages, read.complete, read.more, code, text)


def is_control(frame: str | bytes) -> bool:
    """Whether a client's frame is a heartbeat or an acknowledgement, which count for no limit."""
    if not isinstance(frame, str):
        return False
    return frame == HEARTBEAT or (len(frame) < 64 and frame.startswith(_SEEN))
