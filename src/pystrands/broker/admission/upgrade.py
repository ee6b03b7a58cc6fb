"""How a WebSocket begins (RFC 6455, section 4): what a request for one must be, and the answer. Pure."""

import base64
import binascii
import hashlib
from typing import Final

from pystrands.broker.net.http import Fields, HttpResponse, Request, field_lines, render

__all__ = ["check_upgrade", "switching_protocols"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def check_upgrade(request: Request) -> HttpResponse | None:
    """Judge a request that `wants_websocket` (RFC 6455, section 4.2.1); None when it may have one."""
    headers = request.headers
    if request.method != "GET":
        return HttpResponse.text(405, "a WebSocket is opened with GET", (("Allow", "GET"),))
    if "Transfer-Encoding" in headers or any(value.strip("0") for value in headers.get("Content-Length", ())):
        return HttpResponse.text(400, "a WebSocket is opened without a body")
    if headers.get("Sec-Websocket-Version") != ["13"]:
        return HttpResponse.text(426, "WebSocket version 13 is needed", (("Sec-WebSocket-Version", "13"),))
    keys = headers.get("Sec-Websocket-Key", [])
    if len(keys) != 1 or not _key_is_valid(keys[0]):
        return HttpResponse.text(400, "there must be one Sec-WebSocket-Key, of 16 bytes in base64")
    return None


def switching_protocols(
    key: str, subprotocol: str | None = None, headers: Fields = (), extensions: str | None = None
) -> bytes:
    """Render the 101 that answers a request with this Sec-WebSocket-Key."""
    accept = base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()).decode("ascii")
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extensions is not None:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    return render([*lines, *field_lines(headers)])


def _key_is_valid(key: str) -> bool:
    try:
        return len(base64.b64decode(key.encode("ascii"), validate=True)) == 16
    except (UnicodeEncodeError, binascii.Error):
        return False
