"""What is measured: who is connected, who sends, and who must get it."""

from dataclasses import dataclass

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """One case. ``audience``: who gets a message, its sender (own), its room, or all; ``senders`` are per audience."""

    name: str
    label: str
    what: str
    path: str
    audience: str
    clients: int
    room_size: int = 1
    senders: int = 1
    idle: bool = False
    rate: float = 0
    """Messages a second of an open loop; 0: closed loop."""
    size: int = 40
    stalled: int = 0
    """Clients that never read; nothing is owed to them."""
    dialect: str = ""
    """What is spoken instead of what the side speaks."""

    def options(self) -> list[str]:
        """Return the load generator's options."""
        given = {
            "path": self.path,
            "audience": self.audience,
            "clients": self.clients,
            "room-size": self.room_size,
            "senders": self.senders,
            "rate": self.rate,
            "size": self.size,
            "stalled": self.stalled,
        }
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]


CASES = {
    case.name: case
    for case in (
        Case(
            "echo",
            "echo, 100 clients",
            "Each client gets its own message back, and sends the next one then.",
            "/echo",
            "own",
            100,
        ),
        Case("echo1000", "echo, 1,000 clients", "As above.", "/echo", "own", 1000),
        Case(
            "room",
            "one room of 1,000",
            "Ten of the thousand send; each sends again when its own message has come back.",
            "/chat",
            "room",
            1000,
            1000,
            10,
        ),
        Case(
            "rooms",
            "100 rooms of 10",
            "All of them send, each again when its own has come back.",
            "/chat",
            "room",
            1000,
            10,
            10,
        ),
        Case("broadcast", "broadcast to 10,000", "One client sends, to all.", "/all", "all", 10000, 10000),
        Case(
            "idle",
            "15,000 idle connections",
            "Rooms of ten; 64 connections at a time are being opened. Memory is what the processes have more of (PSS).",
            "/chat",
            "room",
            15000,
            10,
            idle=True,
        ),
        Case(
            "latency",
            "latency at a fixed rate",
            "Echo, 100 clients, an open loop: half as many messages a second as FastAPI echoes at most."
            " Latency counts from when a message was due, not from when it left.",
            "/echo",
            "own",
            100,
        ),
    )
}
