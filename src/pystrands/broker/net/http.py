"""HTTP/1.1 as far as the broker speaks it: heads of requests parsed, responses rendered. Pure."""

import contextlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import httptools

from pystrands.headers import Headers, field_problem

__all__ = [
    "RETRY_AFTER",
    "BadRequestError",
    "Fields",
    "HeadTooLargeError",
    "HttpResponse",
    "NotHttpError",
    "Request",
    "canonical_name",
    "field_lines",
    "parse_request",
    "phrase",
    "read_request",
    "render",
]

logger = logging.getLogger(__name__)

Fields = Iterable[tuple[str, str]]
"""Additional header fields of an answer."""

RETRY_AFTER: Final = ("Retry-After", "2")

_ORIGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*")


@dataclass(slots=True)
class Request:
    """The head of an HTTP request. `headers` has canonical names, each with its values in the order of arrival.

    `size` is how many bytes it had.
    """

    method: str
    version: str
    target: str
    headers: dict[str, list[str]] = field(default_factory=dict)
    size: int = 0

    @property
    def path(self) -> str:
        """The path as it was sent, without the query: neither decoded nor normalised."""
        return _origin_form(self.target).partition("?")[0]

    @property
    def query_string(self) -> str:
        """What follows the first `?`, as it was sent."""
        return _origin_form(self.target).partition("?")[2]

    def tokens(self, name: str) -> list[str]:
        """Return a header's comma-separated values, over all its lines."""
        values = self.headers.get(name, ())
        return [token for value in values for part in value.split(",") if (token := part.strip(" \t"))]

    @property
    def wants_websocket(self) -> bool:
        """Whether this asks for an upgrade to WebSocket, properly or not. HTTP/1.0 can't (RFC 9110, section 7.8)."""
        return (
            self.version == "1.1"
            and any(token.lower() == "websocket" for token in self.tokens("Upgrade"))
            and any(token.lower() == "upgrade" for token in self.tokens("Connection"))
        )


@dataclass(slots=True, frozen=True)
class HttpResponse:
    """A whole answer, after which the connection closes."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Fields = ()

    @classmethod
    def text(cls, status: int, reason: str, headers: Fields = ()) -> "HttpResponse":
        """Return one whose body is a line for people; without a reason it is the name of the status."""
        return cls(status, f"{reason or phrase(status)}\n".encode(errors="replace"), headers=headers)

    def render(self, *, without_body: bool = False) -> bytes:
        """Return the bytes. `without_body`: the request was HEAD."""
        body = b"" if self.status == HTTPStatus.NOT_MODIFIED else self.body
        lines = [
            f"HTTP/1.1 {self.status} {phrase(self.status)}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if self.status == HTTPStatus.UPGRADE_REQUIRED:  # RFC 9110, section 15.5.22
            lines[-1:] = ["Connection: Upgrade, close", "Upgrade: websocket"]
        return render([*lines, *field_lines(self.headers)]) + (b"" if without_body else body)


class BadRequestError(Exception):
    """The request is no HTTP, or no HTTP that we take. The message is for the peer, `status` says what kind it is."""

    status = 400


class HeadTooLargeError(BadRequestError):
    """The head of a request is larger than it may be."""

    status = 431


class NotHttpError(BadRequestError):
    """This is another protocol; `first` is its first byte."""

    def __init__(self, first: int) -> None:
        super().__init__("this is not HTTP")
        self.first = first


def read_request(buffer: bytearray, data: bytes, max_size: int) -> Request | None:
    """Add `data` to what has come of a request; once its head is whole, take that out and return it.

    Empty lines before it are skipped (RFC 9112, section 2.2). Raises BadRequestError, and nothing else.
    """
    searched = max(0, len(buffer) - 3)
    buffer += data if buffer else data.lstrip(b"\r\n")
    end = buffer.find(b"\r\n\r\n", searched) + 4
    if end > max_size or (end == 3 and len(buffer) > max_size):
        raise HeadTooLargeError("the request's head is too large")
    if buffer and not 0x41 <= buffer[0] <= 0x5A:  # every method begins with a capital letter
        raise NotHttpError(buffer[0])
    if end == 3:
        return None
    head = bytes(buffer[:end])
    del buffer[:end]
    return parse_request(head)


def parse_request(head: bytes) -> Request:
    """Parse a request head that ends with its empty line. Raises BadRequestError, and nothing else."""
    sink = _Sink()
    try:
        parser = httptools.HttpRequestParser(sink)
        with contextlib.suppress(httptools.HttpParserUpgrade):  # it says that what follows is another protocol
            parser.feed_data(head)
        method = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        target = bytes(sink.target).decode("ascii")
    except (httptools.HttpParserError, UnicodeDecodeError) as error:
        raise BadRequestError("malformed HTTP request") from error
    if not sink.complete or not target:
        raise BadRequestError("malformed HTTP request")
    if version not in ("1.0", "1.1"):
        raise BadRequestError("unsupported HTTP version")
    hosts = len(sink.headers.get("Host", ()))
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise BadRequestError("there must be one Host header")
    return Request(method, version, target, sink.headers, len(head))


def phrase(status: int) -> str:
    """Return the name of an HTTP status, or an empty string."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@lru_cache(maxsize=512)
def canonical_name(name: bytes) -> str:
    """Write a header's name as :class:`Headers` does, for the names that come again and again."""
    return Headers.canonical(name.decode("latin-1"))


class _Sink:
    """Collects what the parser finds."""

    __slots__ = ("complete", "headers", "target")

    def __init__(self) -> None:
        self.target = bytearray()
        self.headers: dict[str, list[str]] = {}
        self.complete = False

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.setdefault(canonical_name(name), []).append(value.decode("latin-1").strip(" \t"))

    def on_headers_complete(self) -> None:
        self.complete = True


def field_lines(headers: Fields) -> Iterable[str]:
    """Give the lines of additional headers; one that could end its line, or contradicts ours, is left out."""
    for name, value in headers:
        if problem := field_problem(name, value):
            logger.warning("the response header %s was left out: it %s", ascii(name[:100]), problem)
        else:
            yield f"{name}: {value}"


def render(lines: Iterable[str]) -> bytes:
    """Return the head of a response that has these lines."""
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _origin_form(target: str) -> str:
    """Reduce `http://host/path` to `/path`."""
    absolute = _ORIGIN.match(target)
    if absolute is None:
        return target
    rest = target[absolute.end() :]
    return rest if rest.startswith("/") else "/" + rest
