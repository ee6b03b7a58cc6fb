"""Users: one address for all clients of somebody, whatever they speak, at whichever broker."""

import asyncio
import time

import pytest

from pystrands import AsyncPyStrandsClient, Confirmation, ConnectionRequestContext, PyStrandsError, testing
from tests.cluster.together import brokers

from .session_client import SessionClient


class Named(AsyncPyStrandsClient):
    """Lets clients in as the user whom their query names, into the rooms that it names."""

    def __init__(self, **options):
        super().__init__(**options)
        self.contexts = []
        self.gone = []
        self.errors = []

    async def on_connection_request(self, request):
        query = request.query
        request.context.metadata = {"device": query.get("device", ["?"])[0]}
        request.context.room_id = "lobby"
        if "id" in query:
            request.context.client_id = query["id"][0]
        return request.accept(user=query["user"][0] if "user" in query else None, rooms=query.get("room", ()))

    async def on_new_connection(self, context):
        self.contexts.append(context)

    async def on_message(self, message, context):
        self.contexts.append(context)

    async def on_disconnect(self, context):
        self.gone.append(context)

    async def on_error(self, error, context):
        self.errors.append(error)


async def lose(client, broker):
    """Have a client lose its connection, which the broker notices."""
    await client.connection.ping()
    client.hold()
    client.cut()
    away = broker.counters["clients_suspended"]
    await testing.until(lambda: broker.counters["clients_suspended"] > away)


async def test_a_message_to_a_user_reaches_all_his_clients_and_nobody_else():
    async with testing.broker() as broker, testing.backend(broker, Named) as backend:
        async with (
            testing.connect(broker, "/?user=ada&device=phone") as phone,
            testing.connect(broker, "/?user=ada&device=desk") as desk,
            testing.connect(broker, "/?user=ben") as ben,
            testing.connect(broker, "/") as nobody,
        ):
            assert await backend.send_user_message("ada", "for ada", confirm=True) == Confirmation(2, 0)
            assert await backend.send_user_message("ada", b"\x00\xff") is True
            assert await backend.send_user_message("cem", "x", confirm=True) == Confirmation(0, 0)
            assert [await phone.receive(), await phone.receive()] == ["for ada", b"\x00\xff"]
            assert [await desk.receive(), await desk.receive()] == ["for ada", b"\x00\xff"]
            await backend.broadcast_message("end")
            assert await ben.receive() == await nobody.receive() == "end"
            assert [context.user for context in backend.contexts] == ["ada", "ada", "ben", None]


async def test_order_among_messages_to_a_user_a_room_and_a_client_is_that_of_sending():
    async with testing.broker() as broker, testing.backend(broker, Named) as backend:
        async with (
            testing.connect(broker, "/?user=ada&id=one") as one,
            SessionClient(broker, "/?user=ada") as two,
        ):
            expected = []
            for number in range(100):
                await backend.send_user_message("ada", f"user {number}")
                await backend.send_room_message("lobby", f"room {number}")
                await backend.send_private_message("one", f"one {number}")
                expected += [f"user {number}", f"room {number}"]
            received = [await one.receive() for _ in range(300)]
            assert [each for each in received if not str(each).startswith("one")] == expected
            assert [received.index(f"one {number}") for number in range(100)] == list(range(2, 300, 3))
            await testing.until(lambda: two.messages == expected)


async def test_who_is_left_out_and_what_is_volatile():
    async with testing.broker() as broker, testing.backend(broker, Named) as backend:
        async with (
            testing.connect(broker, "/?user=ada&id=one") as one,
            testing.connect(broker, "/?user=ada&id=two") as two,
        ):
            assert await backend.send_user_message("ada", "a", exclude="one", confirm=True) == Confirmation(1, 0)
            assert await backend.send_user_message("ada", "b", volatile=True, confirm=True) == Confirmation(2, 0)
            assert await backend.send_user_message("ada", "c", key="k") is True
            assert [await one.receive(), await one.receive()] == ["b", "c"]
            assert [await two.receive() for _ in range(3)] == ["a", "b", "c"]


