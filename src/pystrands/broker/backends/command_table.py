"""Who carries out which command: a command's kind is asked once, here."""

from collections.abc import Callable
from typing import TypeVar, cast

from pystrands.broker.backends.session import Session
from pystrands.protocol.messages import Broken, SessionCommand, Unknown

__all__ = ["CommandHandler", "CommandTable"]

CommandHandler = Callable[[Session, SessionCommand | Broken | Unknown], None]
C = TypeVar("C", bound=SessionCommand | Broken | Unknown)


class CommandTable:
    """Handlers by the type of command, each a bound method. What one raises ends that command."""

    __slots__ = ("handlers",)

    def __init__(self) -> None:
        self.handlers: dict[type, CommandHandler] = {}

    def on(self, kind: type[C], handler: Callable[[Session, C], None]) -> None:
        """Have a handler called with each command of that kind. There is one for each."""
        if kind in self.handlers:
            raise ValueError(f"{kind.__name__} has a handler")
        self.handlers[kind] = cast("CommandHandler", handler)  # by its kind
