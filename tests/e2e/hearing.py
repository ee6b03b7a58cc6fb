"""One end of a link of protocol 2 that hears numbered lines, and what stands between them."""

from typing import Any


class Hearing:
    """What a test's backend and a test's broker have in common."""

    def __init__(self) -> None:
        self.received = 0
        """The other end's last number."""
        self.acknowledged: list[int] = []
        """What the other end has said it received."""
        self.heartbeats = 0

    async def next_line(self) -> dict[str, Any]:
        """Return the next line of any kind; EOFError at the end."""
        raise NotImplementedError

    async def hear(self, *actions: str) -> dict[str, Any]:
        """Return the next numbered line, which has one of these actions; others than numbered ones are noted."""
        while True:
            heard = await self.next_line()
            if heard["action"] == "received":
                assert "seq" not in heard
                self.acknowledged.append(heard["params"]["seq"])
            elif heard["action"] == "heartbeat":
                assert "seq" not in heard
                self.heartbeats += 1
            else:
                assert heard["seq"] == self.received + 1, heard
                self.received += 1
                assert not actions or heard["action"] in actions, heard
                return heard
