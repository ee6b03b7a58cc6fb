"""To whom a client gives its token, and to whom not."""

import asyncio
import ssl

import pytest

from pystrands import AsyncPyStrandsClient, ConfigError, PyStrands, PyStrandsClient, Refused
from pystrands.client.options import options_of
from pystrands.protocol import wire
from tests.client.fake_broker import FakeBroker, line, message, soon
from tests.inside import limited

TOKEN = "a token that is a secret"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.delenv("PYSTRANDS_TOKEN", raising=False)


def backend(broker, **options):
    return AsyncPyStrandsClient(**({"token": TOKEN, "reconnect_delay": 0.01} | broker.where | options))


def said(link):
    assert link.hello is not None
    return link.hello["params"]


async def test_it_is_in_the_answer_to_the_brokers_hello():
    async with FakeBroker(protocol=2) as fake:
        client = backend(fake)
        connecting = asyncio.ensure_future(client.connect())
        link = await fake.link()
        assert said(link)["token"] == TOKEN
        link.cut()
        assert not await soon(connecting)


async def test_one_in_the_environment_serves_where_none_is_given(monkeypatch):
    monkeypatch.setenv("PYSTRANDS_TOKEN", f" {TOKEN}\n")
    for given, expected in ((None, TOKEN), ("given", "given"), ("", None)):
        async with FakeBroker(protocol=2) as fake:
            connecting = asyncio.ensure_future(backend(fake, token=given).connect())
            link = await fake.link()
            assert said(link).get("token") == expected
            link.cut()
            await soon(connecting)


@pytest.mark.parametrize(
    "first", [b"", line("heartbeat"), message("hello"), b"nonsense\n", line("welcome", {"session_id": "s"})]
)
async def test_who_says_no_hello_gets_no_token_and_is_no_broker(first, caplog):
    async with FakeBroker(hello=False) as fake:
        fake.first = first
        client = limited(backend(fake, name="told to nobody"), connect=0.1)
        heard = []
        client.on_message = lambda message, context: heard.append(message)
        assert not await soon(client.connect())
        link = await fake.link()
        assert await soon(link.reader.read()) == (b"" if first else wire.WAITING)
        assert not client.connected
        assert not heard
    assert "secret" not in caplog.text


async def test_a_broker_of_protocol_1_gets_no_token(caplog):
    async with FakeBroker(protocol=1) as fake:
        assert not await soon(backend(fake).connect())
        assert fake.connections[0].hello is None
    assert "knows no tokens" in caplog.text


async def test_a_link_that_comes_back_does_not_fall_back_either():
    async with FakeBroker(protocol=2) as fake:
        client = backend(fake, token=None)
        connecting = asyncio.ensure_future(client.connect())
        link = await fake.link()
        await link.send(line("welcome", {"session_id": said(link)["session_id"]}))
        assert await soon(connecting)
        fake.says_hello = False
        fake.first = message("from somebody else")
        heard = []
        client.on_message = lambda message, context: heard.append(message)
        link.cut()
        impostor = await fake.link()
        assert await soon(impostor.reader.read()) == b""
        assert not heard
        await client.disconnect(0)


async def test_a_refusal_ends_it_and_is_shown_in_one_line(caplog):
    async with FakeBroker(protocol=2) as fake:
        client = backend(fake)
        running = asyncio.ensure_future(client.run_forever())
        link = await fake.link()
        await link.send(line("refused", {"reason": "no\nway " + "x" * 1000, "more": 1}))
        with pytest.raises(Refused) as caught:
            await soon(running)
        assert str(caught.value).startswith(f"the broker at 127.0.0.1:{fake.port} refuses this backend: no way xxx")
        assert len(str(caught.value)) < 400
        assert [each for each in caplog.messages if "refuses" in each] == [str(caught.value)]
        await asyncio.sleep(0.05)
        assert len(fake.connections) == 1


async def test_a_refusal_after_the_welcome_means_nothing():
    async with FakeBroker(protocol=2) as fake:
        client = backend(fake)
        connecting = asyncio.ensure_future(client.connect())
        link = await fake.link()
        await link.send(line("welcome", {"session_id": said(link)["session_id"]}))
        assert await soon(connecting)
        await link.send(line("refused", {"reason": "x"}))
        assert await client.broadcast_message("still here")
        while (heard := await link.receive())["action"] != "broadcast":
            pass
        assert heard["params"]["message"] == "still here"
        assert client.connected
        await client.disconnect(0)


@pytest.mark.parametrize(("loopback", "warnings"), [(False, 1), (True, 0)])
async def test_it_warns_once_when_others_could_read_the_token(monkeypatch, caplog, loopback, warnings):
    monkeypatch.setattr("pystrands.client.connection.link.is_loopback", lambda _: loopback)
    async with FakeBroker(protocol=2) as fake:
        client = backend(fake)
        running = asyncio.ensure_future(client.run_forever())
        for _ in range(3):
            (await fake.link()).cut()
        assert len([each for each in caplog.messages if "in the clear to 127.0.0.1" in each]) == warnings
        running.cancel()
        await asyncio.wait([running])
    assert "secret" not in caplog.text


@pytest.mark.parametrize("kind", [AsyncPyStrandsClient, PyStrandsClient, PyStrands])
def test_values_that_cannot_work_are_named_and_not_shown(kind):
    for token in (b"secret", 7, "secret\n", " secret", "secret\ud800"):
        with pytest.raises(ConfigError) as caught:
            kind(token=token)
        assert caught.value.option == "token"
        assert "secret" not in str(caught.value)
    for tls in ("yes", 1, ssl):
        with pytest.raises(ConfigError) as caught:
            kind(ssl=tls)
        assert caught.value.option == "ssl"
    client = kind(token=TOKEN, ssl=ssl.create_default_context())
    assert client.token == TOKEN
    assert isinstance(client.ssl, ssl.SSLContext)
    assert "secret" not in repr(client)
    assert "secret" not in repr(options_of(client))
