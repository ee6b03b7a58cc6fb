"""A message that comes in fragments (RFC 6455, section 5.4): put together, held to its limit, and checked. Pure."""

import codecs
from typing import Final

from pystrands.protocol.close_codes import INVALID_PAYLOAD, MESSAGE_TOO_BIG, POLICY_VIOLATION

__all__ = ["MAX_FRAGMENTS", "BadMessageError", "Reassembly"]

MAX_FRAGMENTS: Final = 100_000
"""Fragments of one message: those of no bytes have no other bound, and each costs time."""

_decoder: Final = codecs.getincrementaldecoder("utf-8")


class BadMessageError(Exception):
    """The message can't be taken; its sender is to be closed with `code` and `reason`, and counted as `counter`."""

    def __init__(self, code: int, reason: str, counter: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.counter = counter


class Reassembly:
    """One message whose end is still to come.

    `text`: it has to be UTF-8. `limit`, `fragments`: how many bytes and fragments it may have in all.
    """

    __slots__ = ("_content", "_decoder", "_left", "_limit")

    def __init__(self, *, text: bool, limit: int, fragments: int = MAX_FRAGMENTS) -> None:
        self._content = bytearray()
        self._decoder = _decoder() if text else None
        self._limit = limit
        self._left = fragments

    @property
    def size(self) -> int:
        """How many bytes it holds."""
        return len(self._content)

    def add(self, payload: bytes, *, last: bool) -> str | bytes | None:
        """Take the next fragment, and return the whole message after the last one.

        Raises BadMessageError at the first byte that is too many, or that no UTF-8 can have there.
        """
        content = self._content
        if len(content) + len(payload) > self._limit:
            raise BadMessageError(MESSAGE_TOO_BIG, "message too big", "message_too_big")
        self._left -= 1
        if self._left < 0:
            raise BadMessageError(POLICY_VIOLATION, "too many fragments", "too_many_fragments")
        content += payload
        decoder = self._decoder
        if decoder is None:
            return bytes(content) if last else None
        try:
            decoder.decode(payload, last)
        except UnicodeDecodeError:
            raise _bad_text() from None
        pending = decoder.getstate()[0]
        if pending[:1] == b"\xed" and pending[1:] >= b"\xa0":  # Python waits for the rest of a surrogate
            raise _bad_text()
        return content.decode() if last else None


def _bad_text() -> BadMessageError:
    return BadMessageError(INVALID_PAYLOAD, "invalid UTF-8", "bad_utf8")
