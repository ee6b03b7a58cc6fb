"""What was read from a client and waits with it: frames as they came, in one buffer, neither decoded nor inflated."""

from typing import Any, Final

from pystrands.broker.ws.parser import BINARY, CONTINUATION, TEXT, PicowsFrame

__all__ = ["Backlog", "KeptFrame"]

_KINDS: Final = (CONTINUATION, TEXT, BINARY)
_TEXT: Final = TEXT
_BINARY: Final = BINARY
_FIN: Final = 4
_RSV1: Final = 8
_RSV2: Final = 16
_RSV3: Final = 32
_LONG: Final = 255  # instead of a size: it takes the next eight bytes
_SHRINK: Final = 65_536  # bytes that are done with before the others are moved up


class KeptFrame:
    """A frame out of a backlog: what picows tells of one, and for as long as one likes."""

    __slots__ = ("_payload", "fin", "last_in_buffer", "msg_type", "payload_size", "rsv1", "rsv2", "rsv3", "tail_size")

    def __init__(self, head: int, payload: bytes) -> None:
        self.msg_type: Any = _KINDS[head & 3]
        self.fin = 1 if head & _FIN else 0
        self.rsv1 = 1 if head & _RSV1 else 0
        self.rsv2 = 1 if head & _RSV2 else 0
        self.rsv3 = 1 if head & _RSV3 else 0
        self.payload_size = len(payload)
        self.tail_size = 0
        self.last_in_buffer = 0
        self._payload = payload

    def get_payload_as_bytes(self) -> bytes:
        """Return the payload."""
        return self._payload

    def get_payload_as_memoryview(self) -> memoryview:
        """Return the payload."""
        return memoryview(self._payload)

    def get_payload_as_utf8_text(self) -> str:
        """Decode the payload. Raises UnicodeDecodeError."""
        return self._payload.decode()


class Backlog:
    """Data frames in order. It is no larger than what they took on the wire: a small frame costs two bytes beside it.

    So a client whose reading is paused in the middle of a read has its frames kept at what it paid for them.
    """

    __slots__ = ("_data", "_start")

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0

    def __len__(self) -> int:
        """How many bytes it takes."""
        return len(self._data)

    def add(self, frame: PicowsFrame) -> None:
        """Keep a data frame."""
        kind = frame.msg_type
        head = 1 if kind is _TEXT else 2 if kind is _BINARY else 0
        if frame.fin:
            head |= _FIN
        if frame.rsv1:
            head |= _RSV1
        if frame.rsv2:
            head |= _RSV2
        if frame.rsv3:
            head |= _RSV3
        data = self._data
        data.append(head)
        size = frame.payload_size
        if size < _LONG:
            data.append(size)
        else:
            data.append(_LONG)
            data += size.to_bytes(8, "big")
        data += frame.get_payload_as_memoryview()

    def take(self) -> KeptFrame:
        """Take the oldest frame out; there is one while :meth:`is_empty` is false."""
        data = self._data
        start = self._start
        head, size = data[start], data[start + 1]
        start += 2
        if size == _LONG:
            size = int.from_bytes(data[start : start + 8], "big")
            start += 8
        end = start + size
        frame = KeptFrame(head, bytes(data[start:end]))
        if end > _SHRINK:
            del data[:end]
            end = 0
        self._start = end
        return frame

    @property
    def is_empty(self) -> bool:
        """Whether all frames have been taken."""
        return self._start >= len(self._data)
