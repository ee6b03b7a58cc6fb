"""What was sent to a room lately, as backends read it."""

from typing import NamedTuple

from pystrands.protocol.messages import ResultParams, message_content

__all__ = ["History", "HistoryMessage", "history_of"]


class HistoryMessage(NamedTuple):
    """A message that was sent to a room: str or bytes, and when, in seconds since 1970, by the broker's clock.

    ``number``: its place in the broker's order.
    """

    message: str | bytes
    time: float
    number: int


class History(NamedTuple):
    """Messages of a room, the oldest first. ``complete``: whether there are no older ones to be read."""

    messages: list[HistoryMessage]
    complete: bool


def history_of(result: ResultParams) -> History:
    """Return what a broker has answered."""
    return History(
        [
            HistoryMessage(message_content(each.message, each.binary), each.number / 1_000_000, each.number)
            for each in result.history
        ],
        result.complete,
    )
