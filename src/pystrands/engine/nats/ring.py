"""The newest messages that this broker has published, for brokers that have missed some. Pure."""

from typing import Final, final

__all__ = ["ENTRY_BYTES", "PublicationRing"]

ENTRY_BYTES: Final = 120
"""What an envelope takes beside its content."""
_TRIM_AT: Final = 4096


@final
class PublicationRing:
    """Envelopes with consecutive numbers, of which the oldest go when there are more than ``limit`` bytes."""

    __slots__ = ("_envelopes", "_gone", "_times", "bytes", "first", "limit")

    def __init__(self, limit: int, first: int = 1) -> None:
        self.limit = limit
        self.first = first
        """The number of the oldest; where there is none, that of the next one."""
        self.bytes = 0
        self._envelopes: list[bytes] = []
        self._times: list[float] = []
        self._gone = 0  # so many at the beginning of both lists

    @property
    def next(self) -> int:
        """The number that the next one gets."""
        return self.first + len(self._envelopes) - self._gone

    def append(self, envelope: bytes, now: float) -> None:
        """Keep the next one, which is published ``now``."""
        self._envelopes.append(envelope)
        self._times.append(now)
        self.bytes += len(envelope) + ENTRY_BYTES
        if self.bytes > self.limit:
            self._shrink()

    def _shrink(self) -> None:
        gone, size = self._gone, self.bytes
        envelopes = self._envelopes
        last = len(envelopes) - 1  # which stays, however large it is
        while size > self.limit and gone < last:
            size -= len(envelopes[gone]) + ENTRY_BYTES
            envelopes[gone] = b""
            gone += 1
        self.first += gone - self._gone
        self._gone, self.bytes = gone, size
        if gone > _TRIM_AT and gone * 2 > len(envelopes):
            del envelopes[:gone]
            del self._times[:gone]
            self._gone = 0

    def get(self, seq: int) -> bytes | None:
        """Return the one of that number, if it is still there."""
        index = self._gone + seq - self.first
        if seq < self.first or index >= len(self._envelopes):
            return None
        return self._envelopes[index]

    def time(self, seq: int) -> float:
        """Return when the one of that number, which is there, was published."""
        return self._times[self._gone + seq - self.first]

    def clear(self, first: int) -> None:
        """Forget all; the next one gets the number ``first``."""
        self._envelopes.clear()
        self._times.clear()
        self._gone = self.bytes = 0
        self.first = first
