"""Messages to clients as they go over NATS, as bytes. Pure.

Each begins with a head, which is the same in all versions. A message has behind it whom it is for, and the rest: who is
left out, its key, its content. What exceeds the largest payload of NATS goes in parts of the rest.
"""

from struct import Struct, error
from typing import Final, TypeAlias

from pystrands.engine.publication import Audience, Publication

__all__ = [
    "CONFIRM",
    "HEAD_SIZE",
    "MESSAGE",
    "PART",
    "VERSION",
    "Head",
    "Malformed",
    "address_of",
    "audience_of",
    "beat_byte",
    "flags_of",
    "name_of",
    "pack_head",
    "pack_part",
    "pack_rest",
    "prefix_of",
    "publication_of",
    "unpack_head",
    "unpack_part",
]

VERSION: Final = 1
"""Of all that is behind the head."""
MESSAGE: Final = 1
"""The kind of envelope that is a message to clients; all others are what brokers tell each other."""

# Flags. Two bits are the audience.
_TO_ROOM: Final = 0
_TO_CLIENT: Final = 1
_TO_EVERYONE: Final = 2
_TO_USER: Final = 3
_AUDIENCE: Final = 3
_BINARY: Final = 4
_EXCLUDES: Final = 8
_KEY: Final = 16
CONFIRM: Final = 32
"""Somebody wants to know what became of it."""
PART: Final = 64
"""It is a part of a message."""
_HIDDEN: Final = 128

_ROOM: Final = Audience.ROOM
_CLIENT: Final = Audience.CLIENT
_EVERYONE: Final = Audience.EVERYONE
_USER: Final = Audience.USER

_head: Final = Struct("<BBBBIqqq")
_pack: Final = _head.pack
_unpack: Final = _head.unpack_from
HEAD_SIZE: Final = 32
_length: Final = Struct("<H")
_count: Final = Struct("<I")
_part: Final = Struct("<II")

Head: TypeAlias = tuple[int, int, int, int, int, int, int, int]
"""Version, kind, flags, beat; the number of the sender's connection, the sender's number; the message's number, and the
number of the one before it on the same subject. Beat is that of the sender's last heartbeat, in one byte, as
:func:`beat_byte` makes it; 0 where it is not said."""


class Malformed(Exception):  # noqa: N818 - as MalformedLine
    """Bytes that are no message."""


def beat_byte(beat: int) -> int:
    """Return the byte that stands for a heartbeat in heads of messages after it."""
    return beat % 255 + 1


def pack_head(kind: int, flags: int, epoch: int, sender: int, seq: int, previous: int, beat: int = 0) -> bytes:
    """Return a head."""
    return _pack(VERSION, kind, flags, beat, epoch, sender, seq, previous)


def unpack_head(envelope: bytes) -> Head:
    """Return what a head says; the envelope has :data:`HEAD_SIZE` bytes at least."""
    head: Head = _unpack(envelope)
    return head


# --- messages ---


def prefix_of(address: str) -> bytes:
    """Return the address of a message as it stands behind the head."""
    name = address.encode(errors="surrogatepass")
    return _length.pack(len(name)) + name


def flags_of(publication: Publication) -> int:
    """Return what the head says of a message."""
    audience = publication.audience
    if audience is _ROOM:
        flags = _TO_ROOM
    elif audience is _CLIENT:
        flags = _TO_CLIENT
    else:
        flags = _TO_EVERYONE if audience is _EVERYONE else _TO_USER
    if not isinstance(publication.message, str):
        flags |= _BINARY
    if publication.exclude:
        flags |= _EXCLUDES
    if publication.key is not None:
        flags |= _KEY
    if publication.confirm:
        flags |= CONFIRM
    if publication.is_hidden:
        flags |= _HIDDEN
    return flags


def audience_of(flags: int) -> Audience:
    """Return whom a message with these flags is for."""
    audience = flags & _AUDIENCE
    if audience == _TO_ROOM:
        return _ROOM
    if audience == _TO_CLIENT:
        return _CLIENT
    return _EVERYONE if audience == _TO_EVERYONE else _USER


def pack_rest(publication: Publication) -> bytes:
    """Return what stands behind the address."""
    message = publication.message
    content = _text(message) if isinstance(message, str) else message
    if not publication.exclude and publication.key is None:
        return content
    parts = []
    if publication.exclude:
        parts.append(_count.pack(len(publication.exclude)))
        parts.extend(prefix_of(client_id) for client_id in publication.exclude)
    if publication.key is not None:
        parts.append(prefix_of(publication.key))
    parts.append(content)
    return b"".join(parts)


def _text(message: str) -> bytes:
    try:
        return message.encode()
    except UnicodeEncodeError:  # a lone surrogate: as in a frame to a client of this broker
        return message.encode(errors="replace")


def address_of(envelope: bytes) -> tuple[str, int]:
    """Return the address of a message, and where the rest begins. Raises Malformed."""
    return _name(envelope, HEAD_SIZE)


def publication_of(flags: int, address: str, data: bytes, at: int) -> Publication:
    """Return the message whose rest begins at ``at``. Raises Malformed."""
    exclude: tuple[str, ...] = ()
    key: str | None = None
    if flags & _EXCLUDES:
        if len(data) < at + 4:
            raise Malformed("it ends too early")
        (count,) = _count.unpack_from(data, at)
        at += 4
        left_out = []
        for _ in range(count):
            name, at = _name(data, at)
            left_out.append(name)
        exclude = tuple(left_out)
    if flags & _KEY:
        key, at = _name(data, at)
    content = data[at:]
    message: str | bytes = content
    if not flags & _BINARY:
        try:
            message = content.decode()
        except UnicodeDecodeError as cause:
            raise Malformed("the text is no UTF-8") from cause
    return Publication(audience_of(flags), address, message, exclude, key, bool(flags & CONFIRM), bool(flags & _HIDDEN))


def _name(data: bytes, at: int) -> tuple[str, int]:
    start = at + 2
    if len(data) < start:
        raise Malformed("it ends too early")
    end = start + data[at] + (data[at + 1] << 8)
    if len(data) < end:
        raise Malformed("it ends too early")
    return name_of(data[start:end]), end


def name_of(name: bytes) -> str:
    """Return an id from its bytes. Raises Malformed."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        pass
    try:
        return name.decode(errors="surrogatepass")
    except UnicodeDecodeError as cause:
        raise Malformed("a name is no UTF-8") from cause


# --- parts ---


def pack_part(index: int, count: int) -> bytes:
    """Return what stands behind the address of a part of a message: the how manieth of how many it is."""
    return _part.pack(index, count)


def unpack_part(envelope: bytes, at: int) -> tuple[int, int, int]:
    """Return the how manieth part of how many it is, and where its content begins. Raises Malformed."""
    try:
        index, count = _part.unpack_from(envelope, at)
    except error as cause:
        raise Malformed("it ends too early") from cause
    if index >= count:
        raise Malformed("there is no such part")
    return index, count, at + _part.size
