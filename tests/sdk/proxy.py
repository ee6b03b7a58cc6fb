"""A TCP proxy that cuts, and swallows, what it passes on."""

import asyncio
from typing import Self


class Proxy:
    """Passes connections on to a port, until told otherwise."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_swallowing = False
        """Whether nothing gets through, though connections stay open."""
        self.is_open = True
        """Whether new connections are taken."""
        self.count = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset all connections."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()
        self._pairs.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.transport.abort()
            return
        self.count += 1
        there, target = await asyncio.open_connection("127.0.0.1", self.target)
        self._pairs.add((writer, target))
        for source, sink in ((reader, target), (there, writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.is_swallowing:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        finally:
            if not self.is_swallowing:
                sink.close()
