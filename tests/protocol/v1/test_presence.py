"""Random schedules of who comes and goes and of frames that are lost; and mutants that they must find out."""

import json
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pystrands.protocol.v1.actions import PresenceChanged, Write
from pystrands.protocol.v1.envelope import BadFrameError
from pystrands.protocol.v1.presence import Entry, RoomPresence, merged
from pystrands.protocol.v1.presence_view import PresenceViews

ROOM = "r"
USERS = ["ada", "ben", "cem"]


class Oracle:
    """Who is present, told by hand."""

    def __init__(self):
        self.here = {}  # by client: the user, what is told, whether it is away
        self.said = {}  # by client: when that was said
        self.elsewhere = {}  # by broker, by user: the entry

    def present(self):
        """By user: what is told, and the number of connections."""
        told, counts = {}, {}
        for client, (user, info, is_away) in self.here.items():
            if not is_away:
                told.setdefault(user, []).append((self.said[client], info))
                counts[user] = counts.get(user, 0) + 1
        for entries in self.elsewhere.values():
            for user, entry in entries.items():
                told.setdefault(user, []).append((entry.stamp, json.loads(bytes(entry.info))))
                counts[user] = counts.get(user, 0) + entry.connections
        return {user: (max(some)[1], counts[user]) for user, some in told.items()}


class World:
    """A room at a broker, and a client that sees it over a line on which frames are lost, in order."""

    def __init__(self, seed, room=RoomPresence, views=PresenceViews):
        self.random = random.Random(seed)
        self.room = room(1000, 6)
        self.views = views()
        self.oracle = Oracle()
        self.line = []
        self.asked = 0
        self.now = 0
        self.seen = {}
        self.do(self.views.want(ROOM, may_ask=True))

    def do(self, actions):
        for action in actions:
            if isinstance(action, Write):
                header = json.loads(action.frame)
                assert (header["t"], header["r"]) == ("presence", ROOM)
                self.asked += 1
                self.answer(header.get("v", 0))
            else:
                assert isinstance(action, PresenceChanged)
                self.see(action)

    def see(self, change):
        """Do what a page does with it: nobody joins twice, nor leaves or changes who is not there."""
        for member in change.left:
            del self.seen[member.user]
        for member in change.joined:
            assert member.user not in self.seen
            self.seen[member.user] = member
        for member in change.updated:
            assert self.seen[member.user] != member
            self.seen[member.user] = member

    def answer(self, v):
        body = None if v == self.room.v else msgspec.json.encode({"full": self.room.shown}).decode()
        self.line.append((self.room.v, body))

    def flush(self, loss=0.0):
        change = self.room.flush()
        if change and self.random.random() >= loss:
            self.line.append((self.room.v, msgspec.json.encode(change).decode()))

    def deliver(self, count=10**6):
        while self.line and count:
            count -= 1
            self.do(self.views.told(ROOM, *self.line.pop(0)))

    def step(self):
        self.now += 1
        draw, client = self.random.random(), self.random.randrange(8)
        if draw < 0.3:
            self.enter(client)
        elif draw < 0.45:
            assert self.room.leave(client, self.now) == (self.oracle.here.pop(client, None) is not None)
        elif draw < 0.55 and client in self.oracle.here:
            user, info, is_away = self.oracle.here[client]
            self.oracle.here[client] = (user, info, not is_away)
            self.room.set_away(client, not is_away, self.now)
        elif draw < 0.7:
            self.hear(self.random.choice(["b", "c"]))
        elif draw < 0.85:
            self.flush(loss=0.3)
        elif draw < 0.97:
            self.deliver(self.random.randrange(3))
        else:
            self.reconnect()

    def enter(self, client):
        before = self.oracle.here.get(client)
        user = before[0] if before else self.random.choice(USERS)
        info = self.random.randrange(3)
        entered = self.room.enter(client, user, json.dumps(info).encode(), self.now, self.now)
        assert entered == (before is not None or len(self.oracle.here) < 6)
        if entered:
            self.oracle.here[client] = (user, info, before is not None and before[2])
            self.oracle.said[client] = self.now

    def hear(self, broker):
        entry = Entry(self.random.choice(USERS), msgspec.Raw(b"%d" % self.random.randrange(3)),
                      self.random.randrange(1, 3), float(self.now), self.now)  # fmt: skip
        draw, known = self.random.random(), self.oracle.elsewhere.setdefault(broker, {})
        if draw < 0.5:
            known[entry.user] = entry
            self.room.put_elsewhere(broker, [entry])
        elif draw < 0.8:
            known.pop(entry.user, None)
            self.room.put_elsewhere(broker, (), [entry.user])
        elif draw < 0.9:
            self.oracle.elsewhere[broker] = {entry.user: entry}
            self.room.set_elsewhere(broker, [entry])
        else:
            del self.oracle.elsewhere[broker]
            self.room.forget_elsewhere([broker])

    def reconnect(self):
        """Lose what is on the line."""
        self.line.clear()
        self.do(self.views.connected({ROOM: None}, is_same=self.random.random() < 0.5))

    def settle(self):
        """Have all come, and compare."""
        self.deliver()
        self.enter(0)
        self.flush()  # whoever has missed something finds out by the next change
        self.deliver()
        self.reconnect()
        self.deliver()
        shown = {user: (member.info, member.connections) for user, member in self.views.members(ROOM).items()}
        assert shown == self.oracle.present()
        assert self.seen == self.views.members(ROOM)


