"""Who may come in as far as the broker itself decides: origins, proxies and limits, and good clients beside them."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from pystrands import AsyncPyStrandsClient, testing
from tests.inside import parts_of

from .test_bad_input import a_good_pair, frame

REQUEST = (
    "GET /room HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{}\r\n"
)


class Peer:
    """A raw connection from an address of this machine's own choice."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def ask(self, headers=""):
        """Ask for a WebSocket, and return the status."""
        self.writer.write(REQUEST.format(headers).encode())
        return await self.status()

    async def status(self):
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        self.head = head.decode()
        return int(head.split()[1])

    async def is_over(self):
        """Wait for the end of the stream."""
        return await asyncio.wait_for(self.reader.read(), 20)

    def close(self):
        self.writer.close()

    def abort(self):
        self.writer.transport.abort()


async def peer(broker, address="127.0.0.1"):
    return Peer(*await asyncio.open_connection("127.0.0.1", broker.ws_port, local_addr=(address, 0)))


async def status_of(broker, headers="", address="127.0.0.1"):
    one = await peer(broker, address)
    try:
        return await one.ask(headers)
    finally:
        one.close()


def logged(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "pystrands.broker.admission.policy"]


# Origins.


async def test_pages_of_other_hosts_are_refused_and_the_log_says_what_to_do(caplog):
    async with a_good_pair() as broker:
        own = f"http://127.0.0.1:{broker.ws_port}"
        for origin in (own, "http://localhost:3000", "http://[::1]", None):
            headers = {} if origin is None else {"Origin": origin}
            async with testing.connect(broker, headers=headers):
                pass
        for _ in range(5):
            with pytest.raises(testing.Rejected) as refused:
                await testing.connect(broker, headers={"Origin": "https://evil.example"})
            assert refused.value.status == 403
        assert broker.counters["origin_refused"] == 5
        assert [message.rpartition("; ")[2] for message in logged(caplog)] == ["1 so far", "2 so far", "4 so far"]
        assert "'https://evil.example'" in logged(caplog)[0]
        assert "--allowed-origins" in logged(caplog)[0]


async def test_a_page_whose_name_leads_to_loopback_is_refused_and_the_log_says_what_a_proxy_needs(caplog):
    rebound = {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}
    async with testing.broker() as broker, testing.backend(broker):
        with pytest.raises(testing.Rejected) as refused:
            await testing.connect(broker, headers=rebound)
        assert refused.value.status == 403
        (message,) = logged(caplog)
        assert "'evil.example:8080'" in message
        assert "--trusted-proxies" in message and "--allowed-origins" in message
        async with testing.connect(broker, headers={"Host": "evil.example:8080"}):
            pass  # no browser
    for options in ({"trusted_proxies": ("127.0.0.1",)}, {"allowed_origins": ("http://evil.example:8080",)}):
        async with testing.broker(**options) as broker, testing.backend(broker):
            async with testing.connect(broker, headers=rebound):
                pass
            with pytest.raises(testing.Rejected):
                await testing.connect(broker, headers=rebound | {"Origin": "http://other.example"})
    async with testing.broker(trusted_proxies=("10.0.0.0/8",)) as broker:
        with pytest.raises(testing.Rejected) as refused:
            await testing.connect(broker, headers=rebound)
        assert refused.value.status == 403, "it comes from no proxy"


async def test_what_a_page_calls_itself_cannot_fill_or_forge_the_log(caplog):
    async with testing.broker() as broker:
        assert await status_of(broker, "Origin: " + "\xe9" * 3000 + "\r\n") == 403
        (message,) = logged(caplog)
        assert message.isascii()
        assert len(message) < 400


async def test_localhost_is_nothing_special_to_a_broker_that_others_reach():
    async with testing.broker(ws_host="0.0.0.0") as broker, testing.backend(broker):
        assert await status_of(broker, "Origin: http://localhost:3000\r\n") == 403
        assert await status_of(broker, "Origin: http://localhost\r\n") == 101, "it is the request's own host"


async def test_a_list_of_origins_is_what_counts():
    origins = ("https://app.example.com", "https://*.example.net")
    async with testing.broker(allowed_origins=origins) as broker, testing.backend(broker):
        for origin in ("https://app.example.com", "https://a.example.net"):
            assert await status_of(broker, f"Origin: {origin}\r\n") == 101
        for origin in ("http://localhost", "https://example.net", "null"):
            assert await status_of(broker, f"Origin: {origin}\r\n") == 403
        assert await status_of(broker) == 101
    async with testing.broker(allowed_origins=("*",)) as broker, testing.backend(broker):
        assert await status_of(broker, "Origin: null\r\n") == 101


