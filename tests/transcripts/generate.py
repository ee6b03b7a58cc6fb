"""Writes the transcripts anew: ``python -m tests.transcripts.generate``. Look at what changes before you commit it."""

import json
import random
from pathlib import Path

from pystrands.protocol.v1.core import ClientCore
from tests.protocol.v1.model import World
from tests.transcripts import joins
from tests.transcripts.transcript import make_core, step

HERE = Path(__file__).parent
SESSION = "b1-1~proof"


def welcome(**others):
    members = {"t": "welcome", "session": SESSION, "client": "ada", "resumed": False, "n": 100, "epoch": "e"}
    members |= {"received": 0, "done": 0, "rooms": ["/"], "ping": 25, "window": 120, "max": 1000} | others
    return received(json.dumps(members, separators=(",", ":"), ensure_ascii=False))


def received(frame):
    return {"event": "received", "frame": frame}


def closed(code=1006, reason=""):
    return {"event": "closed", "code": code, "reason": reason}


def send(ident, body="x", **others):
    return {"event": "send", "ident": ident, "body": body, **others}


def answer(number, body="x", **others):
    return {"event": "answer", "number": number, "body": body, **others}


START, TICK, CLOSE = {"event": "start"}, {"event": "tick"}, {"event": "close"}


def wake(is_online=False):
    return {"event": "wake", "is_online": is_online}


def token(value):
    return {"event": "token", "token": value}


def signal(room, name, body):
    return {"event": "signal", "room": room, "name": name, "body": body}


def watch(room):
    return {"event": "watch", "room": room}


def presence(v=None, body=None, room="/"):
    header = json.dumps({"t": "presence", "r": room} | ({} if v is None else {"v": v}), separators=(",", ":"))
    return received(header if body is None else header + "\n" + json.dumps(body))


def member(user, info=None, connections=1):
    return {"user": user, "info": info, "connections": connections, "since": 1.5}


