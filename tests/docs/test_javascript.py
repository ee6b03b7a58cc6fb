"""The JavaScript in README and docs, in a real browser."""

import json

import pytest

from tests.demo.browser import find_chromium, running_browser
from tests.docs.blocks import PAGES, README, blocks
from tests.docs.test_programs import program

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="there is no Chromium on this machine (Debian's package is chromium)"
)
SCRIPTS = {path.name: blocks(path, "js") for path in (README, *PAGES)}


def test_every_script_is_known():
    assert {name: len(found) for name, found in SCRIPTS.items() if found} == {
        "README.md": 2,
        "getting-started.md": 1,
        "authentication.md": 2,  # needs a token and a host of the reader's
        "from-socketio.md": 1,
        "browser.md": 3,  # tests/sdk has them in pages that join, are present, and may send, themselves
    }


@pytest.mark.parametrize(
    ("backend", "page", "printed"),
    [
        ("echo", "getting-started.md", "echo: hello"),
        ("original", "README.md", "echo: Hello, everybody"),
        ("socketio-chat", "from-socketio.md", " hello"),
    ],
)
async def test_it_does_what_its_page_says(backend, page, printed, tmp_path):
    script = SCRIPTS[page][0]
    async with program(backend, tmp_path, {}) as here, running_browser() as browser:
        code = script.code.replace("8080", str(here.broker.ws_port))
        health = f"http://127.0.0.1:{here.broker.ws_port}/healthz"
        tabs = [await browser.tab(health), await browser.tab(health)]
        for tab in tabs:
            await tab.value("window.printed = []; console.log = (...words) => printed.push(words.join(' ')); 0")
            await tab.call("Runtime.evaluate", expression=code)
        heard = f"printed.some((line) => line.endsWith({json.dumps(printed)}))"
        await tabs[0].until(heard)  # the first to come hears the second, where a page tells others only


async def test_the_client_that_the_broker_has_does_what_the_readme_says(tmp_path):
    code = SCRIPTS["README.md"][1].code
    async with program("original", tmp_path, {}) as here, running_browser() as browser:
        tab = await browser.tab(f"http://127.0.0.1:{here.broker.ws_port}/healthz")
        module = json.dumps(code.replace("8080", str(here.broker.ws_port)) + "\nconsole.log('handled');")
        await tab.value(
            "window.printed = []; console.log = (...words) => printed.push(words.join(' '));"
            "const script = document.createElement('script'); script.type = 'module';"
            f"script.textContent = {module}; document.head.append(script); 0"
        )
        await tab.until("printed.includes('echo: Hello, everybody') && printed.includes('handled')")
        assert tab.errors == []
