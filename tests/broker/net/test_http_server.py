"""One request and one answer, whoever derives from it; its use is tested with the admin port and the handshake."""

import asyncio
import logging

import pytest

from pystrands.broker.net.http import HttpResponse
from pystrands.broker.net.http_server import HttpServer, HttpSettings
from pystrands.broker.net.ports import Ports


async def ask(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def serve():
    servers = []

    async def start(**routes):
        loop = asyncio.get_running_loop()
        settings = HttpSettings(loop=loop, purpose="what is tested", ports=Ports())
        server = HttpServer(settings, {f"/{name}": route for name, route in routes.items()})
        await server.start("127.0.0.1", 0)
        servers.append(server)
        return server.port

    yield start
    for server in servers:
        await server.close()


async def test_a_route_answers_at_once_or_later_and_sees_the_request(serve):
    async def later(request):
        await asyncio.sleep(0)
        return HttpResponse.text(200, f"later {request.query_string}")

    port = await serve(now=lambda request: HttpResponse.text(200, f"now {request.path}"), later=later)
    assert (await ask(port, b"GET /now?x HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nnow /now\n")
    assert (await ask(port, b"GET /later?x HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nlater x\n")
    head, _, body = (await ask(port, b"HEAD /later?x HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
    assert b"Content-Length: 8" in head and body == b""


async def test_a_route_that_fails_is_an_answer_and_an_entry_in_the_log(serve, caplog):
    async def later(_):
        raise RuntimeError("later")

    def now(_):
        raise RuntimeError("at once")

    port = await serve(now=now, later=later)
    with caplog.at_level(logging.ERROR):
        for path in ("now", "later"):
            assert (await ask(port, f"GET /{path} HTTP/1.0\r\n\r\n".encode())).startswith(b"HTTP/1.1 500 ")
    assert "RuntimeError: at once" in caplog.text and "RuntimeError: later" in caplog.text


async def test_what_there_is_not_names_what_there_is(serve):
    port = await serve(one=lambda _: HttpResponse.text(200, ""), two=lambda _: HttpResponse.text(200, ""))
    assert (await ask(port, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nhere are /one and /two\n")
    assert (await ask(port, b"GET /one HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nOK\n")


async def test_a_backend_that_has_come_to_the_wrong_port_is_told_so(serve):
    port = await serve(one=lambda _: HttpResponse.text(200, ""))
    answer = await ask(port, b'{"action":"hello"')
    assert answer.startswith(b"HTTP/1.1 400 ") and b"this is the port for what is tested; backends use" in answer
