"""Where NATS is, and what it is shown."""

import contextlib
import ipaddress
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from pystrands.errors import ConfigError
from pystrands.protocol.address import has_more, host_and_port, is_loopback

__all__ = ["NatsOptions", "NatsServer"]

_PORT: Final = 4222
_FORM: Final = "write nats://host:4222"
_EXPOSED: Final = (
    "is reached from other machines, and whoever reaches NATS could send to every client: give credentials, as in"
    " nats://TOKEN@host:4222 or nats://USER:PASSWORD@host:4222, in the file nats-credentials, or as nats-tls-cert"
)


@dataclass(frozen=True, slots=True)
class NatsServer:
    """One server. ``user`` without ``password`` is a token. ``str()`` is its address without them."""

    host: str
    port: int = _PORT
    is_tls: bool = False
    user: str = field(default="", repr=False)
    password: str | None = field(default=None, repr=False)
    tls_name: str = ""
    """The name that its certificate has to have, where that is not ``host``."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL. Raises ValueError, whose text does not show the URL: it may hold a token."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError(f"has no valid host and port: {_FORM}") from None
        if parts.scheme not in {"nats", "tls"} or not url.lower().startswith(f"{parts.scheme}://"):
            raise ValueError(f"does not begin with nats:// or tls://: {_FORM}")
        if not parts.hostname or has_more(parts.hostname) or port == 0:
            raise ValueError(f"has no valid host and port: {_FORM}")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise ValueError(
                f"has something behind host and port: {_FORM}; in a password or token / ? # are written %2F %3F %23"
            )
        user, password = unquote(parts.username or ""), parts.password
        return cls(
            parts.hostname,
            port or _PORT,
            parts.scheme == "tls",
            user,
            None if password is None else unquote(password),
        )

    def discovered(self, address: str) -> Self | None:
        """Return another server, of which this one tells: it takes the same credentials. None where that can't be."""
        found = host_and_port(address)
        if found is None or (is_loopback(found[0]) and not is_loopback(self.host)):
            return None
        host, port = found
        tls_name = ""
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host).is_unspecified:
                return None
            tls_name = self.tls_name or self.host
        return replace(self, host=host, port=port, tls_name=tls_name)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.is_tls else 'nats'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions:
    """How NATS is reached. Raises ConfigError, by the names of the broker's options, for what can't work.

    ``urls``: servers, of which the first that answers is used. ``credentials``: a file with a JWT and its seed, or with
    the seed of an nkey. ``tls_ca``: who must have signed the servers' certificates. ``tls_cert`` and ``tls_key``: what
    they are shown; the key may be in the same file. Files are read at each connection. ``name``: what they call us.
    """

    urls: tuple[str, ...] = field(repr=False)
    credentials: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    name: str = ""
    connect_timeout: float = 3.0
    """Seconds for one server to let us in."""
    ping_interval: float = 3.0
    """Seconds; who has said nothing at all since the last but one PING is given up with the next."""
    longest_delay: float = 2.0
    """Seconds between attempts, when they have failed for a while."""
    write_buffer: int = 64 << 20
    """Bytes that wait to be written; with more the connection is given up."""
    servers: tuple[NatsServer, ...] = field(init=False)

    def __post_init__(self) -> None:
        servers = tuple(self._parsed(index) for index in range(len(self.urls)))
        object.__setattr__(self, "servers", servers)
        if not servers:
            raise ConfigError("nats_url", f"no server is named: {_FORM}")
        if self.tls_key and not self.tls_cert:
            raise ConfigError("nats_tls_key", "a private key needs its certificate: give nats-tls-cert too")
        for server in servers:
            if not self.may_use(server):
                raise ConfigError("nats_url", f"{server} {_EXPOSED}")

    def _parsed(self, index: int) -> NatsServer:
        try:
            return NatsServer.parse(self.urls[index])
        except ValueError as error:
            place = f"address {index + 1} of {len(self.urls)} " if len(self.urls) > 1 else ""
            raise ConfigError("nats_url", f"{place}{error}") from None

    def may_use(self, server: NatsServer) -> bool:
        """Whether ``server`` asks for credentials, as it seems from those that we have; on loopback it need not."""
        return bool(server.user or self.credentials or self.tls_cert) or is_loopback(server.host)

    @property
    def wants_tls(self) -> bool:
        """Whether no server is to be talked to without TLS."""
        return bool(self.tls_ca or self.tls_cert)
