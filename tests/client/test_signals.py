"""SIGTERM and Ctrl+C in programs with several clients, as processes with real brokers."""

import os
import signal
import subprocess
import sys

import pytest

from pystrands import testing

pytestmark = [pytest.mark.interpreted, pytest.mark.skipif(os.name != "posix", reason="signals")]

ASYNC = """
import asyncio, sys
from pystrands import AsyncPyStrandsClient

async def one(port):
    await AsyncPyStrandsClient("127.0.0.1", int(port)).run_forever()
    print("ended\\n", end="", flush=True)

async def main():
    await asyncio.gather(*map(one, sys.argv[1:]))
    print("in order", flush=True)

asyncio.run(main())
"""

THREADS = """
import sys, threading
from pystrands import PyStrandsClient

def one(port):
    PyStrandsClient("127.0.0.1", int(port)).run_forever()
    print("ended\\n", end="", flush=True)

first, second = sys.argv[1:]
other = threading.Thread(target=one, args=[first])
other.start()
one(second)
other.join()
print("in order", flush=True)
"""

MIXED = """
import sys, threading
from pystrands import PyStrands, PyStrandsClient

def one(port):
    PyStrandsClient("127.0.0.1", int(port)).run_forever()
    print("ended\\n", end="", flush=True)

first, second = sys.argv[1:]
other = threading.Thread(target=one, args=[first])
other.start()
PyStrands("127.0.0.1", int(second)).run()
print("ended\\n", end="", flush=True)
other.join()
print("in order", flush=True)
"""


def ends(program, number):
    """Run it, send it the signal when both of its clients are connected, and return its exit code and what it wrote."""
    with testing.broker_thread() as first, testing.broker_thread() as second:
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(first.tcp_port), str(second.tcp_port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            testing.until_sync(lambda: first.backend_count == 1 and second.backend_count == 1, 20)
            child.send_signal(number)
            output = child.communicate(timeout=20)[0]
        finally:
            child.kill()
            child.communicate()
        assert first.backend_count == 0 and second.backend_count == 0
        return child.returncode, output.split("\n")


@pytest.mark.parametrize("program", [ASYNC, THREADS, MIXED], ids=["async", "threads", "mixed"])
def test_sigterm_ends_all_clients_and_the_program(program):
    assert ends(program, signal.SIGTERM) == (0, ["ended", "ended", "in order", ""])


def test_ctrl_c_ends_clients_of_other_threads_too():
    assert ends(THREADS, signal.SIGINT) == (0, ["ended", "ended", "in order", ""])


CTRL_C = """
import asyncio, sys
from pystrands import AsyncPyStrandsClient, PyStrands

first, second = (AsyncPyStrandsClient("127.0.0.1", int(port)) for port in sys.argv[1:])
app = PyStrands("127.0.0.1", first.port)

async def main():
    other = asyncio.create_task(second.run_forever())
    await {what}
    await other
    print(asyncio.current_task().cancelling(), first.connected, second.connected, app.connected, flush=True)

asyncio.run(main())
print("in order", flush=True)
"""


@pytest.mark.parametrize("what", ["first.run_forever()", "app.run_async()"])
def test_ctrl_c_lets_run_forever_return_without_a_traceback(what):
    code, output = ends(CTRL_C.replace("{what}", what), signal.SIGINT)
    assert code == 0, "\n".join(output)
    assert output == ["0 False False False", "in order", ""]


def test_ctrl_c_elsewhere_in_the_program_is_pythons():
    program = CTRL_C.replace("{what}", "asyncio.gather(first.run_forever(), asyncio.sleep(60))")
    code, output = ends(program, signal.SIGINT)
    assert code == -signal.SIGINT
    assert output[-2:] == ["KeyboardInterrupt", ""]
    assert "in order" not in output


GOES_ON = """
import asyncio, sys
from pystrands import AsyncPyStrandsClient
from pystrands.client import signals

signals.STILL_THERE = 0.05

async def main():
    tasks = [asyncio.create_task(AsyncPyStrandsClient("127.0.0.1", int(port)).run_forever()) for port in sys.argv[1:]]
    await asyncio.wait(tasks)
    await asyncio.sleep({after})

asyncio.run(main())
"""


def test_a_program_that_sigterm_does_not_end_is_told_of_once():
    code, output = ends(GOES_ON.replace("{after}", "0.5"), signal.SIGTERM)
    assert code == 0
    assert [line.partition(":")[0] for line in output] == [
        "SIGTERM has ended the clients, and the program still runs 0.05 s later",
        "",
    ]
    assert ends(GOES_ON.replace("{after}", "0"), signal.SIGTERM) == (0, [""])


LATER = """
import asyncio, os, signal, sys
from pystrands import AsyncPyStrandsClient

def of_the_program(*_):
    print("heard", flush=True)

async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)

async def main():
    first, second = (AsyncPyStrandsClient("127.0.0.1", int(sys.argv[1])) for _ in range(2))
    running = [asyncio.create_task(each.run_forever()) for each in (first, second)]
    await until(lambda: first.connected and second.connected)
    await first.disconnect()
    await running[0]
    os.kill(os.getpid(), 0)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "the second one runs"
    install()
    await second.disconnect()
    await running[1]
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    print("still there", flush=True)

def by_signal():
    signal.signal(signal.SIGTERM, of_the_program)

def by_loop():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, of_the_program)

install = {"signal": by_signal, "loop": by_loop}[sys.argv[2]]
asyncio.run(main())
"""


def run(program, *arguments, code=0):
    with testing.broker_thread() as broker:
        done = subprocess.run(
            [sys.executable, "-c", program, str(broker.tcp_port), *arguments],
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout.split()


@pytest.mark.parametrize("how", ["signal", "loop"])
def test_a_handler_that_is_installed_later_is_still_there(how):
    assert run(LATER, how) == ["heard", "still", "there"]


AFTERWARDS = """
import os, signal, sys, threading
from pystrands import PyStrandsClient

client = PyStrandsClient("127.0.0.1", int(sys.argv[1]))
threading.Timer(0.2, client.disconnect).start()
client.run_forever()
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_afterwards_sigterm_is_the_systems_again():
    assert run(AFTERWARDS, code=-signal.SIGTERM) == []


FORKING = """
import os, signal, sys, threading, time
from pystrands import PyStrandsClient

class Forking(PyStrandsClient):
    def fork(self):
        while not self.connected:
            time.sleep(0.01)
        hears, tells = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(tells, b"up")
            while True:
                time.sleep(60)
        os.read(hears, 2)
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), self.connected, flush=True)
        self.disconnect()

client = Forking("127.0.0.1", int(sys.argv[1]))
threading.Thread(target=client.fork).start()
client.run_forever()
"""


def test_sigterm_ends_a_forked_child():
    assert run(FORKING) == ["-15", "True"]
