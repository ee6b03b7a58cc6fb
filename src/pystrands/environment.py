"""Variables of the environment that look as if they were PyStrands', and are not."""

import difflib
import logging
import os
import re
from collections.abc import Mapping
from typing import Final

from pystrands.protocol.printable import printable

__all__ = ["OPTIONS", "PREFIX", "unknown_variables", "warn_of_unknown_variables"]

PREFIX: Final = "PYSTRANDS_"
_OTHERS: Final = ("CONFIG", "TOKEN", "HOST", "COMPILE", "COMPILED")
"""Those that are no option's: the clients', those of the examples, those of the installation and of its tests."""
OPTIONS: Final = frozenset(
    {
        "ADMIN_HOST",
        "ADMIN_PORT",
        "ADVERTISE",
        "ALLOWED_ORIGINS",
        "ALLOW_INSECURE_BACKENDS",
        "ANSWER_TIMEOUT",
        "BACKEND_TLS",
        "BACKEND_TLS_CA",
        "BACKEND_TLS_CERT",
        "BACKEND_TLS_KEY",
        "BACKEND_TOKEN",
        "BACKEND_TOKEN_FILE",
        "CLIENT_BUFFER",
        "CLIENT_BYTE_RATE",
        "CLIENT_MESSAGE_RATE",
        "CLIENT_RATE_POLICY",
        "CLIENT_RESUME_WINDOW",
        "CLOSE_TIMEOUT",
        "CLUSTER",
        "COMPRESSION",
        "COMPRESSION_LEVEL",
        "COMPRESSION_THRESHOLD",
        "DRAIN_TIME",
        "HANDSHAKE_TIMEOUT",
        "HEARTBEAT_INTERVAL",
        "HISTORY_BYTES",
        "HOLD_TIME",
        "IDLE_TIMEOUT",
        "LINK_BUFFER",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "MAX_CONNECTIONS",
        "MAX_CONNECTIONS_PER_ADDRESS",
        "MAX_HANDSHAKES",
        "MAX_HEAD_SIZE",
        "MAX_MESSAGE_SIZE",
        "MAX_ROOMS_PER_CLIENT",
        "MEMORY_BUDGET",
        "MESSAGE_TIMEOUT",
        "NATS_CREDENTIALS",
        "NATS_TLS_CA",
        "NATS_TLS_CERT",
        "NATS_TLS_KEY",
        "NATS_URL",
        "NO_SDK",
        "PING_INTERVAL",
        "PING_MISSED",
        "QUEUE_BYTES",
        "QUEUE_POLICY",
        "QUEUE_SIZE",
        "RESUME_WINDOW",
        "SLOW_CLIENT_POLICY",
        "SLOW_CLIENT_TIME",
        "TCP_HOST",
        "TCP_PORT",
        "TLS_CERT",
        "TLS_KEY",
        "TRUSTED_PROXIES",
        "WORKERS",
        "WS_HOST",
        "WS_PORT",
    }
)
"""Those of the broker's options, and of the tools': a test keeps them in step. Here, as backends know neither."""
_OF_KUBERNETES: Final = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_\w+)?$")
_CLOSE: Final = 0.75
_LINK: Final = re.compile(r"(tcp|udp|sctp)://")


_told = False


def warn_of_unknown_variables(logger: logging.Logger) -> None:
    """Log a warning for each of :func:`unknown_variables`, once in a process."""
    global _told  # noqa: PLW0603 - there is one environment
    if not _told:
        _told = True
        for unknown in unknown_variables(os.environ):
            logger.warning("%s", unknown)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that begins with PYSTRANDS_ and that nothing of PyStrands reads.

    What Kubernetes sets for a Service of such a name is left out.
    """
    ours = [name for name in environ if name.startswith(PREFIX)]
    if all(name.removeprefix(PREFIX) in _OTHERS for name in ours):
        return []
    known = OPTIONS.union(_OTHERS)
    told = []
    for name in sorted(ours):
        rest = name.removeprefix(PREFIX)
        if rest in known or _OF_KUBERNETES.search(name) or (name.endswith("_PORT") and _LINK.match(environ[name])):
            continue
        nearest = difflib.get_close_matches(rest, known, n=1, cutoff=_CLOSE)
        hint = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "it has no effect"
        told.append(f"nothing reads the environment variable {printable(name)}: {hint}")
    return told
