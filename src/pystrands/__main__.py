"""``python -m pystrands`` is the command ``pystrands``."""

from pystrands.cli import main

main(prog_name="pystrands")
