"""What a handler that answers returns or raises, as the line of its answer. No I/O."""

from typing import Any

from pystrands.client.handlers.calls import HandlerCall, answer, refusal, verdict
from pystrands.client.requests import check_message
from pystrands.context import check_json, check_time
from pystrands.errors import MessageError, RequestFailed
from pystrands.events import as_json
from pystrands.join_request import JoinRequestContext, check_join
from pystrands.protocol import wire
from pystrands.token_request import TokenRequestContext, check_reason

__all__ = ["failure", "is_an_answer", "reply", "reply_content"]


def reply(call: HandlerCall, result: Any) -> bytes:
    """Return the line that answers a call whose handler returned ``result``. Raises what a result deserves."""
    if call.request is not None:
        return answer(call, result)
    if call.token is not None:
        return _of_token(call, call.token, result)
    if call.join is not None:
        return _of_join(call, call.join, result)
    content = check_message(reply_content(result), call.broker)
    try:
        return wire.reply(call.seq, content)
    except UnicodeEncodeError as error:
        raise MessageError(f"the reply can't be written in UTF-8 ({error.reason} at position {error.start})") from None


def _of_token(call: HandlerCall, request: TokenRequestContext, result: Any) -> bytes:
    """Return the line that says whether a token is taken. Raises TypeError or ValueError on what is no decision."""
    accepted = request.accepted if result is None else result
    if accepted is not True and accepted is not False:
        how = "left request.accepted as" if result is None else "returned"
        raise TypeError(
            f"on_token {how} a value of type {type(accepted).__name__}, and the token is refused: "
            "True takes it, False does not"
        )
    return wire.token_response(call.seq, accepted, check_time(request.expires_at), check_reason(request.reason))


def _of_join(call: HandlerCall, join: JoinRequestContext, result: Any) -> bytes:
    """Return the line that says whether a client may be in a room. Raises TypeError or ValueError on what is none."""
    if result is None:
        accepted = verdict(call.name, join.accepted, "left request.accepted as")
    else:
        accepted = verdict(call.name, result, "returned")
    check_join(join.history, join.signals, join.reason)
    return wire.join_response(
        call.seq,
        accepted,
        history=join.history,
        signals=join.signals,
        reason=join.reason,
        presence=check_json(join.presence, "request.presence", caller=call.name),
    )


def reply_content(result: Any) -> Any:
    """Return what a client gets for what its handler returned: text and bytes as they are, all else as JSON.

    For None that is an empty text. Raises TypeError on what is not made of JSON values.
    """
    if result is None:
        return ""
    if isinstance(result, str | bytes | bytearray | memoryview):
        return result
    return as_json(result)


def is_an_answer(call: HandlerCall, error: BaseException) -> bool:
    """Whether what a handler raised is its answer, and no failure."""
    asks = call.request is None and call.token is None and call.join is None and call.reply is not None
    return asks and isinstance(error, RequestFailed)


def failure(call: HandlerCall, error: BaseException) -> bytes:
    """Return the line that says that there is no answer; why is told only where the handler wants that."""
    if call.request is not None:
        return refusal(call)
    if call.token is not None:
        return wire.token_response(call.seq, False, reason="the handler has failed")
    if call.join is not None:
        return wire.join_response(call.seq, False, reason="the handler has failed")
    if isinstance(error, RequestFailed):
        return wire.reply_error(call.seq, error.code, error.text)
    return wire.reply_error(call.seq, "failed", "the handler has failed")
