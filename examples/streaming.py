"""Streaming: an answer goes to the one client that asked, token by token, and ends when that client leaves.

    pystrands server
    python examples/streaming.py

A client sends a question and gets JSON: ``{"token": "You "}``, ``{"token": "asked: "}``, ... and ``{"done": true}`` at
the end. A new question ends the answer to the one before. When the client leaves, the answer ends, and this program
says after how many tokens: a model that is paid by the token should not talk to nobody.
"""

import asyncio
import json
import os

from pystrands import AsyncPyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))


async def answer_to(question):
    """Stands for a language model: yields the tokens of its answer one after the other."""
    for word in f"You asked: {question} Let me think ...".split():
        yield word + " "
        await asyncio.sleep(0.02)
    while "forever" in question:
        yield "and on "
        await asyncio.sleep(0.02)


class Answers(AsyncPyStrandsClient):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.streams = {}  # client_id -> the task that answers

    async def on_message(self, message, context):
        self.end(context.client_id)
        # In a task of its own: one client's events are handled one after the other, so a handler that streamed the
        # whole answer itself would hear of the next question, and of the client's end, only after it.
        self.streams[context.client_id] = asyncio.create_task(self.stream(message, context.client_id))

    async def on_disconnect(self, context):
        self.end(context.client_id)

    def end(self, client_id):
        task = self.streams.pop(client_id, None)
        if task is not None:
            task.cancel()

    async def stream(self, question, client_id):
        count = 0
        try:
            async for token in answer_to(question):
                # Waits for a client that reads slowly: the stream is then as fast as the client.
                await self.send_private_message(client_id, json.dumps({"token": token}))
                count += 1
            await self.send_private_message(client_id, json.dumps({"done": True}))
        except asyncio.CancelledError:
            print(f"stopped after {count} tokens", flush=True)
            raise


if __name__ == "__main__":
    asyncio.run(Answers(host=HOST, port=PORT).run_forever())
