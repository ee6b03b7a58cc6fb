import asyncio
import sys


def pytest_asyncio_loop_factories(config, item):
    """Run the broker's tests on what it runs on: uvloop, where there is one; in a few files on asyncio, too."""
    if sys.platform == "win32":
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    if item.module.__name__.endswith(("test_messages", "test_backend_tls")):
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}
