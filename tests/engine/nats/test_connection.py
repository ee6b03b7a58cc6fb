"""The connection to NATS, with real servers; both loops."""

import pytest

from pystrands.errors import ConfigError
from tests.certificates import Authority
from tests.engine.nats.support import connected, make, synced, until
from tests.nats_server import Key, NatsServer, Operator


@pytest.fixture(scope="module")
def server():
    with NatsServer() as server:
        yield server


async def test_messages_go_from_one_to_the_other(server):
    async with connected(server.url, b"a.*") as (_, hears), connected(server.url, b"a.*") as (one, own):
        one.publish(b"a.b", b"first", b"answers")
        one.publish(b"a.c", bytes(range(256)))
        one.publish(b"a.d", b"")
        one.publish(b"b.a", b"for nobody here")
        await until(lambda: len(hears.events) == 4)
        sid = hears.sids[b"a.*"]
        assert hears.events == [
            "up",
            (sid, b"a.b", b"answers", 0, b"first"),
            (sid, b"a.c", b"", 0, bytes(range(256))),
            (sid, b"a.d", b"", 0, b""),
        ]
        await synced(one)
        assert own.events == ["up"], "one's own messages come back"


async def test_what_is_the_connections(server):
    connection, _ = make(server.url)
    assert (connection.is_up, connection.max_payload, connection.local_host) == (False, 1 << 20, "")
    await connection.start(20)
    assert (connection.is_up, connection.max_payload, connection.local_host) == (True, 1 << 20, "127.0.0.1")
    await connection.stop()
    assert not connection.is_up


async def test_a_request_to_nobody_is_answered_at_once(server):
    async with connected(server.url, b"inbox") as (connection, owner):
        connection.publish(b"nobody", b"?", b"inbox")
        await until(lambda: owner.payloads)
        assert owner.events[1:] == [(owner.sids[b"inbox"], b"inbox", b"", 503, b"")]


async def test_unsubscribed_nothing_comes_any_more(server):
    async with connected(server.url, b"a", b"b") as (connection, owner), connected(server.url) as (other, _):
        connection.unsubscribe(owner.sids[b"a"])
        await synced(connection)
        other.publish(b"a", b"1")
        other.publish(b"b", b"2")
        await until(lambda: owner.payloads)
        await synced(connection)
        assert owner.payloads == [b"2"]


@pytest.mark.parametrize("size", [1, 60_000, (1 << 20)])
async def test_payloads_of_any_size(server, size):
    payload = b"x" * size
    async with connected(server.url, b"a") as (_, owner), connected(server.url) as (other, _):
        for _ in range(5):
            other.publish(b"a", payload)
        await until(lambda: len(owner.payloads) == 5)
        assert owner.payloads == [payload] * 5


async def test_what_was_sent_before_the_end_arrives(server):
    async with connected(server.url, b"a") as (_, owner):
        async with connected(server.url) as (other, sender):
            for number in range(10_000):
                other.publish(b"a", b"%d" % number)
        await until(lambda: len(owner.payloads) == 10_000)
        assert owner.payloads == [b"%d" % number for number in range(10_000)]
        assert sender.changes == ["up"], "who has stopped is told nothing any more"
        other.publish(b"a", b"too late")
        other.unsubscribe(other.subscribe(b"a"))
        other.ping(pytest.fail)


# --- who may ---


async def test_token_and_password():
    for server in (NatsServer(token="t0 k@n"), NatsServer(user="u:", password="p/@:")):
        with server:
            async with connected(server.url, b"a") as (one, _), connected(server.url, b"a") as (_, owner):
                one.publish(b"a", b"x")
                await until(lambda owner=owner: owner.payloads)
            connection, _ = make(f"nats://wrong@127.0.0.1:{server.port}")
            with pytest.raises(ConfigError, match=r"nats_url: .*Authorization Violation.*check the token") as raised:
                await connection.start(20)
            assert "wrong" not in str(raised.value)


async def test_nkey_and_credentials_file(tmp_path):
    key, operator = Key(), Operator()
    for server, text in (
        (NatsServer(nkey=key.public), key.seed),
        (NatsServer(operator=operator), operator.credentials()),
    ):
        file = tmp_path / "file"
        file.write_text(text)
        with server:
            async with connected(server.url, b"a", credentials=str(file)) as (one, owner):
                assert owner.changes == ["up"]
                assert one.is_up
            file.write_text(Key().seed)
            connection, _ = make(server.url, credentials=str(file))
            with pytest.raises(ConfigError, match=r"nats_credentials: .*Authorization Violation"):
                await connection.start(20)


async def test_tls(tmp_path):
    authority = Authority()
    ca = authority.write_ca(tmp_path)
    with NatsServer(tls=authority) as server:
        for url in (server.url, server.url.replace("tls:", "nats:")):
            async with connected(url, b"a", tls_ca=ca) as (one, _), connected(url, b"a", tls_ca=ca) as (_, owner):
                one.publish(b"a", b"x" * 100_000)
                await until(lambda owner=owner: owner.payloads)
        connection, _ = make(server.url)
        with pytest.raises(ConfigError, match=r"^nats_tls_ca: .* has a certificate that is not accepted: "):
            await connection.start(20)
    with NatsServer(tls=authority, verify=True) as server:
        shown = authority.write(tmp_path)
        async with connected(server.url, tls_ca=ca, tls_cert=shown["tls_cert"], tls_key=shown["tls_key"]):
            pass
        connection, _ = make(server.url, tls_ca=ca)
        with pytest.raises(ConfigError, match=r"^nats_tls_cert: .*certificate required"):
            await connection.start(20)
    with NatsServer() as server:
        connection, _ = make(server.url.replace("nats:", "tls:"))
        with pytest.raises(TimeoutError, match=r"has no TLS, which tls:// "):
            await connection.start(2)
