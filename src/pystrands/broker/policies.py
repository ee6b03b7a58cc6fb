"""What the broker may do when there is too much: the choices of the options that say so."""

from typing import Literal, TypeAlias

__all__ = ["QueuePolicy", "RatePolicy", "SlowPolicy"]

QueuePolicy: TypeAlias = Literal["backpressure", "drop-oldest", "disconnect"]
"""When messages wait for a backend, and the queue is full."""
SlowPolicy: TypeAlias = Literal["disconnect", "drop"]
"""When a client does not take what is sent to it."""
RatePolicy: TypeAlias = Literal["delay", "close"]
"""When a client sends more than it may."""
