"""What happened how often."""

from collections import Counter

__all__ = ["Counters"]


class Counters(Counter[str]):
    """A ``Counter`` whose items cost half as much to set, since some are for every message.

    A ``Counter`` deletes items in a way of its own, and so sets them by way of Python, too. A key that is not there
    can't be deleted here.
    """

    __setitem__ = dict.__setitem__
    __delitem__ = dict.__delitem__  # type: ignore[assignment]  # a Counter's takes any object
