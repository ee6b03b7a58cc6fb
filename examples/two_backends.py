"""Two backends side by side: more processes for more work, and no client notices when one of them dies.

    pystrands server
    python examples/two_backends.py one      # in a terminal
    python examples/two_backends.py two      # in another one

Each client is answered by one of them, always the same, which counts that client's messages: "one: 1", "one: 2", ...
New clients go to the backend that has fewer. End one with Ctrl-C: its clients stay connected, and the other one takes
them over, with a count that starts again, since the count was in the memory of the one that ended.
"""

import asyncio
import contextlib
import os
import sys
from collections import Counter

from pystrands import AsyncPyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))


class Counting(AsyncPyStrandsClient):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.counts = Counter[str]()  # client_id -> messages

    async def on_message(self, message, context):  # noqa: ARG002 - only that it came counts here
        self.counts[context.client_id] += 1
        await self.send_private_message(context.client_id, f"{self.name}: {self.counts[context.client_id]}")

    async def on_disconnect(self, context):
        del self.counts[context.client_id]


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "one"
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Counting(host=HOST, port=PORT, name=name).run_forever())  # the name is for the broker's log, too
