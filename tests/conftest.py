import os

import pytest


@pytest.fixture
def clean_environment(monkeypatch):
    """No option comes from the environment in which the tests run."""
    for name in list(os.environ):
        if name.startswith(("PYSTRANDS_", "PYSTRAND_")):
            monkeypatch.delenv(name)


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their parameter: what is masked is different in each process, and workers must agree."""
    return argname if isinstance(val, bytes) else None
