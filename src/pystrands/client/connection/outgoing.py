"""What a client sends: now, when there is room, or when there is a link again."""

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, Final

from pystrands.client import requests
from pystrands.client.connection.broker_info import BrokerInfo
from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.session import BackendSession
from pystrands.client.connection.time_limits import TIME_LIMITS
from pystrands.client.connection.waiting import FullRecipients, Waiting
from pystrands.errors import MessageTooBig
from pystrands.protocol import wire
from pystrands.protocol.link import BACKEND_ACKNOWLEDGES_AFTER, NUMBER, max_unnumbered

__all__ = ["Outgoing"]

_this_thread: Final = threading.get_ident


class Outgoing:
    """The one way out for lines. In protocol 1 there is no ``session``, and no way out without a link.

    In protocol 2 lines are numbered and kept until the broker has them; without a link they wait in the session, up to
    its bounds. ``handler()`` returns the number of the runner whose handler this code runs in, or 0;
    ``stale`` are the runners whose handlers began in a session that is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Callable[[], int],
        stale: AbstractSet[int] = frozenset(),
        patience: float = TIME_LIMITS.without_recipient,
    ) -> None:
        self.link: BrokerLink | None = None
        """The link that carries lines; None while there is none."""
        self.session: BackendSession | None = None
        self.broker: BrokerInfo | None = None
        """What is known of the broker, from its last link."""
        self.discarded = 0
        """Messages of handlers that began in a session that is gone (LINK rule 18)."""
        self.lock = threading.Lock()
        """For the three that follow, which other threads use."""
        self.is_closing = False
        """Whether nothing more is taken from other threads."""
        self.posted = 0
        """Bytes that were taken from other threads, and are on their way here."""
        self.dropped = 0
        """Messages of theirs that came too late."""
        self._thread_id = _this_thread()  # not _thread: that is a word of C in compiled code
        self._longest = sys.maxsize
        self._stale = stale
        self._loop = loop
        self._handler = handler
        self._waiting: deque[Waiting] = deque()
        self.full = FullRecipients(self._waiting)
        """Who takes no more for now."""
        self._full = self.full.queues  # looked at for every message
        self._patience = patience
        self._losing_patience: asyncio.TimerHandle | None = None
        """Without a link, while what waits for recipients waits on."""

    @property
    def is_up(self) -> bool:
        """Whether lines go out now."""
        return self.link is not None and self.link.is_open

    @property
    def is_possible(self) -> bool:
        """Whether :meth:`write` takes a line: there is a link, or a session that keeps it for the next one."""
        session = self.session
        return not self.is_closing and (self.is_up if session is None else not session.ended)

    @property
    def congested(self) -> bool:
        """Whether :meth:`send` would wait, or not take the line."""
        return bool(self._waiting) or not self._has_room

    @property
    def _has_room(self) -> bool:
        session, link = self.session, self.link
        # A link that ends, and whose end was not told yet, keeps nobody waiting: the session keeps what it is given.
        return (session is None or session.has_room) and not (link is not None and link.congested and link.is_open)

    def is_stale(self) -> bool:
        """Whether this code runs in a handler of a session that is gone; if so, count what it wanted to send."""
        if not self._stale or self._handler() not in self._stale:
            return False
        self.discarded += 1
        return True

    def check(self, line: bytes) -> None:
        """Raise MessageTooBig when the broker would not take ``line`` (LINK rule 5)."""
        limit = self._longest
        if len(line) > limit:
            raise MessageTooBig(
                f"a command of {len(line)} bytes is more than the {limit} that the broker takes: "
                "send less, or raise the broker's --max-message-size"
            )

    def write(self, line: bytes) -> bool:
        """Send ``line`` past every limit; return False when there is no way out."""
        session, link = self.session, self.link
        if session is None:
            return link is not None and link.write(line)
        data = session.put(line)
        self._write_now(data)
        return bool(data) or not session.ended

    def _sends_now(self) -> bool:
        """Whether a command can go out without waiting, and nothing stands against it."""
        session = self.session
        return (
            session is not None
            and session.is_up
            and self.link is not None
            and not self._stale
            and not self._full
            and not self.congested
            and _this_thread() == self._thread_id  # on others an event loop may run, too, and this one's is not theirs
        )

    def send_now(self, line: bytes) -> bool:
        """Send ``line`` if that takes no waiting and nothing stands against it; False leaves it to :meth:`send`."""
        if not self._sends_now():
            return False
        self._number_and_append(line)
        return True

    def private_message_now(self, client_id: Any, message: Any) -> bool:
        """Send a message to one client if that takes no waiting; raises what :func:`requests.private_message` does."""
        if not self._sends_now():
            return False
        self._number_and_append(requests.private_message(client_id, message, self.broker))
        return True

    def _number_and_append(self, line: bytes) -> None:
        if len(line) > self._longest:
            self.check(line)
        session, link = self.session, self.link
        assert session is not None
        assert link is not None
        link.append(session.put(line))

    async def send(self, line: bytes, to: str = "", timeout: float | None = None) -> bool:
        """Send ``line`` when ``to``, its recipient, and the link have room; return whether it was taken.

        While the link is up it waits for both, in order. While it is down what finds no room is not taken (LINK rule
        11), and a full recipient is waited for no longer than it takes to resume the session. What is sent AT_ONCE
        never waits. A wait that is cancelled hands nothing on, unless the line had gone before the cancellation
        arrived. Raises TimeoutError after ``timeout`` seconds of waiting, when nothing is handed on either, and
        MessageTooBig as :meth:`check` does.
        """
        self.check(line)
        if self.is_stale():
            return False
        if to == requests.AT_ONCE:
            return self.is_up and not self.congested and self.write(line)
        is_full = to in self.full and self._is_waited_for
        if not is_full:
            if not self.congested:
                return self.write(line)
            if not self.is_up or self._is_ended:
                return False
        waiting = Waiting(line, to, self._loop.create_future(), self._handler())
        if is_full:
            self.full.append(waiting)
        else:
            waiting.stand_in(self._waiting)
        return await _outcome(waiting, timeout)

    @property
    def _is_ended(self) -> bool:
        return self.session is not None and self.session.ended

    @property
    def _is_waited_for(self) -> bool:
        """Whether a recipient that is full may still be told to be ready, and soon."""
        return not self._is_ended and (self.is_up or self._losing_patience is not None)

    def write_posted(self, line: bytes, to: str) -> bool:
        """Send a line that a thread was told is handed on; return False when it is lost, and ought not to be."""
        if to == requests.AT_ONCE:
            return not self.is_up or self.write(line)
        if to in self.full and self._is_waited_for:
            self.full.append(Waiting(line, to, self._loop.create_future(), is_taken=True))
            return True
        return self.write(line)

    def refill(self) -> None:
        """Let those that wait go on, as far as there is room now."""
        waiting = self._waiting
        while waiting and self._has_room:
            self._go_on(waiting.popleft())

    def take_over(self, lines: list[bytes]) -> int:
        """Send what waited for a broker that is gone; return how many of these can't be sent here."""
        lost = 0
        for line in lines:
            if len(line) > self._longest or not self.write(line):
                lost += 1
        return lost

    def _go_on(self, waiting: Waiting) -> None:
        sent = waiting.sent
        waiting.queue = None
        if sent.done():
            return
        if waiting.runner and waiting.runner in self._stale:  # its session was given up while it waited
            self.discarded += 1
            sent.set_result(False)
            return
        taken = self.write(waiting.line)
        sent.set_result(taken)
        if waiting.is_taken and not taken:
            self.dropped += 1

    def _refuse(self, waiting: Waiting) -> None:
        waiting.queue = None
        if not waiting.sent.done():
            waiting.sent.set_result(False)
            self.dropped += waiting.is_taken

    # -- recipients that are full (LINK rules 25, 26)

    def on_full(self, to: str) -> None:
        """The broker says that a recipient is full."""
        self.full.add(to)

    def on_ready(self, to: str) -> None:
        """The broker says that a recipient takes more, or that it is gone."""
        self.full.discard(to)
        self.refill()

    def forget_full(self, *, are_clients_gone: bool = False) -> None:
        """The session is another one, or the broker: who is full is told again. Call :meth:`refill` when it is up."""
        if are_clients_gone:
            for waiting in [each for each in self.full.waiting if requests.is_client(each.to)]:
                self._refuse(waiting)
        self.full.clear()

    async def recipients_ready(self) -> None:
        """Wait until nothing waits for a recipient."""
        while waiting := [each.sent for each in self.full.waiting]:
            await asyncio.wait(waiting)

    def _lose_patience(self) -> None:
        """The link does not come back: what the session takes is kept for the next one, the rest is not taken."""
        self._losing_patience = None
        self.full.release()
        self.give_up_waiting()

    def leave(self) -> None:
        """In protocol 2: want no more events."""
        if self.session is not None:
            self._write_now(self.session.leave())

    @property
    def undelivered(self) -> int:
        """How many messages were taken and may not be delivered; 0 in protocol 1, where nobody knows."""
        return 0 if self.session is None else self.session.undelivered + self.dropped

    async def closing(self) -> None:
        """Take nothing more from other threads, and wait for what was taken."""
        with self.lock:
            self.is_closing = True
        while self.posted:  # noqa: ASYNC110 - a loop turn or two, as the posting has woken the loop
            await asyncio.sleep(0)

    def end(self) -> None:
        """In protocol 2: take no more lines; the last one says bye."""
        for waiting in list(self.full.waiting):
            self._refuse(waiting)
        self.full.clear()
        if self.session is not None:
            self._write_now(self.session.end())

    def _write_now(self, data: bytes) -> None:
        if data and self.link is not None:
            self.link.write(data)

    async def emptied(self, within: float) -> None:
        """Wait up to ``within`` seconds until all that wait have gone on; later ones may come meanwhile."""
        if self._waiting:
            await asyncio.wait([self._waiting[-1].sent], timeout=within)

    def give_up_waiting(self) -> None:
        """There is no link to wait for room on any more: what the session takes is kept, the rest is not taken."""
        self.refill()
        while self._waiting:
            self._refuse(self._waiting.popleft())

    def attach(self, link: BrokerLink) -> None:
        """Send on this link from now on."""
        self.link = link
        self._stop_patience()
        self.broker = link.broker
        self._longest = max_unnumbered(link.broker.max_line, NUMBER) or sys.maxsize
        link.collect = self.collect
        link.drained = self.refill

    def detach(self, link: BrokerLink) -> None:
        """That link is gone."""
        if self.link is link:
            self.link = None
            if self.session is not None:
                self.session.lost()
            self.give_up_waiting()
            if self._full:
                self._stop_patience()
                self._losing_patience = self._loop.call_later(self._patience, self._lose_patience)

    def _stop_patience(self) -> None:
        if self._losing_patience is not None:
            self._losing_patience.cancel()
            self._losing_patience = None

    def close(self) -> None:
        """Let nothing wait any more."""
        self._stop_patience()
        for waiting in (*self.full.waiting, *self._waiting):
            self._refuse(waiting)
        self.full.clear()
        self._waiting.clear()

    def notify_done(self) -> None:
        """A handler has ended, the first one since the broker was told: tell it, after what they sent (LINK rule 3)."""
        if self.link is not None:
            self.link.schedule_flush()

    def collect(self) -> bytes:
        """Return what goes out after the commands of a loop turn: finished events, and an acknowledgement."""
        session = self.session
        if session is None or not session.is_up:
            return b""
        data = session.collect_done()
        if session.session.unannounced >= BACKEND_ACKNOWLEDGES_AFTER:
            data += self.acknowledgement()
        return data

    def acknowledgement(self) -> bytes:
        """Return the line that acknowledges what has come, or nothing."""
        number = self.session.session.acknowledgement() if self.session is not None else None
        return b"" if number is None else wire.received(number)


async def _outcome(waiting: Waiting, timeout: float | None) -> bool:
    """Wait until a line was taken or refused. Raises TimeoutError after ``timeout`` seconds."""
    try:
        if timeout is None:
            return await waiting.sent
        await asyncio.wait([waiting.sent], timeout=timeout)
        if waiting.sent.done():
            return waiting.sent.result()
        raise TimeoutError
    finally:
        if waiting.sent.cancelled() or not waiting.sent.done():
            waiting.give_up()
