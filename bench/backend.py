"""The backend under test, as a user writes it: ``python bench/backend.py PORT``."""

import asyncio
import sys

from pystrands import AsyncPyStrandsClient


class Backend(AsyncPyStrandsClient):
    """``/echo/...`` sends back to the sender, anything else to the room."""

    async def on_message(self, message, context):
        if context.room_id.startswith("/echo"):
            await self.send_private_message(context.client_id, message)
        else:
            await self.send_room_message(context.room_id, message)


if __name__ == "__main__":
    asyncio.run(Backend(port=int(sys.argv[1])).run_forever())
