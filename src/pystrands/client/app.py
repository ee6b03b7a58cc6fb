"""The client as an application with decorators."""
# mypy: disable-error-code="no-any-return"
# The methods return at run time what their thread needs: see signatures.

import inspect
import logging
import ssl
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, Unpack, overload

from pystrands.client import requests
from pystrands.client.advice import advise
from pystrands.client.anywhere import Anywhere
from pystrands.client.base import HANDLERS, NOT_MADE, BaseClient
from pystrands.client.connection.link_info import LinkInfo
from pystrands.client.core import REQUEST_TIMEOUT, BackendCore
from pystrands.client.decorators import Handler, PyStrandsDecorators, Registered, TypedHandlers
from pystrands.client.history import HistoryMessage
from pystrands.client.loops import LoopRun
from pystrands.client.options import ThreadOptions, options_of
from pystrands.client.requests import AT_ONCE, TO_EVERYONE
from pystrands.client.signatures import (
    BoolOrAwaitable,
    ConfirmationOrAwaitable,
    ContextsOrAwaitable,
    HistoryOrAwaitable,
    IntOrAwaitable,
    MembersOrAwaitable,
    Message,
    NoneOrAwaitable,
    ToMany,
    ToOne,
    ToRoom,
)
from pystrands.client.threads import Bridge, loop_runs_here
from pystrands.errors import EventError, RequestFailed
from pystrands.events import as_json
from pystrands.protocol.printable import printable

__all__ = ["PyStrands"]

logger = logging.getLogger(__name__)

_OF_MESSAGES: Final = ("on_message", "on_request")


async def _without_result(call: Any) -> None:
    """Wait for a handler whose result is no reply."""
    if inspect.isawaitable(call):
        await call


def _nothing() -> None:
    """Return None: where nothing is connected there is nothing to disconnect."""


