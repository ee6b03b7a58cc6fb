"""Who is present in a room: one entry for each user, over all sessions and all brokers. Pure.

A broker knows the members of its own, and what the others have told of theirs. What is shown is both together; changes
are gathered, and told as one: its version `v` is one more than the last one's.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Raw, Struct

__all__ = ["MAX_INFO", "Change", "Entry", "RoomPresence", "Shown", "merged", "shown_as"]

MAX_INFO: Final = 1024
"""Bytes of JSON that may be told of one."""


class Entry(Struct, gc=False):
    """A user as one broker knows him: ``info`` is what was said last, at ``stamp`` (nanoseconds since 1970).

    ``since``: seconds since 1970.
    """

    user: str
    info: Raw
    connections: int
    since: float
    stamp: int


class Shown(Struct, gc=False):
    """A user as members see him."""

    user: str
    info: Raw
    connections: int
    since: float


class Change(Struct, omit_defaults=True):
    """What has changed in a room: ``left`` are users, each of the others is as it is now."""

    joined: list[Shown] = msgspec.field(default_factory=list)
    left: list[str] = msgspec.field(default_factory=list)
    updated: list[Shown] = msgspec.field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.joined or self.left or self.updated)


def shown_as(entry: Entry) -> Shown:
    """Return an entry as members see it."""
    return Shown(entry.user, entry.info, entry.connections, entry.since)


def merged(entries: Iterable[Entry]) -> Entry | None:
    """Return one entry for a user of whom several brokers tell; None where none does."""
    found: Entry | None = None
    for entry in entries:
        if found is None:
            found = entry
            continue
        newest = max(found, entry, key=_word_of)
        found = Entry(
            entry.user,
            newest.info,
            found.connections + entry.connections,
            min(found.since, entry.since),
            newest.stamp,
        )
    return found


class _Member:
    """A client that is present; ``is_away``: it is not, for it has been away for too long."""

    __slots__ = ("info", "is_away", "stamp", "user")

    def __init__(self, user: str, info: bytes, stamp: int) -> None:
        self.user = user
        self.info = info
        self.stamp = stamp
        self.is_away = False


class RoomPresence:
    """The presence of one room, at one broker.

    ``version``: what the first versions come after; no two objects that are for one room may tell of the same.
    ``most``: how many clients of this broker may be present.
    """

    __slots__ = ("_clients", "_elsewhere", "_most", "_own", "_shown", "_users", "dirty", "info_bytes", "own_dirty", "v")

    def __init__(self, version: int, most: int) -> None:
        self._most = most
        self._clients: dict[int, _Member] = {}  # by their numbers
        self._users: dict[str, dict[int, _Member]] = {}  # the same, by user
        self._own: dict[str, Entry] = {}
        self._elsewhere: dict[str, dict[str, Entry]] = {}  # by broker, by user
        self._shown: dict[str, Shown] = {}
        self.dirty: dict[str, None] = {}
        """Users of whom something may have changed."""
        self.own_dirty: dict[str, None] = {}
        """Those of them of whom this broker has something new to tell; whoever tells the others clears it."""
        self.v = version
        """The version of what is shown."""
        self.info_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether nobody is present, of this broker or, as far as it knows, of others, and all of that is told."""
        return not (self._clients or self._elsewhere or self._shown)

    @property
    def shown(self) -> list[Shown]:
        """Who is present, as of the last change."""
        return list(self._shown.values())

    @property
    def own(self) -> list[Entry]:
        """The users of this broker."""
        return list(self._own.values())

    def own_of(self, user: str) -> Entry | None:
        """Return what this broker knows of a user."""
        return self._own.get(user)

    def has(self, client: int) -> bool:
        """Whether a client is among those that are present, or would be if it were not away."""
        return client in self._clients

    # --- clients of this broker ---

    def enter(self, client: int, user: str, info: bytes, now: float, stamp: int) -> bool:
        """Have a client be present, or change what is told of it; False where there are too many."""
        member = self._clients.get(client)
        if member is None:
            if len(self._clients) >= self._most:
                return False
            member = self._clients[client] = _Member(user, info, stamp)
            self._users.setdefault(user, {})[client] = member
        else:
            self.info_bytes -= len(member.info)
            member.info, member.stamp = info, stamp
        self.info_bytes += len(info)
        self._changed(member.user, now)
        return True

    def leave(self, client: int, now: float) -> bool:
        """Have a client be present no more; return whether it was."""
        member = self._clients.pop(client, None)
        if member is None:
            return False
        self.info_bytes -= len(member.info)
        of_user = self._users[member.user]
        del of_user[client]
        if not of_user:
            del self._users[member.user]
        self._changed(member.user, now)
        return True

    def set_away(self, client: int, is_away: bool, now: float) -> None:
        """Leave out a client that has been away for too long, or have it be there again."""
        member = self._clients.get(client)
        if member is not None and member.is_away != is_away:
            member.is_away = is_away
            self._changed(member.user, now)

    def _changed(self, user: str, now: float) -> None:
        """Look anew at a user of this broker."""
        self.dirty[user] = None
        self.own_dirty[user] = None
        members = [each for each in self._users.get(user, {}).values() if not each.is_away]
        if not members:
            self._own.pop(user, None)
            return
        newest = max(members, key=_word_of)
        before = self._own.get(user)
        since = now if before is None else before.since
        self._own[user] = Entry(user, Raw(newest.info), len(members), since, newest.stamp)

    # --- those of others ---

    def put_elsewhere(self, broker: str, entries: Iterable[Entry], left: Iterable[str] = ()) -> None:
        """Take what another broker tells of some of its users."""
        known = self._elsewhere.setdefault(broker, {})
        for entry in entries:
            known[entry.user] = entry
            self.dirty[entry.user] = None
        for user in left:
            if known.pop(user, None) is not None:
                self.dirty[user] = None
        if not known:
            del self._elsewhere[broker]

    def set_elsewhere(self, broker: str, entries: Iterable[Entry]) -> None:
        """Take what another broker tells of all of its users."""
        self.dirty.update(dict.fromkeys(self._elsewhere.pop(broker, ())))
        self.put_elsewhere(broker, entries)

    def forget_elsewhere(self, brokers: Iterable[str] | None = None) -> None:
        """Know no more of the users of some other brokers, or of all."""
        for broker in list(self._elsewhere) if brokers is None else brokers:
            self.set_elsewhere(broker, ())

    @property
    def brokers(self) -> list[str]:
        """The other brokers that have told of somebody."""
        return list(self._elsewhere)

    # --- what is told ---

    def flush(self) -> Change:
        """Return what has changed since the last call; where anything has, it is the next version."""
        change = Change()
        for user in self.dirty:
            own = self._own.get(user)
            entries = [] if own is None else [own]
            entries += [known[user] for known in self._elsewhere.values() if user in known]
            self._look(user, merged(entries), change)
        self.dirty.clear()
        if change:
            self.v += 1
        return change

    def _look(self, user: str, entry: Entry | None, change: Change) -> None:
        before = self._shown.get(user)
        if entry is None:
            if before is not None:
                del self._shown[user]
                change.left.append(user)
            return
        now = shown_as(entry)
        if before is None:
            change.joined.append(now)
        else:
            now.since = min(now.since, before.since)
            if now == before:
                return
            change.updated.append(now)
        self._shown[user] = now


def _word_of(told: Entry | _Member) -> tuple[int, bytes]:
    """Return what says which of two was said last, the same at all brokers."""
    return told.stamp, bytes(told.info)
