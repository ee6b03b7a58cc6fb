"""The client of `pystrands.v1`, without sockets, clocks or timers: events in, actions out. Pure.

``now`` is of any steady clock, in seconds. After each event the driver looks at :attr:`ClientCore.deadline`, and calls
:meth:`ClientCore.tick` then. Of a WebSocket that the core has closed or abandoned, the driver tells nothing more.
"""

import math
from collections.abc import Callable
from typing import Final

from pystrands.protocol.v1.actions import (
    Abandon,
    Action,
    Ask,
    AskToken,
    Close,
    Deliver,
    Dial,
    Joined,
    Left,
    Replied,
    Resumed,
    Settle,
    Signal,
    StateChanged,
    Write,
)
from pystrands.protocol.v1.envelope import (
    HEARTBEAT,
    BadFrameError,
    HistoryAnswer,
    ServerHeader,
    Welcome,
    history_of,
    join,
    json_text,
    server_header,
    split,
    welcome_of,
)
from pystrands.protocol.v1.joins import Joins
from pystrands.protocol.v1.offer import Resume, name_of, offered
from pystrands.protocol.v1.outbox import NOBODYS, Outbox, Sent
from pystrands.protocol.v1.presence_view import PresenceViews
from pystrands.protocol.v1.refresh import TokenRefresh

__all__ = ["ClientCore"]

FIRST_DELAY: Final = 0.5
MOST_DELAY: Final = 30.0
STABLE: Final = 5.0
"""Seconds after which a connection counts as one that works (promise 28)."""
WELCOME_WITHIN: Final = 10.0
ANSWER_WITHIN: Final = 10.0
"""Seconds for the answer to a heartbeat (promise 29)."""
WAKE_ANSWER_WITHIN: Final = 5.0
ACK_MESSAGES: Final = 64
ACK_BYTES: Final = 65_536
ACK_WITHIN: Final = 1.0

_BYE: Final = '{"t":"bye"}'
_TOKEN_EXPIRED: Final = 4401
_RETRIED: Final = frozenset({1001, 1005, 1006, 1008, 1011, 1012, 1013, 1014, 1015, 4408, 4425, 4429})
_UNREADABLE: Final = 4002


