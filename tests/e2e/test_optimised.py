"""Clients and broker without their assert statements and docstrings, and with warnings as errors."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "round_trip.py"


@pytest.mark.parametrize("level", ["-O", "-OO"])
def test_all_clients_with_warnings_as_errors(level):
    command = [sys.executable, level, "-W", "error", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    # A warning in a destructor can't be raised; Python prints it.
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    *logged, debug = done.stdout.splitlines()
    assert debug == "False"
    # Of each client: the link that was cut, and the handler that failed. A busy machine may add that the loop was late.
    assert sum(line.startswith("ERROR on_message failed") for line in logged) == 3, done.stdout
    assert sum(line.startswith("WARNING lost the link") for line in logged) >= 3, done.stdout
