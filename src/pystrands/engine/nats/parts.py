"""Answers that are longer than one message of NATS: in parts, and whole again. Pure."""

from collections.abc import Iterator
from typing import final

__all__ = ["PartsIn", "parts_of"]


def parts_of(content: bytes, size: int) -> Iterator[tuple[int, bool, bytes]]:
    """Return each part: the how manieth it is, whether it is the last one, and what it has; at least one."""
    count = max(-(-len(content) // size), 1)
    for index in range(count):
        yield index, index + 1 == count, content[index * size : (index + 1) * size]


@final
class PartsIn:
    """Parts that come in order, until all are there."""

    __slots__ = ("_parts", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self._parts: list[bytes] = []

    def add(self, index: int, is_last: bool, content: bytes) -> bytes | None:
        """Take one; return the whole when it is the last one. Who begins again is followed; others are skipped."""
        if index == 0:
            self._parts.clear()
            self.bytes = 0
        elif index != len(self._parts):
            return None
        self._parts.append(content)
        self.bytes += len(content)
        return b"".join(self._parts) if is_last else None
