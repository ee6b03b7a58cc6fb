"""The same services in FastAPI, built as its documentation does: lists of connections and a loop that sends."""

from collections import defaultdict

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
rooms: defaultdict[str, list[WebSocket]] = defaultdict(list)


@app.websocket("/echo/{room}")
async def echo(websocket: WebSocket, room: str) -> None:
    """Send each message back to its sender."""
    del room
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


@app.websocket("/chat/{room}")
@app.websocket("/all/{room}")
async def chat(websocket: WebSocket, room: str) -> None:
    """Send each message to everybody in the room."""
    await websocket.accept()
    members = rooms[room]
    members.append(websocket)
    try:
        while True:
            message = await websocket.receive_text()
            for member in list(members):
                await member.send_text(message)
    except WebSocketDisconnect:
        pass
    finally:
        members.remove(websocket)
