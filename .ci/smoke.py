"""Tries out the package that is installed: a broker, a backend, a message there and back. No test tools needed.

``python .ci/smoke.py compiled`` fails unless the package is compiled, ``... interpreted`` unless it is not.
"""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pystrands
from pystrands import AsyncPyStrandsClient, Context, testing
from pystrands.build import BUILD

SERVER = [sys.executable, "-m", "pystrands", "server", "--ws-port", "0", "--tcp-port", "0", "--compression"]


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message: str | bytes, context: Context) -> None:
        await self.send_room_message(context.room_id, message)


async def talk(ws_port: int, tcp_port: int) -> None:
    backend = Echo(host="127.0.0.1", port=tcp_port)
    assert await backend.connect()
    try:
        async with testing.connect(f"ws://127.0.0.1:{ws_port}", "/room") as client:
            for message in ("Grüße", b"\x00\xff", "x" * 200_000):
                await client.send(message)
                await client.expect(message)
    finally:
        await backend.disconnect()


def main() -> None:
    expected = sys.argv[1]
    assert expected == BUILD, f"the package is {BUILD}"
    assert "site-packages" in Path(pystrands.__file__).parts, f"this is not installed: {pystrands.__file__}"
    with subprocess.Popen(SERVER, stdout=subprocess.PIPE, text=True) as broker:
        try:
            assert broker.stdout is not None
            ports = [int(re.findall(r":(\d+)$", broker.stdout.readline().strip())[0]) for _ in range(2)]
            asyncio.run(asyncio.wait_for(talk(*ports), 30))
        finally:
            broker.terminate()
    assert broker.returncode == 0, f"the broker ended with {broker.returncode}"
    print(f"pystrands {pystrands.__version__}, {BUILD}, on Python {sys.version.split()[0]}: works")


if __name__ == "__main__":
    main()
