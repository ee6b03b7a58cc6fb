"""Nothing that clients and backends send gets into a log, at any level, whatever goes wrong with it."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pystrands import testing

MARK = "s3cr3t-m4rk"
TOKEN = f"the token of all backends {MARK}"
PATIENCE = 30
BACKEND = f"""
import asyncio, logging, os
from pystrands import AsyncPyStrandsClient

logging.basicConfig(level=logging.DEBUG)

class Backend(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        request.context.metadata = {{"password": "{MARK}"}}
        if request.url == "/long":
            request.context.metadata = {{"password": "{MARK}" * 2000}}
        if request.url == "/fails":
            raise ValueError("no words of the request")
        request.subprotocol = "other"
        return request.url != "/rejected"

    async def on_message(self, message, context):
        if message == "fail {MARK}":
            raise RuntimeError("no words of the message")
        await self.send_private_message(context.client_id, message)
        await self.send_room_message(context.room_id, message)
        await self.broadcast_message(message)
        await self.send_private_message("nobody", message, confirm=True)
        await self.update_metadata(context.client_id, {{"token": "{MARK}"}})
        try:
            await self.send_room_message(context.room_id, "{MARK}" * 10_000)
        except ValueError as error:
            assert "{MARK}" not in str(error)

asyncio.run(Backend(host="127.0.0.1", port=int(os.environ["PORT"]), name="back").run_forever())
"""


def broker_lines(tcp_port, *lines):
    """Say something as a backend, and read what comes back until the link is quiet or closed."""
    with socket.create_connection(("127.0.0.1", tcp_port), PATIENCE) as sock:
        with contextlib.suppress(TimeoutError, ConnectionError):  # the broker may have closed before the last
            for line in lines:
                sock.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
            sock.settimeout(0.2)
            while sock.recv(65536):
                pass


def raw_http(ws_port, data):
    with socket.create_connection(("127.0.0.1", ws_port), PATIENCE) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            while sock.recv(65536):
                pass


async def clients(url):
    """Do everything with the mark in it that a client can."""
    headers = {"Authorization": f"Bearer {MARK}", "Cookie": f"session={MARK}", "X-Forwarded-For": MARK}
    options: dict[str, Any] = {"headers": headers, "subprotocols": (MARK, "other")}
    for path in ("/rejected", "/fails"):
        with pytest.raises(testing.Rejected):
            await testing.connect(url, f"{path}?token={MARK}", **options)
    async with testing.connect(url, f"/room?token={MARK}", **options) as ws, testing.connect(url, "/room") as other:
        for message in (f"text {MARK}", f"bytes {MARK}".encode()):
            await ws.send(message)
            for each in (ws, other):
                await each.expect(message, skip=True)
        await ws.send(f"fail {MARK}")
        await ws.send("last")
        await ws.expect("last", skip=True)
        await ws.close(1002, MARK)
        await other.close(4000, MARK)
    async with testing.connect(url, f"/{MARK}/long?{MARK}", **options):
        pass
    for opcode, payload, rsv in (
        (1, b"\xff" + MARK.encode(), 0),
        (1, MARK.encode() * 5000, 0),
        (3, MARK.encode(), 0),
        (2, MARK.encode(), 4),
        (8, b"\x03" + MARK.encode(), 0),
        (9, MARK.encode(), 0),
    ):
        ws = await testing.connect(url, "/room")
        await ws.send_frame(opcode, payload, rsv=rsv)
        await ws.close()


@pytest.mark.parametrize(("log_format", "token"), [("text", ""), ("json", ""), ("text", TOKEN), ("json", TOKEN)])
async def test_what_is_sent_is_in_no_log(tmp_path, log_format, token):
    logs = [tmp_path / name for name in ("broker.log", "backend.log", "stranger.log")]
    options = ["--log-level", "debug", "--log-format", log_format, "--max-message-size", "16 KiB", "--hold-time", "30"]
    options += ["--backend-token", token] if token else []
    with contextlib.ExitStack() as stack:
        broker = start(stack, logs[0], "-m", "pystrands", "server", "--ws-port", "0", "--tcp-port", "0", *options)
        ws_port, tcp_port = await ports(logs[0])
        backend = start(stack, logs[1], "-c", BACKEND, PORT=str(tcp_port), PYSTRANDS_TOKEN=token)
        await clients(f"ws://127.0.0.1:{ws_port}")
        raw_http(ws_port, f"{MARK} / HTTP/1.1\r\nHost: {MARK}\r\n\r\n".encode())
        raw_http(ws_port, f"GET /{MARK} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        raw_http(ws_port, f"GET / HTTP/1.1\r\nHost: x\r\nX: {MARK * 3000}\r\n\r\n".encode())
        for said in (token or MARK, f"wrong, but {MARK}", ""):
            hello = {"protocol": 2, "token": said, "session_id": MARK, "name": "stranger"}
            broker_lines(
                tcp_port,
                {"action": "hello", "request_id": "", "params": hello},
                {"action": MARK, "request_id": MARK, "params": {MARK: MARK}, "seq": 1},
                {"action": "message_to_room", "request_id": "", "params": {"room_id": 7, "message": MARK}, "seq": 2},
                {"action": "message_to_room", "request_id": "", "params": {"room_id": "r", "message": MARK}, "seq": 9},
            )
        broker_lines(tcp_port, MARK.encode() + b"\n", b'{"action": "' + MARK.encode() + b'\xff"}\n')
        broker_lines(tcp_port, MARK.encode() * 50_000 + b"\n")
        if token:
            stranger = start(stack, logs[2], "-c", BACKEND, PORT=str(tcp_port), PYSTRANDS_TOKEN=f"no {MARK}")
            assert stranger.wait(PATIENCE) == 1
        backend.terminate()
        assert backend.wait(PATIENCE) == 0
        broker.terminate()
        assert broker.wait(PATIENCE) == 0
    texts = [path.read_text("utf-8", errors="replace") for path in logs if path.exists()]
    for text in texts:
        assert len(text.splitlines()) > 5, text
        assert not [line for line in text.splitlines() if MARK in line]
    errors = set(re.findall(r"^(\w*Error: .*)$", texts[1], re.MULTILINE))
    assert errors == {"ValueError: no words of the request", "RuntimeError: no words of the message"}, "and no others"
    assert "malformed" in texts[0]
    if token:
        assert "the token is wrong" in texts[0], "and it says why"
        assert "Refused" in texts[2]


def start(stack, log, *args, **env):
    """Run Python with what it writes in a file; it is gone in the end."""
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *args], stdout=file, stderr=file, env=os.environ | env)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


async def ports(log: Path):
    await testing.until(lambda: len(found(log)) == 2, PATIENCE)
    return found(log)


def found(log):
    return [
        int(port) for port in re.findall(r"(?:clients: ws|backends): ?(?://)?127\.0\.0\.1:(\d+)[\n\"]", log.read_text())
    ]
