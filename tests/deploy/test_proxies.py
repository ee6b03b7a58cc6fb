"""nginx and HAProxy, with the configurations of deploy/, in front of two real brokers of which one ends."""

import asyncio
import contextlib
import os
import shutil
import subprocess

import pytest
from websockets.asyncio.client import connect

from pystrands import AsyncPyStrandsClient, testing
from tests.deploy.test_nginx import MAIN, NGINX, PATIENCE, free_port, is_listening, needs_nginx
from tests.docs.blocks import ROOT

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
DEPLOY = ROOT / "deploy"


class Backend(AsyncPyStrandsClient):
    """Tells each client which broker it is at, and where it seems to come from."""

    async def on_new_connection(self, context):
        await self.send_private_message(context.client_id, f"{self.name} {context.metadata['from']}")

    async def on_connection_request(self, request):
        if request.query.get("refused"):
            return False
        request.context.metadata = {"from": request.remote_addr}
        return True


def replaced(name, *pairs):
    text = (DEPLOY / name).read_text("utf-8")
    for old, new in pairs:
        assert old in text, f"{old!r} is not in deploy/{name}"
        text = text.replace(old, new)
    return text


def nginx(folder, port, brokers):
    """The command that runs nginx at a port, in front of these brokers."""
    servers = [
        (f"server broker-{i}:8080 ", f"server 127.0.0.1:{broker.ws_port} ") for i, broker in enumerate(brokers, 1)
    ]
    text = replaced("nginx-brokers.conf", ("listen 8080;", f"listen 127.0.0.1:{port};"), *servers)
    (folder / "pystrands.conf").write_text(text)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    return [NGINX, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def haproxy(folder, port, brokers):
    """The command that runs HAProxy at a port, in front of these brokers."""
    servers = [
        (f" broker-{i}:8080 check", f" 127.0.0.1:{broker.ws_port} check port {broker.admin_port}")
        for i, broker in enumerate(brokers, 1)
    ]
    text = replaced("haproxy.cfg", ("bind :8080", f"bind 127.0.0.1:{port}"), *servers)
    (folder / "haproxy.cfg").write_text(text.replace("maxconn 200000", "maxconn 64"))
    return [HAPROXY, "-db", "-f", str(folder / "haproxy.cfg")]


@pytest.fixture(
    params=[
        pytest.param(nginx, marks=needs_nginx),
        pytest.param(
            haproxy, marks=pytest.mark.skipif(HAPROXY is None, reason="there is no HAProxy here (Debian: haproxy)")
        ),
    ],
    ids=lambda each: each.__name__,
)
def proxy(request):
    return request.param


@contextlib.asynccontextmanager
async def running(command, port):
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220 - a moment
    try:
        await testing.until(lambda: is_listening(port) or process.poll() is not None, PATIENCE)
        assert process.poll() is None, process.stderr.read()
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)
        process.stderr.close()


async def arrive(port):
    """Come in; which broker that was, and from where it seemed to be."""
    # Not from the proxy's own address, which is trusted.
    ws = await connect(f"ws://127.0.0.1:{port}/lobby", local_addr=("127.0.0.2", 0), compression=None)
    broker, address = str(await ws.recv()).split()
    assert "127.0.0.2" in address, address
    return ws, broker


async def test_clients_come_to_both_brokers_and_to_the_other_when_one_ends(tmp_path, proxy):
    options = {"trusted_proxies": ("127.0.0.1",), "admin_port": 0, "drain_time": 0.2}
    async with (
        testing.broker(**options) as red,
        testing.broker(**options) as blue,
        testing.backend(red, Backend, name="red"),
        testing.backend(blue, Backend, name="blue"),
        asyncio.timeout(3 * PATIENCE),
    ):
        port = free_port()
        async with running(proxy(tmp_path, port, (red, blue)), port):
            at = {"red": [], "blue": []}
            while not (at["red"] and at["blue"]):  # HAProxy's first checks take a moment
                ws, broker = await arrive(port)
                at[broker].append(ws)
            with pytest.raises(Exception, match="403"):  # what a backend has decided is not asked of another
                await connect(f"ws://127.0.0.1:{port}/lobby?refused=1")
            stopping = asyncio.create_task(red.stop())
            for _ in range(20):
                ws, broker = await arrive(port)
                assert broker == "blue"
                await ws.close()
            for ws in at["red"]:
                await ws.wait_closed()
                assert ws.close_code == 1012
            await stopping
            for _ in range(5):
                ws, broker = await arrive(port)
                assert broker == "blue"
                await ws.close()
            for ws in at["blue"]:
                assert await ws.ping()
                await ws.close()
