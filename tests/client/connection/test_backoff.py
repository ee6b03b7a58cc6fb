import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.client.connection.backoff import Backoff


def test_grows_to_the_maximum_and_starts_over():
    backoff = Backoff(1, 10, 2, uniform=lambda: 0)
    assert [backoff.next() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    backoff.reset()
    assert backoff.next() == 1


def test_jitter_only_shortens():
    backoff = Backoff(8, 10, 2, uniform=lambda: 1)
    assert backoff.next() == 6


def test_an_initial_delay_above_the_maximum_is_capped():
    assert Backoff(60, 30, 2, uniform=lambda: 0).next() == 30


@given(st.floats(0, 100), st.floats(0, 100), st.floats(1, 10), st.integers(1, 50))
def test_never_past_the_maximum(initial, maximum, factor, count):
    backoff = Backoff(initial, maximum, factor)
    for _ in range(count):
        assert 0 <= backoff.next() <= maximum


def test_no_growth_with_a_factor_of_one():
    backoff = Backoff(2, 10, 1, uniform=lambda: 0)
    assert [backoff.next() for _ in range(3)] == pytest.approx([2, 2, 2])
