"""Transcripts: what happened to a client's core, and what it wanted done, as JSON that other cores are held to.

A transcript has ``options`` of the core, ``random``, the numbers that it drew, and ``steps``. Each step has the time,
the ``event``, the ``actions`` that it must lead to, and the ``deadline`` behind it (null where there is none).
"""

import math
from base64 import b64decode, b64encode

import msgspec

from pystrands.protocol.v1 import actions
from pystrands.protocol.v1.core import ClientCore
from pystrands.protocol.v1.outbox import Outbox

_NAMES = {
    actions.AskToken: "token",
    actions.Dial: "dial",
    actions.Write: "write",
    actions.Close: "close",
    actions.Abandon: "abandon",
    actions.Deliver: "deliver",
    actions.Replied: "replied",
    actions.Ask: "ask",
    actions.Gap: "gap",
    actions.History: "history",
    actions.Joined: "joined",
    actions.Left: "left",
    actions.PresenceChanged: "presence",
    actions.Signal: "signal",
    actions.Settle: "settle",
    actions.StateChanged: "state",
    actions.Resumed: "resumed",
}


def data(value):
    """Return text or bytes as JSON."""
    if isinstance(value, list | tuple):
        return [data(each) for each in value]
    return {"base64": b64encode(value).decode()} if isinstance(value, bytes) else value


def from_data(value):
    return b64decode(value["base64"]) if isinstance(value, dict) else value


def as_json(action):
    """Return an action as JSON."""
    members = msgspec.to_builtins({name: data(value) for name, value in action._asdict().items()})
    return {"do": _NAMES[type(action)]} | members


def make_core(options, random):
    core = ClientCore(
        random,
        has_token=options.get("has_token", False),
        outbox=Outbox(options.get("max_messages", 1000), options.get("max_bytes", 4 * 1024 * 1024)),
    )
    core.wall_offset = options.get("wall_offset", 0.0)
    return core


def happen(core, event, now):
    """Have an event happen, and return the actions."""
    kind = event["event"]
    if kind == "start":
        return core.start(now)
    if kind == "token":
        return core.token(event["token"], now)
    if kind == "received":
        return core.received(from_data(event["frame"]), now)
    if kind == "closed":
        return core.closed(event["code"], event["reason"], now)
    if kind == "send":
        options = {name: event[name] for name in ("room", "kind", "volatile", "asks") if name in event}
        body = event["body"]
        return core.send(event["ident"], None if body is None else from_data(body), **options)
    if kind == "answer":
        body = event["body"]
        body = None if body is None else from_data(body)
        return core.answer(event["number"], body, event.get("code", ""), event.get("text", ""))
    if kind == "join":
        body = event["body"]
        return core.join(
            event["ident"], event["room"], None if body is None else from_data(body), history=event["history"]
        )
    if kind == "leave":
        return core.leave(event["ident"], event["room"])
    if kind == "history":
        return core.history(event["ident"], event["room"], before=event["before"], limit=event["limit"])
    if kind == "withdraw":
        core.withdraw(event["ident"])
        return []
    if kind == "signal":
        return core.signal(event["room"], event["name"], from_data(event["body"]))
    if kind == "watch":
        return core.watch(event["room"])
    if kind == "tick":
        return core.tick(now)
    if kind == "wake":
        return core.wake(now, is_online=event["is_online"])
    assert kind == "close"
    return core.close()


def step(core, event, now):
    """Have an event happen; return the step."""
    done = [as_json(action) for action in happen(core, event, now)]
    deadline = None if core.deadline == math.inf else core.deadline
    return {"now": now, **event, "actions": done, "deadline": deadline}


def replay(transcript):
    """Return the steps again, as the core has them now."""
    draws = iter(transcript["random"])
    core = make_core(transcript["options"], lambda: next(draws))
    extra = {"now", "actions", "deadline"}
    return [
        step(core, {name: value for name, value in each.items() if name not in extra}, each["now"])
        for each in transcript["steps"]
    ]
