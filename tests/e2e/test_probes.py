"""What load balancers and monitors do: they connect, and end their side at once, or after a while."""

import asyncio
import logging

import pytest

from pystrands import testing
from tests.inside import authenticator_of, parts_of


async def probe(port, *, say=b"", wait=False):
    """Connect, end our side as a check does, and wait for the broker to end its own."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if wait:
            await reader.readline()
        writer.write(say)
        writer.write_eof()
        await reader.read()
        writer.close()


@pytest.mark.parametrize("with_tls", [False, True])
async def test_a_check_that_ends_its_side_is_no_error_on_any_port(with_tls, tls, tmp_path, caplog):
    files = {**tls, "tls_cert": tls["backend_tls_cert"]} if with_tls else {}
    async with testing.broker(admin_port=0, **files) as broker:
        for port in (broker.ws_port, broker.tcp_port, broker.admin_port):
            for say in (b"", b"GET / HT", b'{"action":', b"\n"):
                await probe(port, say=say)
        if not with_tls:
            await probe(broker.tcp_port, wait=True)
            hello = b'{"action":"hello","params":{"protocol":2,"session_id":"s"}}\n'
            await probe(broker.tcp_port, say=hello, wait=True)
            await testing.until(lambda: not broker.backend_count)
        await testing.until(lambda: not len(parts_of(broker).admission) and not len(authenticator_of(broker)))
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, errors[0].getMessage()
