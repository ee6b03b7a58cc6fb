"""What NATS is shown: tokens, passwords, signatures, certificates. Files are read anew for each connection."""

import re
import ssl
from base64 import urlsafe_b64encode
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pystrands.engine.nats.options import NatsOptions, NatsServer
from pystrands.errors import ConfigError

__all__ = ["Credentials", "tls_context"]

_LARGEST: Final = 65_536
"""Bytes of a credentials file that are read."""
_BLOCK: Final = r"-----BEGIN {0}-----\s+(\S+)\s+-{{3,}}END {0}-{{3,}}"
_JWT: Final = re.compile(_BLOCK.format("NATS USER JWT"))
_SEED: Final = re.compile(_BLOCK.format("USER NKEY SEED"))
_NKEY: Final = re.compile(r"^(SU[A-Z2-7]{56})\s*$", re.MULTILINE)


class Credentials:
    """What one file holds: a user's JWT with its seed, or the seed of an nkey alone; nothing where there is no file.

    Raises ConfigError, also where the library is missing that signs. Blocks as long as reading does.
    """

    def __init__(self, path: str = "") -> None:
        self._jwt = ""
        self._keys: Any = None
        if not path:
            return
        text = _read("nats_credentials", path).decode(errors="replace")
        jwt, seed = _JWT.search(text), _SEED.search(text) or _NKEY.search(text)
        if seed is None or (jwt is None and "NATS USER JWT" in text):
            what = "is neither a .creds file, with a user's JWT and seed, nor the seed of a user's nkey (SU...)"
            raise ConfigError("nats_credentials", f"{path} {what}")
        self._jwt = jwt[1] if jwt else ""
        self._keys = _keys(path, seed[1])

    def __repr__(self) -> str:
        return f"<Credentials {'JWT' if self._jwt else 'nkey' if self._keys else 'none'}>"

    def shown(self, server: NatsServer, nonce: str) -> dict[str, str]:
        """Return what belongs into CONNECT, for a server that has given us ``nonce`` to sign."""
        shown = {}
        if server.password is not None:
            shown = {"user": server.user, "pass": server.password}
        elif server.user:
            shown = {"auth_token": server.user}
        if self._keys is not None:
            shown["sig"] = urlsafe_b64encode(self._keys.sign(nonce.encode())).rstrip(b"=").decode()
            if self._jwt:
                shown["jwt"] = self._jwt
            else:
                shown["nkey"] = self._keys.public_key.decode().rstrip("=")
        return shown


def _read(option: str, path: str) -> bytes:
    try:
        if Path(path).is_fifo():  # who opens one waits
            raise ConfigError(option, f"can't read {path}: it is a pipe, no file")
        with Path(path).open("rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise ConfigError(option, f"can't read {path}: {error.strerror or error}") from None


def _keys(path: str, seed: str) -> Any:
    """Return what signs with a seed."""
    try:
        nkeys: Any = import_module("nkeys")  # few need it, and it has no types
    except ImportError:
        problem = "needs the library nkeys: pip install 'pystrands[cluster]'"
        raise ConfigError("nats_credentials", problem) from None
    try:
        keys = nkeys.from_seed(seed.encode())
        name: bytes = keys.public_key
    except Exception:  # noqa: BLE001 - several kinds, and none may show the seed
        raise ConfigError("nats_credentials", f"{path} has a seed that is damaged") from None
    if not name.startswith(b"U"):
        raise ConfigError("nats_credentials", f"{path} has the seed of something else than a user")
    return keys


def tls_context(options: NatsOptions) -> ssl.SSLContext:
    """Return what TLS is spoken with: TLS 1.2 or newer, and never without a look at the server's certificate.

    Raises ConfigError. Blocks: reading the authorities that the system trusts takes tens of milliseconds.
    """
    for name, path in (
        ("nats_tls_ca", options.tls_ca),
        ("nats_tls_cert", options.tls_cert),
        ("nats_tls_key", options.tls_key),
    ):
        if path:
            _read(name, path)  # OpenSSL does not say which one can't be read
    try:
        context = ssl.create_default_context(cafile=options.tls_ca or None)
    except (OSError, ValueError) as error:
        raise ConfigError("nats_tls_ca", f"can't use {options.tls_ca}: {_reason(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.tls_cert:
        try:
            # A key that needs a pass phrase would have OpenSSL ask for it on the terminal.
            context.load_cert_chain(options.tls_cert, options.tls_key or None, password=lambda: b"")
        except (OSError, ValueError) as error:
            files = f"{options.tls_cert} and {options.tls_key}" if options.tls_key else options.tls_cert
            raise ConfigError("nats_tls_cert", f"can't use {files}: {_reason(error)}") from None
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason.lower().replace("_", " ") if error.reason else "it is no PEM file of that kind"
    return str(error)
