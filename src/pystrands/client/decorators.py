"""Functions as handlers: the decorators of PyStrands, and what they have registered."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pystrands.client.base import HANDLERS, NOT_MADE
from pystrands.client.signatures import (
    ClientHandler,
    ErrorHandler,
    EventHandler,
    JoinHandler,
    MessageHandler,
    RequestHandler,
    TokenHandler,
)
from pystrands.events import Events

__all__ = ["Handler", "PyStrandsDecorators", "Registered", "TypedHandlers"]

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)


class Registered:
    """The handlers of an app, by name: each a function, and whether it is async."""

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[Handler, bool]] = {}

    def get(self, name: str) -> tuple[Handler, bool] | None:
        """Return a handler and whether it is async; None where there is none."""
        return self._handlers.get(name)

    def add(self, name: str, function: H) -> H:
        """Register a handler, and return it.

        Raises ValueError when there is one already, and TypeError when the function can't be called as it would be.
        """
        if before := self._handlers.get(name):
            raise ValueError(f"{name} has a handler already: {_name_of(before[0])}")
        is_async = checked(name, function, HANDLERS[name])
        self._handlers[name] = (function, is_async)
        return function


def checked(name: str, function: Handler, count: int) -> bool:
    """Return whether a handler is async. Raises TypeError where it can't be called with so many arguments."""
    if not callable(function):
        raise TypeError(f"@app.{name} takes a function, not {type(function).__name__}; write it without parentheses")
    with contextlib.suppress(ValueError):  # some built-in callables have no signature
        signature = inspect.signature(function, follow_wrapped=False)  # a wrapper may add arguments
        try:
            signature.bind(*[None] * count)
        except TypeError as error:
            arguments = "1 argument" if count == 1 else f"{count} arguments"
            raise TypeError(
                f"{name} is called with {arguments}, which {_name_of(function)}{signature} can't take: {error}"
            ) from None
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with async def __call__
    )


class TypedHandlers:
    """The handlers of kinds of events, each a function, and whether it is async."""

    def __init__(self) -> None:
        self.events = Events()
        self._handlers: dict[str, tuple[Handler, bool]] = {}

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, kind: type, function: H) -> H:
        """Register a handler, and return it. Raises TypeError and ValueError, as Registered and Events do."""
        is_async = checked(f"on({getattr(kind, '__name__', kind)})", function, 2)
        self._handlers[self.events.add(kind)] = (function, is_async)
        return function

    def find(self, message: str | bytes) -> tuple[Handler, bool, Any] | None:
        """Return the handler of a message, whether it is async, and the event; None where there is none for it.

        Raises EventError where the message is not as its kind wants it.
        """
        name = self.events.type_of(message)
        if name is None:
            return None
        return *self._handlers[name], self.events.decode(message)


