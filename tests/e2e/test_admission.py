"""Who gets in, over real sockets: the verdict comes before the 101."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from pystrands import AsyncPyStrandsClient, PyStrands, PyStrandsClient, testing
from tests.inside import parts_of

from .raw_backend import RawBackend
from .support import connect


async def rejection(broker, path="/room"):
    with pytest.raises(testing.Rejected) as caught:
        await testing.connect(broker, path)
    return caught.value


class Doorman(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        if request.headers.get("X-Token", [""])[0] != "secret" and request.query.get("token") != ["secret"]:
            return False
        request.context.room_id = request.url.strip("/")
        request.context.client_id = "user-7"
        request.context.metadata = {"deep": {"list": [1, 2.5, None, "é"]}, "accepted": True}
        return True

    async def on_message(self, message, context):
        await self.send_room_message(context.room_id, json.dumps(context.to_json()))


async def test_what_the_callback_chose_is_what_counts():
    async with testing.broker() as broker, testing.backend(broker, Doorman):
        assert (await rejection(broker)).status == 403
        for path, headers in (("/ws/room", {"X-Token": "secret"}), ("/ws/room?token=secret", {})):
            async with testing.connect(broker, path, headers=headers) as ws:
                await ws.send("who am I")
                await ws.expect_json({
                    "client_id": "user-7", "room_id": "ws/room",
                    "metadata": {"deep": {"list": [1, 2.5, None, "é"]}, "accepted": True},
                })  # fmt: skip


async def test_the_callback_decides_by_result_by_flag_or_by_raising():
    class Deciding(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            if request.url == "/flag":
                request.accepted = False
            if request.url == "/raise":
                raise RuntimeError("no")

    async with testing.broker() as broker, testing.backend(broker, Deciding):
        assert (await rejection(broker, "/flag")).status == 403
        assert (await rejection(broker, "/raise")).status == 403
        async with connect(broker, "/"):
            pass


async def test_without_a_backend_a_client_waits_and_then_hears_503():
    async with testing.broker(hold_time=0.05) as broker:
        response = await rejection(broker)
        assert response.status == 503
        assert int(response.headers["Retry-After"][0]) > 0


async def test_a_held_client_gets_in_when_a_backend_comes():
    async with testing.broker(hold_time=30.0) as broker:
        opening = asyncio.ensure_future(asyncio.wait_for(connect(broker), 20))
        await testing.until(lambda: len(parts_of(broker).router.connection_requests))
        async with testing.backend(broker):
            await (await opening).close()


async def test_a_backend_that_never_answers_costs_504_and_not_for_ever():
    stuck = asyncio.Event()

    class Stuck(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            await stuck.wait()

    async with testing.broker(answer_timeout=0.05) as broker, testing.backend(broker, Stuck):
        assert (await rejection(broker)).status == 504
        stuck.set()


def decide(request):
    """What the callback of every kind of client does in these tests."""
    if request.url == "/login":
        return request.reject(401, "log in \N{SNOWMAN}")
    if request.url == "/busy":
        request.reject(status=503)
        return None
    expires_at = request.query.get("expires_at")
    headers = {"Set-Cookie": "seen=1", "X-Node": "7"}
    return request.accept("chat", headers, float(expires_at[0]) if expires_at else None)


class Deciding(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        return decide(request)

    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)


class DecidingThreads(PyStrandsClient):
    def on_connection_request(self, request):
        return decide(request)


@asynccontextmanager
async def decorated(broker):
    app = PyStrands(port=broker.tcp_port)
    app.on_connection_request(decide)
    running = asyncio.ensure_future(app.run_async())
    await testing.until(lambda: broker.backend_count)
    yield
    await app.disconnect()
    await running


KINDS = {
    "async": lambda broker: testing.backend(broker, Deciding),
    "threads": lambda broker: testing.backend(broker, DecidingThreads),
    "decorators": decorated,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_reject_and_accept_say_more_than_yes_and_no(kind):
    async with testing.broker() as broker, KINDS[kind](broker):
        rejected = await rejection(broker, "/login")
        assert (rejected.status, rejected.body) == (401, "log in \N{SNOWMAN}\n".encode())
        rejected = await rejection(broker, "/busy")
        assert (rejected.status, rejected.body) == (503, b"the connection was rejected\n")
        async with testing.connect(broker, subprotocols=["chat"]) as client:
            assert client.subprotocol == "chat"
            assert client.headers["Set-Cookie"] == ["seen=1"]
            assert client.headers["X-Node"] == ["7"]
        assert broker.counters["refused_by_backend"] == 2


async def test_who_comes_too_late_is_not_heard_though_it_sends_its_messages_with_its_request():
    heard = []

    class Listening(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            return request.accept(expires_at=time.time() - (3600 if request.url == "/late" else -3600))

        async def on_new_connection(self, context):
            heard.append("in")
            await self.send_private_message(context.client_id, "a secret")

        async def on_message(self, message, context):
            heard.append(message)

        async def on_disconnect(self, context):
            heard.append(context.close_code)

    request = (
        "GET /%s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    messages = b"".join(b"\x81\x83\0\0\0\0%03d" % number for number in range(1000))
    async with testing.broker() as broker, testing.backend(broker, Listening):
        for path in ("late", "in-time"):
            reader, writer = await asyncio.open_connection("127.0.0.1", broker.ws_port)
            writer.write((request % path).encode() + messages + b"\x88\x82\0\0\0\0\x03\xe8")
            async with asyncio.timeout(20):
                answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 101 ")
            if path == "late":
                assert answer.endswith(b"\r\n\r\n\x88\x0f\x11\x31token expired"), "nothing is told to it, either"
                await testing.until(lambda: len(heard) == 2)
        await testing.until(lambda: len(heard) == 1004)
    assert heard == ["in", 4401, "in", *(f"{number:03}" for number in range(1000)), 1000]


async def test_a_client_is_closed_with_4401_when_its_time_is_over_and_others_are_not():
    gone = []

    class Watching(Deciding):
        async def on_disconnect(self, context):
            gone.append((context.close_code, context.reason))

    async with testing.broker() as broker, testing.backend(broker, Watching):
        now = time.time()
        without, later = await testing.connect(broker), await testing.connect(broker, f"/?expires_at={now + 3600}")
        soon = await testing.connect(broker, f"/?expires_at={now + 0.3}")
        await soon.send("still in")
        await soon.expect("still in")
        closed = await soon.expect_close(4401)
        assert time.time() >= now + 0.3
        assert closed.reason == "token expired"
        async with testing.connect(broker, f"/?expires_at={now - 1e9}") as over:
            await over.expect_close(4401)
        await testing.until(lambda: len(gone) == 2)
        assert gone == [(4401, "token expired")] * 2
        for client in (without, later):
            await client.send("still in")
            await client.expect("still in")
        assert broker.counters["expired_closed"] == 2
        assert len(parts_of(broker).router._expiries) == 1
        await later.close()
        await testing.until(lambda: not len(parts_of(broker).router._expiries))
        await without.close()


async def test_what_a_backend_of_another_make_says_is_checked(caplog):
    async with testing.broker() as broker, RawBackend(broker) as raw:

        async def answered(**params):
            connecting = asyncio.ensure_future(connected(broker))
            asked = await raw.hear("connection_request")
            raw.say("response", params, request_id=asked["request_id"])
            try:
                return await connecting
            except testing.Rejected as rejected:
                return rejected

        for status, expected in ((401, 401), (599, 599), (200, 403), (101, 403), (302, 403), (-7, 403), (10**12, 403)):
            rejected = await answered(accepted=False, status=status, reason="x" * 10_000)
            assert rejected.status == expected
            assert rejected.body == b"x" * 4096 + b"\n"
        assert "rejected a client with status 200, which refuses nobody: it got 403" in caplog.text
        headers = {"X": "1", "X\r\nEvil": "1", "Connection": "close", "Y": "1\r\nEvil: 1", "Z": "\N{EURO SIGN}"}
        client = await answered(accepted=True, headers=headers, expires_at=1e300)
        await raw.hear("new_connection")
        assert set(client.headers) == {"X", "Upgrade", "Connection", "Sec-Websocket-Accept"}
        assert client.headers["Connection"] == ["Upgrade"]
        assert "'X\\r\\nEvil' was left out" in caplog.text
        over = await answered(accepted=True, expires_at=-1e300)
        await over.expect_close(4401)
        assert client.closed is None
        await client.close()


async def connected(broker):
    return await testing.connect(broker)


async def get(broker, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.ws_port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return int(answer.split()[1])


async def test_the_backend_chooses_the_subprotocol():
    class Choosing(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            request.subprotocol = request.query.get("choose", [None])[0]

    async with testing.broker() as broker, testing.backend(broker, Choosing):
        for path, chosen in (("/?choose=b", "b"), ("/", None), ("/?choose=not-offered", None)):
            async with testing.connect(broker, path, subprotocols=["a", "b"]) as client:
                assert client.subprotocol == chosen


async def test_a_subprotocol_that_was_not_offered_is_told_once(caplog):
    class Choosing(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            return request.accept(subprotocol="chat.v1")

    async with testing.broker() as broker, testing.backend(broker, Choosing):
        async with testing.connect(broker, subprotocols=["chat.v1"]) as client:
            assert client.subprotocol == "chat.v1"
        assert "did not offer" not in caplog.text
        for offered in (["chat"], [], ["chat"]):
            async with testing.connect(broker, subprotocols=offered) as client:
                assert client.subprotocol is None
    (told,) = [record for record in caplog.records if "did not offer" in record.getMessage()]
    assert told.levelname == "WARNING" and "'chat.v1'" in told.getMessage()


class Guarded(AsyncPyStrandsClient):
    """Its doorkeeper is to ask this; what it gets wrong is each subclass's."""

    errors: ClassVar[list[str]] = []

    async def allowed(self, request):
        return request.query.get("token") == ["secret"]

    async def on_error(self, error, context):
        self.errors.append(error)


