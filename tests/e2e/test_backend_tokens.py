"""Real backends, tools and brokers with tokens, over plain connections and over TLS."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from pystrands import AsyncPyStrandsClient, PyStrands, PyStrandsClient, Refused, testing
from pystrands.broker.backends.authenticator import MISSING, WRONG
from pystrands.tools import Tool, ToolError
from tests.inside import core_of

from .support import connect

pytestmark = pytest.mark.usefixtures("clean_environment")

TOKEN = "a token that is a secret"


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)


class EchoThreads(PyStrandsClient):
    def on_message(self, message, context):
        self.send_private_message(context.client_id, message)


def echo_app(**options):
    app = PyStrands(**options)

    @app.on_message
    async def echo(message, context):
        await app.send_private_message(context.client_id, message)

    return app


KINDS: list[Any] = [Echo, EchoThreads, echo_app]


def where(broker):
    return {"host": "127.0.0.1", "port": broker.tcp_port, "reconnect_delay": 0.01}


async def echoes(broker):
    async with connect(broker) as ws:
        for message in ("hello", "x" * 300_000, b"bytes"):
            await ws.send(message)
            assert await ws.recv() == message


@pytest.mark.parametrize("kind", KINDS)
async def test_with_the_token_it_works_over_tls_and_without(kind, tls, trusting, caplog):
    caplog.set_level(logging.DEBUG)
    async with testing.broker(backend_token=["other", TOKEN]) as broker:
        async with testing.backend(broker, kind, token=TOKEN):
            await echoes(broker)
    async with testing.broker(backend_token=[TOKEN], **tls) as broker:
        async with testing.backend(broker, kind, token=TOKEN, ssl=trusting):
            await echoes(broker)
    assert "secret" not in caplog.text
    assert "in the clear" not in caplog.text


@pytest.mark.parametrize(("given", "reason"), [(None, MISSING), ("wrong", WRONG)])
async def test_an_async_client_that_is_refused(given, reason, caplog):
    async with testing.broker(backend_token=[TOKEN]) as broker:
        client = Echo(**where(broker), token=given)
        assert not await client.connect()
        assert not client.connected
        text = f"the broker at 127.0.0.1:{broker.tcp_port} refuses this backend: {reason}"
        with pytest.raises(Refused) as caught:
            await client.run_forever()
        assert str(caught.value) == text
        assert caplog.messages.count(text) == 2
        assert broker.counters["link_without_token"] == 2
        client.token = TOKEN
        assert await client.connect()
        await client.disconnect()


@pytest.mark.parametrize("given", [None, "wrong"])
def test_a_client_for_threads_that_is_refused(given):
    with testing.broker_thread(backend_token=[TOKEN]) as broker:
        client = EchoThreads(**where(broker), token=given)
        assert not client.connect()
        with pytest.raises(Refused):
            client.run_forever()
        assert not client.connected
        client.token = TOKEN
        assert client.connect()
        client.disconnect()


async def test_an_app_that_is_refused():
    async with testing.broker(backend_token=[TOKEN]) as broker:
        with pytest.raises(Refused):
            await echo_app(**where(broker), token="wrong").run_async()
        sending = PyStrandsClient(**where(broker), token="wrong", send_only=True)
        assert not await asyncio.to_thread(sending.connect)


async def test_a_refused_backend_of_the_test_package_says_so():
    async with testing.broker(backend_token=[TOKEN]) as broker:
        for kind in KINDS:
            with pytest.raises(AssertionError, match="could not connect"):
                async with testing.backend(broker, kind, token="wrong"):
                    pass


async def test_tokens_are_rotated_without_an_interruption(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("old\n")
    async with testing.broker(backend_token_file=str(path), resume_window=2.0) as broker:
        with testing.LinkProxy(broker) as link:
            old = Echo(**where(link), token="old")
            running = asyncio.ensure_future(old.run_forever())
            await testing.until(lambda: broker.backend_count == 1)
            path.write_text("old\nnew\n")
            broker.reload()
            async with testing.backend(broker, Echo, token="new"):
                link.cut()
                await testing.until(lambda: broker.counters["sessions_resumed"] == 1)
                path.write_text("new\n")
                broker.reload()
                async with connect(broker) as ws:
                    await ws.send("still here")
                    assert await ws.recv() == "still here"
                    assert old.connected
                    link.cut()
                    with pytest.raises(Refused, match="the token is wrong"):
                        await running
                    assert not old.connected
                    await ws.send("with the new one")
                    assert await ws.recv() == "with the new one"


async def test_a_client_that_does_not_run_for_ever_ends_when_it_is_refused_later(tmp_path, caplog):
    path = tmp_path / "tokens"
    path.write_text("old\n")
    gone = []

    class Noting(Echo):
        async def on_disconnect(self, context):
            gone.append(context.client_id)

    async with testing.broker(backend_token_file=str(path)) as broker:
        with testing.LinkProxy(broker) as link:
            client = Noting(**where(link), token="old")
            assert await client.connect()
            async with connect(broker):
                path.write_text("new\n")
                broker.reload()
                link.cut()
                await testing.until(lambda: "refuses this backend" in caplog.text)
                await testing.until(lambda: core_of(client).lifetime is None)
                assert not client.connected
                assert not await client.connect()
    assert not gone


async def test_a_client_does_not_believe_a_broker_that_it_does_not_trust(tls, caplog):
    async with testing.broker(backend_token=[TOKEN], **tls) as broker:
        client = Echo(**where(broker), token=TOKEN, ssl=True)
        assert not await client.connect()
        assert "certificate verify failed" in caplog.text
        await testing.until(lambda: broker.counters["link_tls_failed"] == 1)
        assert not await Echo(**where(broker), token=TOKEN).connect(), "it said no hello in the clear"
    async with testing.broker(backend_token=[TOKEN]) as broker:
        assert not await Echo(**where(broker), token=TOKEN, ssl=True).connect()
        assert not broker.counters["link_without_token"]
    assert "secret" not in caplog.text


async def test_what_is_sent_last_arrives_over_tls(tls, trusting):
    async with testing.broker(backend_token=[TOKEN], **tls) as broker:
        async with testing.backend(broker, Echo, token=TOKEN, ssl=trusting), connect(broker) as ws:
            for _ in range(10):
                sender = Echo(**where(broker), token=TOKEN, ssl=trusting, send_only=True)
                assert await sender.connect()
                for number in range(100):
                    await sender.broadcast_message(f"{number} {'x' * 5000}")
                await asyncio.wait_for(sender.disconnect(), 5)
                assert [(await ws.recv()).split()[0] for _ in range(100)] == [str(each) for each in range(100)]


# ---- tools


async def run(broker, *arguments, **environment):
    """Run ``pystrands`` against the broker; return its exit code and all that it wrote."""
    command = [sys.executable, "-m", "pystrands", *arguments, "--tcp-port", str(broker.tcp_port)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    return done.returncode, done.stdout + done.stderr


async def test_the_tools_take_a_token_from_everywhere(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# both are right\n{TOKEN}\nother\n")
    async with testing.broker(backend_token=[TOKEN]) as broker, testing.backend(broker, Echo, token=TOKEN):
        async with connect(broker) as ws:
            sent = ("send", "--all", "hello")
            assert await run(broker, *sent, "--backend-token", TOKEN) == (0, "Sent to 1 client\n")
            assert await run(broker, *sent, "--backend-token-file", str(path)) == (0, "Sent to 1 client\n")
            assert (await run(broker, *sent, PYSTRANDS_BACKEND_TOKEN=f"{TOKEN},next"))[0] == 0
            assert (await run(broker, *sent, PYSTRANDS_TOKEN=TOKEN))[0] == 0
            assert [await ws.recv() for _ in range(4)] == ["hello"] * 4
        code, said = await run(broker, "status", "--json", "--once", "--backend-token", "wrong secret")
        assert code == 1
        assert said == f"Error: the broker at 127.0.0.1:{broker.tcp_port} refuses: {WRONG}\n"
        assert (await run(broker, "tail", "--all"))[1].endswith(f" refuses: {MISSING}\n")
        code, said = await run(broker, "status", "--backend-token-file", str(tmp_path / "none"))
        assert (code, said.startswith("Error: --backend-token-file: can't read ")) == (2, True)


async def test_the_tools_speak_tls(tls, tmp_path, ca, trusting):
    ca_file, own = str(tmp_path / "ca.pem"), tmp_path / "own.pem"
    ca.issue_cert("tool").private_key_and_cert_chain_pem.write_to_path(own)
    async with testing.broker(backend_tls_ca=ca_file, **tls) as broker:
        status = ("status", "--json", "--once")
        shown = ("--backend-tls-ca", ca_file, "--backend-tls-cert", str(own))
        code, said = await run(broker, *status, *shown)
        assert (code, '"clients": 0' in said) == (0, True), said
        code, said = await run(broker, *status, "--backend-tls")
        assert (code, "certificate" in said) == (1, True)
        code, said = await run(broker, *status, "--backend-tls-ca", str(tmp_path / "none"))
        assert (code, said.startswith("Error: --backend-tls-ca: can't use ")) == (2, True)
        code, said = await run(broker, *status, "--backend-tls-cert", ca_file)
        assert (code, said.startswith("Error: --backend-tls-cert: can't use ")) == (2, True)

        def without_tls():
            with pytest.raises(ToolError):
                Tool("127.0.0.1", broker.tcp_port, timeout=0.5)

        await asyncio.to_thread(without_tls)


# ---- the command


def test_the_broker_does_not_start_where_strangers_reach_it():
    for more in ((), ("--backend-tls-cert", "x")):
        command = [sys.executable, "-m", "pystrands", "server", "--tcp-host", "0.0.0.0", "--tcp-port", "0", *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("Error: --tcp-host: '0.0.0.0' is reached from other machines")
        assert "backend-token" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGHUP")
def test_a_hangup_has_the_broker_read_its_tokens_again(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("old\n")
    command = [sys.executable, "-m", "pystrands", "server", "--tcp-port", "0", "--ws-port", "0",
               "--backend-token-file", str(path), "--tcp-host", "0.0.0.0"]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        child.stdout.readline()
        port = int(child.stdout.readline().rpartition(":")[2])
        lines = []

        def logged(text):
            while text not in (read := child.stderr.readline()):
                assert read
                lines.append(read)

        with Tool("127.0.0.1", port, token="old") as tool:
            assert tool.status()["clients"] == 0
            path.write_text("new\n")
            child.send_signal(signal.SIGHUP)
            logged("read again")
            assert tool.status()["clients"] == 0
        with Tool("127.0.0.1", port, token="old") as tool, pytest.raises(ToolError, match="the token is wrong"):
            tool.status()
        with Tool("127.0.0.1", port, token="new") as tool:
            assert tool.status()["clients"] == 0
        path.write_text("")
        child.send_signal(signal.SIGHUP)
        logged("has no token")
        with Tool("127.0.0.1", port, token="new") as tool:
            assert tool.status()["clients"] == 0
    finally:
        watchdog = threading.Timer(20, child.kill)
        watchdog.start()
        child.terminate()
        child.communicate()
        watchdog.cancel()
    assert child.returncode == 0
