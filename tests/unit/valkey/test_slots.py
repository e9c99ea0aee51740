# SPDX-License-Identifier: Apache-2.0
"""Properties of the slot planner."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges, slots
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import SLOT_COUNT, Ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import SlotPlan, Wish
from growth import growth
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = [f"n{index}" for index in range(12)]


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Ranges]:
    """Owners of slots: contiguous pieces dealt out to some nodes, or to nobody."""
    cuts = sorted(draw(st.sets(st.integers(1, SLOT_COUNT - 1), max_size=40)))
    owners = draw(st.lists(st.sampled_from([*NAMES[:6], ""]), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    owned: dict[str, list[int]] = {}
    for owner, first, end in zip(owners, [0, *cuts], [*cuts, SLOT_COUNT], strict=True):
        if owner:
            owned.setdefault(owner, []).extend(range(first, end))
    return {owner: ranges.to_ranges(found) for owner, found in owned.items()}


weights = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 5), min_size=1).filter(lambda w: any(w.values()))


@st.composite
def pins(draw: st.DrawFn, nodes: list[str]) -> dict[str, Ranges]:
    found: dict[str, list[int]] = {}
    for first in draw(st.sets(st.integers(0, 63), max_size=8)):
        length = draw(st.integers(1, 256))
        found.setdefault(draw(st.sampled_from(nodes)), []).extend(range(first * 256, first * 256 + length))
    return {node: ranges.to_ranges(taken) for node, taken in found.items()}


@st.composite
def pinned_wishes(draw: st.DrawFn) -> Wish:
    wished = draw(weights)
    return Wish(wished, draw(pins(sorted(wished))))


def applied(owned: dict[str, Ranges], plan: SlotPlan) -> dict[str, set[int]]:
    """Owners after the plan; every move has to come from its slot's owner."""
    after = {node: set(ranges.expand(found)) for node, found in owned.items()}
    free = set(range(SLOT_COUNT)).difference(*after.values())
    for move in plan.assignments:
        moved = set(ranges.expand([move.slots]))
        assert moved <= free
        after.setdefault(move.target, set()).update(moved)
    for move in plan.moves:
        moved = set(ranges.expand([move.slots]))
        assert moved <= after[move.source]
        after[move.source] -= moved
        after.setdefault(move.target, set()).update(moved)
    return after


@given(layouts(), weights)
@settings(max_examples=30, deadline=None)
def test_weights_hold_within_one_slot_with_the_fewest_moves(owned: dict[str, Ranges], wished: dict[str, int]) -> None:
    plan = slots.plan(owned, Wish(wished))
    after = applied(owned, plan)
    total = sum(wished.values())
    for node, weight in wished.items():
        share = Fraction(SLOT_COUNT * weight, total)
        assert abs(len(after.get(node, ())) - share) < 1
    assert not set().union(*(taken for node, taken in after.items() if node not in wished))
    assert sum(len(taken) for taken in after.values()) == SLOT_COUNT
    assert plan.slots_moved == slots.minimum(owned, plan.targets)
    assert plan.slots_moved == least_moves(owned, wished)


def least_moves(owned: dict[str, Ranges], wished: dict[str, int]) -> int:
    """The fewest moves over every way of rounding: kept are at most the floor, and one more where a remainder is."""
    total = sum(wished.values())
    kept, one_more, left = 0, 0, SLOT_COUNT
    for node, weight in wished.items():
        floor, remainder = divmod(SLOT_COUNT * weight, total)
        number = ranges.count(owned.get(node, ()))
        kept += min(number, floor)
        one_more += bool(remainder) and number > floor
        left -= floor
    return sum(ranges.count(found) for found in owned.values()) - kept - min(one_more, left)


@given(layouts(), pinned_wishes())
@settings(max_examples=25, deadline=None)
def test_pins_hold_exactly(owned: dict[str, Ranges], wish: Wish) -> None:
    after = applied(owned, slots.plan(owned, wish))
    for node, pinned in wish.pins.items():
        assert set(ranges.expand(pinned)) <= after[node]
        if not wish.weights[node]:
            assert set(ranges.expand(pinned)) == after[node]
    assert sum(len(taken) for taken in after.values()) == SLOT_COUNT


