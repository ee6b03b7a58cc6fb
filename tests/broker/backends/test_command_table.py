"""Who carries out a command: one handler for each kind, and for each there is one."""

from typing import Any, get_args

import pytest

from pystrands.broker.backends.command_table import CommandTable
from pystrands.protocol.messages import Broken, Bye, SessionCommand, Status, Unknown
from tests.broker.routing.test_router import World


async def test_each_kind_of_command_has_a_handler():
    world = World()
    assert set(world.lifecycle._handlers) == {*get_args(SessionCommand), Broken, Unknown}


def test_a_kind_has_one_handler():
    table = CommandTable()
    heard: list[Any] = []
    table.on(Bye, lambda session, command: heard.append(command))
    table.on(Status, lambda session, command: heard.append(command))
    with pytest.raises(ValueError, match="Bye has a handler"):
        table.on(Bye, lambda session, command: heard.append(command))
    assert set(table.handlers) == {Bye, Status}
