"""Connections that have not shown yet what they want, by address, and which of them makes room for another. Pure."""

from collections.abc import Hashable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from pystrands.broker.bounds import BOUNDS

__all__ = ["PendingConnection", "PendingConnections"]

_PART: Final = 4
"""One address has a quarter of the room, and one connection a quarter of its time, before they have to give way."""
_FEW: Final = 16
"""Connections that any address may have beside others, however full it is."""


class PendingConnection(Protocol):
    """A connection that has not shown yet what it wants."""

    began: float
    """When it was accepted, in seconds."""

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come from it."""
        ...


N = TypeVar("N", bound=PendingConnection)


class PendingConnections(Generic[N]):
    """Room for ``size`` connections, each of which has ``time`` seconds; it holds those that it is told of.

    No address keeps the others out: when it is full, one that has many makes room for one that has fewer, and its own
    newcomers are not let in. ``key`` stands for an address; None for a trusted proxy, behind which many are: it has all
    the room. 0 as the size is no limit.
    """

    __slots__ = ("_all", "_by_key", "_patience", "_silence", "size")

    def __init__(self, size: int, time: float, silence: float = BOUNDS.silent) -> None:
        self.size = size
        self._patience = time / _PART
        self._silence = min(silence, self._patience)
        self._all: dict[N, Hashable] = {}  # the oldest first
        self._by_key: dict[Hashable, dict[N, None]] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    def __contains__(self, one: N) -> bool:
        """Whether it is one of them."""
        return one in self._all

    def enter(self, one: N, key: Hashable) -> None:
        """Take one in."""
        self._all[one] = key
        self._by_key.setdefault(key, {})[one] = None

    def leave(self, one: N) -> None:
        """It has shown what it wants, or is gone. A second time does nothing."""
        if one in self._all:
            key = self._all.pop(one)
            same = self._by_key[key]
            del same[one]
            if not same:
                del self._by_key[key]

    def __iter__(self) -> Iterator[N]:
        """Give all of them, the oldest first."""
        return iter(self._all)

    def who_gives_way(self, key: Hashable, now: float, *, is_full: bool) -> N | None:
        """Return who has to go for a newcomer with this key, if anybody. ``is_full``: there is no room but that."""
        if not self.size:
            return None
        same = self._by_key.get(key, {})
        if key is not None and len(same) >= max(1, self.size // _PART) and (old := self._old(same, now)):
            return old
        if not is_full:
            return None
        most = self._most()
        if most is not same and len(most) > max(_FEW, len(same)):
            return self._oldest(most)
        return self._old(most, now) or self._old(self._all, now)

    def is_overrun_by(self, key: Hashable) -> bool:
        """Whether it is this address that has the most of it, and many."""
        same = self._by_key.get(key, {})
        return len(same) > _FEW and same is self._most()

    def old_and_silent(self, key: Hashable, now: float) -> N | None:
        """Return the oldest with this key that has sent nothing for so long that it is no loss."""
        old = self._old(self._by_key.get(key, {}), now)
        return old if old is not None and old.is_silent else None

    def _most(self) -> dict[N, None]:
        return max((same for key, same in self._by_key.items() if key is not None), key=len, default={})

    def _oldest(self, group: dict[N, None]) -> N:
        """Return the oldest that is silent, or else the oldest."""
        return next((one for one in group if one.is_silent), None) or next(iter(group))

    def _old(self, group: "dict[N, None] | dict[N, Hashable]", now: float) -> N | None:
        """Return who in a group has had its time: it has been silent, or has used a quarter of all the time it has."""
        silent = next((one for one in group if one.is_silent and self._all[one] is not None), None)
        if silent is not None and now - silent.began > self._silence:
            return silent
        oldest = next(iter(group), None)
        return oldest if oldest is not None and now - oldest.began > self._patience else None
