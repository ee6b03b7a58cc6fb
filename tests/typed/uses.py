"""What type checkers know of every public method; not run. See test_checkers.py."""

from collections.abc import Coroutine, Sequence
from ssl import SSLContext
from typing import Any, assert_type

from msgspec import Struct

from pystrands import (
    AsyncPyStrandsClient,
    Confirmation,
    ConnectionRequestContext,
    Context,
    History,
    JoinRequestContext,
    LinkInfo,
    Member,
    PyStrands,
    PyStrandsClient,
    TokenRequestContext,
)


class Said(Struct, tag=True):
    text: str


# ---- the client for asyncio


class Async(AsyncPyStrandsClient):
    """Callbacks that are async, and call those of the base."""

    async def on_connection_request(self, request: ConnectionRequestContext) -> bool | None:
        if not await super().on_connection_request(request):
            return request.reject(401, "who are you?")
        return request.accept(subprotocol="chat.v1", headers={"X": "y"}, expires_at=1.5)

    async def on_new_connection(self, context: Context) -> None:
        await super().on_new_connection(context)

    async def on_message(self, message: str, context: Context) -> None:
        await super().on_message(message, context)
        assert_type(context.client_id, str)
        assert_type(context.room_id, str)
        assert_type(context.exception, BaseException | None)

    async def on_token(self, request: TokenRequestContext) -> bool | None:
        return await super().on_token(request)

    async def on_join_request(self, request: JoinRequestContext) -> bool | None:
        return await super().on_join_request(request)

    async def on_request(self, message: str, context: Context) -> dict[str, int]:
        await super().on_request(message, context)
        return {"length": len(message)}

    async def on_disconnect(self, context: Context) -> None:
        await super().on_disconnect(context)

    async def on_client_adopted(self, context: Context) -> None:
        await super().on_client_adopted(context)

    async def on_client_released(self, context: Context) -> None:
        await super().on_client_released(context)

    async def on_client_suspended(self, context: Context) -> None:
        await super().on_client_suspended(context)

    async def on_client_resumed(self, context: Context) -> None:
        await super().on_client_resumed(context)

    async def on_error(self, error: str, context: Context) -> None:
        await super().on_error(error, context)


class Plain(AsyncPyStrandsClient):
    """Callbacks that are plain."""

    def on_connection_request(self, request: ConnectionRequestContext) -> bool:
        return bool(request.cookies)

    def on_new_connection(self, context: Context) -> None: ...

    def on_message(self, message: str | bytes, context: Context) -> None: ...

    def on_disconnect(self, context: Context) -> None: ...

    def on_client_adopted(self, context: Context) -> None: ...

    def on_client_released(self, context: Context) -> None: ...

    def on_error(self, error: str, context: Context) -> None: ...


class Derived(Async):
    """The classes of users have subclasses, too."""

    async def on_message(self, message: Any, context: Context) -> None:
        await super().on_message(message, context)


async def asynchronous(client: AsyncPyStrandsClient, confirm: bool) -> None:
    assert_type(client.host, str | Sequence[str])
    assert_type(client.links, tuple[LinkInfo, ...])
    assert_type(client.port, int)
    assert_type(client.connected, bool)
    assert_type(client.reconnect_delay, float)
    assert_type(await client.connect(), bool)
    assert_type(await client.broadcast_message("x"), bool)
    assert_type(await client.broadcast_message("x", exclude="a", timeout=1, volatile=True, key="k"), bool)
    assert_type(await client.broadcast_message(b"x", confirm=True), Confirmation)
    assert_type(await client.broadcast_message("x", confirm=confirm), bool | Confirmation)
    assert_type(await client.send_room_message("r", "x"), bool)
    assert_type(await client.send_room_message("r", "x", confirm=False), bool)
    assert_type(await client.send_user_message("u", "x", exclude="c"), bool)
    assert_type(await client.send_user_message("u", "x", confirm=True), Confirmation)
    assert_type(await client.disconnect_user("u"), int)
    assert_type(await client.send_room_message("r", bytearray(b"x"), exclude=["a"], confirm=True), Confirmation)
    assert_type(await client.send_room_message("r", "x", confirm=confirm, key=None), bool | Confirmation)
    assert_type(await client.send_private_message("c", "x", timeout=None), bool)
    assert_type(await client.send_private_message("c", memoryview(b"x"), confirm=True), Confirmation)
    assert_type(await client.send_private_message("c", "x", confirm=confirm), bool | Confirmation)
    assert_type(await client.join_room("c", "r", timeout=1), bool)
    assert_type(await client.leave_room("c", "r"), bool)
    assert_type(await client.room_members("r"), list[Context])
    assert_type(await client.disconnect_client("c", 4000, "bye"), bool)
    assert_type(await client.update_metadata("c", {"a": [1, None]}), bool)
    assert_type(await client.request("c", "x", timeout=1), str | bytes)
    assert_type(await client.set_presence("c", "r", {"typing": True}), bool)
    assert_type(await client.presence("r"), list[Member])
    await client.keep_history("r", limit=10, ttl=60)
    assert_type(await client.room_history("r"), History)
    assert_type(await client.send_json(Said("x"), room_id="r"), bool)
    coroutine: Coroutine[Any, Any, bool] = client.send_room_message("r", "x")
    assert_type(await coroutine, bool)
    await client.run_forever()
    await client.disconnect(timeout=1)


