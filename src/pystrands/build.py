"""Which build of the package this is: where it was installed, ``hatch_build.py`` compiled it, or could not."""

from typing import Final

from pystrands.protocol import wire

__all__ = ["BUILD", "VERSION"]

BUILD: Final = "interpreted" if wire.__file__.endswith(".py") else "compiled"
"""``compiled`` where what runs for every message is: all of it, or none."""
VERSION: Final = "2.0.0"
"""That of pyproject.toml. To ask the installation would take a tenth of the time that ``import pystrands`` does."""
