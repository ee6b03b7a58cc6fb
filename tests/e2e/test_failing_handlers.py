"""A handler that fails is logged once, and `on_error` hears what it raised, whatever that is."""

from typing import Any

import pytest

from pystrands import AsyncPyStrandsClient, Context, PyStrands, PyStrandsClient, testing


class WordlessError(Exception):
    """One of a library whose text can't be made."""

    def __str__(self):
        raise LookupError("no text")


WRONG = {"ordinary": ValueError("wrong"), "wordless": WordlessError()}


def fail(message):
    raise WRONG[message]


class Async(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        if message in WRONG:
            fail(message)
        await self.send_private_message(context.client_id, message)


class Threaded(PyStrandsClient):
    def on_message(self, message, context):
        if message in WRONG:
            fail(message)
        self.send_private_message(context.client_id, message)


def decorated(told=None):
    app = PyStrands()

    @app.on_message
    def handle(message, context):
        if message in WRONG:
            fail(message)
        app.send_private_message(context.client_id, message)

    if told is not None:
        app.on_error(lambda error, context: told.append((error, context.exception)))
    return app


def telling(kind, told):
    class TellingAsync(Async):
        async def on_error(self, error, context):
            await super().on_error(error, context)
            told.append((error, context.exception))

    class TellingThreaded(Threaded):
        def on_error(self, error, context):
            super().on_error(error, context)
            told.append((error, context.exception))

    kinds: dict[str, Any] = {"async": TellingAsync, "threads": TellingThreaded}
    return kinds.get(kind) or decorated(told)


async def send(backend, *messages):
    async with testing.broker() as broker, testing.backend(broker, backend), testing.connect(broker) as client:
        for message in messages:
            await client.send(message)
        await client.send("the end")
        await client.expect("the end")


@pytest.mark.parametrize("kind", ["async", "threads", "decorators"])
async def test_on_error_gets_the_exception(kind):
    told: list[tuple[str, BaseException | None]] = []
    await send(telling(kind, told), *WRONG)
    assert told == [
        ("on_message failed: ValueError: wrong", WRONG["ordinary"]),
        ("on_message failed: WordlessError: <its str() raised LookupError>", WRONG["wordless"]),
    ]


@pytest.mark.parametrize("overridden", [True, False])
@pytest.mark.parametrize("kind", ["async", "threads", "decorators"])
async def test_a_failing_handler_is_logged_once(kind, overridden, caplog):
    kinds: dict[str, Any] = {"async": Async, "threads": Threaded}
    await send(telling(kind, []) if overridden else kinds.get(kind) or decorated(), "ordinary")
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info and record.exc_info[1] is WRONG["ordinary"]


def test_the_exception_is_no_part_of_a_context():
    one, other = Context("c"), Context("c")
    one.__dict__["exception"] = ValueError()
    assert one == other
    assert one.to_json() == other.to_json()
    assert repr(one) == repr(other)
    assert other.exception is None
