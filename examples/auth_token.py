"""A token in the query: the way in for browsers, whose WebSockets can't have headers of their own.

    pystrands server
    python examples/auth_token.py

``new WebSocket("ws://127.0.0.1:8080/?token=token-of-ada")`` comes in, and each of its messages is answered with the
name that the token stands for. Any other token gets a 403, and no WebSocket.

A query ends up in access logs. So let your web application hand out tokens that live for a minute and work once, or
send the token as auth_subprotocol.py does.
"""

import asyncio
import hmac
import os

from pystrands import AsyncPyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))

TOKENS = {"token-of-ada": "Ada", "token-of-bob": "Bob"}  # yours are in a database, or are signed


def user_of(token):
    # compare_digest takes as long for a near miss as for a far one: nothing to learn from the time.
    return next((user for known, user in TOKENS.items() if hmac.compare_digest(known.encode(), token.encode())), None)


class Members(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        token = request.query.get("token", [""])[0]
        user = user_of(token)
        if user is None:
            return False
        request.context.room_id = "members"
        request.context.metadata = {"user": user}  # not the token: nobody needs it any more
        return True

    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, f"{context.metadata['user']}, you said: {message}")


if __name__ == "__main__":
    asyncio.run(Members(host=HOST, port=PORT).run_forever())
