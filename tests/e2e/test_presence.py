"""Who is present in rooms, at a real broker with a real backend; the names are those of the promises."""

import asyncio
import json
import time

import pytest

from pystrands import Context, Member, PyStrandsError, testing
from pystrands.broker.bounds import Bounds
from pystrands.join_request import JoinRequestContext
from tests.bounded import BoundedBroker
from tests.cluster.together import brokers
from tests.inside import parts_of

from .session_client import SessionClient
from .test_users import Named, lose

LOBBY = "lobby"


class Greeting(Named):
    """Has everybody be present in the lobby who says how."""

    async def on_new_connection(self, context):
        await super().on_new_connection(context)
        if context.metadata["device"] != "?":
            await self.set_presence(context.client_id, LOBBY, {"device": context.metadata["device"]})


async def test_promise_27_one_entry_for_each_user_over_all_his_connections():
    async with testing.broker() as broker, testing.backend(broker, Greeting) as backend:
        async with (
            SessionClient(broker, "/?user=ada&device=desk") as ada,
            testing.connect(broker, "/?user=ben&device=phone"),
        ):
            await testing.until(lambda: len(backend.contexts) == 2)
            ada.watch(LOBBY)
            await testing.until(lambda: ada.present(LOBBY) == {"ada": 1, "ben": 1})
            began = time.time()
            async with testing.connect(broker, "/?user=ada&device=phone"), SessionClient(broker, "/?user=ada"):
                await testing.until(lambda: ada.present(LOBBY) == {"ada": 2, "ben": 1})
                (change,) = [each for each in ada.presence if each.updated]
                (member,) = change.updated
                assert (member.user, member.info, member.connections) == ("ada", {"device": "phone"}, 2)
                assert member.since < began
            await testing.until(lambda: ada.present(LOBBY) == {"ada": 1, "ben": 1})
            assert not any(each.left for each in ada.presence)
            assert ada.core.presence.members(LOBBY)["ada"].info == {"device": "desk"}
            found = {each.user: each for each in await backend.presence(LOBBY)}
            assert found.keys() == {"ada", "ben"}
            assert found["ada"] == ada.core.presence.members(LOBBY)["ada"]
            assert isinstance(found["ben"], Member)
        await testing.until(lambda: len(backend.gone) == 4)
        assert await backend.presence(LOBBY) == []


async def test_promise_27_a_change_of_what_is_told_is_no_leaving_and_joining():
    async with testing.broker() as broker, testing.backend(broker, Greeting) as backend:
        async with SessionClient(broker, "/?user=ada&device=desk") as ada:
            ada.watch(LOBBY)
            await testing.until(lambda: ada.present(LOBBY) == {"ada": 1})
            await backend.set_presence(ada.name, LOBBY, ["typing"])
            await testing.until(lambda: ada.presence[-1].updated)
            assert (ada.presence[-1].joined, ada.presence[-1].left) == ([], [])
            assert ada.presence[-1].updated[0].info == ["typing"]
            seen = len(ada.frames)
            for _ in range(3):
                await backend.set_presence(ada.name, LOBBY, ["typing"])  # nothing has changed
            await backend.set_presence(ada.name, LOBBY, None)
            await testing.until(lambda: ada.presence[-1].left)
            assert len(ada.frames) == seen + 1
            assert ada.present(LOBBY) == {}


async def test_promise_27_who_is_nobody_is_present_by_its_client_id():
    async with testing.broker() as broker, testing.backend(broker, Greeting) as backend:
        async with SessionClient(broker, "/?device=desk") as one, testing.connect(broker, "/?device=tv&id=tv"):
            one.watch(LOBBY)
            await testing.until(lambda: one.present(LOBBY) == {one.name: 1, "tv": 1})
        assert backend.errors == []


async def test_promise_27_who_is_away_leaves_after_a_while_and_its_session_goes_on():
    async with BoundedBroker(Bounds(presence_grace=0.3)) as broker, testing.backend(broker, Greeting) as backend:
        async with (
            SessionClient(broker, "/?user=ada&device=desk") as ada,
            SessionClient(broker, "/?user=ben&device=desk") as ben,
        ):
            ben.watch(LOBBY)
            await testing.until(lambda: ben.present(LOBBY) == {"ada": 1, "ben": 1})
            await lose(ada, broker)
            assert ben.present(LOBBY) == {"ada": 1, "ben": 1}
            await testing.until(lambda: ben.present(LOBBY) == {"ben": 1})
            await backend.send_user_message("ada", "kept")
            ada.release()
            await testing.until(lambda: ada.messages == ["kept"])
            assert ada.resumed[0].resumed
            await testing.until(lambda: ben.present(LOBBY) == {"ada": 1, "ben": 1})


