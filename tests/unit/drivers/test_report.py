# SPDX-License-Identifier: Apache-2.0
"""The page of drivers is what the last run of `make drivers` saw."""

from __future__ import annotations

import json

import pytest
from drivers.report import PAGE, RESULTS, page, problems

RIGHT = {"check": "read", "right": 10, "wrong": 0, "errors": 0, "error": ""}


@pytest.fixture(scope="module")
def results():
    """What was seen."""
    return json.loads(RESULTS.read_text())


def test_the_page_is_written_out_of_the_results(results):
    assert PAGE.read_text() == page(results)


def test_no_driver_has_wrong_rows_and_each_is_right_on_its_pool(results):
    assert problems(results) == []


def entry(pool, **changed):
    """A driver whose reads went as said, on that pool."""
    checks = {"transaction": {"checks": {"read": RIGHT}}, "session": {"checks": {"read": RIGHT}}}
    checks[pool] = {"checks": {"read": {**RIGHT, **changed}}}
    return {"drivers": {"one": {"pool": "session", **checks}}}


def test_wrong_rows_are_a_problem_everywhere_and_errors_where_the_page_sends_a_driver():
    assert len(problems(entry("transaction", wrong=1))) == 1
    assert len(problems(entry("session", wrong=1))) == 1
    assert problems(entry("transaction", errors=1)) == []
    assert len(problems(entry("session", errors=1))) == 1
