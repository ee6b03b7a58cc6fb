"""Processes of the benchmark: started and ended by their id, on free loopback ports, and what they cost in memory."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["BenchError", "compiled", "free_ports", "memory", "peak_memory", "pin", "process", "wait_until_answers"]

HERE = Path(__file__).parent
BUILD = HERE / "build"


class BenchError(Exception):
    """A measurement that is worth nothing: something did not start, or a message was lost."""


def compiled(name: str) -> str:
    """Compile ``name``.c unless its program is newer, and return the program's path."""
    source, program = HERE / f"{name}.c", BUILD / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(exist_ok=True)
        own = program.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            ["cc", "-O2", "-Wall", "-Wextra", "-o", own, source], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"cc could not compile {source.name}:\n{done.stderr}")
        own.replace(program)
    return str(program)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; they come from below the range that the system gives to clients."""
    found: list[int] = []
    start = 20000 + os.getpid() % 10000
    for port in [*range(start, 32000), *range(20000, start)]:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise BenchError("no free port between 20000 and 32000")


@contextmanager
def process(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[int]:
    """Run a command, what it says going to ``log``; yield its id; end it afterwards."""
    with log.open("ab") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **env})
    try:
        yield child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(3)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until_answers(port: int, path: str | None, seconds: float = 20, says: str = "") -> None:
    """Wait until a TCP port accepts, and if a path is given until GET of it says 200, and ``says``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as sock:
                if path is None:
                    return
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: sock.recv(65536), b""))
                if b" 200 " in answer[:200] and says.encode() in answer:
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise BenchError(f"nothing answers on port {port}")


def _field(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"{path} has no {name}")


def memory(pid: int) -> int:
    """Bytes of memory that a process has now: its proportional share of what it shares (PSS)."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss")


def peak_memory(pid: int) -> int:
    """Bytes of memory that a process had at most (resident)."""
    return _field(f"/proc/{pid}/status", "VmHWM")


def pin(pid: int, cores: set[int]) -> None:
    """Let a process and its threads run on these cores alone."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
