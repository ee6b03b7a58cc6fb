"""The exceptions of PyStrands.

::

    PyStrandsError
    ├── ConfigError (ValueError)       an option has a value that can't work; names the option
    ├── MessageError (ValueError)      a message can't be sent
    │   ├── MessageTooBig              longer than the broker takes
    │   └── BinaryNotSupported         bytes, and the broker only knows text
    └── MalformedLine (ValueError)     a line on a link is not what the protocol allows; never leaves the library
"""

__all__ = ["BinaryNotSupported", "ConfigError", "MalformedLine", "MessageError", "MessageTooBig", "PyStrandsError"]


class PyStrandsError(Exception):
    """Every exception that PyStrands raises on purpose, but for ``TypeError`` where an argument has the wrong type."""


class ConfigError(PyStrandsError, ValueError):
    """An option has a value that can't work.

    ``option`` is the parameter of a client's constructor, or the broker's option; ``problem`` says what is wrong.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option
        self.problem = problem


class MessageError(PyStrandsError, ValueError):
    """A message can't be sent as it is; the link is not affected."""


class MessageTooBig(MessageError):  # noqa: N818 - reads as what happened, as in websockets and asyncio
    """A message is longer than the broker takes (its option ``--max-message-size``)."""


class BinaryNotSupported(MessageError):  # noqa: N818 - see MessageTooBig
    """A message is ``bytes``, and the broker at the other end only knows text (the original Go broker)."""


class MalformedLine(PyStrandsError, ValueError):  # noqa: N818 - see MessageTooBig
    """A line on a link is not a message of the protocol. Drivers count it, log it and go on."""
