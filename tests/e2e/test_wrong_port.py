"""Who has come to the other port: told in one line which is right, and logged once."""

import asyncio
import ssl
from typing import Any

import pytest

from pystrands import AsyncPyStrandsClient, PyStrandsClient, testing
from pystrands.tools import Tool, ToolError
from tests.inside import limited

from .support import connect
from .test_bad_input import UPGRADE, talk

KINDS: list[Any] = [AsyncPyStrandsClient, PyStrandsClient]


async def connects(kind, port, **options):
    client = limited(kind("127.0.0.1", port, **options), hello=0.05)
    if kind is AsyncPyStrandsClient:
        return await client.connect()
    return await asyncio.to_thread(client.connect)


def told(caplog, logger, words):
    return [each.getMessage() for each in caplog.records if each.name == logger and words in each.getMessage()]


@pytest.mark.parametrize("options", [{}, {"token": "secret"}, {"send_only": True}])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_backend_at_the_port_for_clients_hears_which_is_right(kind, options, caplog):
    async with testing.broker() as broker:
        for _ in range(2):
            assert not await connects(kind, broker.ws_port, **options)
        text = f"the broker at 127.0.0.1:{broker.ws_port} speaks HTTP: this is the port for WebSocket clients; "
        text += f"backends use {broker.tcp_port} (--tcp-port)"
        assert (
            told(caplog, "pystrands.client.connection.supervisor", "") == [text] * 2
        )  # each time that the program tries
        (once,) = told(caplog, "pystrands.broker.net.ports", "speaks as backends do")
        assert f"the port for WebSocket clients; backends use {broker.tcp_port}" in once
        assert await connects(AsyncPyStrandsClient, broker.tcp_port)


async def test_it_keeps_trying_where_it_is_to_and_says_it_once(caplog):
    async with testing.broker() as broker:
        client = limited(AsyncPyStrandsClient("127.0.0.1", broker.ws_port, reconnect_delay=0.01), hello=0.05)
        running = asyncio.ensure_future(client.run_forever())
        await testing.until(lambda: broker.counters["handshake_bad_request"] >= 2)
        assert (
            len(told(caplog, "pystrands.client.connection.supervisor", "this is the port for WebSocket clients")) == 1
        )
        assert not client.connected
        await client.disconnect(0)
        await running


async def test_the_same_with_tls(tls, trusting, caplog):
    certificate = {"tls_cert": tls["backend_tls_cert"]}
    async with testing.broker(**certificate) as broker:
        assert not await connects(AsyncPyStrandsClient, broker.ws_port, ssl=trusting)
        assert told(caplog, "pystrands.client.connection.supervisor", f"backends use {broker.tcp_port} (--tcp-port)")
        caplog.clear()
        assert not await connects(AsyncPyStrandsClient, broker.ws_port, token="secret")
        assert told(caplog, "pystrands.client.connection.supervisor", "says no hello; does it want TLS? Then give ssl=")


@pytest.mark.parametrize("body", [b"", b"<h1>Bad\x1b[0m Request</h1>\n", b"this is the port for \x07\n", b"x" * 5000])
async def test_another_http_server_is_none(body, caplog):
    async def serve(reader, writer):
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\nServer: other\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert not await connects(AsyncPyStrandsClient, port)
    (text,) = told(caplog, "pystrands.client.connection.supervisor", "")
    assert text.endswith(
        "speaks HTTP: is this its port for WebSocket clients? Backends use another one (--tcp-port, 8081)"
    )


@pytest.mark.parametrize("request_bytes", [UPGRADE, b"GET /healthz HTTP/1.0\r\n\r\n", b"POST / HTTP/1.1\nx"])
async def test_a_browser_at_the_port_for_backends(request_bytes, caplog):
    async with testing.broker() as broker, testing.backend(broker), connect(broker):
        for _ in range(3):
            hello, _, answer = (await talk(broker.tcp_port, request_bytes)).partition(b"\n")
            assert b'"hello"' in hello
            assert answer.startswith(b"HTTP/1.1 400 ")
            text = f"this is the port for backends; WebSocket clients use {broker.ws_port} (--ws-port)\n"
            assert answer.endswith(b"\r\n\r\n" + text.encode())
        assert len(told(caplog, "pystrands.broker.net.ports", "speaks HTTP to the port for backends")) == 1
        assert broker.counters["lines_malformed"] == 3
        assert broker.backend_count == 1


async def test_a_backend_at_the_admin_port(caplog):
    async with testing.broker(admin_port=0) as broker:
        for _ in range(2):
            assert not await connects(AsyncPyStrandsClient, broker.admin_port)
        text = f"this is the port for metrics and health checks; backends use {broker.tcp_port} (--tcp-port)"
        assert len(told(caplog, "pystrands.client.connection.supervisor", text)) == 2
        assert len(told(caplog, "pystrands.broker.net.ports", "speaks as backends do")) == 1


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"220 mail ESMTP\r\n", b"-ERR unknown command\r\n", b"{}\n"]
)
@pytest.mark.parametrize("options", [{}, {"token": "secret"}])
async def test_another_service_is_no_broker(greeting, options, caplog):
    async def serve(reader, writer):
        writer.write(greeting)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        assert not await connects(AsyncPyStrandsClient, server.sockets[0].getsockname()[1], **options)
    (text,) = told(caplog, "pystrands.client.connection.supervisor", "")
    assert text.endswith(" does not speak as a broker does: is it the port of something else?")


async def test_a_tool_at_the_port_for_clients():
    async with testing.broker() as broker:
        with pytest.raises(ToolError, match=rf"backends use {broker.tcp_port} \(--tcp-port\)"):
            await asyncio.to_thread(Tool, "127.0.0.1", broker.ws_port)
        context = ssl.create_default_context()
        with pytest.raises(ToolError, match="no broker at"):
            await asyncio.to_thread(Tool, "127.0.0.1", broker.ws_port, ssl=context)
