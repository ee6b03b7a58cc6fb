"""What a handler is told about a client that wants to be in a room."""

from typing import Any, Literal

from pystrands.context import Context, check_json
from pystrands.protocol.limits import MAX_REASON

__all__ = ["JoinRequestContext", "check_join"]


class JoinRequestContext:
    """A client that wants to be in one more room; the argument of ``on_join_request``.

    ``room_id``: the room. ``data``: what the page says with it, str or bytes; None where it says nothing. ``context``:
    the client's :class:`Context`; its ``rooms`` are those it is in already, and may have this one among them.
    ``accepted``: decides when the callback returns None; False at first.
    ``history``, ``presence``, ``signals``, ``reason``: what :meth:`accept` and :meth:`reject` have set.
    """

    def __init__(self, room_id: str, data: str | bytes | None, context: Context) -> None:
        self.room_id = room_id
        self.data = data
        self.context = context
        self.accepted = False
        self.history = 0
        self.presence: Any = None
        self.signals = False
        self.reason = ""

    def accept(self, *, history: int = 0, presence: Any = None, signals: bool = False) -> Literal[True]:
        """Let the client into the room; return True, for ``return``.

        ``history`` (int): how many messages from before the client may read, of those that ``keep_history`` has kept.
        ``presence`` (a JSON value): what the room's members are told of it, as by ``set_presence``; None: it is not
        present. ``signals``: it may send signals there. Of several calls of this and :meth:`reject` the last one
        counts; True and False that the callback returns win over both.

        Raises TypeError or ValueError on what is no such number, and has then changed nothing.
        """
        check_join(history, signals, "")
        shown = check_json(presence, "presence", caller="accept")
        self.accepted, self.history, self.signals, self.reason = True, history, signals, ""
        self.presence = shown
        return True

    def reject(self, reason: str = "") -> Literal[False]:
        """Don't let the client into the room; return False, for ``return``.

        ``reason`` (str): a text for the page. Raises TypeError or ValueError on what can't be sent, and has then
        changed nothing.
        """
        check_join(0, False, reason)
        self.accepted, self.history, self.signals, self.reason = False, 0, False, reason
        self.presence = None
        return False

    def __repr__(self) -> str:
        return f"JoinRequestContext(room_id={self.room_id!r}, data={self.data!r}, context={self.context!r})"


def check_join(history: Any, signals: Any, reason: Any) -> None:
    """Raise TypeError or ValueError unless a join can be answered with these."""
    if not isinstance(history, int) or isinstance(history, bool):
        raise TypeError(f"history is a number of messages, not {type(history).__name__}")
    if history < 0:
        raise ValueError(f"history is a number of messages from 0 on, not {history}")
    if not isinstance(signals, bool):
        raise TypeError(f"signals is True or False, not {type(signals).__name__}")
    if not isinstance(reason, str):
        raise TypeError(f"the reason is a str, not {type(reason).__name__}")
    if len(reason) > MAX_REASON:
        raise ValueError(f"the reason has at most {MAX_REASON} characters, not {len(reason)}")
    reason.encode()  # a ValueError where UTF-8 can't say it
