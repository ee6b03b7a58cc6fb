"""The client for web pages in a real browser, at a real broker and backend, through a network that fails."""

import asyncio
import time

import pytest

from pystrands import AsyncPyStrandsClient, RequestFailed, testing
from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from tests.demo.browser import find_chromium, running_browser

from .firefox import driven, find_firefox, firefox
from .proxy import Proxy

CHROMIUM = pytest.param(
    "chromium",
    marks=pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium (Debian's package is chromium)"),
)
FIREFOX = pytest.param(
    "firefox",
    marks=pytest.mark.skipif(find_firefox() is None, reason="there is no Firefox (Debian's package is firefox-esr)"),
)
PAGE = b"""<!doctype html><title>test</title><script type="module">
addEventListener("pageshow", ({ persisted }) => { window.wasKept = persisted; });
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


OTHER = "window.other = connect('/room'); return other.ready().then(() => null)"


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

    async def on_join_request(self, request):
        self.events.append(f"join {request.room_id} {request.data}")
        await self.keep_history(request.room_id)
        return request.accept(history=2)

    async def on_client_suspended(self, context):
        self.events.append("suspended")

    async def on_client_resumed(self, context):
        self.events.append("resumed")


@pytest.fixture(scope="module")
def firefox_address():
    """One Firefox for all tests: it takes seconds to start."""
    with firefox() as address:
        yield address


@pytest.fixture(params=[CHROMIUM, FIREFOX])
async def page(request):
    """A tab at a page of a broker, behind a proxy, with a backend."""
    browser = running_browser() if request.param == "chromium" else driven(request.getfixturevalue("firefox_address"))
    config = BrokerConfig(ws_port=0, tcp_port=0, drain_time=0.0, close_timeout=1.0)
    pages = {"/": ("text/html; charset=utf-8", PAGE), "/other": ("text/html; charset=utf-8", b"other")}
    async with Broker(config, pages=pages) as broker:
        async with (
            testing.backend(broker, Backend) as backend,
            Proxy(broker.ws_port) as proxy,
            browser as opened,
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


async def test_a_page_sees_who_is_present(page):
    tab, backend, proxy = page
    me = backend.client_id
    await backend.set_presence(me, "/room", {"name": "page"})
    await tab.value("(window.room = client.room('/room'), window.changes = [], 0)")
    await tab.value("(room.on('presence', (change) => changes.push(change)), 0)")
    await tab.until("[...room.presence.values()].map(({ info }) => info.name).join() === 'page'")
    async with testing.connect(f"ws://127.0.0.1:{proxy.target}", "/room"):
        await testing.until(lambda: backend.client_id != me)
        await backend.set_presence(backend.client_id, "/room", {"name": "other"})
        await tab.until("room.presence.size === 2")
        proxy.is_open = False
        proxy.cut()
        await testing.until(lambda: "suspended" in backend.events)
        await backend.set_presence(backend.client_id, "/room", {"name": "changed"})
        proxy.is_open = True
        await tab.until("[...room.presence.values()].some(({ info }) => info.name === 'changed')")
    await tab.until("room.presence.size === 1")
    assert await tab.value("changes.flatMap(({ joined }) => joined).length") == 2
    assert await tab.value("changes.flatMap(({ left }) => left.map(({ info }) => info.name))") == ["changed"]


async def test_pages_hear_each_others_signals(page):
    tab, backend, proxy = page
    me = backend.client_id
    other = await tab.value(f"import('/pystrands.js').then(({{ connect }}) => {{ {OTHER} }})")
    assert other is None
    await testing.until(lambda: backend.client_id != me)
    await backend.join_room(backend.client_id, "/room", signals=True)
    await tab.value("(window.heard = [], client.room('/room').on('signal', (signal) => heard.push(signal)), 0)")
    await tab.value("(other.room('/room').signal('cursor', { x: 1 }), client.room('/room').signal('refused'), 0)")
    await tab.until("heard.length === 1")
    assert await tab.value("[heard[0].name, heard[0].from, heard[0].message.json().x]") == [
        "cursor",
        backend.client_id,
        1,
    ]
    await tab.value("(other.close(), 0)")
    assert proxy.is_open


async def test_leaving_a_page_for_good_ends_the_session(page):
    tab, backend, _ = page
    await tab.value("client.close()")
    await testing.until(lambda: backend.events == ["new", "gone"])
    assert await tab.value("client.state") == "closed"


async def test_a_page_that_was_left_and_gone_back_to_has_all(page):
    """Browsers keep a page for the way back, without its WebSocket, or load it anew: either way nothing is missing."""
    tab, backend, proxy = page
    await tab.value("say('one')")
    await backend.send_room_message("/room", "a")
    await tab.until("got.includes('a')")
    await tab.open(f"http://127.0.0.1:{proxy.port}/other")
    await testing.until(lambda: backend.events[-1] == "suspended")
    await backend.send_room_message("/room", "b")
    await tab.back()
    await tab.until("window.ready && client.state === 'open' && typeof wasKept === 'boolean'")
    await backend.send_room_message("/room", "c")
    await tab.until("got.includes('c')")
    if await tab.value("wasKept"):
        assert await tab.value("got") == ["a", "b", "c"]
        assert await tab.value("events.filter((each) => each.resumed === false)") == []
    else:
        assert await tab.value("got") == ["c"], "it is another session, which begins where it was let in"


@pytest.mark.parametrize("page", [CHROMIUM], indirect=True)
async def test_a_tab_that_was_frozen_has_all(page):
    tab, backend, proxy = page
    await tab.value("say('one')")
    await tab.freeze()
    proxy.cut()
    await testing.until(lambda: backend.events[-1] == "suspended")
    await backend.send_room_message("/room", "a")
    await tab.freeze(frozen=False)
    await backend.send_room_message("/room", "b")
    await tab.until("got.length === 2")
    assert await tab.value("got") == ["a", "b"]


async def test_a_page_asks_and_is_asked_over_cuts(page):
    tab, backend, proxy = page

    async def on_request(message, context):
        backend.events.append(f"asked {message}")
        if message == "refuse":
            raise RequestFailed("not_found", "there is none")
        return {"said": await backend.request(context.client_id, message)}

    backend.on_request = on_request
    await tab.value(
        """void client.onRequest(async (message) => {
          got.push(`asked ${message.text}`);
          if (message.text === "wait") await new Promise((done) => { window.answer = done; });
          return `page: ${message.text}`;
        })"""
    )
    assert await tab.value("client.request('x').then((reply) => reply.json())") == {"said": "page: x"}
    assert await tab.value("client.request('refuse').catch((error) => [error.code, error.message])") == [
        "not_found",
        "there is none",
    ]

    # The handler waits for the page, which waits for the handler, while the connection is lost.
    await tab.value("void client.request('wait').then((reply) => { window.reply = reply.json(); })")
    await tab.until("window.answer")
    proxy.is_open = False
    proxy.cut()
    await tab.until("client.state !== 'open'")
    await tab.value("void answer()")
    proxy.is_open = True
    await tab.until("window.reply")
    assert await tab.value("reply") == {"said": "page: wait"}
    assert await tab.value("got") == ["asked x", "asked wait"]
    assert [event for event in backend.events if event.startswith("asked")] == ["asked x", "asked refuse", "asked wait"]


async def test_promise_25_joins_of_a_page_are_counted_and_bring_history(page):
    tab, backend, proxy = page
    await backend.keep_history("chat")
    for number in range(4):
        await backend.send_room_message("chat", f"old {number}")
    assert await tab.value("(window.room = client.room('chat')) === client.room('chat')")
    joined = "room.join({ history: 3, data: { please: 1 } }).then(({ history }) => history.map(({ text }) => text))"
    assert await tab.value(joined) == ["old 2", "old 3"]
    assert backend.events[-1] == 'join chat {"please":1}'
    await tab.value("room.join().then(() => room.leave())")
    await backend.send_room_message("chat", "live")
    await tab.until("got.includes('live')")
    assert await tab.value("room.history({ limit: 9 }).then(({ messages }) => messages.length)") == 3

    proxy.is_open = False
    proxy.cut()
    await testing.until(lambda: backend.events[-1] == "suspended")
    await backend.send_room_message("chat", "missed")
    proxy.is_open = True
    await tab.until("got.includes('missed')")
    assert await tab.value("room.leave().then(() => room.send('x')).catch(({ code }) => code)") == "not_in_room"
    assert backend.events.count('join chat {"please":1}') == 1


async def test_a_page_shows_a_new_token_on_its_connection(page):
    tab, backend, _ = page
    shown = []

    async def on_connection_request(request):
        return request.accept(expires_at=time.time() + 1.5)

    async def on_token(request):
        shown.append(request.token)
        return request.accept(expires_at=time.time() + 3600)

    vars(backend).update(on_connection_request=on_connection_request, on_token=on_token)
    await tab.value(
        """void import("/pystrands.js").then(({ connect }) => {
          let count = 0;
          window.states = [];
          window.other = connect("/other", { token: () => `token ${count++}` });
          other.on("state", ({ state }) => states.push(state));
        })"""
    )
    await testing.until(lambda: shown == ["token 1"])
    await asyncio.sleep(1.5)
    await tab.value("other.send('still here').then(() => { window.isHere = true; })")
    await tab.until("window.isHere")
    assert await tab.value("states") == ["open"]
    await tab.value("void other.close()")