# For each name: the options, and (time, event) in order.
SCENARIOS = {
    "signals": (
        {},
        [
            (0, START),
            (0, signal("/", "x", "too early")),
            (0, welcome()),
            (0, signal("/", "x", "hello")),
            (0, signal("/", "y", {"base64": "AP8="})),
            (0, signal("b", "x", "not there")),
            (0, signal("/", "x", "x" * 1001)),
            (1, received('{"t":"signal","r":"/","e":"x","from":"ada"}\nhello\nyou')),
            (1, received({"base64": "eyJ0Ijoic2lnbmFsIiwiciI6Ii8iLCJlIjoieSIsImZyb20iOiJhZGEifQoA/w=="})),
            (1, received('{"t":"signal","r":"/","e":"x","from":"ada"}')),
            (2, closed()),
            (2, signal("/", "x", "while away")),
        ],
    ),
    "presence": (
        {},
        [
            (0, START),
            (0, watch("/")),
            (0, watch("b")),
            (0, welcome()),
            (0, watch("/")),
            (1, presence(5, {"full": [member("ada"), member("ben", {"x": [1]})]})),
            (1, presence(6, {"joined": [member("cem")], "left": ["ada"], "updated": [member("ben", None, 2)]})),
            (1, presence(6, {"left": ["cem"]})),
            (1, presence(8, {"left": ["cem"]})),
            (1, presence(9, {"left": ["ben"]})),
            (1, presence(9, {"full": [member("cem"), member("dan")]})),
            (1, presence(10, {"left": ["nobody"]})),
            (1, presence(1, {"full": [member("eva")]}, room="b")),
            (2, received('{"n":101,"t":"joined","r":"b"}')),
            (2, presence(1, {"full": [member("eva")]}, room="b")),
            (2, received('{"n":102,"t":"left","r":"b"}')),
            (2, presence(2, {"left": ["eva"]}, room="b")),
            (3, presence(1, {"full": []}, room="of nobody")),
            (3, closed()),
            (4, TICK),
            (4, welcome(resumed=True, rooms=["/"])),
            (4, received('{"n":103,"t":"joined","r":"b"}')),
            (4, presence(11, {"joined": [member("fay")]})),
            (4, received('{"t":"live"}')),
            (4, presence(11)),
            (4, presence(3, {"full": []}, room="b")),
            (4, presence(12, {"joined": [member("gus")]})),
            (5, closed()),
            (6, TICK),
            (6, welcome(session="b1-2~proof", rooms=["/"], n=200)),
            (6, presence(12, {"full": [member("gus"), member("dan", 1)]})),
            (7, received('{"t":"presence","r":"/","v":13}\n{"joined":[')),
        ],
    ),
    "messages": (
        {},
        [
            (0, START),
            (0, welcome()),
            (1, received('{"n":101,"r":"/"}\nhello')),
            (1, received('{"n":101,"r":"/"}\nhello')),
            (1, received('{"n":102}\nprivate\nof two lines')),
            (1, received('{"n":103,"b":1}\n')),
            (2, TICK),
            (2, received({"base64": "eyJuIjoxMDQsInIiOiIvIn0KAP8="})),
            (2, received('{"r":"/"}\nvolatile')),
            (2, received("{}\nvolatile private")),
            (2, received('{"n":105,"t":"later","x":{"y":[1]}}')),
            (2, received('{"n":106,"t":"joined","r":"b"}')),
            (2, received('{"n":107,"t":"left","r":"b","why":"closed"}')),
            (2, received('{"n":108,"r":"ümläut \\u0001 \\" room"}\nÜ')),
            (3, TICK),
            (4, CLOSE),
            (4, CLOSE),
        ],
    ),
    "sending": (
        {},
        [
            (0, START),
            (0, send(1)),
            (0, send(2, "in a room", room='"ü\n')),
            (0, welcome()),
            (0, send(3, {"base64": "AP8="})),
            (1, received('{"done":1}')),
            (1, received('{"n":101,"re":2,"err":{"code":"given_up","message":"why"}}')),
            (1, received('{"done":3}')),
            (1, send(4, "y" * 1001)),
            (1, send(5, "v", volatile=True)),
            (1, send(6, "v", volatile=True, room="/")),
            (1, send(7, None, kind="leave", room="/")),
            (1, received('{"done":4}')),
            (2, closed(1000, "over")),
            (2, send(8)),
        ],
    ),
    "requests": (
        {},
        [
            (0, START),
            (0, send(1, "a", asks=True)),
            (0, welcome()),
            (0, send(2, "b", asks=True, room="/")),
            (0, send(3, {"base64": "AP8="}, asks=True)),
            (0, send(4, "d", asks=True)),
            (0, send(5, "e")),
            (1, received('{"n":101,"re":1}\nreply')),
            (1, received('{"n":101,"re":1}\nreply')),
            (1, received('{"n":102,"re":1}\nagain')),
            (1, received({"base64": "eyJuIjoxMDMsInJlIjozfQoA/w=="})),
            (1, received('{"n":104,"re":2,"err":{"code":"not_found","message":"why"}}')),
            (1, received('{"n":105,"re":4}')),
            (1, received('{"done":5}')),
            (2, send(6, "f", asks=True)),
            (2, send(7, "g", asks=True)),
            (2, closed()),
            (3, TICK),
            (3, welcome(resumed=True, received=7, done=7)),
            (3, received('{"n":106,"re":6}\n')),
            (3, received('{"t":"live"}')),
            (4, send(8, "h", asks=True)),
            (4, closed()),
            (6, TICK),
            (6, welcome(session="b2-7~p", n=500)),
            (6, received('{"n":501,"re":1}\nof the next')),
            (6, send(9, "i", asks=True)),
            (7, CLOSE),
        ],
    ),
    "asked": (
        {},
        [
            (0, START),
            (0, welcome(max=5)),
            (0, received('{"n":101,"q":1}\na')),
            (0, received('{"n":102,"q":1}\n')),
            (0, received('{"q":1}\nvolatile')),
            (0, received('{"n":103,"q":1}')),
            (0, received({"base64": "eyJuIjoxMDQsInEiOjF9CgD/"})),
            (0, received('{"n":105,"q":1}\ne')),
            (0, answer(101, "reply")),
            (0, answer(101, "again")),
            (0, answer(102, "too long")),
            (0, answer(104, {"base64": "AP8="})),
            (0, answer(105, None, code="busy", text="later")),
            (0, answer(106)),
            (1, received('{"n":107,"q":1}\nf')),
            (1, received('{"n":108,"q":1}\ng')),
            (1, received('{"done":2}')),
            (1, closed()),
            (1, answer(107, "away")),
            (2, TICK),
            (2, welcome(resumed=True, received=3, done=2, max=5)),
            (2, received('{"t":"live"}')),
            (3, send(1, "message")),
            (3, closed()),
            (4, TICK),
            (4, welcome(session="b2-7~p", n=500, max=5)),
            (4, answer(108)),
            (4, received('{"n":501,"q":1}\nh')),
            (5, CLOSE),
            (5, answer(501)),
        ],
    ),
    "bounds of the queue": (
        {"max_messages": 3, "max_bytes": 10},
        [
            (0, START),
            (0, send(1, "12345")),
            (0, send(2, "123456")),
            (0, send(3, "ü")),
            (0, send(4, "")),
            (0, send(5, "")),
            (0, {"event": "withdraw", "ident": 3}),
            (0, send(6, "")),
            (0, welcome()),
            (0, received('{"done":2}')),
            (0, received('{"done":3}')),
            (0, send(7, "1")),
        ],
    ),
    "a resume": (
        {},
        [
            (0, START),
            (0, welcome()),
            (0, send(1)),
            (0, send(2)),
            (1, received('{"n":101}\na')),
            (2, closed()),
            (3, send(3)),
            (3, send(4, "v", volatile=True)),
            (3, TICK),
            (3, welcome(resumed=True, received=1, done=1, n=104)),
            (3, received('{"t":"gap","r":"/"}')),
            (3, received('{"n":102,"r":"/"}\nb')),
            (3, received('{"done":2}')),
            (3, received('{"n":104}\nc')),
            (3, received('{"t":"live"}')),
            (3, received('{"n":105}\nd')),
        ],
    ),
    "failures are not known after a gap": (
        {},
        [
            (0, START),
            (0, welcome()),
            (0, send(1)),
            (1, closed()),
            (3, TICK),
            (3, welcome(resumed=True, received=1, done=1)),
            (3, received('{"t":"gap","r":null}')),
            (3, received('{"t":"live"}')),
            (3, received('{"t":"gap","r":"late"}')),
        ],
    ),
    "a lost session": (
        {},
        [
            (0, START),
            (0, welcome()),
            (0, send(1, "a", room="/")),
            (0, send(2, "b")),
            (0, received('{"done":1}')),
            (1, closed()),
            (1, send(3, "c")),
            (2, TICK),
            (2, welcome(session="b2-7~p", n=500, rooms=["/", "b"])),
            (3, closed()),
            (5, TICK),
            (5, welcome(session="b3-9~p", n=600)),
            (5, received('{"done":2}')),
        ],
    ),
    "close codes": (
        {},
        [
            (0, START),
            (0, closed()),
            (1, TICK),
            (1, welcome()),
            (1, closed(1013)),
            (9, TICK),
            (9, welcome()),
            (9, closed(4503)),
            (19, TICK),
            (19, welcome()),
            (19, received('{"t":"bye","retry":[2,4]}')),
            (19, closed(1012, "restart")),
            (40, TICK),
            (40, welcome()),
            (40, received('{"n":1}')),
            (47, closed(1001)),
            (99, TICK),
            (99, welcome()),
            (99, closed(4409)),
            (99, closed(4409)),
            (100, START),
            (100, welcome()),
            (100, closed(4000)),
            (101, START),
            (101, closed(1002)),
        ],
    ),
    "tokens": (
        {"has_token": True, "wall_offset": 1000},
        [
            (0, START),
            (0, token("sécret")),
            (0, welcome(expires=1010)),
            (1, closed()),
            (2, TICK),
            (2, welcome(resumed=True, expires=1010)),
            (9, closed()),
            (11, TICK),
            (11, token(None)),
            (20, TICK),
            (20, token("b")),
            (20, closed(4401)),
            (20, token("c")),
            (20, closed(4401, "no")),
            (21, token("late")),
        ],
    ),
    "refreshes": (
        {"has_token": True, "wall_offset": 1000},
        [
            (0, START),
            (0, token("a")),
            (0, welcome(ping=10_000, expires=1100)),
            (10, token("not asked for")),
            (25, received("{}")),
            (50, received('{"t":"auth","id":"1","expires":1200}')),
            (80, TICK),
            (81, token("b")),
            (82, received('{"t":"auth","id":"0","expires":1150}')),
            (82, received('{"t":"auth","id":"1","expires":1200}')),
            (82, received('{"t":"auth","id":"1","expires":1300}')),
            (180, TICK),
            (181, token(None)),
            (197, TICK),
            (197, token("c")),
            (197.5, received('{"t":"auth","id":"2","err":{"code":"refused","message":"why"}}')),
            (199.5, TICK),
            (199.5, closed(4401)),
            (199.5, token("d")),
            (199.5, welcome(resumed=True, ping=10_000, expires=1300)),
            (280, TICK),
            (280, closed()),
            (280, token("late")),
            (282, TICK),
            (282, welcome(resumed=True, ping=10_000, expires=1300)),
            (297, TICK),
            (297, token("e")),
            (307, TICK),
            (308, TICK),
            (308, received('{"t":"auth","id":"3","expires":null}')),
            (309, CLOSE),
        ],
    ),
    "heartbeats": (
        {},
        [
            (0, START),
            (0, welcome(ping=5)),
            (3, received("{}")),
            (8, TICK),
            (9, received('{"n":101,"r":"/"}\nx')),
            (9, received("{}")),
            (14, TICK),
            (24, TICK),
            (25, TICK),
            (25, welcome(resumed=True)),
            (26, wake()),
            (27, wake()),
            (31, TICK),
            (31, wake(is_online=True)),
            (31, wake()),
            (41, TICK),
            (42, wake()),
        ],
    ),
    "acknowledgements": (
        {},
        [
            (0, START),
            (0, welcome()),
            *((1, received(f'{{"n":{n}}}\nx')) for n in range(200, 266)),
            (1.5, received('{"n":300}\n' + "x" * 66_000)),
            (2, received('{"n":301,"r":"/"}\nx')),
            (2, received('{"n":302,"re":1,"err":{"code":"x"}}')),
            (3, TICK),
        ],
    ),
    "what can not be read": (
        {},
        [
            (0, START),
            (0, received("x")),
            (1, TICK),
            (1, received('{"n":1}\nx')),
            (2, TICK),
            (2, welcome()),
            (2, received('{"n":"1"}')),
            (9, TICK),
            (9, welcome()),
            (9, received('{"n":1.5}')),
            (19, TICK),
            (19, welcome()),
            (19, received('{"n":-1}')),
            (39, TICK),
            (39, welcome()),
            (39, received('{"r":1}\nx')),
            (79, TICK),
            (79, welcome()),
            (79, received("{" + " " * 9000 + "}")),
            (119, TICK),
            (119, welcome()),
            (119, received({"base64": "/w=="})),
            (159, TICK),
            (159, received('{"t":"welcome"}')),
            (199, TICK),
            (199, welcome()),
            (199, received("[]")),
            (239, TICK),
            (239, welcome()),
            (239, received('{"n":9007199254740992}')),
            (279, TICK),
            (279, welcome()),
            (279, received('{"n":1,"err":{"code":1}}')),
            (319, TICK),
            (319, welcome()),
            (319, received('{"retry":[1]}')),
            (359, TICK),
            (359, welcome()),
            (359, received('{"n":null,"t":"later"}')),
            (359, received("{}}")),
        ],
    ),
    "many at once": (
        {},
        [
            (0, START),
            (0, welcome()),
            *((0, send(ident, str(ident))) for ident in range(1, 271)),
            (1, received('{"done":7}')),
            (1, closed()),
            (2, TICK),
            (2, welcome(resumed=True, received=262, done=200)),
            (2, received('{"t":"live"}')),
        ],
    ),
    **joins.SCENARIOS,
}


