"""A backend that writes down all it is told: one JSON line for each, in a file of its own.

Its lines survive a SIGKILL: each is one write to a file that is opened for appending. From the environment:
``CHAOS_LABEL`` names this process, ``CHAOS_RECORD`` is the file, ``PYSTRANDS_TCP_PORT`` the broker's port, and
``CHAOS_HOSTS`` has, with commas between, the brokers of a cluster that it begins with.

A client names itself in the query of its URL: ``/room?id=ada&key=7``. The key, which goes into its metadata, is the
connection's own, however often its ``client_id`` comes. A message ``{"n": 5}`` is answered privately and told to the
room ``control``; ``{"numbers": 300, "pace": 0.002}`` begins a stream of so many numbered messages to the client's room.
"""

import asyncio
import itertools
import json
import logging
import os
import random
import time

from pystrands import AsyncPyStrandsClient
from pystrands.errors import NotConnected

SLOW = 0.05
"""The part of handlers that wait a moment."""
MOMENT = 0.05
"""Seconds: the longest moment."""
CONFIRM_EVERY = 20


class Recorder(AsyncPyStrandsClient):
    def __init__(self, label, record, **options):
        super().__init__(name=label, **options)
        self.label = label
        self.record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.random = random.Random(label)
        self.numbers = itertools.count(1)
        self.tellings = itertools.count(1)
        self.streams = set()

    def note(self, what, context=None, **more):
        line = {"t": time.monotonic(), "what": what} | more
        if context is not None:
            line |= {"key": context.metadata.get("key"), "id": context.client_id, "event": context.event_id,
                     "again": context.redelivered}  # fmt: skip
        os.write(self.record, json.dumps(line).encode() + b"\n")

    async def moment(self):
        if self.random.random() < SLOW:
            await asyncio.sleep(self.random.uniform(0, MOMENT))

    async def on_connection_request(self, request):
        request.context.client_id = request.query["id"][0]
        request.context.room_id = request.url.strip("/")
        request.context.metadata = {"key": request.query["key"][0]}
        self.note("asked", request.context)
        return True

    async def on_new_connection(self, context):
        self.note("new", context)
        await self.moment()

    async def on_client_adopted(self, context):
        self.note("adopted", context)
        await self.moment()

    async def on_client_released(self, context):
        self.note("released", context)

    async def on_disconnect(self, context):
        self.note("gone", context, code=context.close_code)
        await self.moment()

    async def on_error(self, error, context):
        self.note("error", context, text=error)

    async def on_message(self, message, context):
        asked = json.loads(message)
        if "numbers" in asked:
            stream = asyncio.create_task(self.stream(context.room_id, **asked))
            self.streams.add(stream)
            stream.add_done_callback(self.streamed)
            return
        x = next(self.numbers)
        self.note("message", context, n=asked["n"], x=x)
        await self.moment()
        reply = {"key": context.metadata["key"], "n": asked["n"], "by": self.label, "x": x}
        private = await self.send_private_message(context.client_id, json.dumps(reply))
        told = await self.send_room_message("control", json.dumps(reply | {"telling": next(self.tellings)}))
        self.note("finished", context, n=asked["n"], x=x, private=private, told=told)

    def streamed(self, stream):
        self.streams.discard(stream)
        if not stream.cancelled() and stream.exception() is not None:
            self.note("error", text=repr(stream.exception()))

    async def stream(self, room, numbers, pace):
        for number in range(numbers):
            if number % CONFIRM_EVERY:
                self.note("sent", number=number, taken=await self.send_room_message(room, str(number)))
            else:
                answer = await self.confirmed(room, str(number))
                self.note("sent", number=number, taken=True, matched=answer.matched, skipped=answer.skipped)
            await asyncio.sleep(pace)
        self.note("streamed")

    async def confirmed(self, room, message):
        """Send with ``confirm``, which needs a link: without one it says so, and nothing is sent."""
        while True:
            try:
                return await self.send_room_message(room, message, confirm=True, timeout=30)
            except NotConnected:
                await asyncio.sleep(0.01)


async def main():
    client = Recorder(
        os.environ["CHAOS_LABEL"],
        os.environ["CHAOS_RECORD"],
        host=os.environ["CHAOS_HOSTS"].split(",") if "CHAOS_HOSTS" in os.environ else "127.0.0.1",
        port=int(os.environ.get("PYSTRANDS_TCP_PORT", "8081")),
        reconnect_delay=0.03,
        reconnect_backoff=1.5,
        max_reconnect_delay=0.2,
    )
    client.note("begin", pid=os.getpid())
    await client.run_forever()
    client.note("end")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main())
