"""Echo: each client gets back what it sends, text as text and bytes as bytes.

    pystrands server              # in one terminal: the broker
    python examples/echo.py       # in another

Then, in a browser's console::

    socket = new WebSocket("ws://127.0.0.1:8080/"); socket.onmessage = (event) => console.log(event.data)
    socket.send("hello")
"""

import asyncio
import os

from pystrands import AsyncPyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        # To everybody in the room it would be: await self.send_room_message(context.room_id, message)
        await self.send_private_message(context.client_id, message)


if __name__ == "__main__":
    # run_forever() keeps trying until the broker is there, and comes back when the link is lost.
    asyncio.run(Echo(host=HOST, port=PORT).run_forever())
