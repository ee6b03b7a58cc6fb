"""Whether all other brokers are there, when NATS says that nobody has a client. Pure: the time is an argument."""

from collections.abc import Callable
from typing import Final, final

from pystrands.engine.nats.member import Member
from pystrands.engine.nats.talk import Call, Here
from pystrands.engine.nats.voice import Voice

__all__ = ["RollCall"]

_GIVEN_UP: Final = 1.0
"""Seconds after which somebody who has not answered is away."""


@final
class RollCall:
    """Calls all ``members``, for all requests of which that is to be known at the time, by their numbers.

    ``all_here`` is told of each when all have answered, and listen; ``somebody_away`` otherwise.
    """

    def __init__(
        self,
        voice: Voice,
        members: dict[int, Member],
        all_here: Callable[[int, float], None],
        somebody_away: Callable[[int, float], None],
    ) -> None:
        self._voice = voice
        self._members = members
        self._all_here = all_here
        self._somebody_away = somebody_away
        self._number = 0
        self._open: set[int] = set()  # who has not answered the call that is out
        self._asking: list[int] = []  # for whom that is
        self._next: list[int] = []  # and the next one
        self._sent = 0.0

    def add(self, number: int) -> bool:
        """Take a request; return whether :meth:`send` is to be called at the end of this turn."""
        self._next.append(number)
        return len(self._next) == 1 and not self._asking

    def send(self, now: float) -> None:
        """Call all, unless a call is out."""
        if self._asking or not self._next:
            return
        self._asking, self._next = self._next, []
        self._open = set(self._members)
        self._number += 1
        self._sent = now
        if self._open:
            self._voice.call(Call(self._number))
        else:
            self._end(self._all_here, now)

    def on_here(self, sender: int, here: Here, now: float) -> None:
        """Take an answer."""
        if here.number != self._number or sender not in self._open:
            return
        self._open.remove(sender)
        if not here.is_listening:
            self._end(self._somebody_away, now)
        elif not self._open:
            self._end(self._all_here, now)

    def _end(self, tell: Callable[[int, float], None], now: float) -> None:
        numbers, self._asking = self._asking, []
        self._open.clear()
        for number in numbers:
            tell(number, now)
        self.send(now)

    def on_dead(self, sender: int, now: float) -> None:
        """Wait no more for a broker."""
        if sender in self._open:
            self._open.remove(sender)
            if not self._open:
                self._end(self._all_here, now)

    def on_returned(self, now: float) -> None:
        """Somebody is back, who may not have heard the call: ask anew."""
        if self._asking:
            self._end(self._somebody_away, now)

    def on_disconnected(self) -> None:
        """Forget all: requests are repeated when NATS is back."""
        self._open.clear()
        self._asking.clear()
        self._next.clear()

    def tick(self, now: float) -> None:
        """Wait no longer for an answer."""
        if self._asking and now - self._sent >= _GIVEN_UP:
            self._end(self._somebody_away, now)

    # --- who is called ---

    def on_call(self, member: Member, call: Call, is_listening: bool) -> None:
        """Answer another broker."""
        self._voice.say(member.subject, Here(call.number, is_listening))
