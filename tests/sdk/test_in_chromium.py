"""The client for web pages in a real browser, at a real broker and backend, through a network that fails."""

import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from tests.demo.browser import find_chromium, running_browser

from .proxy import Proxy

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="there is no Chromium on this machine (Debian's package is chromium)"
)
PAGE = b"""<!doctype html><title>test</title><script type="module">
import { connect } from "/pystrands.js";
const client = window.client = connect("/room", { backoff: { first: 0.05 } });
window.got = []; window.events = []; window.settled = [];
client.on("message", (message) => got.push(message.text));
client.on("state", ({ state }) => events.push(state));
client.on("resumed", (event) => events.push(event));
const sent = (text) =>
  client.send(text).then(() => text, (error) => error.code);
window.say = (text) => sent(text).then((how) => settled.push(how));
window.ready = true;
</script>"""


class Backend(AsyncPyStrandsClient):
    """Notes what comes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.events = []

    async def on_new_connection(self, context):
        self.client_id = context.client_id
        self.events.append("new")

    async def on_message(self, message, context):
        self.events.append(message)

    async def on_disconnect(self, context):
        self.events.append("gone")

    async def on_client_suspended(self, context):
        self.events.append("suspended")

    async def on_client_resumed(self, context):
        self.events.append("resumed")


@pytest.fixture
async def page():
    """A tab at a page of a broker, behind a proxy, with a backend."""
    config = BrokerConfig(ws_port=0, tcp_port=0, drain_time=0.0, close_timeout=1.0)
    async with Broker(config, pages={"/": ("text/html; charset=utf-8", PAGE)}) as broker:
        async with (
            testing.backend(broker, Backend) as backend,
            Proxy(broker.ws_port) as proxy,
            running_browser() as opened,
        ):
            tab = await opened.tab(f"http://127.0.0.1:{proxy.port}/")
            await tab.until("window.ready && client.state === 'open'")
            yield tab, backend, proxy
            assert tab.errors == []


async def test_a_page_loses_nothing_over_cuts_and_a_silent_network(page):
    tab, backend, proxy = page
    await tab.value("say('one')")
    await backend.send_room_message("/room", "a")
    await tab.until("settled.includes('one') && got.includes('a')")

    # A cut: both sides notice.
    proxy.is_open = False
    proxy.cut()
    await testing.until(lambda: backend.events[-1] == "suspended")
    await tab.value("void say('two')")
    await backend.send_room_message("/room", "b")
    await backend.send_private_message(backend.client_id, "c")
    proxy.is_open = True
    await tab.until("settled.includes('two') && got.length === 3")
    assert await tab.value("got") == ["a", "b", "c"]

    # A network that swallows everything: nobody notices, until the page is shown again and asks.
    proxy.is_swallowing = True
    await backend.send_room_message("/room", "d")
    await tab.value("void say('three')")
    proxy.is_open = False
    await tab.value("document.dispatchEvent(new Event('visibilitychange'))")
    await tab.until("client.state !== 'open'")
    proxy.is_swallowing = False
    proxy.is_open = True
    await tab.until("settled.includes('three') && got.length === 4")
    assert await tab.value("got") == ["a", "b", "c", "d"]
    assert await tab.value("events.filter((each) => each.resumed === false)") == []
    messages = [event for event in backend.events if event not in ("suspended", "resumed")]
    assert messages == ["new", "one", "two", "three"]


async def test_leaving_a_page_for_good_ends_the_session(page):
    tab, backend, _ = page
    await tab.value("client.close()")
    await testing.until(lambda: backend.events == ["new", "gone"])
    assert await tab.value("client.state") == "closed"