class ClientCore:
    """One connection to a broker, over any number of WebSockets.

    ``random()`` gives numbers from 0 to 1. ``has_token``: whether dials show a token. ``should_retry(code, reason)``
    decides on closes that would be final; ``outbox`` has what was sent.
    """

    def __init__(
        self,
        random: Callable[[], float],
        *,
        has_token: bool = False,
        outbox: Outbox | None = None,
        first_delay: float = FIRST_DELAY,
        most_delay: float = MOST_DELAY,
        should_retry: Callable[[int, str], bool] | None = None,
    ) -> None:
        self._random = random
        self._has_token = has_token
        self._first_delay = first_delay
        self._most_delay = most_delay
        self._should_retry = should_retry
        self.outbox = Outbox() if outbox is None else outbox
        self.state = "new"
        self.wall_offset = 0.0
        """What `now` has to be added to for seconds since 1970."""
        self.client: str | None = None
        self.session: str | None = None
        self.epoch = ""
        self.seen = 0
        self._asked: set[int] = set()  # what the server has asked in this session, and has no answer
        self.rooms: dict[str, None] = {}
        self.presence = PresenceViews()
        self._joins = Joins()
        self.max = math.inf
        self._expires: float | None = None
        self._refresh = TokenRefresh()
        self._attempt = 0
        self._ping = 25.0
        self._failures = 0
        self._has_refreshed = False
        self._is_welcome = False
        self._welcome_at = 0.0
        self._heard_more = False
        self._bye: tuple[float, float] | None = None
        self._is_replaying = False
        self._replayed = 0
        self._gaps: list[str | None] = []
        self._done = 0
        self._unacknowledged = 0
        self._unacknowledged_bytes = 0
        self._heard_at = 0.0
        self._is_probing = False
        # The timers: when each is due.
        self._welcome_by = math.inf
        self._answer_by = math.inf
        self._dial_at = math.inf
        self._acknowledge_at = math.inf

    @property
    def deadline(self) -> float:
        """When `tick()` is to be called next; infinity where it need not be."""
        probe_at = self._heard_at + self._ping if self._is_welcome and not self._is_probing else math.inf
        return min(
            self._welcome_by, self._answer_by, self._dial_at, self._acknowledge_at, self._refresh.deadline, probe_at
        )

    @property
    def _is_live(self) -> bool:
        return self.state == "open" and not self._is_replaying

    # --- connecting ---

    def start(self, now: float) -> list[Action]:
        """Connect, at first or after it was closed; at once where it waits to do so."""
        if self.state in ("connecting", "open"):
            return []
        return self._begin_dial(now)

    def token(self, token: str | None, now: float) -> list[Action]:
        """Use this token, which was asked for: dial with it, or show it; None: there is none for now."""
        if self.state == "open":
            shown = None if token is None else self._refresh.show(token, now)
            if token is None:
                self._plan_refresh(now)
            return [] if shown is None else [Write(shown)]
        if self.state != "connecting" or self._welcome_by < math.inf:
            return []
        if token is None:
            return self._lost(1006, "no token", now)
        return self._dial(token, now)

    def _begin_dial(self, now: float) -> list[Action]:
        self._dial_at = math.inf
        self.state = "connecting"
        actions: list[Action] = [StateChanged("connecting")]
        if self._has_token and not self._may_resume_without_token(now):
            actions.append(AskToken())
            return actions
        return actions + self._dial(None, now)

    def _may_resume_without_token(self, now: float) -> bool:
        if self.session is None or self._has_refreshed:
            return False
        return self._expires is None or now + self.wall_offset < self._expires

    def _dial(self, token: str | None, now: float) -> list[Action]:
        resume = None
        if self.session is not None:
            self._attempt += 1
            resume = Resume(self.session, self._attempt, self.seen)
        self._welcome_by = now + WELCOME_WITHIN
        return [Dial(offered(token, resume))]

    # --- what the WebSocket does ---

    def received(self, frame: str | bytes, now: float) -> list[Action]:
        """A frame has come."""
        if self.state not in ("connecting", "open"):
            return []
        self._heard_at = now
        history = None
        try:
            header, body = split(frame)
            read = server_header(header)
            if read.t == "history":
                history = history_of(header, body)
            if not self._is_welcome:
                if read.t != "welcome":
                    return self._fail(now)
                return self._on_welcome(welcome_of(header), now)
        except BadFrameError:
            return self._fail(now)
        self._heard_more = True
        if frame == HEARTBEAT:
            return self._on_heartbeat()
        if self._is_probing:  # it lives; the answer is still to come
            self._answer_by = now + ANSWER_WITHIN
        actions: list[Action] = []
        if read.t == "auth":
            self._on_auth(read, now)
        elif read.n is not None:
            if read.n <= self.seen:
                return []
            self.seen = read.n
            self._count(read, len(frame), now, actions)
        try:
            self._take(read, body, history, actions)
        except BadFrameError:
            return [*actions, *self._fail(now)]
        return actions

    def closed(self, code: int, reason: str, now: float) -> list[Action]:
        """The WebSocket was closed, or could not be opened (1006)."""
        if self.state not in ("connecting", "open"):
            return []
        return self._lost(code, reason, now)

    def _fail(self, now: float) -> list[Action]:
        """Close for what the broker sent, which can't be one; try again."""
        reason = "a frame could not be read"
        return [Close(_UNREADABLE, reason), *self._lost(1006, reason, now)]

    def _on_heartbeat(self) -> list[Action]:
        """It is the answer to ours, or wants one."""
        if self._is_probing:
            self._is_probing = False
            self._answer_by = math.inf
            return []
        return [Write(HEARTBEAT)]

    def _on_welcome(self, welcome: Welcome, now: float) -> list[Action]:
        had, was, position = self.session is not None, name_of(self.session or ""), (self.epoch, self.seen)
        self._is_welcome, self._welcome_at, self._heard_more = True, now, False
        self._welcome_by = math.inf
        self._is_probing = False
        self._bye = None
        self.session, self.client, self.epoch = welcome.session, welcome.client, welcome.epoch
        self.max, self._ping, self._expires = welcome.max, welcome.ping, welcome.expires
        gaps: list[str | None] = [None, *(room for room in self.rooms if not self._joins.wants(room))]
        self.rooms = dict.fromkeys(welcome.rooms)
        self.state = "open"
        actions: list[Action] = [StateChanged("open")]
        if welcome.resumed:
            self._is_replaying = True
            self._done = welcome.done
        else:
            self.seen = welcome.n
            self._asked.clear()
            self._attempt = self._done = 0
            self._is_replaying = False
            self._replayed, self._gaps = 0, []
            if had:
                again = self._joins.lost(*position, self.outbox.joining, actions)
                self.outbox.lose(was)
                self.outbox.put_first(again)
                actions.append(Resumed(False, 0, gaps))
        actions.append(self._acknowledge())
        if welcome.resumed:
            actions += [Write(message.frame()) for message in self.outbox.after(welcome.received)]
        else:
            actions += self.presence.connected(self.rooms, is_same=False)
        self._joins.resumed(actions)
        self._flush(actions)
        self._plan_refresh(now)
        return actions

    def _plan_refresh(self, now: float) -> None:
        if self._has_token:
            expires = math.inf if self._expires is None else self._expires
            self._refresh.plan(expires - now - self.wall_offset, now)

    def _on_auth(self, read: ServerHeader, now: float) -> None:
        """A token was taken, or not: then the next one is shown later, if there is time."""
        if self._refresh.is_answer(read.id):
            if read.err is None:
                self._expires = read.expires
            self._plan_refresh(now)

    def _lost(self, code: int, reason: str, now: float) -> list[Action]:
        """Dial again, now or later, or never."""
        if self._is_welcome and self._heard_more and now - self._welcome_at >= STABLE:
            self._failures, self._has_refreshed = 0, False
        self._is_welcome = self._is_probing = False
        self._welcome_by = self._answer_by = self._acknowledge_at = math.inf
        self._refresh.rest()
        if code == _TOKEN_EXPIRED and self._has_token and not self._has_refreshed:
            self._has_refreshed = True
            return self._begin_dial(now)
        if not self._is_retried(code, reason):
            return self._end(code, reason)
        if self._bye is not None:
            first, last = self._bye
            delay = first + self._random() * (last - first)
        else:
            delay = self._random() * min(self._most_delay, self._first_delay * 2.0 ** min(self._failures, 32))
        self._failures += 1
        self._dial_at = now + delay
        self.state = "waiting"
        return [StateChanged("waiting", code, reason, delay)]

    def _is_retried(self, code: int, reason: str) -> bool:
        if code in _RETRIED or 4500 <= code <= 4599:
            return True
        return code >= 3000 and self._should_retry is not None and self._should_retry(code, reason)

    def _end(self, code: int, reason: str) -> list[Action]:
        self.state = "closed"
        self.session = None
        self._asked.clear()
        self._dial_at = math.inf
        text = "the connection is closed"
        actions: list[Action] = [
            Settle(message.ident, "closed", text) for message in self.outbox.clear() if message.ident
        ]
        self._joins.clear("closed", text, actions)
        return [*actions, StateChanged("closed", code, reason)]

    # --- frames ---

    def _take(
        self, read: ServerHeader, body: str | bytes | None, history: HistoryAnswer | None, actions: list[Action]
    ) -> None:
        kind = read.t
        if kind == "joined" and read.r is not None:
            self._on_joined(read, read.r, actions)
        elif read.done >= 0:
            self._done = max(self._done, read.done)
            if not self._is_replaying:
                self._settle(actions)
        elif read.re:
            if (read.err is not None or body is not None) and (message := self.outbox.failed(read.re)) is not None:
                if read.err is not None and message.kind == "join":
                    self._joins.refused(message, read.err.code, read.err.message, actions)
                elif read.err is not None:
                    actions.append(Settle(message.ident, read.err.code, read.err.message))
                else:
                    actions.append(Replied(message.ident, body or "", read.n))
                self._flush(actions)
        elif read.q:
            if body is not None and read.n is not None:
                self._asked.add(read.n)
                actions.append(Ask(body, read.n))
        elif history is not None:
            self._joins.answered(history, actions)
        elif kind == "left" and read.r is not None:
            self.rooms.pop(read.r, None)
            if read.why:
                self._joins.leave(read.r, actions)
            actions.append(Left(read.r, read.why))
            actions += self.presence.left(read.r)
        elif kind == "signal" and read.r is not None and body is not None:
            actions.append(Signal(read.r, read.e, read.sender, body))
        elif kind == "presence" and read.r is not None:
            actions += self.presence.told(read.r, read.v, body)
        elif kind == "gap":
            self._gaps.append(read.r)
            if not self._is_replaying:
                self._tell_resumed(actions)
        elif kind == "live":
            self._is_replaying = False
            self._settle(actions, are_failures_lost=None in self._gaps)
            self._tell_resumed(actions)
            actions += self.presence.connected(self.rooms, is_same=True)
        elif kind == "bye":
            self._bye = read.retry
        elif not kind and body is not None:
            self._replayed += self._is_replaying
            self._joins.deliver(Deliver(body, read.r, read.n), actions)

    def _on_joined(self, read: ServerHeader, room: str, actions: list[Action]) -> None:
        self.rooms[room] = None
        actions.append(Joined(room))
        if not self._is_replaying:
            actions += self.presence.ask(room)
        if read.re and (message := self.outbox.failed(read.re)) is not None:
            self._joins.joined(message, read.n or 0, read.h, self.epoch, actions)
            self._flush(actions)

    def _tell_resumed(self, actions: list[Action]) -> None:
        actions.append(Resumed(True, self._replayed, self._gaps))
        self._replayed, self._gaps = 0, []

    def _settle(self, actions: list[Action], are_failures_lost: bool = False) -> None:
        """Tell of those that are done; ``are_failures_lost``: that one of them was dropped may not have come."""
        finished = self.outbox.done(self._done)
        for message in finished:
            is_unknown = are_failures_lost or message.asks  # a reply would have come before
            if message.kind == "join":
                self._joins.refused(message, "unknown", "whether it was let in is not known", actions)
            elif message.ident != NOBODYS:
                code, text = ("unknown", "whether it was handled is not known") if is_unknown else ("", "")
                actions.append(Settle(message.ident, code, text))
        if finished:
            self._flush(actions)

    def _count(self, read: ServerHeader, size: int, now: float, actions: list[Action]) -> None:
        """Count a frame that the broker keeps for this client alone, and say in time that it is here."""
        if read.b or (read.r is not None and not read.t):
            return
        self._unacknowledged += 1
        self._unacknowledged_bytes += size
        if self._unacknowledged >= ACK_MESSAGES or self._unacknowledged_bytes >= ACK_BYTES:
            actions.append(self._acknowledge())
        elif self._acknowledge_at == math.inf:
            self._acknowledge_at = now + ACK_WITHIN

    def _acknowledge(self) -> Write:
        self._unacknowledged = self._unacknowledged_bytes = 0
        self._acknowledge_at = math.inf
        return Write(json_text({"seen": self.seen}))

    # --- what the user does ---

    def send(
        self,
        ident: int,
        body: str | bytes | None,
        *,
        room: str | None = None,
        kind: str = "",
        volatile: bool = False,
        asks: bool = False,
    ) -> list[Action]:
        """Send a message, which `Settle` will tell of under ``ident``; volatile, it is sent now or not at all.

        With ``asks`` it wants a reply: `Replied` will tell of that, or `Settle` why there is none.
        """
        message = Sent(ident, body, room, kind, asks=asks)
        if self.state == "closed":
            return [Settle(ident, "closed", "the connection is closed")]
        if message.size > self.max:
            return [Settle(ident, "too_big", f"the message has {message.size} bytes, and may have {self.max:.0f}")]
        if volatile:
            header: dict[str, object] = {"v": 1} if room is None else {"v": 1, "r": room}
            written: list[Action] = [Write(join(json_text(header), body))] if self.state == "open" else []
            return [*written, Settle(ident)]
        if not self.outbox.takes(message):
            return [Settle(ident, "queue_full", "too much waits to be sent")]
        self.outbox.add(message)
        actions: list[Action] = []
        self._flush(actions)
        return actions

    def join(self, ident: int, room: str, data: str | bytes | None = None, *, history: int = 0) -> list[Action]:
        """Be in a room, if the backend allows it, over any number of sessions, until `leave()`.

        `History` tells of it, with up to ``history`` older messages; or `Settle` why not.
        """
        actions = self.send(ident, data, room=room, kind="join", asks=True)
        if not any(isinstance(action, Settle) for action in actions):
            self._joins.ask(ident, room, data, history, actions)
        return actions

    def leave(self, ident: int, room: str) -> list[Action]:
        """Be in a room no more."""
        actions: list[Action] = []
        self._joins.leave(room, actions)
        return actions + self.send(ident, None, room=room, kind="leave")

    def history(self, ident: int, room: str, *, before: int = 0, limit: int) -> list[Action]:
        """Read messages of a room that are older than a number, or the newest; `History` or `Settle` tell of it."""
        actions: list[Action] = []
        if self.state == "closed":
            return [Settle(ident, "closed", "the connection is closed")]
        self._joins.history(ident, room, before, limit, actions, is_open=self.state == "open")
        return actions

    def answer(self, number: int, body: str | bytes | None, code: str = "", text: str = "") -> list[Action]:
        """Answer what the server has asked under that number; or, with a ``code``, say why there is no answer.

        Only once, and not when the session was lost meanwhile. An answer that is too long is such a failure.
        """
        if number not in self._asked:
            return []
        self._asked.discard(number)
        message = Sent(NOBODYS, None if code else body)
        message.re = number
        if message.size > self.max:
            message = Sent(NOBODYS, None)
            message.re, code, text = number, "too_big", f"an answer may have {self.max:.0f} bytes"
        if code:
            message.failure = {"code": code, "message": text}
        self.outbox.add(message)
        actions: list[Action] = []
        self._flush(actions)
        return actions

    def signal(self, room: str, name: str, body: str | bytes) -> list[Action]:
        """Say something to the other members of a room, now or never."""
        if self.state != "open" or room not in self.rooms or Sent(NOBODYS, body).size > self.max:
            return []
        return [Write(join(json_text({"t": "signal", "r": room, "e": name}), body))]

    def watch(self, room: str) -> list[Action]:
        """Keep up to date who is present in a room, whenever the client is in it: `PresenceChanged` tells."""
        return self.presence.want(room, may_ask=self._is_live and room in self.rooms)

    def withdraw(self, ident: int) -> bool:
        """Don't send a message, if it was never written; return whether that is so."""
        return self.outbox.withdraw(ident)

    def close(self) -> list[Action]:
        """End the session."""
        actions: list[Action] = []
        if self.state == "open":
            actions += [Write(_BYE), Close(1000)]
        elif self.state == "connecting":
            actions.append(Abandon())
        if self.state != "closed":
            self._is_welcome = self._is_probing = False
            self._welcome_by = self._answer_by = self._acknowledge_at = math.inf
            self._refresh.rest()
            actions += self._end(1000, "")
        return actions

    def _flush(self, actions: list[Action]) -> None:
        if self.state != "open":
            return
        while (message := self.outbox.next()) is not None:
            actions.append(Write(message.frame()))

    # --- time ---

    def tick(self, now: float) -> list[Action]:
        """The deadline has come."""
        if now >= self._dial_at:
            return self._begin_dial(now)
        if now >= self._welcome_by or now >= self._answer_by:
            return [Abandon(), *self._lost(1006, "no answer", now)]
        actions: list[Action] = []
        if now >= self._acknowledge_at:
            actions.append(self._acknowledge())
        if now >= self._refresh.by:
            self._plan_refresh(now)
        if now >= self._refresh.at:
            self._refresh.begin()
            actions.append(AskToken())
        if self._is_welcome and not self._is_probing and now >= self._heard_at + self._ping:
            actions += self._probe(now, ANSWER_WITHIN)
        return actions

    def wake(self, now: float, *, is_online: bool = False) -> list[Action]:
        """The page is shown, time has jumped, or, with ``is_online``, there is a network again (promise 30)."""
        if self.state == "waiting":
            if not is_online:
                return self._begin_dial(now)
            self._dial_at = min(self._dial_at, now + 0.2 + 0.8 * self._random())
        elif self.state == "open":
            return self._probe(now, WAKE_ANSWER_WITHIN)
        return []

    def _probe(self, now: float, within: float) -> list[Action]:
        self._answer_by = min(self._answer_by, now + within)
        if self._is_probing:
            return []
        self._is_probing = True
        return [Write(HEARTBEAT)]
