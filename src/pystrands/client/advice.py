"""What is told to somebody whose first program does nothing: names and variables that are almost right."""

import difflib
import inspect
import logging
import re
import weakref
from collections.abc import Collection, Iterator
from typing import Any, Final

from pystrands.environment import warn_of_unknown_variables

__all__ = ["advise"]

logger = logging.getLogger(__name__)

_ELSEWHERE: Final = {
    "on_connect": "on_new_connection",
    "on_connected": "on_new_connection",
    "on_open": "on_new_connection",
    "on_join": "on_join_request",
    "on_receive": "on_message",
    "on_data": "on_message",
    "on_msg": "on_message",
    "on_close": "on_disconnect",
    "on_closed": "on_disconnect",
    "on_exception": "on_error",
}
"""What other libraries call a callback."""
_CLOSE: Final = 0.85
_CONTEXT: Final = ("context",)
_CALLED_WITH: Final = {
    "on_connection_request": ("request",),
    "on_join_request": ("request",),
    "on_message": ("message", "context"),
    "on_request": ("message", "context"),
    "on_token": ("request",),
    "on_error": ("error", "context"),
}
"""What callbacks are called with, those that get more than a context, or something else."""

_advised: "weakref.WeakSet[type]" = weakref.WeakSet()


def advise(kind: type, callbacks: Collection[str], *, overridden: bool) -> None:
    """Log a warning for each thing in a client's class, and in the environment, that looks like a mistake; once.

    ``callbacks``: the names of the callbacks. ``overridden``: whether a method of such a name is one.
    """
    if kind not in _advised:
        _advised.add(kind)
        for problem in _problems(kind, callbacks) if overridden else _methods(kind, callbacks):
            logger.warning("%s", problem)
    warn_of_unknown_variables(logger)


def _own(kind: type) -> dict[str, Any]:
    """Return what the user's classes define, the nearest first."""
    found: dict[str, Any] = {}
    for each in kind.__mro__:
        if not each.__module__.startswith("pystrands.") and each is not object:
            found = {**vars(each), **found}
    return found


def _problems(kind: type, callbacks: Collection[str]) -> Iterator[str]:
    own = _own(kind)
    for name, value in own.items():
        if not (inspect.isroutine(value) and name.startswith("on")):
            continue
        if name in callbacks:
            if inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
                yield f"{kind.__name__}.{name} has a yield in it, so calling it does nothing: callbacks return"
            elif inspect.isfunction(value) and (problem := _arguments(value, _CALLED_WITH.get(name, _CONTEXT))):
                yield f"{kind.__name__}.{name} {problem}"
            continue
        meant = _meant(name, callbacks)
        if meant and meant not in own:
            yield f"{kind.__name__}.{name} is no callback of PyStrands: did you mean {meant}?"


def _arguments(function: Any, given: tuple[str, ...]) -> str:
    """Return what is the matter with the parameters of a callback, which is called with ``given``; mostly nothing."""
    signature = inspect.signature(function, follow_wrapped=False)  # a wrapper may add arguments
    try:
        signature.bind(None, *given)
    except TypeError:
        return f"takes {signature}, and is called with ({', '.join(given)}): it will fail each time"
    names = list(signature.parameters)[1:]
    if len(given) > 1 and names and names[0] in (given[1], "ctx"):
        return f"takes {signature}, and is called the other way round: ({', '.join(given)})"
    return ""


def _meant(name: str, callbacks: Collection[str]) -> str:
    spelt = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    if spelt in callbacks:
        return spelt
    if spelt in _ELSEWHERE:
        return _ELSEWHERE[spelt]
    return next(iter(difflib.get_close_matches(spelt, callbacks, n=1, cutoff=_CLOSE)), "")


def _methods(kind: type, callbacks: Collection[str]) -> Iterator[str]:
    for name in callbacks:
        if name in _own(kind):
            yield (
                f"{kind.__name__}.{name} is never called: PyStrands takes functions, with @app.{name}; methods are "
                "for classes that derive from AsyncPyStrandsClient or PyStrandsClient"
            )
