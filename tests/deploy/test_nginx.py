"""The nginx configuration of the docs, in a real nginx, in front of a real broker."""

import asyncio
import os
import re
import shutil
import socket
import ssl
import subprocess
from contextlib import contextmanager

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.config import BrokerConfig
from tests.docs.blocks import ROOT

SNIPPET = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PATIENCE = 20

needs_nginx = pytest.mark.skipif(NGINX is None, reason="there is no nginx on this machine (Debian: nginx-light)")
MAIN = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/pystrands.conf;
}}
"""


class Backend(AsyncPyStrandsClient):
    """Tells everybody where it thinks they come from."""

    async def on_connection_request(self, request):
        request.context.metadata = {"from": request.remote_addr, "path": request.url}

    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)
        await self.send_private_message(context.client_id, "{from} {path}".format(**context.metadata))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def replaced(text, *pairs):
    for old, new in pairs:
        assert text.count(old) == 1, f"{old!r} is not once in deploy/nginx.conf"
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(folder, broker):
    """Run nginx in front of a broker; give its port and what trusts its certificate."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    port = free_port()
    (folder / "pystrands.conf").write_text(
        replaced(
            SNIPPET,
            ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
            ("/etc/ssl/example.org.pem", f"{folder}/both.pem"),
            ("/etc/ssl/example.org.key", f"{folder}/both.pem"),
            ("server 127.0.0.1:8080;", f"server 127.0.0.1:{broker.ws_port};"),
        )
    )
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    assert NGINX is not None
    with subprocess.Popen(
        [NGINX, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            testing.until_sync(lambda: is_listening(port) or process.poll() is not None, PATIENCE)
            assert process.poll() is None, process.stderr.read()
            trust = ssl.create_default_context()
            authority.configure_trust(trust)
            yield port, trust
        finally:
            process.terminate()
            process.wait(PATIENCE)
            process.stderr.close()


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@needs_nginx
async def test_clients_come_through_nginx_with_their_own_addresses(tmp_path):
    async with testing.broker(trusted_proxies=("127.0.0.1",)) as broker, testing.backend(broker, Backend):
        with nginx(tmp_path, broker) as (port, trust):

            def come(path="lobby?x=1", **options):
                # Not from the proxy's own address, which is trusted.
                url = f"wss://localhost:{port}/ws/{path}"
                return connect(url, ssl=trust, host="127.0.0.1", local_addr=("127.0.0.2", 0), **options)

            async with asyncio.timeout(3 * PATIENCE):
                forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
                page = f"https://localhost:{port}"
                async with come(additional_headers=forged, origin=page) as ws:
                    for message in ("text", b"binary", "x" * 300_000):
                        await ws.send(message)
                        assert await ws.recv() == message
                        address, path = str(await ws.recv()).split()
                        assert address.rpartition(":")[0] in ("", "127.0.0.2"), address
                        assert "127.0.0.2" in address
                        assert path == "/lobby"
                with pytest.raises(InvalidStatus) as refused:
                    await come(origin="https://elsewhere.example")
                assert refused.value.response.status_code == 403
                ws = await come()
                stopping = asyncio.create_task(broker.stop())
                await ws.wait_closed()
                assert ws.close_code == 1012, "the broker's close gets through"
                await stopping


def test_nginx_waits_for_longer_than_a_client_may_be_silent():
    config = BrokerConfig()
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        (seconds,) = re.findall(rf"{name} (\d+)s;", SNIPPET)
        assert int(seconds) > config.ping_interval * config.ping_missed
