"""Servers of others, as processes, on a port of loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 50.0  # seconds, on a busy machine


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def fetch(port, path="/"):
    """Return the body of an answer, whichever its status."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


class Server:
    """A process that may answer on ``port``; ``output()`` is what it wrote."""

    def __init__(self, command, folder, env, port=0):
        self.port = port
        self._file = Path(folder, f"{command[0]}.log")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
        with self._file.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def output(self):
        return self._file.read_text("utf-8", "replace")

    def await_answer(self):
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                return fetch(self.port)
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < end, self.output()
            time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        """End it in order; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(self.output()) from None


@contextlib.contextmanager
def serving(command, folder, port, **env):
    server = Server(command, folder, env, port)
    try:
        server.await_answer()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