# All connections.


async def test_more_clients_than_may_be_get_503_until_one_leaves(caplog):
    async with a_good_pair(max_connections=3) as broker:
        two = [await testing.connect(broker) for _ in range(2)]
        for _ in range(2):
            with pytest.raises(testing.Rejected) as refused:
                await testing.connect(broker)
            assert refused.value.status == 503
            assert int(refused.value.headers["Retry-After"][0]) > 0
        assert broker.counters["limit_clients"] == 2
        assert "--max-connections)" in logged(caplog)[0]
        health = await peer(broker)
        health.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await health.status() == 200, "a full broker is not a sick one"
        health.close()
        await two[0].close()
        await until_one_may_come(broker)
        await two[1].close()


async def until_one_may_come(broker):
    async with asyncio.timeout(10):
        while (status := await status_of(broker)) != 101:
            assert status in (429, 503)


# Of one address.


async def test_one_address_has_its_limit_and_others_are_not_touched(caplog):
    async with a_good_pair(max_connections_per_address=3) as broker:
        half_open = await peer(broker)
        client = await peer(broker)
        assert await client.ask() == 101
        for ask in (True, False):  # it is turned away whether or not it sends a request
            third = await peer(broker)
            assert await (third.ask() if ask else third.status()) == 429
            assert "Retry-After: " in third.head
            third.close()
        assert broker.counters["limit_address"] == 2
        assert "from 127.0.0.1 " in logged(caplog)[0]
        assert "--max-connections-per-address" in logged(caplog)[0]
        assert await status_of(broker, address="127.0.0.2") == 101
        half_open.close()
        client.close()
        await until_one_may_come(broker)
        await testing.until(lambda: len(parts_of(broker).admission.policy.limits.addresses) == 1, 10)
    assert not parts_of(broker).admission.policy.limits.addresses


ENDINGS = {
    "closed in order": lambda one: one.writer.write(frame(8, b"\x03\xe8")),
    "end of stream": lambda one: one.writer.write_eof(),
    "reset": lambda one: one.abort(),
    "broken frame": lambda one: one.writer.write(frame(3, b"", rsv=7)),
    "too big": lambda one: one.writer.write(frame(1, b"", announced=1 << 40)),
    "by the backend": lambda one: one.writer.write(frame(1, b"close me")),
    "before the 101": None,
    "rejected": None,
    "half a request": None,
    "another page": None,
    "broker stops": None,
}


