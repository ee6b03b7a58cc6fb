"""TLS on the backends' port: raw peers, good and bad, during the handshake and after it."""

import asyncio
import contextlib
import re
import ssl

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.backends.authenticator import WRONG
from pystrands.broker.bounds import Bounds
from tests.bounded import BoundedBroker
from tests.inside import authenticator_of, parts_of

from .raw_peer import TOKEN, knocking, peer


async def test_a_broker_stops_with_peers_in_every_state(tls):
    for options in ({}, tls):
        async with testing.broker(backend_token=[TOKEN], **options) as broker:
            async with peer(broker), peer(broker) as refused:
                refused.hello(token="wrong")
                await testing.until(lambda: len(authenticator_of(broker)) == 2)
                await broker.stop()
                await testing.until(lambda: not len(authenticator_of(broker)))
                assert not parts_of(broker).lifecycle.links


async def test_a_backend_over_tls(tls, trusting):
    async with testing.broker(backend_token=[TOKEN], **tls) as broker, peer(broker, ssl=trusting) as chatty:
        chatty.hello(token=TOKEN)
        assert [(await chatty.hear())[0] for _ in range(2)] == ["hello", "welcome"]
        assert len(authenticator_of(broker)) == 0
    async with testing.broker(backend_token=[TOKEN], **tls) as broker, peer(broker, ssl=trusting) as stranger:
        stranger.hello(token="wrong")
        assert await stranger.rest() == [("hello", None), ("refused", WRONG)]


async def test_what_comes_with_the_end_of_the_handshake_is_taken(tls, trusting):
    async with testing.broker(**tls) as broker, knocking(broker) as connecting:
        async with peer(broker, ssl=trusting) as chatty:
            chatty.hello()
            chatty.say("leave", seq=1)
            assert [(await chatty.hear())[0] for _ in range(2)] == ["hello", "welcome"]
            assert (await chatty.hear())[0] in ("connection_request", "leaving")
        assert not connecting.done()


async def test_a_peer_without_tls_gets_nothing(tls):
    async with testing.broker(**tls) as broker, knocking(broker), peer(broker) as stranger:
        stranger.hello()
        async with asyncio.timeout(10):
            said = await stranger.reader.read()
        assert b"{" not in said
        await testing.until(lambda: broker.counters["link_tls_failed"] == 1)
        assert not len(authenticator_of(broker))
        assert not parts_of(broker).lifecycle.links


async def test_a_handshake_that_does_not_end_is_ended(tls, trusting):
    async with BoundedBroker(Bounds(link_tls_handshake=0.05), **tls) as broker:
        async with peer(broker), peer(broker) as half:
            half.writer.write(b"\x16\x03\x01\x02\x00\x01")
            await testing.until(lambda: broker.counters["link_tls_failed"] == 2)
            assert await half.reader.read() == b""
        await testing.until(lambda: not len(authenticator_of(broker)))
        assert not parts_of(broker).lifecycle.links


async def test_a_peer_that_goes_during_the_handshake_leaves_nothing(tls):
    async with testing.broker(**tls) as broker:
        for data in (b"", b"\x16\x03\x01\x02\x00\x01"):
            async with peer(broker) as gone:
                gone.writer.write(data)
                await testing.until(lambda: len(authenticator_of(broker)) == 1)
                gone.writer.close()
                await testing.until(lambda: not len(authenticator_of(broker)))
        assert not parts_of(broker).lifecycle.links


async def test_half_open_handshakes_do_not_keep_a_backend_out(tls, trusting):
    async with testing.broker(**tls) as broker:
        authenticator_of(broker).most, authenticator_of(broker).most_of_one = 20, 10
        silent = [await asyncio.open_connection("127.0.0.1", broker.tcp_port) for _ in range(30)]
        await testing.until(lambda: broker.counters["link_crowded_out"] == 20)
        assert len(authenticator_of(broker)) == 10
        async with peer(broker, ssl=trusting) as honest:
            honest.hello()
            assert [(await honest.hear())[0] for _ in range(2)] == ["hello", "welcome"]
        for _, writer in silent:
            writer.transport.abort()
        await testing.until(lambda: not len(authenticator_of(broker)))


async def test_one_address_keeps_no_backend_out(tls, trusting):
    async with testing.broker(**tls) as broker:
        authenticator_of(broker).most, authenticator_of(broker).most_of_one = 20, 10
        crowd = []
        for number in range(60):
            local = (f"127.0.0.{2 + number % 3}", 0)
            crowd.append(await asyncio.open_connection("127.0.0.1", broker.tcp_port, local_addr=local))
        assert len(authenticator_of(broker)) <= 20
        async with peer(broker, ssl=trusting) as honest:
            for number in range(60):
                local = (f"127.0.0.{2 + number % 3}", 0)
                crowd.append(await asyncio.open_connection("127.0.0.1", broker.tcp_port, local_addr=local))
            honest.hello()
            assert [(await honest.hear())[0] for _ in range(2)] == ["hello", "welcome"]
        for _, writer in crowd:
            writer.transport.abort()


async def test_with_a_ca_only_its_own_come_in(ca, tls, tmp_path, trusting):
    async with testing.broker(backend_tls_ca=str(tmp_path / "ca.pem"), **tls) as broker:
        async with peer(broker, ssl=trusting) as stranger:
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                assert await stranger.reader.read() == b""
        await testing.until(lambda: broker.counters["link_tls_failed"] == 1)
        ca.issue_cert("backend").configure_cert(trusting)
        async with peer(broker, ssl=trusting) as known:
            known.hello()
            assert [(await known.hear())[0] for _ in range(2)] == ["hello", "welcome"]


async def test_a_backend_says_what_may_be_wrong(tls, tmp_path, trusting, caplog):
    async def hears(broker, **options):
        caplog.clear()
        assert not await AsyncPyStrandsClient("127.0.0.1", broker.tcp_port, **options).connect()
        (entry,) = [record for record in caplog.records if record.name == "pystrands.client.connection.supervisor"]
        return entry.getMessage().removeprefix("could not connect to ").partition(f":{broker.tcp_port}")[2]

    async with testing.broker() as broker:
        assert re.fullmatch(": .+; does it speak TLS[?] If not, leave ssl= out", await hears(broker, ssl=trusting))
    async with testing.broker(**tls) as broker:
        assert await hears(broker, token=TOKEN) == " says no hello; does it want TLS? Then give ssl="
        assert "certificate verify failed" in await hears(broker, ssl=True)
    async with testing.broker(backend_tls_ca=str(tmp_path / "ca.pem"), **tls) as broker:
        certificate = " closed the connection at once; does it ask for a certificate that ssl= has not?"
        assert await hears(broker, ssl=trusting) == certificate


async def test_a_new_certificate_counts_for_new_links(ca, tls, tmp_path, trusting):
    def serial(connected):
        return connected.writer.get_extra_info("peercert")["serialNumber"]

    async with testing.broker(**tls) as broker:
        async with peer(broker, ssl=trusting) as before:
            before.hello()
            ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "broker.pem")
            broker.reload()
            async with peer(broker, ssl=trusting) as after:
                assert serial(after) != serial(before)
            assert [(await before.hear())[0] for _ in range(2)] == ["hello", "welcome"]
