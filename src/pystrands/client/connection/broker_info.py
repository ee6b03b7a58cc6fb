"""What is known of the broker at the other end of a link."""

import sys

from pystrands.protocol.messages import HelloParams

__all__ = ["BrokerInfo"]


class BrokerInfo:
    """What the broker of one link said of itself in its hello; the defaults are for one that says none."""

    __slots__ = ("binary", "broker_id", "fits", "max_context", "max_id", "max_line", "max_message_size", "said_hello")

    def __init__(self) -> None:
        self.said_hello = False
        self.binary = False
        self.broker_id = ""
        self.max_message_size = 0
        """In bytes; 0 where the broker does not say."""
        self.max_line = 0
        """The same for a whole line."""
        self.max_id = 0
        """Bytes of UTF-8 that it takes for the id of a client or a room; 0 where it does not say."""
        self.max_context = 0
        """Bytes of JSON that it takes for a client's ids, rooms and metadata together; the same."""
        self.fits: int = sys.maxsize
        """Characters of a text that is surely not too long, whichever they are."""

    def on_hello(self, params: HelloParams) -> None:
        """Take in the broker's hello."""
        self.said_hello = True
        self.binary = params.binary
        self.broker_id = params.broker_id
        self.max_message_size = params.max_message_size
        self.max_line = params.max_line
        self.max_id = params.max_id
        self.max_context = params.max_context
        if params.max_message_size:
            self.fits = params.max_message_size // 4
