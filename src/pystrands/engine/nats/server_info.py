"""What a NATS server says of itself."""

import msgspec

from pystrands.engine.nats.protocol import NatsProtocolError

__all__ = ["ServerInfo", "server_info"]


class ServerInfo(msgspec.Struct, frozen=True):
    """INFO: the first thing that a server says, and said again after a change. Fields are named as there."""

    server_id: str = ""
    server_name: str = ""
    version: str = ""
    headers: bool = False
    max_payload: int = 1 << 20
    """Bytes of a message with its headers."""
    nonce: str = ""
    """What is to be signed."""
    tls_required: bool = False
    tls_available: bool = False
    connect_urls: tuple[str, ...] = ()
    """``host:port`` of the servers of its cluster."""
    ldm: bool = False
    """Whether it is about to stop, and wants its clients to leave."""


_decode = msgspec.json.Decoder(ServerInfo).decode


def server_info(text: bytes) -> ServerInfo:
    """Read INFO. Raises NatsProtocolError."""
    try:
        info = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NatsProtocolError(f"INFO can't be read: {error}") from None
    if info.max_payload < 1:
        raise NatsProtocolError(f"INFO says that messages have {info.max_payload} bytes at most")
    return info
