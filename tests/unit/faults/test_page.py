# SPDX-License-Identifier: Apache-2.0
"""The page of results has what was measured, beside the peer's figures, and leaves out what was not."""

from __future__ import annotations

from faults import page

RUN = {
    "fault": "postmaster killed",
    "date": "2026-11-02",
    "revision": "0123456",
    "start": 4.0,
    "load": 1.0,
    "cores": 2,
    "versions": "postgresql-17 17.1",
    "gaps": {"pool": 3.0, "balancers": 3.8},
    "failed": {},
    "healed": 5,
    "healthy": 8,
}


def test_a_page_has_our_median_beside_the_peers() -> None:
    text = page.page([RUN], "")
    assert "| postmaster killed | 15.1, 15.2, 15.3 | 15.2 | 3.8 | 4.0 |" in text
    assert "| primary's host killed | 26.1, 35.6, 47.6 | 35.6 | not measured |  |" in text
    assert "By chance" not in text


def test_a_page_without_results_has_only_the_peers() -> None:
    text = page.page([], "")
    assert "whole again" not in text and "Beside autobase" in text


def test_trials_add_up_and_none_counts_twice() -> None:
    again = {**RUN, "start": 90.0}
    other = {**RUN, "fault": "clock stepped back"}
    found = page.together([RUN], [RUN | {"target": "node1"}, again, other])
    assert found == [other, RUN, again]


def test_errors_by_sqlstate_are_kept_with_a_trial() -> None:
    counted = RUN | {"start": 90.0, "states": {"25006": 2}}
    assert page.together([RUN], [counted]) == [RUN, counted]


def test_the_chapter_of_schedules_stays_where_none_were_run() -> None:
    old = page.page([RUN], f"{page.CHANCE}\nthe table\n")
    assert page.page([RUN], page.chance([], old)) == old
    assert page.chance([], "") == ""