def written(scenario):
    """Play a scenario; return its transcript."""
    options, events = scenario
    source, draws = random.Random(7), []

    def draw():
        draws.append(round(source.random(), 3))
        return draws[-1]

    core = make_core(options, draw)
    steps = [step(core, event, now) for now, event in events]
    return {"options": options, "random": draws, "steps": steps}


class Recording(ClientCore):
    """A core that is played in a schedule of the model, and notes its events."""

    def __init__(self, source):
        self.draws = []
        self.events = []
        self.depth = 0

        def draw():
            self.draws.append(round(source(), 3))
            return self.draws[-1]

        super().__init__(draw)


def _recorded(name, event):
    def method(self, *args, **options):
        self.depth += 1
        try:
            if self.depth == 1:
                self.events.append(
                    (args[-1] if event not in ("send", "answer") else None, _event(event, args, options))
                )
            return getattr(ClientCore, name)(self, *args, **options)
        finally:
            self.depth -= 1

    return method


def _event(event, args, options):
    if event == "received":
        return received(args[0])
    if event == "closed":
        return closed(*args[:2])
    if event == "send":
        return send(*args, **options)
    if event == "answer":
        return answer(*args)
    if event == "wake":
        return wake(**options)
    return {"event": event}


for _name in ("start", "received", "closed", "send", "answer", "tick", "wake"):
    setattr(Recording, _name, _recorded(_name, _name))


