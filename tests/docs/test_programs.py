"""The Python code in README and docs: all of it compiles, complete programs do what their pages say."""

import ast
import asyncio
import json
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from pystrands.protocol import messages
from tests.docs.blocks import OTHERS, README, all_blocks

BLOCKS = all_blocks("python", "py")
PROGRAMS = {block.name: block for block in BLOCKS if block.kind == "program"}
CHECKS = {}


def check(*names, **options):
    """Register a test of the programs of these names; ``options`` are the broker's."""

    def register(function):
        for name in names:
            CHECKS[name] = (function, options)
        return function

    return register


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_it_is_python(block):
    compile(block.code, block.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if block.path != README and block.path.name not in OTHERS:
        assert block.kind, "say with a comment before it whether it is a fragment or a program"
        assert (block.kind == "program") == bool(block.name)


def test_every_program_is_run():
    named = [block.name for block in BLOCKS if block.kind == "program"]
    assert sorted(named) == sorted(CHECKS)


# ---- how


class Here:
    """A broker with a program beside it."""

    def __init__(self, broker, child):
        self.broker = broker
        self.child = child
        self.url = f"ws://127.0.0.1:{broker.ws_port}"

    def connect(self, path="/lobby", **options):
        return connect(self.url + path, open_timeout=50, **options)


@contextmanager
def running(command, folder):
    """A process that is gone in the end; what it says on stderr is shown when the test fails."""
    with (folder / "stderr").open("w+") as errors:
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield child
        finally:
            child.kill()
            child.communicate()
            errors.seek(0)
            print(errors.read())


@asynccontextmanager
async def program(name, folder, options):
    """Run a program of the docs against a broker of its own."""
    config = {"ws_port": 0, "tcp_port": 0, "hold_time": 50, "drain_time": 0, "close_timeout": 1} | options
    async with Broker(BrokerConfig(**config)) as broker:
        code = PROGRAMS[name].code.replace("8081", str(broker.tcp_port)).replace("8080", str(broker.ws_port))
        (folder / "program.py").write_text(code, "utf-8")
        with running([sys.executable, "program.py"], folder) as child:
            yield Here(broker, child)


@pytest.mark.parametrize("name", sorted(PROGRAMS))
async def test_it_does_what_its_page_says(name, tmp_path):
    function, options = CHECKS[name]
    if name == "protocol-2" and messages.PROTOCOL < 2:
        pytest.skip("this broker does not speak protocol 2")
    async with asyncio.timeout(50), program(name, tmp_path, options) as here:
        await function(here)


async def rejected(connecting):
    with pytest.raises(InvalidStatus) as refused:
        await connecting
    return refused.value.response.status_code


async def ended(child):
    out, _ = await asyncio.to_thread(child.communicate, timeout=30)
    return child.returncode, out


# ---- what each does


@check("echo", "threads", "decorators")
async def echoes(here):
    async with here.connect() as client, here.connect() as other:
        await client.send("hello")
        assert await client.recv() == "echo: hello"
        await other.send("mine")
        assert await other.recv() == "echo: mine"


@check("dataclass")
async def counts_what_is_said(here):
    async with here.connect() as client, here.connect() as other:
        for who, told in ((client, "1"), (other, "2")):
            await who.send("hello")
            assert await who.recv() == told


@check("events")
async def says_what_is_said(here):
    async with here.connect() as one, here.connect() as other:
        await one.send('{"type": "shout"}')
        await one.send('{"type": "say", "text": "hello"}')
        assert json.loads(await other.recv()).keys() == {"type", "who", "text"}
        assert json.loads(await one.recv())["text"] == "hello"


@check("original")
async def echoes_to_the_room(here):
    async with here.connect() as one, here.connect() as other:
        await one.send("hello")
        assert await one.recv() == await other.recv() == "echo: hello"


@check("rooms")
async def rooms_hear_of_each_other(here):
    async with here.connect("/tea?name=Ada") as ada:
        assert await ada.recv() == "Ada joined"
        async with here.connect("/milk") as elsewhere, here.connect("/tea?name=Grace") as grace:
            assert await elsewhere.recv() == "Guest joined"
            assert await ada.recv() == await grace.recv() == "Grace joined"
            await grace.send("hello")
            assert await ada.recv() == await grace.recv() == "Grace: hello"
        assert await ada.recv() == "Grace left"


@check("json")
async def sums(here):
    async with here.connect() as client:
        await client.send('{"numbers": [1, 2, 3]}')
        assert json.loads(await client.recv()) == {"sum": 6}
        await client.send("what?")
        assert "error" in json.loads(await client.recv())


@check("join")
async def joins(here):
    async with here.connect() as one, here.connect("/other") as other:
        await one.send("join news")
        await one.send("who news")
        assert await one.recv() == "1 in news"
        await other.send("join news")
        await other.send("who news")
        assert await other.recv() == "2 in news"
        await one.send("hello")  # to all rooms that it is in
        assert {await one.recv(), await one.recv()} == {"hello"}
        assert await other.recv() == "hello"
        await other.send("leave news")
        await other.send("who news")
        assert await other.recv() == "1 in news"


@check("confirm")
async def confirms(here):
    async with here.connect() as one, here.connect() as other:
        await one.send("hello")
        assert await one.recv() == "1 others, 0 of them too slow"
        assert await other.recv() == "hello"


@check("members")
async def lists_members(here):
    async with here.connect("/tea?name=Grace") as one, here.connect("/tea?name=Ada"), here.connect("/milk"):
        await one.send("who?")
        assert await one.recv() == "Ada, Grace"


@check("token")
async def takes_tokens(here):
    names: dict[str, Any] = {"__name__": "docs"}
    exec(PROGRAMS["token"].code, names)
    token = names["make_token"]("ada.lovelace")
    async with here.connect(f"/lobby?token={token}") as client:
        await client.send("who am I?")
        assert await client.recv() == "you are ada.lovelace"
    for wrong in ("", token + "0", names["make_token"]("ada", -1), "é.1.x"):
        assert await rejected(here.connect(f"/lobby?token={wrong}")) == 403


@check("cookie")
async def takes_cookies(here):
    good = {"Cookie": "theme=dark; sessionid=8f14e45f"}
    own = f"http://127.0.0.1:{here.broker.ws_port}"
    async with here.connect(additional_headers=good, origin=own):
        pass
    assert await rejected(here.connect(additional_headers=good, origin="https://example.com")) == 403
    assert await rejected(here.connect(additional_headers={"Cookie": "sessionid=0"}, origin=own)) == 403
    assert await rejected(here.connect(origin=own)) == 403


@check("sigterm")
async def ends_in_order(here):
    async with here.connect() as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        here.child.send_signal(signal.SIGTERM)
        assert (await ended(here.child))[0] == 0


@check("protocol-1")
async def speaks_protocol_1(here):
    async with here.connect() as one, here.connect() as other:
        await one.send("grüße")
        assert await one.recv() == await other.recv() == "grüße"


@check("protocol-2")
async def speaks_protocol_2(here):
    async with here.connect() as client:
        for number in range(100):  # more than are on their way at once
            await client.send(str(number))
        assert [await client.recv() for _ in range(100)] == [str(number) for number in range(100)]
        await client.send(b"\x00\xff")
        assert await client.recv() == b"\x00\xff"


@check("embedded")
async def runs_a_broker(here):
    code, out = await ended(here.child)
    assert code == 0
    assert re.fullmatch(r"WebSocket clients: \d+\nbackends: \d+\n", out)


@check("task")
async def sends_from_outside(here):
    code, out = await ended(here.child)
    assert (code, out) == (0, "0\n")
    assert here.broker.backend_count == 0


@check("fastapi-chat")
async def chats_with_a_token(here):
    async with here.connect("/tea?token=secret") as one, here.connect("/tea?token=secret") as other:
        await one.send("hello")
        assert await one.recv() == await other.recv() == "hello"
    assert await rejected(here.connect("/tea")) == 403


@check("fastapi-both")
async def runs_beside_fastapi(here):
    await ended(here.child)  # the module alone runs nothing
    folder = here.child.args  # the command; the program is in the directory where it ran
    assert folder == [sys.executable, "program.py"]


@check("socketio-chat")
async def has_named_events(here):
    async with here.connect("/?token=secret") as one, here.connect("/?token=secret") as other:
        await one.send('{"event": "shout"}')
        await one.send('{"event": "say", "text": "hello"}')
        said = json.loads(await other.recv())
        assert (said["event"], said["text"]) == ("said", "hello")
    assert await rejected(here.connect("/?token=other")) == 403


@check("channels-chat")
async def chats_in_json(here):
    async with here.connect("/tea") as one, here.connect("/tea") as other:
        await one.send("hello")
        assert json.loads(await one.recv()) == json.loads(await other.recv()) == {"text": "hello"}


async def test_fastapi_and_a_backend_in_one_process(tmp_path):
    async with program("fastapi-both", tmp_path, {}) as here:
        await ended(here.child)
        command = [sys.executable, "-m", "uvicorn", "program:app", "--port", "0", "--log-level", "info"]
        with running(command, tmp_path) as child:
            async with here.connect("/tea") as client:
                await client.send("hello")
                assert await client.recv() == "hello"
                text = (tmp_path / "stderr").read_text("utf-8")
                (address,) = re.findall(r"running on (http://\S+)", text)
                async with httpx.AsyncClient() as http:
                    answer = await http.post(f"{address}/announce/tea", params={"text": "news"})
                assert answer.json() == {"sent": True}
                assert await client.recv() == "news"
            child.send_signal(signal.SIGTERM)
            await asyncio.to_thread(child.wait, 30)


async def test_messages_wait_while_the_backend_is_away(tmp_path):
    async with program("echo", tmp_path, {"resume_window": 0.1}) as here, here.connect() as client:
        await client.send("hello")
        assert await client.recv() == "echo: hello"
        here.child.send_signal(signal.SIGINT)
        await ended(here.child)
        await client.send("again")
        with running([sys.executable, "program.py"], tmp_path):
            assert await client.recv() == "echo: again"
