"""Clients of `pystrands.v1` that join rooms by themselves: their backends decide."""

from collections.abc import Callable
from typing import Final

from pystrands.broker.backends.session import Session
from pystrands.broker.events.stream import JoinEvent
from pystrands.broker.hub.client import ROOM_BYTES, SessionClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.protocol import wire
from pystrands.protocol.limits import MAX_REASON
from pystrands.protocol.messages import JoinResponse, JoinResponseParams
from pystrands.protocol.v1.envelope import json_text
from pystrands.protocol.v1.history import allowed_from

__all__ = ["ClientJoins"]

_CANT_DECIDE: Final = "not_supported", "the backend decides on no joins"


class ClientJoins:
    """What is asked is the clients' events: nothing is kept of them here.

    Nothing that a client sends behind a join is read before that is decided: so it is known whether it is from a member
    (promise 24). ``fail(client, k, code, text)`` and ``finish(client, k)`` tell a client what became of it.
    """

    def __init__(
        self,
        rooms: Rooms,
        fail: Callable[[SessionClient, int, str, str], None],
        finish: Callable[[SessionClient, int], None],
    ) -> None:
        self._rooms = rooms
        self._numbered = rooms.numbered
        self._fail = fail
        self._finish = finish

    def problem(self, client: SessionClient, room_id: str) -> tuple[str, str]:
        """Return why a client need not even ask: a code, and a text for people. Both are empty when it may."""
        if _is_with_one_that_cant_decide(client):
            return _CANT_DECIDE
        problem = self._rooms.join_problem(client, room_id)
        return ("refused", problem) if problem else ("", "")

    def on_response(self, session: Session, command: JoinResponse) -> None:
        """A backend has decided; the first answer counts."""
        params = command.params
        event = session.unfinished.get(params.to)
        if not isinstance(event, JoinEvent) or event.is_answered:
            return
        event.is_answered = True
        client = event.stream
        if not isinstance(client, SessionClient) or client.is_gone:
            return
        room_id = event.room_id or ""
        problem = self._rooms.join_problem(client, room_id) if params.accepted else params.reason[:MAX_REASON]
        if problem or not params.accepted:
            failure = json_text({"code": "refused", "message": problem or "the backend does not let it in"})
            self._numbered.tell(client, f'"re":{event.k},"err":{failure}')
        else:
            self._join(client, event, room_id, params)
            self._enter(session, client, room_id, params)
        self._decided(client, event)

    def _join(self, client: SessionClient, event: JoinEvent, room_id: str, params: JoinResponseParams) -> None:
        """Let a client in; it may do there what its backend says."""
        answer, ring = f',"re":{event.k}', self._rooms.kept.get(room_id)
        number, count = (0, 0) if ring is None else allowed_from(ring, self._numbered.now, params.history)
        if count:
            answer += f',"h":{count}'
        if not self._rooms.join(client, room_id, answer):
            self._numbered.tell_joined(client, room_id, answer)
        if ring is not None and count:
            client.state.may_read(ring, number)
        if params.signals:
            client.may_signal(room_id)
        self._numbered.meter.grown += ROOM_BYTES

    def _enter(self, session: Session, client: SessionClient, room_id: str, params: JoinResponseParams) -> None:
        """Have a client that is let in be present, if it is to be; the backend hears if it can't be."""
        info, presence = bytes(params.presence), self._rooms.presence
        if info != b"null" and presence is not None and (problem := presence.enter(client, room_id, info)):
            session.write(wire.error(client.context, f"a client is in {room_id!r}, but not present there: {problem}"))

    def finished(self, client: SessionClient, event: JoinEvent) -> None:
        """The backend has finished with it; one that has not answered refuses."""
        if event.is_answered:
            self._finish(client, event.k)
        else:
            self.dropped(client, event, "refused", "the backend has not decided")

    def dropped(self, client: SessionClient, event: JoinEvent, code: str, text: str) -> None:
        """No backend will decide."""
        if event.is_answered:  # by one that has died before it had finished
            self._finish(client, event.k)
            return
        if code == "undeliverable" and _is_with_one_that_cant_decide(client):
            code, text = _CANT_DECIDE
        self._fail(client, event.k, code, text)
        self._decided(client, event)

    @staticmethod
    def _decided(client: SessionClient, event: JoinEvent) -> None:
        if client.joining is event:
            client.joining = None
            client.read_on()


def _is_with_one_that_cant_decide(client: SessionClient) -> bool:
    owner = client.consumer
    return owner is not None and not owner.answers
