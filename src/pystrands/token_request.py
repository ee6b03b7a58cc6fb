"""What a handler is told about a client that shows a new token, before its permission is over."""

from datetime import datetime
from typing import Any, Literal

from pystrands.context import Context, check_time
from pystrands.protocol.limits import MAX_REASON

__all__ = ["TokenRequestContext"]


class TokenRequestContext:
    """A client of the subprotocol `pystrands.v1` that shows a new token; the argument of ``on_token``.

    ``token``: what it shows. ``context``: the client's :class:`Context`. ``accepted``: decides when the callback
    returns None; False at first. ``expires_at``: until when the client may stay, in seconds since 1970; None for as
    long as it likes. ``reason``: why the token is not taken, for people. :meth:`accept` and :meth:`reject` set all of
    these, checked.
    """

    def __init__(self, token: str, context: Context) -> None:
        self.token = token
        self.context = context
        self.accepted: Any = False
        self.expires_at: Any = None
        self.reason: Any = ""

    def __repr__(self) -> str:
        """Return what may be logged: all but the token."""
        return f"TokenRequestContext(context={self.context!r}, accepted={self.accepted!r})"

    def accept(self, expires_at: float | datetime | None = None) -> Literal[True]:
        """Take the token; return True, for ``return``.

        ``expires_at``: seconds since 1970, or a datetime with a time zone, in the place of the one that there was; None
        for a client that is never closed for its time. Raises TypeError or ValueError on what can't be sent, and has
        then changed nothing.
        """
        self.expires_at = check_time(expires_at)
        self.accepted, self.reason = True, ""
        return True

    def reject(self, reason: str = "") -> Literal[False]:
        """Don't take the token; return False, for ``return``: what the client was allowed before stays as it is.

        ``reason`` (str): a text for the client. Raises TypeError when it is none.
        """
        check_reason(reason)
        self.accepted, self.reason = False, reason
        return False


def check_reason(reason: Any) -> str:
    """Return the reason, as much of it as is sent. Raises TypeError when it is no str."""
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str, not {type(reason).__name__}")
    return reason[:MAX_REASON]
