"""The client: the core of `pystrands.v1` on asyncio."""

import asyncio
import itertools
import json
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from datetime import UTC, datetime
from inspect import isawaitable
from ssl import SSLContext
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias

from pystrands.errors import PyStrandsError
from pystrands.protocol.v1 import actions
from pystrands.protocol.v1.core import FIRST_DELAY, MOST_DELAY, ClientCore
from pystrands.protocol.v1.outbox import QUEUE_BYTES, QUEUE_MESSAGES, Outbox
from pystrands.ws.socket import Socket

__all__ = ["Client", "Closed", "Event", "History", "Message", "SendError", "connect"]

Event: TypeAlias = (
    actions.StateChanged
    | actions.Resumed
    | actions.Joined
    | actions.Left
    | actions.Gap
    | actions.PresenceChanged
    | actions.Signal
)
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]

INBOX_MESSAGES: Final = 1000
INBOX_BYTES: Final = 1024 * 1024
_JUMP: Final = 2.0
"""Seconds by which the wall's clock jumps where the machine has slept."""
_ABNORMAL: Final = 1006


class SendError(PyStrandsError):
    """A message is not handled, or nobody knows. ``code`` is for programs: see "When a message is not handled"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Return how to make it again."""
        return type(self), (self.code, str(self))


