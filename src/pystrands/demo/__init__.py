"""``pystrands demo``: the broker, a chat backend and its web page in one process; or several of each."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files

from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from pystrands.demo.chat import ChatBackend

__all__ = ["ChatBackend", "page", "serve", "serve_brokers"]


def page() -> bytes:
    """Return the chat's page: one HTML document that needs nothing else, with a policy that lets nothing else in."""
    html = (files(__name__) / "page.html").read_text("utf-8")

    def sources(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    policy = (
        f"default-src 'none'; script-src {sources('script')}; style-src {sources('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return html.replace("{{content-security-policy}}", policy).encode()


@asynccontextmanager
async def serve(config: BrokerConfig) -> AsyncIterator[Broker]:
    """Run the demo while the context is open, and give its broker. Raises OSError when an address is taken."""
    async with serve_brokers([config], backends=1) as (broker,):
        yield broker


@asynccontextmanager
async def serve_brokers(configs: Sequence[BrokerConfig], *, backends: int) -> AsyncIterator[list[Broker]]:
    """Run the demo with several brokers, each of which has the page, and give them.

    Each backend is told of one broker, and hears from it of the others. Raises OSError when an address is taken.
    """
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}  # noqa: S104 - looked up, not listened on
    pages = {"/": ("text/html; charset=utf-8", page())}
    async with AsyncExitStack() as stack:
        starting = [stack.enter_async_context(Broker(config, pages=pages)) for config in configs]
        brokers = list(await asyncio.gather(*starting))
        running = []
        for number in range(backends):
            broker, host = brokers[number % len(brokers)], configs[number % len(brokers)].tcp_host
            backend = ChatBackend(host=everywhere.get(host, host), port=broker.tcp_port, name=f"chat-{number + 1}")
            running.append(asyncio.create_task(backend.run_forever()))
        try:
            yield brokers
        finally:
            for task in running:
                task.cancel()  # which disconnects; disconnect() would not end a task that has not begun
            await asyncio.wait(running)
