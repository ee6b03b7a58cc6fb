"""A token as a subprotocol: a browser can send it, and it stays out of URLs and access logs.

    pystrands server
    python examples/auth_subprotocol.py

``new WebSocket("ws://127.0.0.1:8080/", ["chat.v1", "token.token-of-ada"])`` comes in, and the answer names ``chat.v1``
as the subprotocol of the connection. Without a good token the answer is a 403. Each message is answered with the user's
name.
"""

import asyncio
import os

from pystrands import AsyncPyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))

TOKENS = {"token-of-ada": "Ada", "token-of-bob": "Bob"}


def offered(request):
    """The subprotocols that the client offers, in its order: they come in one header, or in several."""
    lines = request.headers.get("Sec-WebSocket-Protocol", [])
    return [name.strip() for line in lines for name in line.split(",")]


class Members(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        names = offered(request)
        # In a subprotocol letters, digits and -._~+ are fine, "=" and "/" are not: use base64url, without its padding.
        tokens = [name.removeprefix("token.") for name in names if name.startswith("token.")]
        user = TOKENS.get(tokens[0]) if tokens else None
        if user is None or "chat.v1" not in names:
            return False
        # Browsers end a connection for which they offered subprotocols and got none. Never answer with the token.
        request.subprotocol = "chat.v1"
        request.context.metadata = {"user": user}
        return True

    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, f"{context.metadata['user']}, you said: {message}")


if __name__ == "__main__":
    asyncio.run(Members(host=HOST, port=PORT).run_forever())
