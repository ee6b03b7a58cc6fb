"""Chat: rooms by path, a secret to come in, and everybody in a room hears who came, who said what and who left.

    pystrands server
    python examples/chat.py

A client connects to ``ws://127.0.0.1:8080/any-room`` with the header ``X-Token: secret``; without it the answer is a
403. Browsers can't set headers: see auth_token.py and auth_subprotocol.py.
"""

import asyncio
import logging
import os

from pystrands import AsyncPyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))


class ChatServer(AsyncPyStrandsClient):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # In this process's memory: a client's events always come to the backend that let it in.
        self.users = {}  # client_id -> username

    async def on_connection_request(self, request):
        token = request.headers.get("X-Token", [None])[0]  # a header may come more than once: its values are a list
        if token != "secret":
            return False
        request.context.room_id = request.url.strip("/") or "lobby"
        request.context.metadata = {"token": token}  # comes back as context.metadata with each event
        return True

    async def on_new_connection(self, context):
        self.users[context.client_id] = f"User_{context.client_id[:8]}"
        await self.send_room_message(context.room_id, f"{self.users[context.client_id]} joined")

    async def on_message(self, message, context):
        username = self.users.get(context.client_id, "Unknown")
        await self.send_room_message(context.room_id, f"{username}: {message}")

    async def on_disconnect(self, context):
        username = self.users.pop(context.client_id, "Unknown")
        await self.send_room_message(context.room_id, f"{username} left")


async def main():
    client = ChatServer(host=HOST, port=PORT, auto_reconnect=True)
    await client.run_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
