"""Why a WebSocket is closed (RFC 6455, section 7.4, and the IANA registry): the codes that the broker gives or sees."""

from typing import Final

NORMAL_CLOSURE: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
NO_STATUS: Final = 1005  # never on the wire: the peer's close frame was empty
ABNORMAL_CLOSURE: Final = 1006  # never on the wire: there was no close frame
INVALID_PAYLOAD: Final = 1007
POLICY_VIOLATION: Final = 1008
MESSAGE_TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013
TOKEN_EXPIRED: Final = 4401
"""Our own: the time that a backend gave the client is over."""
BAD_FRAME: Final = 4400
"""Our own, of `pystrands.v1`: what the client sent is no frame, or not the next one."""
REPLACED: Final = 4409
"""Our own, of `pystrands.v1`: another client has its id."""


def close_code_is_valid(code: int) -> bool:
    """Tell whether a close frame may carry `code`."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
