"""The demo as a process of its own, which can be killed and started again where it was."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.demo.browser import Browser, Tab


class Demo:
    """``pystrands demo`` on a free port; started again it has the same one."""

    def __init__(self) -> None:
        self.port = 0
        self._child: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where its page is."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it, and wait until it says where it listens."""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "pystrands", "demo", "--ws-port", str(self.port), "--tcp-port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        said = re.fullmatch(r"Open http://127\.0\.0\.1:(\d+)/ in two tabs\n", line)
        assert said, line
        self.port = int(said[1])

    def kill(self) -> None:
        """End it as a crash would: nobody is told."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


@contextmanager
def running_demo() -> Iterator[Demo]:
    """A demo that is gone in the end."""
    demo = Demo()
    demo.start()
    try:
        yield demo
    finally:
        demo.kill()


async def enter(browser: Browser, demo: Demo, name: str, room: str) -> Tab:
    """Open the page and go into a room, as a person with a mouse does; return when the room is there."""
    tab = await browser.tab(f"{demo.url}#/{room}")
    await tab.value(f"document.getElementById('name').value = {name!r}")
    await tab.click("#entry button")
    await tab.until("document.getElementById('state').dataset.state === 'open'")
    return tab


async def say(tab: Tab, text: str) -> None:
    """Write a message and send it; return when it is in this tab's conversation."""
    count = await tab.value("document.querySelectorAll('.said.own').length")
    await tab.value("document.getElementById('text').focus()")
    await tab.type(text)
    await tab.click("#send")
    await tab.until(f"document.querySelectorAll('.said.own').length > {count}")
