"""All three clients and the broker at work, as a program: test_optimised.py runs it with -O, and warnings as errors.

It checks with ``same()``: an assert would not be there. ``__debug__`` is printed for the test to see.
"""

import gc
import logging
import sys

from pystrands import AsyncPyStrandsClient, Confirmation, PyStrands, PyStrandsClient, testing

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")


def same(what, expected):
    if what != expected:
        raise SystemExit(f"{what!r} came where {expected!r} was expected")


def steps(client, context):
    """Every method, for one client that is alone."""
    me, room = context.client_id, context.room_id
    yield client.send_private_message(me, "private")
    yield client.send_room_message(room, "room", exclude="somebody else")
    yield client.broadcast_message("all", confirm=True)
    yield client.send_room_message(room, "newest", key="k")
    yield client.join_room(me, "more")
    yield client.room_members("more")
    yield client.leave_room(me, "more")
    yield client.update_metadata(me, {"seen": True})
    yield client.disconnect_client("nobody")


def verdict(results, context):
    *sent, confirmed, _, joined, members, left, updated, closed = results
    same(sent, [True, True])
    same(confirmed, Confirmation(matched=1, skipped=0))
    same((joined, left, updated, closed), (True, True, True, False))
    same([member.client_id for member in members], [context.client_id])
    return "done"


def let_in(request):
    request.context.metadata = {"name": request.query.get("name", [""])[0]}
    return True if request.context.metadata["name"] else request.reject(401, "who are you?")


class Async(AsyncPyStrandsClient):
    def on_connection_request(self, request):
        return let_in(request)

    async def on_message(self, message, context):
        if message == "steps":
            message = verdict([await step for step in steps(self, context)], context)
        elif message == "fail":
            raise ValueError("on purpose")
        await self.send_private_message(context.client_id, message)

    async def on_error(self, error, context):
        await super().on_error(error, context)
        await self.send_private_message(context.client_id, repr(context.exception))

    async def on_disconnect(self, context):
        await self.broadcast_message(f"{context.metadata} left: {context.close_code}")


class Threads(PyStrandsClient):
    def on_connection_request(self, request):
        return let_in(request)

    def on_message(self, message, context):
        if message == "steps":
            message = verdict(list(steps(self, context)), context)
        elif message == "fail":
            raise ValueError("on purpose")
        self.send_private_message(context.client_id, message)

    def on_error(self, error, context):
        super().on_error(error, context)
        self.send_private_message(context.client_id, repr(context.exception))

    def on_disconnect(self, context):
        self.broadcast_message(f"{context.metadata} left: {context.close_code}")


def decorated(**options):
    app = PyStrands(**options)
    app.on_connection_request(let_in)

    @app.on_message
    async def on_message(message, context):
        if message == "steps":
            message = verdict([await step for step in steps(app, context)], context)
        elif message == "fail":
            raise ValueError("on purpose")
        await app.send_private_message(context.client_id, message)

    @app.on_error
    def on_error(error, context):
        app.send_private_message(context.client_id, repr(context.exception))

    @app.on_disconnect
    def on_disconnect(context):
        app.broadcast(f"{context.metadata} left: {context.close_code}")

    return app


def round_trip(broker, kind):
    with testing.LinkProxy(broker) as link, testing.backend_thread(link, kind):
        try:
            testing.connect_sync(broker, "/")
        except testing.Rejected as rejected:
            same(rejected.status, 401)
        with testing.connect_sync(broker, "/lobby?name=ada") as client:
            client.send("steps")
            for expected in ("private", "room", "all", "newest", "done"):
                client.expect(expected)
            for message in ("hello", b"\x00\xff"):
                client.send(message)
                client.expect(message)
            client.send("fail")
            client.expect("ValueError('on purpose')")
            link.cut()
            client.send("again")
            client.expect("again")
            with testing.connect_sync(broker, "/lobby?name=bob") as leaving:
                leaving.close(4000)
            client.expect("{'name': 'bob'} left: 4000")
        testing.until_sync(lambda: broker.client_count == 0)


with testing.broker_thread() as broker:
    for kind in (Async, Threads, decorated):
        round_trip(broker, kind)
gc.collect()
print(__debug__)
