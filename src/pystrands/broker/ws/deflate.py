"""The extension permessage-deflate (RFC 7692): its negotiation, its frames, its messages. Pure.

No side keeps anything from one message to the next ("no context takeover"). So one compressed frame does for everybody
who gets a message, and an idle connection costs no memory for it.
"""

import re
import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple

from pystrands.broker.counters import Counters
from pystrands.broker.net.http import BadRequestError
from pystrands.broker.ws.frames import BINARY, TEXT, data_frame, payload_of
from pystrands.broker.ws.reassembly import MAX_FRAGMENTS, BadMessageError, Reassembly
from pystrands.protocol.close_codes import INVALID_PAYLOAD, MESSAGE_TOO_BIG

__all__ = ["Agreement", "Compressor", "DeflatedReassembly", "negotiate", "wire_limit"]

NAME: Final = "permessage-deflate"

_MAX_BITS: Final = 15
_MIN_BITS: Final = 9  # zlib can't write raw DEFLATE with the window of 8 bits that the RFC knows as well
_SYNC: Final = b"\x00\x00\xff\xff"  # what the sender of a message leaves off its end
_END: Final = _SYNC + b"\x01" + _SYNC  # and an empty last block, by which we see that nothing is missing
_INFLATER: Final = 40_000
"""Bytes that an unfinished message's inflater takes: a window of 32 KiB, and its state."""
_MAX_LAST_BLOCKS: Final = 64  # more blocks that say they are the last, within one message, only cost us time
_DATA: Final = frozenset({0x80 | TEXT, 0x80 | BINARY})

_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = r'"(?:\\?[!#$%&\'*+\-.^_`|~0-9A-Za-z])+"'  # what is quoted must be a token, too (RFC 6455, 9.1)
_PARAMETER: Final = re.compile(rf"[ \t]*;[ \t]*({_WORD})(?:[ \t]*=[ \t]*({_WORD}|{_QUOTED}))?")
_EXTENSION: Final = re.compile(rf"[ \t,]*({_WORD})")
_SEPARATOR: Final = re.compile(r"[ \t]*(?:,[ \t,]*|$)")

_BITS: Final = {str(bits): bits for bits in range(8, 16)}
_NO_VALUE: Final = frozenset({"server_no_context_takeover", "client_no_context_takeover"})


class Agreement(NamedTuple):
    """What a client and we have agreed on."""

    window_bits: int
    """How far back our frames may refer, as a power of two."""
    answer: str
    """The value of `Sec-WebSocket-Extensions` in our response."""


def negotiate(values: Iterable[str]) -> Agreement | None:
    """Choose from what a client offers in its `Sec-WebSocket-Extensions` headers; None: nothing that we take.

    The first offer of the extension that is valid, and that we can keep to, counts. Raises BadRequestError when a
    header is not what RFC 6455, section 9.1 describes.
    """
    for value in values:
        for name, parameters in _offers(value):
            if name == NAME and (agreement := _judge(parameters)) is not None:
                return agreement
    return None


def wire_limit(max_message_size: int) -> int:
    """Return how many bytes a compressed message may have: DEFLATE makes a little longer what it can't make shorter."""
    return max_message_size + max_message_size // 8 + 1024


class Compressor:
    """Compresses frames of `threshold` bytes of payload or more, at zlib's `level` (1 to 9)."""

    __slots__ = ("_counters", "_level", "threshold")

    def __init__(self, level: int, threshold: int, counters: Counters) -> None:
        self._level = level
        self.threshold = threshold
        self._counters = counters

    def compress(self, frame: bytes, window_bits: int) -> bytes:
        """Return the frame of the same message compressed, or `frame` itself if that does not make it shorter.

        A control frame is returned as it is, and so is one whose payload is below the threshold. Never raises: without
        the memory that it takes nothing is compressed.
        """
        if len(frame) < self.threshold or frame[0] not in _DATA:
            return frame
        payload = payload_of(frame)
        if len(payload) < self.threshold:
            return frame
        try:
            deflate = zlib.compressobj(self._level, zlib.DEFLATED, -window_bits)
            data = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
        except (MemoryError, zlib.error):
            return frame
        if len(data) - len(_SYNC) >= len(payload):
            return frame
        self._counters["messages_compressed"] += 1
        return data_frame(frame[0] & 0x0F, data[: -len(_SYNC)], compressed=True)


