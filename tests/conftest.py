import os

import pytest


@pytest.fixture
def clean_environment(monkeypatch):
    """No option comes from the environment in which the tests run."""
    for name in list(os.environ):
        if name.startswith(("PYSTRANDS_", "PYSTRAND_")):
            monkeypatch.delenv(name)
