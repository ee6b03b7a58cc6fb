"""The exceptions of PyStrands.

::

    PyStrandsError
    ├── ConfigError (ValueError)       an option has a value that can't work; names the option
    ├── MessageError (ValueError)      a message can't be sent
    │   ├── MessageTooBig              longer than the broker takes
    │   ├── EventError                 it is no event, or not as its kind wants it
    │   └── BinaryNotSupported         bytes, and the broker only knows text
    ├── NotConnected (ConnectionError) there is no link, and an answer of the broker is needed
    ├── NotSupported                   the broker is too old for that, or this process has no real threads
    ├── OutcomeUnknown                 the broker went before it answered
    ├── ClientGone                     the client that was asked is not there, or no longer
    ├── RequestFailed                  whoever was asked gave an error instead of a reply
    ├── Refused                        the broker does not let this backend in: its token is wrong or missing
    └── MalformedLine (ValueError)     a line on a link is not what the protocol allows; never leaves the library
"""

from typing import Any, TypeAlias

__all__ = [
    "BinaryNotSupported",
    "ClientGone",
    "ConfigError",
    "EventError",
    "MalformedLine",
    "MessageError",
    "MessageTooBig",
    "NotConnected",
    "NotSupported",
    "OutcomeUnknown",
    "PyStrandsError",
    "Refused",
    "RequestFailed",
]


Reduced: TypeAlias = tuple[type, tuple[Any, ...], dict[str, Any]]
"""What pickles and copies an exception that is made of more than its text."""


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

    def __reduce__(self) -> Reduced:
        """Return how to make it again: from what it was made of, not from its text."""
        return type(self), (self.option, self.problem), self.__dict__


class MessageError(PyStrandsError, ValueError):
    """A message can't be sent as it is; the link is not affected."""


class MessageTooBig(MessageError):  # noqa: N818 - reads as what happened, as in websockets and asyncio
    """A message is longer than the broker takes (its option ``--max-message-size``)."""


class EventError(MessageError):
    """A message of a client is no event that is known, or not as its kind wants it: nobody handles it."""


class BinaryNotSupported(MessageError):  # noqa: N818 - see MessageTooBig
    """A message is ``bytes``, and the broker at the other end only knows text (the original Go broker)."""


class MalformedLine(PyStrandsError, ValueError):  # noqa: N818 - see MessageTooBig
    """A line on a link is not a message of the protocol. Drivers count it, log it and go on.

    ``problem`` says what is the matter. ``seq`` is its number in the stream, 0 where it has none that can be read.
    """

    def __init__(self, problem: str, *, seq: int = 0) -> None:
        super().__init__(problem)
        self.seq = seq


class NotConnected(PyStrandsError, ConnectionError):  # noqa: N818 - see MessageTooBig
    """There is no link to the broker now, and what was asked for needs its answer."""


class NotSupported(PyStrandsError):  # noqa: N818 - see MessageTooBig
    """The broker at the other end is too old for what was asked for, or gevent has taken this process its threads."""


class OutcomeUnknown(PyStrandsError):  # noqa: N818 - see MessageTooBig
    """The broker was replaced, or its link lost for good, before its answer came: it may have done it or not."""


class ClientGone(PyStrandsError):  # noqa: N818 - see MessageTooBig
    """No client has that ``client_id``, or the one that was asked has gone without an answer: it may have done it."""


class RequestFailed(PyStrandsError):  # noqa: N818 - see MessageTooBig
    """Whoever was asked gave an error instead of a reply; raised in ``on_request``, it is what the client gets.

    ``code`` is for programs, ``text`` for people.
    """

    def __init__(self, code: str, text: str = "") -> None:
        for value in (code, text):
            if not isinstance(value, str):
                raise TypeError(f"the code and the text of a RequestFailed are str, not {type(value).__name__}")
        if not code:
            raise ValueError("the code of a RequestFailed must not be empty")
        super().__init__(f"{code}: {text}" if text else code)
        self.code = code
        self.text = text

    def __reduce__(self) -> Reduced:
        """Return how to make it again: from what it was made of, not from its text."""
        return type(self), (self.code, self.text), self.__dict__


class Refused(PyStrandsError):  # noqa: N818 - see MessageTooBig
    """The broker does not let this backend in, and says why: mostly its token, which is wrong or missing.

    To try again with the same would not help.
    """
