"""Every example, as a process of its own, does with real clients what its docstring says."""

import ast
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jwt
import pytest

from pystrands import testing

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def example(broker, name, *args, **env):
    return testing.backend_process(broker, EXAMPLES / f"{name}.py", *args, env=env, timeout=50)


async def test_echo():
    async with (
        testing.broker() as broker,
        example(broker, "echo"),
        testing.connect(broker) as one,
        testing.connect(broker) as two,
    ):
        for message in ("hello", b"\x00\xff", "", "é" * 1000):
            await one.send(message)
            await one.expect(message)
        await two.expect_nothing()


async def test_chat():
    secret = {"X-Token": "secret"}
    async with testing.broker() as broker, example(broker, "chat"):
        for headers in ({}, {"X-Token": "wrong"}):
            with pytest.raises(testing.Rejected) as refused:
                await testing.connect(broker, "/tea", headers=headers)
            assert refused.value.status == 403
        async with testing.connect(broker, "/tea", headers=secret) as ada:
            joined = re.compile(r"^User_[0-9a-f]{8} joined$")
            name_of_ada = str(await ada.expect(joined)).split()[0]
            async with testing.connect(broker, "/", headers=secret) as elsewhere:
                await elsewhere.expect(joined)
                async with testing.connect(broker, "/tea", headers=secret) as bob:
                    name_of_bob = str(await bob.expect(joined)).split()[0]
                    await ada.expect(f"{name_of_bob} joined")
                    await bob.send("hello")
                    await ada.expect(f"{name_of_bob}: hello")
                    await bob.expect(f"{name_of_bob}: hello")
                await ada.expect(f"{name_of_bob} left")
                await elsewhere.expect_nothing()
            await ada.send("alone")
            await ada.expect(f"{name_of_ada}: alone")


async def test_auth_token():
    async with testing.broker() as broker, example(broker, "auth_token"):
        for query in ("", "?token=", "?token=other", "?token=token-of-ad", "?token=%C3%A9", "?other=token-of-ada"):
            with pytest.raises(testing.Rejected) as refused:
                await testing.connect(broker, f"/{query}")
            assert refused.value.status == 403
        async with testing.connect(broker, "/?token=token-of-ada") as ada:
            await ada.send("hello")
            await ada.expect("Ada, you said: hello")


async def test_auth_subprotocol():
    async with testing.broker() as broker, example(broker, "auth_subprotocol"):
        for offered in ([], ["chat.v1"], ["chat.v1", "token.other"], ["token.token-of-ada"]):
            with pytest.raises(testing.Rejected) as refused:
                await testing.connect(broker, subprotocols=offered)
            assert refused.value.status == 403
        async with testing.connect(broker, subprotocols=["chat.v1", "token.token-of-bob"]) as bob:
            assert bob.subprotocol == "chat.v1"
            await bob.send("hello")
            await bob.expect("Bob, you said: hello")


def jwt_from_example(user, seconds):
    """Have the example make a token, as the web application would."""
    command = [sys.executable, str(EXAMPLES / "auth_jwt.py"), "token", user, str(seconds)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=50).stdout.strip()


def with_jwt(broker, token):
    return testing.connect(broker, subprotocols=["chat.v1", f"jwt.{token}"])


async def with_a_short_jwt(broker, secret):
    """Connect with a token that runs out soon; not so soon that a busy machine can't come in with it."""
    for seconds in (0.3, 1, 3, 9):
        token = jwt.encode({"sub": "Bob", "exp": time.time() + seconds}, secret, "HS256")
        with contextlib.suppress(testing.Rejected):
            return await with_jwt(broker, token)
    raise AssertionError("it was never fast enough")


async def test_auth_jwt():
    secret = "a secret of 32 bytes and no more"
    async with testing.broker() as broker, example(broker, "auth_jwt", JWT_SECRET=secret):
        good = {"sub": "Ada", "exp": 1e10}
        for token in (
            "",
            "nonsense",
            jwt.encode(good, "x" * 32, "HS256"),
            jwt.encode(good, "", "none"),
            jwt.encode({"sub": "Ada"}, secret, "HS256"),
            jwt.encode(good | {"exp": time.time() - 1}, secret, "HS256"),
        ):
            with pytest.raises(testing.Rejected) as refused:
                await with_jwt(broker, token)
            assert refused.value.status == 401
        assert refused.value.body == b"Signature has expired\n"
        for offered in ([], ["chat.v1"], ["jwt." + jwt.encode(good, secret, "HS256")]):
            with pytest.raises(testing.Rejected) as refused:
                await testing.connect(broker, subprotocols=offered)
            assert refused.value.status == 401
        async with with_jwt(broker, jwt.encode(good, secret, "HS256")) as ada:
            for _ in range(2):  # as the page does: with a fresh token Bob is in again
                async with await with_a_short_jwt(broker, secret) as bob:
                    assert bob.subprotocol == "chat.v1"
                    assert (await bob.expect_close(4401, timeout=20)).reason == "token expired"
            await ada.send("hello")
            await ada.expect("Ada, you said: hello")


