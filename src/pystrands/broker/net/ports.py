"""Who has come to the wrong port, and what is told to them: each port speaks a language of its own."""

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
    """The ports of a broker, once they are known. The log tells of each mistake the first time only."""

    __slots__ = ("_told", "advertised", "are_closing", "tcp", "ws")

    def __init__(self) -> None:
        self.ws = 0
        self.tcp = 0
        self.advertised = ""
        """The ``host:port`` that other brokers' backends are told of this one; empty where there are none."""
        self.are_closing = False
        """Whether the broker is about to end."""
        self._told: set[str] = set()

    def backend_at(self, port: str, peer: str) -> str:
        """Return what to tell a backend that has come to the port for something else, which ``port`` names."""
        right = f"backends use {self.tcp} (--tcp-port)"
        self._log_once(f"{peer} speaks as backends do to", port, right)
        return f"this is the port for {port}; {right}"

    def client_at_tcp(self, peer: str) -> str:
        """Return what to tell a browser, or another HTTP client, that has come to the port for backends."""
        right = f"WebSocket clients use {self.ws} (--ws-port)"
        self._log_once(f"{peer} speaks HTTP to", "backends", right)
        return f"this is the port for backends; {right}"

    def _log_once(self, who: str, port: str, right: str) -> None:
        if port not in self._told:
            self._told.add(port)
            logger.warning("%s the port for %s; %s. This is told once", who, port, right)
