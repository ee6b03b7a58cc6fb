"""Subjects of NATS: which for which room, client and broker. Pure.

An id never stands in a subject as it is: ``*`` and ``>`` would subscribe to what is others', a space or an empty part
is refused, and a line that is too long closes the connection.
"""

import re
from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import Final

__all__ = ["Subjects", "token"]

_PLAIN: Final = re.compile(r"[A-Za-z0-9_/:@~-]{1,64}")


def token(name: str) -> bytes:
    """Return the part of a subject that stands for an id: readable where that can be, else a digest of it."""
    if _PLAIN.fullmatch(name):
        return b"=" + name.encode()
    return b"#" + urlsafe_b64encode(blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest())[:22]


class Subjects:
    """The subjects of one cluster, whose name is a part of each."""

    __slots__ = ("_clients", "_prefix", "_rooms", "_users", "everyone")

    def __init__(self, cluster: str) -> None:
        self._prefix = b"ps." + cluster.encode() + b"."
        self._rooms = self._prefix + b"r."
        self._clients = self._prefix + b"c."
        self._users = self._prefix + b"u."
        self.everyone = self._prefix + b"all"
        """What every broker gets."""

    def room(self, room_id: str) -> bytes:
        """Return where messages to a room go."""
        return self._rooms + token(room_id)

    def client(self, client_id: str) -> bytes:
        """Return where what is for one client goes."""
        return self._clients + token(client_id)

    def user(self, user: str) -> bytes:
        """Return where messages to all clients of a user go."""
        return self._users + token(user)

    def broker(self, broker_id: str) -> bytes:
        """Return where what is for one broker goes: answers, mostly."""
        return self._prefix + b"b." + token(broker_id)
