"""Processes that fork: the child has no connection, and does not keep the parent's alive. Whole programs."""

import os
import signal
import subprocess
import sys

import pytest

from pystrands import testing

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

COMMON = """
import asyncio, multiprocessing, os, sys, threading, time
from pystrands import AsyncPyStrandsClient, PyStrands, PyStrandsClient

port, kind = int(sys.argv[1]), sys.argv[2]

def until(condition):
    while not condition():
        time.sleep(0.01)

class Async(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)

class Sync(PyStrandsClient):
    def on_message(self, message, context):
        self.send_private_message(context.client_id, message)

def fork(child):
    pid = os.fork()
    if pid:
        return pid
    try:
        child()
    finally:
        os._exit(1)

def run(with_client):
    '''Call with_client(client), when it is connected: a client of each kind to a *name*.'''
    if kind == "async":
        async def main():
            client = Async("localhost", port)
            assert await client.connect()
            with_client(client)
            await asyncio.sleep(60)
        asyncio.run(main())
        return
    if kind == "app":
        client = PyStrands("localhost", port)
        @client.on_message
        async def echo(message, context):
            await client.send_private_message(context.client_id, message)
        threading.Thread(target=client.run, daemon=True).start()
    else:
        client = Sync("localhost", port)
        assert client.connect()
    until(lambda: client.connected)
    with_client(client)
    time.sleep(60)
"""

SLEEPING_CHILD = """
def with_client(client):
    print(fork(lambda: time.sleep(60)), flush=True)

run(with_client)
"""

KINDS = ["async", "sync", "app"]


def start(program, broker, kind):
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + program, str(broker.tcp_port), kind], stdout=subprocess.PIPE, text=True
    )


def echoes(broker):
    with testing.connect_sync(broker) as ws:
        for text in ("a", "b"):
            ws.send(text)
            ws.expect(text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_does_not_keep_the_link_of_a_parent_that_is_killed(kind):
    with testing.broker_thread() as broker:
        parent = start(SLEEPING_CHILD, broker, kind)
        try:
            child = int(parent.stdout.readline())
            try:
                echoes(broker)  # the fork has not disturbed it
                parent.kill()
                testing.until_sync(lambda: broker.backend_count == 0)
            finally:
                os.kill(child, signal.SIGKILL)
        finally:
            parent.kill()
            parent.communicate()


ENDING_CHILD = """
def with_client(client):
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

run(with_client)
"""


@pytest.mark.parametrize("kind", ["sync", "app"])
def test_a_child_that_ends_ends_silently_and_leaves_the_parent_alone(kind):
    with testing.broker_thread() as broker:
        parent = start(ENDING_CHILD, broker, kind)
        try:
            assert parent.stdout.readline() == "0\n"
            echoes(broker)
        finally:
            parent.kill()
            parent.communicate()


IN_A_CHILD = """
def result(function, *args, **more):
    try:
        value = function(*args, **more)
        return str(asyncio.run(awaiting(value)) if kind == "async" and asyncio.iscoroutine(value) else value)
    except Exception as error:
        return type(error).__name__ + (" forked" if "was forked" in str(error) else "")

async def awaiting(value):
    return await value

def child(client):
    print(client.connected, result(client.send_room_message, "r", "x"), result(client.broadcast_message, "x"),
          result(client.room_members, "r"), result(client.send_room_message, "r", "x", confirm=True),
          result(client.disconnect), sep=", ", flush=True)
    if kind == "async":
        async def again():
            print(await client.connect(), await client.broadcast_message("x", confirm=True), flush=True)
            await client.disconnect()
        asyncio.run(again())
    elif kind == "sync":
        print(client.connect(), client.broadcast_message("x", confirm=True), flush=True)
        client.disconnect()
    else:
        threading.Thread(target=client.run).start()
        until(lambda: client.connected)
        print(True, client.broadcast_message("x", confirm=True), flush=True)
        client.disconnect()
    sys.stdout.flush()

def with_client(client):
    process = multiprocessing.get_context("fork").Process(target=child, args=[client])
    process.start()
    process.join()
    print(process.exitcode, flush=True)

run(with_client)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_in_a_child_is_not_connected_says_what_to_do_and_can_connect(kind):
    with testing.broker_thread() as broker:
        parent = start(IN_A_CHILD, broker, kind)
        try:
            heard = [parent.stdout.readline() for _ in range(3)]
            assert heard == [
                "False, False, False, NotConnected forked, NotConnected forked, None\n",
                "True Confirmation(matched=0, skipped=0, complete=True)\n",
                "0\n",
            ]
            echoes(broker)
        finally:
            parent.kill()
            parent.communicate()
