# SPDX-License-Identifier: Apache-2.0
"""Who takes over from a leader."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.switchover import (
    Wish,
    plan,
    unfitness,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals
from hypothesis import given
from hypothesis import strategies as st

LEADER = Member("node1", "leader", "running", timeline=3)
NEAR = Member("node2", "quorum_standby", "streaming", timeline=3, lag=0)
FAR = Member("node3", "quorum_standby", "streaming", timeline=3, lag=4096)
CLUSTER = Cluster((LEADER, FAR, NEAR), scope="lab")


def refusal(cluster: Cluster, wish: Wish) -> str:
    with pytest.raises(Refusals) as caught:
        plan(cluster, wish)
    return str(caught.value)


def test_the_synchronous_standby_with_the_least_lag_is_chosen() -> None:
    found = plan(CLUSTER, Wish())
    assert (found.leader, found.candidate, found.changes) == ("node1", "node2", True)


def test_a_wished_candidate_that_is_fit_is_taken() -> None:
    assert plan(CLUSTER, Wish(candidate="node3")).candidate == "node3"


def test_the_leader_as_candidate_changes_nothing_even_in_maintenance() -> None:
    assert not plan(Cluster((LEADER,), paused=True), Wish(candidate="node1")).changes


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (
            Member("node2", "quorum_standby", "stopped", timeline=3, lag=0),
            "is in state 'stopped', wanted is 'streaming'",
        ),
        (Member("node2", "replica", "streaming", timeline=3, lag=0), "is not a synchronous standby"),
        (Member("node2", "quorum_standby", "streaming", timeline=2, lag=0), "is on timeline 2, the leader on 3"),
        (Member("node2", "quorum_standby", "streaming", timeline=3), "has an unknown lag"),
        (
            Member("node2", "quorum_standby", "streaming", timeline=3, lag=2000000),
            "lags 2000000 bytes, allowed are 1048576",
        ),
        (Member("node2", "quorum_standby", "streaming", timeline=3, lag=0, tags={"nofailover": True}), "nofailover"),
        (
            Member("node2", "quorum_standby", "streaming", timeline=3, lag=0, tags={"failover_priority": 0}),
            "priority 0",
        ),
    ],
)
def test_an_unfit_candidate_is_refused_with_the_reason(member: Member, reason: str) -> None:
    assert reason in refusal(Cluster((LEADER, member, FAR)), Wish(candidate="node2"))
    assert plan(Cluster((LEADER, member, FAR)), Wish()).candidate == "node3"


@pytest.mark.parametrize(
    ("cluster", "wish", "reason"),
    [
        (Cluster((NEAR, FAR)), Wish(), "no leader"),
        (Cluster((LEADER,)), Wish(), "there is no replica"),
        (CLUSTER, Wish(candidate="node9"), "node9 is not a member, replicas are: node3, node2"),
        (Cluster(CLUSTER.members, paused=True), Wish(), "maintenance mode"),
        (
            Cluster(CLUSTER.members, scheduled_switchover={"at": "2026-12-01T00:00"}),
            Wish(),
            "scheduled for 2026-12-01T00:00",
        ),
        (Cluster((Member("node1", "standby_leader", "running"), NEAR)), Wish(), "standby cluster"),
        (Cluster((Member("node1", "leader", "starting"), NEAR)), Wish(), "in state 'starting'"),
    ],
)
def test_what_is_not_possible_now_is_refused(cluster: Cluster, wish: Wish, reason: str) -> None:
    assert reason in refusal(cluster, wish)


def test_another_zone_is_required_where_asked() -> None:
    zones = {"node1": "east", "node2": "east", "node3": "west"}
    assert plan(CLUSTER, Wish(other_zone=True, zones=zones)).candidate == "node3"
    assert "no member can take over" in refusal(CLUSTER, Wish(other_zone=True, zones={"node1": "east"}))


MEMBERS = st.builds(
    Member,
    name=st.sampled_from(["a", "b", "c", "d"]),
    role=st.sampled_from(["replica", "sync_standby", "quorum_standby"]),
    state=st.sampled_from(["streaming", "running", "stopped", "starting", "in archive recovery"]),
    timeline=st.sampled_from([None, 2, 3]),
    lag=st.one_of(st.none(), st.integers(0, 2_000_000)),
    tags=st.sampled_from(
        [{}, {"nofailover": True}, {"failover_priority": 0}, {"failover_priority": "2"}, {"clonefrom": True}]
    ),
)
WISHES = st.builds(Wish, candidate=st.sampled_from(["", "a", "b", "x", "leader"]), synchronous=st.booleans())


@given(st.lists(MEMBERS, unique_by=lambda member: member.name), WISHES, st.booleans())
def test_only_who_has_all_commits_and_is_fit_ever_takes_over(replicas: list[Member], wish: Wish, paused: bool) -> None:
    leader = Member("leader", "leader", "running", timeline=3)
    cluster = Cluster((leader, *replicas), paused=paused)
    try:
        found = plan(cluster, wish)
    except Refusals as error:
        assert error.problems
        assert paused or wish.candidate or all(unfitness(member, leader, wish) for member in replicas)
        return
    if not found.changes:
        assert wish.candidate == "leader"
        return
    chosen = cluster.member(found.candidate)
    assert chosen is not None
    assert not paused
    assert wish.candidate in ("", chosen.name)
    assert not unfitness(chosen, leader, wish)
    assert chosen.is_healthy
    assert chosen.is_synchronous or not wish.synchronous
    # The order of members does not matter.
    assert plan(Cluster((leader, *reversed(replicas))), wish) == found
