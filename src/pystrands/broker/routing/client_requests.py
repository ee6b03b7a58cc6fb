"""Requests of clients of `pystrands.v1`, which backends answer, and of backends, which such clients answer."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from pystrands.broker.backends.session import Session
from pystrands.broker.events.stream import NumberedEvent
from pystrands.broker.hub.client import ConnectedClient, SessionClient
from pystrands.broker.hub.numbered import NumberedFrames
from pystrands.protocol.messages import Reply, RequestClientParams, message_content
from pystrands.protocol.v1.envelope import json_text
from pystrands.protocol.v1.headers import Failure

__all__ = ["Answered", "ClientRequests"]

_LONGEST: Final = 3600.0
"""Seconds for which a client's answer is waited for, at most."""
_MOST_OF_CLIENT: Final = 100
_MOST: Final = 10_000
"""Questions that may wait for answers; of one client, and of all."""

Answered: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes the params of a ``result``; called once."""


class _Asked(NamedTuple):
    answered: Answered
    timer: asyncio.TimerHandle


class ClientRequests:
    """What was asked and is not answered. A client's own requests are its events: nothing is kept of them here."""

    def __init__(self, numbered: NumberedFrames, loop: asyncio.AbstractEventLoop) -> None:
        self._numbered = numbered
        self._loop = loop
        self._asked: dict[SessionClient, dict[int, _Asked]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many questions to clients wait for their answers."""
        return self._count

    # --- clients ask ---

    def on_reply(self, session: Session, command: Reply) -> None:
        """Give a client the answer of its backend, the first of them. Raises MalformedLine when it is none."""
        params = command.params
        event = session.unfinished.get(params.to)
        if not isinstance(event, NumberedEvent) or not event.asks or event.is_answered:
            return
        content = message_content(params.message, params.binary)
        event.is_answered = True
        client = event.stream
        if not isinstance(client, SessionClient) or client.is_gone:
            return
        if params.code:
            self._numbered.tell(client, failure_header(event.k, params.code, params.error))
        else:
            self._numbered.message(client, f'"re":{event.k}', content)

    # --- backends ask ---

    def ask(self, client: ConnectedClient | None, params: RequestClientParams, answered: Answered) -> None:
        """Ask a client. Raises MalformedLine when the question is no message."""
        content = message_content(params.message, params.binary)
        if client is None:
            answered({"found": False})
        elif not isinstance(client, SessionClient):
            answered(_problem("not_supported", "the client is a plain WebSocket: those of pystrands.v1 answer"))
        elif self._count >= _MOST or len(asked := self._asked.setdefault(client, {})) >= _MOST_OF_CLIENT:
            answered(_problem("too_many", "too many requests wait for answers: try again later"))
        else:
            number = self._numbered.message(client, '"q":1', content)
            timeout = min(max(params.timeout, 0.0), _LONGEST)
            asked[number] = _Asked(answered, self._loop.call_later(timeout, self._too_late, client, number, timeout))
            self._count += 1

    def on_answer(self, client: SessionClient, number: int, body: str | bytes | None, failure: Failure | None) -> None:
        """A client answers; what comes too late is nobody's."""
        if (asked := self._take(client, number)) is None:
            return
        if failure is not None:
            asked.answered(_problem(failure.code or "failed", failure.message or "the client gave no reason"))
        elif isinstance(body, bytes):
            asked.answered({"found": True, "message": b64encode(body).decode(), "binary": True})
        else:
            asked.answered({"found": True, "message": body or ""})

    def gone(self, client: SessionClient) -> None:
        """A client's session is over: it answers no more."""
        for number in list(self._asked.get(client, ())):
            if (asked := self._take(client, number)) is not None:
                asked.answered(_problem("gone", "the client has gone before it answered"))

    def _too_late(self, client: SessionClient, number: int, timeout: float) -> None:
        if (asked := self._take(client, number)) is not None:
            asked.answered(_problem("timeout", f"the client has not answered within {timeout:g} s"))

    def _take(self, client: SessionClient, number: int) -> _Asked | None:
        of_client = self._asked.get(client)
        asked = None if of_client is None else of_client.pop(number, None)
        if asked is None:
            return None
        if not of_client:
            del self._asked[client]
        self._count -= 1
        asked.timer.cancel()
        return asked


def failure_header(k: int, code: str, text: str) -> str:
    """Return the members of a frame that tells a client that nothing comes of its message ``k``."""
    return f'"re":{k},"err":{json_text({"code": code, "message": text})}'


def _problem(code: str, text: str) -> dict[str, Any]:
    return {"found": True, "code": code, "error": text}
