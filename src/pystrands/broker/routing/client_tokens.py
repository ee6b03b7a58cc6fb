"""Clients of `pystrands.v1` that show new tokens before their time is over."""

from collections.abc import Callable
from typing import Final

from pystrands.broker.backends.session import Session
from pystrands.broker.events.stream import ClientEvent, TokenEvent
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.client import SessionClient
from pystrands.broker.ws.expiry import NEVER, Expiries
from pystrands.broker.ws.frames import text_frame
from pystrands.protocol.messages import TokenResponse
from pystrands.protocol.v1.envelope import BadFrameError, json_text

__all__ = ["ClientTokens"]

_MAX_TOKEN: Final = 8192
_MAX_ID: Final = 64


class ClientTokens:
    """Asks their backends, one token of a client after the other. ``put`` sends an event, or has it wait."""

    def __init__(
        self,
        outbox: Outbox,
        expiries: Expiries,
        put: Callable[[ClientEvent], None],
        new_number: Callable[[], int],
    ) -> None:
        self._outbox = outbox
        self._expiries = expiries
        self._put = put
        self._new_number = new_number
        self._asked: dict[SessionClient, TokenEvent] = {}

    def __len__(self) -> int:
        """How many wait for an answer."""
        return len(self._asked)

    def show(self, client: SessionClient, ident: str, token: str | bytes | None) -> None:
        """A client shows a token. Raises BadFrameError where it is none."""
        if not isinstance(token, str) or len(ident) > _MAX_ID:
            raise BadFrameError("a token is a text")
        if len(token) > _MAX_TOKEN:
            self._refuse(client, ident, "too_big", f"a token has at most {_MAX_TOKEN} characters")
        elif client in self._asked:
            self._refuse(client, ident, "busy", "another token has no answer yet")
        elif client.consumer is None:
            self._refuse(client, ident, "no_backend", "no backend is connected")
        else:
            event = self._asked[client] = TokenEvent(client, self._new_number(), ident, token)
            self._put(event)

    def on_response(self, session: Session, command: TokenResponse) -> None:
        """A backend has decided; of several answers to a client the first one counts."""
        params = command.params
        event = session.unfinished.get(params.to)
        if not isinstance(event, TokenEvent) or not isinstance(event.stream, SessionClient):
            return
        client = event.stream
        if self._asked.get(client) is not event:
            return
        del self._asked[client]
        if params.accepted:
            self.extend(client, params.expires_at)
            self._tell(client, event.ident, '"expires":' + json_text(params.expires_at))
        else:
            self._refuse(client, event.ident, "refused", params.reason)

    def finished(self, event: ClientEvent) -> None:
        """A backend is done with a token: it has answered, or it knows nothing of tokens."""
        client = event.stream
        if isinstance(event, TokenEvent) and isinstance(client, SessionClient) and self._asked.get(client) is event:
            del self._asked[client]
            self._refuse(client, event.ident, "not_supported", "the backend takes no new tokens")

    def gone(self, client: SessionClient) -> None:
        """A client's session is over."""
        self._asked.pop(client, None)

    def extend(self, client: SessionClient, expires_at: float | None) -> None:
        """Let a client stay until then, in seconds since 1970; None stands for as long as it likes."""
        self._expiries.discard(client)
        client.expires_at = NEVER if expires_at is None else expires_at
        if expires_at is not None:
            self._expiries.add(client, expires_at)

    def _refuse(self, client: SessionClient, ident: str, code: str, text: str) -> None:
        self._tell(client, ident, '"err":' + json_text({"code": code, "message": text}))

    def _tell(self, client: SessionClient, ident: str, members: str) -> None:
        if client.is_live:  # the next welcome has it, too
            self._outbox.send(client.ws, text_frame(f'{{"t":"auth","id":{json_text(ident)},{members}}}'))
