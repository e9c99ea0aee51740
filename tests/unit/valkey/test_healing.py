# SPDX-License-Identifier: Apache-2.0
"""A slot goes to the node that holds its keys; where keys of one slot are in two places nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.healing import (
    Healer,
    Healing,
    Member,
    doubtful,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import parse_nodes
from hypothesis import given
from hypothesis import strategies as st

A, B, C, R = ("a" * 40, "b" * 40, "c" * 40, "d" * 40)
OWNERS: Mapping[int, str] = MappingProxyType(dict.fromkeys(range(100), A))


def member(
    node: str, slots: str = "", marks: str = "", held: Mapping[int, int] | None = None, leader: str = "-"
) -> Member:
    flags = "myself,master" if leader == "-" else "myself,slave"
    line = f"{node} 127.0.0.1:7000@17000,, {flags} {leader} 0 0 1 connected {slots} {marks}".rstrip()
    return Member(parse_nodes(line + "\n").myself, held or {})


def heal(*members: tuple[str, Member], owners: Mapping[int, str] = OWNERS) -> Healing:
    return Healer(dict(members), owners, {A: "one", B: "two", C: "three"}).heal()


def test_an_importer_gets_what_it_imports() -> None:
    found = heal((A, member(A, "0-99")), (B, member(B, marks=f"[7-<-{A}]")))
    assert [(move.first, move.source, move.target) for move in found.moves] == [(7, A, B)]


def test_a_migrating_mark_without_importer_is_cleared() -> None:
    found = heal((A, member(A, "0-99", f"[7->-{B}]")), (B, member(B)))
    assert (dict(found.settle), found.moves) == ({A: ranges.to_ranges([7])}, ())


def test_of_two_importers_the_one_with_keys_wins_and_the_other_is_cleared() -> None:
    marks = f"[7-<-{A}]"
    found = heal(
        (A, member(A, "0-99", f"[7->-{B}]")), (B, member(B, marks=marks)), (C, member(C, marks=marks, held={7: 3}))
    )
    assert [move.target for move in found.moves] == [C]
    assert found.settle == {B: ranges.to_ranges([7])}


def test_two_importers_with_keys_are_left_alone() -> None:
    marks = f"[7-<-{A}]"
    with pytest.raises(Refusal, match=r"slot 7 of one .* two \(1 keys\) and three \(2 keys\)"):
        heal((A, member(A, "0-99")), (B, member(B, marks=marks, held={7: 1})), (C, member(C, marks=marks, held={7: 2})))


@given(st.dictionaries(st.integers(100, 120), st.sampled_from([A, B, C])))
def test_slots_without_owner_go_to_whom_has_their_keys(keys: dict[int, str]) -> None:
    members = [
        (node, member(node, "0-99" if node == A else "", held={slot: int(who == node) for slot, who in keys.items()}))
        for node in (A, B, C)
    ]
    given_to = {slot: move.target for move in heal(*members).assign for slot in range(move.first, move.last + 1)}
    assert given_to == keys


def test_a_copy_on_a_replica_does_not_count_and_an_only_copy_stops_everything() -> None:
    replica = (R, member(R, held={200: 5}, leader=B))
    found = heal((A, member(A, "0-99")), (B, member(B, held={200: 5})), replica)
    assert [move.target for move in found.assign] == [B]
    with pytest.raises(Refusal, match="slot 200 has no owner"):
        heal((A, member(A, "0-99")), (B, member(B, held={200: 0})), replica)


def test_marks_that_only_a_replica_has_are_cleared_by_its_primary() -> None:
    found = heal((A, member(A, "0-99")), (B, member(B)), (R, member(R, marks=f"[7-<-{A}]", leader=B)))
    assert found.settle == {B: ranges.to_ranges([7])}


def test_slots_are_in_doubt_without_owner_or_with_two_importers() -> None:
    importing = [member(B, marks=f"[7-<-{A}]").myself, member(C, marks=f"[7-<-{A}]").myself]
    assert doubtful(importing, range(16384)) == {7}
    assert doubtful(importing[:1], range(16383)) == {16383}
    assert doubtful(importing, ()) == set()
