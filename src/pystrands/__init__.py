"""Real-time features for any Python application: the library for backends."""

from importlib.metadata import version

from pystrands.client import AsyncPyStrandsClient, PyStrands, PyStrandsClient
from pystrands.context import ConnectionRequestContext, Context
from pystrands.errors import (
    BinaryNotSupported,
    ConfigError,
    MalformedLine,
    MessageError,
    MessageTooBig,
    PyStrandsError,
)

__all__ = [
    "AsyncPyStrandsClient",
    "BinaryNotSupported",
    "ConfigError",
    "ConnectionRequestContext",
    "Context",
    "MalformedLine",
    "MessageError",
    "MessageTooBig",
    "PyStrands",
    "PyStrandsClient",
    "PyStrandsError",
    "__version__",
]

__version__ = version("pystrands")
