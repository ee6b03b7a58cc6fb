"""Messages that wait to be sent: for room on the link, or for a recipient that is full. No I/O."""

import asyncio
from collections import deque
from collections.abc import Iterator

__all__ = ["FullRecipients", "Waiting"]


class Waiting:
    """A line that waits. ``sent`` is done when that is over, with whether it was taken.

    ``to`` is whom it is for, empty where that does not matter. ``runner`` is the number of the runner whose handler
    sends it, or 0. ``is_taken``: a thread was told that it was handed on, so it is lost when nobody takes it.
    """

    __slots__ = ("is_taken", "line", "queue", "runner", "sent", "to")

    def __init__(
        self, line: bytes, to: str, sent: "asyncio.Future[bool]", runner: int = 0, *, is_taken: bool = False
    ) -> None:
        self.line = line
        self.to = to
        self.sent = sent
        self.runner = runner
        self.is_taken = is_taken
        self.queue: deque[Waiting] | None = None
        """What it stands in."""

    def stand_in(self, queue: "deque[Waiting]") -> None:
        """Wait at the end of a queue."""
        self.queue = queue
        queue.append(self)

    def give_up(self) -> None:
        """Wait no more: whoever sends it has gone."""
        queue, self.queue = self.queue, None
        if queue is not None and self in queue:
            queue.remove(self)
        self.sent.cancel()


class FullRecipients:
    """The recipients that take no more, as the broker has told, each with what waits for it (LINK rules 25, 26).

    ``link`` is the queue of what waits for room on the link; it comes after what this holds. ``queues`` is only to be
    looked at: it is empty where nobody is full.
    """

    __slots__ = ("_link", "queues")

    def __init__(self, link: deque[Waiting]) -> None:
        self._link = link
        self.queues: dict[str, deque[Waiting]] = {}

    def __contains__(self, to: object) -> bool:
        """Whether a recipient is full."""
        return to in self.queues

    @property
    def waiting(self) -> Iterator[Waiting]:
        """All that waits."""
        return (each for queue in self.queues.values() for each in queue)

    def append(self, waiting: Waiting) -> None:
        """Have a line wait for its recipient, which is full."""
        waiting.stand_in(self.queues[waiting.to])

    def add(self, to: str) -> None:
        """A recipient is full: what is for it and waits for the link waits for the recipient, before all later ones."""
        if to in self.queues:
            return
        queue = self.queues[to] = deque()
        if any(each.to == to for each in self._link):
            others = [each for each in self._link if each.to != to]
            for each in self._link:
                if each.to == to:
                    each.stand_in(queue)
            self._link.clear()
            self._link.extend(others)

    def discard(self, to: str) -> None:
        """A recipient takes more: what waits for it is the link's, in its order."""
        for each in self.queues.pop(to, ()):
            each.stand_in(self._link)

    def release(self) -> None:
        """Leave all that waits to the link; who is full stays so."""
        for queue in self.queues.values():
            for each in queue:
                each.stand_in(self._link)
            queue.clear()

    def clear(self) -> None:
        """Know nobody any more who is full: the broker, or the session, is another one. What waits is the link's."""
        self.release()
        self.queues.clear()