@given(layouts(), pinned_wishes())
@settings(max_examples=15, deadline=None)
def test_a_plan_is_deterministic_and_final(owned: dict[str, Ranges], wish: Wish) -> None:
    plan = slots.plan(owned, wish)
    assert slots.plan(dict(reversed(owned.items())), wish) == plan
    after = {node: ranges.to_ranges(taken) for node, taken in applied(owned, plan).items()}
    assert slots.plan(after, wish).moves == ()


@given(layouts(), weights)
@settings(max_examples=15, deadline=None)
def test_keep_moves_only_what_must_go(owned: dict[str, Ranges], wished: dict[str, int]) -> None:
    plan = slots.keep(owned, Wish(wished))
    assert all(not wished.get(move.source) for move in plan.moves)
    after = applied(owned, plan)
    assert sum(len(after.get(node, ())) for node, weight in wished.items() if weight) == SLOT_COUNT


def even(number: int) -> dict[str, Ranges]:
    plan = slots.plan({}, Wish(dict.fromkeys(NAMES[:number], 1)))
    return {move.target: (move.slots,) for move in plan.assignments}


def test_a_new_cluster_is_contiguous() -> None:
    for number in range(1, 13):
        plan = slots.plan({}, Wish(dict.fromkeys(NAMES[:number], 1)))
        assert [move.target for move in plan.assignments] == NAMES[:number]
        assert plan.moves == ()


@pytest.mark.parametrize(("old", "new", "moved"), [(3, 4, 4096), (4, 3, 4096), (7, 5, 4682), (6, 5, 2731)])
def test_known_sizes(old: int, new: int, moved: int) -> None:
    plan = slots.plan(even(old), Wish(dict.fromkeys(NAMES[:new], 1)))
    assert plan.slots_moved == pytest.approx(moved, abs=2)
    assert plan.slots_moved == slots.minimum(even(old), plan.targets)
    assert len(plan.moves) <= old + new


def test_growing_by_one_takes_neighbours() -> None:
    """3 -> 4: the two pieces at a border become one, so the new node has two ranges and the others keep one."""
    owned = even(3)
    plan = slots.plan(owned, Wish(dict.fromkeys(NAMES[:4], 1)))
    after = {node: ranges.to_ranges(taken) for node, taken in applied(owned, plan).items()}
    assert sorted(len(found) for found in after.values()) == [1, 1, 1, 2]


def test_people_read_a_plan() -> None:
    plan = slots.plan(even(3), Wish({"n0": 0, "n1": 1, "n2": 1}))
    lines = slots.describe(plan.moves, {"n0": "node1:7001", "n1": "node2:7001"})
    assert lines[0].startswith("0-")
    assert lines[-1].endswith("-5461 node1:7001 -> node2:7001")
    assert "node1:7001 -> n2" in lines[0]


def scattered(nodes: int) -> tuple[dict[str, tuple[ranges.SlotRange, ...]], dict[str, int]]:
    """Every slot with a random node, and a wish that moves many of them."""
    generator = random.Random(7)
    names = [f"n{index}" for index in range(nodes)]
    taken: dict[str, list[int]] = {}
    for slot in range(SLOT_COUNT):
        taken.setdefault(generator.choice(names), []).append(slot)
    owned = {node: ranges.to_ranges(slots_of) for node, slots_of in taken.items()}
    return owned, {node: generator.choice((0, 1, 1, 2)) for node in [*names, "new1", "new2"]}


def test_the_cost_of_a_plan_grows_more_slowly_than_the_square_of_nodes() -> None:
    few, many = scattered(250), scattered(1000)
    assert growth(lambda: slots.plan(few[0], Wish(few[1])), lambda: slots.plan(many[0], Wish(many[1]))) < 10
    assert slots.plan(many[0], Wish(many[1])).slots_moved == least_moves(*many)


def test_wishes_that_contradict_themselves() -> None:
    one = ranges.parse_ranges("0-9")
    with pytest.raises(Refusal, match="slot 0 is pinned to a and to b"):
        slots.plan({}, Wish({"a": 1, "b": 1}, {"a": one, "b": one}))
    with pytest.raises(Refusal, match="not among the primaries"):
        slots.plan({}, Wish({"a": 1}, {"b": one}))
    with pytest.raises(Refusal, match="no node to go to"):
        slots.plan({}, Wish({"a": 0}))
    with pytest.raises(Refusal, match="negative"):
        slots.plan({}, Wish({"a": -1, "b": 2}))
    with pytest.raises(Refusal, match="slot 0 has two owners, a and b"):
        slots.plan({"a": one, "b": one}, Wish({"a": 1, "b": 1}))