async def test_promise_27_who_comes_back_in_time_was_never_gone():
    async with testing.broker() as broker, testing.backend(broker, Greeting) as backend:
        async with (
            SessionClient(broker, "/?user=ada&device=desk") as ada,
            SessionClient(broker, "/?user=ben&device=desk") as ben,
        ):
            ada.watch(LOBBY)
            ben.watch(LOBBY)
            await testing.until(lambda: ben.present(LOBBY) == ada.present(LOBBY) == {"ada": 1, "ben": 1})
            await lose(ada, broker)
            ada.release()
            await testing.until(lambda: ada.resumed)
            await backend.set_presence(ben.name, LOBBY, 1)
            await testing.until(lambda: ada.core.presence.members(LOBBY)["ben"].info == 1)
            await testing.until(lambda: ben.core.presence.members(LOBBY)["ben"].info == 1)
            assert not any(each.left for each in (*ada.presence, *ben.presence))


async def test_promise_27_versions_have_no_holes_and_who_missed_one_asks_for_all():
    async with testing.broker() as broker, testing.backend(broker, Greeting) as backend:
        async with SessionClient(broker, "/?user=ada&device=desk") as ada:
            ada.watch(LOBBY)
            await testing.until(lambda: ada.present(LOBBY) == {"ada": 1})
            for number in range(3):
                await backend.set_presence(ada.name, LOBBY, number)
                await testing.until(lambda: ada.core.presence.members(LOBBY)["ada"].info == number)  # noqa: B023
            told = [json.loads(str(each).partition("\n")[0]) for each in ada.frames if '"presence"' in str(each)]
            assert [each["v"] for each in told] == list(range(told[0]["v"], told[0]["v"] + len(told)))
            ada.core.presence._views[LOBBY].v -= 1  # as if the last change had not come
            await backend.set_presence(ada.name, LOBBY, "seen")
            await testing.until(lambda: ada.core.presence.members(LOBBY)["ada"].info == "seen")
            assert '{"full":' in str(ada.frames[-1])


async def test_promise_27_what_was_missed_while_away_is_asked_for():
    async with testing.broker() as broker, testing.backend(broker, Greeting) as backend:
        async with (
            SessionClient(broker, "/?user=ada") as ada,
            SessionClient(broker, "/?user=ben&device=desk") as ben,
        ):
            ada.watch(LOBBY)
            await testing.until(lambda: ada.present(LOBBY) == {"ben": 1})
            await lose(ada, broker)
            ada.release()
            await testing.until(lambda: ada.resumed)
            await testing.until(lambda: '"presence"' in str(ada.frames[-1]))
            assert "\n" not in str(ada.frames[-1])  # nothing is new, and nothing is repeated
            await lose(ada, broker)
            await backend.set_presence(ben.name, LOBBY, None)
            async with testing.connect(broker, "/?user=cem&device=desk"):
                ada.release()
                await testing.until(lambda: ada.present(LOBBY) == {"cem": 1})
                (change,) = [each for each in ada.presence if each.left]
                assert [each.user for each in change.joined] == ["cem"]
                assert [each.user for each in change.left] == ["ben"]


async def test_nobody_is_present_who_was_not_said_to_be_and_none_but_members_see():
    async with testing.broker() as broker, testing.backend(broker, Greeting) as backend:
        async with (
            SessionClient(broker, "/?user=ada") as ada,
            testing.connect(broker, "/?user=ben&device=desk") as ben,
            testing.connect(broker, "/?user=cem") as cem,
        ):
            await backend.join_room(ada.name, "other")
            await testing.until(lambda: "other" in ada.core.rooms)
            await backend.leave_room(ada.name, LOBBY)
            ada.watch(LOBBY)
            ada.watch("other")
            await ada.connection.send('{"t":"presence","r":"lobby"}')
            with pytest.raises(PyStrandsError, match="not in that room"):
                await backend.set_presence(ada.name, LOBBY, 1)
            assert await backend.set_presence("nobody", LOBBY, 1) is False
            assert await backend.set_presence(ada.name, "other", 1) is True
            await testing.until(lambda: ada.present("other") == {"ada": 1})
            assert not any('"lobby"' in str(each) and '"presence"' in str(each) for each in ada.frames)
            await backend.broadcast_message("end")
            assert await ben.receive() == await cem.receive() == "end"  # and nothing else came to plain clients


