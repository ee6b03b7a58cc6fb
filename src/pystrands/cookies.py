"""The cookies of a request, read as browsers write them."""

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["parse_cookies"]

_ESCAPED: Final = re.compile(r"\\([0-3][0-7][0-7]|.)", re.DOTALL)


def parse_cookies(lines: Iterable[str]) -> dict[str, str]:
    """Return the cookies in these ``Cookie`` headers by name; of several with one name the first.

    That is the one with the longest path, which browsers send first. What is no cookie is left out, and nothing else
    with it: a browser sends all it has, whoever set it. Quotes around a value are taken off; nothing else is decoded.
    """
    cookies: dict[str, str] = {}
    for line in lines:
        for each in line.split(";"):
            name, equals, value = each.partition("=")
            name = name.strip(" \t")
            if name and equals:
                cookies.setdefault(name, _unquoted(value.strip(" \t")))
    return cookies


def _unquoted(value: str) -> str:
    if len(value) < 2 or not (value[0] == value[-1] == '"'):
        return value
    return _ESCAPED.sub(_unescaped, value[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    escaped = match[1]
    return chr(int(escaped, 8)) if len(escaped) == 3 else escaped
