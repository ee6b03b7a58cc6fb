"""A client of `pystrands.v1`: the core, on a WebSocket of pystrands.testing, whose connections tests cut."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any, Self

from pystrands import RequestFailed, testing
from pystrands.protocol.v1 import actions
from pystrands.protocol.v1.core import ClientCore
from pystrands.testing.client import HasClients


class SessionClient:
    """Connects in ``async with``. What came is in ``messages``, ``settled``, ``resumed``, ``states``."""

    def __init__(self, broker: HasClients, path: str = "/room", *, token: str | None = None, **options: Any) -> None:
        self._broker = broker
        self._path = path
        self.token = token
        self._options = options
        self.core = ClientCore(lambda: 0.0, has_token=token is not None)
        self.core.wall_offset = time.time() - asyncio.get_running_loop().time()
        self.socket: testing.Client | None = None
        self.messages: list[str | bytes] = []
        self.delivered: list[actions.Deliver] = []
        self.settled: dict[int, str] = {}
        self.reasons: dict[int, str] = {}
        self.replies: dict[int, str | bytes] = {}
        self.asked: list[actions.Ask] = []
        self.on_request: Callable[[str | bytes], str | bytes] | None = None
        """What answers questions; without it they are only noted."""
        self.resumed: list[actions.Resumed] = []
        self.states: list[actions.StateChanged] = []
        self.signals: list[actions.Signal] = []
        self.presence: list[actions.PresenceChanged] = []
        self.moves: list[actions.Joined | actions.Left] = []
        self.histories: dict[int, actions.History] = {}
        self.gaps: list[str] = []
        self.frames: list[str | bytes] = []
        self.is_held = False
        """Whether it does not dial."""
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idents = 0

    async def __aenter__(self) -> Self:
        self.do(self.core.start(self.now))
        await testing.until(lambda: self.core.state in ("open", "closed"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.do(self.core.close())
        await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()

    @property
    def name(self) -> str:
        """Its client_id."""
        assert self.core.client is not None
        return self.core.client

    @property
    def connection(self) -> testing.Client:
        assert self.socket is not None
        return self.socket

    @property
    def now(self) -> float:
        return self._loop.time()

    def send(self, body: str | bytes | None, **options: Any) -> int:
        self._idents += 1
        self.do(self.core.send(self._idents, body, **options))
        return self._idents

    async def request(self, body: str | bytes, **options: Any) -> str | bytes:
        """Ask the backend; return its reply. Raises RequestFailed."""
        ident = self.send(body, asks=True, **options)
        await testing.until(lambda: ident in self.replies or ident in self.settled)
        if ident in self.settled:
            raise RequestFailed(self.settled[ident], self.reasons[ident])
        return self.replies[ident]

    def signal(self, room: str, name: str, body: str | bytes) -> None:
        """Say something to the other members of a room."""
        self.do(self.core.signal(room, name, body))

    def watch(self, room: str) -> None:
        """Want to know who is present in a room."""
        self.do(self.core.watch(room))

    def present(self, room: str) -> dict[str, int]:
        """Who is present there, each with the number of connections."""
        return {user: member.connections for user, member in self.core.presence.members(room).items()}

    def join(self, room: str, data: str | bytes | None = None, **options: Any) -> int:
        self._idents += 1
        self.do(self.core.join(self._idents, room, data, **options))
        return self._idents

    def leave(self, room: str) -> int:
        self._idents += 1
        self.do(self.core.leave(self._idents, room))
        return self._idents

    def history(self, room: str, **options: Any) -> int:
        self._idents += 1
        self.do(self.core.history(self._idents, room, **options))
        return self._idents

    async def done(self, ident: int, timeout: float = 10.0) -> str:
        """Wait until it is known what became of a message; return the code, empty where it was handled."""
        await testing.until(lambda: ident in self.settled, timeout)
        return self.settled[ident]

    def cut(self) -> None:
        """Lose the connection, and notice."""
        self.lose()
        self.do(self.core.closed(1006, "", self.now))

    def lose(self) -> None:
        """Lose the connection without a word; the core does not know."""
        socket = self.socket
        self._let_go()
        if socket is not None:
            socket.abort()

    def hold(self) -> None:
        """Don't dial until released."""
        self.is_held = True

    def release(self) -> None:
        self.is_held = False
        self.do(self.core.wake(self.now))

    def _let_go(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = self.socket = None

    def do(self, todo: list[actions.Action]) -> None:
        for action in todo:
            self._do(action)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.core.deadline < math.inf and not self.is_held:
            self._timer = self._loop.call_at(self.core.deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.do(self.core.tick(self.now))

    def _do(self, action: actions.Action) -> None:
        if isinstance(action, actions.Dial):
            self._let_go()
            self._reading = self._loop.create_task(self._dial(action.subprotocols))
        elif isinstance(action, actions.AskToken):
            self._loop.call_soon(lambda: self.do(self.core.token(self.token, self.now)))
        elif isinstance(action, actions.Write):
            if self.socket is not None:
                self._loop.create_task(self._write(self.socket, action.frame))
        elif isinstance(action, actions.Close):
            if self.socket is not None:
                self._loop.create_task(self._close(self.socket, action.code))
            self._let_go()
        elif isinstance(action, actions.Abandon):
            self.lose()
        elif isinstance(action, actions.Deliver):
            self.messages.append(action.body)
            self.delivered.append(action)
        elif isinstance(action, actions.Settle):
            self.settled[action.ident], self.reasons[action.ident] = action.code, action.text
        elif isinstance(action, actions.Replied):
            self.replies[action.ident] = action.body
        elif isinstance(action, actions.Ask):
            self.asked.append(action)
            if self.on_request is not None:
                self.do(self.core.answer(action.number, self.on_request(action.body)))
        elif isinstance(action, actions.History):
            self.histories[action.ident] = action
            self.settled[action.ident] = ""
        elif isinstance(action, actions.Gap):
            self.gaps.append(action.room)
        elif isinstance(action, actions.Resumed):
            self.resumed.append(action)
        elif isinstance(action, actions.StateChanged):
            self.states.append(action)
        elif isinstance(action, actions.Signal):
            self.signals.append(action)
        elif isinstance(action, actions.PresenceChanged):
            self.presence.append(action)
        else:
            self.moves.append(action)

    @staticmethod
    async def _write(socket: testing.Client, frame: str | bytes) -> None:
        with contextlib.suppress(testing.Closed):
            await socket.send(frame)

    @staticmethod
    async def _close(socket: testing.Client, code: int) -> None:
        with contextlib.suppress(testing.Closed):
            await socket.close(code)

    async def _dial(self, subprotocols: list[str]) -> None:
        try:
            socket = await testing.connect(self._broker, self._path, subprotocols=subprotocols, **self._options)
        except (OSError, testing.Rejected):
            self.do(self.core.closed(1006, "", self.now))
            return
        self.socket = socket
        while True:
            try:
                frame = await socket.receive(timeout=3600)
            except testing.Closed as closed:
                if self.socket is socket:
                    self.do(self.core.closed(closed.code, closed.reason, self.now))
                return
            self.frames.append(frame)
            self.do(self.core.received(frame, self.now))
