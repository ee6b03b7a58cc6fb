"""Which web pages may open a WebSocket: a browser names its page in Origin (RFC 6455, section 10.2). Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

__all__ = ["AllowedOrigins", "host_is_local"]

Origin: TypeAlias = tuple[str, str, int | None]
"""Scheme and host in lower case, and the port: the scheme's own where none is named, None where it has none."""

_HOST: Final = r"(\[[0-9a-f:.]+\]|[a-z0-9_][a-z0-9_.\-]*)"
_ORIGIN: Final = re.compile(rf"([a-z][a-z0-9+.\-]*)://{_HOST}(?::([0-9]{{1,5}}))?", re.ASCII)
_AUTHORITY: Final = re.compile(rf"{_HOST}(?::([0-9]{{0,5}}))?", re.ASCII)
_LOOPBACK: Final = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]", re.ASCII)
_WILDCARD: Final = "://*."
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class AllowedOrigins:
    """Judges the pages that clients come from.

    ``entries``: origins (``https://app.example.com``, with a port where it is not the scheme's own), the subdomains of
    a host (``https://*.example.com``, which is not ``https://example.com``), and ``*`` for all. Without any it is the
    page's own host and port that count: they have to be those of the request's Host header. When the broker is
    ``local``, listening on the loopback interface, pages of localhost are allowed as well, whatever their port; and the
    Host has to be of localhost, too: anybody can have a name that leads there (DNS rebinding), and a page under it.

    A request without an Origin is not a browser's and always allowed. Raises ValueError on an entry that is no origin.
    """

    __slots__ = ("_all", "_exact", "_local", "_own", "_subdomains")

    def __init__(self, entries: Iterable[str] = (), *, local: bool = False) -> None:
        entries = tuple(entries)
        self._all = "*" in entries
        self._own = not entries
        self._local = local and not entries
        self._exact = frozenset(_entry(each) for each in entries if each != "*" and _WILDCARD not in each)
        self._subdomains = tuple(
            (scheme, "." + host, port) for scheme, host, port in (_entry(each) for each in entries if _WILDCARD in each)
        )

    def allow(self, headers: Mapping[str, Sequence[str]], *, proxied: bool = False) -> bool:
        """Tell whether a client with these headers (canonical names) may come in. Whatever they hold, it never raises.

        What is no origin, ``null`` above all, is only allowed by ``*``. ``proxied``: it comes from a proxy that is
        trusted, whose clients know it by other names.
        """
        values = headers.get("Origin")
        if values is None or self._all:
            return True
        origin = _parsed(values[0]) if len(values) == 1 else None
        if origin is None:
            return False
        if self._own:
            if not proxied and not self.takes_host(headers):
                return False
            return self._is_own(origin, headers) or (self._local and _is_local_page(origin))
        return origin in self._exact or any(
            origin[1].endswith(suffix) and (origin[0], origin[2]) == (scheme, port)
            for scheme, suffix, port in self._subdomains
        )

    def takes_host(self, headers: Mapping[str, Sequence[str]]) -> bool:
        """Tell whether a page may have connected to this Host: while the broker is local only to one of localhost."""
        return not self._local or host_is_local(headers)

    @staticmethod
    def _is_own(origin: Origin, headers: Mapping[str, Sequence[str]]) -> bool:
        """Whether page and request have the same host and port.

        The scheme is not compared: a proxy that ends TLS leaves none to compare with.
        """
        scheme, host, port = origin
        found = _host_of(headers)
        if found is None or found[1] != host:
            return False
        return port == (int(found[2]) if found[2] else _DEFAULT_PORTS.get(scheme))


def host_is_local(headers: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether the Host of a request is ``localhost`` or an address of the loopback interface, with any port.

    Whatever listens there and can be read by a browser's page has to ask: see DNS rebinding above.
    """
    found = _host_of(headers)
    return found is not None and _LOOPBACK.fullmatch(found[1]) is not None


def _host_of(headers: Mapping[str, Sequence[str]]) -> re.Match[str] | None:
    """Match the Host header: its host in lower case, and its port."""
    hosts = headers.get("Host", ())
    return _AUTHORITY.fullmatch(hosts[0].lower()) if len(hosts) == 1 and hosts[0].isascii() else None


def _is_local_page(origin: Origin) -> bool:
    return origin[0] in _DEFAULT_PORTS and _LOOPBACK.fullmatch(origin[1]) is not None


def _parsed(text: str) -> Origin | None:
    """Return an origin, or None for what is none; only ASCII is one, so that ``lower()`` can't make a letter of it."""
    found = _ORIGIN.fullmatch(text.lower()) if text.isascii() else None
    if found is None:
        return None
    scheme, host, port = found.groups()
    number = _DEFAULT_PORTS.get(scheme) if port is None else int(port)
    return None if number is not None and number > 65535 else (scheme, host, number)


def _entry(text: str) -> Origin:
    """Return the origin that an entry names, of a wildcard that of the domain. Raises ValueError."""
    origin = _parsed(text.replace(_WILDCARD, "://", 1))
    if origin is None:
        raise ValueError(
            f"{text[:60]!r} is no origin: write scheme and host, a port if need be, and nothing after them, "
            "such as https://app.example.com or https://*.example.com"
        )
    return origin
