"""The client for threads."""

import contextlib
import inspect
import logging
import ssl
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack, overload

from pystrands.client import requests
from pystrands.client.advice import advise
from pystrands.client.base import HANDLERS, NOT_MADE, BaseClient
from pystrands.client.confirmation import Confirmation
from pystrands.client.connection.link_info import LinkInfo
from pystrands.client.core import REQUEST_TIMEOUT
from pystrands.client.history import History, HistoryMessage
from pystrands.client.lifetime import CANCELLED_TIMEOUT
from pystrands.client.options import ThreadOptions
from pystrands.client.requests import AT_ONCE, TO_EVERYONE
from pystrands.client.runs import Runs
from pystrands.client.signals import end_all, handling_sigterm
from pystrands.client.signatures import Message, ToMany, ToOne, ToRoom
from pystrands.client.threads import Gone, wait_for
from pystrands.context import ConnectionRequestContext, Context
from pystrands.events import as_json
from pystrands.join_request import JoinRequestContext
from pystrands.presence import Member
from pystrands.protocol.printable import printable
from pystrands.token_request import TokenRequestContext

__all__ = ["PyStrandsClient"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PyStrandsClient(BaseClient, ThreadOptions):
    """A backend for threaded code: override the ``on_*`` callbacks, then call :meth:`run_forever` or :meth:`connect`.

    Callbacks are plain functions that run on up to ``max_workers`` threads; one client's events are handled one at a
    time, in order, different clients' at the same time. A callback that raises is logged and told to :meth:`on_error`.
    All methods may be called from any thread and from callbacks.

    The ``send`` methods take ``str`` (a text frame) or ``bytes`` (a binary frame) and return whether the message was
    handed to the link: False when not connected, which is logged as one warning for each outage. They block while more
    than 256 KiB are on their way to the broker, and while the client or the room that the message is for takes no more.

    All threads are daemons: a client that is still connected does not keep the program running. At the interpreter's
    exit it is disconnected. In a forked child it is not connected; ``connect()`` there makes a connection of its own.
    """

    __runs: Runs = NOT_MADE

    def __init__(
        self,
        host: str | Sequence[str] = "localhost",
        port: int = 8081,
        auto_reconnect: bool = True,
        reconnect_delay: float = 1.0,
        max_reconnect_delay: float = 30.0,
        reconnect_backoff: float = 2.0,
        *,
        max_workers: int = 32,
        handler_timeout: float | None = None,
        send_only: bool = False,
        name: str | None = None,
        token: str | None = None,
        ssl: ssl.SSLContext | bool | None = None,
    ) -> None:
        """Make a client, which is not connected yet and has no threads.

        ``host``, ``port``: the broker's address for backends; of several brokers a list of hosts, in which each may
        have a port of its own (``["red:8081", "blue:8082"]``), or a name that stands for all of them. One that can be
        reached is enough where the brokers are a cluster: it tells of the others. ``auto_reconnect``: connect again
        when the link is lost, after ``reconnect_delay`` (seconds), each time ``reconnect_backoff`` times longer, up to
        ``max_reconnect_delay`` (seconds); each delay is shortened at random by up to a quarter, so that backends do not
        all come back at once. ``max_workers``: how many threads there are for handlers, at most. ``handler_timeout``
        (seconds): a handler that takes longer counts as failed; its thread can't be stopped, and runs on beside the
        next; None: never. ``send_only``: for programs that only send, such as cron jobs: the broker gives them no
        clients, and no callback is called but ``on_error``. ``name``: names this backend in the broker's log.
        ``token``: what the broker wants of its backends; None: that of the environment, ``PYSTRANDS_TOKEN``, if there
        is one; only sent to a broker that has said hello, and never logged. ``ssl``: connect with TLS; an
        ``ssl.SSLContext``, or True for the default one. Raises ConfigError, naming the parameter, on a value that can't
        work. Raises TypeError when a callback is ``async def``.
        """
        super().__init__({**locals(), "max_concurrency": max_workers})
        for handler in HANDLERS:
            if inspect.iscoroutinefunction(getattr(self, handler)):
                raise TypeError(
                    f"{type(self).__name__}.{handler} is async def; PyStrandsClient calls plain functions on threads: "
                    "write def, or use AsyncPyStrandsClient"
                )
        advise(type(self), HANDLERS, overridden=True)
        self.__runs = Runs(self, lambda: self.max_workers)

    @property
    def connected(self) -> bool:
        """Whether a link to a broker is up; False from the moment :meth:`disconnect` is called."""
        running = self.__runs.running
        return running is not None and running.core.connected

    @property
    def links(self) -> tuple[LinkInfo, ...]:
        """What there is to tell of each link: one for each broker, a :class:`LinkInfo`; none when not connected."""
        running = self.__runs.running
        return () if running is None else running.core.links

    def connect(self) -> bool:
        """Connect; return whether that succeeded.

        Tries once, and blocks for up to 10 s, and as much again for a hello that has to come. When it succeeds, and
        ``auto_reconnect`` is set, a lost link is replaced until :meth:`disconnect`. Returns True at once when
        connected; while a lost link is being replaced, tries now. False, too, when the broker refuses the token, which
        is logged. Raises ConfigError when an attribute was set to a value that can't work.
        """
        self.__runs.options()
        try:
            return bool(wait_for(self.__runs.start(lambda core: core.connect)))
        except Gone:  # disconnected meanwhile, by another thread
            return False

    def disconnect(self, timeout: float = 5.0) -> None:
        """Disconnect, and block until that is done; :meth:`run_forever` returns.

        ``timeout`` (seconds): how long handlers may take that have begun; those that are not finished then are left to
        themselves, and what they send is not sent any more.

        No new events are taken. What handlers send is still sent; it returns as soon as they are done and the broker
        has everything. While the link is down, and with ``auto_reconnect``, it tries to get it back until the timeout,
        but only once if there is nothing to deliver. Of messages that were taken and may not have been delivered
        :meth:`on_error` hears how many. Inside a handler it does not wait for that handler. May be called twice, from
        any thread, also at once.
        """
        self.__runs.disconnect(timeout)

    def run_forever(self) -> None:
        """Connect if needed, and block until the client is disconnected.

        With ``auto_reconnect`` it keeps trying, also when the first attempt fails. Without, it returns when the first
        attempt fails or the link is lost, after the handlers of what was received. Raises Refused when the broker does
        not take the token, at once or when the link was lost: trying again would not help. In the main thread Ctrl-C
        disconnects, giving handlers a second, and returns; so does SIGTERM, giving them five, unless the program has a
        handler of its own for it. Both end all clients of the process that run, those of other threads included.
        """
        self.__runs.options()
        future = self.__runs.start(lambda core: core.run_forever)
        try:
            with contextlib.suppress(Gone), handling_sigterm():
                wait_for(future)
        except KeyboardInterrupt:
            logger.info("interrupted; disconnecting")
            end_all()  # on threads that the program would wait for, too
            self.disconnect(CANCELLED_TIMEOUT)

    @overload
    def broadcast_message(
        self, message: Message, *, confirm: Literal[False] = False, **options: Unpack[ToMany]
    ) -> bool: ...

    @overload
    def broadcast_message(
        self, message: Message, *, confirm: Literal[True], **options: Unpack[ToMany]
    ) -> Confirmation: ...

    @overload
    def broadcast_message(
        self, message: Message, *, confirm: bool, **options: Unpack[ToMany]
    ) -> bool | Confirmation: ...

    def broadcast_message(
        self,
        message: Message,
        *,
        exclude: str | Iterable[str] = (),
        confirm: bool = False,
        timeout: float | None = None,
        volatile: bool = False,
        key: str | None = None,
    ) -> bool | Confirmation:
        """Send a message to all clients; return whether it was handed to the link.

        ``message``: str for a text frame, bytes for a binary one. ``exclude`` (``client_id`` or several): who does not
        get it. ``confirm``: wait for the broker's answer, too, and return a :class:`Confirmation`. ``timeout``
        (seconds): how long it may wait, None for as long as it takes, and 10 with ``confirm``. ``volatile``: wait for
        nothing; who is not up to date misses it. ``key`` (str): the same, but who is not up to date gets the newest
        message of that key, in the place of the one that it replaces.

        Blocks while 256 KiB are on their way to the broker, and while most clients are behind takes no more. Returns
        False when the client is not connected, or after ``timeout``: then nothing is sent.

        Raises TypeError when the message is neither str nor bytes or an id is no str, MessageTooBig when it is longer
        than the broker takes, BinaryNotSupported when it is bytes and the broker knows only text, MessageError when a
        str can't be written in UTF-8, ValueError on an empty ``key``. With ``confirm`` also NotConnected without a
        link, NotSupported when the broker is the original one, TimeoutError without an answer in time (the message may
        still be sent), OutcomeUnknown when the broker was replaced meanwhile.
        """
        replaces = requests.volatile_key(volatile, key)
        if confirm:
            return self.__runs.ask(
                lambda core: core.confirm,
                lambda as_: requests.broadcast(message, self.__runs.broker, exclude, as_, replaces),
                timeout,
                TO_EVERYONE if replaces is None else "",
            )
        line = requests.broadcast(message, self.__runs.broker, exclude, "", replaces)
        return self.__runs.send(line, TO_EVERYONE if replaces is None else AT_ONCE, timeout)

    @overload
    def send_room_message(
        self, room_id: str, message: Message, *, confirm: Literal[False] = False, **options: Unpack[ToRoom]
    ) -> bool: ...

    @overload
    def send_room_message(
        self, room_id: str, message: Message, *, confirm: Literal[True], **options: Unpack[ToRoom]
    ) -> Confirmation: ...

    @overload
    def send_room_message(
        self, room_id: str, message: Message, *, confirm: bool, **options: Unpack[ToRoom]
    ) -> bool | Confirmation: ...

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
    ) -> bool | Confirmation:
        """Send a message to the clients in a room; return whether it was handed to the link.

        ``room_id`` (str): the room. ``message``: str for a text frame, bytes for a binary one. ``exclude``
        (``client_id`` or several): who does not get it. ``confirm``: wait for the broker's answer, too, and return a
        :class:`Confirmation`. ``timeout`` (seconds): how long it may wait, None for as long as it takes, and 10 with
        ``confirm``. ``volatile``: wait for nothing; who is not up to date misses it. ``key`` (str): the same, but who
        is not up to date gets the newest message of that key, in the place of the one that it replaces.
        ``history``: whether the room's history has it, where that is kept.

        Blocks while 256 KiB are on their way to the broker, and while most clients in the room are behind takes no
        more. Returns False when the client is not connected, or after ``timeout``: then nothing is sent.

        Raises TypeError when the message is neither str nor bytes or an id is no str, MessageTooBig when it is longer
        than the broker takes, BinaryNotSupported when it is bytes and the broker knows only text, MessageError when a
        str can't be written in UTF-8, ValueError on an empty ``key``. With ``confirm`` also NotConnected without a
        link, NotSupported when the broker is the original one, TimeoutError without an answer in time (the message may
        still be sent), OutcomeUnknown when the broker was replaced meanwhile.
        """
        replaces = requests.volatile_key(volatile, key)
        if confirm:
            return self.__runs.ask(
                lambda core: core.confirm,
                lambda as_: requests.room_message(
                    room_id, message, self.__runs.broker, exclude, as_, replaces, history
                ),
                timeout,
                requests.to_room(room_id) if replaces is None else "",
            )
        line = requests.room_message(room_id, message, self.__runs.broker, exclude, "", replaces, history)
        return self.__runs.send(line, requests.to_room(room_id) if replaces is None else AT_ONCE, timeout)

    @overload
    def send_user_message(
        self, user: str, message: Message, *, confirm: Literal[False] = False, **options: Unpack[ToMany]
    ) -> bool: ...

    @overload
    def send_user_message(
        self, user: str, message: Message, *, confirm: Literal[True], **options: Unpack[ToMany]
    ) -> Confirmation: ...

    @overload
    def send_user_message(
        self, user: str, message: Message, *, confirm: bool, **options: Unpack[ToMany]
    ) -> bool | Confirmation: ...

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
    ) -> bool | Confirmation:
        """Send a message to all clients of a user; return whether it was handed to the link.

        ``user`` (str): who it is, as ``request.accept(user=...)`` said. ``message``: str for a text frame, bytes for a
        binary one. ``exclude`` (``client_id`` or several): who does not get it. ``confirm``: wait for the broker's
        answer, too, and return a :class:`Confirmation`. ``timeout`` (seconds): how long it may wait, None for as long
        as it takes, and 10 with ``confirm``. ``volatile``: wait for nothing; who is not up to date misses it. ``key``
        (str): the same, but who is not up to date gets the newest message of that key, in the place of the one that it
        replaces.

        Blocks while 256 KiB are on their way to the broker, and while most of these clients are behind takes no
        more. Returns False when the client is not connected, or after ``timeout``: then nothing is sent.

        Raises TypeError when the message is neither str nor bytes or an id is no str, MessageTooBig when it is longer
        than the broker takes, BinaryNotSupported when it is bytes and the broker knows only text, MessageError when a
        str can't be written in UTF-8, ValueError on an empty ``key``, NotSupported when the broker is the original one,
        which knows no users. With ``confirm`` also NotConnected without a link, TimeoutError without an answer in time
        (the message may still be sent), OutcomeUnknown when the broker was replaced meanwhile.
        """
        replaces = requests.volatile_key(volatile, key)
        if confirm:
            return self.__runs.ask(
                lambda core: core.confirm,
                lambda as_: requests.user_message(user, message, self.__runs.broker, exclude, as_, replaces),
                timeout,
                requests.to_user(user) if replaces is None else "",
            )
        line = requests.user_message(user, message, self.__runs.broker, exclude, "", replaces)
        return self.__runs.send(line, requests.to_user(user) if replaces is None else AT_ONCE, timeout)

    @overload
    def send_private_message(
        self, client_id: str, message: Message, *, confirm: Literal[False] = False, **options: Unpack[ToOne]
    ) -> bool: ...

    @overload
    def send_private_message(
        self, client_id: str, message: Message, *, confirm: Literal[True], **options: Unpack[ToOne]
    ) -> Confirmation: ...

    @overload
    def send_private_message(
        self, client_id: str, message: Message, *, confirm: bool, **options: Unpack[ToOne]
    ) -> bool | Confirmation: ...

    def send_private_message(
        self,
        client_id: str,
        message: Message,
        *,
        confirm: bool = False,
        timeout: float | None = None,
        volatile: bool = False,
        key: str | None = None,
    ) -> bool | Confirmation:
        """Send a message to one client; return whether it was handed to the link.

        ``client_id`` (str): whom it is for. ``message``: str for a text frame, bytes for a binary one. ``confirm``:
        wait for the broker's answer, too, and return a :class:`Confirmation`. ``timeout`` (seconds): how long it may
        wait, None for as long as it takes, and 10 with ``confirm``. ``volatile``: wait for nothing; who is not up to
        date misses it. ``key`` (str): the same, but who is not up to date gets the newest message of that key, in the
        place of the one that it replaces.

        Blocks while 256 KiB are on their way to the broker, and while that client is behind takes no more. Returns
        False when the client is not connected, or after ``timeout``: then nothing is sent.

        Raises TypeError when the message is neither str nor bytes or an id is no str, MessageTooBig when it is longer
        than the broker takes, BinaryNotSupported when it is bytes and the broker knows only text, MessageError when a
        str can't be written in UTF-8, ValueError on an empty ``key``. With ``confirm`` also NotConnected without a
        link, NotSupported when the broker is the original one, TimeoutError without an answer in time (the message may
        still be sent), OutcomeUnknown when the broker was replaced meanwhile.
        """
        replaces = requests.volatile_key(volatile, key)
        if confirm:
            return self.__runs.ask(
                lambda core: core.confirm,
                lambda as_: requests.private_message(client_id, message, self.__runs.broker, as_, replaces),
                timeout,
                requests.to_client(client_id) if replaces is None else "",
            )
        line = requests.private_message(client_id, message, self.__runs.broker, "", replaces)
        return self.__runs.send(line, requests.to_client(client_id) if replaces is None else AT_ONCE, timeout)

    # -- rooms and clients

    def join_room(
        self, client_id: str, room_id: str, *, timeout: float = REQUEST_TIMEOUT, signals: bool = False
    ) -> bool:
        """Put a client into one more room; return whether the client existed.

        ``client_id``, ``room_id`` (str): who, and where to. ``timeout`` (seconds): how long to wait for the broker's
        answer. ``signals``: a client of `pystrands.v1` may send signals there, until it leaves; one that is in the room
        already may from now on.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str, ValueError on a room's name that is too long, and PyStrandsError, with
        what to do, when the client is in as many rooms as it may be.
        """
        return self.__runs.ask(
            lambda core: core.found, requests.join_room(client_id, room_id, self.__runs.broker, signals), timeout
        )

    def leave_room(self, client_id: str, room_id: str, *, timeout: float = REQUEST_TIMEOUT) -> bool:
        """Take a client out of a room; return whether the client existed.

        ``client_id``, ``room_id`` (str): who, and where from. ``timeout`` (seconds): how long to wait for the broker's
        answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str.
        """
        return self.__runs.ask(lambda core: core.found, requests.leave_room(client_id, room_id), timeout)

    def room_members(self, room_id: str, *, timeout: float = REQUEST_TIMEOUT, partial: bool = False) -> list[Context]:
        """Return the contexts of the clients in a room, in no order.

        ``room_id`` (str): the room; nobody is in one that nobody has joined. ``timeout`` (seconds): how long to wait
        for the broker's answer. ``partial``: of several brokers, leave out what one of them does not tell in time,
        instead of raising PyStrandsError.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str.
        """
        return self.__runs.ask(lambda core: core.members, requests.room_members(room_id, partial), timeout)

    def presence(self, room_id: str, *, timeout: float = REQUEST_TIMEOUT, partial: bool = False) -> list[Member]:
        """Return who is present in a room: a :class:`Member` for each user, at however many clients and brokers.

        Present is who was said to be, by :meth:`set_presence`; of clients that are nobody's each is one. ``room_id``
        (str): the room. ``timeout`` (seconds): how long to wait for the broker's answer. ``partial``: of several
        brokers, leave out what one of them does not tell in time, instead of raising PyStrandsError.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str.
        """
        return self.__runs.ask(lambda core: core.present, requests.presence(room_id, partial), timeout)

    def set_presence(self, client_id: str, room_id: str, info: Any, *, timeout: float = REQUEST_TIMEOUT) -> bool:
        """Have a client be present in a room, as one of its user's; return whether the client existed.

        Members of the room that want to know see it; a plain WebSocket may be present, but sees nothing. ``client_id``,
        ``room_id`` (str): who, and where: a room that it is in. ``info`` (a JSON value): what is told of it, of up to
        1024 bytes as JSON; what was said last, of any of the user's clients there, counts. None: it is present no more.
        ``timeout`` (seconds): how long to wait for the broker's answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on an id that is no str and on what is not made of JSON values, PyStrandsError when the client
        is not in the room, or ``info`` is too long, or 1000 clients of its broker are present there.
        """
        return self.__runs.ask(lambda core: core.found, requests.set_presence(client_id, room_id, info), timeout)

    def keep_history(
        self, room_id: str, *, limit: int = 100, ttl: float = 300.0, timeout: float = REQUEST_TIMEOUT
    ) -> None:
        """Keep what is sent to a room from now on, as its history; what is older than that stays.

        ``room_id`` (str): the room, whether or not somebody is in it. ``limit`` (int): how many messages at most, up to
        1000; 0 ends it. ``ttl`` (seconds): for how long each. ``timeout`` (seconds): how long to wait for the broker's
        answer.

        All brokers do so. They keep it in memory, within ``--history-bytes``, and forget it when they end: so this is
        called again, as often as you like, best where clients come into the room.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (it may still be done), OutcomeUnknown when the broker was replaced meanwhile. Raises TypeError
        or ValueError on what can't be, and PyStrandsError, with what to do, where a broker does not do so.
        """
        self.__runs.ask(lambda core: core.done, requests.keep_history(room_id, limit, ttl, self.__runs.broker), timeout)

    def room_history(
        self,
        room_id: str,
        *,
        limit: int = 100,
        before: HistoryMessage | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> History:
        """Return what was sent to a room lately, of those whose history is kept: a :class:`History`.

        ``room_id`` (str): the room. ``limit`` (int): how many messages at most, the last ones. ``before``: only such as
        are older than this one of them. ``timeout`` (seconds): how long to wait for the broker's answer. It has what
        the broker has at the other end of the link: one that was started later has less.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time, OutcomeUnknown when the broker was replaced meanwhile. Raises TypeError or ValueError on what
        can't be.
        """
        return self.__runs.ask(lambda core: core.history, requests.room_history(room_id, limit, before), timeout)

    def disconnect_client(
        self, client_id: str, code: int = 1000, reason: str = "", *, timeout: float = REQUEST_TIMEOUT
    ) -> bool:
        """Close a client's WebSocket; return whether the client existed.

        Its ``on_disconnect`` follows. ``client_id`` (str): whose. ``code`` (int): the close code, 1000 or 3000 to 4999,
        or another that RFC 6455 lets a server send. ``reason`` (str): a text for the client. ``timeout`` (seconds): how
        long to wait for the broker's answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises ValueError on a code that can't be sent, TypeError on an id or a reason that is no str.
        """
        return self.__runs.ask(lambda core: core.found, requests.disconnect_client(client_id, code, reason), timeout)

    def disconnect_user(
        self, user: str, code: int = 1000, reason: str = "", *, timeout: float = REQUEST_TIMEOUT
    ) -> int:
        """Close the WebSockets of all clients of a user; return how many these were.

        The ``on_disconnect`` of each follows. ``user`` (str): who it is, as ``request.accept(user=...)`` said. ``code``
        (int): the close code, 1000 or 3000 to 4999, or another that RFC 6455 lets a server send. ``reason`` (str): a
        text for the clients. ``timeout`` (seconds): how long to wait for the broker's answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises ValueError on a code that can't be sent, TypeError on a user or a reason that is no str, PyStrandsError
        when one of several brokers has not answered, so that some may not be closed.
        """
        return self.__runs.ask(lambda core: core.matched, requests.disconnect_user(user, code, reason), timeout)

    def update_metadata(self, client_id: str, metadata: Mapping[str, Any], *, timeout: float = REQUEST_TIMEOUT) -> bool:
        """Set keys of a client's metadata, for its events from now on; return whether the client existed.

        ``client_id`` (str): whose. ``metadata`` (dict of JSON values): the keys to set, and their values; others stay.
        ``timeout`` (seconds): how long to wait for the broker's answer.

        Raises NotConnected without a link, NotSupported when the broker is the original one, TimeoutError without an
        answer in time (what was asked for may still be done), OutcomeUnknown when the broker was replaced meanwhile.
        Raises TypeError on what is not made of JSON values, MessageTooBig or PyStrandsError on more than may be kept of
        one client.
        """
        return self.__runs.ask(
            lambda core: core.found, requests.update_metadata(client_id, metadata, self.__runs.broker), timeout
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
    ) -> bool:
        """Send a value as JSON, to a room, a client or a user; return whether it was handed to the link.

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

    def request(self, client_id: str, message: Message, *, timeout: float = REQUEST_TIMEOUT) -> str | bytes:
        """Ask a client, and return its answer, as its ``onRequest`` gives it: str, or bytes.

        ``client_id`` (str): whom. ``message``: str for a text frame, bytes for a binary one. ``timeout`` (seconds):
        how long to wait for the answer, at most an hour. A client that is away is asked when it comes back.

        Raises ClientGone where no client has that id, or it goes before it has answered; RequestFailed, with its
        ``code``, where it answers with an error; NotSupported where it is no client of `pystrands.v1`, or the broker is
        the original one; TimeoutError without an answer in time (it may still be asked); NotConnected without a link;
        OutcomeUnknown when the broker was replaced meanwhile. Of arguments it raises what ``send_private_message``
        does, and ValueError on a timeout that is none.
        """
        encode = requests.request_client(client_id, message, self.__runs.broker, timeout)
        return self.__runs.ask(lambda core: core.request, client_id, encode, timeout)

    # -- callbacks

    def on_connection_request(self, request: ConnectionRequestContext) -> bool | None:
        """Decide whether a client may come in: True or False; None leaves it to ``request.accepted``.

        ``request`` (:class:`ConnectionRequestContext`): what the client asks for. ``request.context`` has a fresh
        ``client_id``, and the path as ``room_id``; what is changed there counts. An exception rejects, and so does any
        other result. Accepts everyone unless overridden.
        """
        return request.accepted

    def on_join_request(self, request: JoinRequestContext) -> bool | None:
        """Decide whether a client may be in a room that it wants to be in: True or False.

        ``request`` (:class:`JoinRequestContext`): the room, and who wants to be in it. ``return request.accept()`` lets
        it in, and may do more. None leaves it to ``request.accepted``. An exception refuses, and so does any other
        result. Only clients of the subprotocol `pystrands.v1` join rooms by themselves. Refuses everyone unless
        overridden.
        """
        return request.accepted

    def on_new_connection(self, context: Context) -> None:
        """Take note of a client that is in.

        ``context`` (:class:`Context`): the client, as this event shows it.
        """
        logger.debug("client %r is in", context.client_id)

    def on_message(self, message: Any, context: Context) -> None:
        """Handle a client's message.

        ``message``: str from a text frame, bytes from a binary one. ``context`` (:class:`Context`): the client that
        sent it.
        """
        logger.debug("%s from client %r: on_message is not overridden", type(message).__name__, context.client_id)

    def on_request(self, message: Any, context: Context) -> Any:
        """Handle a message whose client wants a reply, which is what this returns.

        ``message``, ``context``: as in :meth:`on_message`, which is called unless this is overridden; the reply is
        empty then. The reply is a str, bytes, or a value that becomes JSON; None for an empty one. What is raised is a
        failure, of which the client hears no more than that; but a :class:`RequestFailed` is what the client gets.
        """
        self.on_message(message, context)

    def on_token(self, request: TokenRequestContext) -> bool | None:  # noqa: ARG002 - for those who override it
        """Decide on a new token of a client, which shows it before its ``expires_at`` is over: True takes it.

        ``request`` (:class:`TokenRequestContext`): the token, the client's context, and ``accept(expires_at=)``. What
        is not taken changes nothing: the client stays until its time is over, and is asked for a token then, with which
        it comes to :meth:`on_connection_request`. So it is unless this is overridden.
        """
        return False

    def on_disconnect(self, context: Context) -> None:
        """Take note of a client that is gone, after its last message.

        ``context`` (:class:`Context`): the client; ``context.close_code`` and ``context.reason`` say why it is gone.
        """
        logger.debug("client %r is gone", context.client_id)

    def on_client_adopted(self, context: Context) -> None:
        """Take note of a client that this backend takes over from one that is gone, before its next event.

        ``context`` (:class:`Context`): the client.
        """
        logger.debug("client %r is this backend's now", context.client_id)

    def on_client_released(self, context: Context) -> None:
        """Take note of a client that another backend has taken over: this one was silent for too long.

        ``context`` (:class:`Context`): the client. Its events go there now, and its ``on_disconnect`` too.
        """
        logger.debug("client %r is another backend's now", context.client_id)

    def on_client_suspended(self, context: Context) -> None:
        """Take note of a client that has lost its connection and may come back: what is sent to it is kept meanwhile.

        Only clients of the subprotocol `pystrands.v1` come back. ``context`` (:class:`Context`): the client.
        """
        logger.debug("client %r is away", context.client_id)

    def on_client_resumed(self, context: Context) -> None:
        """Take note of a client that was away and is back.

        ``context`` (:class:`Context`): the client.
        """
        logger.debug("client %r is back", context.client_id)

    def on_error(self, error: str, context: Context) -> None:
        """Take note of an error: one that a handler raised, or one that the broker tells of.

        ``error`` (str): what went wrong, for people. ``context`` (:class:`Context`): the client that it is about, an
        empty one where it is about none; ``context.exception`` is what the handler raised, None for the broker's. What
        a handler raised is logged already, with its traceback; the others are logged here, unless this is overridden.
        """
        if context.exception is None:
            logger.error("client %r: %s", context.client_id, printable(error))
