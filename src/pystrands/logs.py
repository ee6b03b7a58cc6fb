"""How the broker's process logs: lines for people, or one JSON object a line for programs."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["FORMATS", "JsonFormatter", "log_to_stderr"]

FORMATS: Final = ("text", "json")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, and ``exception``.

    ``exception`` is a traceback, where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        trace = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            trace.append(self.formatStack(record.stack_info))
        if trace:
            entry["exception"] = "\n".join(trace)
        return json.dumps(entry)


def log_to_stderr(level: str, log_format: str) -> None:
    """Have everything from ``level`` on written to stderr; ``log_format`` is one of :data:`FORMATS`."""
    handler = logging.StreamHandler()
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
