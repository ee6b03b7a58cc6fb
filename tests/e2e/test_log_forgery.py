"""Nobody who is heard can make a log tell what was not logged: not a client, not a backend, not a broker."""

import asyncio
import contextlib
import json
import re
import socket

import pytest

from pystrands import testing
from tests.client.fake_broker import FakeBroker, context, line, message

from .test_log_secrets import PATIENCE, broker_lines, ports, raw_http, start

FORGED = "2026-01-01 00:00:00,000 CRITICAL root: forged"
BREAK = (
    f"said\n{FORGED}\r\n{FORGED}\x1b[2K\x1b[1A{FORGED}\x85{FORGED}\u2028{FORGED}\u2029{FORGED}\x0b{FORGED}\x0c{FORGED}"
)
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
LONE = "\ud800" + BREAK
BACKEND = """
import asyncio, logging, os, sys
from pystrands import AsyncPyStrandsClient, PyStrandsClient

logging.basicConfig(level=logging.DEBUG)
BREAK = os.environ["BREAK"]
asked = 0

def decide(request):
    global asked
    if request.url == "/rejected":
        return request.reject(401, BREAK)
    if request.url == "/raises":
        raise ValueError("no words of the request")
    asked += 1
    context = request.context
    context.client_id, context.room_id, context.metadata = f"{BREAK} {asked}", BREAK, {BREAK: BREAK}
    request.subprotocol = "other"
    try:
        return request.accept("other", {"X-A": BREAK})
    except ValueError as error:
        print(type(error).__name__)  # its text is the program's
    return True

class Backend(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        return decide(request)

    async def on_message(self, message, context):
        if message == "fail":
            raise RuntimeError("no words of the message")
        if message == "act":
            await self.send_private_message(BREAK, BREAK, confirm=True)
            await self.join_room(context.client_id, BREAK + "2")
            await self.update_metadata(context.client_id, {BREAK: [BREAK]})
            await self.send_room_message(BREAK, BREAK, exclude=[BREAK])
            await self.disconnect_client(BREAK, 4000, "x")
        await self.send_private_message(context.client_id, message)

class Plain(AsyncPyStrandsClient):
    pass

class Threads(PyStrandsClient):
    pass

kind, port = sys.argv[1], int(os.environ["PORT"])
if kind == "threads":
    Threads(host="127.0.0.1", port=port).run_forever()
elif kind == "plain":
    asyncio.run(Plain(host="127.0.0.1", port=port).run_forever())
else:
    asyncio.run(Backend(host="127.0.0.1", port=port, name="back" + BREAK).run_forever())
"""


def check(text, json_lines=False):
    """Nothing in a log that is not printable, and no line of its own for what others have said."""
    lines = text.split("\n")
    assert len(lines) > 3, text
    for each in lines:
        assert each.isprintable(), ascii(each)
        assert not each.lstrip().startswith(FORGED), each
        if json_lines and each:
            json.loads(each)


async def clients(url, ws_port):
    in_header = BREAK.encode().replace(b"\n", b" ").replace(b"\r", b" ").decode("latin-1")
    headers = dict.fromkeys(("User-Agent", "Cookie", "X-Forwarded-For", "X-Any"), in_header)
    for path in ("/rejected", "/raises"):
        with contextlib.suppress(testing.Rejected):
            await testing.connect(url, path)
    with contextlib.suppress(testing.Rejected, OSError):
        await testing.connect(url, "/raises", headers=headers)
    path = "/" + "".join(f"%{byte:02x}" for byte in BREAK.encode())
    ws = await testing.connect(url, f"{path}?{path}", subprotocols=["other"])
    await ws.send(BREAK)
    await ws.send("fail")
    await ws.send("act")
    await ws.expect("act", PATIENCE, skip=True)
    with contextlib.suppress(testing.Closed):
        await ws.close(4000, BREAK[:100])
    other = await testing.connect(url, "/room")
    await other.send_frame(8, b"\x03\xea" + BREAK[:100].encode())  # 1002, and an error for the backend
    await testing.until(lambda: other.closed, PATIENCE)
    for name in (
        b"Origin",
        b"Host",
        b"Upgrade",
        b"Sec-WebSocket-Protocol",
        b"Sec-WebSocket-Extensions",
        BREAK.encode(),
    ):
        for value in (BREAK.encode(), BREAK.encode().replace(b"\n", b"").replace(b"\r", b"")):
            raw_http(ws_port, REQUEST + name + b": " + value + b"\r\n\r\n")
    raw_http(ws_port, BREAK.encode() + b" / HTTP/1.1\r\nHost: x\r\n\r\n")


def hello(**params):
    params = {"protocol": 2, "session_id": BREAK, "name": BREAK} | params
    return {"action": "hello", "request_id": BREAK, "params": params}


def strangers(tcp_port):
    """Say what no good backend says, on links of both protocols."""
    commands = [
        (BREAK, {BREAK: BREAK}),
        ("message_to_room", {"room_id": 7, BREAK: BREAK}),
        ("update_metadata", {"client_id": BREAK, "metadata": {BREAK: 1}}),
        ("message_to_room", {"room_id": BREAK, "message": BREAK, "binary": True}),
        ("disconnect_client", {"client_id": BREAK, "reason": BREAK}),
        ("response", {"accepted": BREAK, LONE: LONE}),
        ("message_to_connection", {"conn_id": LONE, "message": LONE}),
        ("leave", {BREAK: BREAK}),
    ]
    broken = [
        {"action": action, "request_id": BREAK, "params": params, "seq": number}
        for number, (action, params) in enumerate(commands, 1)
    ]
    broken.append({"action": "heartbeat", "request_id": BREAK, "params": {"ask": BREAK}})
    broker_lines(tcp_port, hello(), *broken)
    broker_lines(tcp_port, hello(session_id=LONE, name=LONE), *broken)
    broker_lines(tcp_port, hello(role=BREAK, token=BREAK))
    broker_lines(tcp_port, hello(resume=True, next_session_id=BREAK, received=BREAK))
    broker_lines(tcp_port, hello(protocol=1), *broken)
    broker_lines(tcp_port, BREAK.encode() + b"\n")
    broker_lines(tcp_port, json.dumps({"action": BREAK, BREAK: BREAK}, ensure_ascii=False).encode() + b"\n")