# ---- the client for threads


class Threads(PyStrandsClient):
    def on_connection_request(self, request: ConnectionRequestContext) -> bool | None:
        return super().on_connection_request(request)

    def on_new_connection(self, context: Context) -> None:
        super().on_new_connection(context)

    def on_message(self, message: bytes, context: Context) -> None:
        super().on_message(message, context)

    def on_token(self, request: TokenRequestContext) -> bool | None:
        return super().on_token(request)

    def on_join_request(self, request: JoinRequestContext) -> bool | None:
        return super().on_join_request(request)

    def on_request(self, message: bytes, context: Context) -> str:
        super().on_request(message, context)
        return "received"

    def on_disconnect(self, context: Context) -> None:
        super().on_disconnect(context)

    def on_client_adopted(self, context: Context) -> None:
        super().on_client_adopted(context)

    def on_client_released(self, context: Context) -> None:
        super().on_client_released(context)

    def on_error(self, error: str, context: Context) -> None:
        super().on_error(error, context)


def threaded(client: PyStrandsClient, confirm: bool) -> None:
    assert_type(client.connected, bool)
    assert_type(client.max_workers, int)
    assert_type(client.connect(), bool)
    assert_type(client.broadcast_message("x"), bool)
    assert_type(client.broadcast_message(b"x", exclude=("a",), confirm=True), Confirmation)
    assert_type(client.broadcast_message("x", confirm=confirm), bool | Confirmation)
    assert_type(client.send_room_message("r", "x", timeout=1), bool)
    assert_type(client.send_user_message("u", "x", confirm=True), Confirmation)
    assert_type(client.disconnect_user("u"), int)
    assert_type(client.send_room_message("r", "x", confirm=True).matched, int)
    assert_type(client.send_room_message("r", "x", confirm=confirm), bool | Confirmation)
    assert_type(client.send_private_message("c", "x", volatile=True), bool)
    assert_type(client.send_private_message("c", "x", confirm=True).skipped, int)
    assert_type(client.send_private_message("c", "x", confirm=confirm), bool | Confirmation)
    assert_type(client.join_room("c", "r"), bool)
    assert_type(client.leave_room("c", "r"), bool)
    assert_type(client.room_members("r"), list[Context])
    assert_type(client.disconnect_client("c"), bool)
    assert_type(client.update_metadata("c", {}), bool)
    assert_type(client.request("c", b"x"), str | bytes)
    assert_type(client.set_presence("c", "r", None), bool)
    assert_type(client.presence("r", partial=True), list[Member])
    client.keep_history("r")
    assert_type(client.room_history("r", limit=5), History)
    assert_type(client.send_json(Said("x"), client_id="c"), bool)
    client.run_forever()
    client.disconnect(1)


def options(client: AsyncPyStrandsClient | PyStrandsClient | PyStrands) -> None:
    assert_type(client.host, str | Sequence[str])
    assert_type(client.links, tuple[LinkInfo, ...])
    assert_type(client.port, int)
    assert_type(client.auto_reconnect, bool)
    assert_type(client.reconnect_delay, float)
    assert_type(client.max_reconnect_delay, float)
    assert_type(client.reconnect_backoff, float)
    assert_type(client.max_concurrency, int)
    assert_type(client.handler_timeout, float | None)
    assert_type(client.send_only, bool)
    assert_type(client.name, str | None)
    assert_type(client.token, str | None)
    assert_type(client.ssl, SSLContext | bool | None)
    client.port = 8082


