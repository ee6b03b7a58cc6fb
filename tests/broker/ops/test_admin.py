"""The admin port: what it answers, and how little anybody can do to it."""

import asyncio
import contextlib
import logging

import pytest

from pystrands.broker.ops.admin import AdminServer
from pystrands.testing import until

HEAD = b"Host: localhost\r\n\r\n"


class Running:
    """An admin server on a free port, and what is behind it."""

    ready = True
    body = b"a 1\n"
    error: Exception | None = None
    hold: asyncio.Event | None = None

    async def metrics(self):
        if self.error is not None:
            raise self.error
        if self.hold is not None:
            await self.hold.wait()
        return self.body

    def __init__(self, host="127.0.0.1", **options):
        self.host = host
        self.options = options

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.server = AdminServer(loop, lambda: self.ready, self.metrics, "text/x-metrics", **self.options)
        await self.server.start(self.host, 0)
        self.writers = []
        return self

    async def __aexit__(self, *_):
        await self.server.close()
        await until(lambda: not self.server.connections, 20)
        for writer in self.writers:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def open(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self.writers.append(writer)
        return reader, writer

    async def ask(self, request):
        """Send a request; return status, headers and body of the answer."""
        reader, writer = await self.open()
        writer.write(request)
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body

    async def get(self, path, method="GET", host="127.0.0.1:9100"):
        return await self.ask(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


async def test_health_readiness_and_metrics():
    async with Running() as running:
        assert (await running.get("/healthz"))[::2] == (200, b"ok\n")
        assert (await running.get("/readyz"))[::2] == (200, b"ready\n")
        status, headers, body = await running.get("/metrics?x=1")
        assert (status, headers["Content-Type"], body) == (200, "text/x-metrics", b"a 1\n")
        assert headers["Content-Length"] == "4"
        running.ready = False
        assert (await running.get("/readyz"))[::2] == (503, b"not ready\n")
        assert (await running.get("/healthz"))[0] == 200


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:9100", "127.0.0.1.example", "localhost@x", ""])
async def test_on_loopback_a_page_under_another_name_reads_no_metrics(host):
    async with Running() as running:
        for method in ("GET", "HEAD"):
            status, _, body = await running.get("/metrics", method, host)
            assert (status, b"a 1" in body) == (403, False)
        assert b"--admin-host" in (await running.get("/metrics", host=host))[2]
        # Probes of load balancers and containers name anything, and nothing is told that a page could want.
        assert (await running.get("/healthz", host=host))[0] == 200
        assert (await running.get("/readyz", host=host))[0] == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.8.0.1:9100", "[::1]:9100"])
async def test_on_loopback_a_name_of_loopback_reads_metrics(host):
    async with Running() as running:
        assert (await running.get("/metrics", host=host))[0] == 200


async def test_who_names_no_host_is_no_browser():
    async with Running() as running:
        assert (await running.ask(b"GET /metrics HTTP/1.0\r\n\r\n"))[0] == 200


async def test_beyond_loopback_any_name_reads_metrics():
    async with Running("0.0.0.0") as running:
        assert (await running.get("/metrics", host="broker.internal:9100"))[0] == 200


async def test_other_paths_and_methods():
    async with Running() as running:
        status, _, body = await running.get("/")
        assert (status, b"/metrics" in body) == (404, True)
        status, headers, _ = await running.get("/metrics", "POST")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        for path in ("/healthz", "/readyz", "/metrics"):
            status, headers, body = await running.get(path, "HEAD")
            assert (status, body) == (200, b"")
            assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"\x00\r\n\r\n", 400),
        (b"\r\n\r\nGET /healthz HTTP/1.1\r\n" + HEAD, 200),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 17_000 + b"\r\n" + HEAD, 431),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 17_000, 431),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 15_000 + b"\r\n" + HEAD, 200),
        (b"GET /healthz HTTP/1.1\r\n" + HEAD + b"GET /metrics HTTP/1.1\r\n" + HEAD, 200),
    ],
)
async def test_what_is_no_good_request(request_, status):
    async with Running() as running:
        assert (await running.ask(request_))[0] == status


async def test_who_speaks_tls_gets_no_answer_that_it_could_not_read():
    async with Running() as running:
        _, writer = await running.open()
        writer.write(b"\x16\x03\x01\r\n\r\n")
        await until(lambda: not running.server.connections, 20)


async def test_a_request_in_pieces():
    async with Running() as running:
        reader, writer = await running.open()
        for byte in b"GET /healthz HTTP/1.1\r\n" + HEAD:
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


async def test_metrics_that_fail_are_an_answer_and_an_entry_in_the_log(caplog):
    async with Running() as running:
        running.error = RuntimeError("broken gauge")
        with caplog.at_level(logging.ERROR):
            assert (await running.get("/metrics"))[0] == 500
        assert "broken gauge" in caplog.text


async def test_silent_connections_keep_nobody_out_and_the_oldest_of_them_goes():
    async with Running(max_connections=3) as running:
        idle = []
        while len(idle) < 3:
            idle.append(await running.open())
            await until(lambda: len(running.server.connections) == len(idle), 20)
        oldest, middle, newest = running.server.connections
        for _ in range(2):
            assert (await running.get("/healthz"))[0] == 200
            await until(lambda: len(running.server.connections) == 2, 20)
        async with asyncio.timeout(20):
            assert await idle[0][0].read() == b""
        assert list(running.server.connections) == [middle, newest]
        assert oldest not in running.server.connections
        idle[1][1].write(b"GET /healthz HTTP/1.1\r\n" + HEAD)
        async with asyncio.timeout(20):
            assert (await idle[1][0].read()).startswith(b"HTTP/1.1 200 ")


async def test_who_waits_for_an_answer_stays_as_long_as_there_are_silent_ones_to_drop():
    async with Running(max_connections=2) as running:
        running.hold = asyncio.Event()
        asking = asyncio.create_task(running.get("/metrics"))
        await until(lambda: any(each.is_answered for each in running.server.connections), 20)
        await running.open()
        await until(lambda: len(running.server.connections) == 2, 20)
        assert (await running.get("/healthz"))[0] == 200
        running.hold.set()
        assert (await asking)[0] == 200


async def test_those_that_do_not_take_their_answer_keep_nobody_out():
    async with Running(max_connections=2) as running:
        running.body = b"x" * (1 << 25)
        for count in (1, 2):
            reader, writer = await running.open()
            writer.write(b"GET /metrics HTTP/1.1\r\n" + HEAD)
            await reader.readline()
            writer.transport.pause_reading()
            assert len(running.server.connections) == count
        assert (await running.get("/healthz"))[0] == 200


async def test_who_takes_too_long_is_cut_off():
    async with Running(patience=0.05) as running:
        reader, writer = await running.open()
        writer.write(b"GET /healthz")
        async with asyncio.timeout(20):
            assert await reader.read() == b""


async def test_who_does_not_read_is_cut_off():
    async with Running(patience=0.5) as running:
        running.body = b"x" * (1 << 25)
        reader, writer = await running.open()
        writer.write(b"GET /metrics HTTP/1.1\r\n" + HEAD)
        async with asyncio.timeout(20):
            await reader.readline()
            writer.transport.pause_reading()
        await until(lambda: not running.server.connections, 20)


async def test_close_ends_what_is_open():
    async with Running() as running:
        reader, _ = await running.open()
        await until(lambda: running.server.connections, 20)
        await running.server.close()
        async with asyncio.timeout(20):
            assert await reader.read() == b""
