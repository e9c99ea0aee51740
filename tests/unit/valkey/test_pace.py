"""The settings of a formation tell those to go back to."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.cluster import Pace
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 60), st.sampled_from([0, 100]))
def test_the_interval_tells_the_delay(delay: int, hurry: int) -> None:
    assert Pace.read([Pace.SETTING, str(Pace.FAST + hurry + delay)]) == delay


@given(st.integers(0, 100_000))
def test_a_brief_timeout_is_short_and_tells_its_own(timeout: int) -> None:
    brief = Pace.brief(timeout)
    if brief is not None:
        assert brief < timeout
        assert Pace.lasting(Pace.FAST + Pace.HURRY, brief) == timeout


@given(st.integers(0, 60), st.integers(1, 100_000))
def test_a_timeout_that_was_never_brief_stays(delay: int, timeout: int) -> None:
    assert Pace.lasting(Pace.FAST + delay, timeout) == timeout


def test_other_intervals_are_not_ours() -> None:
    assert [Pace.read([Pace.SETTING, value]) for value in ("0", "199", "261", "299", "361", "1000")] == [None] * 6
    assert Pace.read([]) is None
