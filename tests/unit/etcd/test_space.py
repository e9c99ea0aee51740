# SPDX-License-Identifier: Apache-2.0
"""Room in etcd comes back in one order only: compact, every member defragmented, the alarm disarmed last."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.cluster import Alarm, Cluster, Member, Status
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.space import plan, unfit
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

QUOTA = 1000


def member(number: int, size: int, *, leader: int = 1) -> Member:
    status = Status("3.5.16", str(leader), 1, 9, 9, 9, size, 10)
    return Member(str(number), f"node{number}", (), (f"https://node{number}:2379",), status=status)


def cluster(*sizes: int, leader: int = 1, alarms: tuple[str, ...] = ()) -> Cluster:
    members = tuple(member(n, size, leader=leader) for n, size in enumerate(sizes, start=1))
    return Cluster(members, tuple(Alarm(number, "NOSPACE") for number in alarms), True)


@given(st.lists(st.integers(0, QUOTA), min_size=1, max_size=7), st.data())
def test_every_member_is_defragmented_the_leader_last_and_the_alarm_is_disarmed_after_that(
    sizes: list[int], data: st.DataObject
) -> None:
    leader = data.draw(st.integers(1, len(sizes)))
    steps = plan(cluster(*sizes, leader=leader, alarms=("1",)), QUOTA)
    assert [steps[0].action, steps[-1].action] == ["compact", "disarm"]
    defragmented = [step.member.label for step in steps[1:-1] if step.member]
    assert sorted(defragmented) == [f"node{n}" for n in range(1, len(sizes) + 1)]
    assert defragmented[-1] == f"node{leader}"


def test_with_room_and_without_an_alarm_there_is_nothing_to_do() -> None:
    assert plan(cluster(800, 10, 10), QUOTA) == ()
    assert [step.action for step in plan(cluster(801, 10), QUOTA)] == ["compact", "defragment", "defragment"]


def test_a_member_that_does_not_answer_is_named_as_it_would_raise_the_alarm_again() -> None:
    sick = cluster(900, 900, 900, alarms=("1",))
    gone = dataclasses.replace(sick.members[1], status=None, error="refused")
    with pytest.raises(Refusal, match=r"node2 \(refused\) does not answer"):
        plan(dataclasses.replace(sick, members=(sick.members[0], gone, sick.members[2])), QUOTA)


def test_a_member_with_other_data_comes_first() -> None:
    sick = cluster(900, 900, 900, alarms=("1",))
    with pytest.raises(Refusal, match="node3 holds other data"):
        plan(dataclasses.replace(sick, alarms=(*sick.alarms, Alarm("3", "CORRUPT"))), QUOTA)


def test_an_alarm_that_would_come_again_stays() -> None:
    assert unfit(cluster(10, 800, 10), QUOTA) == ""
    assert "node2 900 bytes" in unfit(cluster(10, 900, 10), QUOTA)
