"""TLS of a port: certificate and key from files, read again without a restart."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Final, Protocol

from pystrands.broker.bounds import BOUNDS
from pystrands.errors import ConfigError

__all__ = ["Tls", "TlsStart", "refuse_pipe"]

_SHUTDOWN_TIMEOUT: Final = 1.0


class Tls:
    """What a port serves TLS with. ``key`` may be empty where the certificate's file has it, too.

    With ``ca`` only peers come in that have a certificate which one of that file's has signed. ``prefix`` is what the
    names of the options begin with: ``backend_`` for ``backend_tls_cert``. ``handshake_timeout``: seconds for
    a handshake that :class:`TlsStart` does. Raises ConfigError, naming the option.
    """

    def __init__(
        self,
        cert: str,
        key: str = "",
        ca: str = "",
        *,
        prefix: str = "",
        handshake_timeout: float = BOUNDS.link_tls_handshake,
    ) -> None:
        self.handshake_timeout = handshake_timeout
        self._cert = cert
        self._key = key
        self._ca = ca
        self._prefix = prefix
        self.context = self._read()
        """For connections that begin now: TLS 1.2 or newer."""

    def reload(self) -> None:
        """Read the files again, for connections from now on. Raises ConfigError, and then goes on with what it has."""
        for name, path in (("tls_cert", self._cert), ("tls_key", self._key), ("tls_ca", self._ca)):
            refuse_pipe(self._prefix + name, path)
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # a peer could have us do the costly half again and again
        self._check_readable("tls_cert", self._cert)
        self._check_readable("tls_key", self._key)
        self._check_readable("tls_ca", self._ca)
        try:
            # A key that needs a pass phrase would have OpenSSL ask for it on the terminal.
            context.load_cert_chain(self._cert, self._key or None, password=lambda: b"")
        except (OSError, ValueError) as error:
            files = f"{self._cert} and {self._key}" if self._key else self._cert
            raise ConfigError(f"{self._prefix}tls_cert", f"can't use {files}: {_reason(error)}") from None
        if self._ca:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self._ca)
            except (OSError, ValueError) as error:
                raise ConfigError(f"{self._prefix}tls_ca", f"can't use {self._ca}: {_reason(error)}") from None
        return context

    def _check_readable(self, name: str, path: str) -> None:
        """Find out which file it is that can't be read: OpenSSL does not say."""
        try:
            if path:
                Path(path).open("rb").close()
        except OSError as error:
            raise ConfigError(f"{self._prefix}{name}", f"can't read {path}: {error.strerror or error}") from None


def refuse_pipe(option: str, path: str) -> None:
    """Raise ConfigError for a pipe: who opens one waits until somebody writes, and a whole broker would wait."""
    if path and Path(path).is_fifo():
        raise ConfigError(option, f"can't read {path} again: it is a pipe, no file")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return (
        "it is no PEM file with a certificate and an unencrypted key" if isinstance(error, ssl.SSLError) else str(error)
    )


class Handshakes(Protocol):
    """Who bounds how many handshakes are under way at once, and hears of those that fail."""

    def enter(self, link: "TlsStart", address: str) -> None:
        """A connection has come from that IP address."""
        ...

    def leave(self, link: "TlsStart") -> None:
        """Its handshake is over."""
        ...

    def tls_failed(self, link: "TlsStart", error: OSError) -> None:
        """It came to nothing."""
        ...


class TlsStart(asyncio.Protocol):
    """An accepted connection until its TLS handshake is done; then it is ``protocol``'s, which begins there.

    The event loop's own TLS server tells of no connection before the end of its handshake, so nobody could bound how
    many there are.
    """

    def __init__(
        self,
        protocol: asyncio.Protocol,
        name: str,
        tls: Tls,
        handshakes: Handshakes,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.name = name
        self._protocol = protocol
        self._tls = tls
        self._handshakes = handshakes
        self._loop = loop
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection away from this transport, which has read nothing yet, and give it to one with TLS."""
        peer = transport.get_extra_info("peername")
        if peer:
            self.name += f" ({peer[0]}:{peer[1]})"
        accepted = transport.get_extra_info("socket")
        self._socket = socket.fromfd(accepted.fileno(), accepted.family, accepted.type)
        transport.abort()  # type: ignore[attr-defined]  # closes its descriptor; the copy keeps the connection
        self._task = self._loop.create_task(self._shake_hands())
        self._task.add_done_callback(self._is_over)
        self._handshakes.enter(self, peer[0] if peer else "")

    def abort(self) -> None:
        """End the connection at once; nothing happens when it is the protocol's already."""
        if self._task is not None:
            self._task.cancel()

    async def _shake_hands(self) -> None:
        sock, self._socket = self._socket, None
        assert sock is not None
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._protocol,
                sock,
                ssl=self._tls.context,
                ssl_handshake_timeout=self._tls.handshake_timeout,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
            )
        except OSError as error:
            self._handshakes.tls_failed(self, error)

    def _is_over(self, _task: "asyncio.Task[None]") -> None:
        if self._socket is not None:  # it was ended before it began
            self._socket.close()
        self._handshakes.leave(self)
