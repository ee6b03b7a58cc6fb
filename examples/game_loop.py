"""A game loop: the world moves on and goes out to all players 20 times a second.

    pystrands server
    python examples/game_loop.py

A client sends ``left``, ``right`` or ``stop``, and gets the whole world 20 times a second, as JSON:
``{"tick": 7, "players": {"<client_id>": <position>}}``. While the broker is away the world goes on and nothing is sent.
"""

import asyncio
import json
import os

from pystrands import AsyncPyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))

TICK = 1 / 20  # seconds
SPEED = {"left": -1, "stop": 0, "right": 1}  # steps a tick
ROOM = "game"


class Game(AsyncPyStrandsClient):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.positions = {}  # client_id -> position
        self.speeds = {}  # client_id -> speed

    async def on_connection_request(self, request):
        request.context.room_id = ROOM  # one world for all; a room for each match is as easy
        return True

    async def on_new_connection(self, context):
        self.positions[context.client_id] = 0

    async def on_message(self, message, context):
        # Handlers only note what a player wants. The loop moves the world, so that nobody moves faster by sending more.
        self.speeds[context.client_id] = SPEED.get(message, 0)

    async def on_disconnect(self, context):
        self.positions.pop(context.client_id, None)
        self.speeds.pop(context.client_id, None)

    def step(self):
        for client_id, speed in self.speeds.items():
            if client_id in self.positions:
                self.positions[client_id] += speed

    async def loop(self):
        clock = asyncio.get_running_loop().time
        tick, due = 0, clock()
        while True:
            tick += 1
            self.step()
            if self.connected and self.positions:
                world = json.dumps({"tick": tick, "players": self.positions})
                await self.send_room_message(ROOM, world)  # returns at once, unless the link is congested
            # From when this tick was due, not from now: the time that a step takes does not add up.
            due += TICK
            now = clock()
            if now - due > 1:  # the machine was asleep: go on from here, without a burst of missed ticks
                due = now
            await asyncio.sleep(due - now)


async def main():
    game = Game(host=HOST, port=PORT)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(game.loop())
        await game.run_forever()  # until SIGTERM or Ctrl+C
        loop.cancel()


if __name__ == "__main__":
    asyncio.run(main())