def run(seed, **parts):
    world = World(seed, **parts)
    for _ in range(120):
        world.step()
        if world.random.random() < 0.05:
            world.flush()
            world.deliver()
            if not world.asked or world.random.random() < 0.3:
                world.reconnect()
                world.deliver()
            assert world.seen == world.views.members(ROOM)
    world.settle()


@settings(max_examples=60)
@given(st.integers(min_value=0))
def test_promise_27_what_a_client_sees_is_what_there_is_whatever_is_lost(seed):
    run(seed)


class TakesHoles(PresenceViews):
    """Takes a change though one before it is missing."""

    def told(self, room, v, body):
        view = self._views[room]
        if body is not None and v > view.v and not view.is_asking and '"full"' not in body:
            view.v = v - 1
        return super().told(room, v, body)


class KnowsAfterAll(PresenceViews):
    """Asks with its old version in a new session, where it means nothing."""

    def connected(self, rooms, *, is_same):
        del is_same
        return super().connected(rooms, is_same=True)


class LeavesWithTheFirst(RoomPresence):
    """Has a user leave with one of his clients."""

    def leave(self, client, now):
        member = self._clients.get(client)
        left = super().leave(client, now)
        if member is not None:
            self._own.pop(member.user, None)
        return left


class ForgetsAway(RoomPresence):
    """Leaves those in who are away."""

    def set_away(self, client, is_away, now):
        """Do nothing."""


class Repeats(RoomPresence):
    """Tells of changes that are none."""

    def flush(self):
        shown = dict(self._shown)
        change = super().flush()
        change.updated += [each for user, each in shown.items() if user in self._shown][:1]
        return change


@pytest.mark.parametrize(
    "parts",
    [{"views": TakesHoles}, {"room": LeavesWithTheFirst}, {"room": ForgetsAway}, {"room": Repeats}],
    ids=lambda parts: next(iter(parts.values())).__name__,
)
def test_a_mutant_is_found_out(parts):
    found = 0
    for seed in range(40):
        try:
            run(seed, **parts)
        except (AssertionError, KeyError):
            found += 1
    assert found >= 5


def test_a_new_session_knows_no_version():
    """By chance another broker may have the same one; schedules do not find that out."""
    for views, has_version in ((PresenceViews, False), (KnowsAfterAll, True)):
        view = views()
        view.want(ROOM, may_ask=True)
        view.told(ROOM, 7, '{"full":[]}')
        (ask,) = view.connected({ROOM: None}, is_same=False)
        assert ("v" in json.loads(ask.frame)) == has_version


def test_the_newest_word_counts_and_the_earliest_coming():
    one = Entry("ada", msgspec.Raw(b"1"), 2, 5.0, 10)
    two = Entry("ada", msgspec.Raw(b"2"), 1, 3.0, 20)
    for entries in ([one, two], [two, one]):
        both = merged(entries)
        assert both is not None
        assert (bytes(both.info), both.connections, both.since, both.stamp) == (b"2", 3, 3.0, 20)
    assert merged([]) is None


def test_since_stays_while_a_user_is_present_somewhere():
    room = RoomPresence(0, 10)
    room.enter(1, "ada", b"1", 5.0, 1)
    room.flush()
    room.put_elsewhere("b", [Entry("ada", msgspec.Raw(b"1"), 1, 8.0, 2)])
    room.flush()
    room.leave(1, 9.0)
    (shown,) = room.flush().updated
    assert (shown.since, shown.connections) == (5.0, 1)


@pytest.mark.parametrize("body", ["", "{", "[]", '{"full":1}', '{"full":[{"user":1}]}', '{"left":[1]}', b"\xff"])
def test_what_can_not_be_read(body):
    views = PresenceViews()
    views.want(ROOM, may_ask=True)
    with pytest.raises(BadFrameError):
        views.told(ROOM, 1, body)


def test_who_wants_nothing_is_told_nothing():
    views = PresenceViews()
    assert views.told(ROOM, 1, '{"full":[]}') == views.left(ROOM) == views.ask(ROOM) == []
    assert views.members(ROOM) == {}