class DeflatedReassembly(Reassembly):
    """One compressed message, inflated as its frames come, and never beyond its limit (RFC 7692, section 7.2.2)."""

    __slots__ = ("_inflater", "_last_blocks", "_room")

    def __init__(self, *, text: bool, limit: int, fragments: int = MAX_FRAGMENTS) -> None:
        super().__init__(text=text, limit=limit, fragments=fragments)
        self._inflater = zlib.decompressobj(-_MAX_BITS)
        self._last_blocks = 0
        self._room = wire_limit(limit)

    @property
    def size(self) -> int:
        """How many bytes it holds, with those of the inflater."""
        return super().size + _INFLATER

    def add(self, payload: bytes, *, last: bool) -> str | bytes | None:
        """Inflate the payload of the next frame, and return the whole message after the last one.

        Raises BadMessageError at the first byte that is too many, that is no DEFLATE, or that no UTF-8 can have there.
        """
        self._room -= len(payload)
        if self._room < 0:
            raise BadMessageError(MESSAGE_TOO_BIG, "message too big", "message_too_big")
        part = bytearray()
        try:
            self._inflate(part, payload)
            if last and not self._inflater.eof:
                self._inflate(part, _END)
        except zlib.error:
            raise _bad_data() from None
        if last and not self._inflater.eof and len(self._content) + len(part) <= self._limit:
            raise _bad_data()
        return super().add(bytes(part), last=last)

    def _inflate(self, part: bytearray, data: bytes) -> None:
        """Add to `part` what comes out; it is one byte too many when the limit is passed, and then nobody goes on."""
        content, limit = self._content, self._limit
        while data and len(content) + len(part) <= limit:
            if self._inflater.eof:  # a block was marked as the last, and more follow: section 7.2.3.4
                self._last_blocks += 1
                if self._last_blocks > _MAX_LAST_BLOCKS:
                    raise _bad_data()
                self._inflater = zlib.decompressobj(-_MAX_BITS, _window(content, part))
            part += self._inflater.decompress(data, limit + 1 - len(content) - len(part))
            data = self._inflater.unused_data


def _bad_data() -> BadMessageError:
    return BadMessageError(INVALID_PAYLOAD, "invalid compressed data", "bad_deflate")


def _window(content: bytearray, part: bytearray) -> bytes:
    """Return what the next block may refer to."""
    size = 1 << _MAX_BITS
    return bytes(part[-size:] if len(part) >= size else (content[-size:] + part)[-size:])


def _offers(value: str) -> Iterable[tuple[str, list[tuple[str, str | None]]]]:
    """Give the extensions of one header, each with its parameters."""
    position = 0
    while value[position:].strip(" \t,"):
        match = _EXTENSION.match(value, position)
        if match is None:
            raise BadRequestError("malformed Sec-WebSocket-Extensions")
        name, parameters = match[1], []
        position = match.end()
        while (match := _PARAMETER.match(value, position)) is not None:
            parameters.append((match[1], None if match[2] is None else match[2].strip('"').replace("\\", "")))
            position = match.end()
        separator = _SEPARATOR.match(value, position)
        if separator is None:
            raise BadRequestError("malformed Sec-WebSocket-Extensions")
        yield name, parameters
        position = separator.end()


def _judge(parameters: list[tuple[str, str | None]]) -> Agreement | None:
    """Agree to one offer (RFC 7692, section 7.1), or decline it."""
    offered = dict(parameters)
    if len(offered) < len(parameters):
        return None
    for name, value in offered.items():
        if name in _NO_VALUE:
            valid = value is None
        elif name == "client_max_window_bits":
            valid = value is None or value in _BITS
        else:
            valid = name == "server_max_window_bits" and value in _BITS
        if not valid:
            return None
    answer = f"{NAME}; server_no_context_takeover; client_no_context_takeover"
    asked = offered.get("server_max_window_bits")
    if asked is None:
        return Agreement(_MAX_BITS, answer)
    if _BITS[asked] < _MIN_BITS:
        return None
    return Agreement(_BITS[asked], f"{answer}; server_max_window_bits={asked}")
