"""``pystrands demo``: the broker, a chat backend and its web page in one process."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from pystrands.demo.chat import ChatBackend

__all__ = ["ChatBackend", "page", "serve"]


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
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}  # noqa: S104 - looked up, not listened on
    async with Broker(config, pages={"/": ("text/html; charset=utf-8", page())}) as broker:
        backend = ChatBackend(host=everywhere.get(config.tcp_host, config.tcp_host), port=broker.tcp_port)
        running = asyncio.create_task(backend.run_forever())
        try:
            yield broker
        finally:
            running.cancel()  # which disconnects; disconnect() would not end a task that has not begun
            await asyncio.wait([running])
