# SPDX-License-Identifier: Apache-2.0
"""Properties of the placement of primaries and replicas."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import placement
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.placement import (
    Placement,
    Seat,
    survivable,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.primaries import wished
from growth import growth
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st


def grid(hosts: int, instances: int, zones: int = 0) -> list[Seat]:
    return [
        Seat(f"h{host}:{index}", f"h{host}", f"z{host % zones}" if zones else "")
        for host in range(hosts)
        for index in range(instances)
    ]


def standing(seats: list[Seat], placed: Placement) -> list[Seat]:
    """The seats as they stand once a placement has been carried out."""
    return [replace(seat, shard=placed.follows.get(seat.id, seat.id)) for seat in seats]


@st.composite
def machines(draw: st.DrawFn) -> tuple[list[Seat], int]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=9))
    zones = draw(st.integers(0, 4))
    seats = [
        Seat(f"h{host}:{index}", f"h{host}", f"z{host % zones}" if zones else "")
        for host, size in enumerate(sizes)
        for index in range(size)
    ]
    return seats, draw(st.integers(0, 3))


def separable(seats: list[Seat], replicas: int) -> bool:
    """Whether some choice of primaries lets every replica stand off its primary's host."""
    number = len(seats) // (replicas + 1)
    followers = len(seats) - number
    if number < 3:
        return False
    if not followers:
        return True
    room = 0
    for nodes in Counter(seat.host for seat in seats).values():
        if nodes > followers:
            return False
        room += nodes if replicas <= 1 else min(nodes, (followers - nodes) // (replicas - 1))
    return room >= number


@given(machines())
@settings(max_examples=100, deadline=None)
def test_a_new_cluster(case: tuple[list[Seat], int]) -> None:
    seats, replicas = case
    assume(separable(seats, replicas))
    placed = placement.place(seats, replicas)
    by_id = {seat.id: seat for seat in seats}
    assert len(set(placed.primaries)) == wished(Counter(seat.host for seat in seats), replicas)
    assert set(placed.primaries) | set(placed.follows) == set(by_id)
    assert not set(placed.primaries) & set(placed.follows)
    counts = Counter(placed.follows.values())
    assert all(counts[primary] >= replicas for primary in placed.primaries)
    assert all(by_id[replica].host != by_id[primary].host for replica, primary in placed.follows.items())
    assert placed == placement.place(seats, replicas)
    assert placement.place(standing(seats, placed), replicas) == replace(placed, promotions={})


@given(st.integers(3, 8), st.integers(1, 4), st.integers(0, 4), st.integers(0, 2))
@example(4, 4, 3, 1)
@settings(max_examples=100, deadline=None)
def test_equal_hosts_share_primaries_evenly(hosts: int, instances: int, zones: int, replicas: int) -> None:
    seats = grid(hosts, instances, zones)
    assume(separable(seats, replicas))
    placed = placement.place(seats, replicas)
    counts = Counter(identity.split(":")[0] for identity in placed.primaries)
    numbers = [counts[f"h{host}"] for host in range(hosts)]
    zone_of = {seat.host: seat.zone for seat in seats}
    for zone in set(zone_of.values()):
        inside = [counts[host] for host in zone_of if zone_of[host] == zone]
        assert max(inside) - min(inside) <= 1
    # A zone that must not hold a majority comes before even hosts.
    share = -(-len(placed.primaries) // hosts)
    sizes = Counter(zone for zone in zone_of.values() if zone)
    if all(size * share <= survivable(len(placed.primaries)) for size in sizes.values()):
        assert max(numbers) - min(numbers) <= 1
    if hosts * survivable(len(placed.primaries)) >= len(placed.primaries):
        assert max(numbers) <= survivable(len(placed.primaries))


@pytest.mark.parametrize(
    ("hosts", "instances", "zones"), [(3, 2, 3), (6, 2, 2), (6, 2, 3), (9, 4, 3), (8, 1, 4), (4, 2, 2)]
)
def test_zones_are_spread_where_they_can_be(hosts: int, instances: int, zones: int) -> None:
    seats = grid(hosts, instances, zones)
    placed = placement.place(seats, 1)
    by_id = {seat.id: seat for seat in seats}
    assert all(by_id[replica].zone != by_id[primary].zone for replica, primary in placed.follows.items())
    if zones > 2:
        counts = Counter(by_id[primary].zone for primary in placed.primaries)
        assert max(counts.values()) <= survivable(len(placed.primaries))


def test_what_stands_and_fits_stays() -> None:
    """One replica stands on its primary's host: it and as few others as possible change."""
    seats = [
        Seat("a1", "a", shard="a1"), Seat("b1", "b", shard="b1"), Seat("c1", "c", shard="c1"),
        Seat("a2", "a", shard="a1"), Seat("b2", "b", shard="c1"), Seat("c2", "c", shard="b1"),
    ]  # fmt: skip
    placed = placement.place(seats, 1)
    assert placed.primaries == ("a1", "b1", "c1")
    assert placed.promotions == {}
    changed = [s.id for s in seats if s.shard != s.id and placed.follows[s.id] != s.shard]
    assert len(changed) == 2
    assert "a2" in changed


def test_a_host_with_a_majority_gives_it_up() -> None:
    seats = [
        Seat("a1", "a", shard="a1"), Seat("a2", "a", shard="a2"), Seat("b1", "b", shard="b1"),
        Seat("b2", "b", shard="a1"), Seat("c1", "c", shard="a2"), Seat("c2", "c", shard="b1"),
    ]  # fmt: skip
    placed = placement.place(seats, 1)
    assert placed.promotions == {"a2": "c1"}
    assert placed.follows == {"b2": "a1", "a2": "c1", "c2": "b1"}


def test_majorities_are_mended_along_a_chain() -> None:
    """The only way off host a leads through host b, which then has to give way to host c."""
    seats = [
        Seat("a1", "a", shard="a1"), Seat("a2", "a", shard="a2"), Seat("b1", "b", shard="b1"),
        Seat("b2", "b", shard="a1"), Seat("b3", "b", shard="a2"), Seat("c1", "c", shard="b1"),
    ]  # fmt: skip
    placed = placement.place(seats, 1)
    hosts = Counter(identity[0] for identity in placed.primaries)
    assert hosts == {"a": 1, "b": 1, "c": 1}


def test_declared_primaries_lead() -> None:
    seats = [replace(seat, hint="primary" if seat.id.endswith(":1") else "") for seat in grid(3, 2)]
    placed = placement.place(seats, 1)
    assert placed.primaries == ("h0:1", "h1:1", "h2:1")
    stood = [replace(seat, hint="") for seat in grid(3, 2)]
    running = standing(stood, placement.place(stood, 1))
    hinted = [replace(seat, hint="primary" if seat.id == "h0:1" else "") for seat in running]
    assert "h0:1" in placement.place(hinted, 1).primaries


def test_hosts_that_are_left_have_a_safe_number_of_primaries() -> None:
    """Four hosts with three instances lose one: four primaries on three hosts would be no majority's."""
    four = standing(grid(4, 3), placement.place(grid(4, 3), 1))
    left = [seat for seat in four if seat.host != "h3"]
    placed = placement.place(left, 1)
    assert sorted(Counter(identity.split(":")[0] for identity in placed.primaries).values()) == [1, 1, 1]
    assert set(placed.follows.values()) == set(placed.primaries)
    declared = [replace(seat, hint="primary" if seat.id in ("h0:0", "h0:1", "h1:0", "h2:0") else "") for seat in left]
    assert len(placement.place(declared, 1).primaries) == 4


def test_more_replicas_drain_a_primary() -> None:
    seats = standing(grid(6, 1), placement.place(grid(6, 1), 0))
    placed = placement.place(seats, 1)
    assert len(placed.drained) == 3
    assert set(placed.drained) == set(placed.follows)


def test_the_cost_of_a_placement_grows_no_faster_than_the_square_of_nodes() -> None:
    few, many = grid(31, 4, 4), grid(124, 4, 4)
    assert growth(lambda: placement.place(few, 1), lambda: placement.place(many, 1)) < 32


@pytest.mark.parametrize(
    ("seats", "replicas", "message"),
    [
        (grid(2, 2), 1, "fewer than 3"),
        (grid(1, 6), 1, "6 of 6 nodes are on host h0"),
        ([*grid(1, 4), Seat("x", "h1"), Seat("y", "h2")], 1, "4 of 6 nodes are on host h0"),
        ([replace(seat, hint="primary") for seat in grid(3, 2)], 1, "6 nodes are declared as primaries"),
        ([replace(seat, hint="replica") for seat in grid(3, 2)], 1, "declared as replicas"),
    ],
)  # fmt: skip
def test_impossible(seats: list[Seat], replicas: int, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        placement.place(seats, replicas)


def test_too_few_for_a_wished_number_of_primaries() -> None:
    with pytest.raises(Refusal, match="4 primaries with 1 replicas each need 8 nodes"):
        placement.place(grid(3, 2), 1, 4)


def test_survivable() -> None:
    assert [survivable(number) for number in (1, 2, 3, 4, 5, 6, 7)] == [0, 0, 1, 1, 2, 2, 3]
    assert placement.crowded(["a", "a", "b"], 3) == {"a": 2}