# ---- the app with decorators

app = PyStrands("127.0.0.1", 8081, max_workers=2, token="secret")


@app.on_connection_request
def let_in(request: ConnectionRequestContext) -> bool | None:
    return None if request.query else request.accepted


@app.on_message
async def echo(message: str, context: Context) -> bool:
    return await app.send_room_message(context.room_id, message)


@app.on(Said)
async def said(event: Said, context: Context) -> None:
    await app.send_json(event, room_id=context.room_id)
    print(app.events, event.text)


@app.on_token
def renew(request: TokenRequestContext) -> bool | None:
    return None


@app.on_join_request
async def let_join(request: JoinRequestContext) -> bool | None:
    await app.keep_history("r")
    assert_type(await app.room_history("r"), History)
    return True


@app.on_request
async def answer(message: str, context: Context) -> str:
    return str(await app.request(context.client_id, message))


@app.on_new_connection
def greet(context: Context) -> None:
    if not app.send_private_message(context.client_id, "hello"):
        print("gone")


@app.on_error
def failed(error: str, context: Context) -> None:
    raise context.exception or RuntimeError(error)


other = PyStrands()


@other.on_connection_request
async def ask(request: ConnectionRequestContext) -> bool:
    return request.url == "/"


@other.on_disconnect
@other.on_client_adopted
@other.on_client_released
async def note(context: Context) -> None:
    await other.update_metadata(context.client_id, {})


other.on_message(lambda message, context: other.send_private_message(context.client_id, message))


async def decorated() -> None:
    """Decorators return what they are given."""
    assert_type(await echo("x", Context("c", "r")), bool)
    assert_type(let_in(ConnectionRequestContext()), bool | None)
    assert_type(await ask(ConnectionRequestContext()), bool)
    assert_type(greet(Context("c", "r")), None)


async def app_in_async_functions(confirm: bool) -> None:
    assert_type(app.connected, bool)
    assert_type(await app.broadcast_message("x"), bool)
    assert_type(await app.broadcast("x", confirm=True), Confirmation)
    assert_type(await app.broadcast_message("x", confirm=confirm), bool | Confirmation)
    assert_type(await app.send_room_message("r", "x"), bool)
    assert_type(await app.send_user_message("u", "x", confirm=True), Confirmation)
    assert_type(await app.disconnect_user("u"), int)
    assert_type(await app.send_room_message("r", "x", confirm=True), Confirmation)
    assert_type(await app.send_room_message("r", "x", confirm=confirm), bool | Confirmation)
    assert_type(await app.send_private_message("c", "x", key="k"), bool)
    assert_type(await app.send_private_message("c", "x", confirm=True), Confirmation)
    assert_type(await app.send_private_message("c", "x", confirm=confirm), bool | Confirmation)
    assert_type(await app.join_room("c", "r"), bool)
    assert_type(await app.leave_room("c", "r"), bool)
    assert_type(await app.room_members("r"), list[Context])
    assert_type(await app.disconnect_client("c", 1000), bool)
    assert_type(await app.update_metadata("c", {}), bool)
    coroutine: Coroutine[Any, Any, bool] = app.send_room_message("r", "x")
    await coroutine
    await app.disconnect()
    await app.run_async()


def app_in_plain_functions(confirm: bool) -> bool:
    app.broadcast_message("x")
    app.broadcast("x", exclude=["a"])
    if app.send_room_message("r", "x") and app.send_private_message("c", "x") and not app.join_room("c", "r"):
        app.leave_room("c", "r")
    confirmation: Confirmation = app.send_room_message("r", "x", confirm=True)
    matched, skipped = app.send_private_message("c", "x", confirm=True)
    assert_type(matched, int)
    assert_type(app.broadcast_message("x", confirm=True).skipped, int)
    members: list[Context] = app.room_members("r")
    names = [member.metadata["name"] for member in app.room_members("r")]
    if app.disconnect_client("c"):
        app.disconnect(1)
    if app.send_room_message("r", "x", confirm=confirm):
        app.run()
    return bool(app.update_metadata("c", {"of": len(members), "names": names, "here": confirmation.matched + skipped}))