@contextlib.contextmanager
def answering(tcp_port):
    """A backend with a forged name that takes short lines only, and not the longest messages."""
    with socket.create_connection(("127.0.0.1", tcp_port), PATIENCE) as sock:
        sock.sendall(json.dumps(hello(session_id="short", max_line=16_384)).encode() + b"\n")
        yield sock, sock.makefile("rb")


async def test_nobody_who_talks_to_a_broker_can_forge_its_log_or_those_of_its_backends(tmp_path):
    with contextlib.ExitStack() as stack:
        for log_format in ("text", "json"):
            logs = [tmp_path / f"{log_format}-{name}.log" for name in ("broker", "backend")]
            options = ["--log-level", "debug", "--log-format", log_format, "--hold-time", "30"]
            broker = start(stack, logs[0], "-m", "pystrands", "server", "--ws-port", "0", "--tcp-port", "0", *options)
            ws_port, tcp_port = await ports(logs[0])
            with answering(tcp_port) as (sock, lines):
                connecting = asyncio.ensure_future(testing.connect(f"ws://127.0.0.1:{ws_port}"))
                asked = await asyncio.to_thread(next_question, lines)
                params = {"accepted": True, "client_id": BREAK, "metadata": {BREAK: BREAK}}
                answer = {"action": "response", "request_id": asked["request_id"], "params": params, "seq": 1}
                sock.sendall(json.dumps(answer).encode() + b"\n")
                ws = await connecting
                await ws.send("x" * 20_000)
                await testing.until(lambda: "with its metadata has a line" in logs[0].read_text("utf-8"), PATIENCE)  # noqa: B023
                bye = {"action": "bye", "request_id": "", "params": {}, "seq": 2}
                sock.sendall(json.dumps(bye).encode() + b"\n")
                await asyncio.to_thread(lines.read)
            await ws.close()
            backend = start(stack, logs[1], "-c", BACKEND, "async", PORT=str(tcp_port), BREAK=BREAK)
            await clients(f"ws://127.0.0.1:{ws_port}", ws_port)
            await asyncio.to_thread(strangers, tcp_port)
            for process in (backend, broker):
                process.terminate()
                assert process.wait(PATIENCE) == 0
            texts = [path.read_bytes().decode("utf-8", "surrogateescape") for path in logs]
            check(texts[0], json_lines=log_format == "json")
            check(texts[1])
            assert "'said\\\\" in ascii(texts[0]), "the forged name is in the log, escaped"
            assert re.search(r"on_message failed for client 'said\\n", texts[1])
            assert "RuntimeError: no words of the message" in texts[1]


def next_question(lines):
    for each in lines:
        said = json.loads(each)
        if said["action"] == "connection_request":
            return said
    raise AssertionError("the link was closed")


@pytest.mark.parametrize("kind", ["plain", "threads"])
async def test_no_broker_can_forge_the_log_of_a_backend(tmp_path, kind):
    log = tmp_path / "backend.log"
    forged = context(BREAK, BREAK, {BREAK: BREAK})
    with contextlib.ExitStack() as stack:
        async with FakeBroker() as broker:
            start(stack, log, "-c", BACKEND, kind, PORT=str(broker.address[1]), BREAK=BREAK)
            link = await broker.link()
            for action in ("new_connection", "client_adopted", "disconnected", "error"):
                await link.send(line(action, {"context": forged, "error": BREAK, "code": 4000, "reason": BREAK}))
            await link.send(message(BREAK, BREAK))
            await link.send(line(BREAK, {BREAK: BREAK}, BREAK))
            await link.send(line("new_message", {BREAK: BREAK, "context": BREAK}))
            await link.send(BREAK.encode() + b"\n")
            await link.send(
                json.dumps({"action": "error", "params": {"error": LONE, "context": forged}}).encode() + b"\n"
            )
            await link.send(line("refused", {"reason": BREAK}))
            wanted = ("is in", "is gone", "on_message is not overridden", "malformed", r"ERROR:\S*:client 'said\\n")
            await testing.until(
                lambda: all(re.search(each, log.read_text("utf-8", "replace")) for each in wanted), PATIENCE
            )
    check(log.read_bytes().decode("utf-8", "surrogateescape"))


async def test_no_broker_can_forge_a_log_with_why_it_refuses(tmp_path):
    log = tmp_path / "backend.log"
    with contextlib.ExitStack() as stack:
        async with FakeBroker(protocol=2) as broker:
            backend = start(stack, log, "-c", BACKEND, "plain", PORT=str(broker.address[1]), BREAK=BREAK)
            link = await broker.link()
            await link.send(line("refused", {"reason": BREAK}))
            assert await asyncio.to_thread(backend.wait, PATIENCE) == 1
    text = log.read_bytes().decode("utf-8", "surrogateescape")
    check(text)
    assert len(re.findall("refuses this backend: said", text)) == 2, "in the log, and in the exception"
