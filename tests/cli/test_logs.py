"""What a line of the log looks like."""

import json
import logging
import re

import pytest

from pystrands.cli.logs import JsonFormatter, TextFormatter, log_to_stderr
from pystrands.protocol.printable import printable


def line(message, *args, exc_info=None, level=logging.WARNING):
    record = logging.LogRecord("pystrands.x", level, __file__, 1, message, args, exc_info)
    return JsonFormatter().format(record)


def test_an_entry_has_its_time_level_logger_and_message():
    entry = json.loads(line("%d clients", 3))
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ", entry.pop("time"))
    assert entry == {"level": "warning", "logger": "pystrands.x", "message": "3 clients"}


@pytest.mark.parametrize("text", ["two\nlines", 'a "quote"', "\x00\x1b\u2028\ud800", "é"])
def test_an_entry_is_one_line_of_ascii_whatever_the_message_is(text):
    written = line("%s", text)
    assert written.isascii()
    assert written.isprintable()
    assert json.loads(written)["message"] == text


def test_an_exception_comes_with_its_traceback():
    try:
        raise ValueError("no\nsuch thing")
    except ValueError as error:
        written = line("it failed", exc_info=(ValueError, error, error.__traceback__))
    assert written.isprintable()
    trace = json.loads(written)["exception"]
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("ValueError: no\nsuch thing")


def test_a_stack_is_told_too():
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "here", (), None)
    record.stack_info = "Stack (most recent call last):\n  somewhere"
    assert json.loads(JsonFormatter().format(record))["exception"] == record.stack_info


FORGED = "2026-01-01 00:00:00,000 ERROR   pystrands: forged"
SEPARATORS = [
    "\n",
    "\r\n",
    "\r",
    "\x1b[2K\x1b[1A",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\x9b2K",
    "\u2028",
    "\u2029",
    "\ud800\n",
]


def text_lines(message, *args, **more):
    record = logging.LogRecord("pystrands.x", logging.ERROR, __file__, 1, message, args, more.pop("exc_info", None))
    for name, value in more.items():
        setattr(record, name, value)
    written = TextFormatter().format(record)
    lines = written.split("\n")
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.lstrip().startswith(FORGED)]
    return lines


@pytest.mark.parametrize("separator", SEPARATORS)
def test_in_text_a_message_is_one_line_whatever_is_in_it(separator):
    (line,) = text_lines("it is %s", f"said{separator}{FORGED}")
    assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d\d\d ERROR   pystrands\.x: it is said\\", line)
    assert line.endswith(FORGED)


def raised():
    """An exception with a forged line in every text that there is."""
    try:
        try:
            raise ValueError(f"no\n{FORGED}")
        except ValueError as error:
            error.add_note(f"a note\n{FORGED}".replace("\n", "\u2028"))
            group = ExceptionGroup(f"two\n{FORGED}", [KeyError(f"key\n{FORGED}"), OSError(f"of the system\n{FORGED}")])
            raise group from error
    except ExceptionGroup as error:
        return error


def test_in_text_a_traceback_is_indented_and_an_exception_s_text_stays_in_its_line():
    error = raised()
    lines = text_lines("it failed", exc_info=(type(error), error, error.__traceback__))
    assert all(line.startswith("  ") or not line for line in lines[1:])
    assert f"  ValueError: no\\n{FORGED}" in lines
    assert "  Traceback (most recent call last):" in lines
    assert any("raise ValueError" in line for line in lines)
    assert not [line for line in text_lines("x", exc_info=(None, None, None))[1:] if line]


def test_in_text_a_stack_is_indented():
    assert text_lines("here", stack_info=f"Stack:\n  File\u2028{FORGED}")[1:] == [
        "  Stack:",
        f"    File\\u2028{FORGED}",
    ]


@pytest.mark.parametrize("text", ["", "é ☃ a\\b", "plain"])
def test_what_can_be_printed_stays_as_it_is(text):
    assert printable(text) == text


def test_what_can_not_be_printed_is_escaped():
    assert printable("a\n\x1b\x85\u2028\u202e\ud800b") == r"a\n\x1b\x85\u2028\u202e\ud800b"


@pytest.fixture
def root():
    """The root logger; it gets back what it had."""
    logger = logging.getLogger()
    level = logger.level
    yield logger
    logger.setLevel(level)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_is_logged_goes_to_stderr_from_the_level_on(root, monkeypatch, capsys, log_format):
    monkeypatch.setattr(root, "handlers", [])  # those of pytest
    log_to_stderr("warning", log_format)
    logging.getLogger("x").info("too quiet")
    logging.getLogger("x").warning("loud")
    captured = capsys.readouterr()
    assert captured.out == ""
    (written,) = captured.err.splitlines()
    assert "loud" in written
    assert (written[0] == "{") == (log_format == "json")
