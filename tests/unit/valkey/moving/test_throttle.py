# SPDX-License-Identifier: Apache-2.0
"""Rate, latency regulator and size of rounds."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.throttle import (
    LEAST_ROUND,
    Bucket,
    Regulator,
    RoundSize,
    percentile,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_sample_that_the_part_does_not_exceed(samples: list[float], part: float) -> None:
    found = percentile(samples, part)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= part * len(samples)


def test_no_samples_have_no_latency() -> None:
    assert percentile([], 0.99) == 0.0


@given(st.integers(1, 1000), st.lists(st.integers(1, 500), min_size=1, max_size=20))
def test_a_rate_is_never_exceeded(rate: int, takes: list[int]) -> None:
    now = [0.0]
    bucket = Bucket(rate, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    for units in takes:
        bucket.take(units)
    # What is taken last is paid for by who comes next.
    assert now[0] >= sum(takes[:-1]) / rate - 1e-6


def test_without_a_rate_nobody_waits() -> None:
    slept: list[float] = []
    Bucket(None, lambda: 0.0, slept.append).take(10_000)
    assert slept == []


@given(st.integers(1, 8), st.lists(st.floats(0, 100), max_size=100))
def test_a_regulator_stays_in_its_bounds(movers: int, seen: list[float]) -> None:
    regulator = Regulator(10.0, movers, 0.01)
    for p99 in seen:
        regulator.feed(p99)
        assert 1 <= regulator.working <= movers
        assert LEAST_ROUND <= regulator.round <= 0.01


def test_a_regulator_backs_off_and_comes_back() -> None:
    regulator = Regulator(10.0, 4, 0.01)
    for _quiet in range(20):
        regulator.feed(1.0)
    assert regulator.working == 4
    for _busy in range(20):
        regulator.feed(50.0)
    assert (regulator.working, regulator.round) == (1, LEAST_ROUND)
    regulator.feed(8.0)
    assert regulator.round == LEAST_ROUND


def test_without_a_limit_nothing_is_regulated() -> None:
    regulator = Regulator(None, 4, 0.01)
    regulator.feed(1e6)
    assert (regulator.working, regulator.round) == (4, 0.01)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0.0001, 10)), max_size=100))
def test_rounds_stay_within_bounds(rounds: list[tuple[int, float]]) -> None:
    size = RoundSize(most=1000)
    for moved, seconds in rounds:
        size.feed(min(moved, size.keys), seconds, 0.01)
        assert 1 <= size.keys <= 1000
