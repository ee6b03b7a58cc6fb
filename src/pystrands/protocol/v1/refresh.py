"""When a client shows a new token: before its time is over, on the connection that it has. Pure."""

import math
from typing import Final

from pystrands.protocol.v1.envelope import join, json_text

__all__ = ["TokenRefresh"]

_PART: Final = 0.8
"""Of the time that is left, until a new token is shown."""
_LEAST: Final = 1.0
"""Seconds before that, at least; where less is left than this, the end is waited for."""
_ANSWER_WITHIN: Final = 10.0


class TokenRefresh:
    """Its timers, and what waits for an answer. All times are of any steady clock, in seconds."""

    __slots__ = ("_ident", "_is_asking", "at", "by")

    def __init__(self) -> None:
        self.at = math.inf
        """When to ask for a token."""
        self.by = math.inf
        """When its answer has to be here."""
        self._is_asking = False
        self._ident = 0

    @property
    def deadline(self) -> float:
        """When something is to be done."""
        return min(self.at, self.by)

    def plan(self, left: float, now: float) -> None:
        """See when to show the next token, where there are so many seconds ``left``."""
        self.rest()
        delay = max(_PART * left, _LEAST)
        if delay < left:
            self.at = now + delay

    def rest(self) -> None:
        """Do nothing more."""
        self.at = self.by = math.inf
        self._is_asking = False

    def begin(self) -> None:
        """It is time: a token is asked for."""
        self.rest()
        self._is_asking = True

    def show(self, token: str, now: float) -> str | bytes | None:
        """Return the frame that shows a token; None where none was asked for."""
        if not self._is_asking:
            return None
        self.rest()
        self.by = now + _ANSWER_WITHIN
        self._ident += 1
        return join(json_text({"t": "auth", "id": str(self._ident)}), token)

    def is_answer(self, ident: str) -> bool:
        """Whether that is the answer which is waited for."""
        return self.by < math.inf and ident == str(self._ident)
