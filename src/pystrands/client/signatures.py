"""What type checkers are told of all clients: the options of messages, what methods return, handlers that may be plain.

At run time nothing here is used but :func:`may_be_plain`, which returns what it is given.
"""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, TypeAlias, TypedDict, TypeVar

from pystrands.client.confirmation import Confirmation
from pystrands.client.history import History
from pystrands.context import ConnectionRequestContext, Context
from pystrands.join_request import JoinRequestContext
from pystrands.presence import Member
from pystrands.token_request import TokenRequestContext

__all__ = [
    "BoolOrAwaitable",
    "ClientHandler",
    "ConfirmationOrAwaitable",
    "ContextsOrAwaitable",
    "ErrorHandler",
    "EventHandler",
    "HistoryOrAwaitable",
    "IntOrAwaitable",
    "JoinHandler",
    "MembersOrAwaitable",
    "Message",
    "MessageHandler",
    "NoneOrAwaitable",
    "RequestHandler",
    "ToMany",
    "ToOne",
    "ToRoom",
    "TokenHandler",
    "may_be_plain",
]

P = ParamSpec("P")
R = TypeVar("R")


Message: TypeAlias = str | bytes | bytearray | memoryview
"""What can be sent: text, or binary."""


class ToOne(TypedDict, total=False):
    """The options of a message, but ``confirm``, which decides what is returned."""

    timeout: float | None
    volatile: bool
    key: str | None


class ToMany(ToOne, total=False):
    """The options of a message to several clients."""

    exclude: str | Iterable[str]


class ToRoom(ToMany, total=False):
    """The options of a message to a room."""

    history: bool


# The methods of PyStrands are awaited in async functions and called directly in plain ones, and no checker can tell
# which it is. So what they return has both, for checkers: the methods of the result, and await. No object has these
# types; where a bool is wanted, and not just whether it is true, plain functions write bool(...).


class BoolOrAwaitable(Coroutine[Any, Any, bool]):
    """True or False in plain functions; awaited, it is a bool."""

    @abstractmethod
    def __bool__(self) -> bool: ...


class IntOrAwaitable(int, Coroutine[Any, Any, int]):
    """A number in plain functions; awaited, it is one."""


class NoneOrAwaitable(Coroutine[Any, Any, None]):
    """Nothing in plain functions; awaited in async ones."""


class ConfirmationOrAwaitable(Confirmation, Coroutine[Any, Any, Confirmation]):
    """A Confirmation in plain functions; awaited in async ones."""


class ContextsOrAwaitable(list[Context], Coroutine[Any, Any, list[Context]]):
    """A list of contexts in plain functions; awaited in async ones."""


class MembersOrAwaitable(list[Member], Coroutine[Any, Any, list[Member]]):
    """A list of members in plain functions; awaited in async ones."""


class HistoryOrAwaitable(History, Coroutine[Any, Any, History]):
    """A History in plain functions; awaited in async ones."""


# What PyStrands takes as handlers, plain or async. A message is str or bytes; that of a handler may be one of them.
ClientHandler = TypeVar("ClientHandler", bound=Callable[[Context], object])
ErrorHandler = TypeVar("ErrorHandler", bound=Callable[[str, Context], object])
MessageHandler = TypeVar("MessageHandler", bound=Callable[[Any, Context], object])
JoinHandler = TypeVar("JoinHandler", bound=Callable[[JoinRequestContext], bool | Awaitable[bool | None] | None])
RequestHandler = TypeVar(
    "RequestHandler", bound=Callable[[ConnectionRequestContext], bool | Awaitable[bool | None] | None]
)


EventHandler = TypeVar("EventHandler", bound=Callable[[Any, Context], object])
TokenHandler = TypeVar("TokenHandler", bound=Callable[[TokenRequestContext], bool | Awaitable[bool | None] | None])


def may_be_plain(callback: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R] | Any]:
    """Return ``callback``, an async one; for type checkers classes may override it with ``async def`` and ``def``.

    The Any is what allows both that, and ``await super().on_message(message, context)``. Its price: what an override
    returns is not checked.
    """
    return callback
