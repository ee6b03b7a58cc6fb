"""Our backend, as a user writes it: ``python backend_async.py PORT[,PORT...] PROTOCOL LOOP``, on uvloop or asyncio."""

import asyncio
import sys

from pystrands import AsyncPyStrandsClient
from pystrands.protocol import messages


class Backend(AsyncPyStrandsClient):
    """``/echo/...`` answers the sender, ``/all/...`` everybody, anything else the room."""

    async def on_message(self, message, context):
        if context.room_id.startswith("/echo"):
            await self.send_private_message(context.client_id, message)
        elif context.room_id.startswith("/all"):
            await self.broadcast_message(message)
        else:
            await self.send_room_message(context.room_id, message)


if __name__ == "__main__":
    messages.PROTOCOL = int(sys.argv[2])
    first, *others = sys.argv[1].split(",")
    hosts = ["127.0.0.1", *(f"127.0.0.1:{port}" for port in others)] if others else "127.0.0.1"
    running = Backend(hosts, int(first)).run_forever()
    if sys.argv[3] == "uvloop":
        import uvloop

        uvloop.run(running)
    else:
        asyncio.run(running)