async def test_a_user_with_a_session_that_is_away_gets_it_when_he_is_back():
    async with testing.broker() as broker, testing.backend(broker, Named) as backend:
        async with SessionClient(broker, "/?user=ada") as away, SessionClient(broker, "/?user=ada") as here:
            await lose(away, broker)
            assert await backend.send_user_message("ada", "kept", confirm=True) == Confirmation(2, 0)
            await testing.until(lambda: here.messages == ["kept"])
            assert away.messages == []
            away.release()
            await testing.until(lambda: away.messages == ["kept"])
            assert away.resumed[0].gaps == []


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_disconnect_user_closes_all_his_clients_those_that_are_away_as_well(is_noticed):
    async with testing.broker() as broker, testing.backend(broker, Named) as backend:
        async with (
            testing.connect(broker, "/?user=ada") as plain,
            SessionClient(broker, "/?user=ada") as session,
            SessionClient(broker, "/?user=ada") as away,
            testing.connect(broker, "/?user=ben") as ben,
        ):
            if is_noticed:
                await lose(away, broker)
            else:
                await away.connection.ping()
                away.hold()
                away.cut()
            assert await backend.disconnect_user("ada", 4001, "out") == 3
            await plain.expect_close(4001)
            await testing.until(lambda: session.core.state == "closed")
            away.release()
            await testing.until(lambda: away.core.state == "closed")
            assert (away.states[-1].code, away.states[-1].reason) == (4001, "out")
            await testing.until(lambda: len(backend.gone) == 3)
            assert await backend.disconnect_user("ada") == 0
            assert await backend.send_user_message("ada", "x", confirm=True) == Confirmation(0, 0)
            assert await backend.send_user_message("ben", "y", confirm=True) == Confirmation(1, 0)
            assert await ben.receive() == "y"
            with pytest.raises(ValueError, match="code must be 1000"):
                await backend.disconnect_user("ben", 1005)


async def test_who_sends_to_a_user_most_of_whose_clients_are_full_waits_and_nobody_else_does():
    async with testing.broker(client_buffer=131_072, max_message_size=65_536, slow_client_time=30) as broker:
        async with (
            testing.backend(broker, Named) as backend,
            testing.connect(broker, "/?user=ada&id=one", receive_buffer=16_384) as one,
            testing.connect(broker, "/?user=ada&id=two", receive_buffer=16_384) as two,
            testing.connect(broker, "/?user=ada&id=three"),
            testing.connect(broker, "/?user=ben") as ben,
        ):
            one.stop_reading()
            two.stop_reading()
            await fill(backend.send_private_message, "one")
            for _ in range(3):  # one of three is not most of them
                assert await backend.send_user_message("ada", "x", timeout=10) is True
            await fill(backend.send_private_message, "two")
            await fill(backend.send_user_message, "ada")
            waiting = asyncio.create_task(backend.send_user_message("ada", "last"))
            assert await backend.send_user_message("ben", "goes on") is True
            assert await ben.receive() == "goes on"
            assert not waiting.done()
            one.resume_reading()
            two.resume_reading()
            while await one.receive() != "last":
                pass
            assert await waiting is True


async def fill(send, to):
    """Send until that has to wait."""
    for _ in range(1000):
        if not await send(to, "x" * 60_000, timeout=0.1):
            return
        await asyncio.sleep(0)
    raise AssertionError("it is never full")


class Timed(Named):
    """Lets everybody in as one client, for a short time at first."""

    lifetime = 0.3
    user = "ada"

    async def on_connection_request(self, request):
        request.context.client_id = "device"
        return request.accept(user=self.user, expires_at=time.time() + self.lifetime)


