"""How the broker's process logs: lines for people, or one JSON object a line for programs."""

import json
import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TypeAlias

from pystrands.protocol.printable import printable

__all__ = ["FORMATS", "JsonFormatter", "TextFormatter", "log_to_stderr"]

_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

FORMATS: Final = ("text", "json")


class TextFormatter(logging.Formatter):
    """Writes a record as one line, and a traceback below it, indented: nothing that others said begins a line.

    What can't be printed is escaped, in the texts of exceptions as well: no record can be made to look like two.
    """

    def __init__(self, worker: int = 0) -> None:
        of_whom = f" [worker {worker}]" if worker else ""
        super().__init__(f"%(asctime)s %(levelname)-7s{of_whom} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, without its end."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        """Return the lines of a traceback, without the last one's end."""
        if ei[1] is None:
            return ""
        parts = traceback.TracebackException(ei[0], ei[1], ei[2], compact=True).format()
        return "\n".join(line for part in parts for line in _lines(part))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging's name
        """Return the lines of a stack, without the last one's end."""
        return "\n".join("  " + printable(line) for line in stack_info.split("\n"))


def _lines(part: str) -> list[str]:
    """Return the lines of a part of a traceback; what begins it without an indent, an exception's text, stays one."""
    text = part.removesuffix("\n")
    lines = text.split("\n") if text[:1] in (" ", "\n", "") else [text]
    return ["  " + printable(line) if line else "" for line in lines]


class JsonFormatter(logging.Formatter):
    """Writes a record as one line: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, and ``exception``.

    ``exception`` is a traceback, where there is one; ``worker`` the number of the worker that wrote it.
    """

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker:
            entry["worker"] = self._worker
        trace = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            trace.append(self.formatStack(record.stack_info))
        if trace:
            entry["exception"] = "\n".join(trace)
        return json.dumps(entry)


def log_to_stderr(level: str, log_format: str, *, worker: int = 0) -> None:
    """Have everything from ``level`` on written to stderr; ``log_format`` is one of :data:`FORMATS`.

    ``worker``: the number of the worker whose process this is, which then stands in each line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(worker) if log_format == "json" else TextFormatter(worker))
    # In a worker there may be its parent's handler.
    logging.basicConfig(level=level.upper(), handlers=[handler], force=bool(worker))
