"""What has to be true of what backends have recorded and clients have received, whatever happened meanwhile."""

from collections import Counter, defaultdict

UNSURE = {"killed", "cut off"}
"""Ends of a process with which what it was about to send may be lost."""


class Problems(list[str]):
    """Collects what is wrong, so that one run shows all of it."""

    def check(self, good, text, *evidence):
        if not good:
            self.append("\n    ".join([text, *map(str, evidence)]))

    def none(self):
        assert not self, f"{len(self)} problems:\n" + "\n".join(self[:20])


class History:
    """The records of all processes, grouped. Handlings are those of messages; ``by`` is the process."""

    LIFE = ("new", "gone")

    def __init__(self, events, senders):
        self.events = events
        self.senders = senders
        self.handlings = defaultdict(list)  # (key, n): records
        self.life = defaultdict(list)  # (what, key): records
        self.of_process = defaultdict(list)
        self.finished = {}
        for line in events:
            self.of_process[line["by"]].append(line)
            what = line["what"]
            if what == "message":
                self.handlings[line["key"], line["n"]].append(line)
            elif what in self.LIFE:
                self.life[what, line["key"]].append(line)
            elif what == "finished":
                self.finished[line["by"], line["x"]] = line

    @property
    def repeats(self):
        return sum(len(lines) - 1 for lines in self.handlings.values())

    def count(self, what):
        return sum(line["what"] == what for line in self.events)


def check_messages(history, problems):
    """Every message is handled, in order at first; what is handled more than once is one event, marked but once."""
    for sender in history.senders:
        for number in range(sender.sent):
            lines = history.handlings.get((sender.key, number), [])
            problems.check(lines, f"{sender.key} {number} was never handled")
            _check_repeats(lines, problems)
        first = [
            history.handlings[sender.key, n][0]["t"] for n in range(sender.sent) if (sender.key, n) in history.handlings
        ]
        problems.check(first == sorted(first), f"{sender.key}: first handlings are not in order")
        extra = {n for key, n in history.handlings if key == sender.key} - set(range(sender.sent))
        problems.check(not extra, f"{sender.key}: handled what was never sent: {extra}")
    identities = Counter(line["event"] for lines in history.handlings.values() for line in lines[:1])
    problems.check(all(n == 1 for n in identities.values()), "messages share an event_id")


def _check_repeats(lines, problems):
    problems.check(len({line["event"] for line in lines}) <= 1, "one event has several event_ids", *lines)
    problems.check(all(line["again"] for line in lines[1:]), "a repeat is not marked", *lines)


def check_life(history, problems):
    """Every client joined once and left once, before and after its messages; repeats are marked."""
    for sender in history.senders:
        key = sender.key
        new, gone = history.life["new", key], history.life["gone", key]
        problems.check(new, f"{key} never joined")
        problems.check(gone, f"{key} never left")
        _check_repeats(new, problems)
        _check_repeats(gone, problems)
        messages = [line["t"] for n in range(sender.sent) for line in history.handlings.get((key, n), [])[:1]]
        if messages and new:
            problems.check(new[0]["t"] <= messages[0], f"{key} joined after its first message")
        if messages and gone:
            problems.check(gone[0]["t"] >= messages[-1], f"{key} left before its last message")


def check_ownership(history, problems):
    """A process is told first that a client is new or adopted, and handles one event of it at a time."""
    for lines in history.of_process.values():
        owned, running = set(), {}
        for line in lines:
            what, key = line["what"], line.get("key")
            if what in {"new", "adopted"}:
                owned.add(key)
            elif what in {"message", "gone"}:
                problems.check(key in owned, "an event of a client that is neither new nor adopted", line)
                problems.check(
                    key not in running, "handled while another event of the client was", running.get(key), line
                )
            if what == "message":
                running[key] = line
            elif what == "finished":
                running.pop(key, None)
            elif what in {"gone", "released"}:
                owned.discard(key)


def check_replies(history, exits, problems, guests=()):
    """No reply comes twice; one of a process that lives, or left in order, comes, in the order of sending.

    ``guests`` have left when each of their messages was answered once, and may have missed the answer of a repeat.
    """
    for sender in history.senders:
        counts = Counter((reply["by"], reply["x"]) for reply in sender.replies)
        twice = [each for each, n in counts.items() if n > 1]
        problems.check(not twice, f"{sender.key}: replies came twice: {twice}")
        for reply in sender.replies:  # a guest may get what was meant for one before it, of the same client_id
            problems.check(reply["key"] == sender.key or sender in guests, f"{sender.key}: another's reply", reply)
        for by in {reply["by"] for reply in sender.replies}:
            order = [reply["x"] for reply in sender.replies if reply["by"] == by]
            problems.check(order == sorted(order), f"{sender.key}: replies of {by} are not in order: {order}")
    arrived = {(reply["by"], reply["x"]) for sender in history.senders for reply in sender.replies}
    keys = {sender.key for sender in history.senders}
    gone = {sender.key for sender in guests}
    for (by, x), line in history.finished.items():
        if exits.get(by) not in UNSURE and line["private"] and line["key"] in keys:
            is_repeat = len(history.handlings[line["key"], line["n"]]) > 1
            problems.check(
                (by, x) in arrived or (is_repeat and line["key"] in gone),
                "a reply that was handed on did not come",
                line,
            )
        if not (line["private"] and line["told"]):
            released = [each for each in history.of_process[by] if each["what"] == "released"]
            problems.check(released, "a reply was refused", line)


def untold(members, history, exits):
    """What processes that live, or left in order, have told the control room, and not all members have heard."""
    heard = set.intersection(*({(reply["by"], reply["x"]) for reply in member.replies} for member in members))
    return [
        line
        for key, line in history.finished.items()
        if line["told"] and key not in heard and exits.get(line["by"]) not in UNSURE
    ]


def check_control(members, history, exits, problems):
    """All members of the control room were told the same, each thing once, and all of processes that left in order."""
    told = [[(reply["by"], reply["x"]) for reply in member.replies] for member in members]
    problems.check(all(each == told[0] for each in told), "the members of the control room were told different things")
    problems.check(len(set(told[0])) == len(told[0]), "the control room was told something twice")
    for by in {by for by, _ in told[0]}:
        order = [reply["telling"] for reply in members[0].replies if reply["by"] == by]
        problems.check(order == sorted(order), f"the control room was told by {by} out of order")
    for line in untold(members, history, exits):
        problems.check(False, "the control room was not told", line)


def check_quiet(history, problems):
    """No handler failed, and nothing was lost."""
    for line in history.events:
        problems.check(line["what"] != "error", "an error was told", line)
