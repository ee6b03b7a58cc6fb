"""How handlers have ended: what they returned becomes an answer, what they raised is told."""

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

from pystrands.client.handlers.calls import HandlerCall, is_undecided, misplaced, unoffered_subprotocol
from pystrands.client.handlers.replies import failure, is_an_answer, reply

__all__ = ["Outcomes", "uncancel"]

logger = logging.getLogger(__name__)


class Outcomes:
    """Tells of failures through ``invoke("on_error", ...)``; what looks like a mistake is said once.

    ``is_ending()`` tells whether a cancellation means the end of the program, or of the client.
    """

    def __init__(self, invoke: Callable[[str, tuple[Any, ...]], Any], is_ending: Callable[[], bool]) -> None:
        self._invoke = invoke
        self._is_ending = is_ending
        self._told_undecided = self._told_unoffered = self._told_misplaced = False

    def answer(self, call: HandlerCall, result: Any) -> None:
        """Answer a call that wants it with what its handler returned. Raises what :func:`replies.reply` does."""
        if not self._told_misplaced and (what := misplaced(call)):
            self._told_misplaced = True
            logger.warning("on_connection_request set %s; this is said once", what)
        _reply(call, reply(call, result))
        if not self._told_undecided and is_undecided(call, result):
            self._told_undecided = True
            logger.warning(
                "on_connection_request returned None and touched nothing, so the client is let in: return True or "
                "False, or request.reject(); this is said once"
            )
        if not self._told_unoffered and (chosen := unoffered_subprotocol(call)):
            self._told_unoffered = True
            logger.warning(
                "on_connection_request chose the subprotocol %r, which the client did not offer: it gets none, and "
                "a browser that offered others fails the connection; this is said once",
                chosen,
            )

    async def failed(self, call: HandlerCall, error: BaseException) -> None:
        """Tell the log and ``on_error`` of what a handler raised; who waits for an answer hears so.

        Raises what ``on_error`` raises if that is the end of the program, or of the client.
        """
        client_id = call.context.client_id
        if call.reply is not None:
            call.reply(failure(call, error))
            if is_an_answer(call, error):
                return
        trace = (type(error), error, None if _is_our_own(error) else error.__traceback__)
        logger.error("%s failed for client %r", call.name, client_id, exc_info=trace)
        if call.name == "on_error":
            return
        try:
            call.context.__dict__["exception"] = error
            text = f"{call.name} failed: {type(error).__name__}: {_text_of(error)}"
            result = self._invoke("on_error", (text, call.context))
            if inspect.isawaitable(result):
                await result
        except (KeyboardInterrupt, SystemExit):
            raise
        except asyncio.CancelledError:
            if self._is_ending():
                raise
            uncancel()
            logger.exception("on_error was cancelled for client %r", client_id)
        except BaseException:
            logger.exception("on_error failed for client %r", client_id)


def uncancel() -> None:
    """Have the task go on that was cancelled."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as another:  # noqa: BLE001 - a library's exception may do anything
        return f"<its str() raised {type(another).__name__}>"


def _is_our_own(error: BaseException) -> bool:
    """Whether this was raised about what a handler has returned, not in it: its text says all that there is to say."""
    trace = error.__traceback__
    if trace is None or error.__cause__ is not None or error.__context__ is not None:
        return False
    while trace is not None:
        if not str(trace.tb_frame.f_globals.get("__name__", "")).startswith("pystrands."):
            return False
        trace = trace.tb_next
    return True


def _reply(call: HandlerCall, line: bytes) -> None:
    if call.reply is not None:
        call.reply(line)