class ForgottenAwait(Guarded):
    async def on_connection_request(self, request):
        return self.allowed(request)


class ForgottenAwaitOfAccepted(Guarded):
    async def on_connection_request(self, request):
        request.accepted = self.allowed(request)


class Yielding(Guarded):
    async def on_connection_request(self, request):
        if not await self.allowed(request):
            return
        yield True


class Verdict(Guarded):
    async def on_connection_request(self, request):
        return "welcome" if await self.allowed(request) else "go away"


class Zero(Guarded):
    async def on_connection_request(self, request):
        return int(await self.allowed(request))


class Empty(Guarded):
    async def on_connection_request(self, request):
        token = request.query.get("token", [""])[0]
        return token and token == "secret"


@pytest.mark.parametrize("kind", [ForgottenAwait, ForgottenAwaitOfAccepted, Yielding, Verdict, Zero, Empty])
async def test_a_doorkeeper_that_decides_nothing_lets_nobody_in(kind):
    Guarded.errors.clear()
    async with testing.broker() as broker, testing.backend(broker, kind):
        assert (await rejection(broker)).status == 403
    if kind in (Zero, Empty):
        assert Guarded.errors == []
    else:
        (error,) = Guarded.errors
        assert error.startswith("on_connection_request failed: TypeError: on_connection_request ")


