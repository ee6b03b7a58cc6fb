"""Real-time features for any Python application: the library for backends."""

from pystrands.build import VERSION
from pystrands.client import AsyncPyStrandsClient, Confirmation, LinkInfo, PyStrands, PyStrandsClient
from pystrands.client.history import History, HistoryMessage
from pystrands.context import ConnectionRequestContext, Context
from pystrands.errors import (
    BinaryNotSupported,
    ClientGone,
    ConfigError,
    EventError,
    MalformedLine,
    MessageError,
    MessageTooBig,
    NotConnected,
    NotSupported,
    OutcomeUnknown,
    PyStrandsError,
    Refused,
    RequestFailed,
)
from pystrands.events import Events
from pystrands.join_request import JoinRequestContext
from pystrands.presence import Member
from pystrands.token_request import TokenRequestContext

__all__ = [
    "AsyncPyStrandsClient",
    "BinaryNotSupported",
    "ClientGone",
    "ConfigError",
    "Confirmation",
    "ConnectionRequestContext",
    "Context",
    "EventError",
    "Events",
    "History",
    "HistoryMessage",
    "JoinRequestContext",
    "LinkInfo",
    "MalformedLine",
    "Member",
    "MessageError",
    "MessageTooBig",
    "NotConnected",
    "NotSupported",
    "OutcomeUnknown",
    "PyStrands",
    "PyStrandsClient",
    "PyStrandsError",
    "Refused",
    "RequestFailed",
    "TokenRequestContext",
    "__version__",
]

__version__ = VERSION
