"""Connections to names: the first address that answers is taken, nothing waits for one that swallows everything."""

import asyncio
import contextlib
import errno
import socket
import sys
import threading

import pytest

from pystrands import AsyncPyStrandsClient, PyStrandsClient, testing, tools
from pystrands.client.connection import dial
from pystrands.errors import PyStrandsError
from tests.client.fake_broker import soon

LONG = 60.0
"""Seconds that nothing here takes: a wait for the wrong thing would end in a failure."""

NAME = "broker.test"
real_getaddrinfo = socket.getaddrinfo


@pytest.fixture
def names(monkeypatch):
    """Return what may be filled with the addresses of a name: (host, port), in order."""
    addresses = []

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002 - the real one's name
        if host != NAME:
            return real_getaddrinfo(host, port, family, type, proto, flags)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        assert threading.current_thread() is not threading.main_thread(), "it would block the loop"
        return [each for there in addresses for each in real_getaddrinfo(there[0], there[1], 0, socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return addresses


@contextlib.contextmanager
def listening():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()


@contextlib.contextmanager
def silent():
    """Give an address that swallows what wants to connect: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(10):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.1)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                yield listener.getsockname()
                return
        raise AssertionError("it takes everybody")


@contextlib.contextmanager
def refusing():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue does not swallow")


async def connected(host, port, timeout=LONG, **more):
    with await soon(dial.connect(asyncio.get_running_loop(), host, port, timeout, **more)) as sock:
        assert sock.gettimeout() == 0
        return sock.getpeername()


async def test_an_address_needs_no_thread(monkeypatch):
    monkeypatch.setattr(threading, "Thread", None)
    with listening() as there:
        assert await connected(*there) == there
    with refusing() as there, pytest.raises(ConnectionRefusedError):
        await connected(*there)


@needs_linux
async def test_the_second_address_is_tried_while_the_first_is_silent(names):
    with silent() as first, listening() as second:
        names += [first, second]
        assert await connected(NAME, 1) == second


async def test_the_second_address_is_tried_when_the_first_refuses(names):
    with refusing() as first, listening() as second:
        names += [first, second]
        assert await connected(NAME, 1, next_after=LONG) == second


async def test_when_all_refuse_the_error_names_each(names):
    with refusing() as first:
        names += [first, ("::1", first[1])]
        with pytest.raises(OSError, match=r"127.0.0.1: Connection refused; ::1: ") as raised:
            await connected(NAME, 1)
        assert raised.value.errno in {errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH}


def test_the_families_take_turns():
    six, four = [(socket.AF_INET6, n) for n in range(3)], [(socket.AF_INET, n) for n in range(1)]
    assert list(dial._in_turn([*six, *four])) == [six[0], four[0], six[1], six[2]]
    assert list(dial._in_turn([*four, *six])) == [four[0], *six]


@needs_linux
async def test_silence_ends_with_the_timeout(names):
    with silent() as first:
        names.append(first)
        with pytest.raises(TimeoutError):
            await connected(NAME, 1, timeout=0.05)


async def test_a_name_that_is_none():
    with pytest.raises(OSError):
        await connected("no-such-name.invalid", 1)
    with pytest.raises(UnicodeError):
        await connected("a" * 100 + ".example", 1)


async def test_what_is_found_too_late_is_closed(monkeypatch):
    found, go_on = [], threading.Event()

    def connect_blocking(*_):
        assert go_on.wait(LONG)
        found.append(socket.socket())
        return found[0]

    monkeypatch.setattr(dial, "connect_blocking", connect_blocking)
    connecting = asyncio.create_task(dial.connect(asyncio.get_running_loop(), "localhost", 1, LONG))
    await asyncio.sleep(0.01)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    go_on.set()
    await testing.until(lambda: found and found[0].fileno() == -1)


@needs_linux
async def test_clients_connect_to_the_second_address(names):
    async with testing.broker() as broker:
        with silent() as first:
            names += [first, ("127.0.0.1", broker.tcp_port)]
            client = AsyncPyStrandsClient(NAME)
            assert await soon(client.connect())
            threads = PyStrandsClient(NAME)
            assert await soon(asyncio.to_thread(threads.connect))
            tool = await soon(asyncio.to_thread(tools.Tool, NAME))
            assert broker.backend_count == 2
            tool.close()
            await asyncio.to_thread(threads.disconnect)
            await client.disconnect()


@needs_linux
async def test_a_client_of_a_test_connects_to_the_second_address(names):
    async with testing.broker() as broker, testing.backend(broker):
        with silent() as first:
            names += [first, ("127.0.0.1", broker.ws_port)]
            ws = await soon(testing.connect(f"ws://{NAME}:1/room"))
            await ws.close()


async def test_a_tool_tells_what_is_wrong(names):
    with refusing() as first:
        names.append(first)
        with pytest.raises(PyStrandsError, match=r"no broker at .*: 127.0.0.1: Connection refused"):
            await asyncio.to_thread(tools.Tool, NAME)


def test_without_threads_a_name_is_an_attempt_that_failed(caplog, monkeypatch, broker_thread):
    start = threading.Thread.start

    def cannot(thread):
        if thread.name == "pystrands-dial":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", cannot)
    assert PyStrandsClient("localhost", broker_thread.broker.port, auto_reconnect=False).connect() is False
    assert "can't start new thread" in caplog.text
