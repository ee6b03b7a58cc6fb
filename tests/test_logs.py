"""What a line of the log looks like."""

import json
import logging
import re

import pytest

from pystrands.logs import JsonFormatter, log_to_stderr


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
