"""What PyInstaller asks, by the entry point ``pyinstaller40``: where the hooks of this package are."""

from pathlib import Path

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """Return the folders with hooks: this one."""
    return [str(Path(__file__).parent)]
