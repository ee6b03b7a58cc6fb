"""Scenarios of rooms that a client joins, and of their histories."""

import json
from base64 import b64encode


def join(ident, room, body=None, history=0):
    return {"event": "join", "ident": ident, "room": room, "body": body, "history": history}


def leave(ident, room):
    return {"event": "leave", "ident": ident, "room": room}


def read(ident, room, limit, before=0):
    return {"event": "history", "ident": ident, "room": room, "limit": limit, "before": before}


def told(ident, room, *messages, complete=True, more=False, **others):
    """Return the event that a part of a history comes; ``messages``: each with its number."""
    bodies = [body if isinstance(body, bytes) else body.encode() for _, body in messages]
    header = {"t": "history", "id": ident, "r": room, "ns": [number for number, _ in messages]}
    header |= {"sizes": [len(body) for body in bodies], "complete": complete, "more": more}
    header["bins"] = [index for index, (_, body) in enumerate(messages) if isinstance(body, bytes)]
    frame = json.dumps(header | others).encode() + b"\n" + b"".join(bodies)
    return {"event": "received", "frame": {"base64": b64encode(frame).decode()}}


def frame(text):
    return {"event": "received", "frame": text}


def welcome(session="b1-1~proof", **others):
    members = {"t": "welcome", "session": session, "client": "ada", "resumed": False, "n": 100, "epoch": "e"}
    return frame(json.dumps(members | {"received": 0, "done": 0, "rooms": ["/"], "max": 1000} | others))


START, TICK, CLOSE = {"event": "start"}, {"event": "tick"}, {"event": "close"}
CUT = {"event": "closed", "code": 1006, "reason": ""}

SCENARIOS = {
    "joins": (
        {},
        [
            (0, START),
            (0, join(1, "a", "please")),
            (0, welcome()),
            (0, join(2, "b", {"base64": "AP8="}, history=5)),
            (0, join(3, "c")),
            (0, join(4, "d")),
            (1, frame('{"n":101,"t":"joined","r":"a","re":1}')),
            (1, frame('{"n":102,"r":"a"}\nlive')),
            (1, frame('{"n":103,"t":"joined","r":"b","re":2}')),
            (1, frame('{"n":104,"re":3,"err":{"code":"refused","message":"no"}}')),
            (1, frame('{"done":4}')),
            (1, leave(5, "a")),
            (1, frame('{"n":105,"t":"left","r":"a"}')),
            (1, frame('{"done":5}')),
            (1, frame('{"n":106,"t":"left","r":"b","why":"removed"}')),
            (1, frame('{"n":107,"t":"joined","r":"by the backend"}')),
            (1, join(6, "x" * 1001, "y" * 1001)),
            (2, join(7, "late")),
            (2, join(12, "x")),
            (2, leave(13, "x")),
            (2, join(14, "x")),
            (2, frame('{"n":108,"t":"joined","r":"x","re":7}')),
            (2, frame('{"n":109,"t":"left","r":"x"}')),
            (2, frame('{"n":110,"re":9,"err":{"code":"refused","message":"no"}}')),
            (2, read(8, "b", 10)),
            (2, CLOSE),
            (2, join(9, "z")),
            (2, read(10, "z", 10)),
            (2, leave(11, "z")),
        ],
    ),
    "a history": (
        {},
        [
            (0, START),
            (0, welcome()),
            (0, join(1, "a", history=3)),
            (1, frame('{"n":110,"t":"joined","r":"a","re":1,"h":2}')),
            (1, frame('{"n":111,"r":"a"}\nlive')),
            (1, frame('{"n":112,"r":"/"}\nof another room')),
            (1, told("1", "a", (109, "ü"), more=True, complete=False)),
            (1, frame('{"r":"a"}\nvolatile')),
            (1, told("1", "a", (108, b"\xff\n"))),
            (1, frame('{"n":113,"r":"a"}\nlive too')),
            (2, read(2, "a", 2, 108)),
            (2, read(3, "a", 9)),
            (2, CUT),
            (3, read(4, "a", 1)),
            (3, TICK),
            (3, welcome(resumed=True, received=1, done=1, rooms=["/", "a"])),
            (3, frame('{"t":"live"}')),
            (3, told("3", "a", (111, "live"), (113, "live too"), complete=False)),
            (3, told("2", "a", complete=False, err={"code": "not_in_room", "message": "no"})),
            (3, told("4", "a")),
            (3, told("4", "a")),
            (4, join(5, "b", history=1)),
            (4, frame('{"n":120,"t":"joined","r":"b","re":2,"h":7}')),
            (4, frame('{"n":121,"r":"b"}\nheld')),
            (4, leave(6, "b")),
            (4, told("5", "b", (119, "too late"))),
            (5, frame('{"t":"history","id":"x","ns":[1],"sizes":[2],"bins":[]}\n1')),
        ],
    ),
    "joined again": (
        {},
        [
            (0, START),
            (0, welcome()),
            (0, join(1, "a", "please")),
            (0, join(2, "b", history=4)),
            (0, {"event": "send", "ident": 3, "body": "to a", "room": "a"}),
            (1, frame('{"n":101,"t":"joined","r":"a","re":1}')),
            (1, frame('{"n":102,"t":"joined","r":"b","re":2,"h":4}')),
            (1, frame('{"n":103,"r":"b"}\nheld')),
            (1, frame('{"done":2}')),
            (1, join(4, "c")),
            (1, read(5, "a", 10)),
            (2, CUT),
            (4, TICK),
            (4, welcome("b1-2~proof", n=200)),
            (5, frame('{"n":201,"t":"joined","r":"a","re":1}')),
            (5, frame('{"n":202,"r":"a"}\nlive')),
            (5, frame('{"n":203,"t":"joined","r":"b","re":2,"h":4}')),
            (5, frame('{"n":204,"re":4,"err":{"code":"refused","message":"no"}}')),
            (5, told("3", "a", (150, "missed"), more=True)),
            (5, told("3", "a", (160, "missed too"), complete=False)),
            (5, told("4", "b", (199, "before"))),
            (6, CUT),
            (7, TICK),
            (7, welcome("b1-3~proof", n=250)),
            (8, frame('{"n":251,"t":"joined","r":"a","re":1}')),
            (8, frame('{"n":252,"r":"a"}\nread again')),
            (8, told("5", "a", (210, "a part"), more=True)),
            (8, CUT),
            (10, TICK),
            (10, welcome("b2-1~proof", n=300, epoch="another")),
            (10, frame('{"n":301,"t":"joined","r":"a","re":1}')),
            (10, frame('{"n":302,"re":2,"err":{"code":"refused","message":"not any more"}}')),
            (10, frame('{"done":3}')),
            (10, {"event": "closed", "code": 1000, "reason": "over"}),
        ],
    ),
}