class ThreadedForgottenAwait(PyStrandsClient):
    def on_connection_request(self, request):
        return bool, request  # anything that is no decision


async def test_the_other_clients_doorkeepers_too():
    app = PyStrands()

    @app.on_connection_request
    async def ask(request):
        return Guarded().allowed(request)

    async with testing.broker() as broker:
        for kind in (ThreadedForgottenAwait, app):
            async with testing.backend(broker, kind):
                assert (await rejection(broker)).status == 403


async def test_a_doorkeeper_that_falls_off_its_end_is_warned_of_once(caplog):
    class Falling(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            if request.query:
                request.reject(401)

    def told():
        return [each for each in caplog.records if "returned None and touched nothing" in each.getMessage()]

    async with testing.broker() as broker, testing.backend(broker, Falling):
        assert (await rejection(broker, path="/?a=b")).status == 401
        assert not told()
        for _ in range(2):
            async with testing.connect(broker):
                pass
        assert [each.levelname for each in told()] == ["WARNING"]


@pytest.mark.parametrize("kind", [AsyncPyStrandsClient, PyStrandsClient, PyStrands])
async def test_no_doorkeeper_at_all_is_not_warned_of(kind, caplog):
    async with testing.broker() as broker, testing.backend(broker, kind), testing.connect(broker):
        pass
    assert "returned None" not in caplog.text


async def test_a_subprotocol_that_is_no_text_rejects():
    class Choosing(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            request.subprotocol = 7

    async with testing.broker() as broker, testing.backend(broker, Choosing):
        assert (await rejection(broker)).status == 403


async def test_health_and_readiness():
    async with testing.broker() as broker:
        assert await get(broker, "/healthz") == 200
        assert await get(broker, "/readyz") == 503
        async with testing.backend(broker):
            assert await get(broker, "/readyz") == 200
        assert await get(broker, "/else") == 426


async def test_a_reused_client_id_closes_the_older_socket_and_the_newer_one_works():
    class Named(AsyncPyStrandsClient):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.life: list[str] = []

        async def on_connection_request(self, request):
            request.context.client_id = "same"

        async def on_new_connection(self, context):
            self.life.append("new")

        async def on_disconnect(self, context):
            self.life.append("gone")

        async def on_message(self, message, context):
            await self.send_private_message("same", message)

    async with testing.broker() as broker, testing.backend(broker, Named) as named:
        older = await testing.connect(broker)
        newer = await testing.connect(broker)
        await older.expect_close(1008)
        await newer.send("to the newer one")
        await newer.expect("to the newer one")
        assert named.life == ["new", "gone", "new"]
        await newer.close()
