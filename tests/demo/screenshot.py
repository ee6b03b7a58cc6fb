"""Makes the picture of the demo for the README: ``python -m tests.demo.screenshot docs/images/demo.png``."""

import asyncio
import sys
from pathlib import Path

from tests.demo.browser import running_browser
from tests.demo.support import enter, running_demo, say


async def main(path: Path) -> None:
    """Have three people chat, with the inspector open, and take a picture of what one of them sees."""
    with running_demo() as demo:
        async with running_browser() as browser:
            ada = await enter(browser, demo, "Ada", "lobby")
            await ada.look(1120, 680, scale=1.25)
            await ada.click("#show-frames")
            grace = await enter(browser, demo, "Grace", "lobby")
            barbara = await enter(browser, demo, "Barbara", "lobby")
            for tab, text in (
                (grace, "Hello! Is this thing on?"),
                (ada, "It is. What you send goes to the broker, and from there to a Python process."),
                (ada, "That process says who else gets it."),
                (barbara, "And when it is restarted?"),
                (ada, "We stay connected."),
            ):
                await say(tab, text)
            await ada.until("document.querySelectorAll('.said').length === 5")
            await grace.click("#leave")
            await ada.until("document.getElementById('log').innerText.includes('Grace left')")
            await ada.picture(path)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
