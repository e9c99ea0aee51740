# SPDX-License-Identifier: Apache-2.0
"""Histories that some order explains are right; planted cycles, lost and doubled values are found."""

from __future__ import annotations

from typing import Any

import pytest
from faults import cycles
from faults.history import Operation, Outcome
from hypothesis import given
from hypothesis import strategies as st

OK, NO, OPEN = Outcome.ACKNOWLEDGED, Outcome.FAILED, Outcome.UNKNOWN
KEYS = "xyz"


def transaction(
    value: tuple[str, int], seen: dict[str, list[int]] | None, start: float, end: float, outcome: Outcome = OK
) -> Operation:
    return Operation("a", "transactions", "pool", "write", value[0], value, start, end, outcome, seen)


def kinds(operations: list[Operation], final: dict[str, list[int]]) -> list[str]:
    return [violation.kind for violation in cycles.check_transactions(operations, final)]


@given(st.data())
def test_a_serial_history_has_no_violation_however_its_transactions_overlap(data: st.DataObject) -> None:
    final: dict[str, list[int]] = {key: [] for key in KEYS}
    operations = []
    for number in range(data.draw(st.integers(0, 25))):
        read, key = data.draw(st.sampled_from(KEYS)), data.draw(st.sampled_from(KEYS))
        outcome = data.draw(st.sampled_from([OK, OK, OPEN, NO]))
        done = outcome is OK or (outcome is OPEN and data.draw(st.booleans()))
        seen = {read: list(final[read])} if outcome is OK else None
        if done:
            final[key].append(number)
        # It happened at its number, and its client saw it begin before and end after that.
        start, end = (number + sign * data.draw(st.floats(0, 5)) for sign in (-1, 1))
        operations.append(transaction((key, number), seen, start, end, outcome))
    assert kinds(operations, final) == []


def test_two_that_each_missed_what_the_other_wrote_have_no_order() -> None:
    skew = [transaction(("x", 1), {"y": []}, 0, 9), transaction(("y", 2), {"x": []}, 0, 9)]
    assert kinds(skew, {"x": [1], "y": [2]}) == ["cycle"]


def test_lists_in_opposite_orders_have_no_order() -> None:
    # 1 saw 2's value of y, 2 saw 1's value of x: each before the other.
    circle = [transaction(("x", 1), {"y": [2]}, 0, 9), transaction(("y", 2), {"x": [1]}, 0, 9)]
    assert kinds(circle, {"x": [1], "y": [2]}) == ["cycle"]


@pytest.mark.parametrize(("start", "found"), [(0.5, []), (2.0, ["cycle"])])
def test_who_began_after_an_acknowledgement_must_see_it(start: float, found: list[str]) -> None:
    stale = [transaction(("x", 1), {"y": []}, 0, 1), transaction(("z", 2), {"x": []}, start, 3)]
    assert kinds(stale, {"x": [1], "y": [], "z": [2]}) == found


def test_who_never_had_an_answer_may_take_effect_late() -> None:
    late = [transaction(("x", 1), None, 0, 1, OPEN), transaction(("z", 2), {"x": []}, 2, 3)]
    assert kinds(late, {"x": [1], "z": [2]}) == []


@pytest.mark.parametrize(
    ("final", "kind"),
    [
        ({"x": [1], "y": [2]}, []),
        ({"x": [], "y": [2]}, ["lost", "reordered"]),
        ({"x": [1, 1], "y": [2]}, ["duplicated"]),
        ({"x": [1], "y": [2, 3]}, ["phantom"]),
        ({"x": [7, 1], "y": [2]}, ["phantom", "reordered"]),
    ],
)
def test_planted_faults_of_the_lists_themselves(final: dict[str, list[int]], kind: list[str]) -> None:
    operations = [
        transaction(("x", 1), {"y": []}, 0, 1),
        transaction(("y", 2), {"x": [1]}, 2, 3),
        transaction(("y", 3), None, 2, 3, NO),
    ]
    assert kinds(operations, final) == kind


@given(st.dictionaries(st.integers(0, 8), st.sets(st.integers(0, 8)), max_size=9))
def test_knots_are_the_sets_of_nodes_that_reach_each_other(graph: dict[int, set[int]]) -> None:
    def reach(start: int) -> set[int]:
        found: set[int] = set()
        ahead = [start]
        while ahead:
            for node in graph.get(ahead.pop(), set()) - found:
                found.add(node)
                ahead.append(node)
        return found

    reached: dict[int, set[int]] = {node: reach(node) for node in range(9)}
    want: Any = {frozenset(b for b in range(9) if b in reached[a] and a in reached[b]) for a in range(9)}
    assert {frozenset(knot) for knot in cycles.knots(graph)} == {knot for knot in want if len(knot) > 1}