class Closed(PyStrandsError, ConnectionError):  # noqa: N818 - as in pystrands.testing
    """The client is closed for good: ``code`` and ``reason`` of the WebSocket's close."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        """Return how to make it again."""
        return type(self), (self.code, self.reason)


class Message:
    """A message that came.

    ``data``: str or bytes, as it was sent. ``room``: the room that it was sent to, None where it was for this client or
    for everybody. ``time``: when the broker got it, in UTC. ``number``: the same for programs, 0 of a volatile one.
    """

    __slots__ = ("data", "number", "room", "time")

    def __init__(self, data: str | bytes, room: str | None, time: datetime, number: int = 0) -> None:
        self.data = data
        self.room = room
        self.time = time
        self.number = number

    @property
    def text(self) -> str:
        """The message as text. Raises UnicodeDecodeError where bytes are no UTF-8."""
        return self.data if isinstance(self.data, str) else self.data.decode()

    @property
    def bytes(self) -> bytes:
        """The message as bytes, text as UTF-8."""
        return self.data if isinstance(self.data, bytes) else self.data.encode()

    def json(self) -> Any:
        """Return the value that it is the JSON of. Raises json.JSONDecodeError where it is none."""
        return json.loads(self.data)

    def __repr__(self) -> str:
        """Show the message, cut short."""
        return f"Message({self.data[:100]!r}, room={self.room!r})"


class History(NamedTuple):
    """Older messages of a room, the oldest first. ``complete``: whether they go back to the first that may be read."""

    messages: list[Message]
    complete: bool


class Client:
    """A client of a broker, over any number of WebSockets: ``async with connect(url) as client``.

    It connects again by itself, gets what it has missed, in order and once, and what it sends is handled once. It
    belongs to the event loop in which it is started; any number of its tasks may use it.

    ``url``: ``ws://`` or ``wss://``. ``token``: what the backend gets as ``request.token``, or a function that gives
    it, which may be async, and is called for each dial that needs one. ``headers`` of each handshake, such as cookies.
    ``ssl_context``: for ``wss://``, the system's authorities if not given. ``on_event(event)`` is called in the loop
    with each :data:`Event`.
    ``on_request(message)``, which may be async: what it returns answers a backend's ``request()``; a
    :class:`SendError` that it raises is what the backend gets. ``should_retry(code, reason)``: whether to dial again
    after a close code from 3000 on that would be final. ``first_delay``, ``most_delay``: seconds before a dial, at
    random up to this, twice as many after each failure.
    ``queue_messages``, ``queue_bytes``: how much may wait to be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        ssl_context: SSLContext | None = None,
        on_event: Callable[[Event], object] | None = None,
        on_request: Callable[[Message], Any] | None = None,
        should_retry: Callable[[int, str], bool] | None = None,
        first_delay: float = FIRST_DELAY,
        most_delay: float = MOST_DELAY,
        queue_messages: int = QUEUE_MESSAGES,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._url = url
        self._token = token
        self._headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        self._ssl_context = ssl_context
        self._on_event = on_event
        self._on_request = on_request
        self._core = ClientCore(
            random.random,
            has_token=token is not None,
            outbox=Outbox(queue_messages, queue_bytes),
            first_delay=first_delay,
            most_delay=most_delay,
            should_retry=should_retry,
        )
        self._idents = itertools.count(1)
        self._unsettled: dict[int, asyncio.Future[Message | History | None]] = {}
        self._inbox: deque[Message] = deque()
        self._inbox_bytes = 0
        self._is_paused = False
        self._changed: set[asyncio.Future[None]] = set()
        """Those that wait for a message, or another state."""
        self._closed: Closed | None = None
        self._socket: Socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- its life ---

    async def __aenter__(self) -> Self:
        """Connect; see :meth:`ready`."""
        self.reconnect()
        try:
            await self.ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session; see :meth:`close`."""
        await self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        """Connect, and return the client: ``client = await connect(url)``; :meth:`close` ends it."""
        return self.__aenter__().__await__()

    async def ready(self) -> None:
        """Wait until the client is connected, however long that takes: bound it with ``asyncio.timeout()``.

        Raises :class:`Closed` when it is closed for good.
        """
        while self.state != "open":
            self._check()
            await self._change()

    def reconnect(self) -> None:
        """Connect now: at first, instead of waiting, or after it was closed. Returns at once."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._closed = None
        self._do(self._core.start(self._now()))

    async def close(self) -> None:
        """End the session for good. What was sent and is not handled raises :class:`SendError` in who waits for it.

        Waits at most five seconds for the broker's goodbye. May be called again.
        """
        if self._loop is not None:
            self._do(self._core.close())
            if others := self._tasks - {asyncio.current_task()}:
                await asyncio.wait(others)

    # --- what it is like ---

    @property
    def state(self) -> str:
        """``new``, ``connecting``, ``open``, ``waiting`` (until it dials again) or ``closed``."""
        return self._core.state

    @property
    def id(self) -> str | None:
        """The client_id that the backend knows it by; None before it was let in."""
        return self._core.client

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms that it is in."""
        return frozenset(self._core.rooms)

    # --- messages ---

    async def send(self, data: Any, *, room: str | None = None, volatile: bool = False) -> None:
        """Send a message, and wait until the backend's handler has finished with it.

        ``data``: str for text, bytes for a binary message; any other value is sent as JSON. ``room``: a room that the
        client is in, which the handler gets as ``context.room_id``. ``volatile``: send it now or never, keep it
        nowhere, and don't wait.

        While the connection is lost it waits, and is sent when it is back; bound that with ``asyncio.timeout()``. When
        cancelled, a message that was never written is withdrawn; another may still be handled. Raises
        :class:`SendError` where the message is not handled, or nobody knows; RuntimeError before the client is started.
        """
        if volatile and self._socket is not None and self._socket.is_full:
            return
        await self._send(data, room=room, volatile=volatile)

    async def request(self, data: Any, *, room: str | None = None) -> Message:
        """Ask the backend, and return its reply: what its ``on_request`` returns.

        All else is as with :meth:`send`. Raises :class:`SendError` where there is no reply.
        """
        reply = await self._send(data, room=room, asks=True)
        assert isinstance(reply, Message)
        return reply

    # --- rooms ---

    async def join(self, room: str, data: Any = None, *, history: int = 0) -> History:
        """Join a room, if the backend's ``on_join_request`` lets this client; return its last messages.

        ``data``: what the backend gets with it, as in :meth:`send`. ``history``: how many messages, as far as the
        backend lets it read them. A room that was joined is joined again after its session was lost. Waiting,
        cancelling and :class:`SendError` are as with :meth:`send`; the code of a refusal is ``refused``.
        """
        body = None if data is None else _body_of(data)
        older = await self._settled(lambda ident: self._core.join(ident, room, body, history=history))
        return older if isinstance(older, History) else History([], True)

    async def leave(self, room: str) -> None:
        """Leave a room, in order with the messages that were sent before. Raises :class:`SendError` as :meth:`send`."""
        await self._settled(lambda ident: self._core.leave(ident, room))

    async def history(self, room: str, *, before: Message | None = None, limit: int = 100) -> History:
        """Return older messages of a room that the client is in, as far as it may read them.

        ``before``: a message of that room, None for the newest; ``limit``: how many. Raises :class:`SendError`.
        """
        number = 0 if before is None else before.number
        older = await self._settled(lambda ident: self._core.history(ident, room, before=number, limit=limit))
        assert isinstance(older, History)
        return older

    def signal(self, room: str, name: str, data: Any = "") -> None:
        """Say something to the other members who are there, past the backend, where it allows that; now or never."""
        self._check()
        self._do(self._core.signal(room, name, _body_of(data)))

    def watch(self, room: str) -> None:
        """Have ``on_event`` hear who is present in a room that the client is in: :class:`PresenceChanged`."""
        self._check()
        self._do(self._core.watch(room))

    async def _send(
        self, data: Any, *, room: str | None, volatile: bool = False, asks: bool = False
    ) -> Message | History | None:
        body = _body_of(data)
        return await self._settled(lambda ident: self._core.send(ident, body, room=room, volatile=volatile, asks=asks))

    async def _settled(self, begin: Callable[[int], list[actions.Action]]) -> Message | History | None:
        """Have the core begin something, and wait for what comes of it."""
        loop = self._running()
        ident = next(self._idents)
        settled: asyncio.Future[Message | History | None] = loop.create_future()
        self._unsettled[ident] = settled
        try:
            self._do(begin(ident))
            return await settled
        except asyncio.CancelledError:
            self._core.withdraw(ident)
            raise
        finally:
            self._unsettled.pop(ident, None)

    async def receive(self) -> Message:
        """Take the next message; wait for it, however long that takes.

        Messages that nobody takes wait in memory, 1,000 or 1 MiB; then the client reads no more, and the broker closes
        it in the end for being slow, after which it comes back as after any cut. Cancelling takes nothing. Raises
        :class:`Closed` when it is closed for good and there are no more.
        """
        while not self._inbox:
            self._check()
            await self._change()
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message.data)
        if self._is_paused and len(self._inbox) <= INBOX_MESSAGES // 2 and self._inbox_bytes <= INBOX_BYTES // 2:
            self._is_paused = False
            if self._socket is not None:
                self._socket.resume()
            self._set_timer()
        return message

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Give messages as :meth:`receive` does, until the client is closed with 1000; raise :class:`Closed` else."""
        while True:
            try:
                message = await self.receive()
            except Closed as closed:
                if closed.code == 1000:
                    return
                raise
            yield message

    # --- the core ---

    def _now(self) -> float:
        assert self._loop is not None
        now = self._loop.time()
        self._core.wall_offset = time.time() - now
        return now

    def _running(self) -> asyncio.AbstractEventLoop:
        """Return the loop that it was started in."""
        if self._loop is None:
            raise RuntimeError("the client is not started: use it in `async with`")
        return self._loop

    def _check(self) -> None:
        self._running()
        if self._closed is not None:
            raise self._closed

    def _settle(self, ident: int, outcome: Message | History | SendError | None) -> None:
        """Tell who waits for it what came of something."""
        settled = self._unsettled.pop(ident, None)
        if settled is None or settled.done():
            return
        if isinstance(outcome, SendError):
            settled.set_exception(outcome)
        else:
            settled.set_result(outcome)

    async def _change(self) -> None:
        assert self._loop is not None
        change = self._loop.create_future()
        self._changed.add(change)
        try:
            await change
        finally:
            self._changed.discard(change)

    def _tell_change(self) -> None:
        for change in self._changed:
            if not change.done():
                change.set_result(None)

    def _do(self, todo: list[actions.Action]) -> None:
        for action in todo:
            self._do_one(action)
        self._set_timer()

    def _set_timer(self) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # While nothing is read nobody can tell whether the other side lives.
        if self._core.deadline < math.inf and not self._is_paused:
            self._timer = self._loop.call_at(self._core.deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        was = self._core.wall_offset
        now = self._now()
        if self._core.wall_offset - was > _JUMP:
            self._do(self._core.wake(now))
        self._do(self._core.tick(now))

    def _do_one(self, action: actions.Action) -> None:
        match action:
            case actions.Write(frame):
                if self._socket is not None:
                    self._socket.send(frame)
            case actions.Deliver(body, room, number):
                self._deliver(body, room, number)
            case actions.Settle(ident, code, text):
                self._settle(ident, SendError(code, text) if code else None)
            case actions.Replied(ident, body, number):
                self._settle(ident, _message(body, None, number))
            case actions.History(ident, room, older, is_complete):
                self._settle(ident, History([_message(body, room, number) for number, body in older], is_complete))
            case actions.Ask(body, number):
                self._start(self._answer(_message(body, None, number), number))
            case actions.Dial(subprotocols):
                self._abandon()
                self._socket = Socket(self, is_paused=self._is_paused)
                self._start(self._socket.dial(self._url, subprotocols, self._headers, self._ssl_context))
            case actions.AskToken():
                self._start(self._ask_token())
            case actions.Close(code, reason):
                if (socket := self._let_go()) is not None:
                    self._start(socket.close(code, reason))
            case actions.Abandon():
                self._abandon()
            case actions.StateChanged(state, code, reason, _):
                if state == "closed":
                    self._closed = Closed(code, reason)
                self._tell(action)
            case _:
                self._tell(action)

    def _tell(self, event: Event) -> None:
        self._tell_change()
        if self._on_event is not None:
            assert self._loop is not None
            self._loop.call_soon(self._on_event, event)

    def _deliver(self, body: str | bytes, room: str | None, number: int | None) -> None:
        self._inbox.append(_message(body, room, number))
        self._inbox_bytes += len(body)
        if not self._is_paused and (len(self._inbox) >= INBOX_MESSAGES or self._inbox_bytes >= INBOX_BYTES):
            self._is_paused = True
            if self._socket is not None:
                self._socket.pause()
        self._tell_change()

    # --- sockets ---

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _let_go(self) -> Socket | None:
        """Hear no more of the socket, and return it."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.let_go()
        return socket

    def _abandon(self) -> None:
        if (socket := self._let_go()) is not None:
            socket.abort()

    async def _ask_token(self) -> None:
        told: str | None = None
        try:
            given = self._token() if callable(self._token) else self._token
            told = await given if isawaitable(given) else given
        except Exception as error:  # noqa: BLE001 - it is the user's; the next dial asks again
            assert self._loop is not None
            self._loop.call_exception_handler({"message": "the token of a WebSocket client failed", "exception": error})
        self._do(self._core.token(told, self._now()))

    async def _answer(self, message: Message, number: int) -> None:
        """Have the user answer what the backend asks."""
        assert self._loop is not None
        if self._on_request is None:
            self._do(self._core.answer(number, None, "not_supported", "this client answers no requests"))
            return
        body, code, text = None, "", ""
        try:
            given = self._on_request(message)
            body = _body_of(await given if isawaitable(given) else given)
        except SendError as error:
            code, text = error.code, str(error)
        except Exception as error:  # noqa: BLE001 - it is the user's
            self._loop.call_exception_handler({"message": "a WebSocket client's on_request failed", "exception": error})
            code, text = "failed", "the client could not answer"
        self._do(self._core.answer(number, body, code, text))

    def on_message(self, message: str | bytes) -> None:
        """Take a message; for the socket."""
        self._do(self._core.received(message, self._now()))

    def on_closed(self, code: int, reason: str) -> None:
        """Hear that the socket is closed; for the socket."""
        self._socket = None
        self._do(self._core.closed(code, reason, self._now()))


def _body_of(data: Any) -> str | bytes:
    return data if isinstance(data, str | bytes) else json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def _message(body: str | bytes, room: str | None, number: int | None) -> Message:
    at = time.time() if number is None else number / 1e6
    return Message(body, room, datetime.fromtimestamp(at, UTC), number or 0)


connect: Final = Client
"""What makes a client: ``async with connect(url) as client``."""
