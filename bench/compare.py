"""PyStrands beside FastAPI on uvicorn: ``python bench/compare.py``, interleaved rounds, medians and ratios.

With ``--against protocol1`` it is compared with itself, the backend speaking the older protocol.

Each side runs in processes of its own on loopback, the load in another. Run nothing else meanwhile.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

HERE = Path(__file__).parent
CASES = {"echo": ("echo", "/echo", 100), "room": ("room", "/chat", 1000), "rooms": ("rooms", "/chat", 1000)}


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextmanager
def process(*command):
    """Run a command; end it by its own id afterwards."""
    child = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until(url_port, path):
    """Wait until GET ``path`` says 200, at most ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", url_port), 1) as sock:
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                if b" 200 " in sock.recv(200):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"nothing answers on port {url_port}")


@contextmanager
def pystrands(protocol=2):
    """Broker and backend; yields the port and the processes by name."""
    ws, tcp = free_port(), free_port()
    with ExitStack() as stack:
        broker = stack.enter_context(
            process("-m", "pystrands", "server", "--ws-port", str(ws), "--tcp-port", str(tcp), "--log-level", "warning")
        )
        backend = stack.enter_context(process(str(HERE / "backend.py"), str(tcp), str(protocol)))
        wait_until(ws, "/readyz")
        yield ws, {"broker": broker, "backend": backend}


@contextmanager
def fastapi():
    """FastAPI on uvicorn, at its fastest documented settings."""
    port = free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--ws-per-message-deflate", "false", "--no-access-log"]
    with process(
        "-m",
        "uvicorn",
        "peer_fastapi:app",
        "--app-dir",
        str(HERE),
        "--port",
        str(port),
        "--log-level",
        "warning",
        *options,
    ) as server:
        wait_until(port, "/docs")
        yield port, {"server": server}


SIDES = {"pystrands": pystrands, "fastapi": fastapi, "protocol1": lambda: pystrands(1)}


def cpu_seconds(child):
    """User and system time of a process."""
    times = child.cpu_times()
    return times.user + times.system


def measure(side, case, seconds):
    """Run one case on one side."""
    kind, path, clients = CASES[case]
    with SIDES[side]() as (port, children):
        command = [sys.executable, str(HERE / "load.py"), kind, f"ws://127.0.0.1:{port}{path}"]
        load = subprocess.Popen(
            [*command, "--clients", str(clients), "--seconds", str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        marks = {}

        def watch():
            for line in load.stderr:
                marks[line.strip()] = {name: cpu_seconds(child) for name, child in children.items()}

        watcher = threading.Thread(target=watch)
        watcher.start()
        out = load.stdout.read()
        load.wait(60)
        watcher.join()
        result = json.loads(out)
        if result["lost"] or result["closed"]:
            raise SystemExit(f"{side} {case}: {result['lost']} messages lost, {result['closed']} clients closed")
        for name in children:
            used = marks["measured"][name] - marks["measuring"][name]
            result[f"{name}_us"] = 1e6 * used / result["received"]
        return result


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--against", choices=["fastapi", "protocol1"], default="fastapi")
    parser.add_argument("--case", choices=list(CASES), action="append")
    options = parser.parse_args()
    for case in options.case or CASES:
        runs = {side: [] for side in ("pystrands", options.against)}
        for _ in range(options.rounds):
            for side, results in runs.items():
                results.append(measure(side, case, options.seconds))
        for side, results in runs.items():
            rates = sorted(result["rate"] for result in results)
            costs = ", ".join(
                f"{key[:-3]} {statistics.median(r[key] for r in results):.2f} us"
                for key in results[0]
                if key.endswith("_us")
            )
            share = statistics.median(r["load_cpu_share"] for r in results)
            print(
                f"{case:6} {side:10} {statistics.median(rates):9,.0f}/s ({rates[0]:,.0f} to {rates[-1]:,.0f})  "
                f"CPU per message: {costs}; load generator {share:.0%} of a core",
                flush=True,
            )
        ratios = sorted(ours["rate"] / theirs["rate"] for ours, theirs in zip(*runs.values(), strict=True))
        print(f"{case:6} ratio      {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
