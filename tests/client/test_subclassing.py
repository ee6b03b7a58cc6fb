"""Users' classes may have any attributes and methods, and be dataclasses; one that forgets to set up hears it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from pystrands import AsyncPyStrandsClient, PyStrands, PyStrandsClient, testing

EVERYDAY = [
    "_all", "_ask", "_bridge", "_client", "_clients", "_close", "_connect", "_core", "_do", "_forget", "_handle",
    "_handlers", "_invoke", "_life", "_link", "_lock", "_loop", "_make_core", "_name", "_on_message", "_on_sigterm",
    "_options", "_outage", "_outgoing", "_overrides", "_peer", "_queue", "_register", "_run", "_running", "_runs",
    "_send", "_send_specially", "_start", "_state", "_stop", "_tasks", "_thread", "_workers", "clients", "core", "ids",
    "lock", "loop", "options", "peer", "queue", "rooms", "running", "send", "start", "state", "stop", "tasks", "thread",
]  # fmt: skip


class Async(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        assert len(await self.room_members(context.room_id)) == 1
        confirmed = await self.send_private_message(context.client_id, message, confirm=True)
        assert confirmed.matched == 1


class Threaded(PyStrandsClient):
    def on_message(self, message, context):
        assert len(self.room_members(context.room_id)) == 1
        confirmed = self.send_private_message(context.client_id, message, confirm=True)
        assert confirmed.matched == 1


class Decorated(PyStrands):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)

        @self.on_message
        def handle(message, context):
            assert len(self.room_members(context.room_id)) == 1
            confirmed = self.send_private_message(context.client_id, message, confirm=True)
            assert confirmed.matched == 1


BASES: list[type[Any]] = [Async, Threaded, Decorated]


def with_attributes(base):
    def init(self, *args, **options):
        base.__init__(self, *args, **options)
        for name in EVERYDAY:
            setattr(self, name, "the user's")

    return type(base.__name__, (base,), {"__init__": init})


def with_attributes_set_before(base):
    def init(self, *args, **options):
        for name in EVERYDAY:
            setattr(self, name, "the user's")
        base.__init__(self, *args, **options)
        for name in EVERYDAY:
            assert getattr(self, name) == "the user's"

    return type(base.__name__, (base,), {"__init__": init})


def with_methods(base):
    def helper(self):
        raise AssertionError("the library called a method of the user's")

    return type(base.__name__, (base,), dict.fromkeys(EVERYDAY, helper))


@pytest.mark.parametrize("derive", [with_attributes, with_attributes_set_before, with_methods])
@pytest.mark.parametrize("base", BASES)
async def test_everyday_names_are_the_users(base, derive, caplog):
    async with testing.broker() as broker:
        for _ in range(2):
            async with testing.backend(broker, derive(base)()) as backend, testing.connect(broker, "/r") as client:
                assert backend.connected
                await client.send("hello")
                await client.expect("hello")
    assert "failed" not in caplog.text


def every_private_name_of(instance, base):
    return {name for name in {*vars(instance), *dir(base)} if name.startswith("_") and not name.endswith("__")}


@pytest.mark.parametrize("base", [AsyncPyStrandsClient, PyStrandsClient, PyStrands])
def test_what_is_the_librarys_own_has_mangled_names(base):
    names = every_private_name_of(base(), base)
    assert names
    own = tuple(f"_{each.__name__}__" for each in base.__mro__ if each.__name__.startswith(base.__name__))
    assert {name for name in names if not name.startswith(own)} == set()


@dataclass
class AsyncChat(Async):
    database: str
    rooms: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()


@dataclass
class ThreadedChat(Threaded):
    database: str
    rooms: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()


@dataclass
class DecoratedChat(Decorated):
    database: str

    def __post_init__(self):
        super().__init__()


@pytest.mark.parametrize("kind", [AsyncChat, ThreadedChat, DecoratedChat])
async def test_dataclasses(kind):
    one, other = kind("db"), kind("db")
    assert one == other
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    async with testing.broker() as broker, testing.backend(broker, one), testing.connect(broker, "/r") as client:
        assert one.connected and not other.connected
        await client.send("hello")
        await client.expect("hello")


class Forgetful:
    def __init__(self):
        """Forgets its base class."""


class AsyncForgetful(Forgetful, AsyncPyStrandsClient):
    pass


class ThreadedForgetful(Forgetful, PyStrandsClient):
    pass


class DecoratedForgetful(Forgetful, PyStrands):
    pass


USES = {
    "connected": lambda client: client.connected,
    "connect": lambda client: client.connect(),
    "disconnect": lambda client: client.disconnect(),
    "run_forever": lambda client: client.run_forever(),
    "run_async": lambda client: client.run_async(),
    "on_message": lambda client: client.on_message(lambda message, context: None),
    "send_private_message": lambda client: client.send_private_message("c", "x"),
    "send_room_message": lambda client: client.send_room_message("r", "x"),
    "broadcast_message": lambda client: client.broadcast_message("x"),
    "join_room": lambda client: client.join_room("c", "r"),
    "room_members": lambda client: client.room_members("r"),
}


@pytest.mark.parametrize(
    ("kind", "use"),
    [
        (kind, use)
        for kind in (AsyncForgetful, ThreadedForgetful, DecoratedForgetful)
        for use in USES
        if hasattr(kind, use) and (use != "on_message" or kind is DecoratedForgetful)
    ],
)
async def test_without_the_constructor_of_the_base_every_use_says_so(kind, use):
    def called():
        result = USES[use](kind())
        return asyncio.run(result) if asyncio.iscoroutine(result) else result

    with pytest.raises(RuntimeError, match=r"^super\(\).__init__\(\) was not called: "):
        await asyncio.to_thread(called)
