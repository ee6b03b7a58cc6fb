"""The same services in plain websockets, as its documentation advises: uvloop, and ``broadcast`` to many.

``python websockets_app.py PORT``.
"""

import sys
from collections import defaultdict

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def handler(websocket: ServerConnection) -> None:
    """Answer the sender under ``/echo``, the room under any other path (all clients of ``/all`` share one)."""
    assert websocket.request is not None
    path = websocket.request.path
    if path.startswith("/echo"):
        async for message in websocket:
            await websocket.send(message)
        return
    members = rooms[path]
    members.add(websocket)
    try:
        async for message in websocket:
            broadcast(members, message)
    finally:
        members.remove(websocket)


async def main() -> None:
    """Serve until killed."""
    async with serve(handler, "127.0.0.1", int(sys.argv[1]), compression=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
