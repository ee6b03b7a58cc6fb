"""A broker at the limits of its machine."""

import socket
import subprocess
import sys

import pytest

from pystrands import testing

OPEN_FILES = 80


@pytest.fixture
def small_broker():
    """A broker process that may open few files; yields its port for clients."""
    options = "server --ws-port 0 --tcp-port 0 --drain-time 0"
    command = ["sh", "-c", f'ulimit -n {OPEN_FILES} && exec "$0" -m pystrands {options}', sys.executable]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().rpartition(":")[2])
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


def healthy(port):
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        return sock.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_broker_that_runs_out_of_open_files_goes_on_when_there_are_some_again(small_broker):
    assert healthy(small_broker)
    crowd = [socket.create_connection(("127.0.0.1", small_broker), 20) for _ in range(3 * OPEN_FILES)]
    for sock in crowd:
        sock.close()
    assert healthy(small_broker)


async def test_rule_13_clients_that_do_not_read_can_not_fill_the_memory_together():
    async with testing.broker(memory_budget=1 << 20, client_buffer=1 << 30) as broker:
        async with testing.backend(broker) as sender, testing.connect(broker, "/good") as good:
            readers = [await testing.connect(broker, "/room", receive_buffer=4096) for _ in range(3)]
            for reader in readers:
                reader.stop_reading()
            while not broker.counters["budget_closed"]:
                await sender.send_room_message("/room", "x" * 60_000, confirm=True)
            await sender.send_room_message("/good", "still here")
            await good.expect("still here")
            for reader in readers:
                reader.abort()
