# SPDX-License-Identifier: Apache-2.0
"""Who may join, vote in and leave an etcd cluster."""

from __future__ import annotations

import re

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.cluster import Cluster, Member, Status
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.membership import (
    Wish,
    initial_cluster,
    plan,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

UP = Status("3.5.16", "1", 2, 100, 100, 50, 20480, 16384)


def member(number, *, up=True, started=True, learner=False):
    return Member(
        str(number),
        f"node{number}" if started else "",
        (f"https://198.18.0.{number}:2380",),
        (f"https://198.18.0.{number}:2379",) if started else (),
        learner,
        UP if up and started else None,
    )


def wish(number, state, **changes):
    return Wish(f"node{number}", f"https://198.18.0.{number}:2380", state, **changes)


THREE = Cluster((member(1), member(2), member(3)))


def steps(cluster, asked):
    return [(step.action, step.member_id) for step in plan(cluster, asked)]


def test_a_new_host_is_added_as_a_learner_and_starts_with_all_members():
    asked = wish(4, "joined", has_data=False)
    assert steps(THREE, asked) == [("add", "")]
    after = Cluster((*THREE.members, member(4, started=False, learner=True)))
    assert steps(after, asked) == []
    assert initial_cluster(after, asked) == ",".join(f"node{n}=https://198.18.0.{n}:2380" for n in (1, 2, 3, 4))


def test_a_member_that_lost_its_data_is_removed_and_joins_anew():
    cluster = Cluster((member(1), member(2), member(3, up=False)))
    assert steps(cluster, wish(3, "joined", has_data=False)) == [("remove", "3"), ("add", "")]
    assert steps(cluster, wish(3, "joined", has_data=True)) == []
    assert steps(cluster, wish(3, "joined")) == []


def test_a_founder_that_never_ran_just_starts():
    cluster = Cluster((member(1), member(2), member(3, started=False)))
    assert steps(cluster, wish(3, "joined", has_data=False)) == []


def test_data_of_a_removed_member_is_refused():
    with pytest.raises(Refusal, match="does not know it"):
        plan(THREE, wish(4, "joined", has_data=True))


def test_one_learner_at_a_time():
    cluster = Cluster((*THREE.members, member(4, learner=True)))
    with pytest.raises(Refusal, match="node4 is still a learner"):
        plan(cluster, wish(5, "joined", has_data=False))
    assert steps(cluster, wish(4, "joined", has_data=False)) == [("remove", "4"), ("add", "")]


def test_a_name_at_another_address_is_refused():
    with pytest.raises(Refusal, match=re.escape("not at https://198.18.0.9:2380")):
        plan(THREE, Wish("node3", "https://198.18.0.9:2380", "joined", False))


def test_a_learner_is_promoted_once():
    cluster = Cluster((*THREE.members, member(4, learner=True)))
    assert steps(cluster, wish(4, "voting")) == [("promote", "4")]
    assert steps(THREE, wish(3, "voting")) == []
    with pytest.raises(Refusal, match=r"add it first \(site\.yml\)"):
        plan(THREE, wish(4, "voting"))


@pytest.mark.parametrize("spare", [0, 1])
def test_removal_keeps_what_is_asked_for(spare):
    asked = wish(3, "absent", spare=spare)
    if spare:
        with pytest.raises(Refusal, match="1 more may be lost"):
            plan(THREE, asked)
    else:
        assert steps(THREE, asked) == [("remove", "3")]
    assert steps(Cluster((member(1), member(2))), asked) == []


def test_the_last_voter_stays():
    with pytest.raises(Refusal, match="it is the last voter"):
        plan(Cluster((member(1),)), wish(1, "absent", spare=0))


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.integers(0, 6), st.integers(0, 2))
def test_after_a_removal_that_is_allowed_the_cluster_decides_and_may_lose_as_many(up, index, spare):
    index %= len(up)
    cluster = Cluster(tuple(member(number, up=alive) for number, alive in enumerate(up, 1)))
    try:
        planned = plan(cluster, wish(index + 1, "absent", spare=spare))
    except Refusal:
        left = Cluster(cluster.members[:index] + cluster.members[index + 1 :])
        assert not left.members or left.margin < spare
        return
    left = Cluster(tuple(found for found in cluster.members if found.member_id != planned[0].member_id))
    assert left.margin >= spare
