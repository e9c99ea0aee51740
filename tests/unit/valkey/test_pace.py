# SPDX-License-Identifier: Apache-2.0
"""The settings of a formation tell those to go back to."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import pace
from hypothesis import given
from hypothesis import strategies as st

NODES = st.integers(2, 1000)
DELAYS = st.integers(0, pace.LONGEST_DELAY)


@given(NODES, DELAYS, st.sampled_from([0, pace.HURRY]))
def test_the_interval_tells_the_delay(nodes: int, delay: int, hurry: int) -> None:
    assert pace.read([pace.SETTING, str(pace.interval(nodes, delay) + hurry)]) == delay


@given(NODES, NODES)
def test_more_nodes_do_not_ping_more_often(some: int, more: int) -> None:
    fewer, most = sorted((some, more))
    assert pace.interval(fewer, 0) <= pace.interval(most, 0)


def test_small_clusters_have_the_shortest_interval() -> None:
    assert [pace.interval(nodes, 0) // 100 for nodes in (6, 60, 90, 120, 200, 1000)] == [2, 2, 2, 4, 16, 20]


@given(NODES, DELAYS, st.integers(0, 100_000))
def test_a_brief_timeout_is_short_and_tells_its_own(nodes: int, delay: int, timeout: int) -> None:
    brief = pace.brief(timeout)
    if brief is not None:
        assert brief < timeout
        hurried = pace.Timeouts(pace.interval(nodes, delay) + pace.HURRY, brief)
        assert hurried.hurried
        assert hurried.lasting == timeout


@given(NODES, DELAYS, st.integers(1, 100_000))
def test_a_timeout_that_was_never_brief_stays(nodes: int, delay: int, timeout: int) -> None:
    own = pace.Timeouts(pace.interval(nodes, delay), timeout)
    assert not own.hurried
    assert own.lasting == timeout


def test_other_intervals_are_not_ours() -> None:
    for value in (0, 7, 199, 200, 206, 268, 306, 368, 399, 1000, 1500, 2000, 2006, 2207):
        assert pace.read([pace.SETTING, str(value)]) is None, value
    assert pace.read([]) is None
