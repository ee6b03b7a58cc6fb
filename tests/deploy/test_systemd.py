"""The systemd unit, judged by systemd, and against the broker's own times."""

import configparser
import re
import shutil
import subprocess
import sys

import pytest

from pystrands.broker.config import BrokerConfig
from tests.docs.blocks import ROOT

UNIT = (ROOT / "deploy" / "pystrands.service").read_text("utf-8")
SERVICE = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd on this machine")
def test_systemd_has_nothing_to_say_against_it(tmp_path):
    path = tmp_path / "pystrands.service"
    program = SERVICE["ExecStart"].split()[0]
    path.write_text(UNIT.replace(program, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False, timeout=50
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "pystrands" in line]
    assert (done.returncode, said) == (0, [])


def test_it_gives_the_broker_the_time_to_drain():
    config = BrokerConfig()
    assert int(SERVICE["TimeoutStopSec"]) > config.drain_time + 2 * config.close_timeout


def test_a_wrong_option_is_not_tried_again():
    assert SERVICE["RestartPreventExitStatus"] == "2"
    assert SERVICE["Restart"] == "always"


def test_it_runs_the_command_that_there_is_and_not_as_root():
    program, command, option, _file = SERVICE["ExecStart"].split()
    assert program.endswith("/bin/pystrands")
    assert (command, option) == ("server", "--config")
    assert SERVICE["User"] == "pystrands"
    assert SERVICE["NoNewPrivileges"] == "yes"


def test_it_has_no_line_twice_but_for_filters():
    text = UNIT.replace("SystemCallFilter=~", "SystemCallFilterNot=~")
    configparser.ConfigParser(strict=True, interpolation=None).read_string(text)
