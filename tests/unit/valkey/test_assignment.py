# SPDX-License-Identifier: Apache-2.0
"""Plans for slots that an operator assigns."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges, slots
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.assignment import Assigner, Request
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import apart
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving import room
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.keywise import groups
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.room import Load
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import SLOT_COUNT
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Plan, State
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move, Wish
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Server, parse_nodes
from hypothesis import given, settings
from hypothesis import strategies as st

SERVER = Server(version=(8, 1, 1), run_id="r", role="primary", offset=100)
MEGABYTE = 1024 * 1024


def where(index: int) -> str:
    return f"10.0.0.1:{7000 + index}"


def world(owned: list[str], replica_of: dict[int, int] | None = None, marks: str = "") -> dict[Endpoint, State]:
    """States of a cluster: slots by node; replicas by index; marks of the first node."""
    follows = replica_of or {}
    found = {}
    for me in range(len(owned)):
        lines = []
        for node, text in enumerate(owned):
            flags = ("myself," if node == me else "") + ("slave" if node in follows else "master")
            leader = f"{follows[node]:040x}" if node in follows else "-"
            own = marks if node == me == 0 else ""
            lines.append(
                f"{node:040x} {where(node)}@{17000 + node} {flags} {leader} 0 0 {node + 1} connected {text} {own}"
            )
        found[Endpoint("10.0.0.1", 7000 + me)] = State(parse_nodes("\n".join(lines)), SERVER)
    return found


THREE = ["0-5460", "5461-10922", "10923-16383"]
NAMES = {where(index): f"node{index + 1}" for index in range(5)}


def planned(request: Request, owned: list[str] | None = None, **more: object) -> tuple[Plan, list[str]]:
    assigner = Assigner(request, world(owned or THREE, **more), NAMES)
    plan = assigner.plan()
    return plan, plan.lines(assigner.names)


def test_a_layout_is_taken_exactly() -> None:
    layout = (("node1", ranges.parse_ranges("0-5459 5461")), ("node2", ranges.parse_ranges("5460 5462-10922")))
    rest = ((where(2), ranges.parse_ranges("10923-16383")),)
    assert planned(Request(layout=(*layout, *rest)))[1] == ["5460 node1 -> node2", "5461 node2 -> node1"]


def test_a_pin_moves_nothing_else() -> None:
    assert planned(Request(pins=(("node3", ranges.parse_ranges("7 9")),)))[1] == [
        "7 node1 -> node3",
        "9 node1 -> node3",
    ]


def test_a_drained_node_gives_all_and_the_others_nothing() -> None:
    plan, _lines = planned(Request(drain=(f"{2:040x}",)))
    assert {move.source for move in plan.move} == {f"{2:040x}"}
    assert sum(move.count for move in plan.move) == 5461
    together, _lines = planned(Request(drain=("node3",), pins=(("node1", ranges.parse_ranges("16000")),)))
    assert any(move.slots == (16000, 16000) or move.target == f"{0:040x}" for move in together.move)


def test_a_replica_has_nothing_to_drain() -> None:
    assert planned(Request(drain=("node4",)), [*THREE, ""], replica_of={3: 1})[0].empty


names = st.sampled_from(["node1", "node2", "node3", "node4"])


@given(st.dictionaries(names, st.integers(0, 5)))
@settings(max_examples=25, deadline=None)
def test_weights_hold_within_one_slot_with_the_fewest_moves(asked: dict[str, int]) -> None:
    weights = {f"node{n}": asked.get(f"node{n}", 1) for n in range(1, 5)}
    owned = [*THREE, ""]
    if not any(weights.values()):
        return
    if not asked:
        return
    plan, _lines = planned(Request(weights={node: Fraction(weight) for node, weight in asked.items()}), owned)
    after = {index: set(ranges.expand(ranges.parse_ranges(text))) for index, text in enumerate(owned)}
    for move in plan.move:
        moved = set(range(move.first, move.last + 1))
        assert moved <= after[int(move.source, 16)]
        after[int(move.source, 16)] -= moved
        after[int(move.target, 16)] |= moved
    for index, (_node, weight) in enumerate(sorted(weights.items())):
        assert abs(len(after[index]) - Fraction(SLOT_COUNT * weight, sum(weights.values()))) < 1
    wish = Wish({f"{index:040x}": weights[f"node{index + 1}"] for index in range(4)})
    before = {f"{index:040x}": ranges.parse_ranges(text) for index, text in enumerate(owned) if text}
    assert sum(move.count for move in plan.move) == slots.plan(before, wish).slots_moved


def test_open_slots_come_first() -> None:
    plan, lines = planned(Request(drain=("node3",)), marks=f"[99->-{1:040x}]")
    assert lines == ["clear marks of 99 on node1"]
    assert plan.move == ()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(layout=(("node1", ranges.parse_ranges("0-16382")),)), "leaves 1 slots without a node: 16383"),
        (
            Request(pins=(("node1", ranges.parse_ranges("1-3")), ("node2", ranges.parse_ranges("2")))),
            "slots 2 are given to node1 and to node2",
        ),
        (Request(drain=("node9",)), "node9 is not a member of the cluster. Name one of node1, node2, node3"),
        (Request(weights={"node4": Fraction(1)}), "node4 is a replica of node2 and can't own slots. Name node2"),
        (Request(drain=("node1",), pins=(("node1", ranges.parse_ranges("5")),)), "node1 is drained, and slots 5"),
    ],
)
def test_refusals(request_: Request, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        planned(request_, [*THREE, ""], replica_of={3: 1})
    assert message in str(caught.value)


def test_all_drained_is_refused() -> None:
    with pytest.raises(Refusal, match="no node to go to"):
        planned(Request(drain=("node1", "node2", "node3")))


def servers(free: int) -> dict[str, Server]:
    full = replace(SERVER, keys=1000, key_memory=100 * MEGABYTE)
    limited = replace(SERVER, max_memory=100 * MEGABYTE, data_memory=100 * MEGABYTE - free)
    return {"a": full, "b": limited, "c": SERVER}


def test_room_is_counted_by_average_keys() -> None:
    to_b, to_c = Move(0, 99, "a", "b"), Move(100, 199, "a", "c")
    assert room.limited([to_b, to_c, Move(1, 1, "", "b")], servers(0)) == [to_b]
    room.check([Load(to_b, 500)], servers(50 * MEGABYTE), {})
    with pytest.raises(
        Refusal, match=r"node2 would get about 50.0 MiB and has room for 49.0 MiB \(maxmemory 100.0 MiB\)"
    ):
        room.check([Load(to_b, 250), Load(to_b, 250)], servers(49 * MEGABYTE), {"b": "node2"})
    room.check([Load(to_b, 0)], servers(0), {})


def test_no_server_gives_and_takes_at_once() -> None:
    there, back, beside = Move(0, 9, "a", "b"), Move(10, 19, "b", "a"), Move(20, 29, "c", "b")
    assert not apart(back, [there])
    assert not apart(Move(30, 39, "b", "d"), [there])
    assert not apart(Move(30, 39, "d", "a"), [there])
    assert apart(beside, [there])
    assert apart(there, [])


@given(
    st.dictionaries(
        st.integers(0, 99), st.dictionaries(st.integers(0, 15), st.integers(1, 100), max_size=3), max_size=40
    ),
    st.integers(1, 500),
    st.none() | st.just(1),
)
def test_groups_are_bounded_and_complete(counts: dict[int, dict[int, int]], keys: int, most: int | None) -> None:
    """Counts are by slot and database."""
    found = list(groups(counts, keys, most))
    assert {slot: numbers for group in found for slot, numbers in group.items()} == counts
    for group in found:
        assert len(group) == 1 or (sum(sum(numbers.values()) for numbers in group.values()) <= keys and most is None)