class PyStrandsDecorators:
    """A decorator for each event; its state has mangled names, as that of all that users may derive from."""

    __registered: Registered = NOT_MADE
    __typed: TypedHandlers = NOT_MADE

    def __init__(self, registered: Registered, typed: TypedHandlers) -> None:
        self.__registered = registered
        self.__typed = typed

    @property
    def events(self) -> Events:
        """The kinds of events that have handlers."""
        return self.__typed.events

    def on(self, kind: type) -> Callable[[EventHandler], EventHandler]:
        """Register a handler of one kind of events, ``function(event, context)``, with ``@app.on(Say)``.

        ``kind``: a msgspec Struct with a tag, or a pydantic model with a field ``type: Literal["..."]``. Messages and
        requests whose JSON has that ``type`` go to this handler, as an instance of it, instead of ``on_message`` and
        ``on_request``. What it returns is the reply to a request. A message that is not as the kind wants it is an
        EventError, of which ``on_error`` is told, and who has asked.

        Raises TypeError on what is no kind of events, or when the function can't be called with two arguments, and
        ValueError when there is a handler already.
        """

        def register(function: EventHandler) -> EventHandler:
            return self.__typed.add(kind, function)

        return register

    def on_connection_request(self, function: RequestHandler) -> RequestHandler:
        """Register a handler, ``function(request)``, which decides whether a client may come in; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. It returns True or False, or None
        to leave it to ``request.accepted``, a :class:`ConnectionRequestContext`'s; an exception rejects. Raises
        ValueError when there is a handler already, and TypeError when the function can't be called with these
        arguments.
        """
        return self.__registered.add("on_connection_request", function)

    def on_join_request(self, function: JoinHandler) -> JoinHandler:
        """Register a handler, ``function(request)``, which decides whether a client may be in a room; return it.

        ``request`` is a :class:`JoinRequestContext`. ``function``: async, run on the event loop, or plain, run on a
        worker thread. It returns True or False, or ``request.accept()``; an exception refuses, and so does None unless
        ``request.accept()`` was called. Only clients of the subprotocol `pystrands.v1` join rooms by themselves.
        Raises ValueError when there is a handler already, and TypeError when the function can't be called with these
        arguments.
        """
        return self.__registered.add("on_join_request", function)

    def on_new_connection(self, function: ClientHandler) -> ClientHandler:
        """Register a handler, ``function(context)``, which is told of a client that is in; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. Raises ValueError when there is a
        handler already, and TypeError when the function can't be called with these arguments.
        """
        return self.__registered.add("on_new_connection", function)

    def on_message(self, function: MessageHandler) -> MessageHandler:
        """Register a handler, ``function(message, context)``, which handles a client's message; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. The message is str or bytes.
        Raises ValueError when there is a handler already, and TypeError when the function can't be called with these
        arguments.
        """
        return self.__registered.add("on_message", function)

    def on_request(self, function: MessageHandler) -> MessageHandler:
        """Register a handler, ``function(message, context)``, for messages whose clients want a reply; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. What it returns is the reply: str,
        bytes, or a value that becomes JSON; None for an empty one. A :class:`RequestFailed` that it raises is what the
        client gets. Without this the handler of ``on_message`` is called, and the reply is empty. Raises ValueError
        when there is a handler already, and TypeError when the function can't be called with these arguments.
        """
        return self.__registered.add("on_request", function)

    def on_token(self, function: TokenHandler) -> TokenHandler:
        """Register a handler, ``function(request)``, which decides on a client's new token; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. It returns True or False, or None
        to leave it to ``request.accepted``, a :class:`TokenRequestContext`'s; without it no token is taken, and clients
        come to ``on_connection_request`` when their time is over. Raises ValueError when there is a handler already,
        and TypeError when the function can't be called with these arguments.
        """
        return self.__registered.add("on_token", function)

    def on_disconnect(self, function: ClientHandler) -> ClientHandler:
        """Register a handler, ``function(context)``, which is told of a client that is gone; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. Raises ValueError when there is a
        handler already, and TypeError when the function can't be called with these arguments.
        """
        return self.__registered.add("on_disconnect", function)

    def on_client_adopted(self, function: ClientHandler) -> ClientHandler:
        """Register a handler, ``function(context)``, told of a client taken over from a lost backend; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. Raises ValueError when there is a
        handler already, and TypeError when the function can't be called with these arguments.
        """
        return self.__registered.add("on_client_adopted", function)

    def on_client_released(self, function: ClientHandler) -> ClientHandler:
        """Register a handler, ``function(context)``, told of a client that another backend took over; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. Raises ValueError when there is a
        handler already, and TypeError when the function can't be called with these arguments.
        """
        return self.__registered.add("on_client_released", function)

    def on_client_suspended(self, function: ClientHandler) -> ClientHandler:
        """Register a handler, ``function(context)``, told of a client that is away, and may come back; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. Raises ValueError when there is a
        handler already, and TypeError when the function can't be called with these arguments.
        """
        return self.__registered.add("on_client_suspended", function)

    def on_client_resumed(self, function: ClientHandler) -> ClientHandler:
        """Register a handler, ``function(context)``, told of a client that was away and is back; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. Raises ValueError when there is a
        handler already, and TypeError when the function can't be called with these arguments.
        """
        return self.__registered.add("on_client_resumed", function)

    def on_error(self, function: ErrorHandler) -> ErrorHandler:
        """Register a handler, ``function(error, context)``, which is told of errors; return it.

        ``function``: async, run on the event loop, or plain, run on a worker thread. The error is a str;
        ``context.exception`` is what a handler raised. Raises ValueError when there is a handler already, and TypeError
        when the function can't be called with these arguments.
        """
        return self.__registered.add("on_error", function)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", repr(function)))
