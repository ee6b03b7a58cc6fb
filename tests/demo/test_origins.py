"""Which pages may open a WebSocket, as a real browser has it: headless Chromium."""

import pytest

from pystrands import testing
from tests.demo.browser import find_chromium, running_browser

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="there is no Chromium on this machine (Debian's package is chromium)"
)


async def test_a_page_of_another_origin_is_refused_and_one_of_the_same_gets_in():
    # Not on loopback alone, or else any page of this machine would be let in.
    async with (
        testing.broker(ws_host="0.0.0.0") as broker,
        testing.backend(broker),
        testing.broker() as elsewhere,
        running_browser() as browser,
    ):
        opens = (
            f"new Promise((done) => {{ const socket = new WebSocket('{broker.ws_url('/')}');"
            " socket.onopen = () => done('open'); socket.onclose = (event) => done(event.code) })"
        )
        for page, outcome in ((broker, "open"), (elsewhere, 1006)):
            tab = await browser.tab(f"http://127.0.0.1:{page.ws_port}/healthz")
            assert await tab.value(opens) == outcome
        assert broker.counters["origin_refused"] == 1
