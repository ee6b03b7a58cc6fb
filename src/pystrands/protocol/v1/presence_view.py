"""Who is present in rooms, as a client sees it: kept up to date from what the broker tells. Pure."""

from typing import Final

import msgspec
from msgspec import Struct

from pystrands.presence import Member
from pystrands.protocol.v1.actions import Action, PresenceChanged, Write
from pystrands.protocol.v1.envelope import BadFrameError, json_text

__all__ = ["PresenceViews"]


class _Told(Struct):
    """All who are present, or what has changed."""

    full: list[Member] | None = None
    joined: list[Member] = msgspec.field(default_factory=list)
    left: list[str] = msgspec.field(default_factory=list)
    updated: list[Member] = msgspec.field(default_factory=list)


_decode: Final = msgspec.json.Decoder(_Told).decode


class _View:
    """One room. ``v``: the version that is known, 0 where none is; ``is_asking``: whether all was asked for."""

    __slots__ = ("is_asking", "members", "v")

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.v = 0
        self.is_asking = False


class PresenceViews:
    """The rooms that the client wants to know of, whether it is in them or not."""

    def __init__(self) -> None:
        self._views: dict[str, _View] = {}

    def members(self, room: str) -> dict[str, Member]:
        """Return who is present in a room, by user."""
        view = self._views.get(room)
        return {} if view is None else view.members

    # --- what the client wants ---

    def want(self, room: str, *, may_ask: bool) -> list[Action]:
        """Keep a room up to date from now on. ``may_ask``: whether the client is in it, and connected."""
        if room in self._views:
            return []
        self._views[room] = _View()
        return self.ask(room) if may_ask else []

    def ask(self, room: str) -> list[Action]:
        """Ask for what is new in a room, which the client is in, if it is to be kept up to date."""
        view = self._views.get(room)
        if view is None or view.is_asking:
            return []
        view.is_asking = True
        header: dict[str, object] = {"t": "presence", "r": room}
        if view.v:
            header["v"] = view.v
        return [Write(json_text(header))]

    # --- what happens ---

    def connected(self, rooms: dict[str, None], *, is_same: bool) -> list[Action]:
        """Ask anew, as the connection is; ``rooms`` are those that the client is in. ``is_same``: so is the session."""
        actions: list[Action] = []
        for room, view in self._views.items():
            view.is_asking = False
            if not is_same:
                view.v = 0
            if room in rooms:
                actions += self.ask(room)
            else:
                actions += self.left(room)
        return actions

    def left(self, room: str) -> list[Action]:
        """The client is in a room no more: it sees nobody there."""
        view = self._views.get(room)
        if view is None:
            return []
        gone, view.members = list(view.members.values()), {}
        view.v, view.is_asking = 0, False
        return [PresenceChanged(room, [], gone, [])] if gone else []

    def told(self, room: str, v: int, body: str | bytes | None) -> list[Action]:
        """Take what the broker tells. Raises BadFrameError."""
        view = self._views.get(room)
        if view is None:
            return []
        if body is None:  # nothing is new
            view.is_asking = False
            return []
        try:
            told = _decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise BadFrameError(f"who is present can't be read: {error}") from None
        if told.full is not None:
            view.is_asking = False
            view.v = v
            return _replaced(room, view, told.full)
        if view.is_asking or v <= view.v:  # all will come, and this is in it
            return []
        if v != view.v + 1:
            return self.ask(room)
        view.v = v
        return _changed(room, view, told)


def _replaced(room: str, view: _View, full: list[Member]) -> list[Action]:
    before, view.members = view.members, {member.user: member for member in full}
    joined = [member for member in full if member.user not in before]
    updated = [member for member in full if member.user in before and before[member.user] != member]
    left = [member for user, member in before.items() if user not in view.members]
    return [PresenceChanged(room, joined, left, updated)]


def _changed(room: str, view: _View, told: _Told) -> list[Action]:
    left = [member for user in told.left if (member := view.members.pop(user, None)) is not None]
    for member in (*told.joined, *told.updated):
        view.members[member.user] = member
    return [PresenceChanged(room, told.joined, left, told.updated)]
