"""A program made by PyInstaller of one that uses PyStrands; a hook tells what it does not see in compiled modules."""

import subprocess
import sys
from pathlib import Path

import pytest

import pystrands
from pystrands.build import BUILD

PROGRAM = """\
import asyncio

from pystrands import AsyncPyStrandsClient
from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from pystrands.build import BUILD


class Chat(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_room_message(context.room_id, message)


async def main():
    async with Broker(BrokerConfig(ws_port=0, tcp_port=0)) as broker:
        chat = Chat("127.0.0.1", broker.tcp_port)
        assert await chat.connect()
        print(BUILD, await chat.send_room_message("lobby", "hello", confirm=True))
        await chat.disconnect()


asyncio.run(main())
"""


HIDDEN = """\
import runpy
import sys

import pystrands.broker.server

here = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
told = set(runpy.run_path(sys.argv[1])["hiddenimports"])
needed = {name for name in here if name.partition(".")[0] in {"picows", "aiofastnet"}}
compiled = {name for name, file in here.items() if "pystrands" in file and not file.endswith(".py")}
print(len(needed) > 10, sorted(needed - told), bool(compiled), sorted(compiled - told))
"""


def test_the_hook_tells_of_every_module_that_is_imported_by_compiled_ones():
    hook = Path(pystrands.__file__).with_name("__pyinstaller") / "hook-pystrands.py"
    told = subprocess.run([sys.executable, "-c", HIDDEN, hook], check=True, capture_output=True, text=True)
    assert told.stdout == f"True [] {BUILD == 'compiled'} []\n"


@pytest.mark.compiled
@pytest.mark.timeout(300)  # what PyInstaller does takes twenty seconds of a core
def test_a_frozen_program_finds_all_that_it_imports(tmp_path):
    source = tmp_path / "chat.py"
    source.write_text(PROGRAM, "utf-8")
    command = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", "--specpath", tmp_path, "--workpath"]
    command += [tmp_path / "work", "--distpath", tmp_path / "dist", source]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    program = tmp_path / "dist" / "chat" / "chat"
    done = subprocess.run([program], check=False, capture_output=True, text=True)
    assert done.stdout == f"{BUILD} Confirmation(matched=0, skipped=0, complete=True)\n", done.stderr
