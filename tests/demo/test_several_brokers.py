"""The demo with three brokers and two backends: people at different brokers chat with each other."""

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys

import psutil
import pytest
from click.testing import CliRunner

from pystrands import testing
from pystrands.cli.main import main

WITHIN = 30.0


@contextlib.contextmanager
def demo():
    """The demo, and the addresses that it tells."""
    child = subprocess.Popen(
        [sys.executable, "-m", "pystrands", "demo", "--brokers=3", "--ws-port=0", "--tcp-port=0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = child.stdout.readline()
        urls = re.findall(r"(http://127\.0\.0\.1:\d+)/", line)
        assert len(set(urls)) == 3, line
        yield child, [url.replace("http", "ws") for url in urls]
    finally:
        child.kill()
        child.communicate()


async def of_kind(ws, kind):
    """The next message of a kind; others are passed over."""
    while True:
        message = json.loads(await ws.receive(timeout=WITHIN))
        if message["kind"] == kind:
            return message


async def arrive(stack, url):
    """Go into a room; who is there."""
    ws = await stack.enter_async_context(testing.connect(url, "/tea?name=Ada", timeout=WITHIN))
    return ws, [member["name"] for member in (await of_kind(ws, "roster"))["members"]]


@pytest.mark.skipif(sys.platform != "linux", reason="the demo's NATS server is of Linux")
async def test_people_at_three_brokers_chat_and_nobody_is_left_in_the_end():
    with demo() as (child, urls):
        descendants = psutil.Process(child.pid).children(recursive=True)
        assert [each.name() for each in descendants].count("nats-server") == 1
        async with contextlib.AsyncExitStack() as stack:
            first, names = await arrive(stack, urls[0])
            assert names == ["Ada"]
            second, names = await arrive(stack, urls[1])
            assert sorted(names) == ["Ada", "Ada 2"]
            third, names = await arrive(stack, urls[2])
            assert sorted(names) == ["Ada", "Ada 2", "Ada 3"]
            for speaker in (first, second, third):
                await speaker.send_json({"kind": "message", "text": "Hello"})
                said = [await of_kind(ws, "message") for ws in (first, second, third)]
                assert said[0] == said[1] == said[2]
        child.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(child.wait, WITHIN) == 0
        assert not [each for each in descendants if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_only_linux_has_several_brokers(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    result = CliRunner().invoke(main, ["demo", "--brokers=2"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--brokers: only on Linux" in result.stderr