async def test_who_leaves_a_room_sees_nobody_there_any_more_and_is_not_seen():
    async with testing.broker() as broker, testing.backend(broker, Greeting) as backend:
        async with (
            SessionClient(broker, "/?user=ada&device=desk") as ada,
            SessionClient(broker, "/?user=ben&device=desk") as ben,
        ):
            ada.watch(LOBBY)
            ben.watch(LOBBY)
            await testing.until(lambda: ben.present(LOBBY) == ada.present(LOBBY) == {"ada": 1, "ben": 1})
            await backend.leave_room(ada.name, LOBBY)
            await testing.until(lambda: ben.present(LOBBY) == {"ben": 1} and ada.present(LOBBY) == {})
            assert sorted(each.user for each in ada.presence[-1].left) == ["ada", "ben"]
            await backend.join_room(ada.name, LOBBY)
            await testing.until(lambda: ada.present(LOBBY) == {"ben": 1})


async def test_what_is_told_has_bounds():
    async with BoundedBroker(Bounds(present=2)) as broker, testing.backend(broker, Named) as backend:
        async with (
            testing.connect(broker, "/?id=a"),
            testing.connect(broker, "/?id=b"),
            testing.connect(broker, "/?id=c"),
        ):
            with pytest.raises(PyStrandsError, match="may have 1024 bytes as JSON, and this has 1027"):
                await backend.set_presence("a", LOBBY, "x" * 1025)
            assert await backend.set_presence("a", LOBBY, "x" * 1022)
            assert await backend.set_presence("b", LOBBY, 1)
            assert await backend.set_presence("b", LOBBY, 2)
            with pytest.raises(PyStrandsError, match="are present in that room, and no more may be"):
                await backend.set_presence("c", LOBBY, 1)
            with pytest.raises(TypeError, match="set_presence put a set into info"):
                await backend.set_presence("a", LOBBY, {1})
            assert {each.user: each.info for each in await backend.presence(LOBBY)} == {"a": "x" * 1022, "b": 2}


async def test_a_room_that_nobody_is_present_in_takes_no_memory():
    async with testing.broker() as broker, testing.backend(broker, Greeting) as backend:
        async with SessionClient(broker, "/?user=ada&device=desk") as ada:
            ada.watch(LOBBY)
            await testing.until(lambda: ada.present(LOBBY) == {"ada": 1})
            assert presence(broker).held_bytes > 0
        await testing.until(lambda: backend.gone)
        await testing.until(lambda: len(presence(broker)) == 0)


class Doorkeeper(Named):
    """Has those who join be present, and send signals, as they say."""

    async def on_join_request(self, request):
        if request.data is None:
            return request.accept()
        return request.accept(presence=json.loads(request.data), signals=True)


async def test_who_joins_is_present_and_may_send_signals_if_the_backend_says_so():
    async with testing.broker() as broker, testing.backend(broker, Doorkeeper) as backend:
        async with SessionClient(broker, "/?user=ada") as ada, SessionClient(broker, "/?user=ben") as ben:
            ada.watch("room")
            assert await ada.done(ada.join("room")) == ""
            assert await ben.done(ben.join("room", '{"name":"Ben"}')) == ""
            await testing.until(lambda: ada.present("room") == {"ben": 1})
            assert ada.core.presence.members("room")["ben"].info == {"name": "Ben"}
            ben.signal("room", "hello", "x")
            await testing.until(lambda: ada.signals)
            ada.signal("room", "refused", "x")
            assert await ben.done(ben.leave("room")) == ""
            await testing.until(lambda: ada.present("room") == {})
            assert ben.signals == []
            assert await ada.done(ada.join("other", f'"{"x" * 1023}"')) == ""
            await testing.until(lambda: backend.errors)
            assert "but not present there: what is told of somebody present may have 1024 bytes" in backend.errors[0]
            assert "other" in ada.core.rooms
            assert await ada.done(ada.join("third", "{not JSON")) == "refused"


def test_what_can_not_be_told_is_said_at_once_and_changes_nothing():
    request = JoinRequestContext("room", None, Context())
    request.reject("no")
    with pytest.raises(TypeError, match="accept put a set into presence"):
        request.accept(presence={1})
    assert (request.accepted, request.presence, request.signals, request.reason) == (False, None, False, "no")
    request.accept(presence=[1], signals=True)
    assert (request.accepted, request.presence, request.signals) == (True, [1], True)
    request.reject()
    assert (request.presence, request.signals) == (None, False)


