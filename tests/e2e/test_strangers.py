"""Peers on the backends' port that may not be backends, or have not said who they are: raw sockets."""

import asyncio
import json
import secrets
from typing import Any

import pytest

from pystrands import testing
from pystrands.broker.backends.authenticator import LATE, MISSING, OLD, TOO_LONG, WRONG
from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from pystrands.errors import ConfigError
from tests.inside import authenticator_of, parts_of

from .raw_backend import RawBackend, line
from .raw_peer import TOKEN, knocking, peer
from .support import connect

# ---- tokens


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, MISSING),
        ({"token": "wrong"}, WRONG),
        ({"token": TOKEN + " "}, WRONG),
        ({"role": "tool"}, MISSING),
        ({"role": "tool", "token": "wrong"}, WRONG),
        ({"role": "sender", "token": "wrong"}, WRONG),
        ({"resume": True, "next_session_id": "t", "token": "wrong"}, WRONG),
        ({"protocol": 1, "token": TOKEN}, OLD),
        ({"session_id": "", "token": TOKEN}, OLD),
    ],
)
async def test_a_peer_without_the_token_hears_why_and_nothing_else(said, reason):
    async with testing.broker(backend_token=[TOKEN]) as broker, knocking(broker):
        async with peer(broker) as stranger:
            stranger.hello(**said)
            stranger.say("broadcast", {"message": "x"}, seq=1)
            assert await stranger.rest() == [("hello", None), ("refused", reason)]
        assert broker.counters["link_without_token"] == 1
        assert broker.backend_count == 0
        await testing.until(lambda: not len(authenticator_of(broker)))


async def test_a_peer_of_protocol_1_hears_why_and_nothing_else():
    async with testing.broker(backend_token=[TOKEN]) as broker, knocking(broker), peer(broker) as stranger:
        stranger.say("heartbeat")
        stranger.say("broadcast", {"message": "x"})
        assert await stranger.rest() == [("hello", None), ("refused", OLD)]


async def test_a_peer_that_is_silent_hears_why_and_nothing_else():
    async with testing.broker(backend_token=[TOKEN]) as broker:
        parts_of(broker).links.hello_time = 0.1
        async with knocking(broker), peer(broker) as stranger:
            stranger.writer.write(b'{"action":"hel')
            assert await stranger.rest() == [("hello", None), ("refused", LATE)]


async def test_with_the_token_it_is_a_backend_and_so_it_is_when_it_comes_back():
    async with testing.broker(backend_token=["other", TOKEN]) as broker:
        async with RawBackend(broker, begin=False) as raw:
            assert not (await raw.begin(token=TOKEN))["resumed"]
            ws = await raw.admit("anna")
            raw.cut()
            await raw.open()
            raw.greet(resume=True, received=raw.received, next_session_id="next", token="wrong")
            assert (await raw.next_line())["params"]["reason"] == WRONG
            raw.cut()
            await raw.open()
            assert (await raw.begin(resume=True, received=raw.received, next_session_id="next", token=TOKEN))["resumed"]
            await ws.send("still here")
            await raw.hear_message("still here")
            await ws.close()


async def test_wrong_tokens_are_answered_ever_later_and_right_ones_at_once():
    async with testing.broker(backend_token=[TOKEN]) as broker:
        loop = asyncio.get_running_loop()
        waits = []
        for _ in range(3):
            async with peer(broker) as stranger:
                await stranger.hear()
                stranger.hello(token="wrong")
                begun = loop.time()
                assert await stranger.rest() == [("refused", WRONG)]
                waits.append(loop.time() - begun)
        assert waits[0] > 0.09
        assert waits[1] > 0.19
        assert waits[2] > 0.39
        async with peer(broker) as guesser, peer(broker) as honest:
            await guesser.hear()
            await honest.hear()
            guesser.hello(token="wrong")
            honest.hello(token=TOKEN)
            assert (await honest.hear())[0] == "welcome"
            assert len(authenticator_of(broker)) == 1, "the guesser still waits"


