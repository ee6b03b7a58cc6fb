"""The client's rooms: which it has joined by itself, what it reads of their history, what waits for that. Pure."""

from typing import Final

from pystrands.protocol.v1.actions import Action, Deliver, Gap, History, Left, Settle, Write
from pystrands.protocol.v1.envelope import HistoryAnswer, json_text
from pystrands.protocol.v1.outbox import NOBODYS, Sent

__all__ = ["Joins"]

MOST: Final = 1000
"""Messages that are read to catch up; no history has more."""
_LOST: Final = "the session was lost meanwhile: ask again"


class _Read:
    """Messages of a room that are being read, in as many answers as it takes."""

    __slots__ = ("after", "before", "got", "has_gap", "ident", "left", "name", "room")

    def __init__(self, ident: int, room: str, left: int, before: int, after: tuple[str, int] | None = None) -> None:
        self.name = ""
        self.ident = ident
        self.room = room
        self.left = left
        """How many more are wanted."""
        self.before = before
        """The number that all are to be older than; 0: the newest are wanted."""
        self.after = after
        """Epoch and number that all are to be newer than, where the client catches up."""
        self.got: list[tuple[int, str | bytes]] = []
        self.has_gap = False

    def frame(self) -> Write:
        header: dict[str, object] = {"t": "history", "id": self.name, "r": self.room, "limit": self.left}
        if self.before:
            header["before"] = self.before
        if self.after is not None:
            header["after"] = self.after
        return Write(json_text(header))


class _Room:
    """A room that the client wants to be in."""

    __slots__ = ("data", "held", "history", "ident", "is_asked", "read", "since")

    def __init__(self, ident: int, data: str | bytes | None, history: int) -> None:
        self.ident = ident
        """Who waits for it; NOBODYS: nobody any more."""
        self.data = data
        self.history = history
        """How many older messages are wanted with it."""
        self.is_asked = True
        """Whether the broker is asked, and has not answered."""
        self.since: tuple[str, int] | None = None
        """In a new session: epoch and number up to which it had everything in the last one."""
        self.read: _Read | None = None
        self.held: list[Deliver] = []
        """What has come while that is read."""


