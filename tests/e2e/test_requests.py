"""Requests of clients, which handlers answer by what they return, and of handlers, which clients answer."""

import asyncio
import contextlib
import json

import pytest

from pystrands import (
    AsyncPyStrandsClient,
    ClientGone,
    MessageError,
    MessageTooBig,
    NotSupported,
    PyStrands,
    PyStrandsClient,
    RequestFailed,
    testing,
)

from .raw_backend import RawBackend
from .session_client import SessionClient


class Backend(AsyncPyStrandsClient):
    """Answers as the message wants it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.requests = []
        self.errors = []
        self.gate = asyncio.Event()

    async def on_request(self, message, context):
        self.requests.append((message, context.room_id, context.message_id, context.redelivered))
        if message == "wait":
            await self.gate.wait()
            self.gate.clear()
        if message == "fail":
            raise ValueError("secret")
        if message == "refuse":
            raise RequestFailed("not_found", "there is none")
        if message == "nothing":
            return None
        if message == "object":
            return {"a": [1]}
        if message == "unsendable":
            return object()
        if message == "send first":
            await self.send_private_message(context.client_id, "before")
        return message

    async def on_message(self, message, context):
        self.requests.append(message)

    async def on_error(self, error, context):
        self.errors.append(error)


async def test_promise_34_a_request_has_the_value_of_its_handler_as_reply():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            assert await client.request("text") == "text"
            assert await client.request(b"\x00\xff") == b"\x00\xff"
            assert await client.request("nothing") == ""
            assert json.loads(await client.request("object")) == {"a": [1]}
            assert await client.request("in a room", room="/room") == "in a room"
            assert await client.request("send first") == "send first"
            assert client.messages == ["before"]
            assert await client.done(client.send("message")) == ""
            assert backend.requests[-1] == "message"
            assert backend.errors == []


async def test_promise_34_what_a_handler_raises_is_a_failure_and_only_what_it_wants_is_told():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            with pytest.raises(RequestFailed) as refused:
                await client.request("refuse")
            assert (refused.value.code, refused.value.text) == ("not_found", "there is none")
            assert backend.errors == []
            for message in ("fail", "unsendable"):
                with pytest.raises(RequestFailed) as failed:
                    await client.request(message)
                assert (failed.value.code, failed.value.text) == ("failed", "the handler has failed")
            assert backend.errors[0] == "on_request failed: ValueError: secret"
            assert "TypeError" in backend.errors[1]
            assert await client.request("still here") == "still here"


async def test_promise_34_a_reply_is_no_longer_than_a_message():
    async with testing.broker(max_message_size=1000) as broker, testing.backend(broker) as backend:

        async def on_request(message, context):
            return "x" * int(message)

        vars(backend)["on_request"] = on_request
        async with SessionClient(broker) as client:
            assert len(await client.request("1000")) == 1000
            with pytest.raises(RequestFailed, match=r"^failed"):
                await client.request("1001")


async def test_promise_34_without_a_handler_of_its_own_a_request_is_a_message_with_an_empty_reply():
    heard = []

    class Plain(PyStrandsClient):
        def on_message(self, message, context):
            heard.append(message)
            return "no reply"

    class Async(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            heard.append(message)
            return "no reply"

    app = PyStrands()

    @app.on_message
    def on_message(message, context):
        heard.append(message)
        return "no reply"

    async with testing.broker() as broker:
        async with testing.backend(broker, Async), SessionClient(broker) as client:
            assert await client.request("async") == ""
        async with on_threads(Plain, broker), SessionClient(broker) as client:
            assert await client.request("threads") == ""
        async with running(app, broker), SessionClient(broker) as client:
            assert await client.request("app") == ""
    assert heard == ["async", "threads", "app"]


async def test_promise_34_a_reply_waits_for_who_is_away():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            asking = asyncio.create_task(client.request("wait"))
            await testing.until(lambda: backend.requests)
            await away(client, broker)
            backend.gate.set()
            client.release()
            assert await asking == "wait"
            assert len(backend.requests) == 1


async def away(client, broker):
    """Have a client lose its connection, and be away."""
    await client.connection.ping()
    before = broker.counters["clients_suspended"]
    client.hold()
    client.cut()
    await testing.until(lambda: broker.counters["clients_suspended"] > before)


@contextlib.asynccontextmanager
async def on_threads(kind, broker):
    backend = kind(port=broker.tcp_port)
    assert await asyncio.to_thread(backend.connect)
    try:
        yield backend
    finally:
        await asyncio.to_thread(backend.disconnect)


@contextlib.asynccontextmanager
async def running(app, broker):
    app.port = broker.tcp_port
    task = asyncio.create_task(app.run_async())
    try:
        yield app
    finally:
        await app.disconnect()
        await task


async def entered(broker, raw, client_id="ada", done=True):
    """Let a client in, by a backend that does what the test says."""
    client = SessionClient(broker)
    entering = asyncio.create_task(client.__aenter__())
    raw.accept(await raw.hear("connection_request"), client_id)
    event = await raw.hear("new_connection")
    if done:
        raw.done(event)
    return await entering


async def test_promise_34_a_backend_that_knows_no_requests_is_not_asked():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        client = await entered(broker, raw)
        with pytest.raises(RequestFailed, match=r"^not_supported: the backend answers no requests"):
            await client.request("x")
        client.send("message")
        await raw.hear_message("message")
        await client.__aexit__()


async def test_promise_34_a_request_that_is_done_without_a_reply_has_failed():
    async with testing.broker() as broker, RawBackend(broker, begin=False) as raw:
        await raw.begin(requests=True)
        client = await entered(broker, raw)
        asking = asyncio.create_task(client.request("x"))
        event = await raw.hear_message("x")
        assert event["params"]["reply"] is True
        raw.say("reply", {"to": event["seq"] + 1, "message": "to nobody"})
        raw.done(event)
        with pytest.raises(RequestFailed, match=r"^no_reply"):
            await asking
        await client.__aexit__()


async def test_promise_34_the_first_reply_counts_where_a_backend_dies_after_it():
    async with testing.broker(resume_window=0.1) as broker, RawBackend(broker, begin=False) as raw:
        await raw.begin(requests=True)
        client = await entered(broker, raw)
        asking = asyncio.create_task(client.request("x"))
        event = await raw.hear_message("x")
        raw.say("reply", {"to": event["seq"], "message": "first"})
        raw.say("reply", {"to": event["seq"], "message": "second"})
        assert await asking == "first"
        async with testing.backend(broker, Backend) as backend:
            raw.cut()
            await testing.until(lambda: backend.requests)
            assert backend.requests == [("x", "/room", client.core.session.partition("~")[0] + "-1", True)]
            assert await client.request("y") == "y"
            replies = [frame for frame in client.frames if '"re":' in str(frame)]
            assert [frame.partition("\n")[2] for frame in replies] == ["first", "y"]
        await client.__aexit__()


async def test_promise_34_a_request_whose_reply_was_lost_says_so():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            asking = asyncio.create_task(client.request("wait"))
            await testing.until(lambda: backend.requests)
            await away(client, broker)
            backend.gate.set()
            name = client.name
            await testing.until(lambda: not backend.gate.is_set())
            for _ in range(4):
                await backend.send_private_message(name, "x" * 100_000)
            client.release()
            with pytest.raises(RequestFailed, match=r"^unknown"):
                await asking


async def test_promise_34_handlers_on_threads_and_of_apps_reply():
    class Threaded(PyStrandsClient):
        def on_request(self, message, context):
            return {"asked": message, "said": self.request(context.client_id, "and you?")}

    app = PyStrands()

    @app.on_request
    def on_request(message, context):
        return {"asked": message, "said": app.request(context.client_id, "and you?")}

    async with testing.broker() as broker:
        for backend in (on_threads(Threaded, broker), running(app, broker)):
            async with backend, SessionClient(broker) as client:
                client.on_request = lambda body: str(body) + " fine"
                assert json.loads(await client.request("x")) == {"asked": "x", "said": "and you? fine"}


# --- handlers ask ---


async def test_promise_35_a_client_is_asked_and_answers():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            client.on_request = lambda body: body
            assert await backend.request(client.name, "text") == "text"
            assert await backend.request(client.name, b"\x00\xff") == b"\x00\xff"
            assert await backend.request(client.name, "") == ""
            assert await client.done(client.send("and it goes on")) == ""


async def test_promise_35_what_a_client_says_instead_of_an_answer_is_raised():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            asking = asyncio.create_task(backend.request(client.name, "x"))
            await testing.until(lambda: client.asked)
            client.do(client.core.answer(client.asked[0].number, None, "busy", "later"))
            with pytest.raises(RequestFailed) as failed:
                await asking
            assert (failed.value.code, failed.value.text) == ("busy", "later")


async def test_promise_35_who_answers_too_late_or_goes_is_told_of():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            name = client.name
            with pytest.raises(TimeoutError, match="the client has not answered"):
                await backend.request(name, "x", timeout=0.05)
            await testing.until(lambda: client.asked)
            client.do(client.core.answer(client.asked[0].number, "late"))
            asking = asyncio.create_task(backend.request(name, "y"))
            await testing.until(lambda: len(client.asked) == 2)
        with pytest.raises(ClientGone, match="gone before it answered"):
            await asking
        with pytest.raises(ClientGone, match="no client has the client_id"):
            await backend.request(name, "z")


async def test_promise_35_plain_websockets_are_not_asked():
    ids = []

    class Names(Backend):
        async def on_new_connection(self, context):
            ids.append(context.client_id)

    async with testing.broker() as broker, testing.backend(broker, Names) as backend:
        async with testing.connect(broker, "/room") as plain:
            await testing.until(lambda: ids)
            with pytest.raises(NotSupported, match="plain WebSocket"):
                await backend.request(ids[0], "x")
            await backend.send_private_message(ids[0], "only this")
            await plain.expect("only this")


async def test_promise_35_who_is_away_is_asked_once_and_answers_when_back():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            client.on_request = lambda body: body
            await away(client, broker)
            asking = asyncio.create_task(backend.request(client.name, "x"))
            client.release()
            assert await asking == "x"
            # The answer is on its way when the connection is lost: it is sent again, and counts once.
            client.on_request = None
            asking = asyncio.create_task(backend.request(client.name, "y"))
            await testing.until(lambda: len(client.asked) == 2)
            client.hold()
            client.cut()
            client.do(client.core.answer(client.asked[1].number, "y"))
            client.release()
            assert await asking == "y"
            assert len(client.asked) == 2


async def test_promise_35_an_answer_to_a_session_that_is_lost_is_nobodys():
    async with testing.broker(client_resume_window=0.05) as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            asking = asyncio.create_task(backend.request(client.name, "x"))
            await testing.until(lambda: client.asked)
            client.hold()
            client.cut()
            with pytest.raises(ClientGone):
                await asking
            client.do(client.core.answer(client.asked[0].number, "x"))
            client.release()
            await testing.until(lambda: client.resumed)
            assert not client.resumed[0].resumed
            assert await client.done(client.send("first of the next")) == ""


async def test_promise_35_few_questions_wait_for_one_client():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker) as client:
            asking = [asyncio.create_task(backend.request(client.name, "x")) for _ in range(101)]
            await testing.until(lambda: len(client.asked) == 100)
            done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            with pytest.raises(RequestFailed, match=r"^too_many"):
                await done.pop()
            for asked in client.asked:
                client.do(client.core.answer(asked.number, "y"))
            assert [await each for each in asking if not each.done() or not each.exception()] == ["y"] * 100


async def test_what_can_be_asked_is_checked():
    async with testing.broker(max_message_size=10) as broker, testing.backend(broker, Backend) as backend:
        for timeout in (0, -1, 3601, float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                await backend.request("ada", "x", timeout=timeout)
        with pytest.raises(TypeError, match="timeout"):
            await backend.request("ada", "x", timeout=None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="client_id"):
            await backend.request(7, "x")  # type: ignore[arg-type]
        with pytest.raises(MessageTooBig):
            await backend.request("ada", "x" * 11)
        with pytest.raises(MessageError, match="UTF-8"):
            await backend.request("ada", "\ud800")
