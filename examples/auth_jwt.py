"""A JWT as a subprotocol; when it runs out the client is closed with 4401, and comes back with a fresh one.

    pip install pyjwt
    pystrands server
    python examples/auth_jwt.py

``python examples/auth_jwt.py token Ada 10`` prints a token that is Ada's for ten seconds. With it
``new WebSocket("ws://127.0.0.1:8080/", ["chat.v1", "jwt." + token])`` comes in, and each of its messages is answered
with the user's name, until the token runs out. Without a good token the answer is a 401.

What the page does, with ``/token`` of a web application that knows its users by their sessions::

    async function connect() {
      const token = await (await fetch("/token")).text();
      const socket = new WebSocket("wss://example.org/lobby", ["chat.v1", "jwt." + token]);
      socket.onmessage = (event) => show(event.data);
      socket.onclose = (event) => setTimeout(connect, event.code === 4401 ? 0 : 1000 + 4000 * Math.random());
    }
"""

import asyncio
import os
import sys
import time

import jwt

from pystrands import AsyncPyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))

SECRET = os.getenv("JWT_SECRET", "the same in the web application, and longer than this one")


def make_token(user, seconds):
    """What the web application does at ``/token``."""
    return jwt.encode({"sub": user, "exp": time.time() + seconds}, SECRET, algorithm="HS256")


def offered(request):
    """The subprotocols that the client offers, in its order: they come in one header, or in several."""
    lines = request.headers.get("Sec-WebSocket-Protocol", [])
    return [name.strip() for line in lines for name in line.split(",")]


class Members(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        names = offered(request)
        tokens = [name.removeprefix("jwt.") for name in names if name.startswith("jwt.")]
        if len(tokens) != 1 or "chat.v1" not in names:
            return request.reject(status=401, reason="offer the subprotocols chat.v1 and jwt.<token>")
        try:
            # Name the algorithms: a token must not choose how it is checked.
            claims = jwt.decode(tokens[0], SECRET, algorithms=["HS256"], options={"require": ["sub", "exp"]})
        except jwt.InvalidTokenError as error:
            return request.reject(status=401, reason=str(error))
        request.context.metadata = {"user": claims["sub"]}
        # The answer names the other subprotocol: it must never hold the token.
        return request.accept(subprotocol="chat.v1", expires_at=claims["exp"])

    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, f"{context.metadata['user']}, you said: {message}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["token"]:
        print(make_token(sys.argv[2], float(sys.argv[3])))
    else:
        asyncio.run(Members(host=HOST, port=PORT).run_forever())
