"""The load: WebSocket clients in a process of their own, as cheap as they can be (picows on uvloop).

Run as ``python bench/load.py CASE URL --clients N --seconds S``; prints one JSON object. Closed loop: a sender sends
its next message when its last one has come back. Everything sent is awaited at the end; what is missing then was lost.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import sys
import time
from typing import Any

import picows
import uvloop


class Load:
    """What all clients of one run share."""

    def __init__(self, per_message: int) -> None:
        self.per_message = per_message
        self.running = False
        self.sent = 0
        self.received = 0
        self.closed = 0
        self.done = asyncio.Event()

    def check(self) -> None:
        """Set ``done`` when everything that was sent has arrived everywhere."""
        if not self.running and self.received >= self.sent * self.per_message:
            self.done.set()


class Client(picows.WSListener):
    """Counts what arrives; a sender answers its own message with the next."""

    def __init__(self, load: Load, own: bytes | None) -> None:
        self.load = load
        self.own = own
        self.transport: Any = None

    def on_ws_connected(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def on_ws_disconnected(self, transport: Any) -> None:
        """Count: nobody should be closed while the load runs."""
        del transport
        self.load.closed += 1

    def send(self) -> None:
        """Send this client's message."""
        self.load.sent += 1
        self.transport.send(picows.WSMsgType.TEXT, self.own)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        """Count; send the next message when this was our own."""
        del transport
        load = self.load
        if frame.msg_type == picows.WSMsgType.TEXT:
            load.received += 1
            if self.own is not None and frame.get_payload_as_bytes() == self.own and load.running:
                self.send()
            elif not load.running:
                load.check()


async def connect(load: Load, url: str, own: bytes | None) -> Client:
    """Open one connection."""
    _, client = await picows.ws_connect(lambda: Client(load, own), url, enable_auto_ping=False)
    assert isinstance(client, Client)
    return client


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Connect everybody, let them run, wait for what is on its way."""
    sizes = {"echo": (1, options.clients), "room": (options.clients, 10), "rooms": (10, options.clients)}
    per_message, senders = sizes[options.case]
    load = Load(per_message)
    clients: list[Client] = []
    started = time.perf_counter()
    for first in range(0, options.clients, 50):
        clients += await asyncio.gather(
            *(
                connect(
                    load,
                    f"{options.url}/room-{number // 10 if options.case == 'rooms' else 0}",
                    b"%d:" % number + b"x" * options.size if number < senders else None,
                )
                for number in range(first, min(first + 50, options.clients))
            )
        )
    connected = time.perf_counter() - started
    await asyncio.sleep(0.5)  # what a server says on connecting, and its own start-up work
    load.running = True
    load.received = 0
    for client in clients[:senders]:
        client.send()
    await asyncio.sleep(options.warmup)
    before, cpu, began = load.received, time.process_time(), time.perf_counter()
    print("measuring", file=sys.stderr, flush=True)
    await asyncio.sleep(options.seconds)
    after, cpu, ended = load.received, time.process_time() - cpu, time.perf_counter()
    print("measured", file=sys.stderr, flush=True)
    load.running = False
    load.check()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(load.done.wait(), 10)
    return {
        "rate": (after - before) / (ended - began),
        "received": after - before,
        "seconds": ended - began,
        "lost": load.sent * per_message - load.received,
        "closed": load.closed,
        "connections_per_second": options.clients / connected,
        "load_cpu_share": cpu / (ended - began),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=["echo", "room", "rooms"])
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--warmup", type=float, default=1)
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(uvloop.run(run(options))))


if __name__ == "__main__":
    main()
