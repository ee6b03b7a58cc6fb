import importlib
import os
import pkgutil

import hypothesis
import pytest

import pystrands

# A deadline is nothing that a busy machine keeps. To explain a failure hypothesis traces every line of every example,
# which takes several times as long.
hypothesis.settings.register_profile(
    "tests", deadline=None, phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain]
)
hypothesis.settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Collect without coverage: every process would take twice as long, and of our code only what is imported runs."""
    controller = getattr(session.config.pluginmanager.get_plugin("_cov"), "cov_controller", None)
    if controller is None or not controller.started:
        return (yield)
    for module in pkgutil.walk_packages(pystrands.__path__, "pystrands."):
        if "__" not in module.name:  # neither a program nor what PyInstaller reads
            importlib.import_module(module.name)
    controller.pause()
    try:
        return (yield)
    finally:
        controller.resume()


def pytest_collection_modifyitems(items):
    """Leave hypothesis' tests out of the coverage, and give them time.

    What they run a hundred times takes twice as long while each line is counted, and lines that no other test has run
    were not looked at by anybody.
    """
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.no_cover)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(300))  # it computes all the time, beside other tests


def pytest_addoption(parser):
    parser.addoption(
        "--engine", choices=["memory", "nats"], default="memory", help="what carries messages in tests/e2e"
    )


@pytest.fixture
def clean_environment(monkeypatch):
    """No option comes from the environment in which the tests run."""
    for name in list(os.environ):
        if name.startswith(("PYSTRANDS_", "PYSTRAND_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def coverage_of_processes():
    """What has coverage begin in other processes. There it takes as long as most programs do, so who wants it asks."""
    names = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
    return {name: os.environ.pop(name) for name in names if name in os.environ}


@pytest.fixture
def measured(coverage_of_processes, monkeypatch):
    """Measure what the processes of this test run."""
    for name, value in coverage_of_processes.items():
        monkeypatch.setenv(name, value)


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their parameter: what is masked is different in each process, and workers must agree."""
    return argname if isinstance(val, bytes) else None
