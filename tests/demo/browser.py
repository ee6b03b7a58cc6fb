"""A headless Chromium, driven over its DevTools protocol with nothing but the websockets library."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
PATIENCE = 20
"""Seconds for what a page is waited for to become true."""
KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    " ": (32, " "),
}


def find_chromium() -> str | None:
    """Return the path of a Chromium or Chrome on this machine, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


class DevTools:
    """One connection to the browser: commands with their answers; a command of a page names its session."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: dict[str, list[str]] = {}

    async def read(self) -> None:
        """Hand answers to who waits for them, and note what pages complain of, until the browser is gone."""
        with suppress(ConnectionClosed):
            await self._read()

    async def _read(self) -> None:
        async for raw in self._connection:
            message = json.loads(raw)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if not answer.done():
                    answer.set_result(message)
            elif message["method"] == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                text = details.get("exception", {}).get("description", details["text"])
                self.errors.setdefault(message["sessionId"], []).append(text)
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["source"] == "security":
                self.errors.setdefault(message["sessionId"], []).append(message["params"]["entry"]["text"])

    async def call(self, method: str, session: str = "", **params: Any) -> Any:
        """Carry out a command and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        await self._connection.send(json.dumps(message))
        async with asyncio.timeout(PATIENCE):
            told = await answer
        assert "error" not in told, f"{method}: {told['error']}"
        return told["result"]


class Page:
    """What is asked of a page, in whatever browser."""

    errors: list[str]

    async def value(self, expression: str) -> Any:
        """Return what a JavaScript expression gives, as JSON would have it; promises are awaited."""
        raise NotImplementedError

    async def until(self, condition: str) -> None:
        """Wait until a JavaScript condition is true."""
        wait = (
            f"new Promise((done) => {{ const end = Date.now() + {PATIENCE * 900}; (function look() {{"
            f" if ({condition}) done(true); else if (Date.now() > end) done(false); else setTimeout(look, 10) }})() }})"
        )
        if not await self.value(wait):
            text = await self.value("document.body.innerText")
            raise AssertionError(f"it did not come to this: {condition}\nthe page says: {text}\n{self.errors}")

    async def text(self, selector: str) -> str:
        """Return what is to be read in an element."""
        return str(await self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def texts(self, selector: str) -> list[str]:
        """Return what is to be read in each element."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.innerText.trim())"
        return list(await self.value(found))

    async def click(self, selector: str) -> None:
        """Click on an element."""
        await self.value(f"document.querySelector({json.dumps(selector)}).click()")


class Tab(Page):
    """One tab with a storage of its own, as if it were another person's browser."""

    def __init__(self, tools: DevTools, target: str, session: str) -> None:
        self._tools = tools
        self._session = session
        self.target = target

    @property
    def errors(self) -> list[str]:  # type: ignore[override]
        """What the page's scripts raised, and what its security policy refused."""
        return self._tools.errors.get(self._session, [])

    async def call(self, method: str, **params: Any) -> Any:
        """Carry out a command in this tab."""
        return await self._tools.call(method, self._session, **params)

    async def open(self, url: str) -> None:
        """Go to a page, and wait until its script has run."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def value(self, expression: str) -> Any:
        """Return what a JavaScript expression gives, as JSON would have it; promises are awaited."""
        told = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, (expression, told["exceptionDetails"])
        return told["result"].get("value")

    async def back(self) -> None:
        """Go back to the page before this one."""
        history = await self.call("Page.getNavigationHistory")
        entry = history["entries"][history["currentIndex"] - 1]
        await self.call("Page.navigateToHistoryEntry", entryId=entry["id"])

    async def freeze(self, *, frozen: bool = True) -> None:
        """Stop all tasks of the page, as browsers do with tabs that nobody looks at; or let them go on."""
        await self.call("Page.setWebLifecycleState", state="frozen" if frozen else "active")

    async def type(self, text: str) -> None:
        """Write where the keyboard's focus is."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        code, text = KEYS[key]
        params = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **params)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **params)

    async def look(
        self, width: int, height: int, scheme: str = "light", scale: float = 1, *, phone: bool = False
    ) -> None:
        """Set the size of the window, and light or dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def picture(self, path: Path) -> bytes:
        """Take a screenshot of what the window shows, as PNG, also into a file."""
        await self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        data = base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
        await asyncio.to_thread(path.write_bytes, data)
        return data


class Browser:
    """A running browser."""

    def __init__(self, tools: DevTools) -> None:
        self._tools = tools

    async def tab(self, url: str) -> Tab:
        """Open a page in a tab whose storage no other tab shares."""
        context = (await self._tools.call("Target.createBrowserContext"))["browserContextId"]
        made = await self._tools.call("Target.createTarget", url="about:blank", browserContextId=context)
        target = made["targetId"]
        session = (await self._tools.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = Tab(self._tools, target, session)
        for domain in ("Page", "Runtime", "Log"):
            await tab.call(f"{domain}.enable")
        await tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        await tab.look(1280, 800)
        await tab.open(url)
        return tab


def _start(profile: Path) -> "subprocess.Popen[bytes]":
    program = find_chromium()
    assert program is not None
    return subprocess.Popen(
        [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def _address(profile: Path, process: "subprocess.Popen[bytes]") -> str:
    """Return the address that the browser writes into its profile once it listens."""
    file = profile / "DevToolsActivePort"
    async with asyncio.timeout(30):
        while not (file.exists() and len(file.read_text().splitlines()) == 2):
            assert process.poll() is None, "the browser has ended"
            await asyncio.sleep(0.02)
    port, path = file.read_text().splitlines()
    return f"ws://127.0.0.1:{port}{path}"


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Start a browser with an empty profile; it and its helpers are gone in the end."""
    with tempfile.TemporaryDirectory(prefix="pystrands-browser-", ignore_cleanup_errors=True) as folder:
        profile = Path(folder)
        process = _start(profile)
        try:
            async with connect(await _address(profile, process), max_size=None, compression=None) as connection:
                tools = DevTools(connection)
                reading = asyncio.create_task(tools.read())  # it ends with the connection
                yield Browser(tools)
                with suppress(ConnectionClosed):
                    await tools.call("Browser.close")
                await reading
                await asyncio.to_thread(process.wait, 10)
        finally:
            with suppress(ProcessLookupError):  # its helpers are of the same group, and nobody else is
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