async def test_the_tokens_are_in_no_log_on_no_repr_and_in_no_status(caplog):
    caplog.set_level("DEBUG")
    async with testing.broker(backend_token=[TOKEN]) as broker:
        for token in (TOKEN, "another secret", TOKEN + "x"):
            async with peer(broker) as stranger:
                stranger.hello(token=token, role="tool")
                stranger.say("status", request_id="1")
                said = [await stranger.hear() for _ in range(2)]
        assert "secret" not in repr(broker.config)
        assert "secret" not in json.dumps(said)
    assert "is refused: the token is wrong" in caplog.text
    assert "secret" not in caplog.text


async def test_tokens_of_a_file_are_read_again_and_links_stay(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("first\n")

    async def welcomed(token):
        async with peer(broker) as stranger:
            await stranger.hear()
            stranger.hello(token=token, session_id=secrets.token_hex(16))
            return (await stranger.hear())[0] == "welcome"

    async with testing.broker(backend_token_file=str(path)) as broker:
        async with RawBackend(broker, begin=False) as raw:
            await raw.begin(token="first")
            path.write_text("first\nsecond\n")
            assert not await welcomed("second")
            broker.reload()
            assert await welcomed("first") and await welcomed("second")
            path.write_text("second\n")
            broker.reload()
            assert not await welcomed("first")
            assert await welcomed("second")
            path.write_text("\n")
            with pytest.raises(ConfigError, match=r"backend_token_file: .* has no token"):
                broker.reload()
            assert not await welcomed("first")
            assert await welcomed("second")
            assert await raw.so_far() == [], "the link that was there is not affected"


# ---- before the first line is whole


async def test_without_tokens_a_peer_gets_no_event_before_it_has_spoken():
    async with testing.broker() as broker, knocking(broker) as connecting, peer(broker) as stranger:
        assert (await stranger.hear())[0] == "hello"
        stranger.writer.write(line("hello", {"protocol": 2, "session_id": "s"})[:-1])
        await stranger.hears_nothing()
        assert not connecting.done()
        stranger.writer.write(b"\n")
        assert (await stranger.hear())[0] == "welcome"
        action, params = await stranger.hear()
        assert action == "connection_request"
        assert params["headers"]["X-Secret"] == ["of the user"]


@pytest.mark.parametrize("options", [{}, {"backend_token": [TOKEN]}])
@pytest.mark.parametrize("end", [b"\n", b""])
async def test_a_first_line_that_is_too_long_is_refused(options, end):
    async with testing.broker(**options) as broker, peer(broker) as stranger:
        stranger.writer.write(b'{"action":"heartbeat","params":"' + b"x" * 200_000 + b'"}' + end)
        assert await stranger.rest() == [("hello", None), ("refused", TOO_LONG)]
        assert broker.counters["link_first_line_too_long"] == 1
        assert broker.backend_count == 0


@pytest.mark.parametrize("wrong", [{"token": None}, {"token": [TOKEN]}, {"protocol": "2"}, {"session_id": 7}])
@pytest.mark.parametrize("options", [{}, {"backend_token": [TOKEN]}])
async def test_a_hello_that_can_not_be_read_is_answered(options, wrong):
    async with testing.broker(**options) as broker, peer(broker) as stranger:
        stranger.hello(**({"token": TOKEN} | wrong))
        (hello, (action, reason)) = await stranger.rest()
        assert (hello, action) == (("hello", None), "refused")
        assert reason.startswith("the hello could not be read: ")
        assert next(iter(wrong)) in reason
        assert TOKEN not in reason
        assert broker.counters["lines_malformed"] == 1
        assert broker.backend_count == 0


async def test_a_long_first_line_in_pieces_and_what_follows_it_are_taken():
    first = line("hello", {"protocol": 1, "binary": True, "name": "x" * 65_000})
    second = line("broadcast", {"message": "y" * 200_000})
    async with testing.broker() as broker, testing.backend(broker):
        async with connect(broker) as ws, peer(broker) as chatty:
            chatty.writer.write(b"\n\n" + first[:100])
            await chatty.hear()
            await asyncio.sleep(0.01)
            chatty.writer.write(b"" + first[100:] + second + line("broadcast", {"message": "z"}))
            assert await ws.recv() == "y" * 200_000
            assert await ws.recv() == "z"


async def test_half_a_line_before_the_broker_gives_up_waiting_is_not_lost():
    async with testing.broker() as broker, testing.backend(broker), connect(broker) as ws, peer(broker) as slow:
        said = line("broadcast", {"message": "slowly"})
        slow.writer.write(said[:20])
        await testing.until(lambda: broker.backend_count == 2)
        slow.writer.write(said[20:])
        assert await ws.recv() == "slowly"


async def test_peers_that_say_nothing_do_not_keep_a_backend_out():
    async with testing.broker(backend_token=[TOKEN]) as broker:
        authenticator_of(broker).most, authenticator_of(broker).most_of_one = 20, 10
        async with peer(broker) as first:
            silent = [await asyncio.open_connection("127.0.0.1", broker.tcp_port) for _ in range(30)]
            await testing.until(lambda: broker.counters["link_crowded_out"] == 21)
            assert (await first.rest())[0][0] == "hello"
            assert len(authenticator_of(broker)) == 10
            async with peer(broker) as honest:
                honest.hello(token=TOKEN)
                assert [(await honest.hear())[0] for _ in range(2)] == ["hello", "welcome"]
            for _, writer in silent:
                writer.transport.abort()
        await testing.until(lambda: not len(authenticator_of(broker)))


async def test_a_refused_peer_that_does_not_leave_is_cut_off():
    async with testing.broker(backend_token=[TOKEN]) as broker, peer(broker) as stranger:
        stranger.hello()
        await testing.until(lambda: len(parts_of(broker).lifecycle.links) == 1)
        await testing.until(lambda: broker.counters["link_without_token"] == 1)
        await testing.until(lambda: not parts_of(broker).lifecycle.links)


# ---- addresses


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "broker.internal", "localhost.example"])
def test_strangers_are_not_let_in_unasked(host, tmp_path):
    with pytest.raises(ConfigError, match=r"backend-token.*allow-insecure-backends") as caught:
        BrokerConfig(tcp_host=host)
    assert caught.value.option == "tcp_host"
    asked: list[dict[str, Any]] = [
        {"backend_token": (TOKEN,)},
        {"backend_token_file": "tokens"},
        {"allow_insecure_backends": True},
        {"backend_tls_cert": "cert.pem", "backend_tls_ca": "ca.pem"},
    ]
    for options in asked:
        BrokerConfig(tcp_host=host, **options)
    with pytest.raises(ConfigError):
        BrokerConfig(tcp_host=host, backend_tls_cert="cert.pem")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_on_loopback_nothing_is_needed(host):
    BrokerConfig(tcp_host=host)


async def test_files_that_cannot_be_used_are_found_at_the_start(tmp_path):
    files: list[dict[str, Any]] = [
        {name: str(tmp_path / "none")} for name in ("backend_token_file", "backend_tls_cert")
    ]
    for options in files:
        with pytest.raises(ConfigError, match=r"can't read .*none"):
            await Broker(BrokerConfig(ws_port=0, tcp_port=0, **options)).start()
    useless: list[dict[str, Any]] = [{"backend_tls_key": "x"}, {"backend_tls_ca": "x"}]
    for options in useless:
        with pytest.raises(ConfigError, match="backend-tls-cert"):
            BrokerConfig(**options)


async def test_an_open_port_is_told_of(caplog):
    async with testing.broker(tcp_host="0.0.0.0", allow_insecure_backends=True):
        pass
    assert "whoever reaches 0.0.0.0:" in caplog.text
    caplog.clear()
    async with testing.broker(tcp_host="0.0.0.0", backend_token=[TOKEN]), testing.broker(allow_insecure_backends=True):
        pass
    assert "whoever reaches" not in caplog.text
