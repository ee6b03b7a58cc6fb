"""A headless Firefox, driven over WebDriver BiDi (W3C) with nothing but the websockets library."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.demo.browser import PATIENCE, Page

# Nothing but loopback: a proxy that is not there stands for all else.
SETTINGS: dict[str, int | str | bool] = {
    "app.normandy.enabled": False,
    "app.update.auto": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.proxy.no_proxies_on": "127.0.0.1",
    "toolkit.telemetry.enabled": False,
}


def find_firefox() -> str | None:
    """Return the path of a Firefox on this machine, if there is one."""
    return next((path for path in map(shutil.which, ("firefox-esr", "firefox")) if path), None)


class BiDi:
    """One connection to the browser: commands with their answers."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: dict[str, list[str]] = {}
        """What the scripts of each browsing context raised."""

    async def read(self) -> None:
        """Hand answers to who waits for them, and note what pages complain of, until the browser is gone."""
        with suppress(ConnectionClosed):
            async for raw in self._connection:
                message = json.loads(raw)
                if message["type"] == "event":
                    entry = message["params"]
                    if entry["type"] == "javascript" and entry["level"] == "error":
                        self.errors.setdefault(entry["source"]["context"], []).append(entry["text"])
                elif not (answer := self._answers.pop(message["id"])).done():
                    answer.set_result(message)

    async def call(self, method: str, **params: Any) -> Any:
        """Carry out a command and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(PATIENCE):
            told = await answer
        assert told["type"] == "success", f"{method}: {told}"
        return told["result"]


class FirefoxTab(Page):
    """One tab with a storage of its own, as if it were another person's browser."""

    def __init__(self, bidi: BiDi, context: str) -> None:
        self._bidi = bidi
        self._context = context
        self.errors = bidi.errors.setdefault(context, [])

    async def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        await self._bidi.call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def back(self) -> None:
        """Go back to the page before this one."""
        await self._bidi.call("browsingContext.traverseHistory", context=self._context, delta=-1)

    async def value(self, expression: str) -> Any:
        """Return what a JavaScript expression gives, as JSON would have it; promises are awaited."""
        told = await self._bidi.call(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression})))()",
            target={"context": self._context},
            awaitPromise=True,
        )
        assert told["type"] == "success", (expression, told)
        return json.loads(told["result"].get("value", "null"))


class Firefox:
    """A running browser."""

    def __init__(self, bidi: BiDi) -> None:
        self._bidi = bidi

    async def tab(self, url: str) -> FirefoxTab:
        """Open a page in a tab whose storage no other tab shares."""
        person = await self._bidi.call("browser.createUserContext")
        made = await self._bidi.call("browsingContext.create", type="tab", userContext=person["userContext"])
        tab = FirefoxTab(self._bidi, made["context"])
        await tab.open(url)
        return tab


def _start(profile: Path) -> "subprocess.Popen[bytes]":
    program = find_firefox()
    assert program is not None
    settings = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in SETTINGS.items()]
    (profile / "user.js").write_text("".join(settings))
    return subprocess.Popen(
        [program, "--headless", "--no-remote", "--remote-debugging-port=0", "--profile", str(profile), "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _address(profile: Path, process: "subprocess.Popen[bytes]") -> str:
    """Return the address that the browser writes into its profile once it listens."""
    file = profile / "WebDriverBiDiServer.json"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            told = json.loads(file.read_text())
            return f"ws://127.0.0.1:{told['ws_port']}/session"
        assert process.poll() is None, "the browser has ended"
        time.sleep(0.05)
    raise AssertionError("the browser does not listen")


@contextmanager
def firefox() -> Iterator[str]:
    """Start a browser with an empty profile; yield its address. It and its helpers are gone in the end."""
    with tempfile.TemporaryDirectory(prefix="pystrands-browser-", ignore_cleanup_errors=True) as folder:
        profile = Path(folder)
        process = _start(profile)
        try:
            yield _address(profile, process)
        finally:
            with suppress(ProcessLookupError):  # its helpers are of the same group, and nobody else is
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@asynccontextmanager
async def driven(address: str) -> AsyncIterator[Firefox]:
    """Drive a running browser: one at a time can."""
    async with connect(address, max_size=None, compression=None) as connection:
        bidi = BiDi(connection)
        reading = asyncio.create_task(bidi.read())  # it ends with the connection
        await bidi.call("session.new", capabilities={})
        await bidi.call("session.subscribe", events=["log.entryAdded"])
        yield Firefox(bidi)
        await bidi.call("session.end")
    await reading
