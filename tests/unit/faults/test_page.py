"""The page of results has what was measured, beside the peer's figures, and leaves out what was not."""

from __future__ import annotations

from faults import page

RUN = {
    "fault": "postmaster killed",
    "date": "2026-11-02",
    "load": 1.0,
    "cores": 2,
    "versions": "postgresql-17 17.1",
    "gaps": {"pool": 3.0, "balancers": 3.8},
    "failed": {},
    "healed": 5,
    "healthy": 8,
}


def test_a_page_has_our_median_beside_the_peers() -> None:
    text = page.page([RUN], [])
    assert "| postmaster killed | 15.1, 15.2, 15.3 | 15.2 | 3.8 | 4.0 |" in text
    assert "| primary's host killed | 26.1, 35.6, 47.6 | 35.6 | not measured |  |" in text
    assert "By chance" not in text


def test_a_page_without_results_has_only_the_peers() -> None:
    text = page.page([], [])
    assert "whole again" not in text and "Beside autobase" in text


def test_of_the_fixed_set_only_what_the_bench_has_not_is_shown() -> None:
    other = {**RUN, "fault": "clock stepped back"}
    assert page.together([RUN], [RUN, other]) == [RUN, other]
