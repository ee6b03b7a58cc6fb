"""The demo's page in a real browser: headless Chromium."""

import json
import os
import struct
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from tests.demo.browser import find_chromium, running_browser
from tests.demo.support import enter, running_demo, say

pytestmark = [
    pytest.mark.skipif(
        find_chromium() is None, reason="there is no Chromium on this machine (Debian's package is chromium)"
    ),
    pytest.mark.asyncio(loop_scope="module"),
]

OPEN = "document.getElementById('state').dataset.state === 'open'"
WAITING = "document.getElementById('state').dataset.state === 'waiting'"

OFFLINE = (
    "document.getElementById('state-text').innerText === 'Offline'"
    " && document.getElementById('countdown').innerText.startsWith('Next attempt in')"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser():
    async with running_browser() as running:
        yield running


@pytest.fixture
def demo():
    with running_demo() as running:
        yield running


def said(text):
    """The condition that somebody's words are in the conversation."""
    return f"[...document.querySelectorAll('.said .text')].some((each) => each.innerText === {json.dumps(text)})"


def noted(text):
    """The condition that a note in the conversation begins so."""
    return f"[...document.querySelectorAll('.note')].some((each) => each.innerText.startsWith({json.dumps(text)}))"


async def test_two_tabs_chat(browser, demo):
    before = datetime.now(UTC)
    ada = await enter(browser, demo, "Ada", "tea")
    assert await ada.text("#room-name") == "#tea"
    grace = await enter(browser, demo, "Grace", "tea")
    elsewhere = await enter(browser, demo, "Bob", "milk")

    await ada.until(noted("Grace joined"))
    await grace.until(noted("You are in as Grace. One other is here."))
    await say(ada, "Tea is ready")
    await grace.until(said("Tea is ready"))
    await say(grace, "Coming")
    await ada.until(said("Coming"))

    assert await ada.texts(".said.own .text") == ["Tea is ready"]
    assert await ada.texts(".said:not(.own) .text") == ["Coming"]
    assert await ada.texts(".said:not(.own) .who") == ["Grace"]
    assert await grace.texts(".said.own .text") == ["Coming"]
    times = await ada.value("[...document.querySelectorAll('.said time')].map((each) => each.dateTime)")
    assert len(times) == 2
    for time in times:
        assert abs(datetime.fromisoformat(time) - before).total_seconds() < 300

    assert await ada.texts("#members li") == ["Ada (you)", "Grace"]
    assert await elsewhere.texts(".said") == []
    await grace.click("#leave")
    await ada.until(noted("Grace left"))
    assert await ada.texts("#members li") == ["Ada (you)"]
    assert [ada.errors, grace.errors, elsewhere.errors] == [[], [], []]


async def test_the_address_names_the_room_and_a_reload_comes_back_to_it(browser, demo):
    tab = await enter(browser, demo, "Ada", "caf%C3%A9%20au%20lait")
    assert await tab.text("#room-name") == "#café au lait"
    await tab.call("Page.reload")
    await tab.until(f"document.readyState === 'complete' && {OPEN}")
    assert await tab.text("#room-name") == "#café au lait"
    assert await tab.texts("#members li") == ["Ada (you)"]
    await tab.value("location.hash = '#/tea'")
    await tab.until(f"{OPEN} && document.getElementById('room-name').innerText === '#tea'")
    assert await tab.value("document.title") == "tea · PyStrands chat"


async def test_the_inspector_shows_the_raw_frames(browser, demo):
    tab = await enter(browser, demo, "Ada", "tea")
    await tab.click("#show-frames")
    await say(tab, "grüße")
    sent = await tab.texts("#wire li.out code")
    assert sent == ['{"kind":"message","text":"grüße"}']
    assert f"text, {len(sent[0].encode())} bytes" in (await tab.texts("#wire li.out .meta"))[0]
    await tab.until("document.querySelectorAll('#wire li.in code').length >= 3")
    received = [json.loads(raw) for raw in await tab.texts("#wire li.in code")]
    assert [frame["kind"] for frame in received] == ["roster", "joined", "message"]
    assert received[0]["members"] == [{"id": received[0]["you"], "name": "Ada"}]
    assert (await tab.texts("#wire li.life code"))[0].startswith(f"opening ws://127.0.0.1:{demo.port}/tea?name=Ada")
    await tab.click("#clear")
    assert await tab.texts("#wire li") == []


async def test_the_broker_is_killed_and_both_tabs_come_back(browser, demo):
    ada = await enter(browser, demo, "Ada", "tea")
    grace = await enter(browser, demo, "Grace", "tea")
    await say(ada, "before")
    await grace.until(said("before"))

    demo.kill()
    for tab in (ada, grace):
        await tab.until(f"{WAITING} && {OFFLINE}")
        await tab.until(noted("The connection was lost"))
    await ada.value("document.getElementById('text').focus()")
    await ada.type("written while it was away")
    await ada.press("Enter")
    assert await ada.value("document.getElementById('text').value") == "written while it was away"

    demo.start()
    await ada.until(OPEN)
    await grace.until(OPEN)
    for tab, name in ((ada, "Ada"), (grace, "Grace")):
        await tab.until(noted(f"You are back as {name}"))
        await tab.until("document.querySelectorAll('#members li').length === 2")
    await ada.press("Enter")
    await grace.until(said("written while it was away"))
    await say(grace, "after")
    await ada.until(said("after"))
    assert await ada.texts(".said .text") == ["before", "written while it was away", "after"]


async def focused(tab):
    return await tab.value("document.activeElement.id || document.activeElement.innerText")


async def press_until(tab, key, focus):
    for _ in range(12):
        await tab.press(key)
        if await focused(tab) == focus:
            return
    raise AssertionError(f"{key} does not come to {focus}, but is at {await focused(tab)}")


async def test_the_keyboard_is_enough(browser, demo):
    tab = await browser.tab(f"{demo.url}#/tea")
    assert await focused(tab) == "name"
    await tab.type("Ada")  # the suggestion is selected, so this replaces it
    await tab.press("Tab")
    assert await focused(tab) == "place"
    await tab.press("Enter")
    await tab.until(OPEN)
    assert await focused(tab) == "text"
    await tab.type("one line")
    await tab.press("Enter", shift=True)
    await tab.type("and another")
    await tab.press("Enter")
    await tab.until(said("one line\nand another"))
    assert await tab.value("document.getElementById('text').value") == ""

    await press_until(tab, "Tab", "show-frames")
    assert await tab.value("document.activeElement.matches(':focus-visible')")
    await tab.press("Enter")
    assert await tab.value("document.getElementById('frames').hidden") is False
    await press_until(tab, "Tab", "clear")
    await tab.press("Escape")
    assert await tab.value("document.getElementById('frames').hidden") is True
    assert await focused(tab) == "show-frames"
    await press_until(tab, "Tab", "leave")
    await tab.press(" ")
    await tab.until("!document.getElementById('door').hidden")
    assert await focused(tab) == "name"


async def test_what_people_write_stays_text(browser, demo):
    evil = '<img src=x onerror="window.bad=1"><script>window.bad=1</script>'
    ada = await enter(browser, demo, "Ada", "tea")
    eve = await enter(browser, demo, '<b onmouseover="x">Eve</b>', "tea")
    await ada.until(noted('<b onmouseover="x">Eve</b> joined'))
    await say(eve, evil)
    await ada.until(said(evil))
    assert await ada.texts(".said .who") == ['<b onmouseover="x">Eve</b>']
    for tab in (ada, eve):
        assert await tab.value("document.querySelectorAll('#chat img, #chat script, #chat b').length") == 0
        assert await tab.value("window.bad === undefined")
        assert tab.errors == []


async def test_a_screen_reader_is_told_what_happens(browser, demo):
    tab = await enter(browser, demo, "Ada", "tea")
    await say(tab, "hello")
    tree = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
    found = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node["ignored"] and "role" in node
    }
    for role, name in (
        ("log", "Conversation"),
        ("textbox", "Message to tea"),
        ("button", "Send"),
        ("button", "Leave"),
        ("button", "Frames"),
        ("heading", "#tea"),
        ("main", ""),
        ("complementary", "In this room"),
    ):
        assert (role, name) in found, (role, name)
    roles = {role for role, _ in found}
    assert "status" in roles