async def test_a_session_does_not_go_on_for_another_user():
    async with testing.broker() as broker, testing.backend(broker, Timed) as backend, SessionClient(broker) as client:
        await client.done(client.send("one"))
        session = client.core.session
        await lose(client, broker)
        await backend.send_user_message("ada", "for ada alone")
        await asyncio.sleep(0.4)  # its permission is over
        backend.lifetime, backend.user = 100.0, "ben"
        client.release()
        await testing.until(lambda: client.resumed)
        assert not client.resumed[0].resumed
        assert client.core.session != session
        assert await backend.send_user_message("ben", "for ben", confirm=True) == Confirmation(1, 0)
        assert await backend.send_user_message("ada", "for nobody", confirm=True) == Confirmation(0, 0)
        await testing.until(lambda: client.messages == ["for ben"])


async def test_rooms_at_acceptance_are_there_before_the_first_event():
    async with testing.broker() as broker, testing.backend(broker, Named) as backend:
        async with (
            testing.connect(broker, "/?room=a&room=b&room=a&room=lobby") as client,
            SessionClient(broker, "/?room=b") as session,
        ):
            await testing.until(lambda: len(backend.contexts) == 2)
            assert backend.contexts[0].rooms == ("lobby", "a", "b")
            assert list(session.core.rooms) == ["lobby", "b"]
            assert await backend.send_room_message("a", "to a", confirm=True) == Confirmation(1, 0)
            assert await client.receive() == "to a"
            assert {len(each.rooms) for each in await backend.room_members("b")} == {3, 2}
            assert await backend.leave_room(backend.contexts[0].client_id, "a") is True


async def test_more_rooms_than_a_client_may_have_let_nobody_in_and_the_backend_hears_why():
    async with testing.broker(max_rooms_per_client=3) as broker, testing.backend(broker, Named) as backend:
        with pytest.raises(testing.Rejected):
            await testing.connect(broker, "/?room=a&room=b&room=c")
        await testing.until(lambda: any("4 rooms, and may be in 3" in error for error in backend.errors))
        async with testing.connect(broker, "/?room=a&room=b"):
            pass
        with pytest.raises(testing.Rejected):
            await testing.connect(broker, f"/?user={'x' * 513}")
        with pytest.raises(testing.Rejected):
            await testing.connect(broker, f"/?room={'x' * 513}")


async def test_across_brokers():
    async with brokers(3) as (one, two, three):
        async with testing.backend(one, Named) as here, testing.backend(two, Named), testing.backend(three, Named):
            async with (
                testing.connect(one, "/?user=ada") as first,
                testing.connect(two, "/?user=ada") as second,
                testing.connect(three, "/?user=ben") as ben,
            ):
                assert await here.send_user_message("ada", "x", confirm=True) == Confirmation(2, 0)
                assert await first.receive() == await second.receive() == "x"
                assert await here.send_user_message("ben", "y", confirm=True) == Confirmation(1, 0)
                assert await ben.receive() == "y"
                assert await here.disconnect_user("ada", 4001) == 2
                await first.expect_close(4001)
                await second.expect_close(4001)
                one.engine.together.cut()
                with pytest.raises(PyStrandsError, match="0 clients of the user were closed, and the other brokers"):
                    await here.disconnect_user("ben")
                one.engine.together.mend()
                assert await here.disconnect_user("ben") == 1
                await ben.expect_close(1000)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"user": 7}, TypeError, r"user is a str or None, not int: an id as a str"),
        ({"user": ""}, ValueError, "user must not be empty"),
        ({"rooms": "lobby"}, TypeError, "rooms is a list of str, not str"),
        ({"rooms": 7}, TypeError, "rooms is a list of str, not int"),
        ({"rooms": ["a", 7]}, TypeError, "rooms is a list of str; there is int"),
    ],
)
def test_what_is_no_user_and_no_rooms_is_said_at_once_and_changes_nothing(options, error, match):
    request = ConnectionRequestContext()
    request.reject(401)
    with pytest.raises(error, match=match):
        request.accept(**options)
    assert (request.accepted, request.user, request.rooms) == (False, None, [])