def presence(broker):
    return parts_of(broker).rooms.presence


# --- several brokers ---


async def test_promise_27_one_entry_over_all_brokers():
    async with brokers(3) as (one, two, three):
        async with (
            testing.backend(one, Greeting) as here,
            testing.backend(two, Greeting),
            testing.backend(three, Greeting) as there,
            SessionClient(one, "/?user=ada&device=desk") as ada,
            SessionClient(two, "/?user=ben&device=desk") as ben,
        ):
            ada.watch(LOBBY)
            await testing.until(lambda: ada.present(LOBBY) == {"ada": 1, "ben": 1})
            ben.watch(LOBBY)
            await testing.until(lambda: ben.present(LOBBY) == {"ada": 1, "ben": 1})
            async with testing.connect(three, "/?user=ada&device=phone&id=phone"):
                for each in (ada, ben):
                    await testing.until(lambda: each.present(LOBBY) == {"ada": 2, "ben": 1})  # noqa: B023
                    assert each.core.presence.members(LOBBY)["ada"].info == {"device": "phone"}
                found = {each.user: each.connections for each in await there.presence(LOBBY)}
                assert found == {"ada": 2, "ben": 1}
                assert await here.set_presence("phone", LOBBY, "from another broker") is True
                await testing.until(lambda: ben.core.presence.members(LOBBY)["ada"].info == "from another broker")
            for each in (ada, ben):
                await testing.until(lambda: each.present(LOBBY) == {"ada": 1, "ben": 1})  # noqa: B023
                assert not any(change.left for change in each.presence)


async def test_promise_27_brokers_that_were_apart_tell_each_other_when_they_are_back():
    async with brokers(2, bounds=Bounds(presence_renewal=0.2)) as (one, two):
        async with (
            testing.backend(one, Greeting) as here,
            testing.backend(two, Greeting) as there,
            SessionClient(one, "/?user=ada&device=desk") as ada,
            SessionClient(two, "/?user=ben&device=desk") as ben,
        ):
            ada.watch(LOBBY)
            await testing.until(lambda: ada.present(LOBBY) == {"ada": 1, "ben": 1})
            one.engine.together.cut()
            async with SessionClient(one, "/?user=cem") as cem:  # who asks meanwhile sees who is here
                cem.watch(LOBBY)
                await testing.until(lambda: "ada" in cem.present(LOBBY))
            await there.set_presence(ben.name, LOBBY, "changed")
            await here.set_presence(ada.name, LOBBY, "changed")
            await testing.until(lambda: ada.core.presence.members(LOBBY)["ada"].info == "changed")
            with pytest.raises(PyStrandsError, match="other brokers can't be reached"):
                await here.presence(LOBBY)
            assert [each.user for each in await here.presence(LOBBY, partial=True)] == ["ada"]
            await asyncio.sleep(0.3)  # what was to be told is not
            assert ada.core.presence.members(LOBBY)["ben"].info != "changed"
            one.engine.together.mend()
            await testing.until(lambda: ada.core.presence.members(LOBBY)["ben"].info == "changed")
            assert not any(change.left for change in ada.presence)


async def test_promise_27_who_was_present_at_a_broker_that_is_gone_leaves_later():
    async with brokers(1, bounds=Bounds(presence_grace=0.3)) as (one,):
        together = one.engine.together
        async with testing.backend(one, Greeting), SessionClient(one, "/?user=ada&device=desk") as ada:
            ada.watch(LOBBY)
            await testing.until(lambda: ada.present(LOBBY) == {"ada": 1})
            async with brokers(1, together) as (two,), testing.backend(two, Greeting):
                async with testing.connect(two, "/?user=ben&device=desk"):  # it came when somebody wanted to know
                    await testing.until(lambda: ada.present(LOBBY) == {"ada": 1, "ben": 1})
                    together.cut()
                    one.engine.is_cut = False
                    one.engine.peers = []
                    one.engine.node.on_peers([])
                    assert ada.present(LOBBY) == {"ada": 1, "ben": 1}
                    await testing.until(lambda: ada.present(LOBBY) == {"ada": 1})
                    together.mend()
                    await testing.until(lambda: ada.present(LOBBY) == {"ada": 1, "ben": 1})
