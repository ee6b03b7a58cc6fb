"""Text of others, as it may be shown: in logs, on terminals."""

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Return text that stays on one line and steers no terminal: what is not printable is escaped, as in ``\n``.

    That is for text which reads badly in quotation marks. For names and ids ``%r`` does the same.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
