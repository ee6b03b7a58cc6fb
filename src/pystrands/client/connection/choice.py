"""Which broker's link a line goes to: that of the client whose event is handled, or the home link."""

from typing import Any

from pystrands.client.connection.broker_info import BrokerInfo
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.handlers.current import served_queue
from pystrands.client.handlers.queue import CallQueue

__all__ = ["LinkChoice"]


class LinkChoice:
    """Chooses for each line, as CLUSTER rules 1 and 2 say: what a handler sends goes to the broker of its client.

    Stands in the place of an :class:`Outgoing` where there are several. For any thread.
    """

    __slots__ = ("_by_queue", "home")

    def __init__(self, home: Outgoing) -> None:
        self.home = home
        """Takes what is sent outside of handlers."""
        self._by_queue: dict[CallQueue, Outgoing] = {}

    def add(self, queue: CallQueue, outgoing: Outgoing) -> None:
        """What handlers of that queue's calls send goes there."""
        self._by_queue[queue] = outgoing

    def remove(self, queue: CallQueue) -> None:
        """What such handlers still send goes home."""
        self._by_queue.pop(queue, None)

    def choose(self) -> Outgoing:
        """Return the way out for the code that calls this."""
        queue = served_queue()
        if queue is None:
            return self.home
        return self._by_queue.get(queue, self.home)

    @property
    def broker(self) -> BrokerInfo | None:
        """What is known of the broker that this code sends to."""
        return self.choose().broker

    def send_now(self, line: bytes) -> bool:
        """See :meth:`Outgoing.send_now`."""
        return self.choose().send_now(line)

    def private_message_now(self, client_id: Any, message: Any) -> bool:
        """See :meth:`Outgoing.private_message_now`."""
        return self.choose().private_message_now(client_id, message)
