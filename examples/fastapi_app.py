"""FastAPI: HTTP here, WebSockets at the broker, and both in one room.

    pip install fastapi uvicorn
    pystrands server
    python examples/fastapi_app.py

Clients at ``ws://127.0.0.1:8080/<room>`` talk to everybody in their room, and ``POST /say/<room>?text=hello`` to
http://127.0.0.1:8000 says something there, too: ``{"sent": true}``. ``GET /`` tells whether the broker is connected.

Older code has the backend started by ``@app.on_event("startup")``. That still works in FastAPI, which warns that it is
deprecated, and is gone from Starlette itself: use the lifespan, as here.
"""

import asyncio
import os
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from pystrands import AsyncPyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))


class Backend(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        request.context.room_id = request.url.strip("/")
        return True

    async def on_message(self, message, context):
        await self.send_room_message(context.room_id, f"echo: {message}")


backend = Backend(host=HOST, port=PORT)


@asynccontextmanager
async def lifespan(_app):
    # A task, as run_forever() keeps trying: the HTTP part is there even while the broker is not.
    running = asyncio.create_task(backend.run_forever())
    yield
    await backend.disconnect()  # handlers finish first; then run_forever() returns
    await running


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def status():
    return {"status": "running", "connected": backend.connected}


@app.post("/say/{room}")
async def say(room: str, text: str):
    # With several uvicorn workers each one is a backend of its own, and any of them reaches everybody.
    return {"sent": await backend.send_room_message(room, text)}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.getenv("HTTP_PORT", "8000")))
