"""Processes whose threads gevent has replaced: nothing of ours may stop them, and who uses it there hears why."""

import subprocess
import sys

import pytest

from pystrands.testing import BrokerThread

PROGRAM = """\
from gevent import monkey
monkey.patch_all({how})
import gevent
from pystrands import NotSupported, PyStrands, PyStrandsClient
from pystrands.testing import BrokerThread

turns = []
gevent.spawn(lambda: [turns.append(gevent.sleep(0)) for _ in range(3)])
try:
    {what}
except NotSupported as error:
    print("NotSupported:", error)
gevent.sleep(0.01)
print(len(turns), "turns of the others")
"""
CONNECTS = "print(PyStrandsClient('127.0.0.1', {port}).connect())"


def run(what, how=""):
    command = [sys.executable, "-c", PROGRAM.format(how=how, what=what)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("PyStrandsClient().connect()", id="client"),
        pytest.param("PyStrandsClient().run_forever()", id="run_forever"),
        pytest.param("PyStrands().run()", id="app"),
        pytest.param("BrokerThread().start()", id="testing"),
    ],
)
def test_what_needs_a_thread_is_refused_with_a_sentence_and_the_greenlets_go_on(what):
    said = run(what)
    assert said.startswith("NotSupported: PyStrands needs threads of the system, and gevent has replaced them")
    assert "gthread" in said
    assert said.endswith("3 turns of the others\n")


def test_where_gevent_leaves_the_threads_alone_a_client_works():
    with BrokerThread() as broker:
        said = run(CONNECTS.format(port=broker.tcp_port), "thread=False")
    assert said == "True\n3 turns of the others\n"


def test_on_asyncio_only_a_name_needs_a_thread():
    with BrokerThread() as broker:
        for host, expected in (("127.0.0.1", "True"), ("localhost", "False")):
            code = f"""
from gevent import monkey
monkey.patch_all()
import asyncio
from pystrands import AsyncPyStrandsClient
print(asyncio.run(AsyncPyStrandsClient({host!r}, {broker.tcp_port}).connect()))
"""
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=50)
            assert done.stdout == f"{expected}\n"
            assert ("gevent has replaced them" in done.stderr) == (host == "localhost")
