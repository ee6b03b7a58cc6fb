"""wss:// without a proxy: real TLS handshakes, good and bad, and certificates that change under connected clients."""

import asyncio
import contextlib
import socket
import ssl

import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.bounds import Bounds
from pystrands.errors import ConfigError
from tests.bounded import BoundedBroker
from tests.certificates import Authority
from tests.inside import parts_of, servers_of


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def files(authority, tmp_path):
    return authority.write(tmp_path)


def open_sockets(port, count):
    return [socket.create_connection(("127.0.0.1", port), 20) for _ in range(count)]


async def ended(sockets):
    """Wait until the broker has ended these connections."""
    for sock in sockets:
        assert await asyncio.to_thread(sock.recv, 1) == b""
        sock.close()


async def shown(port, context):
    """Return the certificate that the broker shows to a new connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


async def echoes(ws, message="ping"):
    await ws.send(message)
    await ws.expect(message)


async def test_wss_carries_messages_of_every_size_both_ways(authority, files):
    async with testing.broker(**files) as broker, testing.backend(broker, Echo):
        assert broker.ws_url("/a").startswith("wss://")
        async with testing.connect(broker, "/a", ssl=authority.trusting()) as ws:
            for size in (0, 1, 125, 126, 16_383, 16_384, 65_536, 1_000_000):
                await ws.send("x" * size, timeout=20)
                await ws.expect("x" * size, 20)
        await testing.until(lambda: not broker.client_count)
        assert broker.counters["tls_handshake_failed"] == 0


async def test_the_health_checks_are_there_over_https(authority, files):
    async with testing.broker(**files) as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.ws_port, ssl=authority.trusting())
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_stopping_broker_closes_its_tls_clients_with_1012(authority, files):
    async with testing.broker(**files) as broker, testing.backend(broker, Echo):
        ws = await testing.connect(broker, ssl=authority.trusting())
        stopping = asyncio.create_task(broker.stop())
        await ws.expect_close(1012)
        await ws.close()
        await stopping


async def test_new_files_are_shown_to_new_connections_and_the_old_ones_live_on(authority, files, tmp_path):
    async with testing.broker(**files) as broker, testing.backend(broker, Echo):
        async with testing.connect(broker, ssl=authority.trusting()) as ws:
            before = await shown(broker.ws_port, authority.trusting())
            authority.write(tmp_path)
            assert await shown(broker.ws_port, authority.trusting()) == before
            broker.reload()
            assert await shown(broker.ws_port, authority.trusting()) != before
            await echoes(ws)


async def test_bad_files_leave_the_old_certificate_in_force(authority, files, tmp_path):
    async with testing.broker(**files) as broker, testing.backend(broker, Echo):
        before = await shown(broker.ws_port, authority.trusting())
        (tmp_path / "key.pem").write_text("no key")
        with pytest.raises(ConfigError) as caught:
            broker.reload()
        assert caught.value.option == "tls_cert"
        assert await shown(broker.ws_port, authority.trusting()) == before


async def test_a_broker_without_tls_has_nothing_to_reload():
    async with testing.broker() as broker:
        broker.reload()


async def test_a_broker_with_a_bad_certificate_does_not_start(files, tmp_path):
    (tmp_path / "cert.pem").unlink()
    with pytest.raises(ConfigError) as caught:
        await testing.LocalBroker(**files).start()
    assert caught.value.option == "tls_cert"
    assert "cert.pem" in caught.value.problem


async def test_who_speaks_no_tls_is_counted_and_costs_the_others_nothing(authority, files):
    async with testing.broker(**files) as broker, testing.backend(broker, Echo):
        async with testing.connect(broker, ssl=authority.trusting()) as ws:
            for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 20_000):
                reader, writer = await asyncio.open_connection("127.0.0.1", broker.ws_port)
                writer.write(data)
                writer.write_eof()
                with pytest.raises(ConnectionError) if len(data) > 16_000 else pytest.raises(EOFError):
                    while await reader.readexactly(1):
                        pass
                writer.close()
            with pytest.raises(ssl.SSLError):  # this one trusts nobody
                await shown(broker.ws_port, ssl.create_default_context())
            await testing.until(lambda: broker.counters["tls_handshake_failed"] == 4)
            await echoes(ws)


async def test_a_tls_handshake_that_is_not_done_in_time_is_ended(authority, files):
    async with testing.broker(**files) as broker, testing.backend(broker, Echo):
        async with testing.connect(broker, ssl=authority.trusting()) as ws:
            servers_of(broker)[0]._handshake_timeout = 0.2  # now that the good one is in
            silent = open_sockets(broker.ws_port, 20)
            await testing.until(lambda: broker.counters["tls_handshake_failed"] == 20)
            await ended(silent)
            assert not servers_of(broker)[0].handshakes
            await echoes(ws)


async def test_the_time_of_the_tls_handshake_counts_for_the_request(authority, files):
    async with testing.broker(handshake_timeout=60, **files) as broker:
        _, writer = await asyncio.open_connection("127.0.0.1", broker.ws_port, ssl=authority.trusting())
        await testing.until(lambda: parts_of(broker).admission.handshakes)
        (handshake,) = parts_of(broker).admission.handshakes
        assert handshake._timer.when() == pytest.approx(handshake.began + 60, abs=1)  # uvloop rounds its clock
        handshake._timed_out()
        assert broker.counters["handshake_timeout"] == 1
        writer.close()


async def test_half_open_tls_handshakes_are_bounded_and_the_oldest_give_way(authority, files):
    options = {"max_handshakes": 10, "handshake_timeout": 2.0, **files}
    async with testing.broker(**options) as broker, testing.backend(broker, Echo):
        async with testing.connect(broker, ssl=authority.trusting()) as ws:
            silent = open_sockets(broker.ws_port, 30)
            server = servers_of(broker)[0]
            await testing.until(lambda: broker.counters["tls_handshake_displaced"] >= 20)
            assert server.handshakes <= 10
            await ended(silent[:20])
            async with testing.connect(broker, ssl=authority.trusting()) as another:
                await echoes(another)
            await echoes(ws)
            for sock in silent[20:]:
                sock.close()
        await testing.until(lambda: not server.handshakes)


async def test_a_crowd_of_honest_clients_waits_its_turn(authority, files):
    async with BoundedBroker(Bounds(tls_handshakes=2), **files) as broker, testing.backend(broker, Echo):
        crowd = await asyncio.gather(*(testing.connect(broker, ssl=authority.trusting()) for _ in range(30)))
        assert broker.client_count == 30
        assert not broker.counters["tls_handshake_displaced"]
        await asyncio.gather(*(ws.close() for ws in crowd))


@pytest.mark.parametrize("can_wait", [True, False])
def test_it_works_on_asyncios_own_loop_too_and_on_one_that_knows_no_readers(authority, files, can_wait):
    async def main():
        loop = asyncio.get_running_loop()
        add_reader = loop.add_reader

        def refuse(sock, callback, *args):
            if getattr(callback, "__name__", "") == "_look":  # the others are its transports'
                raise NotImplementedError
            add_reader(sock, callback, *args)

        if not can_wait:
            loop.add_reader = refuse  # type: ignore[assignment, method-assign]
        async with testing.broker(**files) as broker, testing.backend(broker, Echo):
            silent = open_sockets(broker.ws_port, 3)
            await testing.until(lambda: servers_of(broker)[0].handshakes == 3)
            async with testing.connect(broker, ssl=authority.trusting()) as ws:
                await echoes(ws)
            for sock in silent:
                sock.close()
            await testing.until(lambda: broker.counters["tls_handshake_failed"] == 3)
            assert not servers_of(broker)[0].handshakes

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


# One address against all others.


HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01"


class Attack:
    """Opens connections from one address and says next to nothing, as fast as it can."""

    def __init__(self, port, say=b"", address="127.0.0.2"):
        self._port, self._say, self._address = port, say, address
        self.held = []

    async def __aenter__(self):
        self._is_over = False
        self._task = asyncio.create_task(self._open())
        return self

    async def __aexit__(self, *_):
        self._is_over = True
        await self._task
        for sock in self.held:
            sock.close()

    async def _open(self):
        while not self._is_over:
            for _ in range(10):
                sock = socket.socket()
                self.held.append(sock)
                sock.setblocking(False)
                sock.bind((self._address, 0))
                sock.connect_ex(("127.0.0.1", self._port))
                with contextlib.suppress(OSError):
                    sock.send(self._say)
            if len(self.held) > 300:
                for sock in self.held[:10]:
                    sock.close()
                del self.held[:10]
            await asyncio.sleep(0.002)

    async def has_opened(self, count):
        await testing.until(lambda: len(self.held) >= count)


@pytest.mark.parametrize("say", [b"", HALF_A_HELLO], ids=["silent", "half a hello"])
@pytest.mark.parametrize("limit", [0, 20])
async def test_one_address_keeps_nobody_else_out(authority, files, say, limit):
    options = {"max_connections_per_address": limit, "handshake_timeout": 3600, **files}
    async with (
        BoundedBroker(Bounds(tls_handshakes=40), **options) as broker,
        testing.backend(broker, Echo),
        Attack(broker.ws_port, say) as attack,
    ):
        await attack.has_opened(200)
        for _ in range(5):
            async with asyncio.timeout(10):
                async with testing.connect(broker, ssl=authority.trusting()) as ws:
                    await echoes(ws)
        assert servers_of(broker)[0].handshakes <= 40
        if limit:
            assert parts_of(broker).admission.policy.limits.addresses.get("127.0.0.2", 0) <= limit
    assert not servers_of(broker)[0].handshakes
    if limit:
        assert not parts_of(broker).admission.policy.limits.addresses


async def test_a_connection_counts_for_its_address_before_its_tls_handshake(authority, files):
    async with testing.broker(max_connections_per_address=3, **files) as broker, testing.backend(broker, Echo):
        addresses = parts_of(broker).admission.policy.limits.addresses
        half = open_sockets(broker.ws_port, 3)
        for sock in half:
            sock.send(HALF_A_HELLO)
        await testing.until(lambda: addresses.get("127.0.0.1") == 3)
        with pytest.raises(testing.Rejected) as refused:
            await testing.connect(broker, ssl=authority.trusting())
        assert refused.value.status == 429
        for sock in half:
            sock.close()
        await testing.until(lambda: not addresses)
        async with testing.connect(broker, ssl=authority.trusting()) as ws:
            assert addresses == {"127.0.0.1": 1}
            await echoes(ws)
        await testing.until(lambda: not addresses)


async def test_a_silent_connection_makes_room_for_one_of_its_own_address(authority, files):
    bounds, options = Bounds(silent=0.0), {"max_connections_per_address": 3, **files}
    async with BoundedBroker(bounds, **options) as broker, testing.backend(broker, Echo):
        silent = open_sockets(broker.ws_port, 3)
        await testing.until(lambda: servers_of(broker)[0].handshakes == 3)
        async with testing.connect(broker, ssl=authority.trusting()) as ws:
            await echoes(ws)
            await ended(silent[:1])
            assert parts_of(broker).admission.policy.limits.addresses == {"127.0.0.1": 3}
        for sock in silent:
            sock.close()


async def test_behind_a_trusted_proxy_all_have_the_whole_pool(authority, files):
    bounds = Bounds(tls_handshakes=40)
    options = {"trusted_proxies": ("127.0.0.1",), "max_connections_per_address": 2, **files}
    async with BoundedBroker(bounds, **options) as broker, testing.backend(broker, Echo):
        silent = open_sockets(broker.ws_port, 39)
        await testing.until(lambda: servers_of(broker)[0].handshakes == 39)
        for number in range(5):
            headers = {"X-Forwarded-For": f"203.0.113.{number}"}
            async with testing.connect(broker, ssl=authority.trusting(), headers=headers) as ws:
                await echoes(ws)
        assert servers_of(broker)[0].handshakes == 39, "none of the proxy's own had to go"
        for sock in silent:
            sock.close()


async def test_a_broker_stops_though_tls_handshakes_are_half_open(files):
    async with testing.broker(**files) as broker:
        port = broker.ws_port
        silent = open_sockets(port, 5)
        await testing.until(lambda: servers_of(broker)[0].handshakes == 5)
        await broker.stop()
        await ended(silent)
        with pytest.raises(ConnectionError):
            open_sockets(port, 1)
