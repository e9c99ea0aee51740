# SPDX-License-Identifier: Apache-2.0
"""Which events an export takes, and how they are cut into parts."""

from __future__ import annotations

import itertools

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.events import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.events.ranges import Selection
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

LANES = st.lists(st.one_of(st.none(), st.tuples(st.integers(1, 2**40), st.integers(0, 5000))), max_size=4)


@given(lanes=LANES, density=st.integers(1, 100), size=st.integers(1, 700))
def test_every_number_of_every_lane_lies_in_one_range(lanes, density, size):
    bounds = [None if lane is None else (lane[0], lane[0] + lane[1]) for lane in lanes]
    events = [0 if lane is None else lane[1] // density for lane in lanes]
    planned = ranges.plan(bounds, events, size)
    for lane, ends in enumerate(bounds):
        mine = [item for item in planned if item.lane == lane]
        if ends is None:
            assert mine == []
            continue
        assert (mine[0].first, mine[-1].last) == ends
        assert all(left.last + 1 == right.first for left, right in itertools.pairwise(mine))
        assert all(item.first <= item.last for item in mine)
        assert len(mine) <= max(1, -(-events[lane] // size))


def test_a_time_is_taken_with_its_offset_and_told_in_utc():
    assert ranges.moment("since", "2026-01-31T12:00:00+02:00") == "2026-01-31T10:00:00.000000Z"
    assert ranges.moment("since", "2026-01-31T12:00:00Z") == "2026-01-31T12:00:00.000000Z"
    assert ranges.moment("since", "") == ""


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"since": "yesterday"}, "since is 'yesterday'; allowed is a time such as"),
        ({"until": "2026-01-31T12:00:00"}, "has no offset from UTC"),
        ({"since": "2026-02-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"}, "is not before until"),
        ({"archived": "perhaps"}, "archived is 'perhaps'; allowed are include, exclude, only"),
    ],
)
def test_what_is_no_range_is_refused_in_words(given_, words):
    with pytest.raises(Refusal, match=words):
        ranges.selection(**given_)


def test_conditions_are_those_of_the_selection_and_quote_what_they_are_given():
    chosen = ranges.selection("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", ["O'Neil"], ["order_placed"], "exclude")
    assert ranges.conditions(chosen) == [
        "e.\"timestamp\" >= '2026-01-01T00:00:00.000000Z'::timestamptz",
        "e.\"timestamp\" < '2026-02-01T00:00:00.000000Z'::timestamptz",
        "e.tenant_id IN ('O''Neil')",
        "e.type IN ('order_placed')",
        "coalesce(e.is_archived, false) IS FALSE",
    ]
    assert ranges.conditions(Selection()) == []
    assert "tenant" not in " ".join(ranges.conditions(chosen, has_tenants=False))


def test_a_selection_of_tenants_alone_cuts_no_stream():
    assert Selection(tenants=("north",)).is_whole
    assert not any(
        chosen.is_whole
        for chosen in (Selection(since="x"), Selection(until="x"), Selection(types=("a",)), Selection(archived="only"))
    )


@pytest.mark.parametrize(
    ("events", "most", "parallel", "size"),
    [
        (2_000_000, 200_000, 2, 200_000),
        (200_000, 200_000, 2, 50_000),
        (200_001, 200_000, 2, 50_001),
        (1_000, 200_000, 2, 20_000),
        (1_000, 10, 2, 10),
        (0, 200_000, 0, 20_000),
    ],
)
def test_every_worker_has_files_of_a_small_export(events: int, most: int, parallel: int, size: int) -> None:
    assert ranges.part_size(events, most, parallel) == size
