"""Clients in a notebook: its kernel's event loop runs already, and some nest another one in it."""

import pytest
from jupyter_client.manager import KernelManager

from pystrands import testing

PATIENCE = 50.0
CELLS = {
    "awaited": """\
from pystrands import AsyncPyStrandsClient
backend = AsyncPyStrandsClient("localhost", {port})
print(await backend.connect(), (await backend.send_room_message("/lobby", "hello", confirm=True)).matched)
await backend.disconnect()
""",
    "in the background": """\
import asyncio
from pystrands import AsyncPyStrandsClient
backend = AsyncPyStrandsClient("localhost", {port})
running = asyncio.create_task(backend.run_forever())
print(await backend.connect(), (await backend.send_room_message("/lobby", "hello", confirm=True)).matched)
await backend.disconnect()
await running
""",
    "threads": """\
from pystrands import PyStrandsClient
backend = PyStrandsClient("localhost", {port})
print(backend.connect(), backend.send_room_message("/lobby", "hello", confirm=True).matched)
backend.disconnect()
""",
    "nested": """\
import asyncio
import nest_asyncio
from pystrands import AsyncPyStrandsClient
nest_asyncio.apply()
async def main():
    backend = AsyncPyStrandsClient("localhost", {port})
    print(await backend.connect(), (await backend.send_room_message("/lobby", "hello", confirm=True)).matched)
    await backend.disconnect()
asyncio.run(main())
""",
}


@pytest.fixture(scope="module")
def kernel():
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(PATIENCE)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_connects_sends_and_disconnects(kernel, cell):
    said = []

    def hear(message):
        content = message["content"]
        said.append(content.get("text") or "\n".join(content.get("traceback", ())))

    with (
        testing.broker_thread() as broker,
        testing.backend_thread(broker),
        testing.connect_sync(broker, "/lobby") as client,
    ):
        kernel.execute_interactive(CELLS[cell].format(port=broker.tcp_port), timeout=PATIENCE, output_hook=hear)
        assert "".join(said) == "True 1\n"
        client.expect("hello")
