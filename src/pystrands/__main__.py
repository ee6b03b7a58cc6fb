"""``python -m pystrands`` is the command ``pystrands``."""

from pystrands.cli.main import main

main(prog_name="pystrands")
