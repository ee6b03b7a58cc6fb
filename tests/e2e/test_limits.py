"""A broker at the limits of its machine."""

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from pystrands import testing
from tests.certificates import Authority

OPEN_FILES = 80


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture(params=[False, True], ids=["ws", "wss"])
def small_broker(request, authority, tmp_path):
    """A broker process that may open few files; yields a function that tells whether it answers health checks."""
    options = "server --ws-port 0 --tcp-port 0 --drain-time 0"
    if request.param:
        files = authority.write(tmp_path)
        options += f" --tls-cert {files['tls_cert']} --tls-key {files['tls_key']}"
    command = ["sh", "-c", f'ulimit -n {OPEN_FILES} && exec "$0" -m pystrands {options}', sys.executable]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            yield port, lambda: healthy(port, authority.trusting() if request.param else None)
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


def healthy(port, tls):
    with ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        if tls is not None:
            sock = stack.enter_context(tls.wrap_socket(sock, server_hostname="127.0.0.1"))
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        return sock.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_broker_that_runs_out_of_open_files_goes_on_when_there_are_some_again(small_broker):
    port, is_healthy = small_broker
    assert is_healthy()
    crowd = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(3 * OPEN_FILES)]
    for sock in crowd:
        sock.close()

    def is_healthy_again():  # while there are no files connections are closed unanswered
        try:
            return is_healthy()
        except OSError:
            return False

    testing.until_sync(is_healthy_again, 20)


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