class Closer(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        return "X-Reject" not in request.headers

    async def on_message(self, message, context):
        await self.disconnect_client(context.client_id, 4000)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_whatever_ends_a_connection_gives_its_place_back(ending):
    limits = {"max_connections": 9, "max_connections_per_address": 9, "close_timeout": 0.05}
    async with testing.broker(**limits) as broker, testing.backend(broker, Closer):
        places = parts_of(broker).admission.policy.limits
        one = await peer(broker)
        if ending == "before the 101":
            one.writer.write(REQUEST.format("").encode())
            await one.writer.drain()
        elif ending == "rejected":
            assert await one.ask("X-Reject: 1\r\n") == 403
        elif ending == "half a request":
            one.writer.write(b"GET /")
        elif ending == "another page":
            one.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await one.status()
        else:
            assert await one.ask() == 101
            assert places.clients == 1
            assert list(places.addresses.values()) == [1]
        if end := ENDINGS[ending]:
            end(one)
        elif ending == "broker stops":
            await broker.stop()
        else:
            one.close()
        await testing.until(
            lambda: not len(parts_of(broker).admission) and not places.clients and not places.addresses, 10
        )
        one.close()


# Without a verdict.


async def test_half_open_connections_have_a_limit_and_cost_no_client_its_own(caplog):
    async with a_good_pair(max_handshakes=3, handshake_timeout=60) as broker:
        half_open = [await peer(broker) for _ in range(3)]
        for one in half_open:
            one.writer.write(b"GET / HT")
        await testing.until(lambda: len(parts_of(broker).admission.handshakes) == 3)
        turned_away = await peer(broker)
        assert await turned_away.status() == 503, "at once, though it has sent nothing"
        assert "Retry-After: " in turned_away.head
        await turned_away.is_over()
        turned_away.close()
        assert broker.counters["limit_handshakes"] == 1
        assert "--max-handshakes" in logged(caplog)[0]
        half_open.pop().close()
        await until_one_may_come(broker)
        for one in half_open:
            one.close()


async def test_those_that_wait_for_a_verdict_count_too():
    answers = asyncio.Event()

    class Slow(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            await answers.wait()

    async with testing.broker(max_handshakes=2) as broker, testing.backend(broker, Slow):
        waiting = [asyncio.ensure_future(connected(broker)) for _ in range(2)]
        await testing.until(lambda: len(parts_of(broker).router.connection_requests) == 2)
        assert await status_of(broker) == 503
        answers.set()
        for one in waiting:
            await (await one).close()
        await until_one_may_come(broker)


async def connected(broker):
    return await testing.connect(broker)


async def test_those_that_never_take_their_answer_are_bounded_as_well():
    async with a_good_pair(max_handshakes=5, close_timeout=60, handshake_timeout=60) as broker:
        crowd = [await peer(broker) for _ in range(40)]  # none of them ever closes
        await testing.until(lambda: broker.counters["limit_handshakes"] == 35)
        await testing.until(lambda: len(parts_of(broker).admission) <= 10)
        for one in crowd:
            one.abort()
        await testing.until(lambda: not len(parts_of(broker).admission))


async def test_one_address_with_all_the_half_open_connections_keeps_no_other_out():
    async with a_good_pair(max_handshakes=40, handshake_timeout=3600) as broker:
        crowd = [await peer(broker, "127.0.0.2") for _ in range(60)]
        await testing.until(lambda: broker.counters["limit_handshakes"] >= 20)
        for _ in range(5):
            assert await status_of(broker) == 101
        assert broker.counters["handshake_displaced"]
        for one in crowd:
            one.abort()


async def test_without_a_limit_there_is_none():
    async with testing.broker(max_handshakes=0) as broker, testing.backend(broker):
        crowd = [await peer(broker) for _ in range(40)]
        assert await status_of(broker) == 101
        assert not broker.counters["limit_handshakes"]
        for one in crowd:
            one.abort()


# Behind a proxy.


@asynccontextmanager
async def telling(**options):
    """A broker whose backend tells each client where it comes from."""

    class Telling(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            request.context.metadata = {"remote_addr": request.remote_addr}

        async def on_new_connection(self, context):
            await self.send_private_message(context.client_id, context.metadata["remote_addr"])

    async with testing.broker(**options) as broker, testing.backend(broker, Telling):
        yield broker


async def address_told(broker, **headers):
    async with testing.connect(
        broker, headers={name.replace("_", "-"): value for name, value in headers.items()}
    ) as ws:
        return await ws.receive()


async def test_a_trusted_proxys_word_is_the_clients_address():
    async with telling(trusted_proxies=("127.0.0.0/8", "10.0.0.0/8")) as broker:
        assert await address_told(broker, x_forwarded_for="198.51.100.1, 203.0.113.7, 10.0.0.1") == "203.0.113.7:0"
        assert await address_told(broker, forwarded='for="[2001:db8::7]:4711";proto=https') == "[2001:db8::7]:4711"
        assert str(await address_told(broker, x_forwarded_for="nonsense")).startswith("127.0.0.1:")
        assert str(await address_told(broker)).startswith("127.0.0.1:")


async def test_anybody_elses_word_is_not():
    for trusted in ((), ("127.0.0.9",)):
        async with telling(trusted_proxies=trusted) as broker:
            assert str(await address_told(broker, x_forwarded_for="203.0.113.7")).startswith("127.0.0.1:")


async def test_behind_a_proxy_the_limit_is_that_of_the_client():
    options = {"trusted_proxies": ("127.0.0.1",), "max_connections_per_address": 1, "max_handshakes": 100}
    async with a_good_pair(**options) as broker:  # the good client has no header: it is the proxy's own
        idle = [await peer(broker) for _ in range(3)]  # as a proxy keeps them ready
        ada = await peer(broker)
        assert await ada.ask("X-Forwarded-For: 203.0.113.7\r\n") == 101
        for headers in ("X-Forwarded-For: 203.0.113.7\r\n", "Forwarded: for=203.0.113.7\r\n"):
            assert await status_of(broker, headers) == 429
        for address in ("203.0.113.8", "2001:db8:0:1::1", "2001:db8:0:2::1"):
            assert await status_of(broker, f"X-Forwarded-For: {address}\r\n") == 101
        bob = await peer(broker)
        assert await bob.ask("X-Forwarded-For: 2001:db8:0:3::1\r\n") == 101
        assert await status_of(broker, "X-Forwarded-For: 2001:db8:0:3:ffff::2\r\n") == 429, "the same 64 bits"
        for one in (*idle, ada, bob):
            one.close()
