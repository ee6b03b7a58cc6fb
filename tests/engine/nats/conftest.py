import asyncio
import sys


def pytest_asyncio_loop_factories(config, item):
    """Run what is about the connection on both loops, and all else on asyncio's."""
    both = ("test_connection", "test_failures", "test_several_servers")
    if sys.platform == "win32" or not item.module.__name__.endswith(both):
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
