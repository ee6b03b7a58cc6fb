"""The same services in python-socketio, built as its documentation does: rooms of its own, ``emit`` to one of them.

``async_handlers=False`` handles one client's events in their order, as the others do, and is the faster setting.
"""

from urllib.parse import parse_qs

import socketio

sio = socketio.AsyncServer(async_mode="asgi", transports=["websocket"], async_handlers=False)
app = socketio.ASGIApp(sio)
destinations: dict[str, str | None] = {}


@sio.event
async def connect(sid: str, environ: dict[str, str]) -> None:
    """Note who gets what this client says: itself, its room, or everybody."""
    query = parse_qs(environ["QUERY_STRING"])
    if query["to"] == ["/echo"]:
        destinations[sid] = sid
    elif query["to"] == ["/all"]:
        destinations[sid] = None
    else:
        destinations[sid] = query["room"][0]
        await sio.enter_room(sid, query["room"][0])


@sio.event
async def message(sid: str, data: str) -> None:
    """Send it there."""
    await sio.emit("message", data, to=destinations[sid])


@sio.event
async def disconnect(sid: str) -> None:
    """Forget the client."""
    del destinations[sid]
