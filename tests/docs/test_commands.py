"""The shell commands in README and docs: each is one that there is, with options that there are; each kind is run."""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import click
import pytest

from pystrands import AsyncPyStrandsClient
from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from pystrands.cli.main import SERVER_OPTIONS, main, read_file, resolve
from tests.docs.blocks import ROOT, all_blocks

LINES = [
    (block.place, line.split("  #")[0].strip())
    for block in all_blocks("sh", "bash", "shell", "console")
    for line in block.code.splitlines()
    if line.strip() and not line.startswith("#")
]
RUN_ELSEWHERE = {
    "make": "Makefile",
    "pip": "",
    "python": "",
    "pytest": "",
    "systemctl": "",
    "docker": "Dockerfile",
    "kubectl": "",
}


@pytest.mark.parametrize(("place", "line"), LINES, ids=[f"{place} {line}" for place, line in LINES])
def test_it_is_a_command_that_there_is(place, line):
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):  # an environment variable for this command
        words = words[1:]
    if words[:3] == ["python", "-m", "pystrands"]:
        words = words[2:]
    if words[0] == "pystrands":
        arguments = words[1:]
        if arguments and not arguments[0].startswith("-"):
            group = click.Context(main, **main.context_settings)  # click remembers the names of a command's help
            command = main.get_command(group, arguments[0])
            assert command is not None, place
            command.make_context(arguments[0], arguments[1:], parent=group)
        return
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert words[1] in targets
        return
    assert words[0] in {"curl", *RUN_ELSEWHERE}, place


def test_the_lines_are_found():
    assert len(LINES) >= 6


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
async def test_the_health_checks_answer():
    urls = [shlex.split(line)[1] for _, line in LINES if line.startswith("curl ")]
    assert len(urls) == 2
    async with Broker(BrokerConfig(ws_port=0, tcp_port=0)) as broker:
        client = AsyncPyStrandsClient(port=broker.tcp_port)

        async def status(url):
            url = url.replace("8080", str(broker.ws_port))
            arguments = ["curl", "--silent", "--output", "-", "--write-out", "%{http_code}", url]
            done = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, check=True)
            return done.stdout

        assert [await status(url) for url in urls] == ["ok\n200", "not ready\n503"]
        assert await client.connect()
        while broker.backend_count == 0:
            await asyncio.sleep(0.01)
        assert await status(urls[1]) == "ready\n200"
        await client.disconnect()


async def test_send_reaches_the_room():
    lines = {line for _, line in LINES if line.startswith("pystrands send")}
    assert len(lines) == 2
    async with Broker(BrokerConfig(ws_port=0, tcp_port=0)) as broker:
        for line in lines:
            arguments = [sys.executable, "-m", *shlex.split(line), "--tcp-port", str(broker.tcp_port)]
            done = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        assert broker.backend_count == 0


def test_the_files_of_options_are_taken(tmp_path):
    tables = all_blocks("toml")
    assert tables
    for block in tables:
        path = tmp_path / "broker.toml"
        path.write_text(block.code, "utf-8")
        resolve(SERVER_OPTIONS, {}, {}, read_file(str(path), SERVER_OPTIONS), str(path))
        assert tomllib.loads(block.code)


def test_json_blocks_are_json():
    for block in all_blocks("json"):
        for line in block.code.splitlines():
            assert json.loads(line), block.place
