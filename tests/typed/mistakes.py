"""Mistakes that type checkers have to tell of; not run. One without its complaint fails test_checkers.py."""
# ruff: noqa: B018
# mypy: warn-unused-ignores
# pyright: reportUnnecessaryTypeIgnoreComment=true

from pystrands import AsyncPyStrandsClient, Confirmation, ConnectionRequestContext, Context, PyStrands, PyStrandsClient


class Async(AsyncPyStrandsClient):
    async def on_message(self, message: str) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]

    async def on_error(self, error: int, context: Context) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]

    def on_disconnect(self, context: Context, code: int) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]


class Threads(PyStrandsClient):
    async def on_message(self, message: str, context: Context) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]

    def on_connection_request(self, request: ConnectionRequestContext) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return request.url


async def asynchronous(client: AsyncPyStrandsClient, flag: bool) -> None:
    client.send_room_message("r", "x")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    await client.send_room_message("r", {"a": 1})  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.send_room_message("r", "x", timeuot=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await client.send_room_message("r", "x", key=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.send_private_message("c", "x", exclude="a")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    (await client.send_room_message("r", "x")).matched  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    sent: bool = await client.broadcast_message("x", confirm=True)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    either: Confirmation = await client.broadcast_message("x", confirm=flag)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await client.join_room("c", 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(sent, either)


def options(client: AsyncPyStrandsClient) -> None:
    AsyncPyStrandsClient(port="8081")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AsyncPyStrandsClient(max_workers=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    PyStrandsClient(max_concurrency=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.reconnect_delay = "1"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


def threaded(client: PyStrandsClient) -> None:
    client.send_private_message("c")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    client.send_room_message("r", 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    confirmation: Confirmation = client.send_room_message("r", "x")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(confirmation)
    PyStrandsClient(prot=8081)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


app = PyStrands()


@app.on_message  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def no_context(message: str) -> None: ...


@app.on_new_connection  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def one_more(context: Context, more: int) -> None: ...


@app.on_connection_request  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def no_answer(request: ConnectionRequestContext) -> str:
    return request.url


@app.on_connection_request  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def no_answer_later(request: ConnectionRequestContext) -> str:
    return request.url


@app.on_error  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def swapped(context: Context, error: str) -> None: ...


async def app_in_async_functions() -> None:
    (await app.send_room_message("r", "x")).matched  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    confirmation: Confirmation = await app.broadcast("x")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(confirmation)


def app_in_plain_functions() -> None:
    app.send_room_message("r", "x").matched  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    app.room_members("r")[0].name  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    app.send_room_message("r", ["x"])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