async def test_the_tokens_that_the_example_makes_are_good():
    async with testing.broker() as broker, example(broker, "auth_jwt"):
        token = await asyncio.to_thread(jwt_from_example, "Grace", 60)
        async with with_jwt(broker, token) as grace:
            await grace.send("hello")
            await grace.expect("Grace, you said: hello")


async def test_two_backends():
    async with (
        testing.broker(resume_window=0.01) as broker,
        example(broker, "two_backends", "one") as one,
        example(broker, "two_backends", "two"),
    ):
        clients = [await testing.connect(broker) for _ in range(4)]
        names = []
        for client in clients:
            await client.send("x")
            name, _, count = str(await client.receive()).partition(": ")
            assert count == "1"
            names.append(name)
        assert sorted(names) == ["one", "one", "two", "two"]
        for client, name in zip(clients, names, strict=True):
            await client.send("x")
            await client.expect(f"{name}: 2")
        one.kill()
        await testing.until(lambda: broker.backend_count == 1)
        for client, name in zip(clients, names, strict=True):
            await client.send("x")
            await client.expect("two: 3" if name == "two" else "two: 1")
            await client.close()


async def test_game_loop():
    async with testing.broker() as broker, testing.LinkProxy(broker) as link, example(link, "game_loop") as game:
        async with testing.connect(broker) as ada, testing.connect(broker) as bob:
            await ada.send("right")
            world = await worlds(ada, lambda world: len(world["players"]) == 2 and max(world["players"].values()) > 1)
            following = await ada.receive_json()
            assert following["tick"] == world["tick"] + 1
            moved = {client_id: following["players"][client_id] - at for client_id, at in world["players"].items()}
            assert sorted(moved.values()) == [0, 1], "one step a tick"
            await bob.send("left")
            await worlds(bob, lambda world: min(world["players"].values()) < -1)
            link.refuse()
            link.cut()
            await testing.until(lambda: not broker.backend_count)
            ticks = max(world["tick"] for world in map(json.loads, ada.pending)) if ada.pending else following["tick"]
            link.accept()
            await worlds(ada, lambda world: world["tick"] > ticks)
        async with testing.connect(broker) as carol:
            await worlds(carol, lambda world: list(world["players"].values()) == [0])
        game.terminate()
        assert await asyncio.to_thread(game.wait) == 0


async def worlds(client, condition):
    """Take states of the world until one is so."""
    return json.loads(await client.expect(lambda message: condition(json.loads(message)), 30, skip=True))


async def test_streaming():
    async with testing.broker() as broker, example(broker, "streaming") as process, testing.connect(broker) as other:
        async with testing.connect(broker) as client:
            await client.send("What now?")
            answer = [await client.receive_json() for _ in range(8)]
            assert "".join(part["token"] for part in answer) == "You asked: What now? Let me think ... "
            await client.expect_json({"done": True})
            await client.send("And forever?")
            await client.expect_json({"token": "You "})
            await client.send("Again")
            await client.expect(lambda message: json.loads(message) == {"token": "Again "}, skip=True)
            await client.expect(lambda message: json.loads(message) == {"done": True}, skip=True)
            assert process.output.count("stopped after") == 1
            await client.send("forever")
            await client.expect(lambda message: json.loads(message) == {"token": "and on "}, skip=True)
        await testing.until(lambda: process.output.count("stopped after") == 2)
        await other.expect_nothing()


def address(process):
    """Where a web server says that it listens; it may say so after its backend has connected."""
    shown = re.compile(r"http://127\.0\.0\.1:([1-9]\d*)")
    testing.until_sync(lambda: shown.search(process.output), 30)
    found = shown.search(process.output)
    assert found
    return found[0]


def http(url, data=None):
    with urllib.request.urlopen(url, data=data, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.parametrize("name", ["fastapi_app", "flask_app", "django_app"])
async def test_web_applications(name):
    async with testing.broker() as broker, example(broker, name, HTTP_PORT="0") as process:
        url = await asyncio.to_thread(address, process)
        assert await asyncio.to_thread(http, f"{url}/") == {"status": "running", "connected": True}
        async with testing.connect(broker, "/tea") as ada, testing.connect(broker, "/coffee") as bob:
            await ada.send("hello")
            await ada.expect("echo: hello")
            said = await asyncio.to_thread(http, f"{url}/say/tea?text=from+HTTP", b"text=from+HTTP")
            assert said == {"sent": True}
            await ada.expect("from HTTP")
            await bob.expect_nothing()


def test_each_example_says_what_it_does_and_is_listed():
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\)", readme, re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in EXAMPLES.glob("*.py"))
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text("utf-8")
        assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")
        assert 'os.getenv("PYSTRANDS_HOST", "localhost")' in text
        assert 'os.getenv("PYSTRANDS_TCP_PORT", "8081")' in text
        assert path.stem in Path(__file__).read_text("utf-8")
