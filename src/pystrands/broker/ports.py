"""Who has come to the wrong port, and what is told to them: there are two, and each speaks a language of its own."""

import logging
import re
from typing import Final

__all__ = ["Ports", "is_http"]

logger = logging.getLogger(__name__)

_REQUEST_LINE: Final = re.compile(rb"[A-Z]{1,20} \S+ HTTP/1\.[01]\r?\n?")


def is_http(line: bytes) -> bool:
    """Whether that is how an HTTP request begins."""
    return _REQUEST_LINE.fullmatch(line) is not None


class Ports:
    """The two ports of a broker, once they are known. The log tells of each mistake the first time only."""

    __slots__ = ("_has_told_of_backend", "_has_told_of_client", "tcp", "ws")

    def __init__(self) -> None:
        self.ws = 0
        self.tcp = 0
        self._has_told_of_backend = False
        self._has_told_of_client = False

    def backend_at_ws(self, peer: str) -> str:
        """Return what to tell a backend that has come to the port for WebSocket clients."""
        if not self._has_told_of_backend:
            self._has_told_of_backend = True
            logger.warning(
                "%s speaks as backends do to the port for WebSocket clients (%d); backends use %d (--tcp-port). "
                "This is told once",
                peer,
                self.ws,
                self.tcp,
            )
        return f"this is the port for WebSocket clients; backends use {self.tcp} (--tcp-port)"

    def client_at_tcp(self, peer: str) -> str:
        """Return what to tell a browser, or another HTTP client, that has come to the port for backends."""
        if not self._has_told_of_client:
            self._has_told_of_client = True
            logger.warning(
                "%s speaks HTTP to the port for backends (%d); WebSocket clients use %d (--ws-port). This is told once",
                peer,
                self.tcp,
                self.ws,
            )
        return f"this is the port for backends; WebSocket clients use {self.ws} (--ws-port)"
