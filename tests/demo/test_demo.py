"""The demo as a whole: its page, and two people who chat through the broker."""

import asyncio
import base64
import hashlib
import json
import re
import urllib.request
from html.parser import HTMLParser

import pytest
from websockets.asyncio.client import connect

from pystrands.broker.config import BrokerConfig
from pystrands.cli.main import _loop_factory
from pystrands.demo import page, serve

HTML = page().decode()


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self):
        super().__init__()
        self.all = []
        self.feed(HTML)

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))


ELEMENTS = Elements().all


def test_the_page_needs_nothing_from_elsewhere():
    assert not re.search(r"(?<!xmlns=')https?://", HTML)
    for tag, attributes in ELEMENTS:
        assert "src" not in attributes, tag
        if tag == "link":
            assert attributes["href"].startswith("data:")
    assert "@import" not in HTML


def test_the_page_lets_no_html_in():
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", HTML)


def test_the_policy_allows_the_page_own_script_and_style_and_no_other():
    policy = next(a["content"] for tag, a in ELEMENTS if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (block,) = re.findall(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for tag, attributes in ELEMENTS:
        assert "style" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes), tag


def test_what_can_be_used_has_a_name():
    labels = {attributes.get("for") for tag, attributes in ELEMENTS if tag == "label"}
    ids = [attributes["id"] for _, attributes in ELEMENTS if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in ELEMENTS:
        if tag in {"input", "textarea"}:
            assert attributes["id"] in labels
        if tag == "aside":
            assert attributes["aria-labelledby"] in ids
    log = next(attributes for _, attributes in ELEMENTS if attributes.get("role") == "log")
    assert (log["aria-live"], log["tabindex"]) == ("polite", "0")
    assert log["aria-label"]


def palettes():
    return [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", block))
        for block in re.findall(r":root \{(.*?)\}", HTML, re.DOTALL)
    ]


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_contrast_is_enough_in_light_and_dark(palette):
    texts = ["ink", "muted", "accent", "bad", *(f"n{number}" for number in range(8))]
    for ground in ("ground", "surface", "sunken", "own"):
        for text in texts:
            assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    assert contrast(palette["on-accent"], palette["accent"]) >= 4.5
    assert contrast(palette["edge"], palette["ground"]) >= 3
    assert contrast(palette["edge"], palette["surface"]) >= 3


async def receive(client, kind):
    """The next message of a kind; others are passed over."""
    while True:
        message = json.loads(await client.recv())
        if message["kind"] == kind:
            return message


async def test_two_people_chat():
    async with serve(BrokerConfig(ws_port=0, tcp_port=0, drain_time=0)) as broker:
        url = f"ws://127.0.0.1:{broker.ws_port}/tea?name="
        async with connect(url + "Ada") as ada:
            assert (await receive(ada, "roster"))["room"] == "tea"
            async with connect(url + "Grace") as grace:
                assert (await receive(ada, "joined"))["name"] == "Ada"
                assert (await receive(ada, "joined"))["name"] == "Grace"
                assert [member["name"] for member in (await receive(grace, "roster"))["members"]] == ["Ada", "Grace"]
                await grace.send(json.dumps({"kind": "message", "text": "Hello"}))
                for client in (ada, grace):
                    said = await receive(client, "message")
                    assert (said["name"], said["text"]) == ("Grace", "Hello")
            assert (await receive(ada, "left"))["name"] == "Grace"


async def test_it_ends_when_it_has_just_begun():
    async with asyncio.timeout(20):
        async with serve(BrokerConfig(ws_port=0, tcp_port=0, drain_time=0)):
            pass  # its backend has not had a turn yet: Ctrl+C has come while the broker started


def test_it_ends_in_silence_wherever_its_backend_is(caplog):
    """uvloop says nothing to the protocol of a connection that is cancelled as it is made."""
    problems = []

    async def some_turns(count):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append((count, context)))
        async with serve(BrokerConfig(ws_port=0, tcp_port=0, drain_time=0)):
            for _ in range(count):
                await asyncio.sleep(0)

    for count in range(1, 25):
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(some_turns(count))
    assert not problems
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]


async def test_the_page_is_served():
    everywhere = BrokerConfig(
        ws_host="0.0.0.0", ws_port=0, tcp_host="0.0.0.0", tcp_port=0, allow_insecure_backends=True
    )
    async with serve(everywhere) as broker:
        url = f"http://127.0.0.1:{broker.ws_port}/"
        answer = await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)
        with answer:
            assert answer.read() == page()
