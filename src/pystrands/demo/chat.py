"""A chat with rooms, names and a list of who is there: about what a first real backend looks like.

The page opens ``ws://host/room-name?name=Ada``. Both sides send JSON text; ``kind`` says what it is:

==========  ======================================  =====================================================
kind        fields                                  meaning
==========  ======================================  =====================================================
message     text                                    page to chat: say this in my room
roster      you, room, members: [{id, name}]        chat to one page: you are in, and these are here
joined      id, name, at                            chat to the room: somebody came
message     id, name, text, at                      chat to the room: somebody said this
left        id, name, at                            chat to the room: somebody went
problem     text                                    chat to one page: what you sent could not be used
==========  ======================================  =====================================================

``at`` is the time in milliseconds since 1970, as JavaScript counts it.
"""

import json
import time
from typing import Any
from urllib.parse import unquote

from pystrands import AsyncPyStrandsClient, ConnectionRequestContext, Context

__all__ = ["ChatBackend"]

LONGEST_NAME = 32
LONGEST_TEXT = 4000


class ChatBackend(AsyncPyStrandsClient):
    """Asks who is in a room, wherever they are connected; what each is called is in its metadata."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.renamed: dict[str, str] = {}  # client_id -> name: events that were on their way have the old one

    async def on_connection_request(self, request: ConnectionRequestContext) -> bool:
        """Let everybody in: the path names the room, the query the person."""
        request.context.room_id = tidy(unquote(request.url).strip("/")) or "lobby"
        request.context.metadata = {"name": tidy(request.query.get("name", [""])[0]) or "Guest"}
        return True

    async def on_new_connection(self, context: Context) -> None:
        """Tell the newcomer who is here, and the room who came."""
        # Where one of several brokers does not answer, those who are there are missing, and nothing else is.
        here = await self.room_members(context.room_id, partial=True)
        others = [each for each in here if each.client_id != context.client_id]
        name = unused(context.metadata["name"], {each.metadata["name"] for each in others})
        if name != context.metadata["name"]:
            self.renamed[context.client_id] = name
            await self.update_metadata(context.client_id, {"name": name})
        members = [{"id": each.client_id, "name": each.metadata["name"]} for each in others]
        members.append({"id": context.client_id, "name": name})
        await self.send_private_message(
            context.client_id, encode("roster", you=context.client_id, room=context.room_id, members=members)
        )
        await self.send_room_message(context.room_id, encode("joined", id=context.client_id, name=name, at=now()))

    async def on_message(self, message: str | bytes, context: Context) -> None:
        """Pass what one says on to the whole room, the sender included."""
        name = self.renamed.get(context.client_id, context.metadata["name"])
        text = decode(message)
        if not text:
            problem = f"Messages look like {encode('message', text='Hello')}, with up to {LONGEST_TEXT} characters."
            await self.send_private_message(context.client_id, encode("problem", text=problem))
            return
        await self.send_room_message(
            context.room_id, encode("message", id=context.client_id, name=name, text=text, at=now())
        )

    async def on_disconnect(self, context: Context) -> None:
        """Tell the room who went."""
        name = self.renamed.pop(context.client_id, context.metadata["name"])
        await self.send_room_message(context.room_id, encode("left", id=context.client_id, name=name, at=now()))


def encode(kind: str, **fields: Any) -> str:
    """Return one message for the page."""
    return json.dumps({"kind": kind, **fields}, ensure_ascii=False)


def decode(message: str | bytes) -> str:
    """Return the text that a page wants to say; empty when the message is none, or too long."""
    try:
        data = json.loads(message)
    except ValueError:
        return ""
    text = data.get("text") if isinstance(data, dict) and data.get("kind") == "message" else None
    return text.strip() if isinstance(text, str) and len(text) <= LONGEST_TEXT else ""


def tidy(name: str) -> str:
    """Return ``name`` on one line, without what can't be seen, and not too long."""
    words = "".join(letter if letter.isprintable() else " " for letter in name).split()
    return " ".join(words)[:LONGEST_NAME].strip()


def unused(name: str, taken: set[str]) -> str:
    """Return ``name``, with a number behind it when somebody in the room has it already."""
    number = 2
    candidate = name
    while candidate in taken:
        candidate = f"{name} {number}"
        number += 1
    return candidate


def now() -> int:
    """Return the time as the page's JavaScript counts it."""
    return int(time.time() * 1000)
