"""Variables of the environment that look as if they were PyStrands', and are not."""

import difflib
import logging
import os
import re
from collections.abc import Mapping
from typing import Final

from pystrands.protocol.printable import printable

__all__ = ["PREFIX", "unknown_variables", "warn_of_unknown_variables"]

PREFIX: Final = "PYSTRANDS_"
_OTHERS: Final = ("CONFIG", "TOKEN", "HOST", "COMPILE", "COMPILED")
"""Those that are no option's: the clients', those of the examples, those of the installation and of its tests."""
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
    from pystrands.cli.main import SERVER_OPTIONS  # noqa: PLC0415 - mostly not needed, and slow to import
    from pystrands.cli.tools import TOOL_OPTIONS  # noqa: PLC0415 - the same

    known = {each.env.removeprefix(PREFIX) for each in (*SERVER_OPTIONS, *TOOL_OPTIONS)}.union(_OTHERS)
    told = []
    for name in sorted(ours):
        rest = name.removeprefix(PREFIX)
        if rest in known or _OF_KUBERNETES.search(name) or (name.endswith("_PORT") and _LINK.match(environ[name])):
            continue
        nearest = difflib.get_close_matches(rest, known, n=1, cutoff=_CLOSE)
        hint = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "it has no effect"
        told.append(f"nothing reads the environment variable {printable(name)}: {hint}")
    return told
