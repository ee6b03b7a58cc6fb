import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.ws.rates import BURST, Bucket, RateLimit

rates = st.floats(0.01, 1e6)
steps = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000)), max_size=50)


@given(rate=rates, burst=st.floats(1, 1e6), steps=steps)
def test_whoever_waits_as_long_as_told_never_gets_more_than_the_rate_and_the_burst(rate, burst, steps):
    bucket = Bucket(rate, burst, 0.0)
    now, taken, last = 0.0, 0.0, 0.0
    for pause, count in steps:
        now += pause
        taken += count
        last = count
        now += bucket.take(count, now)
    assert taken - last <= burst + rate * now + 1e-6 * (taken + burst + rate * now)


@given(rate=rates, burst=st.floats(1, 1e6), steps=steps)
def test_whoever_stays_within_the_rate_is_never_told_to_wait(rate, burst, steps):
    bucket = Bucket(rate, burst, 0.0)
    now = 0.0
    for pause, _ in steps:
        now += pause
        assert bucket.take(min(burst, rate * pause) * 0.999, now) == 0


@given(rate=rates, count=st.floats(0, 1e6))
def test_a_debt_takes_its_time_and_no_longer(rate, count):
    bucket = Bucket(rate, 1.0, 0.0)
    wait = bucket.take(1 + count, 0.0)
    assert wait == pytest.approx(count / rate)
    assert bucket.take(0, wait) == pytest.approx(0, abs=1e-6 * max(1, wait))


def test_an_idle_bucket_holds_its_burst_and_no_more():
    bucket = Bucket(10, 20, 0.0)
    assert bucket.take(20, 1000.0) == 0
    assert bucket.take(1, 1000.0) == pytest.approx(0.1)


def test_a_clock_that_goes_back_gives_nothing():
    bucket = Bucket(1, 1, 100.0)
    assert bucket.take(1, 100.0) == 0
    assert bucket.take(1, 50.0) == 1
    assert bucket.take(0, 100.0) == 1


def test_a_client_may_send_two_seconds_worth_at_once():
    assert BURST == 2
    limit = RateLimit(10, 0, 1000, 0.0)
    assert [limit.take(1_000_000, 0.0) for _ in range(20)] == [0] * 20
    assert limit.take(1, 0.0) == pytest.approx(0.1)


def test_one_message_of_the_largest_size_always_passes():
    limit = RateLimit(0, 10, 1000, 0.0)
    assert limit.take(1000, 0.0) == 0
    assert limit.take(10, 0.0) == pytest.approx(1)
    slow = RateLimit(0.1, 0, 1000, 0.0)
    assert slow.take(1, 0.0) == 0
    assert slow.take(1, 0.0) == pytest.approx(10)


def test_the_stricter_of_both_limits_counts():
    limit = RateLimit(10, 100, 1, 0.0)
    assert limit.take(300, 0.0) == pytest.approx(1)
    for _ in range(60):
        wait = limit.take(0, 0.0)
    assert wait == pytest.approx(4.1)