PICTURES = os.environ.get("PYSTRANDS_PICTURES")
"""A folder, to look at them; without it none is taken but one of each size: a browser draws for seconds."""


@pytest.mark.parametrize(("name", "width", "height"), [("desk", 1280, 800), ("phone", 390, 844)])
async def test_it_fits_on_phones_and_desks_light_and_dark(browser, demo, tmp_path, name, width, height):
    async def check(state):
        for scheme, background in (("light", "rgb(245, 243, 236)"), ("dark", "rgb(16, 24, 26)")):
            await tab.look(width, height, scheme, phone=name == "phone")
            assert await tab.value("document.documentElement.scrollWidth <= innerWidth")
            assert await tab.value("getComputedStyle(document.body).backgroundColor") == background
            if PICTURES or (state, scheme) == ("chat", "dark"):
                data = await tab.picture(Path(PICTURES or tmp_path, f"{name}-{scheme}-{state}.png"))
                assert struct.unpack(">II", data[16:24]) == (width, height)

    tab = await browser.tab(f"{demo.url}#/tea")
    await check("door")
    tab = await enter(browser, demo, "Ada Lovelace", "tea")
    await tab.look(width, height, phone=name == "phone")
    other = await enter(browser, demo, "Grace", "tea")
    await say(tab, "Is anybody here?")
    await say(other, "Yes, in the other tab. Here is a long word, which has to be broken: " + "strand" * 20)
    await say(other, "And a second message.")
    await tab.until(said("And a second message."))
    assert await tab.value("document.getElementById('composer').getBoundingClientRect().bottom <= innerHeight")
    await check("chat")
    await tab.click("#show-frames")
    await check("frames")
    if name == "phone":
        await tab.click("#show-people")
        await check("people")
    demo.kill()
    await tab.until(WAITING)
    await check("offline")