class PyStrands(PyStrandsDecorators, BaseClient, ThreadOptions):
    """A backend in decorator form.

    For example::

        app = PyStrands(host="localhost", port=8081)


        @app.on_message
        def echo(message, context):
            app.send_room_message(context.room_id, f"echo: {message}")


        app.run()

    Handlers are async functions, which run on the event loop, or plain ones, which run on up to ``max_workers``
    threads. One client's events are handled one at a time, in order; different clients' concurrently. A handler that
    raises is logged and told to that of ``on_error``. Events without a handler are accepted or logged.

    ``send_room_message``, ``send_private_message``, ``broadcast_message`` and its other name ``broadcast`` return
    whether the message was handed to the link. In async functions they are awaited; in plain handlers, and in every
    thread that runs no event loop, they are called directly, and block only under back-pressure: of the link, and of
    the client or the room that the message is for.
    """

    __core: BackendCore = NOT_MADE
    __calls: Anywhere = NOT_MADE
    __typed: TypedHandlers = NOT_MADE
    __registered: Registered = NOT_MADE

    def __init__(
        self,
        host: str | Sequence[str] = "localhost",
        port: int = 8081,
        auto_reconnect: bool = True,
        reconnect_delay: float = 1.0,
        max_reconnect_delay: float = 30.0,
        reconnect_backoff: float = 2.0,
        *,
        max_concurrency: int = 1000,
        max_workers: int = 32,
        handler_timeout: float | None = None,
        send_only: bool = False,
        name: str | None = None,
        token: str | None = None,
        ssl: ssl.SSLContext | bool | None = None,
    ) -> None:
        """Make an app, which is not connected yet.

        ``host``, ``port``: the broker's address for backends; of several brokers a list of hosts, in which each may
        have a port of its own (``["red:8081", "blue:8082"]``), or a name that stands for all of them. One that can be
        reached is enough where the brokers are a cluster: it tells of the others. ``auto_reconnect``: connect again
        when the link is lost, after ``reconnect_delay`` (seconds), each time ``reconnect_backoff`` times longer, up to
        ``max_reconnect_delay`` (seconds); each delay is shortened at random by up to a quarter, so that backends do not
        all come back at once. ``max_concurrency``: how many handlers run at once. ``max_workers``: how many threads
        there are for plain handlers, at most. ``handler_timeout`` (seconds): a handler that takes longer is cancelled,
        which counts as its failure; on a thread it runs on beside the next; None: never. ``send_only``: for programs
        that only send, such as cron jobs: the broker gives them no clients, and no callback is called but ``on_error``.
        ``name``: names this backend in the broker's log. ``token``: what the broker wants of its backends; None: that
        of the environment, ``PYSTRANDS_TOKEN``, if there is one; only sent to a broker that has said hello, and never
        logged. ``ssl``: connect with TLS; an ``ssl.SSLContext``, or True for the default one. Raises ConfigError,
        naming the parameter, on a value that can't work.
        """
        BaseClient.__init__(self, locals())
        advise(type(self), HANDLERS, overridden=False)
        self.__registered = Registered()
        self.__typed = TypedHandlers()
        PyStrandsDecorators.__init__(self, self.__registered, self.__typed)
        self.__core = BackendCore(partial(options_of, self), self.__invoke)
        self.__calls = Anywhere(self.__core)

    def __invoke(self, name: str, args: tuple[Any, ...]) -> Any:
        registered = self.__registered.get(name)
        if self.__typed and name in _OF_MESSAGES:
            registered, args = self.__typed_or(registered, name, args)
        if registered is not None:
            function, is_async = registered
            if is_async:
                return function(*args)
            bridge = self.__calls.bridge
            assert bridge is not None  # it is there while the app runs
            return bridge.run_plain(name, function, args)
        if name == "on_request":
            return _without_result(self.__invoke("on_message", args))
        if name == "on_error":
            error, context = args
            if context.exception is None:  # else it is logged already
                logger.error("client %r: %s", context.client_id, printable(error))
        return args[0].accepted if name == "on_connection_request" else None

    def __typed_or(
        self, registered: tuple[Handler, bool] | None, name: str, args: tuple[Any, ...]
    ) -> tuple[tuple[Handler, bool] | None, tuple[Any, ...]]:
        """Return the handler of a message, and its arguments: that of its kind, or the one that there is for all."""
        message, context = args
        try:
            found = self.__typed.find(message)
            if found is None and registered is None and self.__registered.get("on_message") is None:
                raise EventError("the message is no event that has a handler")  # noqa: TRY301 - told as the other one
        except EventError as error:
            if name == "on_request":
                raise RequestFailed("bad_event", str(error)) from None
            raise
        return (registered, args) if found is None else (found[:2], (found[2], context))

    # -- running

    @property
    def connected(self) -> bool:
        """Whether a link to a broker is up; False from the moment :meth:`disconnect` is called."""
        return self.__core.connected

    @property
    def links(self) -> tuple[LinkInfo, ...]:
        """What there is to tell of each link: one for each broker, a :class:`LinkInfo`; none when not connected."""
        return self.__core.links

    def run(self) -> None:
        """Connect, and block until the app is disconnected; on uvloop where there is one.

        With ``auto_reconnect`` it keeps trying, also when the first attempt fails. Raises Refused when the broker does
        not take the token, at once or when the link was lost: trying again would not help. Ctrl-C disconnects,
        giving handlers a second, and returns; so does SIGTERM in the main thread, giving them five, and on a daemon
        thread the program's exit. Raises RuntimeError inside a running event loop: await :meth:`run_async` there.
        """
        if loop_runs_here():
            raise RuntimeError("app.run() was called inside a running event loop; use: await app.run_async()")
        try:
            LoopRun().run(self.run_async())
        except KeyboardInterrupt:
            logger.info("interrupted; disconnected")

    async def run_async(self) -> None:
        """Connect, and wait until the app is disconnected.

        With ``auto_reconnect`` it keeps trying, also when the first attempt fails. Without, it returns when the first
        attempt fails or the link is lost. Cancelling it disconnects, giving handlers a second, and raises
        CancelledError. Raises Refused when the broker does not take the token, at once or when the link was lost:
        trying again would not help. Raises RuntimeError when the app runs already.
        """
        run_forever = self.__core.run_forever
        bridge = self.__calls.bridge
        if bridge is not None and not bridge.is_over:
            raise RuntimeError("the app runs already")
        self.__calls.bridge = bridge = Bridge(self.__core, self.max_workers)
        try:
            await run_forever()
        finally:
            bridge.close()
            self.__calls.bridge = None

    def disconnect(self, timeout: float = 5.0) -> NoneOrAwaitable:
        """Disconnect, and wait until that is done; ``run`` and ``run_async`` return.

        Await it in async functions; call it directly in plain ones.

        ``timeout`` (seconds): how long handlers may take that have begun; those that are not finished then are
        cancelled, or on threads left to themselves. What they send is still sent. Inside a handler it does not wait for
        that handler.
        """
        return self.__calls.do(self.__core.disconnect, timeout, gone=_nothing)

    # -- sending

    @overload
    def broadcast_message(
        self, message: Message, *, confirm: Literal[False] = False, **options: Unpack[ToMany]
    ) -> BoolOrAwaitable: ...

    @overload
    def broadcast_message(
        self, message: Message, *, confirm: Literal[True], **options: Unpack[ToMany]
    ) -> ConfirmationOrAwaitable: ...

    @overload
    def broadcast_message(
        self, message: Message, *, confirm: bool, **options: Unpack[ToMany]
    ) -> BoolOrAwaitable | ConfirmationOrAwaitable: ...

    def broadcast_message(
        self,
        message: Message,
        *,
        exclude: str | Iterable[str] = (),
        confirm: bool = False,
        timeout: float | None = None,
        volatile: bool = False,
        key: str | None = None,
    ) -> Any:
        """Send a message to all clients; return whether it was handed to the link.

        Await it in async functions; call it directly in plain ones.

        ``message``: str for a text frame, bytes for a binary one. ``exclude`` (``client_id`` or several): who does not
        get it. ``confirm``: wait for the broker's answer, too, and return a :class:`Confirmation`. ``timeout``
        (seconds): how long it may wait, None for as long as it takes, and 10 with ``confirm``. ``volatile``: wait for
        nothing; who is not up to date misses it. ``key`` (str): the same, but who is not up to date gets the newest
        message of that key, in the place of the one that it replaces.

        Waits, or in plain functions blocks, while 256 KiB are on their way to the broker, and while most clients are
        behind takes no more. Returns False when the client is not connected, or after ``timeout``: then nothing is
        sent.

        Raises TypeError when the message is neither str nor bytes or an id is no str, MessageTooBig when it is longer
        than the broker takes, BinaryNotSupported when it is bytes and the broker knows only text, MessageError when a
        str can't be written in UTF-8, ValueError on an empty ``key``. With ``confirm`` also NotConnected without a
        link, NotSupported when the broker is the original one, TimeoutError without an answer in time (the message may
        still be sent), OutcomeUnknown when the broker was replaced meanwhile.
        """
        replaces = requests.volatile_key(volatile, key)
        if confirm:
            return self.__calls.do(
                self.__core.confirm,
                lambda as_: requests.broadcast(message, self.__core.broker, exclude, as_, replaces),
                timeout,
                TO_EVERYONE if replaces is None else "",
            )
        line = requests.broadcast(message, self.__core.broker, exclude, "", replaces)
        return self.__calls.send(line, TO_EVERYONE if replaces is None else AT_ONCE, timeout)

    broadcast = broadcast_message

    @overload
    def send_room_message(
        self, room_id: str, message: Message, *, confirm: Literal[False] = False, **options: Unpack[ToRoom]
    ) -> BoolOrAwaitable: ...

    @overload
    def send_room_message(
        self, room_id: str, message: Message, *, confirm: Literal[True], **options: Unpack[ToRoom]
    ) -> ConfirmationOrAwaitable: ...

    @overload
    def send_room_message(
        self, room_id: str, message: Message, *, confirm: bool, **options: Unpack[ToRoom]
    ) -> BoolOrAwaitable | ConfirmationOrAwaitable: ...

    def send_room_message(
        self,
        room_id: str,
        message: Message,
        *,
        exclude: str | Iterable[str] = (),
        confirm: bool = False,
        timeout: float | None = None,
        volatile: bool = False,
        key: str | None = None,
        history: bool = True,
    ) -> Any:
        """Send a message to the clients in a room; return whether it was handed to the link.

        Await it in async functions; call it directly in plain ones.

        ``room_id`` (str): the room. ``message``: str for a text frame, bytes for a binary one. ``exclude``
        (``client_id`` or several): who does not get it. ``confirm``: wait for the broker's answer, too, and return a
        :class:`Confirmation`. ``timeout`` (seconds): how long it may wait, None for as long as it takes, and 10 with
        ``confirm``. ``volatile``: wait for nothing; who is not up to date misses it. ``key`` (str): the same, but who
        is not up to date gets the newest message of that key, in the place of the one that it replaces.
        ``history``: whether the room's history has it, where that is kept.

        Waits, or in plain functions blocks, while 256 KiB are on their way to the broker, and while most clients in the
        room are behind takes no more. Returns False when the client is not connected, or after ``timeout``: then
        nothing is sent.

        Raises TypeError when the message is neither str nor bytes or an id is no str, MessageTooBig when it is longer
        than the broker takes, BinaryNotSupported when it is bytes and the broker knows only text, MessageError when a
        str can't be written in UTF-8, ValueError on an empty ``key``. With ``confirm`` also NotConnected without a
        link, NotSupported when the broker is the original one, TimeoutError without an answer in time (the message may
        still be sent), OutcomeUnknown when the broker was replaced meanwhile.
        """
        replaces = requests.volatile_key(volatile, key)
        if confirm:
            return self.__calls.do(
                self.__core.confirm,
                lambda as_: requests.room_message(
                    room_id, message, self.__core.broker, exclude, as_, replaces, history
                ),
                timeout,
                requests.to_room(room_id) if replaces is None else "",
            )
        line = requests.room_message(room_id, message, self.__core.broker, exclude, "", replaces, history)
        return self.__calls.send(line, requests.to_room(room_id) if replaces is None else AT_ONCE, timeout)

    @overload
    def send_user_message(
        self, user: str, message: Message, *, confirm: Literal[False] = False, **options: Unpack[ToMany]
    ) -> BoolOrAwaitable: ...

    @overload
    def send_user_message(
        self, user: str, message: Message, *, confirm: Literal[True], **options: Unpack[ToMany]
    ) -> ConfirmationOrAwaitable: ...

    @overload
    def send_user_message(
        self, user: str, message: Message, *, confirm: bool, **options: Unpack[ToMany]
    ) -> BoolOrAwaitable | ConfirmationOrAwaitable: ...

    def send_user_message(
        self,
        user: str,
        message: Message,
        *,
        exclude: str | Iterable[str] = (),
        confirm: bool = False,
        timeout: float | None = None,
        volatile: bool = False,
        key: str | None = None,
    ) -> Any:
        """Send a message to all clients of a user; return whether it was handed to the link.

        Await it in async functions; call it directly in plain ones.

        ``user`` (str): who it is, as ``request.accept(user=...)`` said. ``message``: str for a text frame, bytes for a
        binary one. ``exclude`` (``client_id`` or several): who does not get it. ``confirm``: wait for the broker's
        answer, too, and return a :class:`Confirmation`. ``timeout`` (seconds): how long it may wait, None for as long
        as it takes, and 10 with ``confirm``. ``volatile``: wait for nothing; who is not up to date misses it. ``key``
        (str): the same, but who is not up to date gets the newest message of that key, in the place of the one that it
        replaces.

        Waits, or in plain functions blocks, while 256 KiB are on their way to the broker, and while most of these
        clients are behind takes no more. Returns False when the client is not connected, or after ``timeout``: then
        nothing is sent.

        Raises TypeError when the message is neither str nor bytes or an id is no str, MessageTooBig when it is longer
        than the broker takes, BinaryNotSupported when it is bytes and the broker knows only text, MessageError when a
        str can't be written in UTF-8, ValueError on an empty ``key``, NotSupported when the broker is the original one,
        which knows no users. With ``confirm`` also NotConnected without a link, TimeoutError without an answer in time
        (the message may still be sent), OutcomeUnknown when the broker was replaced meanwhile.
        """
        replaces = requests.volatile_key(volatile, key)
        if confirm:
            return self.__calls.do(
                self.__core.confirm,
                lambda as_: requests.user_message(user, message, self.__core.broker, exclude, as_, replaces),
                timeout,
                requests.to_user(user) if replaces is None else "",
            )
        line = requests.user_message(user, message, self.__core.broker, exclude, "", replaces)
        return self.__calls.send(line, requests.to_user(user) if replaces is None else AT_ONCE, timeout)

    @overload
    def send_private_message(
        self, client_id: str, message: Message, *, confirm: Literal[False] = False, **options: Unpack[ToOne]
    ) -> BoolOrAwaitable: ...

    @overload
    def send_private_message(
        self, client_id: str, message: Message, *, confirm: Literal[True], **options: Unpack[ToOne]
    ) -> ConfirmationOrAwaitable: ...

    @overload
    def send_private_message(
        self, client_id: str, message: Message, *, confirm: bool, **options: Unpack[ToOne]
    ) -> BoolOrAwaitable | ConfirmationOrAwaitable: ...

    def send_private_message(
        self,
        client_id: str,
        message: Message,
        *,
        confirm: bool = False,
        timeout: float | None = None,
        volatile: bool = False,
        key: str | None = None,
    ) -> Any:
        """Send a message to one client; return whether it was handed to the link.

        Await it in async functions; call it directly in plain ones.

        ``client_id`` (str): whom it is for. ``message``: str for a text frame, bytes for a binary one. ``confirm``:
        wait for the broker's answer, too, and return a :class:`Confirmation`. ``timeout`` (seconds): how long it may
        wait, None for as long as it takes, and 10 with ``confirm``. ``volatile``: wait for nothing; who is not up to
        date misses it. ``key`` (str): the same, but who is not up to date gets the newest message of that key, in the
        place of the one that it replaces.

        Waits, or in plain functions blocks, while 256 KiB are on their way to the broker, and while that client is
        behind takes no more. Returns False when the client is not connected, or after ``timeout``: then nothing is
        sent.

        Raises TypeError when the message is neither str nor bytes or an id is no str, MessageTooBig when it is longer
        than the broker takes, BinaryNotSupported when it is bytes and the broker knows only text, MessageError when a
        str can't be written in UTF-8, ValueError on an empty ``key``. With ``confirm`` also NotConnected without a
        link, NotSupported when the broker is the original one, TimeoutError without an answer in time (the message may
        still be sent), OutcomeUnknown when the broker was replaced meanwhile.
        """
        replaces = requests.volatile_key(volatile, key)
        if confirm:
            return self.__calls.do(
                self.__core.confirm,
                lambda as_: requests.private_message(client_id, message, self.__core.broker, as_, replaces),
                timeout,
                requests.to_client(client_id) if replaces is None else "",
            )
        line = requests.private_message(client_id, message, self.__core.broker, "", replaces)
        return self.__calls.send(line, requests.to_client(client_id) if replaces is None else AT_ONCE, timeout)

    # -- rooms and clients

    def join_room(
        self, client_id: str, room_id: str, *, timeout: float = REQUEST_TIMEOUT, signals: bool = False
    ) -> BoolOrAwaitable:
        """Put a client into one more room; return whether the client existed.

        Await it in async functions; call it directly in plain ones.

        ``client_id``, ``room_id`` (str): who, and where to. ``timeout`` (seconds): how long to wait for the broker's
        answer. ``signals``: a client of `pystrands.v1` may send signals there, until it leaves; one that is in the room
        already may from now on.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str, ValueError on a room's name that is too long, and PyStrandsError, with
        what to do, when the client is in as many rooms as it may be.
        """
        return self.__calls.do(
            self.__core.found, requests.join_room(client_id, room_id, self.__core.broker, signals), timeout
        )

    def leave_room(self, client_id: str, room_id: str, *, timeout: float = REQUEST_TIMEOUT) -> BoolOrAwaitable:
        """Take a client out of a room; return whether the client existed.

        Await it in async functions; call it directly in plain ones.

        ``client_id``, ``room_id`` (str): who, and where from. ``timeout`` (seconds): how long to wait for the broker's
        answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str.
        """
        return self.__calls.do(self.__core.found, requests.leave_room(client_id, room_id), timeout)

    def room_members(
        self, room_id: str, *, timeout: float = REQUEST_TIMEOUT, partial: bool = False
    ) -> ContextsOrAwaitable:
        """Return the contexts of the clients in a room, in no order.

        Await it in async functions; call it directly in plain ones.

        ``room_id`` (str): the room; nobody is in one that nobody has joined. ``timeout`` (seconds): how long to wait
        for the broker's answer. ``partial``: of several brokers, leave out what one of them does not tell in time,
        instead of raising PyStrandsError.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str.
        """
        return self.__calls.do(self.__core.members, requests.room_members(room_id, partial), timeout)

    def presence(self, room_id: str, *, timeout: float = REQUEST_TIMEOUT, partial: bool = False) -> MembersOrAwaitable:
        """Return who is present in a room: a :class:`Member` for each user, at however many clients and brokers.

        Await it in async functions; call it directly in plain ones.

        Present is who was said to be, by :meth:`set_presence`; of clients that are nobody's each is one. ``room_id``
        (str): the room. ``timeout`` (seconds): how long to wait for the broker's answer. ``partial``: of several
        brokers, leave out what one of them does not tell in time, instead of raising PyStrandsError.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str.
        """
        return self.__calls.do(self.__core.present, requests.presence(room_id, partial), timeout)

    def set_presence(
        self, client_id: str, room_id: str, info: Any, *, timeout: float = REQUEST_TIMEOUT
    ) -> BoolOrAwaitable:
        """Have a client be present in a room, as one of its user's; return whether the client existed.

        Await it in async functions; call it directly in plain ones.

        Members of the room that want to know see it; a plain WebSocket may be present, but sees nothing. ``client_id``,
        ``room_id`` (str): who, and where: a room that it is in. ``info`` (a JSON value): what is told of it, of up to
        1024 bytes as JSON; what was said last, of any of the user's clients there, counts. None: it is present no more.
        ``timeout`` (seconds): how long to wait for the broker's answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str and on what is not made of JSON values, PyStrandsError when the client
        is not in the room, or ``info`` is too long, or 1000 clients of its broker are present there.
        """
        return self.__calls.do(self.__core.found, requests.set_presence(client_id, room_id, info), timeout)

    def keep_history(
        self, room_id: str, *, limit: int = 100, ttl: float = 300.0, timeout: float = REQUEST_TIMEOUT
    ) -> NoneOrAwaitable:
        """Keep what is sent to a room from now on, as its history; what is older than that stays.

        Await it in async functions; call it directly in plain ones.

        ``room_id`` (str): the room, whether or not somebody is in it. ``limit`` (int): how many messages at most, up to
        1000; 0 ends it. ``ttl`` (seconds): for how long each. ``timeout`` (seconds): how long to wait for the broker's
        answer.

        All brokers do so. They keep it in memory, within ``--history-bytes``, and forget it when they end: so this is
        called again, as often as you like, best where clients come into the room.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (it may still be done), OutcomeUnknown when the broker was replaced meanwhile. Raises TypeError
        or ValueError on what can't be, and PyStrandsError, with what to do, where a broker does not do so.
        """
        return self.__calls.do(
            self.__core.done, requests.keep_history(room_id, limit, ttl, self.__core.broker), timeout
        )

    def room_history(
        self,
        room_id: str,
        *,
        limit: int = 100,
        before: HistoryMessage | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> HistoryOrAwaitable:
        """Return what was sent to a room lately, of those whose history is kept: a :class:`History`.

        Await it in async functions; call it directly in plain ones.

        ``room_id`` (str): the room. ``limit`` (int): how many messages at most, the last ones. ``before``: only such as
        are older than this one of them. ``timeout`` (seconds): how long to wait for the broker's answer. It has what
        the broker has at the other end of the link: one that was started later has less.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time, OutcomeUnknown when the broker was replaced meanwhile. Raises TypeError or ValueError on what
        can't be.
        """
        return self.__calls.do(self.__core.history, requests.room_history(room_id, limit, before), timeout)

    def disconnect_client(
        self, client_id: str, code: int = 1000, reason: str = "", *, timeout: float = REQUEST_TIMEOUT
    ) -> BoolOrAwaitable:
        """Close a client's WebSocket; return whether the client existed.

        Await it in async functions; call it directly in plain ones.

        Its ``on_disconnect`` follows. ``client_id`` (str): whose. ``code`` (int): the close code, 1000 or 3000 to 4999,
        or another that RFC 6455 lets a server send. ``reason`` (str): a text for the client. ``timeout`` (seconds): how
        long to wait for the broker's answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises ValueError on a code that can't be sent, TypeError on an id or a reason that is no str.
        """
        return self.__calls.do(self.__core.found, requests.disconnect_client(client_id, code, reason), timeout)

    def disconnect_user(
        self, user: str, code: int = 1000, reason: str = "", *, timeout: float = REQUEST_TIMEOUT
    ) -> IntOrAwaitable:
        """Close the WebSockets of all clients of a user; return how many these were.

        Await it in async functions; call it directly in plain ones.

        The ``on_disconnect`` of each follows. ``user`` (str): who it is, as ``request.accept(user=...)`` said. ``code``
        (int): the close code, 1000 or 3000 to 4999, or another that RFC 6455 lets a server send. ``reason`` (str): a
        text for the clients. ``timeout`` (seconds): how long to wait for the broker's answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises ValueError on a code that can't be sent, TypeError on a user or a reason that is no str, PyStrandsError
        when one of several brokers has not answered, so that some may not be closed.
        """
        return self.__calls.do(self.__core.matched, requests.disconnect_user(user, code, reason), timeout)

    def update_metadata(
        self, client_id: str, metadata: Mapping[str, Any], *, timeout: float = REQUEST_TIMEOUT
    ) -> BoolOrAwaitable:
        """Set keys of a client's metadata, for its events from now on; return whether the client existed.

        Await it in async functions; call it directly in plain ones.

        ``client_id`` (str): whose. ``metadata`` (dict of JSON values): the keys to set, and their values; others stay.
        ``timeout`` (seconds): how long to wait for the broker's answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on what is not made of JSON values, MessageTooBig or PyStrandsError on more than may be kept of
        one client.
        """
        return self.__calls.do(
            self.__core.found, requests.update_metadata(client_id, metadata, self.__core.broker), timeout
        )

    def send_json(
        self,
        event: Any,
        *,
        room_id: str | None = None,
        client_id: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        volatile: bool = False,
        key: str | None = None,
    ) -> BoolOrAwaitable:
        """Send a value as JSON, to a room, a client or a user; return whether it was handed to the link.

        Await it in async functions; call it directly in plain ones.

        ``event``: a msgspec Struct, a pydantic model, or what is made of JSON values. ``room_id``, ``client_id``,
        ``user`` (str): whom it is for; one of them. All else is as for ``send_room_message``, ``send_private_message``
        and ``send_user_message``, which it calls: their ``timeout`` (seconds), ``volatile``, ``key``, and errors.
        Raises TypeError, too, on what is no JSON, and unless one recipient is named.
        """
        message = as_json(event)
        match requests.recipient(room_id=room_id, client_id=client_id, user=user):
            case "room_id":
                return self.send_room_message(str(room_id), message, timeout=timeout, volatile=volatile, key=key)
            case "client_id":
                return self.send_private_message(str(client_id), message, timeout=timeout, volatile=volatile, key=key)
            case _:
                return self.send_user_message(str(user), message, timeout=timeout, volatile=volatile, key=key)

    # -- requests

    def request(self, client_id: str, message: Message, *, timeout: float = REQUEST_TIMEOUT) -> Any:
        """Ask a client, and return its answer, as its ``onRequest`` gives it: str, or bytes.

        Await it in async functions; call it directly in plain ones.

        ``client_id`` (str): whom. ``message``: str for a text frame, bytes for a binary one. ``timeout`` (seconds):
        how long to wait for the answer, at most an hour. A client that is away is asked when it comes back.

        Raises ClientGone where no client has that id, or it goes before it has answered; RequestFailed, with its
        ``code``, where it answers with an error; NotSupported where it is no client of `pystrands.v1`, or the broker is
        the original one; TimeoutError without an answer in time (it may still be asked); NotConnected without a link;
        OutcomeUnknown when the broker was replaced meanwhile. Of arguments it raises what ``send_private_message``
        does, and ValueError on a timeout that is none.
        """
        encode = requests.request_client(client_id, message, self.__core.broker, timeout)
        return self.__calls.do(self.__core.request, client_id, encode, timeout)