class Joins:
    """Rooms that the page has joined, and reads of history. What is to be done is appended to ``actions``."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}
        self._reads: dict[str, _Read] = {}
        self._count = 0

    def wants(self, room: str) -> bool:
        """Whether a room is joined again in a new session."""
        return room in self._rooms

    # --- what the page does ---

    def ask(self, ident: int, room: str, data: str | bytes | None, history: int, actions: list[Action]) -> None:
        """The page joins a room; the broker is being asked."""
        self.leave(room, actions)
        self._rooms[room] = _Room(ident, data, history)

    def leave(self, room: str, actions: list[Action]) -> None:
        """The page leaves a room, or the broker has put it out."""
        left = self._rooms.pop(room, None)
        if left is not None and left.read is not None:
            del self._reads[left.read.name]
            actions.append(History(left.ident, room, [], False))
            actions += left.held

    def history(self, ident: int, room: str, before: int, limit: int, actions: list[Action], *, is_open: bool) -> None:
        """The page reads what is older than a number, or, where that is 0, the newest."""
        self._begin(_Read(ident, room, limit, before), actions, is_open=is_open)

    def _begin(self, read: _Read, actions: list[Action], *, is_open: bool = True) -> None:
        self._count += 1
        read.name = str(self._count)
        self._reads[read.name] = read
        if is_open:
            actions.append(read.frame())

    # --- what the broker says ---

    def joined(self, message: Sent, number: int, older: int, epoch: str, actions: list[Action]) -> None:
        """The broker has let the client into a room that it wanted; it may read so many ``older`` messages."""
        name = message.room or ""
        room = self._rooms.get(name)
        if room is None or not room.is_asked or room.ident != message.ident:  # it was left, or joined again
            if message.ident != NOBODYS:
                actions.append(History(message.ident, name, [], False))
            return
        room.is_asked = False
        since, room.since, ident, room.ident = room.since, None, room.ident, NOBODYS
        if since is not None and ident == NOBODYS:
            if since[0] == epoch:
                room.read = _Read(NOBODYS, name, MOST, number, since)
                self._begin(room.read, actions)
            else:
                actions.append(Gap(name))
        elif older and room.history:
            room.ident = ident
            room.read = _Read(ident, name, min(older, room.history), number)
            self._begin(room.read, actions)
        else:
            actions.append(History(ident, name, [], True))

    def refused(self, message: Sent, code: str, text: str, actions: list[Action]) -> None:
        """The broker does not let the client into a room."""
        name = message.room or ""
        room = self._rooms.get(name)
        if room is not None and room.is_asked and room.ident == message.ident:
            del self._rooms[name]
        if message.ident != NOBODYS:
            actions.append(Settle(message.ident, code, text))
        else:
            actions.append(Left(name, code))

    def answered(self, answer: HistoryAnswer, actions: list[Action]) -> None:
        """A part of a history has come."""
        read = self._reads.get(answer.id)
        if read is None:
            return
        room = self._rooms.get(read.room)
        if read.after is None:
            read.got = [*answer.messages, *read.got]
            read.left -= len(answer.messages)
        else:
            read.got += answer.messages
            read.has_gap |= not answer.complete
        if answer.more and answer.messages and not answer.code and (read.left > 0 or read.after is not None):
            if read.after is None:
                read.before = answer.messages[0][0]
            else:
                read.after = (read.after[0], answer.messages[-1][0])
            actions.append(read.frame())
            return
        del self._reads[answer.id]
        if room is not None and room.read is read:
            room.read, room.ident = None, NOBODYS
        if read.after is not None:
            _caught_up(read, actions)
        elif answer.code and not read.got:
            actions.append(Settle(read.ident, answer.code, answer.text))
        else:
            actions.append(History(read.ident, read.room, read.got, answer.complete))
        if room is not None and room.read is None:
            actions += room.held
            room.held = []

    def deliver(self, message: Deliver, actions: list[Action]) -> None:
        """A message has come, which may have to wait for the history of its room (promise 26)."""
        room = self._rooms.get(message.room or "")
        if room is None or room.read is None:
            actions.append(message)
        else:
            room.held.append(message)

    # --- connections ---

    def resumed(self, actions: list[Action]) -> None:
        """The connection is back: what was asked may never have arrived."""
        actions += [read.frame() for read in self._reads.values()]

    def lost(self, epoch: str, seen: int, pending: set[str], actions: list[Action]) -> list[Sent]:
        """The session is lost; return what joins the rooms again whose joins are not ``pending`` anyway.

        A history that was to come with a join comes with the next one. What has come behind it, and waited, may be
        older than what that has: it is gone, which is told.
        """
        again = []
        for name, room in self._rooms.items():
            if name in pending:
                continue
            if room.read is not None:
                del self._reads[room.read.name]
                room.since = room.read.after
                if room.since is not None:  # what has come behind it is read again
                    _caught_up(room.read, actions)
                elif room.held:
                    actions.append(Gap(name))
                room.read, room.held = None, []
            if room.since is None:
                room.since = (epoch, seen)
            room.is_asked = True
            again.append(Sent(room.ident, room.data, name, "join", asks=True))
        actions += [Settle(read.ident, "lost", _LOST) for read in self._reads.values()]
        self._reads.clear()
        return again

    def clear(self, code: str, text: str, actions: list[Action]) -> None:
        """The client is closed."""
        actions += [Settle(read.ident, code, text) for read in self._reads.values() if read.ident != NOBODYS]
        self._rooms.clear()
        self._reads.clear()


def _caught_up(read: _Read, actions: list[Action]) -> None:
    """Deliver what was read of what the client has missed."""
    if read.has_gap:
        actions.append(Gap(read.room))
    actions += [Deliver(body, read.room, number, True) for number, body in read.got]
