"""Clients that show new tokens before their time is over."""

import asyncio
import time

import pytest

from pystrands import AsyncPyStrandsClient, PyStrands, PyStrandsClient, TokenRequestContext, testing
from pystrands.context import Context

from .raw_backend import RawBackend
from .session_client import SessionClient

LIFE = 1.5
"""Seconds that a first token is good for: a new one is shown after 1.2."""


class Backend(AsyncPyStrandsClient):
    """Lets clients in for a moment."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = []
        self.shown = []
        self.codes = []
        self.life = LIFE

    async def on_connection_request(self, request):
        self.asked.append(request.token)
        if request.resumes:
            request.context.client_id = request.resumes
        return request.accept(expires_at=time.time() + self.life)

    async def on_token(self, request):
        self.shown.append((request.token, request.context.client_id))
        if request.token == "raises":
            raise ValueError("secret")
        if request.token == "wrong":
            return "yes"
        if request.token == "no":
            return request.reject("not yours")
        return request.accept(expires_at=None if request.token == "for good" else time.time() + 3600)

    async def on_disconnect(self, context):
        self.codes.append(context.close_code)


async def shown(broker, ident, token):
    """Connect, and show a token; return the answer, and the client."""
    client = await testing.connect(broker, "/room", subprotocols=["pystrands.v1"])
    await client.receive_json()
    await client.send(f'{{"t":"auth","id":"{ident}"}}\n{token}')
    return client, await client.receive_json()


async def test_promise_31_a_new_token_keeps_the_connection():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker, token="first") as client:
            client.token = "second"
            await testing.until(lambda: backend.shown)
            assert backend.shown == [("second", client.name)]
            socket = client.socket
            await asyncio.sleep(LIFE)
            assert await client.done(client.send("still here")) == ""
            assert client.socket is socket
            assert backend.asked == ["first"]
            # The next connection tells until when it may stay.
            client.cut()
            await testing.until(lambda: client.resumed)
            welcome = next(frame for frame in reversed(client.frames) if '"welcome"' in str(frame))
            assert '"resumed":true' in str(welcome)
            assert f'"expires":{int(time.time() + 3600) // 1000}' in str(welcome)
            assert backend.asked == ["first"]


@pytest.mark.parametrize("token", ["no", "raises", "wrong"])
async def test_promise_31_what_is_refused_changes_nothing(token):
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        client, answer = await shown(broker, "7", token)
        text = "not yours" if token == "no" else "the handler has failed"
        assert answer == {"t": "auth", "id": "7", "err": {"code": "refused", "message": text}}
        await client.expect_close(4401)
        assert backend.asked == [None]


async def test_promise_31_a_refused_client_comes_back_with_a_fresh_token():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with SessionClient(broker, token="no") as client:
            name = client.name
            await testing.until(lambda: len(backend.asked) == 2, 20)
            await testing.until(lambda: backend.codes == [4401])
            assert backend.shown[0] == ("no", name)


async def test_promise_31_a_token_may_be_good_for_ever():
    async with testing.broker() as broker, testing.backend(broker, Backend):
        client, answer = await shown(broker, "a", "for good")
        assert answer == {"t": "auth", "id": "a", "expires": None}
        await asyncio.sleep(LIFE)
        await client.ping()
        await client.close()


async def test_promise_31_one_token_at_a_time_and_no_longer_than_may_be():
    async with testing.broker() as broker, RawBackend(broker, begin=False) as raw:
        await raw.begin(requests=True)
        client = SessionClient(broker)
        entering = asyncio.create_task(client.__aenter__())
        raw.accept(await raw.hear("connection_request"), "ada")
        raw.done(await raw.hear("new_connection"))
        await entering

        async def show(ident, token):
            await client.connection.send(f'{{"t":"auth","id":"{ident}"}}\n{token}')

        def answers():
            return [str(frame) for frame in client.frames if '"auth"' in str(frame)]

        await show("1", "a")
        asked = await raw.hear("token_request")
        assert asked["params"]["token"] == "a"
        await show("2", "b")
        await show("3", "c" * 8193)
        await testing.until(lambda: len(answers()) == 2)
        raw.say("token_response", {"to": asked["seq"] + 1, "accepted": True})
        raw.say("token_response", {"to": asked["seq"], "accepted": True, "expires_at": 1e12})
        raw.say("token_response", {"to": asked["seq"], "accepted": False})
        raw.done(asked)
        await testing.until(lambda: len(answers()) == 3)
        await show("4", "d")
        raw.done(await raw.hear("token_request"))
        await testing.until(lambda: len(answers()) == 4)
        assert [answer.partition('"message"')[0] for answer in sorted(answers())] == [
            '{"t":"auth","id":"1","expires":1000000000000.0}',
            '{"t":"auth","id":"2","err":{"code":"busy",',
            '{"t":"auth","id":"3","err":{"code":"too_big",',
            '{"t":"auth","id":"4","err":{"code":"not_supported",',
        ]
        await client.__aexit__()


async def test_promise_31_backends_that_know_no_new_tokens_are_not_asked():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        entering = asyncio.create_task(shown(broker, "1", "a"))
        raw.accept(await raw.hear("connection_request"), "ada")
        raw.done(await raw.hear("new_connection"))
        client, answer = await entering
        assert answer["err"]["code"] == "not_supported"
        await client.close()
        await raw.hear("disconnected")


async def test_promise_31_without_a_handler_no_new_token_is_taken():
    class Threaded(PyStrandsClient):
        """Overrides nothing."""

    async with testing.broker() as broker:
        async with testing.backend(broker):
            client, answer = await shown(broker, "1", "a")
            assert answer["err"]["code"] == "refused"
            await client.close()
        backend = Threaded(port=broker.tcp_port)
        assert await asyncio.to_thread(backend.connect)
        client, answer = await shown(broker, "1", "a")
        assert answer["err"]["code"] == "refused"
        await client.close()
        await asyncio.to_thread(backend.disconnect)


async def test_promise_31_an_app_takes_tokens():
    app = PyStrands()

    @app.on_token
    def on_token(request):
        request.accepted = True
        request.expires_at = 5e9

    async with testing.broker() as broker:
        app.port = broker.tcp_port
        running = asyncio.create_task(app.run_async())
        client, answer = await shown(broker, "1", "a")
        assert answer == {"t": "auth", "id": "1", "expires": 5e9}
        await client.close()
        await app.disconnect()
        await running


async def test_promise_31_tools_and_logs_see_no_token(caplog):
    caplog.set_level("DEBUG")
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend:
        async with testing.broker():
            client, _ = await shown(broker, "1", "a-very-secret-token")
            await client.close()
        assert backend.shown[0][0] == "a-very-secret-token"
    assert "a-very-secret-token" not in caplog.text


def test_a_request_shows_no_token_and_is_checked():
    request = TokenRequestContext("secret", Context("ada"))
    assert "secret" not in repr(request)
    assert request.accept(expires_at=5) is True
    with pytest.raises(TypeError):
        request.accept(expires_at="tomorrow")  # type: ignore[arg-type]
    assert (request.accepted, request.expires_at) == (True, 5)
    assert request.reject("why") is False
    with pytest.raises(TypeError, match="reason must be a str, not int"):
        request.reject(7)  # type: ignore[arg-type]
    assert (request.accepted, request.reason) == (False, "why")