def recorded(seed, **options):
    """Play a schedule of the model; return the transcript of a client in it."""
    world = World(seed, core=Recording, **options)
    for _ in range(250):
        world.step()
    world.settle()
    recording = world.pages[0].core
    draws = iter(recording.draws)
    core = make_core({}, lambda: next(draws))
    steps, last = [], 0.0
    for now, event in recording.events:
        last = last if now is None else now
        steps.append(step(core, event, last))
    return {"options": {}, "random": recording.draws, "steps": steps}


def transcripts():
    """Return all by name."""
    made = {name.replace(" ", "-"): written(scenario) for name, scenario in SCENARIOS.items()}
    made |= {f"schedule-{seed}": recorded(seed) for seed in range(4)}
    made |= {f"overruns-{seed}": recorded(seed, ring_messages=2, most_private=2) for seed in (10, 11)}
    return made | {f"lost-sessions-{seed}": recorded(seed, loses_sessions=True) for seed in range(4)}


def main():
    """Write all."""
    for path in HERE.glob("*.json"):
        path.unlink()
    for name, transcript in transcripts().items():
        lines = [json.dumps(each, ensure_ascii=False) for each in transcript["steps"]]
        head = json.dumps({name: transcript[name] for name in ("options", "random")})
        (HERE / f"{name}.json").write_text(head[:-1] + ', "steps": [\n' + ",\n".join(lines) + "\n]}\n", "utf-8")


if __name__ == "__main__":
    main()
