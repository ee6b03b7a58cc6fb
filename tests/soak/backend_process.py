"""A backend that echoes, floods and talks to rooms on demand, and counts whom it has seen.

A message ``counts`` is answered with JSON: clients that came and that went, events of clients that
are not there (``odd``), tasks.
``flood`` has the client get more than it will read, ``room ...`` goes to its room, anything else comes back.
"""

import asyncio
import json
import logging
import os

from pystrands import AsyncPyStrandsClient

FLOOD = "x" * 15_000  # of which the kernel takes a few megabytes before anybody is full


class Echo(AsyncPyStrandsClient):
    def __init__(self, **options):
        super().__init__(**options)
        self.here = set()
        self.came = 0
        self.went = 0
        self.odd = 0

    async def on_new_connection(self, context):
        self.came += 1
        self.odd += context.client_id in self.here
        self.here.add(context.client_id)

    async def on_disconnect(self, context):
        self.went += 1
        self.odd += context.client_id not in self.here
        self.here.discard(context.client_id)

    async def on_error(self, error, context):
        """What most of them do is wrong: the broker counts it."""

    async def on_message(self, message, context):
        self.odd += context.client_id not in self.here
        if message == "counts":
            tasks = len(asyncio.all_tasks())
            message = json.dumps({"came": self.came, "went": self.went, "odd": self.odd, "tasks": tasks})
        elif message == "flood":
            for _ in range(100):
                await self.send_private_message(context.client_id, FLOOD)
        elif isinstance(message, str) and message.startswith("room "):
            await self.send_room_message(context.room_id, message)
            return
        await self.send_private_message(context.client_id, message)


async def main():
    await Echo(name="soak", host="127.0.0.1", port=int(os.environ["PYSTRANDS_TCP_PORT"])).run_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main())
