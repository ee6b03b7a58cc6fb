"""Real-time features for any Python application: the library for backends."""

from pystrands.build import VERSION
from pystrands.client import AsyncPyStrandsClient, Confirmation, LinkInfo, PyStrands, PyStrandsClient
from pystrands.context import ConnectionRequestContext, Context
from pystrands.errors import (
    BinaryNotSupported,
    ConfigError,
    MalformedLine,
    MessageError,
    MessageTooBig,
    NotConnected,
    NotSupported,
    OutcomeUnknown,
    PyStrandsError,
    Refused,
)

__all__ = [
    "AsyncPyStrandsClient",
    "BinaryNotSupported",
    "ConfigError",
    "Confirmation",
    "ConnectionRequestContext",
    "Context",
    "LinkInfo",
    "MalformedLine",
    "MessageError",
    "MessageTooBig",
    "NotConnected",
    "NotSupported",
    "OutcomeUnknown",
    "PyStrands",
    "PyStrandsClient",
    "PyStrandsError",
    "Refused",
    "__version__",
]

__version__ = VERSION
