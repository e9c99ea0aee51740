# SPDX-License-Identifier: Apache-2.0
"""Schedules by chance are the same for the same seed, and what they say together is right."""

from __future__ import annotations

from pathlib import Path

from faults import report, schedule
from faults.catalogue import FAULTS
from faults.checker import Violation
from faults.report import Trial
from faults.schedule import Step
from hypothesis import given
from hypothesis import strategies as st

NAMES = [fault.name for fault in FAULTS if fault.chance]


@given(st.integers(0))
def test_the_same_seed_is_the_same_schedule_in_whatever_order_faults_are_named(seed: int) -> None:
    assert schedule.draw(seed, NAMES) == schedule.draw(seed, list(reversed(NAMES)))


@given(st.integers(0))
def test_a_schedule_has_two_or_three_faults_that_begin_soon_and_end(seed: int) -> None:
    steps = schedule.draw(seed, NAMES)
    assert len(steps) in (2, 3)
    assert len({step.fault for step in steps}) == len(steps)
    assert all(0 <= step.at <= schedule.SPREAD and step.at < step.until < 40 for step in steps)


def test_a_hundred_seeds_choose_every_fault() -> None:
    assert {step.fault for seed in range(1, 101) for step in schedule.draw(seed, NAMES)} == set(NAMES)


def test_strikes_and_heals_come_in_order_of_time() -> None:
    steps = [Step("a", 1.0, 9.0), Step("b", 2.0, 3.0)]
    assert [(at, act, step.fault) for at, act, step in schedule.acts(steps)] == [
        (1.0, "strike", "a"),
        (2.0, "strike", "b"),
        (3.0, "heal", "b"),
        (9.0, "heal", "a"),
    ]


def a_record(seed: int, violations: list[Violation], problem: str = "") -> dict[str, object]:
    steps = [Step("a", 1.0, 9.0), Step("b", 2.0, 3.0)]
    trials = [
        Trial("a", "node1", 1.0, gaps={"pool": 3.0}, problem=problem, happened=True),
        Trial("b", "", 2.0, gaps={"pool": 5.0}, skipped="no primaries"),
    ]
    found = report.record(seed, "v1", steps, trials, violations)
    return found | {"acknowledged": 10, "looks": 20, "plain_lost": 1, "oldest_read": 0.5, "seconds": 30.0}


def test_a_record_tells_what_happened_and_what_was_found() -> None:
    found = a_record(7, [Violation("lost", "set", "x")])
    assert found["happened"] == ["a"] and found["skipped"] == {"b": "no primaries"}
    assert found["gaps"] == {"pool": 5.0} and found["failed"]
    assert not a_record(7, [])["failed"]


def test_the_summary_counts_over_all_schedules_and_names_those_that_failed() -> None:
    found = [a_record(1, []), a_record(2, [Violation("lost", "set", "x")]), a_record(3, [], "did not come back")]
    text = report.summary(found)
    assert "| schedules | 3 |" in text and "| operations acknowledged | 30 |" in text
    assert "from nowhere | 1 |" in text and "did not come back by itself | 1 |" in text
    assert "Seed 2 failed: seed 2: a 1.0-9.0 s; b 2.0-3.0 s: lost: x" in text
    assert "Seed 3 failed" in text and "Seed 1 failed" not in text


def test_results_that_do_not_exist_yet_are_none(tmp_path: Path) -> None:
    assert report.records(tmp_path / "results.jsonl") == []
