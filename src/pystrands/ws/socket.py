"""One WebSocket of the client, on picows: whole messages in, frames out, one close."""

import asyncio
from collections.abc import Sequence
from ssl import SSLContext
from typing import Final, Protocol, cast

from picows import WSCloseCode, WSError, WSFrame, WSInvalidStatusError, WSListener, WSMsgType, WSTransport, ws_connect

__all__ = ["Owner", "Socket"]

_MOST: Final = 64 * 1024 * 1024
"""Bytes of the longest message that a broker may send."""
_DIALING: Final = 10.0
_CLOSING: Final = 5.0
"""Seconds for the other side to answer a close."""
_ABNORMAL: Final = 1006
_NO_CODE: Final = 1005


class Owner(Protocol):
    """Who hears of a socket."""

    def on_message(self, message: str | bytes) -> None:
        """Take a message that has come."""
        ...

    def on_closed(self, code: int, reason: str) -> None:
        """Hear that it is closed, or could not be opened: the last that is heard of it."""
        ...


class Socket(WSListener):
    """A WebSocket. Its owner is told of each message, and once of its end, until it is let go."""

    def __init__(self, owner: Owner, *, is_paused: bool = False) -> None:
        self._owner: Owner | None = owner
        self._dialing: asyncio.Task[None] | None = None
        self._is_paused = is_paused
        self._transport: WSTransport | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._is_text = False
        self._close: tuple[int, str] = (_ABNORMAL, "")
        self.is_full = False
        """Whether more waits to be sent than the network takes."""

    async def dial(
        self,
        url: str,
        subprotocols: Sequence[str],
        headers: Sequence[tuple[str, str]],
        ssl_context: SSLContext | None,
    ) -> None:
        """Open it, within ten seconds; what hinders that is the reason of its close."""
        self._dialing = asyncio.current_task()
        try:
            _, opened = await ws_connect(
                lambda: self,
                url,
                ssl_context=ssl_context,
                websocket_handshake_timeout=_DIALING,
                max_frame_size=_MOST,
                extra_headers=[*headers, ("Sec-WebSocket-Protocol", ", ".join(subprotocols))],
            )
            if cast(Socket | None, opened) is None:  # picows gives no reason for that
                self._end(_ABNORMAL, f"no connection to {url}: it was closed during the handshake")
        except WSInvalidStatusError as error:
            status = "nothing that is HTTP" if error.response is None else f"status {int(error.response.status)}"
            self._end(_ABNORMAL, f"the broker answered with {status}")
        except (WSError, OSError, TimeoutError, ValueError) as error:
            self._end(_ABNORMAL, f"no connection to {url}: {str(error) or type(error).__name__}")
        finally:
            self._dialing = None

    def let_go(self) -> None:
        """Tell nothing more."""
        self._owner = None

    def send(self, message: str | bytes) -> None:
        """Send a message; it waits in memory while the network is slow."""
        if self._transport is not None:
            if isinstance(message, str):
                self._transport.send(WSMsgType.TEXT, message.encode())
            else:
                self._transport.send(WSMsgType.BINARY, message)

    def pause(self) -> None:
        """Read no more: the broker notices, in the end, that this client is slow."""
        self._is_paused = True
        if self._transport is not None:
            self._transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        self._is_paused = False
        if self._transport is not None:
            self._transport.underlying_transport.resume_reading()

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, and wait at most five seconds for the answer."""
        if self._transport is None:
            return
        if self._is_paused:
            self.resume()
        self._transport.send_close(cast(WSCloseCode, code), reason.encode())  # of applications, too
        try:
            async with asyncio.timeout(_CLOSING):
                await self._transport.wait_disconnected()
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """End it at once, without a word."""
        if self._dialing is not None:
            self._dialing.cancel()
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def _end(self, code: int, reason: str) -> None:
        if self._owner is not None:
            owner, self._owner = self._owner, None
            owner.on_closed(code, reason)

    # --- what picows calls ---

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the way to the other side."""
        self._transport = transport
        if self._is_paused:
            self.pause()

    def pause_writing(self) -> None:
        """More waits than the network takes."""
        self.is_full = True

    def resume_writing(self) -> None:
        """It has gone."""
        self.is_full = False

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Put messages together; pings are answered by picows."""
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            payload = frame.get_payload_as_bytes()
            code = int.from_bytes(payload[:2], "big") if payload else _NO_CODE
            self._close = (code, payload[2:].decode(errors="replace"))
            transport.send_close(cast(WSCloseCode, code) if payload else WSCloseCode.OK)
            transport.disconnect()
            return
        if kind not in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            return
        if kind != WSMsgType.CONTINUATION:
            self._is_text = kind == WSMsgType.TEXT
        if not frame.fin or self._parts:
            self._parts.append(frame.get_payload_as_bytes())
            self._size += len(self._parts[-1])
            if self._size > _MOST:
                self._close = (_ABNORMAL, "a message is longer than 64 MiB")
                transport.disconnect(graceful=False)
                return
            if not frame.fin:
                return
            whole = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
        else:
            whole = frame.get_payload_as_bytes()
        if self._owner is not None:
            self._owner.on_message(whole.decode() if self._is_text else whole)

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """Tell how it ended."""
        self._transport = None
        self._end(*self._close)
