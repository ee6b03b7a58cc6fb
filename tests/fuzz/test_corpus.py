"""What the fuzzer has found once is tried with every run of the tests. `make fuzz` looks for more."""

import pytest
from fuzz.__main__ import HERE, MAX_FILES, MAX_SIZE, NAMES
from fuzz.targets import TARGETS


def corpus(name):
    return sorted((HERE / "corpus" / name).iterdir())


def test_the_fuzzer_runs_every_target():
    assert tuple(TARGETS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_is_small(name):
    assert 3 <= len(corpus(name)) <= MAX_FILES
    assert all(path.stat().st_size <= MAX_SIZE for path in corpus(name))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_the_corpus_breaks_its_target(name):
    for path in corpus(name):
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            error.add_note(f"with {path}")
            raise
